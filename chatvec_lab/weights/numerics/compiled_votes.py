"""The compiled half of `votes`. Imported only to compile."""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from chatvec_lab.weights.numerics.compiled_bounds import _widen
from chatvec_lab.weights.numerics.compiled_lanes import load, pointer
from chatvec_lab.weights.numerics.sums import BFLOAT16, ROW, TILE

_F, _U = np.float32, np.uint32
_ZERO, _HALF, _SIZE = _F(0.0), _F(0.5), _U(0x7FFFFFFF)


@njit(nogil=True, error_model="numpy")
def _keep_large(row, least):
    """Zeros where the magnitude, rounded to float32, has bits below `least`."""
    for i in range(row.size):
        size = _U(_F(row[i]).view(_U) & _SIZE)
        row[i] = row[i] if size >= least else 0.0


@njit(nogil=True, error_model="numpy")
def _delta(given, start, row, other):
    """plus - minus of a tile, rounded to float64 once and trimmed."""
    _widen(given[0], given[1], start, row)
    _widen(given[2], given[3], start, other)
    for i in range(row.size):
        row[i] -= other[i]
    if given[4]:
        equals = min(max(0, given[5] - start), row.size)
        _keep_large(row[:equals], _U(given[4]))
        _keep_large(row[equals:], _U(given[4] + 1))


@njit(nogil=True, error_model="numpy")
def _multiply(row, weight):
    for i in range(row.size):
        row[i] *= weight


@njit(nogil=True, error_model="numpy")
def _add(values, sums):
    for i in range(values.size):
        sums[i] += values[i]


@njit(nogil=True, error_model="numpy")
def _add_agreeing(values, signs, weight, sums, numbers):
    for i in range(values.size):
        is_up, is_down = (values[i] > 0.0) & (signs[i] >= 0.0), (values[i] < 0.0) & (signs[i] < 0.0)
        agrees = np.float64(is_up | is_down)
        sums[i] += values[i] * agrees
        numbers[i] += weight * agrees


@njit(nogil=True, error_model="numpy")
def _mean_of_two(first, second, means):
    """The same of two deltas of weight 1, which most mixtures have, in one go."""
    for i in range(means.size):
        a, b = first[i], second[i]
        total = a + b
        up, down = max(a, 0.0) + max(b, 0.0), min(a, 0.0) + min(b, 0.0)
        share = 0.5 if ((a > 0.0) & (b > 0.0)) | ((a < 0.0) & (b < 0.0)) else 1.0
        means[i] = (
            up if total >= 0.0 else down
        ) * share + 0.0 * total  # NaN where a delta is NaN or infinite


@njit(nogil=True, error_model="numpy")
def _divide(sums, numbers):
    for i in range(sums.size):
        sums[i] = sums[i] / (numbers[i] if numbers[i] != 0.0 else 1.0)


def agreed(arrays, count, weights, mean, size, out, scratch):
    """Fill `out` with the mean (or sum) of those of `count` weighted deltas whose sign is that of their sum, else zero.

    `arrays`: address and format of plus and of minus, least magnitude and place of its last, for each delta.
    """
    given, means = carray(pointer(arrays, np.int64), (count, 6)), carray(pointer(out, np.float64), size)
    rows = carray(pointer(scratch, np.float64), (count + 2, ROW))
    factors, is_plain = carray(pointer(weights, np.float64), count), True
    for k in range(count):
        is_plain &= factors[k] == 1.0
    for start in range(0, size, TILE):
        n = min(TILE, size - start)
        signs, numbers, sums = rows[count, :n], rows[count + 1, :n], means[start : start + n]
        for k in range(count):
            _delta(given[k], start, rows[k, :n], numbers)
        if is_plain and mean and count == 2:
            _mean_of_two(rows[0, :n], rows[1, :n], sums)
            continue
        signs[:] = 0.0
        for k in range(count):
            if not is_plain:
                _multiply(rows[k, :n], factors[k])
            _add(rows[k, :n], signs)
        numbers[:] = 0.0
        sums[:] = 0.0
        for k in range(count):
            _add_agreeing(rows[k, :n], signs, factors[k], sums, numbers)
        if mean:
            _divide(sums, numbers)
    return 0


@njit(nogil=True, error_model="numpy")
def _trimmed(plus, minus, least, row):
    """plus - minus in float32, zero below a magnitude; how many of the others are not exact."""
    inexact = _U(0)
    for i in range(row.size):
        x, y = _F(load(plus[i])), _F(load(minus[i]))
        d = _F(x - y)
        is_kept = _U(d.view(_U) & _SIZE) >= least
        row[i] = d if is_kept else _ZERO
        inexact = _U(inexact + _U(is_kept & (not ((_F(d + y) == x) & (_F(x - d) == y)))))
    return inexact


@njit(nogil=True, error_model="numpy")
def _single(given, start, row):
    """A delta of 16-bit arrays in float32; how many elements are not exact."""
    n = row.size
    equals, least = min(max(0, given[5] - start), n), _U(given[4])
    more = _U(least + _U(1))
    if given[1] == BFLOAT16:
        a = carray(pointer(given[0] + 2 * start, np.uint16), n)
        b = carray(pointer(given[2] + 2 * start, np.uint16), n)
        found = _trimmed(a[:equals], b[:equals], least, row[:equals])
        return _U(found + _trimmed(a[equals:], b[equals:], more, row[equals:]))
    c = carray(pointer(given[0] + 2 * start, np.int16), n)
    d = carray(pointer(given[2] + 2 * start, np.int16), n)
    found = _trimmed(c[:equals], d[:equals], least, row[:equals])
    return _U(found + _trimmed(c[equals:], d[equals:], more, row[equals:]))


@njit(nogil=True, error_model="numpy")
def _mean_of_singles(first, second, high):
    """`_mean_of_two` in float32; how many elements are not exact."""
    inexact = _U(0)
    for i in range(high.size):
        a, b = first[i], second[i]
        total = _F(a + b)
        up, down = _F(max(a, _ZERO) + max(b, _ZERO)), _F(min(a, _ZERO) + min(b, _ZERO))
        both = ((a > _ZERO) & (b > _ZERO)) | ((a < _ZERO) & (b < _ZERO))
        one = up if total >= _ZERO else down
        high[i] = _F(one * (_HALF if both else _F(1.0)))
        is_exact = (_F(total - a) == b) & (_F(total - b) == a)
        inexact = _U(inexact + _U(both & (not is_exact)))
    return inexact


@njit(nogil=True, error_model="numpy")
def _halves(values, high, low):
    """high - low = values; how many elements do not fit."""
    lost = 0
    for i in range(values.size):
        high[i] = _F(values[i])
        low[i] = _F(np.float64(high[i]) - values[i])
        lost += np.int64(np.float64(high[i]) - np.float64(low[i]) != values[i])
    return lost


def agreed_of_two(arrays, size, high, low, scratch):
    """Fill `high` and `low`, whose difference is the mean of two deltas; 0 where `low` is zero, -1 where they cannot hold it.

    In float32, but for tiles in which that is not exact.
    """
    given = carray(pointer(arrays, np.int64), (2, 6))
    rows, singles = carray(pointer(scratch, np.float64), (4, ROW)), carray(pointer(scratch, _F), (2, ROW))
    more = 0
    for start in range(0, size, TILE):
        n = min(TILE, size - start)
        to, rest = carray(pointer(high + 4 * start, _F), n), carray(pointer(low + 4 * start, _F), n)
        rest[:] = _ZERO
        inexact = _single(given[0], start, singles[0, :n]) + _single(given[1], start, singles[1, :n])
        inexact += _mean_of_singles(singles[0, :n], singles[1, :n], to)
        if inexact:
            _delta(given[0], start, rows[0, :n], rows[3, :n])
            _delta(given[1], start, rows[1, :n], rows[3, :n])
            _mean_of_two(rows[0, :n], rows[1, :n], rows[2, :n])
            if _halves(rows[2, :n], to, rest):
                return -1
            more = 1
    return more
