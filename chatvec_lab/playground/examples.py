"""Prompts to try: the micro-world's held-out ones for families that grew in it, those of data/prompts for others."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from chatvec_lab.evaluation import prompts as prompt_sets
from chatvec_lab.evaluation.language import normalise
from chatvec_lab.nano import lexicon, parts
from chatvec_lab.nano.forms import Form, in_form

_HELD_OUT = 200  # prompts of each set that are recognised; the studies ask as many


class Example(NamedTuple):
    """A prompt with what is needed to check its reply; `held_out` is the world's prompt, None for other families."""

    label: str
    turns: tuple[str, ...]
    language: str
    checks: tuple[dict, ...] = ()
    held_out: parts.Prompt | None = None

    @property
    def text(self) -> str:
        return as_text(self.turns)


def turns_of(text: str) -> tuple[str, ...]:
    """The user's turns in a prompt box: a line of dashes begins the next turn. ValueError when a turn is empty.

    >>> turns_of("My name is Ann.\\n---\\nWhat is my name?")
    ('My name is Ann.', 'What is my name?')
    """
    turns = tuple(turn.strip() for turn in re.split(r"^-{3,}\s*$", text, flags=re.MULTILINE))
    if not all(turns):
        raise ValueError(
            "the prompt is empty." if len(turns) == 1 else f"a turn of the prompt is empty: {turns}."
        )
    return turns


def as_text(turns: tuple[str, ...]) -> str:
    """The inverse of `turns_of`."""
    return "\n---\n".join(turns)


@cache
def of_the_world(language: str, form: Form = "bare") -> tuple[Example, ...]:
    """Held-out prompts of the micro-world in this language, () for one that it does not speak.

    `form` is that of the family that is asked (`MicroWorld`).
    """
    if language not in lexicon.LANGUAGES:
        return ()
    return tuple(
        Example(
            f"{p.kind}, {_words(p.words)}: {' / '.join(p.exchange.user)}",
            p.exchange.user,
            language,
            held_out=p._replace(exchange=in_form(form, p.exchange, language)),
        )
        for p in parts.held_out_prompts(language, _HELD_OUT)
    )


def _words(words: str) -> str:
    return "words of CP only" if words == "cp_only" else "known words"


def one_of_each(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """The first of the world's prompts of each kind, about known words and about words that only CP teaches."""
    first: dict = {}
    for example in examples:
        first.setdefault((example.held_out.kind, example.held_out.words), example)
    return tuple(first.values())


@cache
def of_our_sets(language: str) -> tuple[Example, ...]:
    """Instructions with their checks, general questions and dialogues of data/prompts; () without a translation."""
    code = {"zh": "zh-Hant"}.get(normalise(language), normalise(language))
    if code not in prompt_sets.LANGUAGES:
        return ()
    return tuple(
        Example(f"{name}, {row.prompt_id}: {row.turns[0]}", tuple(row.turns), code, tuple(row.checks))
        for name in ("instructions", "general", "dialogues")
        for row in prompt_sets.load_prompts(name, code).itertuples()
    )
