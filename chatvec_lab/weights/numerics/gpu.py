"""The arithmetic on a GPU: one Triton kernel for `cp + coefficient * (plus - minus)` of tensors that lie there.

16-bit formats go through a lane in float32 like that of `lanes`; what it does not prove, and float32, through the
float64 steps of `exact`; hence the same bits. A tile that holds an element which float64 does not decide, or one that
is out of range, is reported: the host then settles it with rational numbers, or names the error.

Triton comes with every CUDA and ROCm build of torch on Linux; without it the host computes. Needs float32 and float64
arithmetic as IEEE 754 has it, which `live.resident.agrees` checks against the host before a device is trusted.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import triton
import triton.language as tl

from chatvec_lab.weights.numerics import exact, lanes

TILE = 1024  # elements of one program
FORMATS = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}

_SIGN, _REST = tl.constexpr(1 << 31), tl.constexpr((1 << 31) - 1)
_DOUBT = tl.constexpr(2.0**-48)  # a residual below this share of the summed errors may be a rounding error


@triton.jit
def _widened(raw, format: tl.constexpr):
    if format == "bfloat16":
        value = (raw.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif format == "float16":
        value = raw.to(tl.float16, bitcast=True).to(tl.float32)
    else:
        value = raw
    return value


@triton.jit
def _lane(c, x, y, s1, s2, s3, format: tl.constexpr):
    """The bits of a 16-bit number, and 0 if they are proven: `compiled_lanes._element_in` for float32, step by step.

    Only the conditions differ, since they cost most. |c - middle| is at least half a unit of the result, so a smaller
    product cannot reach the midpoint, and any other is, for results from 2**-40 on, far from what float32 flushes. Nor is
    that too large for float32, of results below 2**114.
    """
    d = x - y
    total = (tl.fma(s1, d, c) + 0.0).to(tl.uint32, bitcast=True)
    if format == "bfloat16":
        packed, odd = total, total << 15
        middle = ((total & 0xFFFF0000) | 0x8000).to(tl.float32, bitcast=True)
        # powers of two by which c may fall below the result, and exceed it too; least and largest result; no signs
        below: tl.constexpr = 15 << 24
        span: tl.constexpr = 28 << 24
        least: tl.constexpr = 87 << 24
        largest: tl.constexpr = 241 << 24
    else:
        size, negative = total & _REST, total & _SIGN
        # a subnormal gets a hidden bit, so that its unit stands where that of others does
        is_small = (size < 113 << 23).to(tl.uint32)
        hidden = (is_small * (113 << 23)).to(tl.float32, bitcast=True)
        raised = (size.to(tl.float32, bitcast=True) + hidden).to(tl.uint32, bitcast=True)
        packed, odd = raised - (is_small << 23), raised << 18
        middle = ((raised & 0xFFFFE000) | 0x1000).to(tl.float32, bitcast=True) - hidden
        middle = (middle.to(tl.uint32, bitcast=True) | negative).to(tl.float32, bitcast=True)
        below: tl.constexpr = 12 << 24
        span: tl.constexpr = 22 << 24
        least: tl.constexpr = 0
        largest: tl.constexpr = 0x477FF000 << 1
    beyond = tl.fma(s3, d, tl.fma(s2, d, tl.fma(s1, d, c - middle)))
    away = (beyond.to(tl.uint32, bitcast=True) ^ (total & _SIGN)).to(tl.float32, bitcast=True)
    # just above 0, for an odd number just below
    threshold = ((odd & _SIGN) | 0x800000).to(tl.float32, bitcast=True)
    up = (away > threshold).to(tl.uint32)
    if format == "bfloat16":
        value = (packed >> 16) + up
    else:
        value = ((packed >> 13) - (112 << 10) + up) | (negative >> 16)
    error = tl.abs((d + y) - x) + tl.abs((x - d) - y)
    unproven = (d.to(tl.uint32, bitcast=True) & 3) | error.to(tl.uint32, bitcast=True)
    in_range = (total << 1) - least < largest - least
    is_near = ((c.to(tl.uint32, bitcast=True) - total) << 1) + below <= span
    is_zero = tl.abs(c) + tl.abs(d) + tl.abs(total.to(tl.float32, bitcast=True)) == 0.0
    return value, tl.where((in_range & is_near) | is_zero, unproven, 1)


@triton.jit
def _to_odd(bits, error, value):
    away = (error != 0.0).to(bits.dtype)
    step = away - 2 * away * ((error > 0.0) != (value > 0.0)).to(bits.dtype)
    return bits + step * (1 - (bits & 1))


@triton.jit
def _general(c, x, y, upper, lower, threshold):
    """The float64 sum, its error and whether both may be trusted: products of halves are exact, sums keep their errors.

    The products are exact, so it does not matter whether a compiler fuses them with the sums.
    """
    c, x, y = c.to(tl.float64), x.to(tl.float64), y.to(tl.float64)
    p = upper * x
    q = -(upper * y)
    u = p + q
    z = u - p
    r0 = (p - (u - z)) + (q - z)
    p = lower * x
    q = -(lower * y)
    w = p + q
    z = w - p
    r1 = (p - (w - z)) + (q - z)
    s = c + u
    z = s - c
    r2 = (c - (s - z)) + (u - z)
    high = s + w
    z = high - s
    r3 = (s - (high - z)) + (w - z)
    low = (r0 + r1) + (r2 + r3) + 0.0
    doubt = (tl.abs(r0) + tl.abs(r1)) + (tl.abs(r2) + tl.abs(r3))
    s = high + low
    z = s - high
    r = (high - (s - z)) + (low - z)
    return s, r, (tl.abs(s) < threshold) & ((doubt == 0.0) | (tl.abs(r) > _DOUBT * doubt))


@triton.jit
def _rounded(s, error, format: tl.constexpr):
    """To an odd significand first, so that the cast sees the exact side."""
    if format == "float32":
        odd = _to_odd(s.to(tl.int64, bitcast=True), error, s)
        value = odd.to(tl.float64, bitcast=True).to(tl.float32)
    else:
        f = s.to(tl.float32)
        odd = _to_odd(f.to(tl.int32, bitcast=True), (s - f.to(tl.float64)) + error, s)
        if format == "float16":
            half = odd.to(tl.float32, bitcast=True).to(tl.float16)
            value = half.to(tl.uint16, bitcast=True).to(tl.uint32)
        else:  # the bits of a bfloat16: older GPUs do not convert to it
            bits = odd.to(tl.uint32, bitcast=True)
            value = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return value


@triton.jit
def _turn(cp, plus, minus, out, numbers, doubtful, size, format: tl.constexpr, tile: tl.constexpr):
    """Fill one tile of `out` with round(cp + coefficient * (plus - minus)); put a 1 into `doubtful` if in doubt."""
    here = tl.program_id(0)
    i = here.to(tl.int64) * tile + tl.arange(0, tile)
    inside = i < size
    c = _widened(tl.load(cp + i, mask=inside, other=0), format)
    x = _widened(tl.load(plus + i, mask=inside, other=0), format)
    y = _widened(tl.load(minus + i, mask=inside, other=0), format)
    upper, lower, threshold = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    if format == "float32":
        s, error, sure = _general(c, x, y, upper, lower, threshold)
        result = _rounded(s, error, format)
        in_doubt = tl.max((~sure).to(tl.int32), 0)
    else:
        s1, s2 = tl.load(numbers + 3).to(tl.float32), tl.load(numbers + 4).to(tl.float32)
        s3 = tl.load(numbers + 5).to(tl.float32)
        value, unproven = _lane(c, x, y, s1, s2, s3, format)
        in_doubt = 0
        if tl.max(unproven, 0) != 0:  # rare
            s, error, sure = _general(c, x, y, upper, lower, threshold)
            value = tl.where(unproven == 0, value, _rounded(s, error, format))
            in_doubt = tl.max(((unproven != 0) & ~sure).to(tl.int32), 0)
        result = value.to(tl.uint16).to(tl.int16, bitcast=True)
    tl.store(out + i, result, mask=inside)
    tl.store(doubtful + here, in_doubt.to(tl.int8))


def _halves(coefficient: float) -> tuple[float, float]:
    """The coefficient as the sum of two floats of at most 26 significand bits (Dekker's split)."""
    c = float(coefficient)
    if abs(c) > 1e300:
        raise ValueError(f"the scale {c!r} is too large to be exact; use a magnitude below 1e300.")
    wide = c * 134217729.0
    upper = wide - (wide - c)
    return upper, c - upper


def numbers(coefficient: float, dtype: torch.dtype) -> list[float]:
    """What the kernel needs to know of a coefficient: its halves, the overflow threshold, its thirds, two blanks.

    The thirds are NaN, which proves nothing, where they would not be exact. Eight numbers, so that those of every
    tensor in a table stand where the compiler likes pointers to stand.
    """
    thirds = [math.nan] * 3
    if 2.0**-60 < abs(coefficient) < 2.0**60:
        thirds = map(float, lanes.thirds(coefficient, np.float32))
    return [*_halves(coefficient), exact.overflow_threshold(FORMATS[dtype]), *thirds, 0.0, 0.0]


def fill(
    cp: torch.Tensor,
    plus: torch.Tensor,
    minus: torch.Tensor,
    out: torch.Tensor,
    numbers: torch.Tensor,
    doubtful: torch.Tensor,
) -> None:
    """Start the kernel: `out` = round(cp + coefficient * (plus - minus)), bit for bit as `exact.combine`.

    cp, plus, minus, out: flat, contiguous, of one dtype of FORMATS, on one device. numbers: float64, as the function
    of that name gives them. doubtful: int8, one a tile (TILE elements); 1 marks a tile that the host must settle.
    """
    format = FORMATS[out.dtype]
    if format != "float32":
        cp, plus, minus, out = (t.view(torch.int16) for t in (cp, plus, minus, out))
    grid = (triton.cdiv(out.numel(), TILE),)
    _turn[grid](
        cp, plus, minus, out, numbers, doubtful, out.numel(), format=format, tile=TILE, enable_fp_fusion=False
    )
