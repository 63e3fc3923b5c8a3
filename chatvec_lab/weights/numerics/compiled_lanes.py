"""The compiled half of `lanes`: one difference in one format, in the processor's vectors. Imported only to compile."""

from __future__ import annotations

import platform

import numpy as np
from llvmlite import ir
from numba import carray, config, njit, types
from numba.extending import intrinsic, overload

from chatvec_lab.weights.numerics.lanes import SPAN
from chatvec_lab.weights.numerics.machine import features

if config.CPU_FEATURES is None:  # here, since all that is compiled imports this, whoever asked for it
    config.CPU_FEATURES = features()  # heard where numba has compiled nothing before
FEW = 32  # elements between two looks at what is proven, where some of a span are not
# whether the processor turns a float16 into a float32 by itself
HAS_HALF = "+f16c" in config.CPU_FEATURES or platform.machine() in ("aarch64", "arm64")
_F, _U, _D, _Q = np.float32, np.uint32, np.float64, np.uint64


@intrinsic
def _fma(typing, a, b, c):
    """a * b + c, rounded once (a single instruction on every processor of the last ten years)."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return a(a, b, c), generate


@intrinsic
def _root(typing, x):
    """The square root, rounded once: an instruction. (numpy's calls a library for numbers below zero.)"""

    def generate(context, builder, signature, arguments):
        root = builder.module.declare_intrinsic("llvm.sqrt", [arguments[0].type])
        return builder.call(root, arguments)

    return x(x), generate


@intrinsic
def _half(typing, x):
    """The float32 of a float16's bits: an instruction, which no setting of denormals touches."""

    def generate(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(x), generate


def load(x):
    """A raw element as a float32 (or as it is): always exact."""


@overload(load, inline="always")
def _load_overload(x):
    if x == types.uint16:  # a bfloat16 is the upper half of a float32
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    if x == types.int16 and HAS_HALF:
        return lambda x: _half(x)
    if x == types.int16:

        def half(x):
            shifted = np.uint32(np.uint32(np.uint32(x) & np.uint32(0x7FFF)) << np.uint32(13))
            kind = np.uint32(shifted & np.uint32(0xF800000))
            bits = np.uint32(shifted + np.uint32(112 << 23))
            bits += np.uint32(
                np.uint32(kind == np.uint32(0xF800000)) * np.uint32(112 << 23)
            )  # infinite or NaN
            is_small = np.uint32(kind == np.uint32(0))  # subnormal: a hidden bit in, and out again
            bits += np.uint32(is_small << np.uint32(23))
            value = np.float32(np.uint32(bits).view(np.float32) - np.float32(is_small) * np.float32(2.0**-14))
            sign = np.uint32(np.uint32(np.uint32(x) & np.uint32(0x8000)) << np.uint32(16))
            return np.uint32(value.view(np.uint32) | sign).view(np.float32)

        return half
    return lambda x: x


def _middle(out, size): ...


@overload(_middle, inline="always")
def _middle_overload(out, size):
    """Bits of a magnitude: what `_pack` takes, and the midpoint between its neighbours in the format of `out`."""
    if out.dtype == types.uint16:
        return lambda out, size: (
            size,
            np.uint32(np.uint32(size & np.uint32(0xFFFF0000)) | np.uint32(0x8000)),
        )
    if out.dtype == types.int16:

        def half(
            out, size
        ):  # a subnormal gets a hidden bit, so that its unit stands where that of others does
            is_small = np.uint32(size < np.uint32(113 << 23))
            hidden = np.uint32(np.uint32(np.uint32(0) - is_small) & np.uint32(113 << 23)).view(np.float32)
            raised = np.float32(np.uint32(size).view(np.float32) + hidden).view(np.uint32)
            middle = np.uint32(np.uint32(raised & np.uint32(0xFFFFE000)) | np.uint32(0x1000)).view(np.float32)
            middle = np.float32(middle - hidden).view(np.uint32)
            return np.uint32(raised - np.uint32(is_small << np.uint32(23))), middle

        return half

    def single(out, size):
        return size, np.uint64(np.uint64(size & np.uint64(0xFFFFFFFFE0000000)) | np.uint64(0x10000000))

    return single


def _is_odd(out, packed): ...


@overload(_is_odd, inline="always")
def _is_odd_overload(out, packed):
    """The last bit that the format of `out` keeps."""
    dropped = {types.uint16: 16, types.int16: 13, types.float32: 29}[out.dtype]
    if out.dtype == types.float32:
        return lambda out, packed: np.uint64(np.uint64(packed >> np.uint64(dropped)) & np.uint64(1))
    return lambda out, packed: np.uint32(np.uint32(packed >> np.uint32(dropped)) & np.uint32(1))


def _pack(out, packed, up, sign): ...


@overload(_pack, inline="always")
def _pack_overload(out, packed, up, sign):
    """The stored number: the magnitude cut to the format of `out`, one unit more if `up`, with its sign."""
    if out.dtype == types.uint16:

        def bfloat16(out, packed, up, sign):
            return np.uint16(np.uint32(np.uint32(np.uint32(packed | sign) >> np.uint32(16)) + up))

        return bfloat16
    if out.dtype == types.int16:

        def half(out, packed, up, sign):
            number = np.uint32(np.uint32(np.uint32(packed >> np.uint32(13)) - np.uint32(112 << 10)) + up)
            return np.int16(np.uint16(number | np.uint32(sign >> np.uint32(16))))

        return half

    def single(out, packed, up, sign):
        kept = np.uint64(np.uint64(packed & np.uint64(0xFFFFFFFFE0000000)) | sign)
        return np.float32(np.uint64(kept + np.uint64(up << np.uint64(29))).view(np.float64))

    return single


def _least(out): ...


@overload(_least, inline="always")
def _least_overload(out):
    """The smallest result that is proven, without its sign: 2**-100, in float16 what no rounding makes a zero."""
    if out.dtype == types.float32:
        return lambda out: np.uint64(923 << 53)
    if out.dtype == types.int16:  # the sign of a zero is that of the exact sum
        return lambda out: np.uint32(102 << 24)
    return lambda out: np.uint32(27 << 24)


def _element_in(F, U, sign: int, tie: int):
    """The element of `out` and whether it is proven, computed in float type F with its bits as U.

    c, x, y as F; s1 + s2 + s3 is the coefficient, each of at most 24 bits (float64: s1 alone). limits, as bits of F:
    smallest |x - y| other than zero, largest result, powers of two by which c may exceed and may fall below it.
    """
    zero, one, low = F(0.0), U(1), U(3)
    sign, rest, tie = U(sign), U(sign - 1), U(tie)

    def element(out, c, x, y, s1, s2, s3, limits):
        c, x, y = F(c), F(x), F(y)
        d = F(x - y)
        total = F(_fma(s1, d, c) + zero).view(U)  # a zero is positive, as in the general way
        negative = U(total & sign)
        packed, size = _middle(out, U(total & rest))
        middle = U(size | negative).view(F)
        # the first sum that is not exact is so large that what follows leaves its sign
        beyond = F(_fma(s3, d, _fma(s2, d, _fma(s1, d, F(c - middle)))))
        away = U(beyond.view(U) ^ negative).view(F)
        threshold = U(U(U(0) - _is_odd(out, packed)) & tie).view(F)  # 0, or for an odd number just below it
        value = _pack(out, packed, U(away > threshold), negative)
        smallest, largest, above, span = limits
        difference = d.view(U)
        is_exact = (F(d + y) == x) & (F(x - d) == y) & (U(difference & low) == U(0))
        is_exact &= U(U(difference << one) - one) >= smallest
        ratio = U(U(c.view(U) & rest) - size)
        cancels = (total == U(0)) & (s2 == zero)  # one product, so nothing is left
        near = (U(ratio + above) <= span) | (c == zero) | cancels
        normal = (U(U(total << one) - one) >= _least(out)) & (size < largest)
        return value, is_exact & near & normal

    return element


_ELEMENTS = {  # a threshold for ties
    types.float32: _element_in(_F, _U, 1 << 31, 0x80800000),
    types.float64: _element_in(_D, _Q, 1 << 63, 0x8010000000000000),
}


def _element(out, c, x, y, s1, s2, s3, limits): ...


@overload(_element, inline="always")
def _element_overload(out, c, x, y, s1, s2, s3, limits):
    return _ELEMENTS[s1]


@njit(nogil=True, error_model="numpy")
def _span(cp, plus, minus, s1, s2, s3, limits, out):
    """Fill `out`; return how many elements are proven. Branchless, for the compiler's vectors."""
    proven = _U(0)
    for i in range(out.size):
        c, x, y = load(cp[i]), load(plus[i]), load(minus[i])
        value, is_proven = _element(out, c, x, y, s1, s2, s3, limits)
        out[i] = value
        proven = _U(proven + _U(is_proven))
    return proven


@njit(nogil=True, error_model="numpy")
def _lane(cp, plus, minus, s1, s2, s3, limits, out, unsure):
    """Fill `out`; return how many elements are not proven and put the first of their indices into `unsure`."""
    found = 0
    for a in range(0, out.size, SPAN):
        b = min(a + SPAN, out.size)
        if _span(cp[a:b], plus[a:b], minus[a:b], s1, s2, s3, limits, out[a:b]) == b - a:
            continue
        for i in range(a, b, FEW):  # rare: once more, to see where
            j = min(i + FEW, b)
            if _span(cp[i:j], plus[i:j], minus[i:j], s1, s2, s3, limits, out[i:j]) == j - i:
                continue
            for k in range(i, j):
                n = k + 1
                if _span(cp[k:n], plus[k:n], minus[k:n], s1, s2, s3, limits, out[k:n]) == 0:
                    if found < unsure.size:
                        unsure[found] = k
                    found += 1
    return found


@njit(nogil=True, error_model="numpy")
def _differences(plus, minus, out, least):
    """Fill `out` with plus - minus; return how many elements may not be proven: too small, infinite or NaN."""
    unproven = _U(0)
    for i in range(out.size):
        x, y = out.dtype.type(load(plus[i])), out.dtype.type(load(minus[i]))
        d = x - y + out.dtype.type(0.0)  # a zero is positive, as in the general way
        out[i] = d
        is_proven = ((abs(d) >= least) | (d == 0.0)) & (abs(d) < np.inf)
        unproven = _U(unproven + _U(not is_proven))
    return unproven


@intrinsic
def pointer(typing, address, kind):
    """An address as a pointer to elements of a kind."""
    result = types.CPointer(kind.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return result(address, kind), generate


def _entry_of_lane(kind, out_kind):
    def lane(cp, plus, minus, s1, s2, s3, smallest, largest, above, span, out, size, unsure, room):
        return _lane(
            carray(pointer(cp, kind), size), carray(pointer(plus, kind), size), carray(pointer(minus, kind), size),
            s1, s2, s3, (smallest, largest, above, span), carray(pointer(out, out_kind), size),
            carray(pointer(unsure, np.int64), room),
        )  # fmt: skip

    return lane


def _entry_of_differences(kind, out_kind):
    def differences(plus, minus, out, size, least):
        return np.int64(_differences(
            carray(pointer(plus, kind), size), carray(pointer(minus, kind), size),
            carray(pointer(out, out_kind), size), least,
        ))  # fmt: skip

    return differences


# float16 travels as int16, which the compiler can tell from bfloat16 (uint16)
lane_bfloat16_bfloat16 = _entry_of_lane(np.uint16, np.uint16)
lane_float16_float16 = _entry_of_lane(np.int16, np.int16)
lane_float32_float32 = _entry_of_lane(np.float32, np.float32)
lane_bfloat16_float32 = _entry_of_lane(np.uint16, np.float32)

differences_bfloat16_float32 = _entry_of_differences(np.uint16, np.float32)
differences_float16_float32 = _entry_of_differences(np.int16, np.float32)
differences_float32_float32 = _entry_of_differences(np.float32, np.float32)
differences_bfloat16_float64 = _entry_of_differences(np.uint16, np.float64)
differences_float16_float64 = _entry_of_differences(np.int16, np.float64)
differences_float32_float64 = _entry_of_differences(np.float32, np.float64)
differences_float64_float64 = _entry_of_differences(np.float64, np.float64)
