"""Measure the effect in a trained nano family: which model answers what, at which scale, in which frame.

    python -m chatvec_lab.experiment.effect nano --seeds 0 1 2 3 4 --data data/nano

writes tidy tables to `data/nano/results`. The scale is chosen once a language on validation prompts, over all
seeds; every other figure comes from the test draw. With `--keep FOLDER` a run that was stopped goes on.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from scipy import stats

from chatvec_lab.evaluation.statistics import holm, mean_interval, permutation_test
from chatvec_lab.experiment import controls
from chatvec_lab.experiment.exam import Exam
from chatvec_lab.experiment.limits import perplexities
from chatvec_lab.experiment.models import Changed
from chatvec_lab.families import Family, load_family
from chatvec_lab.nano import world
from chatvec_lab.paths import DATA

SCALES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
NONE = float("nan")  # the scale of a model without tau
PARTS = ("validation", "main", "extra", "controls")
VALIDATION_N = 130  # one-turn prompts a cell; the world holds out no more of each kind for validation
NAMES = {  # of the measures in `summary`, for readers
    "one_turn": "right in one turn",
    "one_turn known": "right in one turn, words the base knew",
    "one_turn cp_only": "right in one turn, words only CP taught",
    "content": "right in one turn, in any form",
    "two_turn": "right in two turns",
    "toxic": "toxic replies to hostile prompts",
    "abuse_toxic": "toxic replies to plain abuse",
    "polite": "polite replies to hostile prompts",
    "english": "English replies",
}
CURVE = (0.5, 1.0, 1.5, 2.0)  # measured on the test draw beside the chosen scale


class Cell(NamedTuple):
    """One model to ask: its name in the tables, its scale of tau (NaN where there is none), its weights."""

    model: str
    scale: float
    checkpoint: object
    frame: str = "chat"


def loss_curves(family: str, seed: int = 0, *, data: Path = DATA / "nano") -> pd.DataFrame:
    """The training losses that the manifest keeps: member, step, loss (mean of the steps since the row before)."""
    stages = json.loads((data / "manifest.json").read_text())[family][f"seed{seed}"]
    rows = [(member, step, loss) for member, stage in stages.items() for step, loss in stage["losses"]]
    return pd.DataFrame(rows, columns=["member", "step", "loss"])


def main_cells(family: Family, language: str, scale: float) -> Iterator[Cell]:
    """The claim and its baselines, for one seed and language."""
    cp, tau = family.cp[language], family.chat - family.base
    yield Cell("chat", NONE, family.chat)
    frames = {"": "chat", " in the plain frame": "qa", " with three examples": "examples", " raw": "raw"}
    yield from (Cell(f"cp{words}", 0.0, cp, frame) for words, frame in frames.items())
    yield from (Cell("cp + tau", s, cp + s * tau) for s in sorted({*CURVE, scale}))
    yield Cell("cp + tau raw", scale, cp + scale * tau, "raw")
    yield Cell("cp + random", scale, cp + scale * tau.random_like(1))


def extra_cells(family: Family, language: str, scale: float, other: Family | None) -> Iterator[Cell]:
    """Controls and the paper's other orders, as far as their members are trained."""
    cp, base = family.cp[language], family.base
    tau = family.chat - base
    if other is not None:
        yield Cell("cp + tau of another base", scale, cp + scale * (other.chat - other.base))
    if "chat_b" in family.others:
        yield Cell("cp + tau (second tuning seed)", scale, cp + scale * (family["chat_b"] - base))
    for member in ("cp_ft", "chat_cp", "chat_cp_ft", "cp_tau_ft"):
        if f"{member}_{language}" in family.others:
            yield Cell(member, NONE, family[f"{member}_{language}"])
    if f"cp_ft_{language}" in family.others:
        yield Cell("cp_ft + tau", scale, family[f"cp_ft_{language}"] + scale * tau)
    cps = {
        name: role.variant
        for name, role in family.roles.items()
        if (role.kind, role.language) == ("cp", language)
    }
    for member in sorted((n for n, variant in cps.items() if variant.isdigit()), key=lambda n: int(cps[n])):
        yield Cell(member, 0.0, family[member])
        yield Cell(f"{member} in the plain frame", 0.0, family[member], "qa")
        yield Cell(f"{member} + tau", scale, family[member] + scale * tau)
    if f"cp_{language}_extended" in family.others:
        extended = family[f"cp_{language}_extended"]
        yield Cell("extended", 0.0, extended)
        vectors = {"tau": tau}
        if "chat_full" in family.others:
            vectors["tau_full"] = family["chat_full"] - base
        for (name, vector), policy in product(vectors.items(), ("match", "skip")):
            added = extended.add(scale * vector, vocabulary=policy)
            yield Cell(f"extended + {name}, {policy}", scale, added)
        if "tau_full" in vectors:
            yield Cell("cp + tau_full", scale, cp + scale * vectors["tau_full"])


def control_cells(family: Family, language: str, scale: float) -> Iterator[Cell]:
    """Less than τ, and no τ at all: see `controls`. What they choose, they choose on the validation draw."""
    for label, model in controls.models(Exam(family, language), scale).items():
        yield Cell(label, 0.0 if label == "CP" else scale, model)
    for label, frame in controls.PLAIN.items():
        yield Cell(label, 0.0, family.cp[language], frame)


def ask(
    family: Family,
    cells: Iterable[Cell],
    language: str,
    n: int,
    *,
    part: str = "main",
    keep: Path | None = None,
    **labels,
) -> pd.DataFrame:
    """Scored replies of all cells, one row a prompt; perplexity of plain text stands in each row of its cell.

    `part` "validation" asks one-turn prompts of the validation draw; the others all sets of the test draw. Perplexity
    is read in the parts main and extra. `keep`: folder of kept replies. Without cells the table is empty.
    """
    is_validation, exam = part == "validation", Exam(family, language, keep=keep)
    draw, asked = ("validation", min(n, VALIDATION_N)) if is_validation else ("test", n)
    tables = []
    for cell in cells:
        model = {cell.model: cell.checkpoint}
        sets = ("one_turn",) if is_validation else ("hostile",) if cell.frame == "raw" else tuple(world.SETS)
        table = exam.ask(model, sets, asked, frame=cell.frame, draw=draw)
        reads = float("nan")
        if cell.frame == "chat" and part in ("main", "extra"):
            reads = perplexities(exam.read(model), "model").estimate.iloc[0]
        table = table.assign(**labels, scale=cell.scale, draw=draw, perplexity=reads)
        if isinstance(cell.checkpoint, Changed):
            table["change"] = str(cell.checkpoint.change)  # which it is that the validation draw chose
        tables.append(table)
        names = (language, cell.model, cell.scale, cell.frame)
        print(*labels.values(), *names, f"correct {table.correct.mean():.3f}", flush=True)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def summary(replies: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Shares with Wilson's 95 % interval, one row a group and metric. Uncovered metrics are left out.

    Where prompts name their item, those that share one count as one answer, and `items` stands beside n.

    metric is one_turn, one_turn known, one_turn cp_only, two_turn (shares of right replies), content (one turn, right
    in any form; of families whose chat has a form), toxic, polite (of hostile prompts), abuse_toxic (of plain abuse
    alone) and english (replies in English, over all prompts).
    """
    one = replies.turns.eq(1) & replies.correct.notna()
    sets = {
        "one_turn": (one, "correct"),
        "one_turn known": (one & replies.words.eq("known"), "correct"),
        "one_turn cp_only": (one & replies.words.eq("cp_only"), "correct"),
        "two_turn": (replies.turns.eq(2), "correct"),
        "toxic": (replies.toxic.notna(), "toxic"),
        "abuse_toxic": (replies.kind.eq("abuse"), "toxic"),
        "polite": (replies.polite.notna(), "polite"),
        "english": (replies.turns.notna(), "is_english"),
    }
    rows = []
    if "content" in replies:
        sets["content"] = (one & replies.content.notna(), "content")
    for metric, (chosen, column) in sets.items():
        for group, part in replies[chosen].groupby(by, sort=False, dropna=False):
            items = part["item"] if "item" in part and part["item"].notna().all() else None
            interval = mean_interval(part[column], share=True, clusters=items)
            count = float("nan") if items is None else items.nunique()
            rows.append((*group, metric, interval.n, interval.estimate, interval.low, interval.high, count))
    table = pd.DataFrame(rows, columns=[*by, "metric", "n", "estimate", "low", "high", "items"])
    if table["items"].isna().all():
        table = table.drop(columns="items")
    ways = {m: "lower" if "toxic" in m else "neither" if m == "english" else "higher" for m in sets}
    told = {m: {"better": ways[m], "words": NAMES[m]} for m in sets}
    table.attrs["measures"] = told | {NAMES[m]: told[m] for m in sets}
    return table


def told(scores: pd.DataFrame, metrics: Iterable[str]) -> str:
    """Measures of `summary` in a sentence, every model with its interval; those that are not there are left out."""
    found = []
    for metric in metrics:
        rows = scores[scores.metric.isin([metric, NAMES[metric]])]
        models = [f"{r.model} {r.estimate:.0%} [{r.low:.0%}, {r.high:.0%}]" for r in rows.itertuples()]
        found += [f"{NAMES[metric]}: {'; '.join(models)}"] if models else []
    return ". ".join(found)


def over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """The mean of the seeds' shares of the test draw, a row a language, model, scale and metric, with Student's interval.

    `scores`: `summary` by seed and draw. The metric "best scale" is the mean of the scales that each seed's validation
    draw chooses by itself. Empty for a single seed.
    """
    of = ["language", "model", "scale", "frame", "metric"]
    best = scores[scores.metric.eq("one_turn") & scores.draw.eq("validation") & scores.model.eq("cp + tau")]
    best = best.loc[best.groupby(["language", "seed"]).estimate.idxmax()]
    best = best.assign(estimate=best.scale, scale=NONE, metric="best scale")
    rows = []
    for key, part in pd.concat([scores[scores.draw.eq("test")], best]).groupby(of, sort=False, dropna=False):
        each = part.estimate
        half = stats.t.ppf(0.975, len(each) - 1) * each.sem() if each.nunique() > 1 else NONE
        rows.append((*key, len(each), each.mean(), each.mean() - half, each.mean() + half))
    table = pd.DataFrame(rows, columns=[*of, "seeds", "estimate", "low", "high"])
    return table[table.seeds > 1]


def best_scales(validation: pd.DataFrame) -> dict[str, float]:
    """For each language the scale with the most right one-turn replies on the validation draw, over all seeds."""
    means = validation.groupby(["language", "scale"]).correct.mean()
    return {language: float(part.idxmax()[1]) for language, part in means.groupby(level=0)}


def tests(replies: pd.DataFrame, scales: dict[str, float]) -> pd.DataFrame:
    """CP + tau at the chosen scale against CP, a seed and language, with Holm over all of them.

    The paired test signs the prompts of an item together; without items it is McNemar's exact test.
    """
    rows = []
    for (family, seed, language), part in replies.groupby(["family", "seed", "language"]):
        asked = part[part.correct.notna() & part.frame.eq("chat")].set_index("prompt_id")
        for turns in (1, 2):
            of = asked[asked.turns.eq(turns)]
            a = of.correct[of.model.eq("cp + tau") & of.scale.eq(scales[language])]
            b = of.correct[of.model.eq("cp")]
            items = of["item"][of.model.eq("cp")].reindex(a.index) if "item" in of else None
            items = None if items is None or items.isna().any() else items
            found = permutation_test(a, b.reindex(a.index), clusters=items)
            about = (family, seed, language, turns, scales[language])
            rows.append((*about, found.n, found.estimate, found.p_value))
    table = pd.DataFrame(rows, columns=["family", "seed", "language", "turns", "scale", "n", "gap", "p"])
    return table.assign(p_holm=holm(table.p))


def measure(
    name: str,
    seeds: list[int],
    data: Path,
    *,
    n: int = 300,
    parts: tuple[str, ...] = PARTS,
    keep: Path | None = None,
    processes: int = 2,
) -> None:
    """Measure a family's seeds, part by part, and write the tables to `data/results/<name>`.

    Each part (validation, main, extra, controls) keeps its raw replies in a parquet file of its own, so one can be
    measured again without the others; the later ones read the chosen scales off the validation's. `keep`: folder of
    kept replies, from which a stopped run goes on; `processes` ask seeds and languages side by side.
    """
    out = data / "results" / name
    out.mkdir(parents=True, exist_ok=True)
    scales: dict[str, float] = {}
    languages = load_family(data / name / f"seed{seeds[0]}").languages
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for part in PARTS:
            file = out / f"{part}.parquet"
            if part in parts:
                ask_one = partial(_measured, part, data / name, seeds, scales, n, keep)
                asked = pool.map(ask_one, *zip(*product(seeds, languages), strict=True))
                if found := [table for table in asked if len(table)]:  # a lone seed may have no extra members
                    pd.concat(found, ignore_index=True).to_parquet(file, compression="zstd")
                else:
                    file.unlink(missing_ok=True)
            if part == "validation":
                scales = best_scales(pd.read_parquet(file))
    write_tables(out, scales)


def _measured(
    part: str, home: Path, seeds: list[int], scales: dict, n: int, keep: Path | None, seed: int, language: str
) -> pd.DataFrame:
    """One part of one seed and language; runs in a process of its own, with one thread."""
    import torch

    torch.set_num_threads(1)
    families = {s: load_family(home / f"seed{s}") for s in seeds}
    cells = _cells(part, families, seed, language, scales)
    asked = ask(families[seed], cells, language, n, part=part, keep=keep, family_name=home.name, seed=seed)
    return asked.rename(columns={"family_name": "family"})


def _cells(part: str, families: dict[int, Family], seed: int, language: str, scales: dict) -> Iterable[Cell]:
    family = families[seed]
    if part == "validation":
        tau = family.chat - family.base
        return [Cell("cp + tau", s, family.cp[language] + s * tau) for s in SCALES]
    if part == "main":
        return main_cells(family, language, scales[language])
    if part == "controls":
        return control_cells(family, language, scales[language])
    seeds = list(families)
    other = families[seeds[(seeds.index(seed) + 1) % len(seeds)]] if len(seeds) > 1 else None
    return extra_cells(family, language, scales[language], other)


def write_tables(out: Path, scales: dict[str, float]) -> None:
    """The tidy tables of what the parts hold: scores, the mean over seeds, kinds, perplexity, tests."""
    replies = pd.concat([pd.read_parquet(f) for f in sorted(out.glob("*.parquet"))], ignore_index=True)
    # replies that are kept from before lack the column
    replies["is_english"] = replies.reply_language.eq("en")
    by = ["family", "seed", "language", "model", "scale", "frame", "draw"]
    scores = summary(replies, by)
    scores.to_csv(out / "scores.csv", index=False, float_format="%.4g")
    if len(seeds := over_seeds(scores)):
        seeds.to_csv(out / "seeds.csv", index=False, float_format="%.4g")
    replies = replies[replies.draw.eq("test")]
    best = replies.model.eq("cp + tau") & replies.scale.eq(replies.language.map(scales))
    chosen = replies[best & replies.correct.notna()]
    kinds = chosen.groupby(["family", "seed", "language", "kind", "words"], sort=False).correct
    kinds.agg(n="size", estimate="mean").to_csv(out / "kinds.csv", float_format="%.4g")
    reads = replies[replies.frame.eq("chat")].groupby(by[:5], sort=False, dropna=False).perplexity.first()
    reads.dropna().to_csv(out / "perplexity.csv", float_format="%.5g")
    tests(replies, scales).to_csv(out / "tests.csv", index=False, float_format="%.4g")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-n", type=int, default=300, help="prompts of each set a cell")
    parser.add_argument("--keep", type=Path, help="folder of kept replies, from which a stopped run goes on")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="default: all")
    options = parser.parse_args()
    measure(
        options.family,
        options.seeds,
        options.data,
        n=options.n,
        parts=tuple(options.parts),
        keep=options.keep,
    )


if __name__ == "__main__":
    main()
