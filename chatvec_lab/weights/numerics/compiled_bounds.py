"""The compiled half of `sums` that decides most elements: the plain sum in floats, with a bound of its error.

Of k terms the plain sum is off by less than (k + 2) * u * sizes, u being half a unit of the float type and `sizes` the sum of
the magnitudes of CP and products: k sums, all differences together, all coefficients together. Twice that is allowed for.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from chatvec_lab.weights.numerics.compiled_alike import alike, are_alike
from chatvec_lab.weights.numerics.compiled_lanes import _fma, load, pointer
from chatvec_lab.weights.numerics.sums import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, NONE, ROW, TILE

_U, _Q = np.uint32, np.uint64
TINY = 2.0**-900  # a product below this may have an error that float64 cannot hold


@njit(nogil=True, error_model="numpy")
def _copy(raw, row):
    for i in range(row.size):
        row[i] = row.dtype.type(load(raw[i]))


@njit(nogil=True, error_model="numpy")
def _widen(address, code, start, row):
    """Elements from `start` on, as floats of the row's type. A missing array is zero."""
    n = row.size
    if code == BFLOAT16:
        _copy(carray(pointer(address + 2 * start, np.uint16), n), row)
    elif code == FLOAT16:
        _copy(carray(pointer(address + 2 * start, np.int16), n), row)
    elif code == FLOAT32:
        _copy(carray(pointer(address + 4 * start, np.float32), n), row)
    elif code == FLOAT64:
        _copy(carray(pointer(address + 8 * start, np.float64), n), row)
    else:
        row[:] = 0.0


@njit(nogil=True, error_model="numpy")
def _as_row(address, code, start, row):
    """The same without a copy where they lie as floats of the row's type."""
    if code == (FLOAT32 if row.itemsize == 4 else FLOAT64):
        return carray(pointer(address + row.itemsize * start, row.dtype), row.size)
    _widen(address, code, start, row)
    return row


@njit(nogil=True, error_model="numpy")
def _add_pair(coefficient, weight, plus, minus, sums, sizes):
    for i in range(sums.size):
        d = sums.dtype.type(load(plus[i])) - sums.dtype.type(load(minus[i]))
        sums[i] = _fma(coefficient, d, sums[i])
        sizes[i] = _fma(weight, abs(d), sizes[i])


@njit(nogil=True, error_model="numpy")
def _add_one(coefficient, weight, plus, sums, sizes, errors):
    for i in range(sums.size):
        d, before = plus[i], sums[i]
        sums[i] = after = _fma(coefficient, d, before)
        sizes[i] = _fma(weight, abs(d), sizes[i])
        if errors is not None:  # of a product that is exact, so is a sum that gives both of its terms back
            p = coefficient * d
            is_exact = (_fma(coefficient, d, -p) == 0.0) & ((abs(p) > TINY) | (d == 0.0))
            is_exact &= (after - before == p) & (after - p == before)
            errors[i] = errors[i] if is_exact else 1.0


@njit(nogil=True, error_model="numpy")
def _add_any(coefficient, addresses, codes, start, sums, sizes, errors, x, y):
    """Add a term to the sums, and its sizes to theirs: these never vanish where a difference does not.

    `errors` (or None) is zero where a sum is known to be exact, which of differences is not asked.
    """
    n, factor = sums.size, sums.dtype.type(coefficient)
    weight = max(abs(factor), sums.dtype.type(1.0))
    code = codes[0] if codes[0] == codes[1] else NONE
    if code == BFLOAT16:
        a = carray(pointer(addresses[0] + 2 * start, np.uint16), n)
        b = carray(pointer(addresses[1] + 2 * start, np.uint16), n)
        _add_pair(factor, weight, a, b, sums, sizes)
    elif code == FLOAT16:
        a = carray(pointer(addresses[0] + 2 * start, np.int16), n)
        b = carray(pointer(addresses[1] + 2 * start, np.int16), n)
        _add_pair(factor, weight, a, b, sums, sizes)
    else:
        c = _as_row(addresses[0], codes[0], start, x)
        if codes[1] == NONE:
            _add_one(factor, weight, c, sums, sizes, errors)
            return
        _add_pair(factor, weight, c, _as_row(addresses[1], codes[1], start, y), sums, sizes)
    if errors is not None:
        errors[:] = 1.0


def _narrow(dropped: int, bias: int, smallest: float, largest: float):
    """A function that rounds to a format of 16 bits: float32 without its last bits, the exponent moved."""
    middle, rest = _U(1 << dropped - 1), _U((1 << dropped) - 1)
    low, high = (np.float32(limit).view(np.uint32) for limit in (smallest, largest))
    dropped, bias = _U(dropped), _U(bias)

    @njit(nogil=True, error_model="numpy")
    def decide(sums, sizes, errors, open_, out, half, factor):
        """Round where the middle between two stored numbers is far enough, or the sum exact; how many that leaves open.

        `half`: what the float32 next to a sum may be off, in units of its last bit.
        """
        count = _U(0)
        for i in range(sums.size):
            s, every = sums[i], sizes[i]
            size = abs(s)
            bits = np.float32(size).view(np.uint32)
            tail = _U(bits & rest)
            if errors is None:
                number = _U(_U(bits >> dropped) + _U(tail > middle))
            else:  # an exact tie goes to the even one
                odd = _U(_U(bits >> dropped) & _U(1))
                number = _U(_U(bits >> dropped) + _U(_U(tail + odd) > middle))
            number = _U(number - bias) if bits >= low else _U(0)
            out[i] = np.uint16(number | _U(_U(s < 0.0) << _U(15)))
            distance = sums.dtype.type(np.int32(abs(np.int32(np.int32(tail) - np.int32(middle)))))
            is_told = (distance - half) * size > factor * every
            if errors is not None:
                is_told |= (errors[i] == 0.0) & (np.float64(np.float32(size)) == size)
            is_open = _U(not ((is_told & (bits >= low) & (bits < high)) | (every == 0.0)))
            open_[i] = np.uint8(is_open)
            count = _U(count + is_open)
        return np.int64(count)

    return decide


_decide_bfloat16 = _narrow(16, 0, 2.0**-100, 2.0**127)
_decide_float16 = _narrow(13, 112 << 10, 2.0**-14, 2.0**15)  # subnormal numbers are left open


@njit(nogil=True, error_model="numpy")
def _decide_float32(sums, sizes, open_, out, factor):
    """Round where all that the exact value may be rounds alike; how many elements that leaves open."""
    count = _U(0)
    for i in range(sums.size):
        s = sums[i] + 0.0  # a zero is positive
        error = sizes[i] * factor
        low, high = np.float32(s - error), np.float32(s + error)
        out[i] = high
        size = abs(s)
        is_clear = (size >= 2.0**-100) & (size < 2.0**127) & (low == high)
        is_open = _U(not (is_clear | (sizes[i] == 0.0)))
        open_[i] = np.uint8(is_open)
        count = _U(count + is_open)
    return np.int64(count)


@intrinsic
def _zeros_below(typing, word):
    """How many of the last bits are zero."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], context.get_constant(types.boolean, False))

    return word(word), generate


@intrinsic
def _bits(typing, flags, j):
    """The 64 flags from word j on as bits, the first in the last one."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        all_ = ir.VectorType(ir.IntType(8), 64)
        flags = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), all_.as_pointer()), align=8)
        return builder.bitcast(builder.trunc(flags, ir.VectorType(ir.IntType(1), 64)), ir.IntType(64))

    return types.uint64(flags, j), generate


@njit(nogil=True, error_model="numpy")
def _list(flags, start, index, count):
    """Add the places of the flags, bytes that are 0 or 1 as whole words, to the `count` in `index`."""
    n = _Q(count)
    for j in range(0, flags.size, 8):
        bits, first = _bits(flags, j), _Q(start + 8 * j)
        while bits != _Q(0):
            for _ in range(8):  # a loop of few turns is foreseen; what is too much is written over
                index[n] = _Q(first + _zeros_below(bits))
                n = _Q(n + _Q(bits != _Q(0)))
                bits = _Q(bits & _Q(bits - _Q(1)))
    return np.int64(n)


def _quickly_in(kind, unit: float, half: float):
    """A function that sums in floats of one kind, `unit` being twice what they are off."""
    is_double = kind is np.float64
    factor_narrow = 2.0 * unit / 2.0**-24  # in units of the last bit of a float32

    @njit(nogil=True, error_model="numpy")
    def quickly(cp, cp_code, factors, given, out, out_code, start, n, tile, open_, index, count):
        """Fill a tile where the sum tells the rounding; what it leaves open joins the `count` in `index`."""
        sums, sizes = carray(pointer(tile, kind), n), carray(pointer(tile + 8 * ROW, kind), n)
        x, y = carray(pointer(tile + 16 * ROW, kind), n), carray(pointer(tile + 24 * ROW, kind), n)
        flags = carray(pointer(open_, np.uint8), TILE)
        flags[n:] = 0
        errors = carray(pointer(tile + 32 * ROW, kind), n) if is_double else None
        terms = np.float64(factors.size + 2)
        if not is_double and are_alike(out_code, cp_code, given):
            alike(cp, factors, given, out, out_code, start, n, open_, kind(terms * unit))
            return _list(carray(pointer(open_, np.uint64), TILE // 8), start, index, count)
        _widen(cp, cp_code, start, sums)
        for i in range(n):
            sizes[i] = abs(sums[i])
        if errors is not None:
            errors[:] = 0.0
        for k in range(factors.size):
            _add_any(factors[k], given[k, :, 0], given[k, :, 1], start, sums, sizes, errors, x, y)
        narrow = kind(terms * factor_narrow)
        if out_code == BFLOAT16:
            a = carray(pointer(out + 2 * start, np.uint16), n)
            found = _decide_bfloat16(sums, sizes, errors, flags, a, kind(half), narrow)
        elif out_code == FLOAT16:
            a = carray(pointer(out + 2 * start, np.uint16), n)
            found = _decide_float16(sums, sizes, errors, flags, a, kind(half), narrow)
        else:
            c = carray(pointer(out + 4 * start, np.float32), n)
            found = _decide_float32(sums, sizes, flags, c, kind(terms * unit))
        return _list(carray(pointer(open_, np.uint64), TILE // 8), start, index, count) if found else count

    return quickly


_quickly_single = _quickly_in(np.float32, 2.0**-23, 0.0)  # for 16-bit results of formats up to 32 bits
_quickly_double = _quickly_in(np.float64, 2.0**-52, 0.75)
