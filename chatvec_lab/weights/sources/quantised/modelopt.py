"""NVIDIA ModelOpt: FP8 with one scale a tensor, and NVFP4, where scales of 16 weights have a factor of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatvec_lab.weights.sources.quantised import fp8
from chatvec_lab.weights.sources.quantised.grid import grid_of, on_grid
from chatvec_lab.weights.sources.quantised.packed import Packed, Parts
from chatvec_lab.weights.sources.quantised.recognised import NotRead
from chatvec_lab.weights.sources.quantised.values import e2m1


def read(parts: Parts, config: Mapping[str, Any]) -> dict[str, Packed]:
    """By `quant_algo`: FP8 or NVFP4; the two are also found side by side (MIXED_PRECISION)."""
    algorithm = config.get("quant_algo")
    if algorithm not in ("FP8", "NVFP4", "MIXED_PRECISION"):
        raise NotRead(f"its quant_algo {algorithm!r} is not FP8 or NVFP4")
    found = {}
    for second in sorted(name for name in parts.names if name.endswith("weight_scale_2")):
        name, scale = second.removesuffix("_scale_2"), second.removesuffix("_2")
        parts.need(scale, name)
        parts.need(name, scale)
        parts.stored_as(name, "uint8")
        parts.stored_as(scale, "float8_e4m3fn")
        parts.stored_as(second, "float32")
        parts.expect(second, (), (1,))
        *stack, width = parts.shape(name)
        shape = (*stack, 2 * width)
        size = config.get("group_size") or 16
        if size != 16:
            raise NotRead(f"group_size is {size!r}, expected 16")
        factor = float(parts.floats(second).reshape(-1)[0])
        found[name] = on_grid(
            parts, "NVFP4 (ModelOpt)", name, scale, e2m1().times(factor), grid_of(parts, scale, shape, group=16),
            shape=shape, bits=4, also=(second,), dtype="float64",
        )  # fmt: skip
    whole = Parts(parts.stored)
    whole.names = parts.names - {member for entry in found.values() for member in entry.members}
    return found | fp8.read(whole, {})
