"""MXFP4 as gpt-oss stores its experts: blocks of 32 4-bit floats with a power of two each, transposed when read.

The files hold (experts, out, blocks, 16 bytes); the model's parameter, as transformers dequantises it, is
(experts, in, out).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chatvec_lab.weights.sources.quantised.packed import Packed, Parts, Steps
from chatvec_lab.weights.sources.quantised.recognised import NotRead
from chatvec_lab.weights.sources.quantised.values import e2m1, unpack

BLOCK = 32


def read(parts: Parts, config: Mapping[str, Any]) -> dict[str, Packed]:
    """Every `…_blocks` with its `…_scales`."""
    found = {}
    for blocks in sorted(name for name in parts.names if name.endswith("_blocks")):
        name = blocks.removesuffix("_blocks")
        found[name] = _one(parts, name, blocks, f"{name}_scales")
    return found


def _one(parts: Parts, name: str, blocks: str, scales: str) -> Packed:
    parts.need(scales, blocks)
    parts.stored_as(blocks, "uint8")
    parts.stored_as(scales, "uint8", "float8_e8m0fnu")
    stored = parts.shape(blocks)
    if len(stored) != 4 or stored[-1] != BLOCK // 2:
        raise NotRead(f"{blocks} has the shape {stored}, expected (experts, out, blocks, {BLOCK // 2})")
    parts.expect(scales, stored[:-1])
    experts, out, count, _ = stored
    width = count * BLOCK

    def expert(number: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes (in, out) and scales (blocks, out) of one expert."""
        size = out * count
        raw = parts.raw(blocks, number * size * 16, (number + 1) * size * 16).reshape(out, count * 16)
        codes = np.empty((out, width), np.uint8)
        unpack(raw, 4, codes)
        found = parts.floats(scales, number * size, (number + 1) * size).reshape(out, count)
        return np.ascontiguousarray(codes.T), np.ascontiguousarray(found.T)

    def pieces(first: int, last: int):
        """Of the rows [first, last) of all experts: which expert, and which of its rows."""
        for number in range(first // width, -(-last // width)):
            inside = slice(max(first - number * width, 0), min(last - number * width, width))
            yield inside, parts.slabs.get((name, number), lambda number=number: expert(number))

    def codes(first: int, last: int) -> np.ndarray:
        return np.concatenate([expert[0][inside] for inside, expert in pieces(first, last)])

    def steps(first: int, last: int) -> Steps:
        found = [s[i.start // BLOCK : (i.stop - 1) // BLOCK + 1] for i, (_, s) in pieces(first, last)]
        return Steps(np.concatenate(found))

    return Packed(
        kind="MXFP4", shape=(experts, width, out), width=out, members=(blocks, scales), values=e2m1(),
        dtype="float32", codes=codes, steps=steps, blocks=lambda rows: rows // BLOCK - rows[0] // BLOCK,
        groups=1, is_scattered=True,
    )  # fmt: skip
