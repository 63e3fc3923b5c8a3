"""What a model would say next, as distributions over its tokens, and how far one is from another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CHUNK = 16  # positions turned into float64 at a time


def next_logits(model, context: Sequence[int], reply: Sequence[int]) -> torch.Tensor:
    """The logits before each token of the reply and after its last: (reply + 1, vocabulary), in one forward pass."""
    import torch

    ids = torch.tensor([[*context, *reply]], device=model.device)
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 :]


def tokens_of(tokenizer, width: int) -> int:
    """How many of the rows of a vocabulary of this width are tokens: rows that only fill up are none."""
    return min(max(tokenizer.get_vocab().values()) + 1, width)


def log_probabilities(logits: torch.Tensor, rows: int) -> torch.Tensor:
    """Of the first `rows` of the vocabulary, those that are tokens, and among these alone; float64, on the CPU."""
    return logits[:, :rows].cpu().double().log_softmax(-1)


def kl(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(one ‖ other) of each row, in nats. Both: log probabilities (positions, tokens), float64."""
    import torch

    # a token that the one rules out adds nothing
    terms = torch.where(one.isneginf(), 0.0, one.exp() * (one - other))
    return terms.sum(-1).clamp(min=0)


def entropy(one: torch.Tensor) -> torch.Tensor:
    """Entropy of each row of log probabilities, in nats."""
    import torch

    return -torch.where(one.isneginf(), 0.0, one.exp() * one).sum(-1).clamp(max=0)


def chunks(length: int) -> Iterator[slice]:
    """The positions, as many at a time as are computed together."""
    for first in range(0, length, CHUNK):
        yield slice(first, min(first + CHUNK, length))


def shown(tokenizer, token: int) -> str:
    """A token by itself, with its spaces; a special one by its name, a part of a character as its bytes are stored."""
    stored = str(tokenizer.convert_ids_to_tokens(token))
    if token in tokenizer.all_special_ids:
        return stored
    text = tokenizer.decode([token])
    return stored if "\ufffd" in text or not text else text
