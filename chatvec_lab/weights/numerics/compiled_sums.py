"""The compiled half of `sums`: any number of terms, in tiles. Imported only to compile."""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from chatvec_lab.weights.numerics.compiled_lanes import _fma, load, pointer
from chatvec_lab.weights.numerics.sums import TILE

_X, _Y, _HIGH, _LOW, _BOUND = (
    i * TILE for i in range(5)
)  # where the rows begin: one array, so that loops vectorise
_NONE, _BFLOAT16, _FLOAT16, _FLOAT32, _FLOAT64 = range(5)
_TINY = 2.0**-900  # a product below this may have an error that float64 cannot hold


@njit(nogil=True, error_model="numpy")
def _widen(address, code, start, n, tile, row):
    """Elements from `start` on as float64, into a row of the tile: always exact. A missing array is zero."""
    if code == _BFLOAT16:
        a = carray(pointer(address + 2 * start, np.uint16), n)
        for i in range(n):
            tile[row + i] = load(a[i])
    elif code == _FLOAT16:
        b = carray(pointer(address + 2 * start, np.int16), n)
        for i in range(n):
            tile[row + i] = load(b[i])
    elif code == _FLOAT32:
        c = carray(pointer(address + 4 * start, np.float32), n)
        for i in range(n):
            tile[row + i] = c[i]
    elif code == _FLOAT64:
        d = carray(pointer(address + 8 * start, np.float64), n)
        for i in range(n):
            tile[row + i] = d[i]
    else:
        tile[row : row + n] = 0.0


@njit(nogil=True, error_model="numpy", inline="always")
def _two_sum(a, b):
    s = a + b
    z = s - a
    return s, (a - (s - z)) + (b - z)


@njit(nogil=True, error_model="numpy")
def _add(coefficient, plus, minus, n, tile):
    """high + low += coefficient * (plus - minus); the bound grows by what low loses."""
    for i in range(n):
        d, rest = _two_sum(np.float64(load(plus[i])), -np.float64(load(minus[i])))
        p = coefficient * d
        e = _fma(coefficient, d, -p)
        q = coefficient * rest
        s, r = _two_sum(tile[_HIGH + i], p)
        a, lost_a = _two_sum(e, r)
        b, lost_b = _two_sum(a, q)
        w, lost_w = _two_sum(tile[_LOW + i], b)
        tile[_HIGH + i] = s
        tile[_LOW + i] = w
        lost = (abs(lost_a) + abs(lost_b)) + (abs(lost_w) + 2.0**-52 * abs(q))
        tile[_BOUND + i] += lost + (1.0 if (d != 0.0) & (abs(p) < _TINY) else 0.0)


@njit(nogil=True, error_model="numpy")
def _add_any(coefficient, addresses, codes, start, n, tile):
    """A term whose two arrays are of one format, or else of any two."""
    code = codes[0] if codes[0] == codes[1] else _NONE
    if code == _BFLOAT16:
        a = carray(pointer(addresses[0] + 2 * start, np.uint16), n)
        b = carray(pointer(addresses[1] + 2 * start, np.uint16), n)
        _add(coefficient, a, b, n, tile)
    elif code == _FLOAT16:
        a = carray(pointer(addresses[0] + 2 * start, np.int16), n)
        b = carray(pointer(addresses[1] + 2 * start, np.int16), n)
        _add(coefficient, a, b, n, tile)
    elif code == _FLOAT32:
        a = carray(pointer(addresses[0] + 4 * start, np.float32), n)
        b = carray(pointer(addresses[1] + 4 * start, np.float32), n)
        _add(coefficient, a, b, n, tile)
    else:
        _widen(addresses[0], codes[0], start, n, tile, _X)
        _widen(addresses[1], codes[1], start, n, tile, _Y)
        _add(coefficient, tile[_X : _X + n], tile[_Y : _Y + n], n, tile)


@njit(nogil=True, error_model="numpy", inline="always")
def _odd(s, error):
    """s moved one step towards its error where it is even, so that later rounding sees the exact side."""
    bits = np.float64(s).view(np.uint64)
    moves = np.uint64(np.uint64(error != 0.0) & np.uint64(~bits & np.uint64(1)))
    back = np.uint64((error > 0.0) != (s > 0.0))
    return np.uint64(bits + np.uint64(moves - np.uint64(np.uint64(2) * np.uint64(moves & back)))).view(
        np.float64
    )


@njit(nogil=True, error_model="numpy", inline="always")
def _odd_single(s, error):
    """The bits of the float32 next to s + error, odd unless it is exact."""
    f = np.float32(s)
    rest = (s - np.float64(f)) + error
    bits = f.view(np.uint32)
    moves = np.uint32(np.uint32(rest != 0.0) & np.uint32(~bits & np.uint32(1)))
    back = np.uint32((rest > 0.0) != (s > 0.0))
    return np.uint32(bits + np.uint32(moves - np.uint32(np.uint32(2) * np.uint32(moves & back))))


@njit(nogil=True, error_model="numpy", inline="always")
def _half(bits):
    """The bits of a float16 from those of a float32 that is odd unless it is exact."""
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    small = np.float32(np.uint32(size).view(np.float32) + np.float32(0.5))  # its unit is that of subnormals
    small_bits = np.uint32(small.view(np.uint32) - np.uint32(0x3F000000))
    even = np.uint32(size + np.uint32(0xFFF) + np.uint32(np.uint32(size >> np.uint32(13)) & np.uint32(1)))
    normal = np.uint32(np.uint32(even - np.uint32(112 << 23)) >> np.uint32(13))
    number = small_bits if size < np.uint32(113 << 23) else normal
    return np.uint16(np.uint32(number) | np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000)))


@njit(nogil=True, error_model="numpy")
def _settle(n, tile, threshold, half_way):
    """high + low as a float64 and its error; how many elements are out of range, and how many the bound leaves open.

    For float64 (`half_way`) the open place is half way to the neighbour, for others on the float64 grid itself.
    """
    bad, unsure = np.uint64(0), np.uint64(0)
    for i in range(n):
        s, r = _two_sum(tile[_HIGH + i], tile[_LOW + i])
        tile[_HIGH + i] = s
        tile[_LOW + i] = r
        tile[_X + i] = abs(r)
        bad += np.uint64(not (abs(s) < threshold))
    if half_way:
        for i in range(n):
            s = tile[_HIGH + i]
            bits = np.float64(s + 0.0).view(np.uint64)
            above = np.uint64(bits - np.uint64(1) if s < 0.0 else bits + np.uint64(1)).view(np.float64)
            tile[_X + i] = abs(tile[_X + i] - 0.5 * abs(above - s))
    for i in range(n):
        bound = tile[_BOUND + i]
        unsure += np.uint64(np.uint64(bound != 0.0) & np.uint64(tile[_X + i] <= 2.0 * bound))
    return np.int64(bad), np.int64(unsure)


@njit(nogil=True, error_model="numpy")
def _round(n, tile, address, code, start):
    """Round once to the format of the output."""
    if code == _BFLOAT16:
        a = carray(pointer(address + 2 * start, np.uint16), n)
        for i in range(n):
            b = _odd_single(tile[_HIGH + i], tile[_LOW + i])
            even = np.uint32(np.uint32(b >> np.uint32(16)) & np.uint32(1))
            a[i] = np.uint16(np.uint32(np.uint32(b + np.uint32(0x7FFF)) + even) >> np.uint32(16))
    elif code == _FLOAT16:
        a = carray(pointer(address + 2 * start, np.uint16), n)
        for i in range(n):
            a[i] = _half(_odd_single(tile[_HIGH + i], tile[_LOW + i]))
    elif code == _FLOAT32:  # a float64 that is odd casts to float32 correctly
        c = carray(pointer(address + 4 * start, np.float32), n)
        for i in range(n):
            c[i] = _odd(tile[_HIGH + i], tile[_LOW + i])
    else:
        d = carray(pointer(address + 8 * start, np.float64), n)
        for i in range(n):
            d[i] = tile[_HIGH + i]


def sums(cp, cp_code, coefficients, arrays, terms, threshold, out, out_code, size, tile, open_, room, result):
    """Fill `out` with cp + sum of coefficients * (plus - minus).

    All but numbers are addresses. `arrays` holds for each term address and code of plus, then of minus. `result` gets
    how many elements are out of range; how many are open is returned, and the first `room` of them are in `open_`.
    """
    tile = carray(pointer(tile, np.float64), 5 * TILE)
    given = carray(pointer(arrays, np.int64), (terms, 2, 2))
    factors = carray(pointer(coefficients, np.float64), terms)
    listed = carray(pointer(open_, np.int64), room)
    bad, unsure = 0, 0
    for start in range(0, size, TILE):
        n = min(TILE, size - start)
        _widen(cp, cp_code, start, n, tile, _HIGH)
        tile[_LOW:] = 0.0
        for k in range(terms):
            _add_any(factors[k], given[k, :, 0], given[k, :, 1], start, n, tile)
        found_bad, found_unsure = _settle(n, tile, threshold, out_code == _FLOAT64)
        _round(n, tile, out, out_code, start)
        bad += found_bad
        if found_unsure:
            for i in range(n):
                bound = tile[_BOUND + i]
                if bound != 0.0 and tile[_X + i] <= 2.0 * bound:
                    if unsure < room:
                        listed[unsure] = start + i
                    unsure += 1
    carray(pointer(result, np.int64), 1)[0] = bad
    return unsure
