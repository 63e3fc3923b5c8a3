"""Quantised members: which mixtures are refused, and how much noise a vector of them is expected to carry.

Rounding to few codes takes away about as much as a fine-tune changes. In `chat - base` the noise of both stays, and of
one alone it would pass for a part of the vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from chatvec_lab.weights.numerics.blocks import block_spans

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.vector import WeightVector


OF_A_VECTOR = "The rounding would pass for a part of the vector: it is as large as what a fine-tune changes."
OF_A_SUM = "The sum would hold the rounding of some and not of others, which is as large as what a fine-tune changes."


def check_mixed(what: str, members: Sequence[Checkpoint], allowed: bool, why: str) -> None:
    """ValueError when some members are quantised and others are not, or otherwise, and that is not allowed."""
    if allowed or len({member.note for member in members}) <= 1:
        return
    told = list(dict.fromkeys(f"{member.label} is {member.note or 'not quantised'}" for member in members))
    raise ValueError(
        f"{what}: {', '.join(told[:-1])} and {told[-1]}. {why} Use unquantised weights of all, or members quantised "
        "alike; allow_mixed=True (--allow-mixed) says that it is meant."
    )


def noise(source: Checkpoint, name: str, spans: Iterable[tuple[int, int]] | None = None) -> float:
    """The sum of squares that a checkpoint's quantisation is expected to have taken from a tensor (or these spans)."""
    spans = block_spans(source.shape(name)) if spans is None else spans
    return sum(source.noise(name, start, stop) for start, stop in spans)


def quantised_sources(vector: WeightVector, name: str) -> Iterator[tuple[float, Checkpoint, str]]:
    """(coefficient, source, its own name) of each source that has one of the vector's tensors quantised."""
    for term in vector.terms:
        coefficient, inner = term.coefficient(name), term.leaf.placed.get(name, name)
        for source in term.leaf.sources() if coefficient else ():
            stored = source.resolve(inner)
            if stored is not None and source.quantised(stored):
                yield coefficient, source, stored


def expected_noise(vector: WeightVector, name: str) -> float:
    """The L2 norm of the noise that one of a vector's tensors is expected to carry: an estimate, from steps alone.

    0.0 where no source of it is quantised; NaN where a format's steps are not known. Reads the codes once.
    """
    return sum(c * c * noise(source, stored) for c, source, stored in quantised_sources(vector, name)) ** 0.5
