"""The compiled half of `sums`: any number of terms, in tiles. Imported only to compile."""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from chatvec_lab.weights.numerics.compiled_alike import are_alike
from chatvec_lab.weights.numerics.compiled_bounds import TINY, _quickly_double, _quickly_single
from chatvec_lab.weights.numerics.compiled_lanes import _fma, load, pointer
from chatvec_lab.weights.numerics.compiled_ties import has_heads, ties
from chatvec_lab.weights.numerics.sums import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, ROW, TILE

# where the rows of a tile begin: one array, so that loops vectorise
_HIGH, _BOUND, _LOW, _X, _Y, _OPEN, _INDEX = (i * ROW for i in range(7))


@njit(nogil=True, error_model="numpy")
def _gather(address, code, index, row):
    """Some elements as floats of the row's type: always exact. A missing array is zero."""
    n, size = index.size, np.int64(index[index.size - 1]) + 1
    if code == BFLOAT16:
        a = carray(pointer(address, np.uint16), size)
        for i in range(n):
            row[i] = load(a[index[i]])
    elif code == FLOAT16:
        b = carray(pointer(address, np.int16), size)
        for i in range(n):
            row[i] = load(b[index[i]])
    elif code == FLOAT32:
        c = carray(pointer(address, np.float32), size)
        for i in range(n):
            row[i] = c[index[i]]
    elif code == FLOAT64:
        d = carray(pointer(address, np.float64), size)
        for i in range(n):
            row[i] = row.dtype.type(d[index[i]])
    else:
        row[:n] = 0.0


@njit(nogil=True, error_model="numpy", inline="always")
def _two_sum(a, b):
    s = a + b
    z = s - a
    return s, (a - (s - z)) + (b - z)


@njit(nogil=True, error_model="numpy")
def _add(coefficient, n, tile, x, y):
    """high + low += coefficient * (x - y); the bound grows by what low loses."""
    for i in range(n):
        d, rest = _two_sum(np.float64(x[i]), -np.float64(y[i]))
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
        tile[_BOUND + i] += lost + (1.0 if (d != 0.0) & (abs(p) < TINY) else 0.0)


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
        bound, beyond = tile[_BOUND + i], (abs(s) - threshold) + (r if s > 0.0 else -r)
        is_open = (bound != 0.0) & (abs(r) <= 2.0 * bound)  # rational numbers count those
        bad += np.uint64(not ((beyond < 0.0) | is_open))
    if half_way:
        for i in range(n):
            size, rest = abs(tile[_HIGH + i]), tile[_X + i]
            bits = np.float64(size).view(np.uint64)
            above = np.uint64(bits + np.uint64(1)).view(np.float64)
            below = np.uint64(bits - np.uint64(size > 0.0)).view(np.float64)  # nearer, of a power of two
            tile[_X + i] = min(abs(rest - 0.5 * (above - size)), abs(rest - 0.5 * (size - below)))
    for i in range(n):
        bound = tile[_BOUND + i]
        unsure += np.uint64(np.uint64(bound != 0.0) & np.uint64(tile[_X + i] <= 2.0 * bound))
    return np.int64(bad), np.int64(unsure)


@njit(nogil=True, error_model="numpy")
def _round(n, tile, address, code):
    """Round once to the format of the output."""
    if code == BFLOAT16:
        a = carray(pointer(address, np.uint16), n)
        for i in range(n):
            b = _odd_single(tile[_HIGH + i], tile[_LOW + i])
            even = np.uint32(np.uint32(b >> np.uint32(16)) & np.uint32(1))
            a[i] = np.uint16(np.uint32(np.uint32(b + np.uint32(0x7FFF)) + even) >> np.uint32(16))
    elif code == FLOAT16:
        a = carray(pointer(address, np.uint16), n)
        for i in range(n):
            a[i] = _half(_odd_single(tile[_HIGH + i], tile[_LOW + i]))
    elif code == FLOAT32:  # a float64 that is odd casts to float32 correctly
        c = carray(pointer(address, np.float32), n)
        for i in range(n):
            c[i] = _odd(tile[_HIGH + i], tile[_LOW + i])
    else:
        d = carray(pointer(address, np.float64), n)
        for i in range(n):
            d[i] = tile[_HIGH + i]


@njit(nogil=True, error_model="numpy")
def _scatter(given, index, address, code):
    """Put rounded elements to their places in the output."""
    n, size = index.size, np.int64(index[index.size - 1]) + 1
    if code == FLOAT64:
        wide, d = carray(pointer(given, np.float64), n), carray(pointer(address, np.float64), size)
        for i in range(n):
            d[index[i]] = wide[i]
    elif code == FLOAT32:
        single, c = carray(pointer(given, np.uint32), n), carray(pointer(address, np.uint32), size)
        for i in range(n):
            c[index[i]] = single[i]
    else:
        narrow, a = carray(pointer(given, np.uint16), n), carray(pointer(address, np.uint16), size)
        for i in range(n):
            a[index[i]] = narrow[i]


@njit(nogil=True, error_model="numpy")
def _exactly(
    cp, cp_code, factors, given, threshold, out, out_code, index, tile, x, y, scratch, listed, unsure
):
    """Fill some elements by an error-free sum; how many are out of range, and how many are `unsure` by now."""
    n = index.size
    if n == 0:
        return 0, unsure
    _gather(cp, cp_code, index, x)
    for i in range(n):
        tile[_HIGH + i] = x[i]
    tile[_LOW : _LOW + n] = 0.0
    tile[_BOUND : _BOUND + n] = 0.0
    for k in range(factors.size):
        _gather(given[k, 0, 0], given[k, 0, 1], index, x)
        if k == 0 or given[k, 1, 0] != given[k - 1, 1, 0]:  # terms share a base as a rule
            _gather(given[k, 1, 0], given[k, 1, 1], index, y)
        _add(factors[k], n, tile, x, y)
    bad, found = _settle(n, tile, threshold, out_code == FLOAT64)
    _round(n, tile, scratch, out_code)
    _scatter(scratch, index, out, out_code)
    if found:
        for i in range(n):
            bound = tile[_BOUND + i]
            if bound != 0.0 and tile[_X + i] <= 2.0 * bound:
                if unsure < listed.size:
                    listed[unsure] = index[i]
                unsure += 1
    return bad, unsure


def _sums_that(quickly, kind):
    """The kernel in one of its two kinds, for elements that `kind` holds: each is compiled only where it is needed."""

    def sums(
        cp, cp_code, coefficients, arrays, terms, threshold, out, out_code, size, tile, open_, room, result
    ):
        """Fill `out` with cp + sum of coefficients * (plus - minus).

        All but numbers are addresses. `arrays` holds for each term address and code of plus, then of minus. `result` gets
        how many elements are out of range; how many are open is returned, and the first `room` of them are in `open_`.
        """
        rows, scratch = carray(pointer(tile, np.float64), _INDEX), tile + 8 * _Y
        open_rows, index = tile + 8 * _OPEN, carray(pointer(tile + 8 * _INDEX, np.uint64), 2 * TILE)
        given = carray(pointer(arrays, np.int64), (terms, 2, 2))
        factors = carray(pointer(coefficients, np.float64), terms)
        x, y = carray(pointer(tile + 8 * _X, kind), ROW), carray(pointer(tile + 8 * _Y, kind), ROW)
        listed = carray(pointer(open_, np.int64), room)
        are_ties = are_alike(out_code, cp_code, given) & has_heads(factors)
        bad, unsure, count = 0, 0, 0
        for start in range(0, size, TILE):
            n = min(TILE, size - start)
            if out_code == FLOAT64:
                for i in range(n):
                    index[i] = np.uint64(start + i)
                count = n
            else:
                count = quickly(
                    cp, cp_code, factors, given, out, out_code, start, n, tile, open_rows, index, count
                )
            while count >= TILE or (count and start + TILE >= size):  # many at a time
                left = some = min(count, TILE)
                if are_ties:
                    left = ties(cp, factors, given, out, out_code, index[:some], tile, open_rows)
                found, unsure = _exactly(
                    cp,
                    cp_code,
                    factors,
                    given,
                    threshold,
                    out,
                    out_code,
                    index[:left],
                    rows,
                    x,
                    y,
                    scratch,
                    listed,
                    unsure,
                )
                bad += found
                count -= some
                for i in range(count):
                    index[i] = index[some + i]
        carray(pointer(result, np.int64), 1)[0] = bad
        return unsure

    return sums


single_sums = _sums_that(_quickly_single, np.float32)
double_sums = _sums_that(_quickly_double, np.float64)
