"""The one arithmetic of the project: `cp + sum of coefficient * (plus - minus)`, exact and rounded once.

Every product of a coefficient (cut in two halves) with a stored element is exact in float64, every sum keeps
its error (Knuth's TwoSum), and the last step rounds to odd before the cast, so no element is rounded twice.
Bits are therefore the same for every thread count and block size. `combine` works on raw numpy arrays (bfloat16
travels as uint16) through numba: the fast lane for what families have (`lanes`), the general way for the rest.
`gpu` has the same steps as a kernel for tensors that lie on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numba import njit, types
from numba.extending import overload

from chatvec_lab.weights.numerics import lanes

TILE = 16384  # three float64 accumulators of a tile fit the second-level cache
_SPLITTER = 134217729.0  # 2**27 + 1: Dekker's constant, halves of 26 bits each
_DOUBT = 2.0**-48  # a residual below this share of the summed errors may itself be a rounding error

# significand bits (with the hidden one) and exponent of the largest binade
FORMATS = {"bfloat16": (8, 127), "float16": (11, 15), "float32": (24, 127), "float64": (53, 1023)}
RAW = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32, "float64": np.float64}

Part = tuple[float, np.ndarray, np.ndarray | None]


def overflow_threshold(dtype: str) -> float:
    """Smallest magnitude that rounds to infinity in `dtype`."""
    precision, exponent = FORMATS[dtype]
    if dtype == "float64":
        return float("inf")
    return (2.0 - 2.0**-precision) * 2.0**exponent


@njit(nogil=True, cache=True, error_model="numpy")
def _start(cp, high, low, doubt):
    for i in range(cp.size):
        high[i] = np.float64(lanes.load(cp[i]))
        low[i] = 0.0
        doubt[i] = 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _add(plus, minus, upper, lower, high, low, doubt):
    """high + low += (upper + lower) * (plus - minus), each product exact, each sum with its error."""
    for i in range(plus.size):
        x = np.float64(lanes.load(plus[i]))
        y = np.float64(lanes.load(minus[i]))
        p = upper * x
        q = -(upper * y)
        u = p + q
        z = u - p
        r0 = (p - (u - z)) + (q - z)
        p = lower * x
        q = -(lower * y)
        w = p + q
        z = w - p
        r1 = (p - (w - z)) + (q - z)
        v = high[i]
        s = v + u
        z = s - v
        r2 = (v - (s - z)) + (u - z)
        t = s + w
        z = t - s
        r3 = (s - (t - z)) + (w - z)
        high[i] = t
        low[i] += (r0 + r1) + (r2 + r3)
        doubt[i] += (abs(r0) + abs(r1)) + (abs(r2) + abs(r3))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _to_odd(bits, error, value):
    """Move an even significand one step towards the error, so that later rounding sees the exact side."""
    away = np.int64(error != 0.0)
    step = away - np.int64(2) * away * np.int64((error > 0.0) != (value > 0.0))
    return np.int64(bits + step * (np.int64(1) - (bits & np.int64(1))))


def _rounded(out, to_odd, s, error): ...


@overload(_rounded, inline="always")
def _rounded_overload(out, to_odd, s, error):
    """The float64 s, known to be off by `error`, in the format of `out`; float32 `to_odd` where it is cast again."""
    if out.dtype == types.float64:
        return lambda out, to_odd, s, error: s

    if out.dtype == types.float32:  # a float64 that is odd casts to float32 correctly

        def single(out, to_odd, s, error):
            if to_odd:
                f = np.float32(s)
                return np.int32(_to_odd(np.int64(f.view(np.int32)), (s - np.float64(f)) + error, s)).view(
                    np.float32
                )
            return np.float32(_to_odd(np.float64(s).view(np.int64), error, s).view(np.float64))

        return single

    def bfloat16(out, to_odd, s, error):
        f = np.float32(s)
        b = _to_odd(np.int64(f.view(np.int32)), (s - np.float64(f)) + error, s) & np.int64(0xFFFFFFFF)
        return np.uint16((b + np.int64(0x7FFF) + ((b >> np.int64(16)) & np.int64(1))) >> np.int64(16))

    return bfloat16


@njit(nogil=True, cache=True, error_model="numpy")
def _finish(high, low, doubt, threshold, out, to_odd, flags):
    """Round high + low into `out`; returns how many elements are out of range, and how many are in doubt (flags)."""
    bad = np.int64(0)
    unsure = np.int64(0)
    wide = out.itemsize == 8
    for i in range(out.size):
        s = high[i] + low[i]
        z = s - high[i]
        r = (high[i] - (s - z)) + (low[i] - z)
        out[i] = _rounded(out, to_odd, s, r)
        bad += np.int64(not (abs(s) < threshold))
        # for float64 the doubtful place is half way to the neighbour, for the others on the float64 grid itself
        edge = abs(abs(r) - 0.5 * abs(np.nextafter(s, np.inf) - s)) if wide else abs(r)
        flag = np.int64((doubt[i] != 0.0) & (edge <= _DOUBT * doubt[i]))
        flags[i] = np.uint8(flag)
        unsure += flag
    return bad, unsure


def halves(coefficient: float) -> tuple[float, float]:
    """The coefficient as the sum of two floats of at most 26 significand bits (Dekker's split)."""
    c = float(coefficient)
    if abs(c) > 1e300:
        raise ValueError(f"the scale {c!r} is too large to be exact; use a magnitude below 1e300.")
    wide = c * _SPLITTER
    upper = wide - (wide - c)
    return upper, c - upper


def widen(raw: np.ndarray) -> np.ndarray:
    """Raw elements as float32 (16-bit inputs) or as they are: always exact."""
    if raw.dtype == np.uint16:
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32) if raw.dtype == np.float16 else raw


def _exact_parts(parts: Sequence[Part]) -> list[Part]:
    """Parts whose two arrays share a dtype and whose elements have at most 27 bits, so that products are exact."""
    result: list[Part] = []
    for coefficient, plus, minus in parts:
        if minus is None:
            minus = np.zeros_like(plus)
        if plus.dtype != minus.dtype or plus.dtype == np.float16:
            plus, minus = widen(plus), widen(minus)
        if plus.dtype != minus.dtype:
            plus, minus = plus.astype(np.float64), minus.astype(np.float64)
        if plus.dtype == np.float64:
            (p1, p2), (m1, m2) = _split(plus), _split(minus)
            result += [(coefficient, p1, m1), (coefficient, p2, m2)]
        else:
            result.append((coefficient, plus, minus))
    return result


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore", invalid="ignore"):
        wide = x * _SPLITTER
        upper = wide - (wide - x)
    return upper, x - upper


class Scratch:
    """Accumulators of one tile, reused from call to call; one for each thread."""

    def __init__(self) -> None:
        self.high, self.low, self.doubt = (np.empty(TILE) for _ in range(3))
        self.single = np.empty(TILE, np.float32)
        self.flags = np.empty(TILE, np.uint8)


def combine(
    cp: np.ndarray | None, parts: Sequence[Part], out: np.ndarray, *, scratch: Scratch | None = None
) -> np.ndarray:
    """`cp + sum(coefficient * (plus - minus))`, exact, rounded once (to nearest, ties to even) to out's dtype.

    All arrays are one-dimensional, raw and of one length: uint16 holds bfloat16; float16, float32 and float64
    are themselves. `cp` None means zero, `minus` None means zero. Fills and returns `out`.

    Raises FloatingPointError when an element of the result is NaN, infinite or beyond the range of the dtype.

    >>> combine(np.float32([1, 2]), [(0.5, np.float32([3, 3]), np.float32([1, 2]))], np.empty(2, np.float32))
    array([2. , 2.5], dtype=float32)
    """
    parts = [part for part in parts if part[0] != 0.0]
    if len(parts) == 1 and lanes.can_fill(cp, *parts[0][1:], out):
        coefficient, plus, minus = parts[0]
        unsure = lanes.fill(cp, plus, minus, coefficient, out)
        if unsure is not None:
            if unsure.size:
                few = [(coefficient, plus[unsure], minus[unsure])]
                out[unsure] = _combine(
                    cp[unsure], few, np.empty(unsure.size, out.dtype), scratch or Scratch()
                )
            return out
    return _combine(cp, parts, out, scratch or Scratch())


def _combine(cp: np.ndarray | None, parts: Sequence[Part], out: np.ndarray, scratch: Scratch) -> np.ndarray:
    """The general way: any number of parts and any format."""
    dtype = "bfloat16" if out.dtype == np.uint16 else out.dtype.name
    threshold = overflow_threshold(dtype)
    exact = _exact_parts(parts)
    split = [halves(coefficient) for coefficient, _, _ in exact]
    if cp is not None and cp.dtype == np.float16:
        cp = widen(cp)
    for start in range(0, out.size, TILE):
        tile = slice(start, min(start + TILE, out.size))
        size = tile.stop - start
        high, low, doubt = scratch.high[:size], scratch.low[:size], scratch.doubt[:size]
        flags = scratch.flags[:size]
        _accumulate(None if cp is None else cp[tile], exact, split, tile, high, low, doubt)
        # numpy casts a float32 that was rounded to odd to float16, rounding once
        place = scratch.single[:size] if dtype == "float16" else out[tile]
        bad, unsure = _finish(high, low, doubt, threshold, place, dtype == "float16", flags)
        if bad:
            raise FloatingPointError(f"{bad} of {size} elements are NaN, infinite or too large for {dtype}")
        if dtype == "float16":
            out[tile] = place
        if unsure:
            _settle(cp, parts, out, start + np.flatnonzero(flags), dtype)
    return out


def _accumulate(
    cp, parts: list[Part], split: list[tuple[float, float]], tile: slice, high, low, doubt
) -> None:
    """The sum of one tile as high + low."""
    if cp is None:
        high[:], low[:], doubt[:] = 0.0, 0.0, 0.0
    else:
        _start(cp, high, low, doubt)
    for (_, plus, minus), (upper, lower) in zip(parts, split, strict=True):
        _add(plus[tile], minus[tile], upper, lower, high, low, doubt)


def _settle(cp, parts: Sequence[Part], out: np.ndarray, indices: np.ndarray, dtype: str) -> None:
    """Decide with rational numbers the few elements whose residual float64 cannot tell from zero."""
    for i in indices:
        total = Fraction(float(widen(cp[i : i + 1])[0])) if cp is not None else Fraction(0)
        for coefficient, plus, minus in parts:
            delta = Fraction(float(widen(plus[i : i + 1])[0]))
            if minus is not None:
                delta -= Fraction(float(widen(minus[i : i + 1])[0]))
            total += Fraction(coefficient) * delta
        if total:  # a zero keeps the sign that the float arithmetic gave it
            out[i] = _raw_scalar(round_fraction(total, dtype), dtype)
        elif widen(out[i : i + 1])[0]:  # what rounding left of a sum that is zero
            out[i] = 0


def round_fraction(value: Fraction, dtype: str) -> float:
    """A rational number rounded once, to nearest with ties to even, to a floating-point format."""
    precision, largest = FORMATS[dtype]
    if value == 0:
        return 0.0
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, 1 - largest) - precision + 1)  # spacing of the format at value
    return float(round(value / unit) * unit)  # Python rounds a Fraction half to even


def _raw_scalar(value: float, dtype: str):
    if dtype == "bfloat16":
        return np.uint16(np.float32(value).view(np.uint32) >> np.uint32(16))
    return RAW[dtype](value)
