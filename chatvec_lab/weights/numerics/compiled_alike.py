"""The compiled half of `sums` for two or three terms in the one format of 16 bits that CP and result have, too.

A tile's sums and the bound of their error (see `compiled_bounds`) never leave the registers.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from chatvec_lab.weights.numerics.compiled_lanes import _fma, load, pointer
from chatvec_lab.weights.numerics.sums import BFLOAT16, FLOAT16

_F, _U = np.float32, np.uint32
_UPPER, _SIGN = _U(0xFFFF0000), _U(0x80000000)


@njit(nogil=True, error_model="numpy")
def are_alike(out_code, cp_code, given):
    """Whether this module takes a sum."""
    is_so = (out_code <= FLOAT16) & (cp_code == out_code) & ((given.shape[0] == 2) | (given.shape[0] == 3))
    for k in range(given.shape[0]):
        is_so &= (given[k, 0, 1] == out_code) & (given[k, 1, 1] == out_code)
    return is_so


@njit(nogil=True, error_model="numpy", inline="always")
def _add(factor, d, s, every):
    """A sum with one term more, and the size of all its terms: it does not vanish where a difference does not."""
    return _fma(factor, d, s), _fma(max(abs(factor), _F(1.0)), abs(d), every)


def _rounding(dropped: int, smallest: float, largest: float):
    """A function that rounds float32 sums to a format of 16 bits."""
    half = _U(1 << dropped - 1)
    kept = _U(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    low = _F(smallest).view(_U)
    span = _U(_F(largest).view(_U) - low)

    @njit(nogil=True, error_model="numpy", inline="always")
    def rounded(s, every, factor):
        """The bits of the sum, of which the kept ones are to be taken, and whether that is open."""
        error = every * factor
        below = _U(_F(s - error).view(_U) + half)
        above = _U(_F(s + error).view(_U) + half)
        size = _U(_F(s).view(_U) & _U(~_SIGN))
        is_clear = (_U(_U(below ^ above) & kept) == _U(0)) & (_U(size - low) < span)
        return above, _U(not (is_clear | (every == _F(0.0))))

    return rounded


_round_bfloat16 = _rounding(16, 2.0**-100, 2.0**127)
_round_float16 = _rounding(13, 2.0**-14, 2.0**15)  # subnormal numbers are left open


@njit(nogil=True, error_model="numpy", inline="always")
def _lower(word):
    """The first of two bfloat16s in a word, as a float32."""
    return _U(word << _U(16)).view(_F)


@njit(nogil=True, error_model="numpy", inline="always")
def _upper(word):
    return _U(word & _UPPER).view(_F)


@njit(nogil=True, error_model="numpy")
def _bfloat16(cp, f, a, b, g, x, y, h, p, q, factor, open_, out):
    """Fill `out`, two elements to a word, and their flags. Without `p` there are two terms."""
    for i in range(out.size):
        c, d, e = _lower(cp[i]), _lower(a[i]) - _lower(b[i]), _lower(x[i]) - _lower(y[i])
        s, every = _add(f, d, c, abs(c))
        s, every = _add(g, e, s, every)
        if p is not None:
            s, every = _add(h, _lower(p[i]) - _lower(q[i]), s, every)
        first, is_open = _round_bfloat16(s, every, factor)
        c, d, e = _upper(cp[i]), _upper(a[i]) - _upper(b[i]), _upper(x[i]) - _upper(y[i])
        s, every = _add(f, d, c, abs(c))
        s, every = _add(g, e, s, every)
        if p is not None:
            s, every = _add(h, _upper(p[i]) - _upper(q[i]), s, every)
        second, is_too = _round_bfloat16(s, every, factor)
        out[i] = _U(_U(second & _UPPER) | _U(first >> _U(16)))
        open_[i] = np.uint16(is_open | _U(is_too << _U(8)))


@njit(nogil=True, error_model="numpy")
def _float16(cp, f, a, b, g, x, y, h, p, q, factor, open_, out):
    """Fill `out` and the flags of its elements. Without `p` there are two terms."""
    for i in range(out.size):
        c, d, e = load(cp[i]), load(a[i]) - load(b[i]), load(x[i]) - load(y[i])
        s, every = _add(f, d, c, abs(c))
        s, every = _add(g, e, s, every)
        if p is not None:
            s, every = _add(h, load(p[i]) - load(q[i]), s, every)
        bits, is_open = _round_float16(s, every, factor)
        number = _U(_U(_U(bits & _U(~_SIGN)) >> _U(13)) - _U(112 << 10)) if every != _F(0.0) else _U(0)
        out[i] = np.uint16(number | _U(_U(bits >> _U(16)) & _U(0x8000)))
        open_[i] = np.uint8(is_open)


@njit(nogil=True, error_model="numpy")
def alike(cp, factors, given, out, out_code, start, n, open_, factor):
    """Fill `n` elements from `start` on, and the flags of those that are left open."""
    at = 2 * start
    f, g = _F(factors[0]), _F(factors[1])
    last = factors.size - 1  # a third term, or the second, which is not used then
    h = _F(factors[last])
    if out_code == BFLOAT16:
        m = n >> 1
        cp_, out_ = carray(pointer(cp + at, _U), m), carray(pointer(out + at, _U), m)
        a, b = carray(pointer(given[0, 0, 0] + at, _U), m), carray(pointer(given[0, 1, 0] + at, _U), m)
        x, y = carray(pointer(given[1, 0, 0] + at, _U), m), carray(pointer(given[1, 1, 0] + at, _U), m)
        p, q = carray(pointer(given[last, 0, 0] + at, _U), m), carray(pointer(given[last, 1, 0] + at, _U), m)
        flags = carray(pointer(open_, np.uint16), m)
        if last == 1:
            _bfloat16(cp_, f, a, b, g, x, y, h, None, None, factor, flags, out_)
        else:
            _bfloat16(cp_, f, a, b, g, x, y, h, p, q, factor, flags, out_)
        if n & 1:
            carray(pointer(open_, np.uint8), n)[n - 1] = 1  # one without a partner
        return
    cp_, out_ = carray(pointer(cp + at, np.int16), n), carray(pointer(out + at, np.uint16), n)
    a, b = (
        carray(pointer(given[0, 0, 0] + at, np.int16), n),
        carray(pointer(given[0, 1, 0] + at, np.int16), n),
    )
    x, y = (
        carray(pointer(given[1, 0, 0] + at, np.int16), n),
        carray(pointer(given[1, 1, 0] + at, np.int16), n),
    )
    p, q = (
        carray(pointer(given[last, 0, 0] + at, np.int16), n),
        carray(pointer(given[last, 1, 0] + at, np.int16), n),
    )
    flags = carray(pointer(open_, np.uint8), n)
    if last == 1:
        _float16(cp_, f, a, b, g, x, y, h, None, None, factor, flags, out_)
    else:
        _float16(cp_, f, a, b, g, x, y, h, p, q, factor, flags, out_)
