"""The fast lane of `cp + delta`, the delta being stored in float32: noise, and votes on differences of 16 bits.

The float32 next to the true value tells how that is rounded to 16 bits, but half way between two of these, where only a sum
that is exact does. Other sums end there once in some 65,000 elements: they are returned, for the general way to decide, and
so is what is smaller than these formats' usual numbers.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from chatvec_lab.weights.numerics.machine import Kernel, address
from chatvec_lab.weights.numerics.sums import TILE, code


def _source() -> ModuleType:
    from chatvec_lab.weights.numerics import compiled_added

    return compiled_added


_ADDED = Kernel(_source, "added", "qqqqqqqqq")


def can_fill(cp: np.ndarray | None, plus: np.ndarray, minus: np.ndarray | None, out: np.ndarray) -> bool:
    """Whether the lane knows these formats: a CP of 16 bits that stays in its own, and a delta in float32."""
    given = [cp, plus, out] if minus is None else [cp, plus, out, minus]
    if cp is None or cp.itemsize != 2 or out.dtype != cp.dtype:
        return False
    if any(raw.size != out.size or not raw.flags.c_contiguous or not raw.flags.aligned for raw in given):
        return False
    return plus.dtype == np.float32 and (minus is None or minus.dtype == np.float32)


def fill(cp: np.ndarray, plus: np.ndarray, minus: np.ndarray | None, out: np.ndarray) -> np.ndarray | None:
    """Fill `out` and return the indices of the elements that are not proven, among them all where `minus` is not zero.

    None when those are too many to list, or an element is NaN or too large.
    """
    unsure, flags = np.empty(max(64, out.size >> 5), np.int64), np.empty(TILE // 8)
    found = _ADDED(
        address(cp), address(plus), address(minus), code(cp), address(out), out.size, address(unsure),
        unsure.size, address(flags),
    )  # fmt: skip
    return unsure[:found] if 0 <= found < unsure.size else None
