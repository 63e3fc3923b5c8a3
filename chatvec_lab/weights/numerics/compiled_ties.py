"""The compiled half of `sums` for what `compiled_alike` leaves open: on which side of a middle a sum lies, or that it ties.

Near-ties are common: 0.3 times a few units, say, ends a hair beside a .5. They are decided by what is left at the middle,
cp - middle + sum of coefficient * difference, with each coefficient cut into a head of 16 bits and a tail. Let `top` be the
largest of the given numbers. Those that are not zero lie within 2**10 of each other, and the sum between top / 16 and 2 * top:

- cp - middle and the differences have at most 23 bits, so they are exact in float32;
- of coefficients between 2**-10 and 4, cp - middle with all products of heads has at most 51 bits, so it is exact in float64;
- a sum of floats is off by less than 2**-17 * top, a quarter of the unit of its result, so its middle is the right one;
- adding the tails loses half a unit of each sum but the last, which keeps its sign.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from chatvec_lab.weights.numerics.compiled_bounds import _list
from chatvec_lab.weights.numerics.compiled_lanes import _fma, load, pointer
from chatvec_lab.weights.numerics.sums import BFLOAT16, ROW, TILE

_F, _U, _D, _Q = np.float32, np.uint32, np.float64, np.uint64
_SIZE = _U(0x7FFFFFFF)
_HEAD = _Q(0xFFFFFFE000000000)  # the sign, the exponent and 15 bits after the hidden one
_WINDOW, _BELOW, _AROUND = (_U(powers << 23) for powers in (10, 4, 5))
_LOST = 2.0**-50  # of a sum of float64s: eight times what it may lose


@njit(nogil=True, error_model="numpy")
def has_heads(factors):
    """Whether the coefficients are such that products of their heads add up without an error."""
    is_so = True
    for k in range(factors.size):
        is_so &= (abs(factors[k]) >= 2.0**-10) & (abs(factors[k]) < 4.0)
    return is_so


@njit(nogil=True, error_model="numpy", inline="always")
def _head(factor):
    return _Q(_D(factor).view(_Q) & _HEAD).view(_D)


@njit(nogil=True, error_model="numpy")
def _take(address, index, row):
    """Some elements of 16 bits."""
    given = carray(pointer(address, np.uint16), np.int64(index[index.size - 1]) + 1)
    for i in range(index.size):
        row[i] = given[index[i]]


@njit(nogil=True, error_model="numpy", inline="always")
def _range(x, y, least, most):
    """The range of magnitudes, as bits, with two more: the least that is not zero, less one, and the largest."""
    first, second = _U(_F(x).view(_U) & _SIZE), _U(_F(y).view(_U) & _SIZE)
    return min(least, min(_U(first - _U(1)), _U(second - _U(1)))), max(most, max(first, second))


def _by_middles(dropped: int, bias: int, smallest: float, largest: float):
    """The two halves of the work for a format of 16 bits, which is a float32 without its last bits, the exponent moved."""
    half, kept = _U(1 << dropped - 1), _U(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    low = _F(smallest).view(_U)
    span = _U(_F(largest).view(_U) - low)
    dropped, bias = _U(dropped), _U(bias)

    @njit(nogil=True, error_model="numpy")
    def prepare(c, f, a, b, g, x, y, h, p, q, middle, rest, d, e, k, open_):
        """The middle next to each sum as bits, CP less that middle, differences, and where these may have an error."""
        for i in range(c.size):
            cp, a_, b_, x_, y_ = load(c[i]), load(a[i]), load(b[i]), load(x[i]), load(y[i])
            d[i], e[i] = a_ - b_, x_ - y_
            s = _fma(g, x_ - y_, _fma(f, a_ - b_, cp))
            size = _U(_F(cp).view(_U) & _SIZE)
            least, most = _range(a_, b_, _U(size - _U(1)), size)
            least, most = _range(x_, y_, least, most)
            if p is not None:
                p_, q_ = load(p[i]), load(q[i])
                k[i] = p_ - q_
                s = _fma(h, p_ - q_, s)
                least, most = _range(p_, q_, least, most)
            bits = _F(s).view(_U)
            size = _U(bits & _SIZE)
            middle[i] = _U(_U(bits & kept) | half)
            rest[i] = cp - _U(_U(bits & kept) | half).view(_F)
            is_exact = (_U(most - least) < _WINDOW) & (_U(_U(size - most) + _BELOW) < _AROUND)
            open_[i] = _U(not (is_exact & (_U(size - low) < span)))

    @njit(nogil=True, error_model="numpy")
    def decide(middle, rest, d, e, k, f, g, h, is_unsafe, open_, out):
        """Round the sums; `open_` are those that this leaves as they are."""
        f_, g_, h_ = _head(f), _head(g), _head(h)
        for i in range(out.size):
            first, second = _D(d[i]), _D(e[i])
            s = _fma(g_, second, _fma(f_, first, _D(rest[i])))
            if k is None:
                s = _fma(f - f_, first, s)
                lossy = abs(s)
            else:
                third = _D(k[i])
                s = _fma(f - f_, first, _fma(h_, third, s))
                lossy = abs(s)
                s = _fma(h - h_, third, s)
                lossy += abs(s)
            s = _fma(g - g_, second, s)
            is_told = (abs(s) > _LOST * lossy) | (lossy == 0.0)  # if nothing is lost, a tie is one
            bits = middle[i]
            sign = _U(bits >> _U(31))
            beyond = -s if sign != _U(0) else s
            number = _U(bits >> dropped)
            up = _U(_U(beyond > 0.0) | _U(_U(beyond == 0.0) & _U(number & _U(1))))
            number = _U(_U(_U(_U(bits & _SIZE) >> dropped) - bias) + up)
            out[i] = np.uint16(_U(number | _U(sign << _U(15))))
            open_[i] = np.uint8(is_unsafe[i] | _U(not is_told))

    return prepare, decide


@njit(nogil=True, error_model="numpy", inline="always")
def _row(address, index, row, known, known_row):
    """Where the elements of an array are: in a row taken now, or in one that is known (CP and a base are shared as a rule)."""
    if address == known:
        return known_row
    _take(address, index, carray(pointer(row, np.uint16), index.size))
    return row


def _filling(prepare, decide, kind):
    """A function that fills `out` and flags from rows of raw elements at addresses."""

    @njit(nogil=True, error_model="numpy")
    def fill(rows, factors, n, tile, flags, out):
        middle, unsafe = carray(pointer(tile, _U), n), carray(pointer(tile + 4 * ROW, _U), n)
        rest, d = carray(pointer(tile + 8 * ROW, _F), n), carray(pointer(tile + 12 * ROW, _F), n)
        e, k = carray(pointer(tile + 16 * ROW, _F), n), carray(pointer(tile + 20 * ROW, _F), n)
        c, a, b = (
            carray(pointer(rows[0], kind), n),
            carray(pointer(rows[1], kind), n),
            carray(pointer(rows[2], kind), n),
        )
        x, y = carray(pointer(rows[3], kind), n), carray(pointer(rows[4], kind), n)
        p, q = carray(pointer(rows[5], kind), n), carray(pointer(rows[6], kind), n)
        f, g, h = factors[0], factors[1], factors[factors.size - 1]
        if factors.size == 2:
            prepare(c, _F(f), a, b, _F(g), x, y, _F(h), None, None, middle, rest, d, e, k, unsafe)
            decide(middle, rest, d, e, None, f, g, h, unsafe, flags, out)
        else:
            prepare(c, _F(f), a, b, _F(g), x, y, _F(h), p, q, middle, rest, d, e, k, unsafe)
            decide(middle, rest, d, e, k, f, g, h, unsafe, flags, out)

    return fill


_fill_bfloat16 = _filling(*_by_middles(16, 0, 2.0**-80, 2.0**122), np.uint16)
_fill_float16 = _filling(*_by_middles(13, 112 << 10, 2.0**-14, 2.0**15), np.int16)


@njit(nogil=True, error_model="numpy")
def ties(cp, factors, given, out, out_code, index, tile, open_):
    """Fill elements of sums for which `are_alike` and `has_heads` hold; how many stay open, the first in `index` then."""
    n, row, last = index.size, tile + 24 * ROW, factors.size - 1
    flags = carray(pointer(open_, np.uint8), TILE)
    flags[n:] = 0
    _take(cp, index, carray(pointer(row, np.uint16), n))
    base, at = given[0, 1, 0], row + 4 * ROW
    rows = (
        row,
        _row(given[0, 0, 0], index, row + 2 * ROW, cp, row),
        _row(base, index, at, cp, row),
        _row(given[1, 0, 0], index, row + 6 * ROW, cp, row),
        _row(given[1, 1, 0], index, row + 8 * ROW, base, at if base != cp else row),
        _row(given[last, 0, 0], index, row + 10 * ROW, cp, row) if last > 1 else row,
        _row(given[last, 1, 0], index, row + 12 * ROW, base, at if base != cp else row) if last > 1 else row,
    )
    rounded = carray(pointer(row, np.uint16), n)
    if out_code == BFLOAT16:
        _fill_bfloat16(rows, factors, n, tile, flags[:n], rounded)
    else:
        _fill_float16(rows, factors, n, tile, flags[:n], rounded)
    to = carray(pointer(out, np.uint16), np.int64(index[n - 1]) + 1)
    for i in range(n):
        to[index[i]] = rounded[i]
    places = carray(pointer(tile, np.uint64), TILE)
    left = _list(carray(pointer(open_, np.uint64), TILE // 8), 0, places, 0)
    for i in range(left):
        index[i] = index[places[i]]
    return left
