"""GPTQ: codes packed down the columns of a transposed matrix, zero points across, groups in any order (`g_idx`).

value = (code - zero) * scale. Checkpoints of the first version store zero - 1 (`checkpoint_format: gptq`), those of the
second zero itself (`gptq_v2`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chatvec_lab.weights.sources.quantised.packed import Packed, Parts, Steps, narrowest
from chatvec_lab.weights.sources.quantised.recognised import NotRead
from chatvec_lab.weights.sources.quantised.values import integers, unpack

BITS = (2, 3, 4, 8)
FORMATS = {"gptq": 1, "gptq_v2": 0}  # what is added to a stored zero point
_SLAB = 1 << 20  # codes that are unpacked together


def read(parts: Parts, config: Mapping[str, Any]) -> dict[str, Packed]:
    """Every `…qweight`; bits and group size are those of the config, or of its `dynamic` rules."""
    format = "marlin" if config.get("is_marlin_format") else None
    format = format or config.get("checkpoint_format") or config.get("format") or "gptq"
    if format not in FORMATS:
        raise NotRead(f"its checkpoint_format {format!r} is not one of {', '.join(FORMATS)}")
    if config.get("pack_dtype", "int32") not in ("int32", None):
        raise NotRead(f"it packs into {config['pack_dtype']}, expected int32")
    if config.get("dynamic"):
        raise NotRead("its modules have rules of their own (dynamic)")
    found = {}
    for codes in sorted(name for name in parts.names if name.endswith(".qweight")):
        stem = codes.removesuffix("qweight")
        found[f"{stem}weight"] = _one(parts, stem, config, FORMATS[format])
    return found


def _one(parts: Parts, stem: str, config: Mapping[str, Any], one: int) -> Packed:
    bits, size = config.get("bits"), config.get("group_size")
    if bits not in BITS:
        raise NotRead(f"its bits are {bits!r}, expected one of {', '.join(map(str, BITS))}")
    codes, zeros, scales, index = (f"{stem}{part}" for part in ("qweight", "qzeros", "scales", "g_idx"))
    for name in (zeros, scales):
        parts.need(name, codes)
    parts.stored_as(codes, "int32")
    parts.stored_as(zeros, "int32")
    parts.stored_as(scales, "float16", "bfloat16", "float32")
    words, height = parts.shape(codes)
    width = words * 32 // bits
    if words * 32 % bits or (bits == 3 and words % 3):
        raise NotRead(f"{codes} has {words} rows of words, which hold no whole number of {bits}-bit codes")
    if not isinstance(size, int) or isinstance(size, bool) or size == 0 or size < -1:
        raise NotRead(f"its group_size is {size!r}, expected a positive number or -1")
    size = width if size == -1 else size
    if size > width:
        raise NotRead(f"its groups of {size} are larger than {codes}, which has {width} columns to group")
    count = -(-width // size)
    parts.expect(scales, (count, height))
    parts.expect(zeros, (count, -(-height * bits // 32)))
    groups = _groups(parts, index, config, width, size, count)

    def whole_steps() -> Steps:
        packed = parts.raw(zeros).reshape(count, -1)
        unpacked = np.empty((count, height), np.uint8)
        unpack(packed.view(np.uint8), bits, unpacked)
        if one and (unpacked == (1 << bits) - 1).any():
            raise ValueError(
                f"{zeros}: a zero point is stored as {(1 << bits) - 1}, to which the first version of GPTQ adds 1: "
                "some programs read it as 0, others as one more. Use the unquantised checkpoint, or format gptq_v2."
            )
        found = parts.floats(scales).reshape(count, height)
        return Steps(np.ascontiguousarray(found.T), np.ascontiguousarray(unpacked.T).astype(np.float64) + one)

    def steps(first: int, last: int) -> Steps:
        whole = parts.slabs.get(scales, whole_steps)
        return Steps(whole.scale[first:last], whole.zero[first:last])

    def slab(first: int, last: int) -> np.ndarray:
        packed = np.ascontiguousarray(parts.columns(codes, first, last).T)
        out = np.empty((last - first, width), np.uint8)
        unpack(packed.view(np.uint8), bits, out)
        return out

    tall = max(64, _SLAB // width)
    return Packed(
        is_scattered=True, kind=f"GPTQ, {bits} bits, groups of {size}", shape=(height, width), width=width,
        members=tuple(name for name in (codes, zeros, scales, index) if name in parts.names),
        values=integers(bits), dtype=narrowest(integers(bits), parts.dtype(scales), extra=1),
        codes=lambda first, last: parts.slabs.rows(codes, height, tall, first, last, slab), steps=steps, groups=groups,
    )  # fmt: skip


def _groups(
    parts: Parts, index: str, config: Mapping[str, Any], width: int, size: int, count: int
) -> np.ndarray:
    """The group of each column: that which `g_idx` says; in order where it is not stored."""
    if index not in parts.names:
        if config.get("desc_act"):
            raise NotRead(f"desc_act is set, but {index}, which says the order of the groups, is not stored")
        return np.arange(width, dtype=np.int64) // size
    parts.expect(index, (width,))
    found = parts.raw(index).astype(np.int64)
    if found.min() < 0 or found.max() >= count:
        raise NotRead(f"{index} names groups {found.min()} to {found.max()}, but there are {count}")
    return found
