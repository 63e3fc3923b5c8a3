"""The compiled half of `added`. Imported only to compile."""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from chatvec_lab.weights.numerics.compiled_bounds import _list
from chatvec_lab.weights.numerics.compiled_lanes import load, pointer
from chatvec_lab.weights.numerics.sums import BFLOAT16, TILE

_F, _U = np.float32, np.uint32
_ZERO, _ONE, _SIZE = _F(0.0), _U(1), _U(0x7FFFFFFF)


def _narrow(dropped: int, bias: int, smallest: float):
    """A function that adds and rounds to a format of 16 bits: float32 without its last bits, the exponent moved."""
    middle, rest, moved = _U(1 << dropped - 1), _U((1 << dropped) - 1), _U(bias << 23)
    low, below, dropped = np.float32(smallest).view(np.uint32), _U((1 << dropped - 1) - 1), _U(dropped)

    @njit(nogil=True, error_model="numpy")
    def add(cp, delta, less, open_, out):
        """How many elements are not proven, which are flagged, and the largest magnitude of all, as bits."""
        count, largest = _U(0), _U(0)
        for i in range(out.size):
            c, d = _F(load(cp[i])), _F(delta[i])
            s = _F(_F(c + d) + _ZERO)  # a zero is positive, as in the general way
            size = _U(s.view(_U) & _SIZE)
            even = _U(_U(size + below) + _U(_U(size >> dropped) & _ONE))
            number = _U(_U(even - moved) >> dropped) if size >= low else _U(0)
            out[i] = np.uint16(number | _U(_U(s < _ZERO) << _U(15)))
            # half way between two numbers only an exact sum tells, which gives both of its terms back
            is_exact = (_F(s - c) == d) & (_F(s - d) == c) & (c != _ZERO)
            is_open = (_U(size & rest) == middle) & (not is_exact) | (size < low)
            if less is not None:
                is_open |= less[i] != _ZERO
            flag = _U(is_open)
            open_[i] = np.uint8(flag)
            count = _U(count + flag)
            largest = max(largest, size)
        return np.int64(count), np.int64(largest)

    return add


_add_bfloat16 = _narrow(16, 0, 2.0**-90)
_add_float16 = _narrow(13, 112, 2.0**-14)  # subnormal numbers are left open


@njit(nogil=True, error_model="numpy")
def _tile(add, cp, delta, less, start, marks, out):
    d = carray(pointer(delta + 4 * start, np.float32), out.size)
    if less:
        return add(cp, d, carray(pointer(less + 4 * start, np.float32), out.size), marks, out)
    return add(cp, d, None, marks, out)


def added(cp, delta, less, code, out, size, unsure, room, flags):
    """Fill `out` with cp + (delta - less); how many elements are not proven, -1 where any is NaN or too large.

    All but numbers are addresses (`less` may be 0). The first of the unproven are listed in `unsure`, if it has room for all.
    """
    index, words = carray(pointer(unsure, np.int64), room), carray(pointer(flags, np.uint64), TILE // 8)
    marks, found = carray(pointer(flags, np.uint8), TILE), 0
    limit = 254 << 23 if code == BFLOAT16 else 142 << 23  # 2**127 and 2**15
    for start in range(0, size, TILE):
        n = min(TILE, size - start)
        marks[n:] = 0
        to = carray(pointer(out + 2 * start, np.uint16), n)
        if code == BFLOAT16:
            a = carray(pointer(cp + 2 * start, np.uint16), n)
            count, largest = _tile(_add_bfloat16, a, delta, less, start, marks[:n], to)
        else:
            b = carray(pointer(cp + 2 * start, np.int16), n)
            count, largest = _tile(_add_float16, b, delta, less, start, marks[:n], to)
        if largest >= limit:
            return -1
        if count and found + count < room:  # one to spare, which is written over
            _list(words, start, index, found)
        found += count
    return found
