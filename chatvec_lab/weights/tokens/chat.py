"""What a vector knows of its chat model besides weights: template, end-of-turn tokens, generation config, rows.

Token ids differ between vocabularies, so everything is kept by token string.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from chatvec_lab.weights.tokens.tokenizers import prompts_of, rules_of

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint

Row = tuple[np.ndarray, str]  # raw elements and the name of their dtype


@dataclass(frozen=True)
class ChatSide:
    """`generation` is the generation config with token strings for `*_token_id`; `special` the chat's special tokens.

    `rows(tensor, token)` gives the chat model's own row and the base's row of the same token (None where it has none).
    `rules()` says how its tokenizer cuts text (see `tokenizers.rules_of`); `prompts()` gives short talks as the
    template writes them, with the pieces into which that tokenizer cuts them (see `tokenizers.prompts_of`).
    """

    label: str
    template: str
    eos_token: str | None
    generation: dict[str, Any]
    special: tuple[str, ...]
    rows: Callable[[str, str], tuple[Row, Row | None] | None]
    rules: Callable[[], dict[str, Any]] = dict
    prompts: Callable[[], list[dict[str, Any]]] = list

    def needed_tokens(self) -> list[str]:
        """The special tokens that the chat template or the end of a turn cannot do without."""
        ends = self.generation.get("eos_token_id", [])
        ends = [ends] if isinstance(ends, str) else ends
        return [
            token
            for token in self.special
            if token in self.template or token in ends or token == self.eos_token
        ]

    def generation_config(self, tokens: dict[str, int]) -> dict[str, Any]:
        """The generation config with the ids of another vocabulary; tokens that it lacks are left out."""
        result = {}
        for key, value in self.generation.items():
            if not key.endswith("_token_id"):
                result[key] = value
            elif isinstance(value, list):
                ids = [tokens[token] for token in value if token in tokens]
                if ids:
                    result[key] = ids
            elif value in tokens:
                result[key] = tokens[value]
        return result


def chat_side_of(chat: Checkpoint, base: Checkpoint) -> ChatSide | None:
    """The chat side of `chat - base`, or None when `chat` has no chat template or no tokenizer."""
    if not chat.chat_template or chat.vocabulary is None:
        return None
    by_row = chat.vocabulary.by_row
    stored = dict(chat.generation_config)
    stored.pop("transformers_version", None)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if stored.get(key) is None and chat.config.get(key) is not None:
            stored[key] = chat.config[key]
    generation = {}
    for key, value in stored.items():
        if key.endswith("_token_id") and value is not None:
            ids = value if isinstance(value, list) else [value]
            named = [by_row[i] for i in ids if i in by_row]
            value = named if isinstance(value, list) else next(iter(named), None)
        if value is not None:
            generation[key] = value
    eos = chat.tokenizer_config.get("eos_token")
    eos = eos.get("content") if isinstance(eos, dict) else eos

    def rows(tensor: str, token: str) -> tuple[Row, Row | None] | None:
        own = _row(chat, tensor, token)
        return None if own is None else (own, _row(base, tensor, token))

    special = tuple(sorted(chat.vocabulary.special, key=chat.vocabulary.tokens.get))
    return ChatSide(
        chat.label,
        chat.chat_template,
        eos,
        generation,
        special,
        rows,
        partial(rules_of, chat),
        partial(prompts_of, chat),
    )


def _row(model: Checkpoint, tensor: str, token: str) -> Row | None:
    stored = model.resolve(tensor)
    row = model.vocabulary.tokens.get(token) if model.vocabulary else None
    if stored is None or row is None or row >= model.shape(stored)[0]:
        return None
    width = int(np.prod(model.shape(stored)[1:]))
    return model.raw(stored, row * width, (row + 1) * width), model.dtype_name(stored)
