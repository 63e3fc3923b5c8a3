"""The 25 checks themselves: IFEval's types, written anew, with one table for each thing scripts differ in.

Each takes (text, language of the prompt, IFEval's kwargs) and returns whether the text follows, or None
where the question has no meaning. `CHECKS` maps IFEval's names to them; `instructions` runs them.
"""

import json
import re
import unicodedata
from collections.abc import Callable
from operator import eq, ge, le, lt

from chatvec_lab.evaluation._frames import stored
from chatvec_lab.evaluation.language import LANGUAGES, normalise, read_language

COMPARISONS = ("multiturn:shorter", "multiturn:longer")  # with the reply before; `multiturn` runs them

RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "less than": lt,
    "at least": ge,
    "at most": le,
    "exactly": eq,
}

_UNSPACED = tuple(stored("checks")["unspaced"])
_CASELESS = {*_UNSPACED, *stored("checks")["caseless"]}
_QUOTES = {'""', "“”", "„“", "„”", "«»", "»«", "「」", "『』", "〝〞"}
# Letters of the scripts in which a keyword has an edge; Chinese, Korean particles and Arabic clitics attach.
_EDGE = "[0-9A-Za-zÀ-ɏͰ-ϿЀ-ӿḀ-ỿ]"
_ABBREVIATION = re.compile(
    r"(?i)(?:\b(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|e\.g|i\.e|cf|approx|sra?|dra?|ud|p\.ej|mtk|bw|bi)|\b[a-z])$"
)
_NUMBERED = re.compile(r"(?i)\b(?:no|núm|fig|vol|pp?)$")  # before a number alone: "No. 5", "I said no."
_SENTENCE_END = re.compile(
    r"[。！？]+(?![」』”’）)。！？])"
    r"|[.!?…؟۔।]+[\"'”’»)\]*_]*(?=\s|$)"
    r"|(?:[!?]+|(?<!\.)\.)[\"'”’»)\]*_]*(?=[ぁ-ヿ㐀-鿿가-힣])"  # half-width marks among characters without spaces
)


def _fold(text: str) -> str:
    """Full-width and half-width, upper and lower case, Arabic vowel signs and stretching made alike."""
    return re.sub("[\u064b-\u0652\u0640]", "", unicodedata.normalize("NFKC", text).casefold())


def _occurrences(keyword: str, text: str) -> int:
    """How often a keyword occurs in a folded text, as a word where its script has word edges."""
    keyword = _fold(keyword)
    before = f"(?<!{_EDGE})" if re.match(_EDGE, keyword) else ""
    after = f"(?!{_EDGE})" if re.match(_EDGE, keyword[-1:]) else ""
    return len(re.findall(before + re.escape(keyword) + after, text))


def count_words(text: str, language: str) -> int:
    """Words; in scripts without spaces letters (a Latin word or a number among them is one)."""
    if language in _UNSPACED:
        return len(re.findall(r"[0-9A-Za-zÀ-ɏ]+(?:['’.,-][0-9A-Za-zÀ-ɏ]+)*|[^\W_]", text))
    return sum(bool(re.search(r"\w", token)) for token in re.split(r"[\s—–]+", text))


def _sentences(text: str) -> int:
    """Sentences: ended by . ! ? … 。！？ ؟ ۔ । or a line break; something with a letter in it."""
    count = 0
    for line in text.split("\n"):
        start = 0
        for end in _SENTENCE_END.finditer(line):
            piece, rest = line[start : end.start()], line[end.end() : end.end() + 8].lstrip()
            if end.group() == "." and rest:
                if _ABBREVIATION.search(piece[-8:]) or (rest[0].isdigit() and _NUMBERED.search(piece[-8:])):
                    continue
            elif end.group() in ("...", "…", "……") and rest[:1].islower():  # a pause
                continue
            count += bool(re.search(r"[^\W\d_]", piece))
            start = end.end()
        count += bool(re.search(r"[^\W\d_]", line[start:]))
    return count


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n[^\S\n]*\n", text) if part.strip()]


def _existence(text: str, _: str, /, keywords: list[str]) -> bool:
    folded = _fold(text)
    return all(_occurrences(k, folded) for k in keywords)


def _forbidden_words(text: str, _: str, /, forbidden_words: list[str]) -> bool:
    folded = _fold(text)
    return not any(_occurrences(k, folded) for k in forbidden_words)


def _frequency(text: str, _: str, /, keyword: str, frequency: int, relation: str) -> bool:
    return RELATIONS[relation](_occurrences(keyword, _fold(text)), frequency)


def _letter_frequency(text: str, _: str, /, letter: str, let_frequency: int, let_relation: str) -> bool:
    return RELATIONS[let_relation](_fold(text).count(_fold(letter)), let_frequency)


def _response_language(text: str, _: str, /, language: str) -> bool | None:
    target = normalise(language)
    if target not in LANGUAGES:
        return None
    reading = read_language(text)
    return reading.language is not None and reading.share_of(target) >= 0.5


def _number_words(text: str, language: str, /, num_words: int, relation: str) -> bool:
    return RELATIONS[relation](count_words(text, language), num_words)


def _number_sentences(text: str, language: str, /, num_sentences: int, relation: str) -> bool | None:
    return None if language in ("th", "lo", "km") else RELATIONS[relation](_sentences(text), num_sentences)


def _number_paragraphs(text: str, _: str, /, num_paragraphs: int, separator: str = "***") -> bool:
    """Paragraphs divided by IFEval's *** or, with separator "blank line", as people write them."""
    if separator == "blank line":
        return len(_paragraphs(text)) == num_paragraphs
    parts = [part.strip() for part in re.split(r"(?<!\*)\*\*\*(?!\*)", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def _nth_paragraph_first_word(
    text: str, _: str, /, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Exactly so many paragraphs between blank lines, and this one starts with the word, markup aside."""
    paragraphs = _paragraphs(text)
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    start = re.sub(r"^[\W_]+", "", _fold(paragraphs[nth_paragraph - 1]))
    word = _fold(first_word)
    return start.startswith(word) and _occurrences(first_word, start[: len(word) + 1]) == 1


def _number_placeholders(text: str, _: str, /, num_placeholders: int) -> bool:
    return (
        len(re.findall(r"[\[［【][^\[\]［］【】\n]*\w[^\[\]［］【】\n]*[\]］】]", text)) >= num_placeholders
    )


def _postscript(text: str, _: str, /, postscript_marker: str) -> bool:
    """A line that starts with the marker (P.S., P. S. and PS are one) and text after it."""
    letters = re.sub(r"[\s.*_#>:]+", "", _fold(postscript_marker))
    spelled = r"[.*_ \t]*".join(map(re.escape, letters))
    edge = f"(?!{_EDGE})" if re.match(_EDGE, letters[-1:]) else ""  # "Psychology" opens no P.S.
    postscript = rf"(?m)^[*_#>. \t]*{spelled}{edge}[\s.*_#>:]*[^\s.*_#>:]"
    return bool(letters and re.search(postscript, _fold(text)))


def _number_bullet_lists(text: str, _: str, /, num_bullets: int) -> bool:
    """Exactly so many bullets; a rule (---), a negative number and **bold** at the start of a line are none."""
    rule = r"(?![ \t]*(?:[*\-_][ \t]*){3,}$)"
    bullet = r"(?:[*+\-–—‣◦▪][ \t]+|[\-–—](?=[^\W\d]|\*\*?\w)|[•●・·][ \t]*)"
    return len(re.findall(rf"(?m)^{rule}[ \t]*{bullet}(?=[^\n]*[^\s*\-_])", text)) == num_bullets


def _number_highlighted_sections(text: str, _: str, /, num_highlights: int) -> bool:
    """At least so many *pieces* or **pieces**, each counted once; a bullet's star opens none."""
    return len(re.findall(r"(?<!\*)(\*{1,3})(?![\s*])[^*\n]*(?<!\s)\1(?!\*)", text)) >= num_highlights


def _multiple_sections(text: str, _: str, /, section_spliter: str, num_sections: int) -> bool:
    """At least so many lines that open with the word and a number; a mention in a sentence is none."""
    word = re.escape(_fold(section_spliter))
    number = rf"(?:\d+|[ivx]+(?!{_EDGE})|[一二三四五六七八九十]+)"  # "Part I", but not "Parties"
    heading = rf"(?m)^[ \t#*_【\[]*(?:{word}[ \t]*{number}|第[ \t]*{number}[ \t]*{word})"
    return len(re.findall(heading, _fold(text))) >= num_sections


def _json_format(text: str, _: str, /) -> bool:
    """The whole reply, or one code fence around it, is a JSON object or array."""
    fenced = re.fullmatch(r"(?s)```(?:\w*\s*\n|(?i:json)?)(.*)```", text.strip())
    try:
        return isinstance(json.loads(fenced[1] if fenced else text), dict | list)
    except (ValueError, RecursionError):
        return False


def _title(text: str, _: str, /) -> bool:
    return bool(re.search(r"<<[^<>\n]*\w[^<>\n]*>>", unicodedata.normalize("NFKC", text)))


def _two_responses(text: str, _: str, /) -> bool:
    parts = [part.strip() for part in re.split(r"(?<!\*)\*{6}(?!\*)", text)]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _repeat_prompt(text: str, _: str, /, prompt_to_repeat: str) -> bool:
    """The reply begins with the text to repeat; spaces and line breaks may differ."""
    return " ".join(_fold(text).split()).startswith(" ".join(_fold(prompt_to_repeat).split()))


def _end_checker(text: str, _: str, /, end_phrase: str) -> bool:
    """The last words are these; quotation marks and a final stop may follow."""
    reply, phrase = _without_end_marks(_fold(text)), _without_end_marks(_fold(end_phrase))
    if not phrase:
        return _fold(text).rstrip().endswith(_fold(end_phrase).strip())
    is_whole = not re.match(_EDGE, phrase) or not re.search(_EDGE + "$", reply[: len(reply) - len(phrase)])
    return reply.endswith(phrase) and is_whole


def _without_end_marks(text: str) -> str:
    end = len(text)
    while end and not text[end - 1].isalnum():  # a pattern anchored at the end would take quadratic time
        end -= 1
    return text[:end]


def _quotation(text: str, _: str, /) -> bool:
    text = text.strip()
    return len(text) > 2 and text[0] + text[-1] in _QUOTES and bool(text[1:-1].strip())


def _no_comma(text: str, _: str, /) -> bool:
    return not re.search("[,，、،﹐﹑︐︑､]", text)


def _constrained_response(text: str, language: str, /, options: list[str] | None = None) -> bool | None:
    """Exactly one of the options occurs; without options, IFEval's three answers in the language."""
    options = options or stored("checks")["answers"].get("zh" if language.startswith("zh") else language)
    if options is None:
        return None
    found, folded = 0, _fold(text)
    for option in sorted(map(_fold, options), key=len, reverse=True):  # 不是 holds 是, which it does not say
        if _occurrences(option, folded):
            found += 1
            folded = folded.replace(option, "\n")
    return found == 1


def _english(text: str) -> bool:
    reading = read_language(text)
    return reading.language is None or reading.share_of("en") >= 0.5


def _english_capital(text: str, language: str, /) -> bool | None:
    return None if language in _CASELESS else text.isupper() and _english(text)


def _english_lowercase(text: str, language: str, /) -> bool | None:
    return None if language in _CASELESS else text.islower() and _english(text)


def _capital_word_frequency(
    text: str, language: str, /, capital_frequency: int, capital_relation: str
) -> bool | None:
    if language in _CASELESS:
        return None
    return RELATIONS[capital_relation](sum(w.isupper() for w in re.findall(r"\w+", text)), capital_frequency)


_GROUPS: dict[str, tuple[Callable[..., bool | None], ...]] = {
    "keywords": (_existence, _forbidden_words, _frequency, _letter_frequency),
    "language": (_response_language,),
    "length_constraints": (_number_sentences, _number_paragraphs, _number_words, _nth_paragraph_first_word),
    "detectable_content": (_number_placeholders, _postscript),
    "detectable_format": (
        *(_number_bullet_lists, _constrained_response, _number_highlighted_sections),
        *(_multiple_sections, _json_format, _title),
    ),
    "combination": (_two_responses, _repeat_prompt),
    "startend": (_end_checker, _quotation),
    "change_case": (_capital_word_frequency, _english_capital, _english_lowercase),
    "punctuation": (_no_comma,),
}
CHECKS = {f"{group}:{check.__name__[1:]}": check for group, checks in _GROUPS.items() for check in checks}
