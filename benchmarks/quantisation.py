"""Which formats can carry a chat vector: measured on the nano family, written to docs/formats.md.

    python benchmarks/quantisation.py [--seed 0] [--prompts 200] [--write]
    python benchmarks/quantisation.py --spread 0 1 2 3 4 --prompts 100 [--write]

The linear layers of base and chat are quantised to the nearest codes of each format (no calibration, as with the plain
tools), saved as that format stores them, and read back by `Checkpoint`. For each format: the relative error of τ by
kind of module against the exact τ, beside the noise floor that is expected from the format's steps alone; and CP + τ's
score on the family's own questions with its 95 % interval, beside that of the exact τ. `--write` puts the table between
the two marks of docs/formats.md. Takes some minutes on two cores. `--spread` does so for some seeds of the family, and
writes a table of its own: the least and the largest error, and the right replies of each seed.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import pandas as pd

from chatvec_lab import Checkpoint, load_family
from chatvec_lab.paths import ROOT
from chatvec_lab.weights.mixed import expected_noise

sys.path.insert(0, str(ROOT / "tests"))
from quantised_files import quantise  # the plain encoders that the tests are made with

FORMATS = {
    "int8, a scale a row": "ct int8", "FP8, blocks of 16 x 32": "fp8 blocks", "FP8, a scale a tensor": "fp8 tensor",
    "MXFP8": "ct mxfp8", "8 bits, groups of 32 (MLX)": "mlx 8 bits", "6 bits, groups of 32 (MLX)": "mlx 6 bits",
    "4 bits, groups of 32 (GPTQ, AWQ)": "ct w4a16 asymmetric", "nf4, blocks of 64": "bnb nf4", "NVFP4": "ct nvfp4",
    "MXFP4": "ct mxfp4", "2 bits, groups of 32": "mlx 2 bits",
}  # fmt: skip
MODULES = ("attention", "mlp")
MARKS = "<!-- {0}: begin -->", "<!-- {0}: end -->"


def errors(exact, noisy) -> dict[str, float]:
    """By module: |noisy τ - τ| / |τ|, and the expected noise over |τ|."""
    sums = {module: [0.0, 0.0, 0.0] for module in MODULES}
    for name in exact.names:
        if (module := exact.part(name).module) in sums:
            tau, other = exact.read(name).double(), noisy.read(name).double()
            sums[module][0] += float((other - tau).square().sum())
            sums[module][1] += float(tau.square().sum())
            sums[module][2] += expected_noise(noisy, name) ** 2
    whole = [sum(part) for part in zip(*sums.values(), strict=True)]
    found = {}
    for module, (error, length, noise) in {**sums, "all": whole}.items():
        found[f"error {module}"] = (error / length) ** 0.5
        found[f"expected {module}"] = (noise / length) ** 0.5
    return found


def scores(exam, models: dict, n: int) -> pd.DataFrame:
    """The share of right replies of each model, with its interval."""
    replies = exam.ask(models, ["one_turn"], n)
    return exam.shares(replies, "model", ["correct"]).set_index("model")


def measure(seed: int, prompts: int) -> pd.DataFrame:
    from chatvec_lab.experiment import Exam

    family = load_family("nano", seed=seed)
    language, exact = family.languages[0], family.chat - family.base
    cp = family.cp[language]
    rows, models = [], {"CP": cp, "exact": cp + exact}
    with tempfile.TemporaryDirectory(prefix="chatvec_lab-formats-") as temporary:
        for label, format in FORMATS.items():
            members = []
            for role in ("chat", "base"):
                folder = Path(temporary) / f"{format}-{role}".replace(" ", "-")
                quantise(family[role].folder, folder, format)
                members.append(Checkpoint(folder))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that both are quantised is the point
                noisy = members[0] - members[1]
                rows.append({"format": label, **errors(exact, noisy)})
            models[label] = cp.add(noisy, allow_mixed=True)
        found = scores(Exam(family, language), models, prompts) if prompts else None
    table = pd.DataFrame(rows)
    if found is not None:
        for label in ("exact", "CP"):
            rows.insert(0, {"format": "whole (bfloat16)" if label == "exact" else "CP alone"})
        table = pd.DataFrame(rows)
        keys = {"whole (bfloat16)": "exact", "CP alone": "CP"}
        picked = found.loc[[keys.get(name, name) for name in table.format]]
        table["score"] = [
            f"{m:.2f} ({a:.2f}-{b:.2f})"
            for m, a, b in zip(picked.estimate, picked.low, picked.high, strict=True)
        ]
    return table


def page(table: pd.DataFrame, seed: int, prompts: int) -> str:
    lines = [
        f"nano, seed {seed}, CP + τ at scale 1, {prompts} questions of one turn; error and noise over the length of τ.",
        "",
        "| members stored as | error of τ: attention | MLP | all | expected from the steps | right replies (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        errors = [row.get(f"error {part}") for part in (*MODULES, "all")] + [row.get("expected all")]
        told = ["" if pd.isna(value) else f"{value:.3f}" for value in errors]
        lines.append(f"| {row['format']} | {' | '.join(told)} | {row.get('score', '')} |")
    return "\n".join(lines)


def spread_page(tables: dict[int, pd.DataFrame], prompts: int) -> str:
    """The least and the largest error over seeds, measured and expected, and each seed's right replies."""
    lines = [
        f"The same on seeds {', '.join(map(str, tables))} of the family: the least and the largest error over the length of τ,"
        f" and the right replies of each seed to {prompts} questions.",
        "",
        "| members stored as | error of τ: attention | MLP | all | expected from the steps | right replies, each seed |",
        "|---|---|---|---|---|---|",
    ]
    columns = [*(f"error {part}" for part in (*MODULES, "all")), "expected all"]
    whole = pd.concat(tables.values())
    for label in tables[min(tables)].format:
        rows = whole[whole.format == label]
        told = [
            "" if rows[c].isna().all() else f"{rows[c].min():.3f} to {rows[c].max():.3f}" for c in columns
        ]
        replies = " ".join(text.partition(" ")[0] for text in rows["score"]) if "score" in rows else ""
        lines.append(f"| {label} | {' | '.join(told)} | {replies} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--spread", type=int, nargs="+", metavar="SEED", help="a table over these seeds")
    parser.add_argument("--write", action="store_true", help="put the table into docs/formats.md")
    options = parser.parse_args()
    if options.spread:
        tables = {seed: measure(seed, options.prompts) for seed in options.spread}
        name, text = "spread", spread_page(tables, options.prompts)
    else:
        table = measure(options.seed, options.prompts)
        name, text = "measured", page(table, options.seed, options.prompts)
    print(text)
    if options.write:
        target = ROOT / "docs" / "formats.md"
        begin, end = (mark.format(name) for mark in MARKS)
        before, _, rest = target.read_text("utf-8").partition(begin)
        target.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", "utf-8")


if __name__ == "__main__":
    main()
