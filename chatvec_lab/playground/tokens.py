"""What a model would say next, token by token, and how far that is from what the CP would say.

Each reading is a forward pass over the prompt and the reply's own tokens, as they were generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chatvec_lab.evaluation.asking.generation import end_ids
from chatvec_lab.evaluation.asking.rendering import ChatTemplate
from chatvec_lab.evaluation.asking.responses import chat_messages, plain_text
from chatvec_lab.evaluation.asking.thinking import split

if TYPE_CHECKING:
    import torch

TOP = 5  # likeliest tokens that are told
_CHUNK = 64  # positions turned into float64 at a time


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


def context_ids(tokenizer, turns: Sequence[str], said: Sequence[str], template: str) -> list[int]:
    """The tokens that a model sees before its next reply, as `respond` puts them: `said` are its earlier replies."""
    turns = tuple(turns[: len(said) + 1])
    if template == "plain":
        return tokenizer(plain_text(turns, list(said)))["input_ids"]
    chat = ChatTemplate(tokenizer)
    answers = [split(text, chat.thinking_format).answer or "" for text in said]
    return tokenizer(chat.render(chat_messages(turns, answers, None)), add_special_tokens=False)["input_ids"]


def log_probabilities(model, context: Sequence[int], reply: Sequence[int], rows: int) -> torch.Tensor:
    """Log probabilities of the next token before each token of the reply and after its last: (reply + 1, rows), float64.

    Of the first `rows` of the model's vocabulary, those that are tokens, and among these alone.
    """
    import torch

    ids = torch.tensor([[*context, *reply]], device=model.get_input_embeddings().weight.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 :, :rows]
        parts = [part.double().log_softmax(-1).cpu() for part in logits.split(_CHUNK)]
    return torch.cat(parts)


def divergence(cp: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """KL(CP ‖ other) of each row, in nats. `cp`, `other`: log probabilities (positions, tokens), float64."""
    import torch

    terms = torch.where(cp.isneginf(), 0.0, cp.exp() * (cp - other))  # a token that the CP rules out adds nothing
    return terms.sum(-1).clamp(min=0).numpy()


def read(
    own: torch.Tensor, tokenizer, reply: Sequence[int], text: str, ends: frozenset[int], cp: torch.Tensor | None = None
) -> tuple[Token, ...]:  # fmt: skip
    """The reply's tokens with what `own` says of them and, where they can be compared, `cp`.

    own, cp: `log_probabilities` of the model and of the CP. text: the reply. ends: the tokens that end a reply; none
    if it was cut there.
    """
    ids = list(reply)
    if ends:
        known = [i for i in ends if i < own.shape[1]]
        ids += [max(known, key=lambda i: float(own[len(reply), i]))] if known else []
    spans = [*spans_of(tokenizer, reply, text), (len(text), len(text))]
    apart = np.full(len(ids), np.nan) if cp is None else divergence(cp[: len(ids)], own[: len(ids)])
    found = []
    for place, token in enumerate(ids):
        start, stop = spans[place]
        more = {}
        if cp is not None:
            given = float(cp[place, token].exp())
            more = {"cp_probability": given, "cp_top": _likeliest(cp[place], tokenizer)}
        found.append(
            Token(
                start, stop, shown(tokenizer, token), float(own[place, token].exp()),
                _likeliest(own[place], tokenizer), float(apart[place]), **more,
            )  # fmt: skip
        )
    return tuple(found)


def ends_of(model, tokenizer, template: str, finish_reason: str) -> frozenset[int]:
    """The tokens that end a reply, none for a reply that was cut at its longest."""
    return end_ids(model, tokenizer, template) if finish_reason == "stop" else frozenset()


def rows_in_common(one, other) -> int:
    """How many rows of the vocabulary mean the same tokens in both tokenizers: all or none, 0."""
    vocabulary = one.get_vocab()
    return max(vocabulary.values()) + 1 if vocabulary == other.get_vocab() else 0


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


def shown(tokenizer, token: int) -> str:
    """A token by itself, with its spaces; a special one by its name, a part of a character as its bytes are stored."""
    if token in tokenizer.all_special_ids:
        return str(tokenizer.convert_ids_to_tokens(token))
    stored = str(tokenizer.convert_ids_to_tokens(token))
    text = tokenizer.decode([token])
    return stored if "\ufffd" in text or not text else text


def _likeliest(row: torch.Tensor, tokenizer) -> tuple[tuple[str, float], ...]:
    values, ids = row.topk(min(TOP, len(row)))
    return tuple((shown(tokenizer, i), float(v)) for i, v in zip(ids.tolist(), values.exp().tolist(), strict=True))


def words_without_a_token(tokenizer, text: str) -> list[tuple[int, int]] | None:
    """The words of a text that the tokenizer does not know: it writes them as unknown, or byte by byte.

    None where it cannot be told, for tokenizers without offsets (slow ones).
    """
    if not getattr(tokenizer, "is_fast", False):
        return None
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    bad = [span for i, span in zip(found["input_ids"], found["offset_mapping"], strict=True) if _is_no_word(tokenizer, i)]
    return _whole_words(text, bad)


def _is_no_word(tokenizer, token: int) -> bool:
    if token == tokenizer.unk_token_id:
        return True
    if token in tokenizer.all_special_ids:
        return False
    return "\ufffd" in tokenizer.decode([token])  # a piece of a character


def _whole_words(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans widened to letters beside them where words are parted by spaces, joined where they touch."""
    from chatvec_lab.playground.marks import words

    touched = [(w.start, w.stop) for w in words(text) if any(s < w.stop and w.start < e for s, e in spans)]
    joined: list[tuple[int, int]] = []
    for start, stop in touched:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined
