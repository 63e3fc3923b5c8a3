"""Rows of a merged model's tables: which are the chat model's own, and what happened to all of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.vector import WeightVector

if TYPE_CHECKING:
    from chatvec_lab.weights.merged import MergedCheckpoint


@dataclass(frozen=True)
class VocabularyReport:
    """What happened to the rows of the embedding (the head goes alike).

    `matched` rows got the vector, `kept` rows belong to tokens of the CP alone, `copied` are the chat model's own
    rows of special tokens, `padded` rows have no token, `added` were appended. `chat_only` lists the tokens that
    chat has and the merged model lacks.
    """

    policy: str
    rows: int
    matched: int
    kept: int
    copied: tuple[str, ...]
    padded: int
    added: tuple[str, ...]
    chat_only: tuple[str, ...]


def special_rows(merged: MergedCheckpoint, name: str) -> dict[int, tuple[str, np.ndarray]]:
    """By row of one table: the token, and the chat model's own elements, raw in its dtype.

    Appended tokens, and with `copy_special` the special tokens that the CP never trained (its row is the base's, bit
    for bit). Raises ValueError where the chat model has no row for an appended token.
    """
    side, pub = merged.chat_side, merged.named(name)
    if side is None or merged.policy == "skip":
        return {}
    result, width = {}, prod(merged.shape(name)[1:])
    for token, row in merged.added_tokens.items():
        found = side.rows(pub, token)
        if found is None:
            raise ValueError(f"{name}: {side.label} has no row for {token!r}, which its chat template needs.")
        result[row] = (token, found[0][0])
    is_active = merged.is_moved_by(merged.vector.terms, name)  # at scale 0 the CP is untouched
    if merged.copy_special and is_active and merged.cp.vocabulary:
        for token in side.special:
            row = merged.cp.vocabulary.tokens.get(token, merged.cp.shape(name)[0])
            found = side.rows(pub, token) if row < merged.cp.shape(name)[0] else None
            if found is None or found[1] is None:
                continue
            own = exact.widen(merged.cp.raw(name, row * width, (row + 1) * width))
            if np.array_equal(own, exact.widen(found[1][0])):  # never trained in the CP
                result[row] = (token, found[0][0])
    return result


def vocabulary_report(merged: MergedCheckpoint) -> VocabularyReport | None:
    """What happens to the rows of the input embedding; None for a checkpoint without a table."""
    name = merged.layout.embedding or next(iter(merged.layout.tables), None)
    if name is None:
        return None
    vocabulary, rows = merged.cp.vocabulary, merged.shape(name)[0]
    special = merged._special(name)
    added = {row for row, (token, _) in special.items() if token in merged.added_tokens}
    copied = [token for row, (token, _) in special.items() if row not in added]
    matched = np.zeros(rows, bool)
    if not merged.is_carried(name):
        published = merged.named(name)
        moving = WeightVector(tuple(t for t in merged.vector.terms if t.coefficient(published)))
        matched |= moving.live_rows(published, vocabulary, rows)
    matched[list(special)] = False
    with_token = rows if vocabulary is None else sum(row < rows for row in vocabulary.tokens.values())
    theirs = set(merged.vector.vocabulary.tokens if merged.vector.vocabulary else ())
    known = set(merged.vocabulary.tokens if merged.vocabulary else ())
    return VocabularyReport(
        policy=merged.policy,
        rows=rows,
        matched=int(matched.sum()),
        kept=with_token - int(matched.sum()) - len(copied),
        copied=tuple(copied),
        padded=rows - with_token - len(added),
        added=tuple(merged.added_tokens),
        chat_only=tuple(sorted(theirs - known)),
    )
