"""`cp + coefficient * delta` for one coefficient after another: the bits of `exact.combine`, several times faster.

A float64 sum is close enough to say between which two stored numbers the true value lies. On which side of their
midpoint it lies is then exact: near the midpoint the subtraction cancels without an error, and far from it an
error does not matter. (Near-ties are common: 0.7 times a small whole number of units often ends in .5.)
What the argument needs of the operands is checked once, when they are prepared; the few elements for which it
does not hold, or whose result is far smaller or larger than the tensor, go to `exact.combine`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from chatvec_lab.weights import exact

_GAP = 2.0**20  # how far below its tensor's largest element one may lie


class Prepared:
    """A tensor of the CP and its delta, ready to be summed at any coefficient. Takes 4 bytes an element beside `cp`.

    `cp`, `plus` and `minus` are flat raw arrays of one length, as in `exact.combine`; `cp` is kept, not copied.
    float64 elements, and coefficients beyond 2**±60, are left to `exact.combine`, whose speed they then have.
    """

    def __init__(self, cp: np.ndarray, plus: np.ndarray, minus: np.ndarray | None):
        self.cp = cp
        self.delta = np.empty(cp.size, np.float32)
        raw = [None if a is None else _typed(a) for a in (cp, plus, minus)]
        largest = _largest(raw[0])
        self.low, self.high = largest / _GAP, (64.0 * largest or np.inf)  # from a CP of zeros nothing cancels
        odd = np.zeros(cp.size, np.bool_)
        _prepare(*raw, self.delta, self.low, odd)
        self.odd = np.flatnonzero(odd)
        self.odd_parts = (plus[self.odd], None if minus is None else minus[self.odd])

    def fill(self, coefficient: float, out: np.ndarray, scratch: exact.Scratch, start: int = 0) -> None:
        """Put the elements from `start` on into `out`, rounded once to its dtype; as many as it holds.

        Raises FloatingPointError as `exact.combine` does.
        """
        stop = start + out.size
        cp, delta = self.cp[start:stop], self.delta[start:stop]
        if not 2.0**-60 < abs(coefficient) < 2.0**60 or out.dtype == np.float64:
            exact.combine(cp, [(coefficient, delta, None)], out, scratch=scratch)
        else:
            self._fill_quickly(coefficient, cp, delta, out, scratch)
        first, last = np.searchsorted(self.odd, (start, stop))
        if first < last:
            odd, (plus, minus) = self.odd[first:last], self.odd_parts
            part = (coefficient, plus[first:last], None if minus is None else minus[first:last])
            few = np.empty(last - first, out.dtype)
            out[odd - start] = exact.combine(self.cp[odd], [part], few, scratch=scratch)

    def _fill_quickly(self, coefficient, cp, delta, out, scratch) -> None:
        unsure = np.empty(max(64, out.size >> 6), np.int64)
        low, high = _limits(out.dtype)
        limits = max(low, self.low), min(high, self.high)
        count = _sum(_typed(cp), delta, _typed(out), *exact.halves(coefficient), *limits, unsure)
        if count > unsure.size:
            exact.combine(cp, [(coefficient, delta, None)], out, scratch=scratch)
        elif count:
            few = unsure[:count]
            part = (coefficient, delta[few], None)
            out[few] = exact.combine(cp[few], [part], np.empty(count, out.dtype), scratch=scratch)


def can_prepare(cp: np.ndarray, parts: list[exact.Part]) -> bool:
    """Whether this formula has the one part, of at most float32 elements, that `Prepared` takes."""
    return len(parts) == 1 and all(a is None or a.dtype != np.float64 for a in (cp, *parts[0][1:]))


def _limits(dtype: np.dtype) -> tuple[float, float]:
    """Magnitudes between which the format has its full precision and does not overflow."""
    return (2.0**-14, 65000.0) if dtype == np.float16 else (2.0**-100, 2.0**127)


def _typed(raw: np.ndarray) -> np.ndarray:
    """float16 travels as int16, so that the kernel can tell it from bfloat16 (uint16)."""
    return raw.view(np.int16) if raw.dtype == np.float16 else raw


def _load(array, i): ...


@overload(_load, inline="always")
def _load_overload(array, i):
    if array.dtype == types.uint16:
        return lambda array, i: np.uint32(np.uint32(array[i]) << np.uint32(16)).view(np.float32)
    if array.dtype == types.int16:

        def half(array, i):
            bits = np.uint32(np.uint16(array[i]))
            size = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13)).view(np.float32)
            size *= np.float32(2.0**112)  # exact, also for subnormals
            sign = np.uint32((bits & np.uint32(0x8000)) << np.uint32(16))
            return np.uint32(np.float32(size).view(np.uint32) | sign).view(np.float32)

        return half
    return lambda array, i: array[i]


def _is_finite(array, i): ...


@overload(_is_finite, inline="always")
def _is_finite_overload(array, i):
    if array.dtype == types.int16:  # which `_load` shows as a finite number
        return lambda array, i: (array[i] & np.int16(0x7C00)) != np.int16(0x7C00)
    return lambda array, i: abs(_load(array, i)) < np.float32(np.inf)


@njit(nogil=True, cache=True, error_model="numpy")
def _largest(cp):
    """The largest finite magnitude."""
    largest = np.float32(0.0)
    for i in range(cp.size):
        size = abs(_load(cp, i))
        if _is_finite(cp, i) and size > largest:
            largest = size
    return np.float64(largest)


@njit(nogil=True, cache=True, error_model="numpy")
def _prepare(cp, plus, minus, delta, low, odd):
    """Fill `delta`, and `odd` where it is not exact or an operand unusual."""
    for i in range(cp.size):
        a = np.float64(_load(plus, i))
        b = 0.0 if minus is None else np.float64(_load(minus, i))
        wide = a - b
        z = wide - a
        lost = (a - (wide - z)) - (b + z)  # Knuth's TwoSum: what the subtraction rounded away
        delta[i] = np.float32(wide)
        size = np.float64(abs(_load(cp, i)))
        fine = (lost == 0.0) & (np.float64(delta[i]) == wide) & ((size >= low) | (size == 0.0))
        fine &= _is_finite(cp, i) & _is_finite(plus, i) & (minus is None or _is_finite(minus, i))
        odd[i] = not fine


def _dropped_bits(out): ...


@overload(_dropped_bits, inline="always")
def _dropped_bits_overload(out):
    """Bits of a float64 significand that the format of `out` does not store."""
    bits = {types.uint16: 45, types.int16: 42, types.float32: 29}[out.dtype]
    return lambda out: np.int64(bits)


def _look(out): ...


@overload(_look, inline="always")
def _look_overload(out):
    """Elements between two looks for unsure ones, which are common among float16 weights (its subnormals)."""
    span = 128 if out.dtype == types.int16 else 4096
    return lambda out: np.int64(span)


def _store(out, i, value): ...


@overload(_store, inline="always")
def _store_overload(out, i, value):
    """Put a float64 that the format of `out` holds exactly into out[i]."""
    if out.dtype == types.uint16:

        def bfloat16(out, i, value):
            out[i] = np.uint16(np.float32(value).view(np.uint32) >> np.uint32(16))

        return bfloat16
    if out.dtype == types.int16:

        def float16(out, i, value):
            bits = np.float32(np.float32(value) * np.float32(2.0**-112)).view(np.uint32)
            sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
            out[i] = np.int16(np.uint32(((bits & np.uint32(0x7FFFFFFF)) >> np.uint32(13)) | sign))

        return float16

    def float32(out, i, value):
        out[i] = np.float32(value)

    return float32


@njit(nogil=True, cache=True, error_model="numpy")
def _sum(cp, delta, out, upper, lower, least, most, unsure):
    """Fill `out`; returns how many elements are unsure and puts their indices into `unsure`."""
    found = 0
    span = _look(out)
    for start in range(0, out.size, span):
        stop = min(start + span, out.size)
        c, d = cp[start:stop], delta[start:stop]
        if _sum_span(c, d, out[start:stop], upper, lower, least, most) < c.size:
            found = _find_unsure(c, d, out, upper, lower, least, most, start, unsure, found)
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_span(cp, delta, out, upper, lower, least, most):
    """Fill `out`; returns how many elements are sure. Branchless, for the compiler's vectors.

    upper + lower is the coefficient (26 bits each), so that both products with a delta of 24 bits are exact.
    """
    dropped = _dropped_bits(out)
    unit = np.int64(1) << dropped
    half = unit >> np.int64(1)
    sure = np.int64(0)
    for i in range(out.size):
        c, d = np.float64(_load(cp, i)), np.float64(delta[i])
        u, w = upper * d, lower * d
        value = ((c + u) + w) + 0.0  # a zero is exact, and positive as in `exact`
        below = np.float64(value).view(np.int64) & -unit  # towards zero, in the format of `out`
        middle = np.int64(below | half).view(np.float64)
        beyond = ((c - middle) + u) + w  # its sign is exact
        away = np.int64(np.float64(beyond).view(np.int64) ^ (below & np.int64(-0x8000000000000000)))
        # a tie (zero) goes up from an odd number only: compare with 0 or with the smallest float above it
        enough = np.int64(((below >> dropped) & np.int64(1)) ^ np.int64(1)).view(np.float64)
        up = unit if away.view(np.float64) >= enough else np.int64(0)
        _store(out, i, np.int64(below + up).view(np.float64))
        size = abs(middle)
        sure += np.int64(((size > least) & (size < most)) | (value == 0.0))
    return sure


@njit(nogil=True, cache=True, error_model="numpy")
def _find_unsure(cp, delta, out, upper, lower, least, most, start, unsure, found):
    """Append the indices of the unsure elements of a span; counts on when `unsure` is full."""
    dropped = _dropped_bits(out)
    unit = np.int64(1) << dropped
    for i in range(cp.size):
        d = np.float64(delta[i])
        value = (np.float64(_load(cp, i)) + upper * d) + lower * d
        below = np.float64(value).view(np.int64) & -unit
        size = abs(np.int64(below | (unit >> np.int64(1))).view(np.float64))
        if not ((size > least and size < most) or value == 0.0):
            if found < unsure.size:
                unsure[found] = start + i
            found += 1
    return found
