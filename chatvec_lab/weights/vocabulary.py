"""Embedding and head rows matched by token string, not by index.

A CP model may have more tokens than the chat model, in another order, and padding rows behind them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

Policy = Literal["match", "skip", "strict"]


@dataclass(frozen=True)
class Vocabulary:
    """Token strings and their rows. `special` holds the tokens marked special or added after training.

    >>> Vocabulary({"a": 0, "b": 1}).rows_in(Vocabulary({"b": 0, "c": 1}), rows=3)
    array([-1,  0, -1])
    """

    tokens: dict[str, int]
    special: frozenset[str] = field(default=frozenset())

    @cached_property
    def by_row(self) -> dict[int, str]:
        return {row: token for token, row in self.tokens.items()}

    def rows_in(self, other: Vocabulary, rows: int) -> np.ndarray:
        """For each of this vocabulary's `rows` rows the row of the same token in `other`, -1 where there is none.

        Padding rows (no token) are -1. Shape (rows,), int64.
        """
        found = np.full(rows, -1, np.int64)
        for token, row in self.tokens.items():
            if row < rows:
                found[row] = other.tokens.get(token, -1)
        return found

    @classmethod
    def from_folder(cls, folder: Path) -> Vocabulary | None:
        """The vocabulary of a checkpoint folder, or None when it has no tokenizer.

        Reads `tokenizer.json` itself (any model type); older tokenizers go through transformers.
        """
        path = folder / "tokenizer.json"
        if path.is_file():
            try:
                data = json.loads(path.read_text("utf-8"))
                vocab = data["model"]["vocab"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is damaged or no tokenizer ({error!r}). Download it again."
                ) from error
            if isinstance(vocab, list):  # Unigram: a list of (token, score)
                vocab = {token: row for row, (token, _) in enumerate(vocab)}
            added = data.get("added_tokens") or []
            tokens = dict(vocab) | {token["content"]: token["id"] for token in added}
            return cls(tokens, frozenset(token["content"] for token in added))
        names = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
        if not any((folder / name).is_file() for name in names):
            return None
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
        return cls(dict(tokenizer.get_vocab()), frozenset(special))


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
