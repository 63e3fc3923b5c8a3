"""What a model would say next, token by token, and how far that is from what the CP would say.

Each reading is a forward pass over the prompt and the reply's own tokens, as they were generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from chatvec_lab.evaluation.asking.generation import end_ids
from chatvec_lab.lens.distributions import chunks, kl, log_probabilities, shown, tokens_of
from chatvec_lab.playground import marks

if TYPE_CHECKING:
    import torch

TOP = 5  # likeliest tokens that are told


class Token(NamedTuple):
    """One token of a reply, the one that ended it included.

    start, stop: its characters in the reply (none for a special token, or for the first bytes of a character).
    probability: that the model gave it. top: the likeliest tokens and their probabilities; cp_top: the CP's.
    divergence: KL(CP ‖ model) of the next token here, in nats; NaN where the two have no vocabulary in common.
    """

    start: int
    stop: int
    text: str
    probability: float
    top: tuple[tuple[str, float], ...]
    divergence: float = float("nan")
    cp_probability: float = float("nan")
    cp_top: tuple[tuple[str, float], ...] = ()


def read(
    own: torch.Tensor,
    tokenizer,
    reply: Sequence[int],
    text: str,
    ends: frozenset[int] = frozenset(),
    cp: torch.Tensor | None = None,
) -> tuple[Token, ...]:
    """The reply's tokens with what the model says of them and, where the two have the same tokens, the CP.

    own, cp: `next_logits` of the model and of the CP for this reply. text: the reply. ends: the tokens that end a
    reply, of which the likeliest is taken; none for a reply that was cut at its longest.
    """
    rows = tokens_of(tokenizer, own.shape[1])
    ids, spans = list(reply), spans_of(tokenizer, reply, text)
    if known := [i for i in ends if i < rows]:
        ids.append(max(known, key=own[len(reply)].tolist().__getitem__))
        spans.append((len(text), len(text)))
    found = []
    for chunk in chunks(len(ids)):
        mine = log_probabilities(own[chunk], rows)
        theirs = None if cp is None else log_probabilities(cp[chunk], rows)
        apart = [float("nan")] * len(mine) if theirs is None else kl(theirs, mine).tolist()
        for place, token in enumerate(ids[chunk]):
            told = _told(mine[place], tokenizer, token)
            cp_told = (float("nan"), ()) if theirs is None else _told(theirs[place], tokenizer, token)
            name = shown(tokenizer, token)
            found.append(Token(*spans[chunk.start + place], name, *told, apart[place], *cp_told))
    return tuple(found)


def _told(row: torch.Tensor, tokenizer, token: int) -> tuple[float, tuple[tuple[str, float], ...]]:
    """The probability of a token, and the likeliest ones."""
    values, ids = row.topk(min(TOP, len(row)))
    likeliest = zip(ids.tolist(), values.exp().tolist(), strict=True)
    return float(row[token].exp()), tuple((shown(tokenizer, i), value) for i, value in likeliest)


def ends_of(model, tokenizer, template: str, finish_reason: str) -> frozenset[int]:
    """The tokens that end a reply, none for a reply that was cut at its longest."""
    return end_ids(model, tokenizer, template) if finish_reason == "stop" else frozenset()


def are_comparable(one, other) -> bool:
    """Whether two tokenizers have the same tokens under the same numbers."""
    return one.get_vocab() == other.get_vocab()


def spans_of(tokenizer, ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """The characters of `text` that each token wrote, by decoding one token more at a time."""
    spans, reached = [], 0
    special = set(tokenizer.all_special_ids)
    shown: list[int] = []
    for token in ids:
        if token not in special:
            shown.append(token)
        said = tokenizer.decode(shown)
        stop = max(reached, _in_common(said, text))
        spans.append((reached, stop))
        reached = stop
    return spans


def _in_common(one: str, other: str) -> int:
    """Length of the longest common beginning."""
    least = min(len(one), len(other))
    return next((i for i in range(least) if one[i] != other[i]), least)


def words_without_a_token(tokenizer, text: str) -> list[tuple[int, int]] | None:
    """The words of a text that the tokenizer does not know: it writes them as unknown, or byte by byte.

    None where it cannot be told, for tokenizers without offsets (slow ones).
    """
    if not getattr(tokenizer, "is_fast", False):
        return None
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    bad = [
        span
        for token, span in zip(found["input_ids"], found["offset_mapping"], strict=True)
        if _is_no_word(tokenizer, token)
    ]
    touched = [w for w in marks.words(text) if any(s < w.stop and w.start < e for s, e in bad)]
    # asked alone too: offsets of a normalised text may reach into the neighbour
    alone = tokenizer([w.text for w in touched], add_special_tokens=False)["input_ids"] if touched else []
    unknown = [
        w for w, ids in zip(touched, alone, strict=True) if any(_is_no_word(tokenizer, i) for i in ids)
    ]
    joined: list[tuple[int, int]] = []
    for word in unknown:
        start = joined.pop()[0] if joined and joined[-1][1] == word.start else word.start
        joined.append((start, word.stop))
    return joined


def _is_no_word(tokenizer, token: int) -> bool:
    if token == tokenizer.unk_token_id:
        return True
    return token not in tokenizer.all_special_ids and "\ufffd" in tokenizer.decode(
        [token]
    )  # a piece of a character
