"""A term of a vector: a factor on a leaf, varied by schedules, read in the rows of any vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import numpy as np

from chatvec_lab.weights.difference import Leaf
from chatvec_lab.weights.layout import Part
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.tokens.rows import leaf_rows
from chatvec_lab.weights.tokens.vocabulary import Vocabulary, runs

Schedule = Callable[[str, Part], float]


def silent(name: str, part: Part) -> float:
    return 0.0


@dataclass(frozen=True)
class Term:
    factor: float
    leaf: Leaf
    schedules: tuple[Schedule, ...] = field(default=())

    @property
    def is_meant(self) -> bool:
        """Whether the term is meant to move something."""
        return self.factor != 0 and silent not in self.schedules

    def coefficient(self, name: str, part: Part | None = None) -> float:
        """The factor of one tensor. `part` says what it is, where the leaf does not know such a tensor."""
        result = self.factor
        if self.schedules:
            part = part or self.leaf.part(name)
            for schedule in self.schedules:
                result *= schedule(name, part)
        return result


def renamed(schedule: Schedule, leaf) -> Schedule:
    """A schedule by the family's names, for a leaf under a larger model's."""

    def by_inner_name(name: str, part: Part) -> float:
        inner = leaf.inner(name)
        return schedule(inner, leaf.leaf.part(inner)) if leaf.resolve(name) else 0.0

    return by_inner_name


def place(
    leaf: Leaf, name: str, start: int, stop: int, vocabulary: Vocabulary | None, rows: int | None
) -> int | None:
    """Where the flat span [start, stop) of `rows` rows of `vocabulary` begins in a leaf's own rows; None: it is in pieces."""
    if (vocabulary is None and rows is None) or leaf.part(name).axis != "vocabulary":
        return start
    width = prod(leaf.shape(name)[1:])
    first, last = start // width, -(-stop // width)
    wanted = leaf_rows(leaf, name, vocabulary, rows)[first:last]
    if len(wanted) and wanted[0] >= 0 and np.array_equal(wanted, wanted[0] + np.arange(len(wanted))):
        return int(start + (wanted[0] - first) * width)
    return None


def span(
    leaf: Leaf,
    name: str,
    start: int,
    stop: int,
    vocabulary: Vocabulary | None,
    rows: int | None,
    work: Workspace,
) -> list[exact.Part]:
    """A leaf's parts in the flat span [start, stop), counted in `rows` rows of `vocabulary`; None: in its own rows."""
    own_start = place(leaf, name, start, stop, vocabulary, rows)
    if own_start is not None:
        return leaf.own(name, own_start, own_start + stop - start, work)
    width = prod(leaf.shape(name)[1:])
    first, last = start // width, -(-stop // width)
    wanted = leaf_rows(leaf, name, vocabulary, rows)[first:last]
    result: list[exact.Part] = []
    for position, row, count in runs(wanted) or [
        (0, 0, 0)
    ]:  # no row known: zeros, so that parts stay in place
        mark = work.mark()
        own = leaf.own(name, row * width, (row + count) * width, work)
        if not result:
            # own buffers first, so that releasing those of the run does not hand these out again
            result = [_zeros_like(part, (last - first) * width) for part in own]
        for (_, to, to_minus), (_, plus, minus) in zip(result, own, strict=True):
            to[position * width : (position + count) * width] = plus
            if minus is not None:
                to_minus[position * width : (position + count) * width] = minus
        work.release(mark)
    trim = slice(start - first * width, stop - first * width)
    return [(c, p[trim], m if m is None else m[trim]) for c, p, m in result]


def _zeros_like(part: exact.Part, size: int) -> exact.Part:
    coefficient, plus, minus = part
    return coefficient, np.zeros(size, plus.dtype), None if minus is None else np.zeros(size, minus.dtype)
