"""What a vector knows of its chat model besides weights: template, end-of-turn tokens, generation config, rows.

Token ids differ between vocabularies, so everything is kept by token string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from chatvec_lab.reading import brief
from chatvec_lab.weights.tokens.tokenizers import prompts_of, rules_of

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint

ADDITIONAL = "additional_chat_templates"  # the folder of templates that are not the default
Row = tuple[np.ndarray, str]  # raw elements and the name of their dtype
# settings of a generation config that hold tokens, beside all that end with _token_id
_TOKENS = frozenset(("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids"))


@dataclass(frozen=True)
class ChatSide:
    """`generation` is the generation config with token strings for ids (`*_token_id`, `suppress_tokens` …);
    `special` the chat's special tokens.

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
    others: Mapping[str, str] = field(default_factory=dict)  # its further templates by name ("tool_use")

    @property
    def templates(self) -> str | dict[str, str]:
        """As a tokenizer takes them: the one template, or all by name."""
        return {"default": self.template, **self.others} if self.others else self.template

    def needed_tokens(self, known: Container[str] = ()) -> list[str]:
        """The special tokens that the chat template or the end of a turn cannot do without.

        A template may put a token together (`<|{{ message.role }}|>`): short talks are written to see those that are
        not among the `known`.
        """
        ends = self.generation.get("eos_token_id", [])
        ends = [ends] if isinstance(ends, str) else ends
        plain = {t for t in self.special if t in self.template or t in ends or t == self.eos_token}
        maybe = [t for t in self.special if t not in plain and t not in known and t[:2] in self.template]
        written = self._talks() if maybe else ""
        return [token for token in self.special if token in plain or (token in maybe and token in written)]

    def _talks(self) -> str:
        """Short talks as the template writes them, in one text; "" where the tokenizer cannot be opened."""
        try:
            return "\n".join(prompt["text"] for prompt in self.prompts())
        except (ValueError, OSError, ImportError):
            return ""

    def generation_config(self, tokens: Mapping[str, int]) -> dict[str, Any]:
        """The generation config with the ids of another vocabulary; tokens that it lacks are left out."""
        result = {}
        for key, value in self.generation.items():
            value = _translated(
                key, value, lambda token: tokens.get(token) if isinstance(token, str) else token
            )
            if value not in (None, []):
                result[key] = value
        return result


def _translated(key: str, value: Any, of: Callable[[Any], Any]) -> Any:
    """A setting of a generation config with each token in another form; what `of` gives None for is left out."""
    if key == "forced_decoder_ids" and isinstance(value, list):  # places and what stands there
        pairs = [[place, of(token)] for place, token in value]
        return [pair for pair in pairs if pair[1] is not None]
    if key == "sequence_bias" and isinstance(value, list):
        pairs = [[_of_tokens(tokens, of), bias] for tokens, bias in value]
        return [pair for pair in pairs if pair[0] is not None]
    if key.endswith("_token_id") or key in _TOKENS:
        if not isinstance(value, list):
            return of(value)
        found = [_of_tokens(entry, of) for entry in value]
        return [entry for entry in found if entry is not None]
    return value


def _of_tokens(entry: Any, of: Callable[[Any], Any]) -> Any:
    """One token, or a sequence of them, which is nothing without one of them."""
    if not isinstance(entry, list):
        return of(entry)
    found = [of(token) for token in entry]
    return None if None in found else found


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
    generation = {key: _translated(key, value, by_row.get) for key, value in stored.items()}
    generation = {key: value for key, value in generation.items() if value is not None}
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
        _other_templates(chat),
    )


def _other_templates(chat: Checkpoint) -> dict[str, str]:
    """The chat templates beside the default one, by name, from either place where tokenizers keep them."""
    stored = chat.tokenizer_config.get("chat_template")
    found = (
        {entry.get("name"): entry.get("template") for entry in stored if isinstance(entry, dict)}
        if isinstance(stored, list)
        else {}
    )
    found.pop("default", None)
    for path in sorted((chat.folder / ADDITIONAL).glob("*.jinja")):
        found[path.stem] = path.read_text("utf-8")
    for name, template in found.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name) or not isinstance(template, str):
            raise ValueError(
                f"{chat.label}: the chat template {name!r} is {brief(template)}, expected a text under a plain name. "
                "Download its tokenizer again."
            )
    return found


def _row(model: Checkpoint, tensor: str, token: str) -> Row | None:
    stored = model.resolve(tensor)
    row = model.vocabulary.tokens.get(token) if model.vocabulary else None
    if stored is None or row is None or row >= model.shape(stored)[0]:
        return None
    width = int(np.prod(model.shape(stored)[1:]))
    return model.raw(stored, row * width, (row + 1) * width), model.dtype_name(stored)
