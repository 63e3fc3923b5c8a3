"""plus - minus: two checkpoints paired tensor by tensor, and row by row where the first axis is the vocabulary."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Protocol

import numpy as np

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.layout import Part
from chatvec_lab.weights.mixed import OF_A_VECTOR, check_mixed
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.tokens.chat import ChatSide, chat_side_of
from chatvec_lab.weights.tokens.rows import Table, check_candidate, is_same, paired, pairs_in_shape
from chatvec_lab.weights.tokens.vocabulary import Vocabulary, runs


class Leaf(Protocol):
    """What a term of a vector stands on. Tensors go by their published names, rows are the leaf's own."""

    label: str
    vocabulary: Vocabulary | None
    chat_side: ChatSide | None
    base: Checkpoint | None  # the checkpoint that it was taken from; None where it is not known
    larger: Checkpoint | None  # the larger model within which it was placed
    placed: Mapping[str, str]  # each name within that model and its own name for it; else empty
    tied: Mapping[
        str, str
    ]  # a tensor that has another's difference where it is not stored (a head), and that other
    left_out: Mapping[str, str]  # tensors of one side alone that have no say in the model, and what they are

    @property
    def names(self) -> list[str]: ...
    def resolve(self, name: str) -> str | None: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def part(self, name: str) -> Part: ...
    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        """The flat elements [start, stop) as raw parts, the caller's to overwrite where `work` is `apart`."""

    def live_rows(self, name: str) -> np.ndarray | None:
        """Which rows of a table carry a difference, shape (rows,), bool; None: all."""

    def describe(self) -> dict: ...
    def sources(self) -> list[Checkpoint]: ...


class Difference:
    """plus - minus, two checkpoints paired by tensor name, and by token where the first axis is the vocabulary."""

    larger, placed = None, MappingProxyType({})

    def __init__(self, plus: Checkpoint, minus: Checkpoint, allow_mixed: bool = False):
        self.plus, self.minus, self.allow_mixed = plus, minus, allow_mixed
        self.label = f"{plus.label} - {minus.label}"
        self._rows: dict[str, np.ndarray | None] = {}
        if any(member.source.endswith(".gguf") for member in (plus, minus)):  # others are not opened yet
            _ = self._is_checked

    @cached_property
    def _is_checked(self) -> bool:
        """ValueError before the noise of quantisation passes for a vector; a warning where both sides have it."""
        check_mixed(self.label, (self.plus, self.minus), self.allow_mixed, OF_A_VECTOR)
        if self.plus.note and self.plus.note == self.minus.note:
            warnings.warn(
                f"{self.label}: both are {self.plus.note}, so the vector holds the rounding noise of both. "
                "Use the unquantised models where they can be had.",
                UserWarning,
                stacklevel=3,
            )
        return True

    @property
    def base(self) -> Checkpoint:
        return self.minus

    @cached_property
    def tied(self) -> dict[str, str]:
        ours, theirs = self.plus.layout.tied, self.minus.layout.tied
        return {name: to for name, to in ours.items() if theirs.get(name) == to}

    @property
    def names(self) -> list[str]:
        """Published names of the paired tensors, in the file order of plus."""
        return list(self._pairs[0])

    @property
    def left_out(self) -> dict[str, str]:
        return self._pairs[1]

    @cached_property
    def _pairs(self) -> tuple[dict[str, None], dict[str, str]]:
        """The paired names, and those left out; one ValueError that lists every tensor that does not pair."""
        _ = self._is_checked
        paired_names, left_out, lines = {}, {}, []
        published = dict.fromkeys(
            side.layout.published(n) for side in (self.plus, self.minus) for n in side.names
        )
        for name in published:
            stored = [side.resolve(name) for side in (self.plus, self.minus)]
            kinds = [
                s and side.dtype_name(s) for side, s in zip((self.plus, self.minus), stored, strict=True)
            ]
            if self.part(name).module == "buffer" or not set(kinds) & {*files.FLOATS, "complex64"}:
                continue
            line = self._unpaired(name, stored, kinds)
            reason = line and self._ignored(name)
            if reason:
                left_out[name] = reason
            elif line:
                lines.append(f"{name}   {line}")
            else:
                paired_names[name] = None
        if lines:
            raise ValueError(
                unpaired(
                    self.label,
                    lines,
                    len(published),
                    self.minus.label,
                    self.plus.label,
                    _halves(self.sources()),
                )
            )
        return paired_names, left_out

    def _unpaired(self, name: str, stored: list[str | None], kinds: list[str | None]) -> str:
        """Why a tensor of both or one of the sides does not pair; "" when it does."""
        sides = (self.plus, self.minus)
        if None in stored:
            return f"only in {sides[stored.index(None) - 1].label}"
        if not set(kinds) <= set(files.FLOATS):
            return ", ".join(f"{side.label} {kind}" for side, kind in zip(sides, kinds, strict=True))
        shapes = [side.shape(s) for side, s in zip(sides, stored, strict=True)]
        if not pairs_in_shape(self.part(name), *shapes):
            return ", ".join(f"{side.label} {shape}" for side, shape in zip(sides, shapes, strict=True))
        return ""

    def _ignored(self, name: str) -> str | None:
        """What a tensor is that transformers would not load anyway, on the side that has it."""
        return next(
            (
                s.layout.ignored[n]
                for s in (self.plus, self.minus)
                if (n := s.layout.stored(name)) in s.layout.ignored
            ),
            None,
        )

    def resolve(self, name: str) -> str | None:
        return name if self.plus.resolve(name) and self.minus.resolve(name) else None

    def shape(self, name: str) -> tuple[int, ...]:
        return self.plus.shape(self.plus.resolve(name) or name)

    def part(self, name: str) -> Part:
        side = self.minus if name in self.minus.layout and name not in self.plus.layout else self.plus
        return side.layout[name]

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self.plus.vocabulary

    @cached_property
    def chat_side(self) -> ChatSide | None:
        return chat_side_of(self.plus, self.minus)

    def minus_rows(self, name: str) -> np.ndarray | None:
        """For each row of plus the row of minus with the same token, or -1; None when the two agree row by row."""
        if name not in self._rows:
            shapes = [side.shape(side.resolve(name)) for side in (self.plus, self.minus)]
            ours, theirs = (
                Table(side.label, side.vocabulary, shape[0] if shape else 1)
                for side, shape in zip((self.plus, self.minus), shapes, strict=True)
            )
            axis = self.part(name).axis
            if axis == "candidate":
                check_candidate(name, ours, theirs)
            same = axis != "vocabulary" or is_same(ours, theirs)
            self._rows[name] = None if same else paired(name, ours, theirs)
        return self._rows[name]

    def live_rows(self, name: str) -> np.ndarray | None:
        rows = self.minus_rows(name)
        return None if rows is None else rows >= 0

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        _ = self._is_checked
        ours, stored = self.plus.resolve(name), self.minus.resolve(name)
        rows = self.minus_rows(name)
        if rows is None:
            plus = work.fill(self.plus, ours, start, stop)
            return [(1.0, plus, work.fill(self.minus, stored, start, stop))]
        with work.apart():
            plus = work.fill(self.plus, ours, start, stop)
        width = prod(self.shape(name)[1:])
        first, last = start // width, -(-stop // width)
        minus = work.array(files.NUMPY_DTYPES[self.minus.dtype_name(stored)], (last - first) * width)
        for position, row, count in runs(rows[first:last]):
            self.minus.fill(stored, row * width, (row + count) * width, minus[position * width :])
        minus = minus[start - first * width : stop - first * width]
        lacking = np.repeat(rows[first:last] < 0, width)[start - first * width : stop - first * width]
        plus[lacking], minus[lacking] = 0, 0  # a token that only one side has carries no difference
        return [(1.0, plus, minus)]

    def describe(self) -> dict:
        return {"difference": [self.plus.label, self.minus.label]}

    def sources(self) -> list[Checkpoint]:
        return [self.plus, self.minus]


def _halves(members: list[Checkpoint]) -> str:
    """Which of these models are not whole, in words."""
    return " ".join(f"{m.label}: {m.lacking}." for m in members if m.lacking and not m.layout.is_part)


def unpaired(what: str, lines: list[str], total: int, suspect: str, other: str, why: str = "") -> str:
    """The error about tensors without a partner; `why` where it is known, else what it may come from."""
    shown = "\n".join(f"  {line}" for line in lines[:20]) + (
        f"\n  … {len(lines) - 20} more" if len(lines) > 20 else ""
    )
    return f"{what}: {len(lines)} of {total} tensors do not pair.\n{shown}\n" + (
        why
        or f"The two look like different architectures; is {suspect!r} really of the family of {other!r}? (Where one stores "
        "experts or projections in other pieces than the other: model.like(other); of a vision-language model the text: "
        "model.language_part().)"
    )
