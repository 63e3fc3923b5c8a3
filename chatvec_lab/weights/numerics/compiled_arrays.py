"""The compiled half of `arrays`. Imported only to compile."""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from chatvec_lab.weights.numerics.arrays import BINS
from chatvec_lab.weights.numerics.compiled_bounds import _list
from chatvec_lab.weights.numerics.compiled_lanes import load, pointer
from chatvec_lab.weights.numerics.sums import BFLOAT16, NONE, TILE

_U = np.uint32
_SIZE = _U(0x7FFFFFFF)  # the bits of a magnitude
_INFINITE = _U(0x7F800000)


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


@njit(nogil=True, error_model="numpy")
def _differences(plus, minus, bits):
    """The bits of plus - minus, float32; the largest magnitude."""
    largest = _U(0)
    for i in range(bits.size):
        d = np.float32(load(plus[i]) - load(minus[i])).view(np.uint32)
        bits[i] = d
        largest = max(largest, _U(d & _SIZE))
    return largest


def near(values, minus, code, size, low, high, out, room, result, scratch):
    """Put the magnitudes (bits) from low to high into `out`, up to `room` and one to spare; how many; `result`: above.

    Of float32 values (`code` NONE), or of values - minus, two arrays of 16 bits: -1 where one of these is NaN or infinite.
    """
    to, words = carray(pointer(out, np.uint32), room + 1), carray(pointer(scratch, np.uint64), TILE // 8)
    flags, index = carray(pointer(scratch, np.uint8), TILE), carray(pointer(scratch + TILE, np.uint64), TILE)
    row, total, found, largest = scratch + 9 * TILE, 0, 0, _U(0)
    for start in range(0, size, TILE):
        n = min(TILE, size - start)
        flags[n:] = 0
        bits = carray(pointer(values + 4 * start if code == NONE else row, np.uint32), n)
        begin, other = values + 2 * start, minus + 2 * start
        if code == BFLOAT16:
            a, b = carray(pointer(begin, np.uint16), n), carray(pointer(other, np.uint16), n)
            largest = max(largest, _differences(a, b, bits))
        elif code != NONE:
            c, d = carray(pointer(begin, np.int16), n), carray(pointer(other, np.int16), n)
            largest = max(largest, _differences(c, d, bits))
        total += _mark(bits, low, high, flags[:n])
        for k in range(_list(words, 0, index, 0)):
            to[min(found, room)] = _U(bits[index[k]] & _SIZE)
            found += 1
    if largest >= _INFINITE:
        return -1
    carray(pointer(result, np.int64), 1)[0] = total
    return found
