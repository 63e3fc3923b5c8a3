"""bitsandbytes: 4 bits (nf4, fp4, with absmax in 8 bits or not) in flat blocks, and 8 bits with a scale a row (SCB).

4 bits: value = code * absmax, where absmax = code2 * absmax2 + offset if it is quantised too; 8 bits: number * SCB / 127.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from chatvec_lab.weights.sources.quantised.grid import grid_of, on_grid
from chatvec_lab.weights.sources.quantised.packed import Packed, Parts, Steps
from chatvec_lab.weights.sources.quantised.recognised import NotRead
from chatvec_lab.weights.sources.quantised.values import Values, signed_bytes

STATE = ".quant_state.bitsandbytes__"


def read(parts: Parts, config: Mapping[str, Any]) -> dict[str, Packed]:
    """Every weight with a quant_state or with SCB."""
    found = {}
    for name in sorted(parts.names):
        if STATE in name:
            weight, _, kind = name.partition(STATE)
            found[weight] = _four(parts, weight, name, kind)
        elif name.endswith(".SCB"):
            weight = name.removesuffix("SCB") + "weight"
            found[weight] = _eight(parts, weight, name)
    return found


def _eight(parts: Parts, weight: str, scale: str) -> Packed:
    parts.need(weight, scale)
    parts.stored_as(weight, "int8")
    parts.stored_as(scale, "float32")
    order, also = weight + "_format", ()
    if order in parts.names:
        also = (order,)
        if parts.raw(order).reshape(-1)[0] != 0:  # col32, col_turing, col_ampere: laid out for a kind of GPU
            raise NotRead(f"{order} says that {weight} is laid out for a GPU, expected 0 (rows)")
    grid = grid_of(parts, scale, parts.shape(weight), strategy="channel")
    return on_grid(
        parts,
        "bitsandbytes, 8 bits",
        weight,
        scale,
        signed_bytes(),
        grid,
        also=also,
        divisor=127.0,
        dtype="float64",
    )


def _four(parts: Parts, weight: str, state: str, kind: str) -> Packed:
    if kind not in ("nf4", "fp4"):
        raise NotRead(f"{state} is of the kind {kind!r}, expected nf4 or fp4")
    facts = _facts(parts, state)
    size, shape = facts.get("blocksize"), facts.get("shape")
    if not isinstance(size, int) or size <= 0 or size & (size - 1) or facts.get("quant_type") != kind:
        raise NotRead(f"{state} says blocksize {size!r} and quant_type {facts.get('quant_type')!r}")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise NotRead(f"{state} says the shape {shape!r}")
    absmax, code = f"{weight}.absmax", f"{weight}.quant_map"
    for name in (weight, absmax, code):
        parts.need(name, state)
    parts.stored_as(weight, "uint8")
    parts.expect(code, (16,))
    count, blocks = prod(shape), -(-prod(shape) // size)
    if prod(parts.shape(weight)) != -(-count // 2):
        raise NotRead(
            f"{weight} holds {prod(parts.shape(weight))} bytes, expected {-(-count // 2)} for {tuple(shape)}"
        )
    parts.expect(absmax, (blocks,))
    nested, members = _nested(parts, weight, facts, blocks)

    def codes(first: int, last: int) -> np.ndarray:
        """Blocks of codes, the first of two in the upper half of a byte."""
        stop = min(last * size, count)
        raw = parts.raw(weight, first * size // 2, -(-stop // 2))
        both = np.stack([raw >> 4, raw & 15], axis=1).reshape(-1)[: stop - first * size]
        whole = np.zeros((last - first) * size, np.uint8)  # the last block may be short
        whole[: both.size] = both
        return whole.reshape(last - first, size)

    def steps(first: int, last: int) -> Steps:
        return Steps((nested or (lambda a, b: parts.floats(absmax, a, b)))(first, last).reshape(-1, 1))

    return Packed(
        kind=f"bitsandbytes, 4 bits ({kind}{', absmax in 8 bits' if nested else ''}), blocks of {size}",
        shape=tuple(shape), width=size, members=(weight, absmax, code, state, *members),
        values=Values.of(parts.floats(code), 24), dtype="float64", codes=codes, steps=steps,
    )  # fmt: skip


def _facts(parts: Parts, state: str) -> dict[str, Any]:
    """The JSON that is stored as bytes."""
    try:
        found = json.loads(bytes(parts.raw(state)).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise NotRead(f"{state} holds no JSON ({error})") from error
    if not isinstance(found, dict):
        raise NotRead(f"{state} holds {type(found).__name__}, expected an object")
    return found


def _nested(parts: Parts, weight: str, facts: Mapping[str, Any], blocks: int):
    """How absmax is read where it is quantised too (None where it is not), and the tensors that this takes."""
    absmax = f"{weight}.absmax"
    if "nested_blocksize" not in facts:
        parts.stored_as(absmax, "float32")
        return None, ()
    second, code = f"{weight}.nested_absmax", f"{weight}.nested_quant_map"
    size, offset = facts["nested_blocksize"], facts.get("nested_offset")
    for name in (second, code):
        parts.need(name, absmax)
    parts.stored_as(absmax, "uint8")
    parts.expect(code, (256,))
    if not isinstance(size, int) or size <= 0 or not isinstance(offset, int | float):
        raise NotRead(
            f"{weight}: its quant_state says nested_blocksize {size!r} and nested_offset {offset!r}"
        )
    parts.expect(second, (-(-blocks // size),))

    def read(first: int, last: int) -> np.ndarray:
        outer = parts.floats(second, first // size, (last - 1) // size + 1)
        each = outer[np.arange(first, last) // size - first // size]
        return parts.floats(code)[parts.raw(absmax, first, last)] * each + float(np.float32(offset))

    return read, (second, code)
