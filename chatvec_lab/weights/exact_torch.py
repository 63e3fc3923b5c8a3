"""`exact.combine` for tensors: numba on a CPU, the same steps as torch operations on any other device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from chatvec_lab.weights import exact

CHUNK = 1 << 22  # elements; a dozen float64 temporaries of a chunk live at once

TensorPart = tuple[float, torch.Tensor, torch.Tensor | None]


def raw(tensor: torch.Tensor):
    """The flat raw numpy view of a contiguous CPU tensor (bfloat16 as uint16); shares memory."""
    flat = tensor.detach().reshape(-1)
    return (flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat).numpy()


def combine_tensor(cp: torch.Tensor, parts: Sequence[TensorPart], out: torch.Tensor) -> torch.Tensor:
    """`cp + sum(coefficient * (plus - minus))`, exact and rounded once to out's dtype; fills and returns `out`.

    `out` may be `cp` itself. Parts may lie on another device than `cp`; they are moved chunk by chunk.
    The bits are those of `exact.combine`, on every device.

    Raises FloatingPointError when an element of the result is NaN, infinite or beyond the range of the dtype.
    """
    flat = out.view(-1)
    if flat.device.type == "cpu":
        arrays = [
            (c, raw(plus.cpu()), None if minus is None else raw(minus.cpu())) for c, plus, minus in parts
        ]
        exact.combine(raw(cp), arrays, raw(flat))
        return out
    source = cp.reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        span = slice(start, start + CHUNK)
        pieces = [
            (c, plus.reshape(-1)[span].to(flat.device, non_blocking=True), None if minus is None else
             minus.reshape(-1)[span].to(flat.device, non_blocking=True))
            for c, plus, minus in parts
        ]  # fmt: skip
        flat[span] = combine_chunk(source[span], pieces, out.dtype)
    return out


def combine_chunk(cp: torch.Tensor, parts: Sequence[TensorPart], dtype: torch.dtype) -> torch.Tensor:
    """One chunk in torch operations, step by step as in `exact`; all tensors flat and on one device."""
    high = cp.double()
    low, doubt = torch.zeros_like(high), torch.zeros_like(high)
    for coefficient, plus, minus in parts:
        upper, lower = exact.halves(coefficient)
        minus = torch.zeros_like(plus) if minus is None else minus
        for x, y in zip(_short(plus), _short(minus), strict=True):
            u, r0 = _two_sum(upper * x, -(upper * y))
            w, r1 = _two_sum(lower * x, -(lower * y))
            high, r2 = _two_sum(high, u)
            high, r3 = _two_sum(high, w)
            low += (r0 + r1) + (r2 + r3)
            doubt += (r0.abs() + r1.abs()) + (r2.abs() + r3.abs())
    total, rest = _two_sum(high, low)
    name = str(dtype).removeprefix("torch.")
    bad = ~(total.abs() < exact.overflow_threshold(name))
    if bad.any():
        raise FloatingPointError(
            f"{int(bad.sum())} of {total.numel()} elements are NaN, infinite or too large for {name}"
        )
    if dtype == torch.float64:
        result = total
        edge = (
            rest.abs() - 0.5 * (torch.nextafter(total, torch.full_like(total, torch.inf)) - total).abs()
        ).abs()
    else:
        odd = _to_odd(total, rest)
        single = odd.float()
        result = single if dtype == torch.float32 else _to_odd(single, odd - single.double()).to(dtype)
        edge = rest.abs()
    unsure = ((doubt != 0) & (edge <= exact._DOUBT * doubt)).nonzero().squeeze(1)
    if unsure.numel():
        few = result[unsure].cpu()
        arrays = [
            (c, raw(plus[unsure].cpu()), None if minus is None else raw(minus[unsure].cpu()))
            for c, plus, minus in parts
        ]
        exact._settle(raw(cp[unsure].cpu()), arrays, raw(few), range(len(few)), name)
        result[unsure] = few.to(result.device)
    return result


def _short(x: torch.Tensor) -> list[torch.Tensor]:
    """The elements as float64 of at most 27 significand bits each: two of them for float64."""
    if x.dtype != torch.float64:
        return [
            x.double(),
        ]
    wide = x * exact._SPLITTER
    upper = wide - (wide - x)
    return [upper, x - upper]


def _two_sum(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    s = a + b
    z = s - a
    return s, (a - (s - z)) + (b - z)


def _to_odd(value: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Move an even significand one step towards the error (see `exact._to_odd`)."""
    bits = value.view(torch.int64 if value.dtype == torch.float64 else torch.int32)
    step = torch.where((error > 0) == (value > 0), 1, -1) * (error != 0)
    return (bits + step.to(bits.dtype) * (1 - (bits & 1))).view(value.dtype)
