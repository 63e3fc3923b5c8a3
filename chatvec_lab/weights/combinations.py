"""Combinations beside the plain vector, each after its paper: projection, consensus, Timber, layer swapping.

TIES, DARE, magnitude and low rank are in `methods`. Two are not here, as their formulas could not be read where we
looked: LATA (arXiv 2502.20186) and RESTA (2402.11746). ParamΔ (2504.21023) is the plain vector: post − base + new base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, exp
from typing import ClassVar

import numpy as np

from chatvec_lab.weights.methods import Tensor
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.transforms import transformed
from chatvec_lab.weights.vector import WeightVector

Weight = float | Callable[[int | None, str], float]


def projected_off(tau: WeightVector, direction: WeightVector) -> WeightVector:
    """τ without what it shares with a direction, tensor by tensor: τ − (⟨τ, v⟩ / ⟨v, v⟩) v.

    `direction` is the CP vector, as a rule: what is left cannot undo or repeat what continual pre-training did. A
    tensor where the direction is zero stays whole. Rows of tables pair by token.
    """
    return transformed(Off(), tau, -direction)  # subtracted, so that τ's chat template is the one that counts


def consensus(vectors: Sequence[WeightVector], *, agreeing: int = 2, threshold: float = 0.4) -> WeightVector:
    """The sum of several vectors where at least `agreeing` of them matter to it; see `Consensus`."""
    vectors = _several("consensus", vectors)
    if isinstance(agreeing, bool) or not isinstance(agreeing, int) or not 1 <= agreeing <= len(vectors):
        raise ValueError(
            f"agreeing={agreeing!r}: expected a whole number from 1 to {len(vectors)}, the vectors."
        )
    if not 0 < threshold < float("inf"):
        raise ValueError(
            f"threshold={threshold!r}: expected a finite number above 0 (the paper tries 0.2 to 0.6)."
        )
    return transformed(Consensus(agreeing, float(threshold)), *vectors)


def timber(tau: WeightVector, *, keep: float = 0.2) -> WeightVector:
    """τ with the singular values behind each matrix's effective rank times `keep`; see `Timber`."""
    if not 0 <= keep <= 1:
        raise ValueError(f"keep={keep!r}: expected a factor from 0 (the tail is cut) to 1 (τ itself).")
    return transformed(Timber(float(keep)), tau)


def swapped(
    tau: WeightVector, cp_vector: WeightVector, *, layers: range, transition: int = 0
) -> WeightVector:
    """What makes of the CP the model with the chat model's `layers` and its own ones around them (arXiv 2410.01335).

    A swapped layer is base + τ, so that to the CP is added τ − (CP − base). The `transition` layers on either side of
    them are the mean of the CP's and the chat model's. The paper has two experts of one base, a language's around a
    task's. Outside the layers (embedding, last norm, head) τ itself is added, which leaves a CP its words.
    Raises ValueError when the layers leave none of the CP's, or there are none.
    """
    numbers = {part.layer for part in tau.parts_by_name.values() if part.component == "text"} - {None}
    there = range(max(numbers, default=-1) + 1)
    first, last = (layers[0], layers[-1]) if len(layers) else (0, -1)
    if layers.step != 1 or first < 0 or last >= len(there) or not 0 < len(layers) < len(there):
        raise ValueError(
            f"layers={layers!r}: expected some but not all of the layers 0 to {len(there) - 1}, in a row."
        )
    if isinstance(transition, bool) or not isinstance(transition, int) or transition < 0:
        raise ValueError(f"transition={transition!r}: expected a number of layers on either side, 0 or more.")

    def share(layer: int) -> float:
        if layer in layers:
            return 1.0
        return 0.5 if first - transition <= layer <= last + transition else 0.0

    plain = tau.scheduled(lambda layer, module: 1.0 if layer is None else share(layer))
    return plain - cp_vector.scheduled(lambda layer, module: 0.0 if layer is None else share(layer))


def weighted(vectors: Sequence[WeightVector], weights: Sequence[Weight]) -> WeightVector:
    """The sum of vectors, each times a number or `f(layer, module)`, with the first one's chat template at any weight."""
    vectors = _several("weighted", vectors)
    if len(weights) != len(vectors):
        raise ValueError(f"{len(weights)} weights for {len(vectors)} vectors")
    terms = [
        vector.scheduled(weight) if callable(weight) else float(weight) * vector
        for vector, weight in zip(vectors, weights, strict=True)
    ]
    return sum(terms) + vectors[0].chat_side_only()


def _several(what: str, vectors: Sequence[WeightVector]) -> list[WeightVector]:
    vectors = list(vectors)
    if not vectors or not all(isinstance(vector, WeightVector) for vector in vectors):
        raise TypeError(f"{what} takes a list of weight vectors, got {vectors!r}.")
    return vectors


@dataclass(frozen=True)
class Off:
    """Of (vector, direction): the vector without its share along the direction, in each tensor."""

    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return f"{of[0]} off {of[1]}"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        return {"projected": "off", "direction": of[1].describe(), "of": of[0].describe()}

    def measure(self, tensor: Tensor) -> float:
        """⟨vector, direction⟩ / ⟨direction, direction⟩, in float64; 0 where the direction is zero."""
        shared = length = 0.0
        for (_, ours), (_, theirs) in zip(tensor.blocks(which=0), tensor.blocks(which=1), strict=True):
            shared, length = shared + float((ours * theirs).sum()), length + float((theirs * theirs).sum())
        return shared / length if length else 0.0

    def span(self, tensor: Tensor, known: float, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        ours = tensor.parts(start, stop, work)
        if not known:
            return ours
        return ours + [
            (-known * c, plus, minus) for c, plus, minus in tensor.parts(start, stop, work, which=1)
        ]


@dataclass(frozen=True)
class Consensus:
    """Consensus task arithmetic (arXiv 2405.07813): the sum, where enough of its vectors are important to it.

    Vector t matters to an element where |τ_t| > λ |Σ τ − τ_t|, and the sum stays where at least k of them do. As the
    authors' code has it (github.com/nik-dim/tall_masks, src/utils/tallmask_utils.py: generate_task_masks and
    construct_consensus_mask); which of the paper's equations these are could not be read. λ is one for all vectors here.
    """

    agreeing: int  # k
    threshold: float  # λ
    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return "consensus of " + ", ".join(of)

    def describe(self, of: Sequence[WeightVector]) -> dict:
        terms = [vector.describe() for vector in of]
        return {"consensus": self.agreeing, "threshold": self.threshold, "of": terms}

    def measure(self, tensor: Tensor) -> None:
        return None

    def span(self, tensor: Tensor, known: None, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        deltas = np.stack([tensor.values(start, stop, work, which=i) for i in range(len(tensor.vectors))])
        total = deltas.sum(0)
        matters = np.abs(deltas) > self.threshold * np.abs(total - deltas)
        return [(1.0, total * (matters.sum(0) >= self.agreeing), None)]


@dataclass(frozen=True)
class Timber:
    """Timber (arXiv 2509.23595): in each matrix of τ the singular values behind its effective rank are scaled down.

    The effective rank is exp(−Σ p log p) of p = σ / Σ σ; its ceiling is how many values stay. As the authors' code has
    it (github.com/wutaiqiang/Timber, timber.py: calculate_effective_rank and main); the paper's numbers of these
    equations could not be read. Norms, biases, tables with a row a token and stacked experts stay whole. Needs the full
    decomposition of each matrix, a minute or so for 4096 by 4096.
    """

    keep: float  # γ
    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return f"timber {self.keep:g} of {of[0]}"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        return {"timber": self.keep, "of": of[0].describe()}

    def measure(self, tensor: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
        """What is taken away, as two factors (m, r) and (r, n), float64; None where nothing is."""
        if len(tensor.shape) != 2 or tensor.is_table or self.keep == 1:
            return None
        matrix = np.empty(tensor.size)
        for start, block in tensor.blocks():
            matrix[start : start + block.size] = block
        left, values, right = np.linalg.svd(matrix.reshape(tensor.shape), full_matrices=False)
        first = ceil(effective_rank(values))
        if not values[first:].any():
            return None
        return left[:, first:] * ((1 - self.keep) * values[first:]), right[first:]

    def span(self, tensor: Tensor, known, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        parts = tensor.parts(start, stop, work)
        if known is None:
            return parts
        left, right = known
        width = right.shape[1]
        first, last = start // width, -(-stop // width)
        # rounded once to float32: the same elements whatever rows are asked for together
        rows = (left[first:last] @ right).astype(np.float32).reshape(-1)
        return [*parts, (-1.0, rows[start - first * width : stop - first * width], None)]


def effective_rank(values: np.ndarray) -> float:
    """exp of the entropy of the singular values as shares of their sum; 0 of a zero matrix.

    >>> float(effective_rank(np.ones(4))), effective_rank(np.zeros(3))
    (4.0, 0.0)
    """
    total = values.sum()
    if not total:
        return 0.0
    shares = values[values > 0] / total
    return exp(-float(shares @ np.log(shares)))
