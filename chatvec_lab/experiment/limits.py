"""What the chat vector does not transfer: its parts, other vectors, more or less CP, relatives, what is lost.

Each function gives models by label, to be asked by an `Exam`; what a family lacks is left out.
"""

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from chatvec_lab.evaluation.scorers.fluency import fluency
from chatvec_lab.evaluation.statistics import statistic_interval
from chatvec_lab.evaluation.statistics.sweep import perplexity_ratio
from chatvec_lab.experiment.exam import Exam
from chatvec_lab.experiment.models import at_scale, control
from chatvec_lab.paths import DATA

if TYPE_CHECKING:
    from chatvec_lab.families import Family
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.vector import WeightVector

ALL = "all of τ"
PLAINLY = "CP, asked plainly"  # in the frame that continual pre-training has seen: what the CP knows
_MODULES = {"attention": "attention", "MLP": "mlp|router", "norms": "norm", "embeddings": "embedding|head"}


def parts(family: "Family") -> "dict[str, WeightVector]":
    """τ by parts: each kind of module and half of the layers alone, and all but one kind; a random vector beside."""
    tau, layers = family.chat - family.base, family.base.config["num_hidden_layers"]
    half = layers // 2
    alone = {f"{label} only": tau.select(modules=kind) for label, kind in _MODULES.items()}
    without = {
        f"all but {label}": tau.select(modules="|".join(k for k in _MODULES.values() if k != kind))
        for label, kind in _MODULES.items()
    }
    halves = {
        f"layers 0-{half - 1} only": tau.select(layers=range(half)),
        f"layers {half}-{layers - 1} only": tau.select(layers=range(half, layers)),
    }
    return {ALL: tau, **alone, **without, **halves, "random vector": control(tau)}


def sizes(vectors: "Mapping[str, WeightVector]", *, of: str = ALL) -> pd.Series:
    """Share of the squared length of the vector `of` that each vector has, by label."""
    from chatvec_lab import anatomy

    whole = anatomy.combine(anatomy.norms(dict(vectors), progress=False)).set_index("vector").l2 ** 2
    return (whole / whole[of]).rename("share_of_length")


def vectors(family: "Family", other: "Family | None" = None) -> "dict[str, WeightVector]":
    """Chat vectors of other pairs: of the family's other chat models, and of another base.

    Other chat models are the members called chat_NAME that are neither chat → CP nor its tuning. One that thinks before
    it answers (chat_think) is asked by itself: see `reasoning`.
    """
    names = {
        "chat_b": "another tuning",
        "chat_full": "tuning of all rows",
    }
    found = {"τ": family.chat - family.base}
    for name, role in sorted(family.roles.items()):
        if role.kind == "chat" and role.variant and role.variant != "think":
            found[f"τ of {names.get(name, role.variant)}"] = family[name] - family.base
    if other is not None:
        found["τ of another base"] = other.chat - other.base
    return found


def vocabularies(family: "Family", language: str, scale: float) -> "dict[str, Checkpoint]":
    """CP + τ with embedding and head rows matched by token and skipped, and the same for a CP with more tokens."""
    tau = family.chat - family.base
    cps = {"": family.cp[language]}
    if f"cp_{language}_extended" in family.others:
        cps["more tokens, "] = family[f"cp_{language}_extended"]
    taus = {"τ": tau}
    if "chat_full" in family.others:
        taus["τ of all rows"] = family["chat_full"] - family.base
    return {
        f"{cp_name}{name}, {policy}": at_scale(cp, vector, scale, vocabulary=policy)
        for cp_name, cp in cps.items()
        for name, vector in taus.items()
        for policy in ("match", "skip")
    }


def ladder(family: "Family", language: str) -> "dict[int, Checkpoint]":
    """CP models that read more and more, by the tokens that they read; the family's CP is among them.

    The members are cp_LANGUAGE_STEPS; tokens are those of their `stage.json`. Empty where there is none.
    """
    from chatvec_lab.weights.checkpoint import read_json

    of = {n: role for n, role in family.roles.items() if role.kind == "cp" and role.language == language}
    rungs = [name for name, role in of.items() if role.variant.isdigit()]
    found = {}
    for name in [*rungs, f"cp_{language}"] if rungs else []:
        found[read_json(Path(family[name].source, "stage.json"))["tokens"]] = family[name]
    return dict(sorted(found.items()))


def present(names: Iterable[str]) -> "tuple[dict[str, Family], list[str]]":
    """The families of these names that are there, and the names of those that are not."""
    from chatvec_lab.families import family_names, load_family

    known = family_names()
    names = list(names)
    return {name: load_family(name) for name in names if name in known}, [n for n in names if n not in known]


def another(family: str, seed: int) -> "Family | None":
    """Another repetition of a nano family: the next seed that is there, or None."""
    from chatvec_lab.families import load_family

    found = [int(f.parent.name.removeprefix("seed")) for f in (DATA / "nano" / family).glob("seed*/base")]
    seeds = sorted(s for s in found if s != seed)
    after = [s for s in seeds if s > seed] + seeds
    return load_family(family, seed=after[0]) if after else None


def facts(family: "Family") -> dict[str, object]:
    """Size and kind of a family's models: parameters, architecture, layers."""
    base, config = family.base, family.base.config
    parameters = sum(prod(base.shape(name)) for name in base.names)
    return {
        "parameters": parameters,
        "architecture": config["model_type"],
        "layers": config["num_hidden_layers"],
    }


def ask_relatives(
    families: "Mapping[str, Family]", language: str, scale: float, *, n: int, keep: str | Path | None = None
) -> pd.DataFrame:
    """One-turn replies of CP, CP + τ and chat of every family, and of its CP asked plainly, with their facts.

    A family without a CP model for `language` is asked in all languages that it has.
    """
    tables = []
    for name, family in families.items():
        tau = family.chat - family.base
        for code in [language] if language in family.languages else family.languages:
            cp, exam = family.cp[code], Exam(family, code, keep=keep)
            models = {"CP": at_scale(cp, tau, 0), "CP + τ": at_scale(cp, tau, scale), "chat": family.chat}
            found = [exam.ask(models, ["one_turn"], n), exam.ask({PLAINLY: cp}, ["one_turn"], n, frame="qa")]
            tables.append(pd.concat(found).assign(family=name, **facts(family)))
    return pd.concat(tables, ignore_index=True)


def reading_cost(costs: pd.DataFrame, *, baseline: str, seed: int = 0) -> pd.DataFrame:
    """Perplexity of each model over that of the baseline on the same texts, with its paired bootstrap interval.

    `costs`: of `Exam.read`. Columns: model, language, estimate, low, high, n (texts). Above 1 is worse.
    """
    rows = []
    costs = costs if len(costs) else pd.DataFrame(columns=["model", "language"])
    for language, table in costs.rename(columns={"model": "scale"}).groupby("language", sort=False):
        for model in dict.fromkeys(table.scale):
            if model != baseline:
                found = perplexity_ratio(table, model, baseline=baseline, seed=seed)
                rows.append({"model": model, "language": language, **found.ends})
    table = pd.DataFrame(rows, columns=["model", "language", "estimate", "low", "high", "n"])
    table.attrs["measures"] = {"estimate": {"better": "lower", "words": f"perplexity / {baseline}"}}
    return table


def perplexities(costs: pd.DataFrame, by: str, *, seed: int = 0) -> pd.DataFrame:
    """Perplexity of plain text by group: `by`, estimate, low, high, n; empty where nothing was read (`Exam.read`)."""
    columns = [by, "estimate", "low", "high", "n"]
    if costs.empty:
        return pd.DataFrame(columns=columns, dtype=float)
    found = fluency(costs, by=by, seed=seed)
    found = found[found.measure == "perplexity"][columns]
    found.attrs["measures"] = {"estimate": {"better": "lower", "words": "perplexity"}}
    return found


def cost(costs: pd.DataFrame, scale: float, *, seed: int = 0):
    """`sweep.perplexity_ratio` of a scale and 0; None where nothing was read."""
    return None if costs.empty else perplexity_ratio(costs, scale, seed=seed)


def medians(table: pd.DataFrame, *, by: str, values: list[str], seed: int = 0) -> pd.DataFrame:
    """Median of columns in each group, with a bootstrap interval over its rows; one row a group and measure.

    Columns: `by`, measure, estimate, low, high, n (rows).
    """
    rows = []
    for measure in values:
        for name, group in table.groupby(by, sort=False):
            found = statistic_interval(group[measure], statistic=np.median, resamples=1999, seed=seed)
            rows.append({by: name, "measure": measure, **found.ends})
    return pd.DataFrame(rows)
