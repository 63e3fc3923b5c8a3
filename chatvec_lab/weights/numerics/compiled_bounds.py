"""The compiled half of `sums` that decides most elements: the sum in plain float64, with a bound of its error."""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from chatvec_lab.weights.numerics.compiled_lanes import _fma, load, pointer
from chatvec_lab.weights.numerics.sums import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, NONE, ROW

# where the rows of a tile begin: one array, so that loops vectorise
_X, _Y, _HIGH, _BOUND = (i * ROW for i in range(4))


@njit(nogil=True, error_model="numpy")
def _widen(address, code, start, n, tile, row):
    """Elements from `start` on as float64, into a row of the tile: always exact. A missing array is zero."""
    if code == BFLOAT16:
        a = carray(pointer(address + 2 * start, np.uint16), n)
        for i in range(n):
            tile[row + i] = load(a[i])
    elif code == FLOAT16:
        b = carray(pointer(address + 2 * start, np.int16), n)
        for i in range(n):
            tile[row + i] = load(b[i])
    elif code == FLOAT32:
        c = carray(pointer(address + 4 * start, np.float32), n)
        for i in range(n):
            tile[row + i] = c[i]
    elif code == FLOAT64:
        d = carray(pointer(address + 8 * start, np.float64), n)
        for i in range(n):
            tile[row + i] = d[i]
    else:
        tile[row : row + n] = 0.0


@njit(nogil=True, error_model="numpy")
def _weigh(coefficient, plus, minus, n, tile):
    """Add a term to the sum in plain float64, and its size to the sum of sizes."""
    size = abs(coefficient)
    for i in range(n):
        d = np.float64(load(plus[i])) - np.float64(load(minus[i]))
        tile[_HIGH + i] = _fma(coefficient, d, tile[_HIGH + i])
        tile[_BOUND + i] = _fma(size, abs(d), tile[_BOUND + i])


@njit(nogil=True, error_model="numpy")
def _weigh_one(coefficient, plus, n, tile):
    size = abs(coefficient)
    for i in range(n):
        d = np.float64(load(plus[i]))
        tile[_HIGH + i] = _fma(coefficient, d, tile[_HIGH + i])
        tile[_BOUND + i] = _fma(size, abs(d), tile[_BOUND + i])


@njit(nogil=True, error_model="numpy")
def _weigh_any(coefficient, addresses, codes, start, n, tile):
    """A term whose two arrays are of one format, or else of any two."""
    code = codes[0] if codes[0] == codes[1] else NONE
    if code == BFLOAT16:
        a = carray(pointer(addresses[0] + 2 * start, np.uint16), n)
        b = carray(pointer(addresses[1] + 2 * start, np.uint16), n)
        _weigh(coefficient, a, b, n, tile)
    elif code == FLOAT16:
        a = carray(pointer(addresses[0] + 2 * start, np.int16), n)
        b = carray(pointer(addresses[1] + 2 * start, np.int16), n)
        _weigh(coefficient, a, b, n, tile)
    elif code == FLOAT32:
        a = carray(pointer(addresses[0] + 4 * start, np.float32), n)
        b = carray(pointer(addresses[1] + 4 * start, np.float32), n)
        _weigh(coefficient, a, b, n, tile)
    elif codes[0] == FLOAT32 and codes[1] == NONE:
        _weigh_one(coefficient, carray(pointer(addresses[0] + 4 * start, np.float32), n), n, tile)
    else:
        _widen(addresses[0], codes[0], start, n, tile, _X)
        _widen(addresses[1], codes[1], start, n, tile, _Y)
        _weigh(coefficient, tile[_X : _X + n], tile[_Y : _Y + n], n, tile)


@njit(nogil=True, error_model="numpy")
def _decide_narrow(n, tile, open_, out, dropped, smallest, largest, factor, bias):
    """Round to 16 bits where the sum in float64 leaves no doubt; how many elements it leaves open.

    The float32 next to such a sum is at most its neighbour away from the exact value, so it lies on the same side of a
    middle between two stored numbers, unless it is that middle.
    """
    count = np.uint32(0)
    middle = np.uint32(np.uint32(1) << np.uint32(dropped - np.uint32(1)))
    rest = np.uint32(np.uint32(middle << np.uint32(1)) - np.uint32(1))
    for i in range(n):
        s, sizes = tile[_HIGH + i], tile[_BOUND + i]
        size = abs(s)
        is_zero = sizes == 0.0
        is_clear = (size >= smallest) & (size < largest) & (sizes * factor <= size)
        bits = np.float32(size).view(np.uint32)
        tail = np.uint32(bits & rest)
        number = np.uint32(np.uint32(bits >> dropped) + np.uint32(tail > middle))
        number = np.uint32(np.uint32(number - bias) * np.uint32(not is_zero))
        sign = np.uint32(np.uint32(s < 0.0) << np.uint32(15))
        out[i] = np.uint16(number | sign)
        is_open = np.uint32(not ((is_clear & (tail != middle)) | is_zero))
        open_[i] = np.uint8(is_open)
        count = np.uint32(count + is_open)
    return np.int64(count)


@njit(nogil=True, error_model="numpy")
def _decide_single(n, tile, open_, out, factor):
    """Round to float32 where everything that the exact value may be rounds alike; how many elements are left open."""
    count = np.uint32(0)
    for i in range(n):
        s, sizes = tile[_HIGH + i] + 0.0, tile[_BOUND + i]
        error = sizes * factor
        low, high = np.float32(s - error), np.float32(s + error)
        out[i] = high
        size = abs(s)
        is_clear = (size >= 2.0**-100) & (size < 2.0**127) & (low == high)
        is_open = np.uint32(not (is_clear | (sizes == 0.0)))
        open_[i] = np.uint8(is_open)
        count = np.uint32(count + is_open)
    return np.int64(count)


@njit(nogil=True, error_model="numpy")
def _quickly(cp, cp_code, factors, given, out, out_code, start, n, tile, open_, index, count):
    """Fill a tile where the sum in plain float64 tells the rounding; what it leaves open joins the `count` in `index`.

    The sum of k terms errs by at most (k + 1) * 2**-53 of the sum of sizes: once for each product that is added, once
    for all differences. What decides allows for four times that and more.
    """
    _widen(cp, cp_code, start, n, tile, _HIGH)
    for i in range(n):
        tile[_BOUND + i] = abs(tile[_HIGH + i])
    for k in range(factors.size):
        _weigh_any(factors[k], given[k, :, 0], given[k, :, 1], start, n, tile)
    operations = np.float64(factors.size + 1)
    if out_code == BFLOAT16:
        a = carray(pointer(out + 2 * start, np.uint16), n)
        found = _decide_narrow(
            n, tile, open_, a, np.uint32(16), 2.0**-100, 2.0**127, operations * 2.0**-24, np.uint32(0)
        )
    elif out_code == FLOAT16:  # subnormal numbers are left open
        a = carray(pointer(out + 2 * start, np.uint16), n)
        found = _decide_narrow(
            n, tile, open_, a, np.uint32(13), 2.0**-14, 2.0**15, operations * 2.0**-24, np.uint32(112 << 10)
        )
    else:
        c = carray(pointer(out + 4 * start, np.float32), n)
        found = _decide_single(n, tile, open_, c, operations * 2.0**-51)
    if found:
        for i in range(n):
            index[count] = start + i
            count += open_[i]
    return count
