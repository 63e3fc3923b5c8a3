"""MLX: codes of 2 to 8 bits, densely packed in rows, with a scale and a bias a group (or the 4- and 8-bit floats).

affine: value = code * scale + bias. The config is `quantization`: bits, group_size, mode, and modules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from chatvec_lab.weights.sources.quantised.grid import SCALES, grid_of, on_grid
from chatvec_lab.weights.sources.quantised.packed import Packed, Parts, Steps
from chatvec_lab.weights.sources.quantised.recognised import NotRead
from chatvec_lab.weights.sources.quantised.values import Values, e2m1, e4m3, integers

BITS = (2, 3, 4, 5, 6, 8)
MODES = {
    "affine": None,
    "mxfp4": (4, 32),
    "mxfp8": (8, 32),
    "nvfp4": (4, 16),
}  # bits and group size that are fixed


def read(parts: Parts, config: Mapping[str, Any]) -> dict[str, Packed]:
    """Every weight with `scales` beside it."""
    found = {}
    for scales in sorted(name for name in parts.names if name.endswith(".scales")):
        stem = scales.removesuffix("scales")
        own = config.get(stem.rstrip("."), config)
        if not isinstance(own, Mapping):
            raise NotRead(f"{scales} is stored, but the config says {own!r} of that module")
        mode = own.get("mode", config.get("mode", "affine"))
        if mode not in MODES:
            raise NotRead(f"its mode {mode!r} is not one of {', '.join(MODES)}")
        bits, size = own.get("bits"), own.get("group_size")
        if bits not in BITS or not isinstance(size, int) or MODES[mode] not in (None, (bits, size)):
            raise NotRead(f"{bits!r} bits in groups of {size!r} are not of the mode {mode}")
        found[f"{stem}weight"] = _one(parts, stem, scales, mode, bits, size)
    return found


def _one(parts: Parts, stem: str, scales: str, mode: str, bits: int, size: int) -> Packed:
    weight, biases = f"{stem}weight", f"{stem}biases"
    parts.need(weight, scales)
    parts.stored_as(weight, "uint32")
    *stack, words = parts.shape(weight)
    if words * 32 % bits:
        raise NotRead(f"{weight} has {words} words a row, which hold no whole number of {bits}-bit codes")
    shape = (*stack, words * 32 // bits)
    grid = grid_of(parts, scales, shape, group=size)
    kind = f"MLX {mode}, {bits} bits, groups of {size}"
    if mode != "affine":
        parts.stored_as(scales, "uint8")
        values = e2m1() if bits == 4 else e4m3()
        entry = on_grid(parts, kind, weight, scales, values, grid, shape=shape, bits=bits)
        return entry if mode != "nvfp4" else replace(entry, steps=_fp8_scales(parts, scales, grid))
    parts.need(biases, weight)
    parts.stored_as(scales, *SCALES)
    parts.stored_as(biases, *SCALES)
    parts.expect(biases, parts.shape(scales))
    values: Values = integers(bits)
    entry = on_grid(
        parts, kind, weight, scales, values, grid, shape=shape, bits=bits, also=(biases,), dtype="float64"
    )
    plain = entry.steps

    def steps(first: int, last: int) -> Steps:
        span = first * grid.width, last * grid.width  # groups never span rows
        return Steps(plain(first, last).scale, bias=parts.floats(biases, *span).reshape(-1, grid.width))

    return replace(entry, steps=steps)


def _fp8_scales(parts: Parts, scales: str, grid):
    """Scales that are 8-bit floats, stored as bytes."""

    def steps(first: int, last: int) -> Steps:
        raw = parts.raw(scales, first * grid.width, last * grid.width)
        return Steps(np.asarray(e4m3().table[raw]).reshape(-1, grid.width))

    return steps
