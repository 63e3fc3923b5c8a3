"""plus - minus: two checkpoints paired tensor by tensor, and row by row where the first axis is the vocabulary."""

from __future__ import annotations

import threading
from functools import cached_property
from math import prod
from typing import Protocol

import numpy as np

from chatvec_lab.weights.chat import ChatSide, chat_side_of
from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.layout import has_vocabulary_axis, is_buffer, is_head
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.vocabulary import Vocabulary, runs


class Leaf(Protocol):
    """What a term stands on. `own` gives parts in the leaf's own rows; the vector maps rows by token."""

    label: str
    vocabulary: Vocabulary | None
    chat_side: ChatSide | None

    @property
    def names(self) -> list[str]: ...
    def resolve(self, name: str) -> str | None: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]: ...
    def describe(self) -> dict: ...
    def sources(self) -> list[Checkpoint]: ...


class Difference:
    """plus - minus, two checkpoints paired by tensor name, and by token where the first axis is the vocabulary."""

    def __init__(self, plus: Checkpoint, minus: Checkpoint):
        self.plus, self.minus = plus, minus
        self.label = f"{plus.label} - {minus.label}"
        self._rows: dict[str, np.ndarray | None] = {}

    @cached_property
    def names(self) -> list[str]:
        self._check()
        return [n for n in self.plus.names if self._is_paired(n)] + [
            n for n in self.minus.names if n not in self.plus and self._is_paired(n)
        ]

    def _is_paired(self, name: str) -> bool:
        source = self.plus if name in self.plus else self.minus
        if is_head(name) and self.plus.is_tied and self.minus.is_tied:
            return False  # the embedding under a second name
        return source.dtype_name(name) in files.FLOATS and not is_buffer(name)

    def _check(self) -> None:
        """Raise one ValueError that lists every tensor that does not pair (design, rule 4)."""
        lines = []
        for name in dict.fromkeys(self.plus.names + self.minus.names):
            if not self._is_paired(name):
                continue
            sides = [s.shape(s.resolve(name)) if s.resolve(name) else None for s in (self.plus, self.minus)]
            if None in sides:
                lines.append(f"{name}   only in {(self.plus if sides[1] is None else self.minus).label}")
            elif sides[0] != sides[1] and not (has_vocabulary_axis(name) and sides[0][1:] == sides[1][1:]):
                lines.append(f"{name}   {self.plus.label} {sides[0]}, {self.minus.label} {sides[1]}")
        if lines:
            total = len(dict.fromkeys(self.plus.names + self.minus.names))
            raise ValueError(unpaired(self.label, lines, total, self.minus.label, self.plus.label))

    def resolve(self, name: str) -> str | None:
        return self.plus.resolve(name) if self.minus.resolve(name) else None

    def shape(self, name: str) -> tuple[int, ...]:
        return self.plus.shape(self.plus.resolve(name) or name)

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self.plus.vocabulary

    @cached_property
    def chat_side(self) -> ChatSide | None:
        return chat_side_of(self.plus, self.minus)

    def _minus_rows(self, name: str) -> np.ndarray | None:
        """For each row of plus the row of minus with the same token; None when the two agree row by row."""
        if name not in self._rows:
            n, m = self.shape(name)[0], self.minus.shape(self.minus.resolve(name))[0]
            ours, theirs = self.plus.vocabulary, self.minus.vocabulary
            if n == m and (ours is None or theirs is None or ours.has_the_rows_of(theirs)):
                self._rows[name] = None
            else:
                self._rows[name] = paired_rows(name, ours, n, self.plus.label, theirs, m, self.minus.label)
        return self._rows[name]

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        plus = work.fill(self.plus, self.plus.resolve(name), start, stop)
        stored = self.minus.resolve(name)
        rows = self._minus_rows(name) if has_vocabulary_axis(name) else None
        if rows is None:
            return [(1.0, plus, work.fill(self.minus, stored, start, stop))]
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


def unpaired(what: str, lines: list[str], total: int, suspect: str, other: str) -> str:
    shown = "\n".join(f"  {line}" for line in lines[:20]) + (
        f"\n  … {len(lines) - 20} more" if len(lines) > 20 else ""
    )
    return (
        f"{what}: {len(lines)} of {total} tensors do not pair.\n{shown}\n"
        f"The two look like different architectures; is {suspect!r} really of the family of {other!r}?"
    )


def paired_rows(
    name: str,
    ours: Vocabulary | None,
    n: int,
    our_label: str,
    theirs: Vocabulary | None,
    m: int,
    their_label: str,
) -> np.ndarray:
    """For each of our n rows the row of the same token among their m rows, or -1."""
    lacking = [
        label for label, vocabulary in ((our_label, ours), (their_label, theirs)) if vocabulary is None
    ]
    if lacking:
        if n == m:
            return np.arange(n)
        raise ValueError(
            f"{name}: {our_label} has {n} rows, {their_label} has {m}, and {' and '.join(lacking)} has no tokenizer "
            "to pair them by token. Put its tokenizer.json beside the weights, or use vocabulary='skip'."
        )
    rows = ours.rows_in(theirs, n)
    rows[rows >= m] = -1
    return rows


_rows_lock = threading.Lock()


def leaf_rows(leaf: Leaf, name: str, vocabulary: Vocabulary | None, rows: int) -> np.ndarray:
    """For each of `rows` rows of `vocabulary` the leaf's own row, or -1; computed once for each pair."""
    cache = leaf.__dict__.setdefault("_row_maps", {})
    key = (id(vocabulary), rows, leaf.shape(name)[0])
    with _rows_lock:
        if key not in cache:
            ids = paired_rows(
                name, vocabulary, rows, "the CP", leaf.vocabulary, leaf.shape(name)[0], leaf.label
            )
            cache[key] = (ids, vocabulary)  # keeps the vocabulary alive, so that its id stays its own
    return cache[key][0]
