"""The one arithmetic of the project: `cp + sum of coefficient * (plus - minus)`, exact and rounded once.

Bits are the same for every thread count and block size, since nothing is ever rounded but the result. `combine` works
on raw numpy arrays (bfloat16 travels as uint16): the fast lanes for one difference in one format (`lanes`) and for one
delta in float32 (`added`), the error-free sum for the rest (`sums`), rational numbers for the few elements that none
decides. `gpu` is a kernel for
tensors that lie on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from math import copysign, inf, isinf

import numpy as np

from chatvec_lab.weights.numerics import added, lanes, sums

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


def widen(raw: np.ndarray) -> np.ndarray:
    """Raw elements as float32 (16-bit inputs) or as they are: always exact."""
    if raw.dtype == np.uint16:
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32) if raw.dtype == np.float16 else raw


def combine(cp: np.ndarray | None, parts: Sequence[Part], out: np.ndarray) -> np.ndarray:
    """`cp + sum(coefficient * (plus - minus))`, exact, rounded once (to nearest, ties to even) to out's dtype.

    All arrays are one-dimensional, raw and of one length: uint16 holds bfloat16; float16, float32 and float64
    are themselves. `cp` None means zero, `minus` None means zero. Fills and returns `out`.

    Raises FloatingPointError when an element of the result is NaN, infinite or beyond the range of the dtype.

    >>> combine(np.float32([1, 2]), [(0.5, np.float32([3, 3]), np.float32([1, 2]))], np.empty(2, np.float32))
    array([2. , 2.5], dtype=float32)
    """
    parts = [part for part in parts if part[0] != 0.0]
    if len(parts) == 1:
        coefficient, plus, minus = parts[0]
        unsure = None
        if lanes.can_fill(cp, plus, minus, out):
            unsure = lanes.fill(cp, plus, minus, coefficient, out)
        elif coefficient == 1.0 and added.can_fill(cp, plus, minus, out):
            unsure = added.fill(cp, plus, minus, out)
        if unsure is not None:
            few = [(coefficient, plus[unsure], None if minus is None else minus[unsure])]
            with suppress(FloatingPointError):  # which the general way raises for all elements together
                if unsure.size:
                    out[unsure] = _combine(cp[unsure], few, np.empty(unsure.size, out.dtype))
                return out
    if cp is None and len(parts) == 1 and parts[0][0] == 1.0 and lanes.subtract(*parts[0][1:], out):
        return out
    return _combine(cp, parts, out)


def _combine(cp: np.ndarray | None, parts: Sequence[Part], out: np.ndarray) -> np.ndarray:
    """The general way: any number of parts and any format."""
    dtype = "bfloat16" if out.dtype == np.uint16 else out.dtype.name
    for coefficient, _, _ in parts:
        if abs(coefficient) > 1e300:
            raise ValueError(
                f"the scale {coefficient!r} is too large to be exact; use a magnitude below 1e300."
            )
    bad, unsure = sums.fill(cp, parts, overflow_threshold(dtype), out)
    if bad := bad + _settle(cp, parts, out, unsure, dtype):
        raise FloatingPointError(f"{bad} of {out.size} elements are NaN, infinite or too large for {dtype}")
    return out


def _settle(cp, parts: Sequence[Part], out: np.ndarray, indices: np.ndarray, dtype: str) -> int:
    """Decide with rational numbers the few elements whose residual float64 cannot tell from zero; how many are too large."""
    bad = 0
    for i in indices:
        total = Fraction(float(widen(cp[i : i + 1])[0])) if cp is not None else Fraction(0)
        for coefficient, plus, minus in parts:
            delta = Fraction(float(widen(plus[i : i + 1])[0]))
            if minus is not None:
                delta -= Fraction(float(widen(minus[i : i + 1])[0]))
            total += Fraction(coefficient) * delta
        rounded = round_fraction(total, dtype)  # a sum that is zero is a positive one
        out[i] = _raw_scalar(rounded, dtype)
        bad += isinf(rounded)
    return bad


def round_fraction(value: Fraction, dtype: str) -> float:
    """A rational number rounded once, to nearest with ties to even, to a floating-point format; infinity beyond its range."""
    precision, largest = FORMATS[dtype]
    if value == 0:
        return 0.0
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, 1 - largest) - precision + 1)  # spacing of the format at value
    rounded = round(value / unit) * unit  # Python rounds a Fraction half to even
    size = float(abs(rounded)) if abs(rounded) < Fraction(2) ** (largest + 1) else inf
    return copysign(size, 1 if value > 0 else -1)  # also of what is rounded to zero


def _raw_scalar(value: float, dtype: str):
    if dtype == "bfloat16":
        return np.uint16(np.float32(value).view(np.uint32) >> np.uint32(16))
    return RAW[dtype](value)
