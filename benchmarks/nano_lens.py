"""What the lens finds on every shipped nano CP, and whether it is right: the table of docs/lens.md.

    python benchmarks/nano_lens.py [nano:0:zh …] [--n 8] [--keep FOLDER] [--write docs/lens.md]

A row a family, seed and language (all that are shipped, unless some are named): the attribution of the reference's log
probability at scale 1 over `n` held-out prompts, with what stands beside it, and how far `lens.divergence` and
`lens.readings` are from plain forward passes of the two saved models in float32 (limit 1e-5). What was measured is kept
as JSON, one file a row, so that a stopped run goes on. Some 12 CPU seconds a row.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from chatvec_lab import Checkpoint, experiment, lens, load_family
from chatvec_lab.experiment import inside
from chatvec_lab.paths import DATA

ROWS = [("nano", s, code) for s in range(5) for code in ("zh", "ko")] + [
    ("nano-wide", 0, c) for c in ("es", "ar", "sw")
]
BY = "layer × module × projection"
HEAD = (
    "family, language, seed", "CP", "CP + τ", "sum of the parts", "apart", "nodes", "attention", "MLP", "norms",
    "half at scale", "random vector", "no template", "rank: alone", "rank: lost", "rank: length",
)  # fmt: skip


def measured(name: str, seed: int, language: str, n: int) -> dict:
    """All that is told of one CP, as plain data."""
    began = time.process_time()
    look = inside.Look(experiment.Exam(load_family(name, seed=seed), language), 1.0, n=n, dtype="float32")
    found = {c: look.attribution(c, by=BY, by_pair=c == inside.WHOLE) for c in inside.CONDITIONS}
    whole = found[inside.WHOLE]
    each, ends = whole.parts.groupby("pair").attribution, whole.values.set_index("pair")
    worst_pair = (each.sum() - (ends.end - ends.start)).abs() / each.apply(lambda values: values.abs().sum())
    ablated = look.ablation(by=BY)
    read = look.divergence(inside.REFERENCE, [1.0])
    layers = {c: lens.readings(look.live_of(c), look.pairs(inside.REFERENCE, c), [0.0, 1.0])
              for c in (inside.WHOLE, inside.RANDOM)}  # fmt: skip
    depth = inside.decided(inside._joined(layers))
    own = read.tokens[read.tokens.model == inside.WHOLE]
    tables = {
        "checks": inside.checks(found),
        "half": inside.half(whole, seed=seed),
        "module": inside.means(each_of(whole.parts, "module"), "attribution", ["module"]),
        "layer": inside.means(each_of(whole.parts, "layer"), "attribution", ["layer"]),
        "parts": inside.by_part(whole.parts),
        "agreement": inside.agreement(whole.parts, ablated, look.tau, seed=seed),
        "over": inside.means(read.tokens, "divergence", ["model"]),
        "places": inside.means(inside.places(read.tokens), "divergence", ["model", "place"]),
        "depth": inside.means(depth, "depth", ["model", "scale"]),
    }
    told = {key: json.loads(table.to_json(orient="records")) for key, table in tables.items()}
    return told | {
        "family": name, "seed": seed, "language": language, "n": n, "worst_pair": float(worst_pair.max()),
        "plain_pass": apart(look, own, layers[inside.WHOLE]), "cpu": time.process_time() - began,
    }  # fmt: skip


def each_of(parts, column: str):
    """A row a pair and kind of part: the sum of its parts; what lies outside the layers is layer -1."""
    parts = parts.assign(layer=parts.layer.fillna(-1).astype(int))
    return parts.groupby(["pair", column]).attribution.sum().reset_index()


def apart(look: inside.Look, tokens, layers) -> dict[str, float]:
    """The largest differences from plain passes of the saved models (CP and CP + τ, float32), by what is told."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        models = [_saved(look.cp + scale * look.tau, Path(folder, f"{scale}")) for scale in (0.0, 1.0)]
    rows = lens.distributions.tokens_of(look.live.tokenizer, models[0].config.vocab_size)
    found = dict.fromkeys(
        ("divergence", "entropy", "probability", "rank", "layer_divergence", "layer_probability"), 0.0
    )

    def told(key: str, expected, values) -> None:
        found[key] = max(
            found[key], float(np.abs(np.asarray(expected, float) - values.to_numpy(float)).max())
        )

    for pair in look.pairs():
        ids, place = torch.tensor([[*pair.asked, *pair.said]]), slice(len(pair.asked) - 1, -1)
        at = torch.arange(len(pair.said)), torch.tensor(pair.said)
        with torch.no_grad():
            cp, own = (m(ids, output_hidden_states=True) for m in models)
            behind = [models[1].lm_head(models[1].model.norm(h)) for h in own.hidden_states[1:-1]]
        p, q, *each = (
            (x[0, place, :rows]).double().log_softmax(-1)
            for x in (cp.logits, own.logits, *behind, own.logits)
        )
        mine, theirs = (
            tokens[tokens["pair"] == pair.name],
            layers[(layers["pair"] == pair.name) & (layers.scale == 1)],
        )
        told("divergence", (p.exp() * (p - q)).sum(-1), mine.divergence)
        told("entropy", -(q.exp() * q).sum(-1), mine.entropy)
        told("probability", q[at].exp(), mine.probability)
        told("rank", 1 + (q > q[at][:, None]).sum(-1), mine["rank"])
        for number, r in enumerate(each):
            layer = theirs[theirs.layer == number]
            told("layer_divergence", (q.exp() * (q - r)).sum(-1), layer.divergence)
            told("layer_probability", r[at].exp(), layer.token_probability)
    return found


def _saved(model: Checkpoint, folder: Path):
    import torch
    from transformers import AutoModelForCausalLM

    model.save(folder, progress=False, dtype="float32")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def line(told: dict) -> str:
    """One row of the table."""
    whole, random, plain = told["checks"]
    modules = {row["module"]: row for row in told["module"]}
    ranks = {row["against"]: row for row in told["agreement"]}
    cells = [
        f"{told['family']}, {told['language']} {told['seed']}", f"{whole['start']:.2f}", f"{whole['end']:.2f}",
        f"{whole['total']:+.2f} ({whole['low']:+.2f}–{whole['high']:+.2f})", f"{whole['error']:.2%}", str(whole["nodes"]),
        *(_interval(modules[m], "+.2f") for m in ("attention", "mlp", "norm")), _interval(told["half"][0], ".2f"),
        f"{random['difference']:+.2f}", f"{plain['difference']:+.2f}",
        *(_interval(ranks[r], ".2f") for r in ("alone", "lost", "length")),
    ]  # fmt: skip
    complete = all(row["is_complete"] for row in told["checks"])
    return f"| {' | '.join(cells)} |" + ("" if complete else " not complete")


def _interval(row: dict, form: str) -> str:
    ends = "" if row["low"] is None else f" ({row['low']:{form}}–{row['high']:{form}})"
    return f"{row['estimate']:{form}}{ends}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "rows", nargs="*", metavar="FAMILY:SEED:LANGUAGE", help="all that are shipped, unless told"
    )
    parser.add_argument("--n", type=int, default=8, help="prompts")
    parser.add_argument("--keep", type=Path, default=Path(__file__).parent / "scratch" / "nano-lens")
    parser.add_argument("--write", type=Path, help="a document with the marks of the table in it")
    options = parser.parse_args()
    rows = [(f, int(s), code) for f, s, code in (row.split(":") for row in options.rows)] or ROWS
    if missing := [
        row for row in rows if not (DATA / "nano" / row[0] / f"seed{row[1]}" / f"cp_{row[2]}").is_dir()
    ]:
        parser.error(f"not shipped: {missing}")
    options.keep.mkdir(parents=True, exist_ok=True)
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for row in rows:
        file = options.keep / f"{'-'.join(map(str, row))}-{options.n}.json"
        if not file.is_file():
            file.write_text(json.dumps(measured(*row, options.n)))
        told = json.loads(file.read_text())
        lines.append(line(told))
        worst = max(told["plain_pass"].values())
        print(
            f"{lines[-1]} worst pair {told['worst_pair']:.2%}, plain passes {worst:.1e}, {told['cpu']:.0f} s",
            flush=True,
        )
    if options.write:
        text = options.write.read_text("utf-8")
        before, after = text.split("<!-- table: nano -->\n")[0], text.split("<!-- end -->\n", 1)[1]
        options.write.write_text(
            f"{before}<!-- table: nano -->\n" + "\n".join(lines) + f"\n<!-- end -->\n{after}", "utf-8"
        )


if __name__ == "__main__":
    main()
