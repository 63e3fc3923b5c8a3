"""Votes of several deltas on each element: those count whose sign is that of the sum. Nothing here knows a vector."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from chatvec_lab.weights.numerics.machine import Kernel, address
from chatvec_lab.weights.numerics.sums import ROW, code


class Delta(NamedTuple):
    """plus - minus, flat raw arrays (minus None: zero), and zero where its magnitude has float32 bits below `least`.

    Where they are equal to `least` only the elements before index `equals` stay. 0: all stay; else both are of 16 bits, and
    `least` is 2**-100 or more.
    """

    plus: np.ndarray
    minus: np.ndarray | None = None
    least: int = 0
    equals: int = 0


def _source() -> ModuleType:
    from chatvec_lab.weights.numerics import compiled_votes

    return compiled_votes


_AGREED = Kernel(_source, "agreed", "qqqqqqq")
_OF_TWO = Kernel(_source, "agreed_of_two", "qqqqq")


def agreed(
    deltas: Sequence[Delta], out: np.ndarray, weights: Sequence[float] | None = None, *, mean: bool = True
) -> np.ndarray:
    """Fill `out`, flat float64, with the mean of the deltas whose sign is that of the sum of all, zero where none is.

    Each delta is rounded to float64 once, and times its weight (None: 1) once more. The mean is their sum over that of their
    weights, in which a zero counts as 1; without `mean` it is the sum.
    """
    given, factors = (
        _given(deltas),
        np.ones(len(deltas)) if weights is None else np.array(weights, np.float64),
    )
    scratch = np.empty((len(deltas) + 2) * ROW)
    _AGREED(
        address(given), len(deltas), address(factors), mean, out.size, address(out), address(scratch)
    )  # fmt: skip
    return out


def agreed_of_two(deltas: Sequence[Delta], high: np.ndarray, low: np.ndarray) -> np.ndarray | None:
    """The mean of two trimmed deltas as `high - low`, flat float32, which are filled; returns `low`, None where it is zero.

    OverflowError where that cannot hold what `agreed` gives (rare: float32 has 24 bits, so the two have 48 of its 53).
    """
    given, scratch = _given(deltas), np.empty(4 * ROW)
    found = _OF_TWO(address(given), high.size, address(high), address(low), address(scratch))
    if found < 0:
        raise OverflowError("the mean of two deltas does not fit into two float32")
    return low if found else None


def _given(deltas: Sequence[Delta]) -> np.ndarray:
    """Six numbers a delta: address and format of plus and of minus, and which elements stay."""
    return np.array(
        [
            (address(plus), code(plus), address(minus), code(minus), least, equals)
            for plus, minus, least, equals in deltas
        ],
        np.int64,
    )
