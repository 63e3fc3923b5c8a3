"""FP8 with scales: blocks (DeepSeek-V3, Qwen3-FP8), rows (fbgemm) or one a tensor; value = weight * scale.

The factor is called `weight_scale_inv` where the format's authors mean the inverse of what they multiplied by. Stacks of
experts that fbgemm_fp8 knows are Llama-4's, (experts, in, out), with a scale for each output: a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatvec_lab.weights.sources.quantised.grid import SCALES, columns_of, grid_of, on_grid
from chatvec_lab.weights.sources.quantised.packed import Packed, Parts
from chatvec_lab.weights.sources.quantised.recognised import NotRead
from chatvec_lab.weights.sources.quantised.values import Values, e4m3, e5m2

FLOATS8 = {"float8_e4m3fn": e4m3, "float8_e5m2": e5m2}
SUFFIXES = ("_scale_inv", "_scale")


def read(parts: Parts, config: Mapping[str, Any]) -> dict[str, Packed]:
    """Every 8-bit float of the checkpoint with its scales."""
    block = config.get("weight_block_size")
    if block is not None and not (isinstance(block, list) and len(block) == 2):
        raise NotRead(f"weight_block_size is {block!r}, expected two numbers or null")
    semantics = config.get(
        "weight_scale_semantics"
    )  # gptqmodel's, which divides by what it calls the inverse
    if semantics is not None:
        raise NotRead(
            f"its weight_scale_semantics {semantics!r} may mean that weights are divided by their scales"
        )
    has_columns, found = config.get("quant_method") == "fbgemm_fp8", {}
    for name in sorted(parts.names):
        if name.endswith(SUFFIXES):
            continue
        if parts.dtype(name) in FLOATS8:
            found[name] = _one(parts, name, tuple(block) if block else None, has_columns)
        elif parts.dtype(name).startswith("float8"):
            raise NotRead(f"{name} is stored as {parts.dtype(name)}, expected {' or '.join(FLOATS8)}")
    return found


def _one(parts: Parts, name: str, block: tuple[int, int] | None, has_columns: bool) -> Packed:
    scale = next((name + suffix for suffix in SUFFIXES if name + suffix in parts.names), None)
    if scale is None:
        raise NotRead(f"{name} is stored without {name}_scale_inv or {name}_scale")
    parts.stored_as(scale, *SCALES, "float8_e8m0fnu", "uint8")
    values: Values = FLOATS8[parts.dtype(name)]()
    shape = parts.shape(name)
    if has_columns and len(shape) == 3:
        grid, sizes = columns_of(parts, scale, shape), "a scale a column"
    else:
        grid = grid_of(parts, scale, shape, block=block)
        sizes = f"blocks of {block[0]} x {block[1]}" if block else f"a scale a {grid.each}"
    kind = f"FP8 ({parts.dtype(name).removeprefix('float8_')}), {sizes}"
    return on_grid(parts, kind, name, scale, values, grid)
