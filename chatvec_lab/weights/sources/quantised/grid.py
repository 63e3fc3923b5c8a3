"""A scale for the whole tensor, each row, each group of columns or each block: how weights and scales lie together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from chatvec_lab.weights.sources.quantised.packed import Packed, Parts, Steps, narrowest
from chatvec_lab.weights.sources.quantised.recognised import NotRead
from chatvec_lab.weights.sources.quantised.values import Values, unpack

SCALES = ("float32", "bfloat16", "float16")
Block = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """Which scale an element has: that of row `line(r)` of the scales, and there of one of `groups` columns each."""

    line: Callable[[np.ndarray], np.ndarray]
    width: int  # scales in a row of scales
    groups: int  # columns that share a scale; 0: all
    each: str = "row"  # what has a scale of its own, in words

    def steps(self, parts: Parts, scale: str, zero: Callable[[int, int], np.ndarray] | None):
        """The scales (and zeros) of some rows; `zero` gives those of some rows of scales."""

        def read(first: int, last: int) -> Steps:
            low, high = (int(self.line(np.array([row]))[0]) for row in (first, last - 1))
            span = slice(low * self.width, (high + 1) * self.width)
            found = parts.floats(scale, span.start, span.stop).reshape(-1, self.width)
            return Steps(found, None if zero is None else zero(low, high + 1))

        return read

    def blocks(self, rows: np.ndarray) -> np.ndarray:
        lines = self.line(rows)
        return lines - lines[0]


def one_scale() -> Grid:
    return Grid(lambda rows: rows * 0, 1, 0, "tensor")


def row_scales() -> Grid:
    return Grid(lambda rows: rows, 1, 0)


def group_scales(groups: int, size: int) -> Grid:
    return Grid(lambda rows: rows, groups, size, "group")


def block_scales(shape: tuple[int, ...], block: Block) -> Grid:
    """Blocks of (rows, columns), begun anew in each matrix of a stack."""
    height, width = shape[-2:]
    down, across = -(-height // block[0]), -(-width // block[1])
    return Grid(lambda rows: rows // height * down + rows % height // block[0], across, block[1], "block")


def grid_of(parts: Parts, scale: str, shape: tuple[int, ...], *, block: Block | None = None,
            group: int | None = None, strategy: str | None = None) -> Grid:  # fmt: skip
    """The grid of a scale tensor by its shape, which must be one that the format gives it; NotRead otherwise.

    With `block` it must be that of blocks, with `group` that of groups; else one scale, or one a row. `strategy`
    ("tensor", "channel") says which of the two. A stack of experts may also have one scale an expert, or one for each
    half (gates and ups), as transformers' FP8 experts have.
    """
    if len(shape) < 2:
        raise NotRead(f"the weight of {scale} has the shape {shape}, expected a matrix or a stack of them")
    *stack, height, width = shape
    if block is not None:
        if any(not isinstance(size, int) or size <= 0 for size in block):
            raise NotRead(f"the blocks are {list(block)}, expected two positive numbers")
        parts.expect(scale, (*stack, -(-height // block[0]), -(-width // block[1])))
        return block_scales(shape, block)
    if group is not None:
        if not isinstance(group, int) or group <= 0 or width % group:
            raise NotRead(f"groups of {group} do not divide the {width} columns of {scale}'s weight")
        parts.expect(scale, (*stack, height, width // group))
        return group_scales(width // group, group)
    one, each = [(), (1,), (1,) * len(shape)], [(*stack, height, 1), (*stack, height)]
    for halves in (1, 2):
        if stack and strategy is None and parts.shape(scale) == (*stack, halves, 1) and height % halves == 0:
            return replace(
                block_scales(shape, (height // halves, width)), each="half" if halves > 1 else "matrix"
            )
    if strategy != "channel" and (parts.shape(scale) in one or strategy == "tensor"):
        parts.expect(scale, *one)
        return one_scale()
    parts.expect(scale, *each, *(() if strategy else one))
    return row_scales()


def columns_of(parts: Parts, scale: str, shape: tuple[int, ...]) -> Grid:
    """A scale for each column of each matrix of a stack, whichever way the scales are turned."""
    experts, height, width = shape
    parts.expect(scale, (experts, 1, width), (experts, width, 1))
    return Grid(lambda rows: rows // height, width, 1, "column")


def on_grid(parts: Parts, kind: str, weight: str, scale: str, values: Values, grid: Grid, *,
            shape: tuple[int, ...] | None = None, bits: int = 8, zero=None, zero_name: str | None = None,
            also: tuple[str, ...] = (), divisor: float = 1.0, dtype: str | None = None,
            groups: np.ndarray | None = None) -> Packed:  # fmt: skip
    """A tensor whose rows of codes lie one behind the other, as bytes or densely packed, with its scales on a grid.

    `shape` is the whole tensor's where codes are packed; `zero(first, last)` gives zero points by rows of scales.
    """
    shape = tuple(shape or parts.shape(weight))
    width = shape[-1]

    def codes(first: int, last: int) -> np.ndarray:
        raw = parts.rows(weight, first, last)
        if bits == 8:
            return raw[:, :width]
        out = np.empty((last - first, width), np.uint8)
        unpack(raw, bits, out)
        return out

    return Packed(
        kind=kind, shape=shape, width=width, members=tuple(n for n in (weight, scale, zero_name, *also) if n),
        values=values, dtype=dtype or narrowest(values, parts.dtype(scale), extra=zero is not None), codes=codes,
        steps=grid.steps(parts, scale, zero), blocks=grid.blocks,
        groups=grid.groups if groups is None else groups, divisor=divisor,
    )  # fmt: skip


def integer_zeros(parts: Parts, name: str, grid: Grid) -> Callable[[int, int], np.ndarray]:
    """Zero points that are stored as whole numbers in the shape of the scales."""

    def read(first: int, last: int) -> np.ndarray:
        found = parts.raw(name, first * grid.width, last * grid.width)
        return found.astype(np.float64).reshape(-1, grid.width)

    return read
