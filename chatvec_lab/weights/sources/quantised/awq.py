"""AWQ (gemm): eight 4-bit codes a word in an order of its own, across the columns of a transposed matrix.

value = (code - zero) * scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chatvec_lab.weights.sources.quantised.packed import Packed, Parts, Steps, narrowest
from chatvec_lab.weights.sources.quantised.recognised import NotRead
from chatvec_lab.weights.sources.quantised.values import integers

# column 8 * word + i lies in these four bits of the word
_PLACE = np.array([0, 4, 1, 5, 2, 6, 3, 7], np.uint32)
_SLAB = 1 << 20


def read(parts: Parts, config: Mapping[str, Any]) -> dict[str, Packed]:
    """Every `….qweight`."""
    for key in ("version", "format", "checkpoint_format"):  # autoawq's word, transformers' and gptqmodel's
        if str(config.get(key) or "gemm").lower() != "gemm":
            raise NotRead(f"its {key} {config[key]!r} is not gemm")
    if config.get("backend") == "llm-awq":
        raise NotRead("its backend 'llm-awq' packs codes in another order than gemm")
    bits = config.get("bits", config.get("w_bit"))
    if bits != 4:
        raise NotRead(f"its bits are {bits!r}, expected 4")
    if config.get("zero_point") is False:
        raise NotRead("it has no zero points (zero_point is false)")
    found = {}
    for codes in sorted(name for name in parts.names if name.endswith(".qweight")):
        stem = codes.removesuffix("qweight")
        found[f"{stem}weight"] = _one(parts, stem, config.get("group_size", config.get("q_group_size", 128)))
    return found


def _one(parts: Parts, stem: str, size: Any) -> Packed:
    codes, zeros, scales = (f"{stem}{part}" for part in ("qweight", "qzeros", "scales"))
    for name in (zeros, scales):
        parts.need(name, codes)
    parts.stored_as(codes, "int32")
    parts.stored_as(zeros, "int32")
    parts.stored_as(scales, "float16", "bfloat16", "float32")
    width, words = parts.shape(codes)
    height = 8 * words
    if not isinstance(size, int) or isinstance(size, bool) or size == 0 or size < -1:
        raise NotRead(f"its group_size is {size!r}, expected a positive number or -1")
    size = width if size == -1 else size
    if width % size:
        raise NotRead(f"groups of {size} do not divide the {width} rows of {codes}")
    count = width // size
    parts.expect(scales, (count, height))
    parts.expect(zeros, (count, words))

    def whole_steps() -> Steps:
        zero = _columns(parts.raw(zeros).reshape(count, words)).astype(np.float64)
        found = parts.floats(scales).reshape(count, height)
        return Steps(np.ascontiguousarray(found.T), np.ascontiguousarray(zero.T))

    def steps(first: int, last: int) -> Steps:
        whole = parts.slabs.get(scales, whole_steps)
        return Steps(whole.scale[first:last], whole.zero[first:last])

    def slab(first: int, last: int) -> np.ndarray:  # a height of whole words
        return np.ascontiguousarray(_columns(parts.columns(codes, first // 8, last // 8)).T)

    tall = -(-max(64, _SLAB // width) // 8) * 8
    return Packed(
        is_scattered=True, kind=f"AWQ, 4 bits, groups of {size}", shape=(height, width), width=width,
        members=(codes, zeros, scales),
        values=integers(4), dtype=narrowest(integers(4), parts.dtype(scales), extra=1),
        codes=lambda first, last: parts.slabs.rows(codes, height, tall, first, last, slab), steps=steps, groups=size,
    )  # fmt: skip


def _columns(words: np.ndarray) -> np.ndarray:
    """The codes of each row of words in the order of columns, (rows, 8 * words), uint8."""
    shifted = words.view(np.uint32)[:, :, None] >> (4 * _PLACE)
    return (shifted & np.uint32(15)).astype(np.uint8).reshape(len(words), -1)
