"""Combinations beside the plain vector: projection, layer swapping, sums with weights.

TIES, DARE, magnitude and low rank are in `methods`. Four are not here, as no page with the paper's own numbered formula
could be read: LATA (arXiv 2502.20186), RESTA (2402.11746), Consensus TA (2405.07813) and Timber (2509.23595).
ParamΔ (2504.21023) is the plain vector: post − base + new base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

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
