"""What the codes of a quantised tensor stand for, and the arithmetic that all formats share.

Every format here is `((value of the code) - zero) * scale / divisor + bias`, with a scale for each block of rows and
group of columns. It is computed in float64, where a product of a short code with a float32 scale is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import njit

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Values:
    """What each code stands for, and the mean square (in squared scales) of what rounding to it takes away.

    The latter is an estimate: as if what was rounded had been spread evenly between the middles to both neighbours.
    `bits` is how many significant bits the longest value has.
    """

    table: np.ndarray  # (codes,), float64
    noise: np.ndarray  # (codes,), float64
    bits: int

    @staticmethod
    def of(table, bits: int) -> Values:
        table = np.asarray(table, np.float64)
        return Values(table, _expected_noise(table), bits)

    def times(self, factor: float) -> Values:
        """The same codes with a factor of the whole tensor."""
        return Values(self.table * factor, self.noise * factor**2, self.bits + 24)


def _expected_noise(table: np.ndarray) -> np.ndarray:
    """The variance of an even spread over each value's cell; a code without a finite value has none."""
    known = np.unique(table[np.isfinite(table)])
    gaps = np.diff(known)
    below, above = np.concatenate([[0.0], gaps]), np.concatenate([gaps, [0.0]])
    spread = (below**3 + above**3) / (12 * np.maximum(below + above, np.finfo(float).tiny))
    found = np.zeros(table.size)
    is_known = np.isfinite(table)
    found[is_known] = spread[np.searchsorted(known, table[is_known])]
    return found


@cache
def integers(bits: int, offset: int = 0) -> Values:
    """Unsigned codes of `bits` bits that stand for code - offset; a uniform step everywhere."""
    table = np.arange(1 << bits, dtype=np.float64) - offset
    return Values(table, np.full(table.size, 1 / 12), bits)


@cache
def signed_bytes() -> Values:
    """Bytes of an int8."""
    table = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64)
    return Values(table, np.full(256, 1 / 12), 8)


@cache
def e2m1() -> Values:
    """The 4-bit float: a sign, two bits of exponent, one of mantissa."""
    return Values.of([*E2M1, *(-value for value in E2M1)], 2)


@cache
def small_float(exponent: int, mantissa: int, *, is_finite: bool) -> Values:
    """The 256 values of an 8-bit float; `is_finite` ones (E4M3FN) keep the topmost exponent for numbers, but for NaN."""
    codes = np.arange(256)
    sign = np.where(codes & 128, -1.0, 1.0)
    power, rest = (codes >> mantissa) & ((1 << exponent) - 1), codes & ((1 << mantissa) - 1)
    bias = (1 << (exponent - 1)) - 1
    normal = (1 + rest / (1 << mantissa)) * 2.0 ** (power - bias)
    table = np.where(power, normal, rest / (1 << mantissa) * 2.0 ** (1 - bias))
    top = power == (1 << exponent) - 1
    if is_finite:
        table = np.where(top & (rest == (1 << mantissa) - 1), np.nan, table)
    else:
        table = np.where(top, np.where(rest, np.nan, np.inf), table)
    return Values.of(sign * table, mantissa + 1)


def e4m3() -> Values:
    return small_float(4, 3, is_finite=True)


def e5m2() -> Values:
    return small_float(5, 2, is_finite=False)


def powers_of_two(raw: np.ndarray) -> np.ndarray:
    """Scales of E8M0: a byte e stands for 2 ** (e - 127), and 255 for no number."""
    return np.where(raw == 255, np.nan, np.ldexp(1.0, raw.astype(np.int64) - 127))


@njit(nogil=True, cache=True, error_model="numpy")
def unpack(packed, bits, out):
    """Codes of `bits` bits that lie densely, lowest bit first, in each row of bytes; out is (rows, codes), uint8."""
    mask = np.uint32((1 << bits) - 1)
    last = packed.shape[1] - 1
    for row in range(out.shape[0]):
        for i in range(out.shape[1]):
            first = i * bits
            byte = first >> 3
            pair = np.uint32(packed[row, byte])
            if byte < last:
                pair |= np.uint32(packed[row, byte + 1]) << np.uint32(8)
            out[row, i] = np.uint8((pair >> np.uint32(first & 7)) & mask)


@njit(nogil=True, cache=True, error_model="numpy")
def scaled(codes, table, scale, row_index, group, out):
    """value * scale, one scale for each row of `scale` (by row_index) and each `group` columns."""
    rows, columns = codes.shape
    for row in range(rows):
        at = row_index[row]
        for block in range((columns + group - 1) // group):
            factor = scale[at, block]
            for column in range(block * group, min(columns, (block + 1) * group)):
                out[row, column] = table[codes[row, column]] * factor


@njit(nogil=True, cache=True, error_model="numpy")
def affine(codes, table, zero, scale, divisor, bias, row_index, column_index, out):
    """(value - zero) * scale / divisor + bias, with the group of each column by column_index."""
    rows, columns = codes.shape
    for row in range(rows):
        at = row_index[row]
        for column in range(columns):
            g = column_index[column]
            value = (table[codes[row, column]] - zero[at, g]) * scale[at, g] / divisor
            out[row, column] = value + bias[at, g]


@njit(nogil=True, cache=True, error_model="numpy")
def squares(codes, noise, scale, divisor, row_index, column_index):
    """The sum of noise[code] * (scale / divisor) ** 2."""
    total = 0.0
    for row in range(codes.shape[0]):
        at = row_index[row]
        for column in range(codes.shape[1]):
            step = scale[at, column_index[column]] / divisor
            total += noise[codes[row, column]] * step * step
    return total
