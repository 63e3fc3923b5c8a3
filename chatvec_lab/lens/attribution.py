"""Which part of the vector does it, and where along the scale: ⟨∇f(cp + s·τ), τ_part⟩ integrated over s.

The parts sum up to what the vector does to f, which is checked. docs/lens.md has the mathematics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.lens.gradients import Gradients
from chatvec_lab.lens.layers import checkpointed
from chatvec_lab.lens.measures import Measure, batches, check, values, values_of
from chatvec_lab.lens.pairs import Pair, checked, finite
from chatvec_lab.lens.parts import Directions, parts_of
from chatvec_lab.lens.path import gauss_legendre

if TYPE_CHECKING:
    from pandas import DataFrame

    from chatvec_lab.live import LiveModel

SETTLED = 0.01  # nodes double until no part changes by more of the sum of absolute parts
COMPLETE = 0.02  # as much may be missing between the sum of the parts and the difference


@dataclass(frozen=True)
class Attribution:
    """What each part of the vector adds to f, and whether it all adds up.

    parts: a row a pair and part: pair (None for the mean over all of them), component, layer, module, projection (None
    where parts are not told apart by it) and attribution, in nats. path: a row a pair, node of the integral (in the path's
    order) and part: pair, scale, weight, the part's columns and rate (d f / d scale by this part). values: a row a pair: cp,
    start, end (f of the CP; of the CP with the rows that are the chat model's own; at the scale).
    change: the largest change of a part when the nodes were doubled last, over the sum of absolute parts.
    """

    parts: DataFrame
    path: DataFrame
    values: DataFrame
    scale: float
    measure: Measure
    nodes: int
    change: float

    @property
    def jump(self) -> float:
        """What copied or added rows do to f before anything of τ is added: they are there at any scale but 0."""
        return float((self.values.start - self.values.cp).mean())

    @property
    def difference(self) -> float:
        """f at the scale less f at the start, mean over the pairs: what the parts should sum up to."""
        return float((self.values.end - self.values.start).mean())

    @property
    def means(self) -> DataFrame:
        """Each part's attribution, mean over the pairs: the part's columns and attribution."""
        columns = [c for c in self.parts if c not in ("pair", "attribution")]
        return self.parts.groupby(columns, dropna=False, sort=False).attribution.mean().reset_index()

    @property
    def total(self) -> float:
        """Sum of the parts."""
        return float(self.means.attribution.sum())

    @property
    def size(self) -> float:
        """Sum of the parts' absolute values."""
        return float(self.means.attribution.abs().sum())

    @property
    def error(self) -> float:
        """|sum of the parts − difference| over the sum of absolute parts; 0 where nothing moves."""
        apart = abs(self.total - self.difference)
        return apart / self.size if self.size else float(apart > 0)

    @property
    def is_complete(self) -> bool:
        """Whether the parts settled and add up: what does not may not be shown."""
        return self.change < SETTLED and self.error <= COMPLETE

    def __str__(self) -> str:
        verdict = "complete" if self.is_complete else "not complete, so nothing of it is shown"
        jump = f" Copied or added rows alone: {self.jump:+.4f}, before the start." if self.jump else ""
        return (
            f"The parts sum up to {self.total:+.4f} nats, the difference is {self.difference:+.4f}: {self.error:.2%} of "
            f"the sum of absolute parts ({self.size:.4f}) apart, with {self.nodes} nodes (last doubling: "
            f"{self.change:.2%}); {verdict}.{jump}"
        )


def attribution(
    live: LiveModel, pairs: Iterable[Pair], scale: float, *, by: str = "layer × projection", measure: Measure = "reply",
    by_pair: bool = True, checkpointing: bool = False, nodes: int = 8, most_nodes: int = 64,
) -> Attribution:  # fmt: skip
    """What each part of the vector adds to f between the CP and CP + scale · τ, integrated along the scale.

    f is, mean over the pairs, the mean log probability of the tokens that are said (measure "reply") or that of the
    first of them ("first token"), in nats. A part's attribution is the integral over s, from 0 to the scale, of the
    inner product of f's gradient at cp + s · τ with the part of τ: Gauss–Legendre from `nodes` nodes on, doubled until
    every part changes by less than 1 % of the sum of absolute parts and their sum is within 2 % of the difference, at
    most to `most_nodes`. What then does not add up is not complete (`is_complete`), and may not be shown.

    live: of float32 or float64 weights (`LiveModel(cp, tau, dtype="float32")`): between 16-bit weights f is no smooth
    function of the scale. by: see `parts.parts_of`; a tied table is one part. Rows that are the chat model's own jump
    at 0 and do not move after it, so that the integral starts behind the jump. by_pair: integrate every pair by itself,
    too, at the nodes that were found to be enough; else only their mean, which is quicker. checkpointing: less memory,
    by computing each layer twice. Memory: one gradient at a time beside the live model and the activations.

    **Turns the model**, and back. Raises ValueError for 16-bit weights, and what pairs, `by` and `measure` raise.
    """
    found, (scale,) = checked(live, pairs), finite([scale])
    check(measure)
    if live.model.dtype.itemsize < 4:
        kind = str(live.model.dtype).removeprefix("torch.")
        raise ValueError(
            f"the live model holds {kind} weights, whose rounding makes steps of the path along the scale. Load it with "
            'LiveModel(cp, tau, dtype="float32").'
        )
    if not (isinstance(nodes, int) and isinstance(most_nodes, int) and 1 <= nodes <= most_nodes):
        raise ValueError(
            f"nodes={nodes!r}, most_nodes={most_nodes!r}: expected whole numbers, 1 <= nodes <= most_nodes"
        )
    parts = parts_of(live, by)
    with checkpointed(live.model) if checkpointing else nullcontext():
        # at the start rows that are the chat model's own are there, and nothing of τ
        ends = {"cp": (0.0, None), "start": (scale, ()), "end": (scale, None)}
        told = {}
        for name, (at, only) in ends.items():
            with live.at(at, only=only):
                told[name] = values(live.model, found.values(), measure)
        with live.at(scale):  # turned node by node inside, and back once
            difference = float((told["end"] - told["start"]).mean())
            path, count, change = _integrated(
                live, list(found.values()), scale, parts, measure, by_pair, difference, nodes, most_nodes
            )
    places, names = [part.place for part in parts], list(found) if by_pair else [None]
    each = sum((weight * rates for _, weight, rates in path), np.zeros((len(names), len(parts))))
    return Attribution(
        _by_pair(names, places, each),
        _along(names, path, places),
        _named(list(found), told),
        scale,
        measure,
        count,
        change,
    )


def _integrated(live, pairs, scale, parts, measure, by_pair, difference, nodes, most):
    """[(s, weight, rates of each pair, or of their mean: (pairs or 1, parts))], how many nodes, and the last change, over
    the sum of absolute parts.
    """
    if scale == 0:
        return [], 0, 0.0
    directions = Directions(live, int(np.sign(scale)))
    together = list(batches(live.model, pairs, has_gradients=True))
    before, change, count = None, float("inf"), nodes
    while True:
        path = [(s, weight, _rates(live, together, s, parts, measure, directions).sum(0) / len(pairs))
                for s, weight in gauss_legendre(count, scale)]  # fmt: skip
        means = sum(weight * rates for _, weight, rates in path)
        size = np.abs(means).sum()
        if before is not None:
            change = float(np.abs(means - before).max() / size) if size else 0.0
        is_settled = change < SETTLED and abs(means.sum() - difference) <= COMPLETE * size
        if is_settled or 2 * count > most:
            break
        before, count = means, 2 * count
    if by_pair:
        alone = [[pair] for pair in pairs]
        path = [(s, weight, _rates(live, alone, s, parts, measure, directions)) for s, weight, _ in path]
    else:
        path = [(s, weight, rates[None]) for s, weight, rates in path]
    return path, count, change


def _rates(live, groups: Sequence[Sequence[Pair]], s: float, parts, measure, directions) -> np.ndarray:
    """d / d s, by each part, of the sum of f over each group of pairs, at one point of the path: (groups, parts).

    **Turns the model.**
    """
    import torch

    live.scale = s
    with torch.enable_grad(), Gradients(live, parts, directions) as gradients:
        rows = []
        for pairs in groups:
            told = values_of(live.model, pairs, measure).sum()
            if (
                told.requires_grad
            ):  # not where no text passes what the vector moves, such as a tower for images
                told.backward()
            rows.append(gradients.taken())
    return np.stack(rows)


def _by_pair(names: list[str], places: list[dict], each: np.ndarray) -> DataFrame:
    import pandas as pd

    rows = [{"pair": name, **place, "attribution": float(each[i, j])}
            for i, name in enumerate(names) for j, place in enumerate(places)]  # fmt: skip
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def _along(names: list[str], path: list, places: list[dict]) -> DataFrame:
    import pandas as pd

    rows = [{"pair": name, "scale": s, "weight": weight, **place, "rate": float(rates[i, j])}
            for i, name in enumerate(names) for s, weight, rates in path for j, place in enumerate(places)]  # fmt: skip
    columns = ["pair", "scale", "weight", *places[0], "rate"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})


def _named(names: list[str], told: dict[str, np.ndarray]) -> DataFrame:
    import pandas as pd

    return pd.DataFrame({"pair": names, **told})
