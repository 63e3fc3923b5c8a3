"""The fast lane of the arithmetic: `cp + coefficient * (plus - minus)` for one difference, in the processor's vectors.

A fused multiply-add says between which two stored numbers the true value lies. On which side of their midpoint it
lies is then exact: close to it `cp - midpoint` cancels without an error (Sterbenz), so what is left is rounded once
and keeps its sign; far from it an error does not matter. (Near-ties are common: 0.7 times a small whole number of
units often ends in .5.) Elements for which this is not proven are returned, for the general way to decide.

16-bit formats are computed in float32, float32 in float64. No tie is decided by a denormal float, so a library that
switches denormals off changes nothing (but for weights that are stored as denormals).
"""

from __future__ import annotations

from functools import cache, lru_cache
from types import ModuleType

import numpy as np

from chatvec_lab.weights.numerics.machine import Kernel, address

SPAN = 512  # elements between two looks at what is proven
_F, _U, _D, _Q = np.float32, np.uint32, np.float64, np.uint64
_NAMES = {np.dtype(np.uint16): "bfloat16", **{np.dtype(n): n for n in ("float16", "float32", "float64")}}


def subtract(plus: np.ndarray, minus: np.ndarray | None, out: np.ndarray) -> bool:
    """Fill `out`, float32 or float64, with plus - minus rounded once; False where that is not proven.

    A single operation of the processor on exact inputs is rounded once by itself.
    """
    if minus is None or plus.dtype != minus.dtype or out.dtype not in (np.float32, np.float64):
        return False
    if plus.itemsize > out.itemsize or not _are_plain(plus, minus, out):
        return False
    least = 2.0**-100  # results below are left to the general way, but for zero
    differences = kernel("differences", plus.dtype, out.dtype)
    return differences(address(plus), address(minus), address(out), out.size, least) == 0


def can_fill(cp: np.ndarray | None, plus: np.ndarray, minus: np.ndarray | None, out: np.ndarray) -> bool:
    """Whether the fast lane knows these formats: three tensors of one dtype kept as it is, or bfloat16 to float32."""
    if cp is None or minus is None or not cp.dtype == plus.dtype == minus.dtype:
        return False
    if not _are_plain(cp, plus, minus, out):
        return False
    return cp.dtype != np.float64 and (
        out.dtype == cp.dtype or (cp.dtype, out.dtype) == (np.uint16, np.float32)
    )


def fill(
    cp: np.ndarray, plus: np.ndarray, minus: np.ndarray, coefficient: float, out: np.ndarray
) -> np.ndarray | None:
    """Fill `out` and return the indices of the elements that are not proven; None when those are too many to list.

    Raw flat arrays as in `exact.combine`, for which `can_fill` holds.
    """
    if not 2.0**-60 < abs(coefficient) < 2.0**60:
        return None
    unsure = np.empty(max(64, out.size >> 5), np.int64)
    found = kernel("lane", cp.dtype, out.dtype)(
        address(cp), address(plus), address(minus), *_constants(coefficient, out.dtype), address(out), out.size,
        address(unsure), unsure.size,
    )  # fmt: skip
    return unsure[:found] if found <= unsure.size else None


@lru_cache(64)
def _constants(coefficient: float, dtype: np.dtype) -> tuple:
    """The coefficient in three parts, and the limits within which an element is proven."""
    if dtype == np.float32:
        kind, limits = _D, (2.0**-800, 2.0**127, 26, 28)
    elif dtype == np.float16:
        kind, limits = _F, (2.0**-52, 65520.0, 10, 12)
    else:
        kind, limits = _F, (2.0**-52, 2.0**114, 13, 15)  # so that c less the midpoint is finite
    numbers = (*thirds(coefficient, kind), *_limits(kind, abs(coefficient), *limits))
    return tuple(number.item() for number in numbers)


def _source() -> ModuleType:
    from chatvec_lab.weights.numerics import compiled_lanes

    return compiled_lanes


@cache
def kernel(what: str, dtype: np.dtype, out: np.dtype) -> Kernel:
    kinds = "qqqqd" if out == np.float64 else "qqqqf"
    if what == "lane":
        kinds = "qqqdddQQQQqqqq" if out == np.float32 else "qqqfffIIIIqqqq"
    return Kernel(_source, f"{what}_{_NAMES[dtype]}_{_NAMES[out]}", kinds)


def _limits(kind, coefficient: float, smallest: float, largest: float, above: int, below: int) -> tuple:
    bits, exponent = (_U, 23) if kind is _F else (_Q, 52)
    return (
        bits(int(kind(smallest / coefficient).view(bits)) << 1),
        kind(largest).view(bits),
        bits(below << exponent),
        bits((above + below) << exponent),
    )


def thirds(coefficient: float, kind) -> tuple:
    """The coefficient as a sum of three floats of one kind."""
    first = kind(coefficient)
    second = kind(coefficient - float(first))
    return first, second, kind(coefficient - float(first) - float(second))


def _are_plain(*arrays: np.ndarray) -> bool:
    """Whether a kernel may take them by their addresses."""
    size = arrays[0].size
    return all(a.size == size and a.flags.c_contiguous and a.flags.aligned for a in arrays)
