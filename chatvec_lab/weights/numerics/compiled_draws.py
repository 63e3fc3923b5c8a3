"""The compiled half of `draws`: Philox, normal numbers from it, noise of a given norm. Imported only to compile.

Only integer arithmetic and float operations that round once (a product, a sum, a root, a fused multiply-add) in a fixed
order, and no library's logarithm or sine: the same bits on every machine.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from chatvec_lab.weights.numerics.compiled_lanes import _fma, _root, load, pointer
from chatvec_lab.weights.numerics.draws import COUNTERS, LANES, TILE
from chatvec_lab.weights.numerics.sums import BFLOAT16

_F, _I, _U, _Q = np.float32, np.int32, np.uint32, np.uint64
_SIZE, _LEAST, _PLAIN = _U(0x7FFFFFFF), _U(27 << 23), _U(228 << 23)  # 2**-100, and from there to infinity
_LOW, _HALF_WORD = _Q(0xFFFFFFFF), _Q(32)
_M0, _M1, _W0, _W1 = (_Q(c) for c in (0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85))  # Salmon et al. 2011

# minimax polynomials of Cephes (logf, sinf, cosf)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (_F(c) for c in (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
))  # fmt: skip
_S0, _S1, _S2 = (_F(c) for c in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1))
_C0, _C1, _C2 = (_F(c) for c in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2))
_ONE, _HALF, _ROOT_HALF_BITS = _F(1), _F(0.5), _I(0x3F3504F3)
_MINUS_TWO, _MINUS_HALF, _LN2 = _F(-2), _F(-0.5), _F(np.log(2))
_UNIT, _STEP = _F(-(2.0**-31)), _F(2 * np.pi / 2**32)  # of an angle


@njit(nogil=True, error_model="numpy")
def _words(key, stream, tile, words):
    """Philox4x32-10 of the counters of a tile: word w of counter j goes to w * COUNTERS + j."""
    first = _Q(_Q(tile) * _Q(COUNTERS))
    for j in range(COUNTERS):
        counter = _Q(first + _Q(j))
        x0, x1 = _Q(counter & _LOW), _Q(counter >> _HALF_WORD)
        x2, x3 = _Q(stream & _LOW), _Q(stream >> _HALF_WORD)
        k0, k1 = _Q(key & _LOW), _Q(key >> _HALF_WORD)
        for _ in range(10):
            p0, p1 = _Q(x0 * _M0), _Q(x2 * _M1)
            x0 = _Q(_Q(_Q(p1 >> _HALF_WORD) ^ x1) ^ k0)
            x2 = _Q(_Q(_Q(p0 >> _HALF_WORD) ^ x3) ^ k1)
            x1, x3 = _Q(p1 & _LOW), _Q(p0 & _LOW)
            k0, k1 = _Q(_Q(k0 + _W0) & _LOW), _Q(_Q(k1 + _W1) & _LOW)
        words[j] = _U(x0)
        words[COUNTERS + j] = _U(x1)
        words[2 * COUNTERS + j] = _U(x2)
        words[3 * COUNTERS + j] = _U(x3)


@njit(nogil=True, error_model="numpy", inline="always")
def _radius(word):
    """sqrt(-2 ln u) of u = (k + 1/2) / 2**31, k the upper 31 bits: never zero, at most 6.7."""
    k = _I(word >> _U(1))
    bits = _F(_F(k) + _HALF).view(_I)
    exponent = _I(_I(bits - _ROOT_HALF_BITS) >> _I(23))
    t = _F(
        _I(bits - _I(exponent << _I(23))).view(_F) - _ONE
    )  # u = (1 + t) * 2**(exponent - 31), t below 0.42
    if exponent == _I(31):  # u near one, which t has exactly
        t = _F(_F(_F(_I(_I(0x7FFFFFFF) - k)) + _HALF) * _UNIT)
    p = _fma(_fma(_fma(_fma(_L0, t, _L1), t, _L2), t, _L3), t, _L4)
    p = _fma(_fma(_fma(_fma(p, t, _L5), t, _L6), t, _L7), t, _L8)
    square = _F(t * t)
    rest = _fma(_MINUS_HALF, square, _F(_F(square * t) * p))
    log = _fma(_F(_I(exponent - _I(31))), _LN2, _F(t + rest))
    return _root(_F(_MINUS_TWO * log))


@njit(nogil=True, error_model="numpy", inline="always")
def _cosine_and_sine(word):
    """Of the angle 2 pi (k + 1/2) / 2**32: never zero."""
    quarter = _U(_U(word + _U(1 << 29)) >> _U(30))
    part = _U(word - _U(quarter << _U(30))).view(_I)  # within an eighth of a turn
    x = _F(_F(_F(part) + _HALF) * _STEP)
    z = _F(x * x)
    sine = _fma(_F(x * z), _fma(_fma(_S0, z, _S1), z, _S2), x)
    cosine = _fma(_F(z * z), _fma(_fma(_C0, z, _C1), z, _C2), _fma(_MINUS_HALF, z, _ONE))
    is_swapped = _U(quarter & _U(1)) != _U(0)
    a, b = (sine, cosine) if is_swapped else (cosine, sine)
    # cos, -sin, -cos, sin and sin, cos, -sin, -cos of 0 to 3 quarters
    a = _U(_F(a).view(_U) ^ _U(_U(_U(quarter + _U(1)) & _U(2)) << _U(30))).view(_F)
    b = _U(_F(b).view(_U) ^ _U(_U(quarter & _U(2)) << _U(30))).view(_F)
    return a, b


@njit(nogil=True, error_model="numpy")
def _normals(words, out):
    """Normal numbers of a tile, by Box and Muller: two of each two words."""
    for j in range(COUNTERS):
        radius = _radius(words[j])
        cosine, sine = _cosine_and_sine(words[COUNTERS + j])
        out[j], out[COUNTERS + j] = _F(radius * cosine), _F(radius * sine)
    for j in range(2 * COUNTERS, 3 * COUNTERS):
        radius = _radius(words[j])
        cosine, sine = _cosine_and_sine(words[COUNTERS + j])
        out[j], out[COUNTERS + j] = _F(radius * cosine), _F(radius * sine)


@njit(nogil=True, error_model="numpy")
def _draw(key, stream, start, out, words, spare):
    """Elements from `start` on of the tensor of normal numbers."""
    done = 0
    while done < out.size:
        tile, skipped = (start + done) // TILE, (start + done) % TILE
        _words(key, stream, tile, words)
        n = min(TILE - skipped, out.size - done)
        if n == TILE:
            _normals(words, out[done : done + TILE])
        else:
            _normals(words, spare)
            for i in range(n):  # numba's slice assignment would need numba at work
                out[done + i] = spare[skipped + i]
        done += n


@njit(nogil=True, error_model="numpy")
def _square(values, sums):
    """The sum of squares, in an order that does not depend on the processor: first every LANES-th of them."""
    sums[:] = 0.0
    return _square_more(values, sums)


def _adding(term):
    """A function that adds terms of values to the sums, each from its first element on, and gives the sum of all."""

    @njit(nogil=True, error_model="numpy")
    def more(values, sums):
        tiles, whole = values.size // TILE * TILE, values.size // LANES * LANES
        for i in range(0, tiles, TILE):
            for j in range(LANES):  # a tile at a time, whose sums stay in registers
                total = sums[j]
                for k in range(i + j, i + j + TILE, LANES):
                    total += term(np.float64(values[k]))
                sums[j] = total
        for i in range(tiles, whole, LANES):
            for j in range(LANES):
                sums[j] += term(np.float64(values[i + j]))
        for i in range(whole, values.size):
            sums[i - whole] += term(np.float64(values[i]))
        total = 0.0
        for j in range(LANES):
            total += sums[j]
        return total

    return more


_square_more = _adding(njit(inline="always")(lambda value: value * value))
_size_more = _adding(njit(inline="always")(lambda value: abs(value)))


@njit(nogil=True, error_model="numpy")
def _draw_and_square(key, stream, start, one, words, spare, sums):
    """Draw a unit, and the sum of its squares, which are taken while a tile is near."""
    sums[:] = 0.0
    total, done = 0.0, 0
    if start % TILE:  # its tiles are not those of the sum
        _draw(key, stream, start, one, words, spare)
        return _square_more(one, sums)
    while done < one.size:
        tile = one[done : done + TILE]
        _draw(key, stream, start + done, tile, words, spare)
        total = _square_more(tile, sums)
        done += TILE
    return total


def words(key, stream, start, size, out):
    """Fill `out` with the words of whole tiles, from element `start`, a tile's first, on."""
    found = carray(pointer(out, np.uint32), size)
    for i in range(0, size, TILE):
        _words(key, stream, (start + i) // TILE, found[i : i + TILE])
    return 0


def noise(key, stream, start, size, unit, norms, out, scratch):
    """Fill `out` with whole units of normal numbers, each scaled to the norm in `norms` and rounded to float32."""
    values = carray(pointer(out, np.float32), size)
    tile, spare = (
        carray(pointer(scratch, np.uint32), TILE),
        carray(pointer(scratch + 4 * TILE, np.float32), TILE),
    )
    sums, wanted = (
        carray(pointer(scratch + 8 * TILE, np.float64), LANES),
        carray(pointer(norms, np.float64), size),
    )
    for i in range(0, size, unit):
        one = values[i : i + unit]
        factor = wanted[i // unit] / _root(_draw_and_square(key, stream, start + i, one, tile, spare, sums))
        for j in range(one.size):
            one[j] = np.float32(factor * np.float64(one[j]))
    return 0


def squares(values, size, unit, found, scratch):
    """The sum of squares of each unit of float32 elements."""
    given, sums = carray(pointer(values, np.float32), size), carray(pointer(scratch, np.float64), LANES)
    each = carray(pointer(found, np.float64), size)
    for i in range(0, size, unit):
        each[i // unit] = _square(given[i : i + unit], sums)
    return 0


def sizes(values, size, found, scratch):
    """The sum of the magnitudes of float32 elements."""
    given, sums = carray(pointer(values, np.float32), size), carray(pointer(scratch, np.float64), LANES)
    sums[:] = 0.0
    carray(pointer(found, np.float64), 1)[0] = _size_more(given, sums)
    return 0


@njit(nogil=True, error_model="numpy")
def _differences(plus, minus, row):
    """plus - minus in float32; how many are NaN, infinite, or smaller than 2**-100 and not zero."""
    odd = _U(0)
    for i in range(row.size):
        d = _F(load(plus[i]) - load(minus[i]))
        row[i] = d
        size = _U(d.view(_U) & _SIZE)
        odd = _U(odd + _U((_U(size - _LEAST) >= _PLAIN) & (size != _U(0))))
    return odd


@njit(nogil=True, error_model="numpy")
def _square_pair(plus, minus, row, sums):
    """`_square` of a difference, a tile at a time, and how many elements are not plain."""
    sums[:] = 0.0
    total, odd = 0.0, _U(0)
    for start in range(0, plus.size, TILE):
        n = min(TILE, plus.size - start)
        odd = _U(odd + _differences(plus[start : start + n], minus[start : start + n], row[:n]))
        total = _square_more(row[:n], sums)
    return total, odd


def squares_of_pair(plus, minus, code, size, unit, found, scratch):
    """The sum of squares of each unit of plus - minus, two arrays of 16 bits; how many elements are not plain."""
    row, sums = carray(pointer(scratch, _F), TILE), carray(pointer(scratch + 4 * TILE, np.float64), LANES)
    each, odd = carray(pointer(found, np.float64), size), 0
    for i in range(0, size, unit):
        n, begin, other = min(unit, size - i), plus + 2 * i, minus + 2 * i
        if code == BFLOAT16:
            a, b = carray(pointer(begin, np.uint16), n), carray(pointer(other, np.uint16), n)
            total, more = _square_pair(a, b, row, sums)
        else:
            c, d = carray(pointer(begin, np.int16), n), carray(pointer(other, np.int16), n)
            total, more = _square_pair(c, d, row, sums)
        each[i // unit] = total
        odd += np.int64(more)
    return odd


@njit(nogil=True, error_model="numpy")
def _clear(words, limit, raw):
    for i in range(raw.size):
        raw[i] = raw[i] if _Q(words[i]) < limit else raw.dtype.type(0)


def thin(key, stream, start, size, limit, arrays, count, scratch):
    """Set to zero, in `count` arrays, the elements whose word is not below `limit`. `arrays`: addresses and item sizes."""
    tile, given = carray(pointer(scratch, np.uint32), TILE), carray(pointer(arrays, np.int64), (count, 2))
    done = 0
    while done < size:
        skipped = (start + done) % TILE
        _words(key, stream, (start + done) // TILE, tile)
        n = min(TILE - skipped, size - done)
        own = tile[skipped : skipped + n]
        for k in range(count):
            address, width = given[k, 0], given[k, 1]
            if width == 2:
                _clear(own, limit, carray(pointer(address + 2 * done, np.uint16), n))
            elif width == 4:
                _clear(own, limit, carray(pointer(address + 4 * done, np.uint32), n))
            else:
                _clear(own, limit, carray(pointer(address + 8 * done, np.uint64), n))
        done += n
    return 0
