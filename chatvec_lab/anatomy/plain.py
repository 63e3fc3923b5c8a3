"""The common case of a piece: every vector is one difference of two stored tensors, each in one run of its file.

Then a span is a table with a row for each distinct side, read straight into it, and one compiled call measures it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from chatvec_lab.anatomy import kernels
from chatvec_lab.anatomy.blocks import NEW, Piece, Reader, Side
from chatvec_lab.weights.sources import files


@dataclass(frozen=True)
class Plain:
    """The distinct sides of a piece, and which of them each member is made of (indices; -1: none)."""

    sides: tuple[Side, ...]
    plus: np.ndarray  # (live members,)
    minus: np.ndarray  # (live members,)
    base: np.ndarray  # (members,)
    model: np.ndarray  # (members,)

    @cached_property
    def squared(self) -> np.ndarray:
        """The sides whose sum of squares is wanted."""
        return np.unique(np.concatenate([self.base, self.model, [-1]]))[1:]

    def read(self, reader: Reader, start: int, stop: int) -> np.ndarray:
        """Raw elements of all sides in a span of the piece: (sides, elements)."""
        size = stop - start
        dtype = files.NUMPY_DTYPES[self.sides[0].source.dtype_name(self.sides[0].stored)]
        table = reader.work.array(dtype, len(self.sides) * size).reshape(len(self.sides), size)
        for side, row in zip(self.sides, table, strict=True):
            side.source.fill(side.stored, start + side.shift, stop + side.shift, row)
        return table

    def measure(self, reader: Reader, start: int, stop: int, asked: tuple, measured, sums) -> None:
        """Add the statistics of a span to `measured` and `sums`, as `onepass` adds them up."""
        table, squares = self.read(reader, start, stop), np.zeros(len(self.sides) + 1)
        squares[-1] = np.nan  # what no side has
        kernels.measure_sides(
            table, self.plus, self.minus, self.squared, *asked, measured, sums.pairs, squares
        )
        sums.base += squares[self.base]
        sums.model += squares[self.model]


def plain_of(piece: Piece, reader: Reader) -> Plain | None:
    """How a piece is read where all of it is plain; None where a sum, a transform or scattered rows are in it."""
    found: dict[tuple, Side] = {}

    def number(side: Side | None) -> int:
        if side is None:
            return -1
        key = side.identity, side.shift
        found.setdefault(key, side)
        return list(found).index(key)

    plans = [reader.plan(piece, k) for k in range(len(piece.members))]
    terms = [plans[k].terms for k in piece.live]
    if not terms or any(len(own) != 1 or own[0][0] != 1 or own[0][3] is None for own in terms):
        return None
    base = [plan.base if k in piece.live else None for k, plan in enumerate(plans)]
    model = [
        plan.model if k in piece.live or kind == NEW else None
        for k, (plan, kind) in enumerate(zip(plans, piece.kinds, strict=True))
    ]
    plain = Plain(
        plus=np.array([number(own[0][3]) for own in terms]),
        minus=np.array([number(own[0][4]) for own in terms]),
        base=np.array([number(side) for side in base]),
        model=np.array([number(side) for side in model]),
        sides=tuple(found.values()),
    )
    kinds = {side.source.dtype_name(side.stored) for side in plain.sides}
    is_read_at_once = all(side.shift is not None for side in plain.sides)
    return plain if is_read_at_once and kinds in ({"bfloat16"}, {"float32"}) else None
