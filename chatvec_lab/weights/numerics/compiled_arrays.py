"""The compiled half of `arrays`. Imported only to compile."""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from chatvec_lab.weights.numerics.arrays import BINS
from chatvec_lab.weights.numerics.compiled_bounds import _list, _widen
from chatvec_lab.weights.numerics.compiled_lanes import load, pointer
from chatvec_lab.weights.numerics.sums import BFLOAT16, ROW, TILE

_U = np.uint32
_SIZE = _U(0x7FFFFFFF)  # the bits of a magnitude


@njit(nogil=True, error_model="numpy")
def _keep_true(kept, raw):
    for i in range(raw.size):
        raw[i] = raw[i] if kept[i] else raw.dtype.type(0)


@njit(nogil=True, error_model="numpy")
def _keep_large(bits, least, raw):
    for i in range(raw.size):
        raw[i] = raw[i] if _U(bits[i] & _SIZE) >= least else raw.dtype.type(0)


def clear(kept, size, arrays, count):
    """Set to zero the elements that are not kept, in `count` arrays. `arrays`: addresses and item sizes."""
    given, flags = carray(pointer(arrays, np.int64), (count, 2)), carray(pointer(kept, np.uint8), size)
    for k in range(count):
        if given[k, 1] == 2:
            _keep_true(flags, carray(pointer(given[k, 0], np.uint16), size))
        elif given[k, 1] == 4:
            _keep_true(flags, carray(pointer(given[k, 0], np.uint32), size))
        else:
            _keep_true(flags, carray(pointer(given[k, 0], np.uint64), size))
    return 0


def trim(values, size, least, arrays, count):
    """Set to zero, in `count` arrays, the elements whose float32 value has a magnitude with bits below `least`."""
    given, bits = carray(pointer(arrays, np.int64), (count, 2)), carray(pointer(values, np.uint32), size)
    for k in range(count):
        if given[k, 1] == 2:
            _keep_large(bits, least, carray(pointer(given[k, 0], np.uint16), size))
        elif given[k, 1] == 4:
            _keep_large(bits, least, carray(pointer(given[k, 0], np.uint32), size))
        else:
            _keep_large(bits, least, carray(pointer(given[k, 0], np.uint64), size))
    return 0


@njit(nogil=True, error_model="numpy")
def _keep_far(plus, minus, least):
    for i in range(plus.size):
        x, y = plus[i], minus[i]
        size = _U(np.float32(load(x) - load(y)).view(np.uint32) & _SIZE)
        plus[i] = x if size >= least else plus.dtype.type(0)
        minus[i] = y if size >= least else plus.dtype.type(0)


def trim_pair(plus, minus, code, size, least):
    """Set to zero, in two arrays of 16 bits, the elements whose difference has a magnitude with bits below `least`."""
    if code == BFLOAT16:
        _keep_far(carray(pointer(plus, np.uint16), size), carray(pointer(minus, np.uint16), size), least)
    else:
        _keep_far(carray(pointer(plus, np.int16), size), carray(pointer(minus, np.int16), size), least)
    return 0


def counts(values, size, low, shift, found):
    """Add the elements, float32, to the counts of their magnitudes: bits from `low` on, without the last `shift`."""
    bits, each = carray(pointer(values, np.uint32), size), carray(pointer(found, np.int64), BINS)
    for i in range(size):
        each[_U(_U(_U(bits[i] & _SIZE) - low) >> shift)] += 1
    return 0


@njit(nogil=True, error_model="numpy")
def _mark(bits, low, high, flags):
    """Flag magnitudes from low to high; how many are above."""
    above = _U(0)
    for i in range(bits.size):
        size = _U(bits[i] & _SIZE)
        is_above = _U(size > high)
        flags[i] = np.uint8(_U(size >= low) - is_above)
        above = _U(above + is_above)
    return np.int64(above)


def near(values, size, low, high, out, room, result, scratch):
    """Put the magnitudes (bits) from low to high into `out`, up to `room` and one to spare; how many; `result`: above."""
    bits, to = carray(pointer(values, np.uint32), size), carray(pointer(out, np.uint32), room + 1)
    flags, index = carray(pointer(scratch, np.uint8), TILE), carray(pointer(scratch + TILE, np.uint64), TILE)
    total, found = 0, 0
    for start in range(0, size, TILE):
        n = min(TILE, size - start)
        flags[n:] = 0
        total += _mark(bits[start : start + n], low, high, flags[:n])
        for k in range(_list(carray(pointer(scratch, np.uint64), TILE // 8), start, index, 0)):
            to[min(found, room)] = _U(bits[index[k]] & _SIZE)
            found += 1
    carray(pointer(result, np.int64), 1)[0] = total
    return found


@njit(nogil=True, error_model="numpy")
def _delta(given, start, row, other):
    """plus - minus of a tile, rounded to float64 once."""
    _widen(given[0, 0], given[0, 1], start, row)
    _widen(given[1, 0], given[1, 1], start, other)
    for i in range(row.size):
        row[i] -= other[i]


@njit(nogil=True, error_model="numpy")
def _add(values, sums):
    for i in range(values.size):
        sums[i] += values[i]


@njit(nogil=True, error_model="numpy")
def _add_agreeing(values, signs, sums, numbers):
    for i in range(values.size):
        is_up, is_down = (values[i] > 0.0) & (signs[i] >= 0.0), (values[i] < 0.0) & (signs[i] < 0.0)
        agrees = np.float64(is_up | is_down)
        sums[i] += values[i] * agrees
        numbers[i] += agrees


@njit(nogil=True, error_model="numpy")
def _mean_of_two(first, second, means):
    """The same of two deltas, which most mixtures have, in one go."""
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
        sums[i] = sums[i] / max(numbers[i], 1.0)


def agreed(arrays, count, size, out, scratch):
    """Fill `out` with the mean of those of `count` deltas whose sign is that of their sum, zero where none is.

    `arrays`: address and format of plus and of minus, for each delta.
    """
    given, means = carray(pointer(arrays, np.int64), (count, 2, 2)), carray(pointer(out, np.float64), size)
    rows = carray(pointer(scratch, np.float64), (count + 2, ROW))
    for start in range(0, size, TILE):
        n = min(TILE, size - start)
        signs, numbers, sums = rows[count, :n], rows[count + 1, :n], means[start : start + n]
        for k in range(count):
            _delta(given[k], start, rows[k, :n], numbers)
        if count == 2:
            _mean_of_two(rows[0, :n], rows[1, :n], sums)
            continue
        signs[:] = 0.0
        for k in range(count):
            _add(rows[k, :n], signs)
        numbers[:] = 0.0
        sums[:] = 0.0
        for k in range(count):
            _add_agreeing(rows[k, :n], signs, sums, numbers)
        _divide(sums, numbers)
    return 0
