"""Words that a model does not know: those its tokenizer has no token for, and in the micro-world those it was not taught."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from chatvec_lab.nano import lexicon
from chatvec_lab.playground import marks, tokens
from chatvec_lab.playground.session import kept

if TYPE_CHECKING:
    from chatvec_lab.playground.replies import Playground


class Unknown(NamedTuple):
    """A span of a text that a model does not know, and why, in words."""

    start: int
    stop: int
    why: str


class Dictionary:
    """What each model of a playground knows. Tokenizers alone are read, no model is loaded.

    >>> from chatvec_lab.playground import Playground
    >>> known = Dictionary(Playground("nano"))
    >>> [span.why for span in known.unknown("base", "zh", "熊、xyz、狗")]      # bear, nothing, dog
    ['taught by CP alone', 'no token for it']
    >>> [span.why for span in known.unknown("CP", "zh", "熊、xyz、狗")]
    ['no token for it']
    """

    def __init__(self, play: Playground):
        self.play = play
        self._found: dict[tuple[str, str, str], list[Unknown]] = {}

    def unknown(self, model: str, cp: str, text: str) -> list[Unknown]:
        """The words of a text that a model ("base", "CP", "CP + τ" or "chat") does not know, in their order.

        Empty where it cannot be told: for tokenizers that do not say which characters a token stands for.
        """
        key = (model, cp, text)
        if key not in self._found:
            kept(self._found, key, self._unknown(*key))
        return self._found[key]

    def _unknown(self, model: str, cp: str, text: str) -> list[Unknown]:
        checkpoint = self.play.family[model] if model in ("base", "chat") else self.play.cps[cp]
        spans = tokens.words_without_a_token(checkpoint.tokenizer, text) or []
        found = [Unknown(*span, "no token for it") for span in spans]
        if self.play.is_nano:
            learned = self.play.language_of(cp) if model in ("CP", "CP + τ") else None
            for language in set(self.play.family.languages) - {learned, "en"}:
                found += [Unknown(*span, "taught by CP alone") for span in _of_cp_alone(language, text)]
        apart: list[Unknown] = []
        for span in sorted(set(found)):
            if not apart or apart[-1].stop <= span.start:
                apart.append(span)
        return apart


def _of_cp_alone(language: str, text: str) -> list[tuple[int, int]]:
    words = _taught_by_cp(language)
    if language == "zh":
        longest = sorted(words, key=len, reverse=True)
        return [m.span() for m in re.finditer("|".join(map(re.escape, longest)), text)]
    if language == "ko":  # a stem with its endings is one word
        stems = tuple(words)
        return [(w.start, w.stop) for w in marks.words(text) if _is_stem(w.text, stems)]
    return [(w.start, w.stop) for w in marks.words(text) if w.text.lower() in words]


def _is_stem(word: str, stems: tuple[str, ...]) -> bool:
    """Whether a Korean word is one of the stems, alone or with an ending of one or two characters."""
    return any(word == s or (word.startswith(s) and word[len(s) :] in _ENDINGS) for s in stems)


_ENDINGS = {"은", "는", "이", "가", "을", "를", "의", "와", "과", "도", "요", "이다", "이에요", "예요"}


@cache
def _taught_by_cp(language: str) -> frozenset[str]:
    """Words of a language that only continual pre-training teaches, less those that also stand in known words."""
    taught, known = set(), set()
    for table in (lexicon.NOUNS, lexicon.NUMBERS, lexicon.ADJECTIVES, lexicon.COUNTRIES, lexicon.NAMES):
        for concept in table:
            for word in concept.words[language]:
                (taught if concept.cp_only else known).add(word.bare.lower())
    return frozenset(taught - known)
