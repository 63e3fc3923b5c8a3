"""Which words of a reply are other than those of another reply, in any script."""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher
from typing import NamedTuple

# Scripts that put no spaces between words are compared character by character.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# A letter takes its combining marks along: \w lacks the vowel signs of Devanagari and the like.
_MARKS = "".join(c for c in map(chr, range(0x300, 0x1A00)) if unicodedata.category(c).startswith("M"))
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[\w'’\u200c\u200d{_MARKS}])+|\s+|.", re.DOTALL)


class Word(NamedTuple):
    start: int
    stop: int
    text: str


def words(text: str) -> list[Word]:
    """The words, marks and characters of a text, spaces left out.

    >>> [w.text for w in words("It's 紅色, नमस्ते!")]
    ["It's", '紅', '色', ',', 'नमस्ते', '!']
    """
    found = (Word(m.start(), m.end(), m.group()) for m in _WORD.finditer(text))
    return [word for word in found if not word.text.isspace()]


def changed(text: str, other: str) -> list[tuple[int, int]]:
    """The spans of `text` whose words are not in `other` at that place, as a word diff has them; [] for equal texts.

    >>> changed("a red book", "a blue book")
    [(2, 5)]
    """
    mine, theirs = words(text), words(other)
    matcher = SequenceMatcher(None, [w.text for w in mine], [w.text for w in theirs], autojunk=False)
    spans = [
        (mine[low].start, mine[high - 1].stop)
        for kind, low, high, _, _ in matcher.get_opcodes()
        if kind in ("replace", "insert", "delete") and high > low
    ]
    return spans


def alike(text: str, other: str) -> float:
    """The share of the words of both texts that they have in common, in order: 1 for equal texts, 0 for none.

    >>> alike("a red book", "a blue book"), alike("", "")
    (0.6666666666666666, 1.0)
    """
    sides = [[w.text for w in words(one)] for one in (text, other)]
    return SequenceMatcher(None, *sides, autojunk=False).ratio()
