"""Embedding and head rows matched by token string, not by index.

A CP model may have more tokens than the chat model, in another order, and padding rows behind them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

Policy = Literal["match", "skip", "strict"]


@dataclass(frozen=True)
class Vocabulary:
    """Token strings and their rows. `special` holds the tokens marked special or added after training.

    `opaque` is set where only code that is not run here knows every token's row: a digest of the tokenizer's
    files, with `why` in words. Such a vocabulary pairs with one of the very same files. `where` is the file.

    >>> Vocabulary({"a": 0, "b": 1}).rows_in(Vocabulary({"b": 0, "c": 1}), rows=3)
    array([-1,  0, -1])
    """

    tokens: dict[str, int]
    special: frozenset[str] = field(default=frozenset())
    where: str = field(default="", compare=False)
    opaque: str = ""
    why: str = field(default="", compare=False)
    _known: dict[str, str] = field(default_factory=dict, compare=False, repr=False)  # shared by copies

    @cached_property
    def by_row(self) -> dict[int, str]:
        return {row: token for token, row in self.tokens.items()}

    @cached_property
    def hole(self) -> int | None:
        """The first id without a token below the last ordinary token's; None where there is none, as it should be."""
        taken = set(self.tokens.values())
        last = max((row for token, row in self.tokens.items() if token not in self.special), default=-1)
        return next((row for row in range(last) if row not in taken), None)

    @property
    def digest(self) -> str:
        """One text that differs for tokenizers of other tokens, rows or files."""
        if "digest" not in self._known:
            facts = [sorted(self.tokens.items()), self.opaque]
            self._known["digest"] = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return self._known["digest"]

    def at(self, where: str) -> Vocabulary:
        """The same vocabulary, of another file."""
        return replace(self, where=where)

    def has_the_rows_of(self, other: Vocabulary) -> bool:
        """True when every token has the same row in both."""
        return self.opaque == other.opaque and (self.tokens is other.tokens or self.tokens == other.tokens)

    def rows_in(self, other: Vocabulary, rows: int) -> np.ndarray:
        """For each of this vocabulary's `rows` rows the row of the same token in `other`, -1 where there is none.

        Padding rows (no token) are -1. Shape (rows,), int64.
        Raises ValueError for vocabularies that cannot be read by token, unless both are of the very same files.
        """
        if self.opaque or other.opaque:
            if self.opaque != other.opaque:
                raise ValueError(_unread(self, other))
            return np.arange(rows)
        for side in (self, other):
            if side.hole is not None:
                raise ValueError(
                    f"{side.where or 'the vocabulary'}: no token has the id {side.hole}, though tokens before and behind "
                    "it are there: is the file damaged? Rows cannot be paired by token; give it whole, or use "
                    "vocabulary='skip'."
                )
        found = np.full(rows, -1, np.int64)
        for token, row in self.tokens.items():
            if row < rows:
                found[row] = other.tokens.get(token, -1)
            elif token not in self.special:
                raise ValueError(
                    f"{self.where or 'the vocabulary'}: {token!r} has the id {row}, but the model has {rows} rows. "
                    "Tokenizer and weights are not of one model."
                )
        return found

    @classmethod
    def from_folder(cls, folder: Path) -> Vocabulary | None:
        """The vocabulary of a checkpoint folder, or None when it has no tokenizer of any kind."""
        from chatvec_lab.weights.sources.tokenizer_files import read_vocabulary

        return read_vocabulary(folder)


def _unread(ours: Vocabulary, theirs: Vocabulary) -> str:
    unread = ours if ours.opaque else theirs
    return (
        f"the vocabularies of {ours.where or 'one member'} and {theirs.where or 'the other'} differ, and that of "
        f"{unread.where} cannot be read by token: {unread.why}. Rows of embedding and head cannot be paired. Give both "
        "a tokenizer.json (load the tokenizer where you trust its code, and save it), or use vocabulary='skip'."
    )


def runs(rows: np.ndarray) -> list[tuple[int, int, int]]:
    """Consecutive rows as (position, first row, count), missing rows (-1) left out: few reads for many rows.

    >>> runs(np.array([4, 5, -1, 2]))
    [(0, 4, 2), (3, 2, 1)]
    """
    if not len(rows):
        return []
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = np.concatenate([[0], breaks])
    stops = np.concatenate([breaks, [len(rows)]])
    pieces = []
    for start, stop in zip(starts, stops, strict=True):
        first = rows[start]
        if first < 0:  # -1, then possibly 0, 1, ...: the run continues behind the missing row
            start, first = start + 1, first + 1
        if stop > start:
            pieces.append((int(start), int(first), int(stop - start)))
    return pieces
