"""Recipes beside the plain vector, by name and paper, and which of them beats it.

    found = mixtures.recipes(family, "zh")
    tried = mixtures.tried(exam, found, [0.5, 1.0, 1.5], 78)      # each recipe over the scale, on validation prompts
    models = mixtures.at_their_best(exam, found, tried)            # to be asked the test prompts

ParamΔ (arXiv 2504.21023) is the plain vector. LATA (2502.20186), RESTA (2402.11746), Consensus TA (2405.07813) and Timber
(2509.23595) are left out: no page with the paper's own numbered formula could be read.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from chatvec_lab.experiment import limits
from chatvec_lab.experiment.exam import Exam
from chatvec_lab.experiment.models import At, Dial
from chatvec_lab.weights import combinations
from chatvec_lab.weights.transforms import ties

if TYPE_CHECKING:
    from chatvec_lab.families import Family
    from chatvec_lab.weights.vector import WeightVector

PLAIN, SEARCHED = "τ", "found by the search"
FARTHEST = 2.0  # times the largest scale: how far beyond it a recipe is tried
LEFT_OUT = (
    "Left out, as no page with the paper's own numbered formula could be read: LATA (arXiv 2502.20186), "
    "RESTA (arXiv 2402.11746), Consensus TA (arXiv 2405.07813), Timber (arXiv 2509.23595)."
)


class Recipe(NamedTuple):
    """A vector to add to the CP, and the paper that it is after."""

    vector: "WeightVector"
    paper: str


def recipes(family: "Family", language: str) -> dict[str, Recipe]:
    """The recipes that this family allows, plain τ first; those of several vectors where it has other chat models."""
    tau, v = family.chat - family.base, family.cp[language] - family.base
    layers = family.base.config["num_hidden_layers"]
    quarter = max(1, layers // 4)
    found = {
        PLAIN: Recipe(tau, "arXiv 2310.04799; ParamΔ, arXiv 2504.21023"),
        "largest fifth of τ": Recipe(
            tau.sparsified("magnitude", density=0.2), "arXiv 2306.01708, its first step"
        ),
        "DARE, a half of τ": Recipe(tau.sparsified("dare", density=0.5), "arXiv 2311.03099"),
        "rank 16 of τ": Recipe(tau.low_rank(16), "arXiv 0909.4061"),
        "τ off the CP vector": Recipe(combinations.projected_off(tau, v), "a projection, of no paper"),
    }
    middle = range(quarter, layers - quarter)
    if len(middle):
        vector = combinations.swapped(tau, v, layers=middle)
        found["middle layers swapped"] = Recipe(vector, "arXiv 2410.01335, without a transition")
    several = list(limits.vectors(family).values())
    if len(several) > 1:
        k = f"of {len(several)} chat vectors"
        found[f"mean {k}"] = Recipe(sum(several) / len(several), "arXiv 2212.04089")
        found[f"TIES {k}"] = Recipe(ties(several), "arXiv 2306.01708")
    return found


def tried(exam: Exam, found: Mapping[str, Recipe], scales: Sequence[float], n: int) -> "pd.DataFrame":
    """Each recipe at each scale on `n` validation prompts: model (the recipe), scale, estimate, low, high, n.

    A recipe that does best at the largest scale, or the same at all, is tried beyond it, in the same steps, until it does no
    better, at most to `FARTHEST` times as far: what is trimmed or averaged is shorter than τ. A recipe's model
    is loaded once and turned.
    """
    main, tables = exam.main("one_turn"), []
    for label, recipe in found.items():
        dial, replies, asked = Dial(exam.family.cp[exam.language], recipe.vector), [], sorted(scales)
        while asked:
            models = {scale: At(dial, scale) for scale in asked}
            some = exam.ask(models, ["one_turn"], n, draw="validation").rename(columns={"model": "scale"})
            replies.append(some)
            table = exam.shares(pd.concat(replies, ignore_index=True), "scale", [main]).assign(model=label)
            is_open = bool(rising(table)) or table.estimate.nunique() == 1  # or nothing has happened yet
            asked = [scale for scale in further(scales) if scale > table.scale.max()][:is_open]
        tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    joined.attrs["measures"] = tables[0].attrs["measures"]
    return joined[["model", *(c for c in joined if c != "model")]]


def further(scales: Sequence[float]) -> list[float]:
    """The scales beyond the largest, in the step between the last two, to `FARTHEST` times it; none beyond a single one.

    >>> further([0.5, 1.0, 1.25])
    [1.5, 1.75, 2.0, 2.25, 2.5]
    """
    if len(scales) < 2:
        return []
    *_, before, largest = sorted(scales)
    count = int((FARTHEST - 1) * largest / (largest - before) + 1e-9)
    return [round(largest + i * (largest - before), 9) for i in range(1, count + 1)]


def rising(table: "pd.DataFrame") -> list[str]:
    """The recipes of `tried` that do best at the largest scale that they were tried at: their own best may lie beyond."""
    largest = table.groupby("model", sort=False).scale.max()
    return [model for model, best in best_scales(table).items() if best == largest[model]]


def shown(table: "pd.DataFrame", scales: Sequence[float]) -> "pd.DataFrame":
    """The rows of `tried` that a figure has room for, with the column at: the scales that were given ("scale 0.5"), and of
    those beyond them each recipe's best ("beyond, its best").
    """
    is_beyond = table.scale > max(scales)
    kept = table[~is_beyond | (table.scale == table.model.map(best_scales(table)))]
    return kept.assign(at=kept.scale.map("scale {:g}".format).mask(is_beyond, "beyond, its best"))


def best_scales(table: "pd.DataFrame") -> dict[str, float]:
    """The scale at which each recipe of `tried` does best; of equals the smallest."""
    best = table.sort_values(["estimate", "scale"], ascending=[False, True]).drop_duplicates("model")
    return best.set_index("model").scale.to_dict()


def at_their_best(exam: Exam, found: Mapping[str, Recipe], table: "pd.DataFrame") -> dict[str, At]:
    """Each recipe at its best scale, to be asked."""
    best, cp = best_scales(table), exam.family.cp[exam.language]
    return {label: At(Dial(cp, recipe.vector), best[label]) for label, recipe in found.items()}


def cost(table: "pd.DataFrame", trials: "pd.DataFrame", n: int) -> "pd.DataFrame":
    """What choosing cost: step, models that were tried, replies."""
    asked = int(trials.is_within.sum())
    return pd.DataFrame(
        [
            {"step": "recipes over the scale", "models": len(table), "replies": int(table.n.sum())},
            {"step": "search", "models": len(trials), "replies": asked * n},
        ]
    )
