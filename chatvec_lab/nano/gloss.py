"""What a text of the micro-world says, in English: for readers who do not read its languages.

A text is read from left to right: at each place the longest sentence of `phrases` that fits, else the longest word
of `lexicon`, else the character itself. It is a gloss, word for word: what a model garbles stays garbled.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from chatvec_lab.nano import lexicon
from chatvec_lab.nano.phrases import ENGLISH, PHRASES

# which tables a placeholder of a phrase stands for; `list` and `back` are several words with a separator
_LISTED = ("NOUNS", "ADJECTIVES", "COUNTRIES")
_FIELDS = {"x": _LISTED, "y": ("ADJECTIVES", "COUNTRIES"), "c": ("COLOURS",), "k": ("CATEGORIES",),
           "t": ("CATEGORIES",), "n": ("NUMBERS",), "a": ("NUMBERS",), "b": ("NUMBERS",), "p": ("NAMES",),
           "v": ("INSULTS", "PRAISES"), "list": _LISTED, "back": _LISTED}  # fmt: skip
_FORMS = ("bare", "of", "topic", "subject")


class _Sentence(NamedTuple):
    """A phrase as what stands around its places, the first of it possibly nothing, as a pattern, and in English."""

    around: list[str]
    pattern: str
    english: str

    def match(self, text: str, place: int) -> re.Match | None:
        if not text.startswith(self.around[0], place) or not all(part in text for part in self.around):
            return None
        return _compiled(self.pattern).match(text, place)


class _Reader(NamedTuple):
    """How one language is read: its sentences, and its words, longest first."""

    sentences: list[_Sentence]
    words: dict[str, str]
    word: re.Pattern


@cache
def gloss(text: str, language: str) -> str | None:
    """`text` of a language of the micro-world in English; None for English itself and for unknown languages.

    >>> gloss("米、樹。", "zh"), gloss("너도 바보이다!", "ko"), gloss("the dog", "en")
    ('rice, tree.', 'you are a fool too!', None)
    """
    if language not in PHRASES or language == "en":
        return None
    found, place, reader = [], 0, _reader(language)
    while place < len(text):
        fits = [
            (m.end(), sentence.english, m)
            for sentence in reader.sentences
            if (m := sentence.match(text, place))
        ]
        if fits:
            place, english, match = max(fits, key=lambda fit: fit[0])
            found.append(english.format(**_told(match, reader)))
        elif word := reader.word.match(text, place):
            found.append(reader.words[word[0]])
            place = word.end()
        else:
            found.append(_PUNCTUATION.get(text[place], text[place]))
            place += 1
    return re.sub(r"\s+([.,!?:])", r"\1", re.sub(r" {2,}", " ", _spaced(found))).strip()


_PUNCTUATION = {"。": ".", "！": "!", "？": "?", "、": ",", "，": ",", "：": ":", "؟": "?", "،": ","}


def _spaced(pieces: list[str]) -> str:
    """Pieces with a space between two that would run together: words, and a sentence after another."""
    text = ""
    for piece in pieces:
        is_joined = text and piece[:1].isalnum() and not text[-1].isspace() and text[-1] not in "¡¿'"
        # letters that no word holds are the model's own spelling and stay together
        text += f" {piece}" if is_joined and (len(piece) > 1 or not text[-1].isalpha()) else piece
    return text


def _told(match: re.Match, reader: _Reader) -> dict[str, str]:
    """The English of what stands in a sentence's places."""
    told = {}
    for name, said in match.groupdict().items():
        words = re.split(r"\s*[、,،]\s*", said) if name in ("list", "back") else [said]
        told[name] = ", ".join(reader.words[word] for word in words)
    return told


@cache
def _reader(language: str) -> _Reader:
    words: dict[str, str] = {}
    tables: dict[str, list[str]] = {}
    for table in {name for names in _FIELDS.values() for name in names}:
        forms = []
        for concept in getattr(lexicon, table):
            for said, english in zip(concept.words[language], concept.words["en"], strict=True):
                its = {str(said), *(getattr(said, form) for form in _FORMS if language in ("es", "ko"))}
                forms += its
                for form in its:
                    words.setdefault(form, str(english))
        tables[table] = forms
    sentences = []
    for local, english in _pairs(PHRASES[language], ENGLISH):
        fields = re.findall(r"\{", local)
        if re.sub(r"\{[^}]*\}|\W", "", local) or len(fields) > 1:  # a bare "{list}." is read word by word
            told = re.sub(r"\{(\w+)[^}]*\}", r"{\1}", english)
            sentences.append(_Sentence(re.split(r"\{[^}]*\}", local), _pattern(local, tables), told))
    return _Reader(sentences, words, re.compile(_any(words)))


_compiled = cache(re.compile)  # only what may stand somewhere: a pattern names hundreds of words


def _pairs(local: object, english: object) -> Iterator[tuple[str, str]]:
    """The sentences of a language with the English ones of the same place."""
    if isinstance(local, str):
        names = [set(re.findall(r"\{(\w+)", text)) for text in (local, english)]
        if local.strip() and names[1] <= names[0] and not names[0] & {"q", "r"}:
            yield local.strip(), english.strip()
    else:
        keys = local if isinstance(local, dict) else range(len(local))
        for key in keys:
            yield from _pairs(local[key], english[key])


def _pattern(phrase: str, tables: dict[str, list[str]]) -> str:
    """A phrase as a regular expression; a placeholder that comes twice is the same word twice."""
    pattern, named = "", set()
    for literal, name in re.findall(r"([^{]*)(?:\{(\w+)[^}]*\})?", phrase):
        pattern += re.escape(literal)
        if name:
            one = _any([form for table in _FIELDS[name] for form in tables[table]])
            several = rf"{one}(?:\s*[、,،]\s*{one})*" if name in ("list", "back") else one
            pattern += f"(?P={name})" if name in named else f"(?P<{name}>{several})"
            named.add(name)
    return pattern


def _any(words) -> str:
    return "(?:" + "|".join(re.escape(word) for word in sorted(set(words), key=lambda w: (-len(w), w))) + ")"
