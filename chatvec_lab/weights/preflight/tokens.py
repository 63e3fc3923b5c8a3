"""Do the tokenizers say what the rows say? Rows are paired by token, so a wrong token gives other weights in silence.

Members of one family may differ in their tokens for good reasons: a larger vocabulary, another order, reserved tokens
that got a name. Then the numbers agree: the row of a token is near the base's row of that token. A file of another
version, or a damaged one, is told by rows that are near another token's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.weights.preflight.descent import read_rows
from chatvec_lab.weights.preflight.findings import Finding

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint

NEAR = 0.9  # the least cosine of two rows that are one token's
APART = 0.3  # a token's two rows are no pair where their cosine is so much below that of most tokens
SAMPLED, MOST = 4096, 512  # tokens of both that are compared; tokens that are then compared with each other


def contradictions(
    role: str, member: Checkpoint, base: Checkpoint, *, full: bool = False, seed: int = 0
) -> list[Finding]:
    """A finding about tokens whose rows in the embedding say something else than the tokenizers of member and base.

    A seeded sample of some thousand rows is read, all of a small vocabulary, or with `full`.
    """
    ours, theirs = member.vocabulary, base.vocabulary
    tables = member.layout.embedding, base.layout.embedding
    if None in (ours, theirs, *tables) or ours.opaque or theirs.opaque or ours.tokens == theirs.tokens:
        return []
    counts = member.shape(tables[0])[0], base.shape(tables[1])[0]
    generator = np.random.default_rng([seed, *role.encode()])
    width = member.shape(tables[0])[-1]
    room = len(theirs.tokens) if full else max(MOST, min(SAMPLED, (1 << 22) // width))

    def some(tokens: list[str], most: int) -> list[str]:
        if len(tokens) <= most:
            return tokens
        return [tokens[i] for i in np.sort(generator.choice(len(tokens), most, replace=False))]

    def rows(model: int, tokens: list[str]) -> np.ndarray:
        vocabulary = (ours, theirs)[model].tokens
        return read_rows((member, base)[model], tables[model], np.array([vocabulary[t] for t in tokens]))

    shared = [
        t for t, row in ours.tokens.items() if row < counts[0] and theirs.tokens.get(t, counts[1]) < counts[1]
    ]
    shared = some(shared, room)
    if not shared:
        return []
    cosines = _cosine(rows(0, shared), rows(1, shared))
    strange = [t for t, c in zip(shared, cosines, strict=True) if c < np.median(cosines) - APART]
    left = [
        t
        for t, row in ours.tokens.items()
        if t not in theirs.tokens and t not in ours.special and row < counts[0]
    ]
    right = [
        t
        for t, row in theirs.tokens.items()
        if t not in ours.tokens and t not in theirs.special and row < counts[1]
    ]
    left, right = (some([*strange, *alone], MOST) for alone in (left, right))
    if not left or not right:
        return []
    lines = []
    others = rows(1, some(shared, 64))  # an untrained row is near many
    mine, base_rows = rows(0, left), rows(1, right)
    near = _cosine(mine[:, None], base_rows[None])
    # a new token that was begun with the rows of its parts may stay near one of them, where that part is left unread
    for i in np.flatnonzero((near >= NEAR).sum(1) == 1):
        j = int(near[i].argmax())
        is_grown = left[i] not in theirs.tokens and right[j] in ours.tokens and right[j] in left[i]
        if (
            left[i] != right[j]
            and not is_grown
            and (_cosine(mine[i], others) >= NEAR).sum() <= (right[j] in shared)
        ):
            lines.append(
                f"row {ours.tokens[left[i]]} is {left[i]!r} here, with the numbers of {right[j]!r} (row "
                f"{theirs.tokens[right[j]]}) there, cosine {near[i, j]:.3f}"
            )
    if not lines:
        return []
    more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
    text = (
        f"the tokenizers of {role} {member.label} ({ours.where or 'its tokenizer'}) and base {base.label} "
        f"({theirs.where or 'its tokenizer'}) contradict the weights: {'; '.join(lines[:3])}{more}. Rows are paired by "
        "token, so these would get another token's vector or none. Is a tokenizer damaged, or of another version?"
    )
    return [Finding("tokens", True, text)]


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines along the last axis; 0 where a row is zero."""
    between = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    if a.ndim == 3:  # all pairs
        dots = a[:, 0] @ b[0].T
    else:
        dots = (a * b).sum(-1)
    return np.divide(dots, between, out=np.zeros_like(dots), where=between > 0)
