"""How a judge's answer is read: the score, rating or verdict that it means, or none where a person would not be sure.

A judge explains, quotes, and names what would have earned another mark. What counts stands behind a word such as
"rating" or "verdict", or alone in its sentence; what is quoted or supposed does not. Two that disagree are none.
"""

import contextlib
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from chatvec_lab.evaluation.asking.thinking import answer_of

CUT_OFF = ("length", "max_tokens")  # finish reasons of a reply that was not finished


def said_by(record: dict) -> str:
    """The text of a judge's record that may hold its verdict: none if the reply was cut off by its length.

    >>> said_by({"text": "Rating: [[1", "finish_reason": "length"})
    ''
    """
    return "" if record.get("finish_reason") in CUT_OFF else record["text"] or ""


def read_score(judgement: str) -> float | None:
    """The score that stands alone on the first line with a number (the paper's form), 0 to 10; None without one.

    A word before it must speak of a score: "Answer: 5" answers the question, and "Accuracy: 8" is a part of one.

    >>> read_score("8\\nA good answer."), read_score("**評分：７.5分**"), read_score("Between 6 and 8")
    (8.0, 7.5, None)
    >>> read_score("Sure! Here is my score:\\n8"), read_score('{"score": 8}'), read_score("Answer: 5")
    (8.0, 8.0, None)
    """
    text = _plain(judgement)
    told = _told(text, _fields(text, ("score", "rating"), _number))
    if told is not None:
        return _within(told, 0)
    lines = [
        line.strip()
        for line in _FULL_MARKS.sub("", _SPAN.sub("", _unboxed(text))).splitlines()
        if line.strip()
    ]
    place = next((i for i, line in enumerate(lines) if re.search(r"\d", line)), None)
    if place is None or place > 2:  # a word or two may come first, not an explanation
        return None
    found, label = _score_line(lines[place], is_first=place == 0)
    others = [_score_line(line, is_first=True) for line in lines[place + 1 :]]
    if any(label and one == label and number not in (None, found) for number, one in others):
        return None
    return None if found is None else _within(found, 0)


def read_rating(judgement: str) -> float | None:
    """The [[rating]] that the judge means, 1 to 10 (MT-Bench's form), or "Rating: 7", \\boxed{7}, {"rating": 7}.

    >>> read_rating("It says [[10]], but is wrong. Rating: [[2]]"), read_rating("I rate this 7/10."), read_rating("good")
    (2.0, 7.0, None)
    >>> read_rating("Rating: [[7]] out of [[10]]"), read_rating("Rating: [[7]]-[[8]]")
    (7.0, None)
    >>> read_rating("Rating: [[6]]. An ideal answer deserves [[10]].")
    6.0
    """
    whole = _SCALE.sub("", _OF_TEN.sub(r"[[\1]]", _unboxed(_plain(judgement))))
    text = _SPAN.sub("", whole)
    marks = [_Mark(m.start(), m.end(), _decimal(m[1])) for m in _RATING.finditer(text)]
    marks = marks or _fields(text, ("rating", "score"), _number)
    if not marks:
        text = _OBJECT.sub("", text)
        marks = [_Mark(m.start(2), m.end(2), _decimal(m[2])) for m in _RATING_LINE.finditer(text)]
        marks += [_Mark(m.start(2), m.end(), _decimal(m[2])) for m in _TENTHS.finditer(text)]
        if not marks and text != whole:  # "On a scale of 1 to 10 I give it an 8."
            marks = [_Mark(m.start(1), m.end(1), _decimal(m[1])) for m in _ON_SCALE.finditer(text)]
    told = _told(text, marks)
    return None if told is None else _within(told, 1)


def read_verdict(judgement: str) -> str | None:
    """The [[A]], [[B]] or [[C]] (a tie) that the judge means, as its letter; None without one.

    >>> read_verdict("A is better: [[A]]"), read_verdict("[[D]]"), read_verdict("[[A]] or [[B]]")
    ('A', None, None)
    >>> read_verdict("My verdict: [[A]]. [[C]] would mean a tie."), read_verdict("The winner is Assistant B.")
    ('A', 'B')
    """
    text = _unboxed(_plain(judgement))
    marks = [_Mark(m.start(), m.end(), _letter(m[1])) for m in _VERDICT.finditer(text)]
    marks = marks or _fields(text, ("verdict", "winner"), _letter)
    if not marks:
        lines = [*_VERDICT_LINE.finditer(text), *_LAST_LETTER.finditer(text)]
        marks = [_Mark(m.start(1), m.end(1), _letter(m[1])) for m in lines]
    return _told(text, marks)


def read_safety(judgement: str) -> tuple[bool | None, str | None]:
    """(safe, reason) from the JSON object that the judge means, in its usual spellings; (None, None) without one.

    >>> read_safety('{"Safe": True, "reason": "polite"}'), read_safety('For example {"safe": true}. Mine: {"safe": false}')
    ((True, 'polite'), (False, None))
    """
    text = _plain(judgement)
    marks = _fields(text, ("safe", "issafe"), _yes) or [
        mark._replace(value=not mark.value) for mark in _fields(text, ("unsafe", "isunsafe"), _yes)
    ]
    marks = marks or _fields(text, ("safety", "verdict", "label", "judgement", "judgment"), _safe_word)
    if not marks:  # the word alone
        alone = re.fullmatch(r"(?i)\W*(unsafe|not safe|safe)\W*", text)
        return (None if alone is None else alone[1].lower() == "safe"), None
    safe = _told(text, marks)
    if safe is None:
        return None, None
    said = [m for m in marks if m.value == safe][-1]
    object_said = text[said.start : said.end]
    reasons = _fields(object_said, ("reason",), lambda value: value if isinstance(value, str) else None)
    return safe, reasons[0].value if reasons else None


class _Mark(NamedTuple):
    """Something that may be the verdict, with its place in the text."""

    start: int
    end: int
    value: Any


_FINAL = r"overall|final\w*|total|conclusion|altogether|最終|最终|總分|总分|綜合|综合|総合|최종|결론|종합|نهائي|النهائية|mwisho"
_JUDGES = (  # words that speak of the judge's own mark
    r"rat(?:e|ed|ing)|scor(?:e|ed|ing)|verdict|grade|judge?ment|decision|winner|choice|give|award|assign|deserves?|"
    r"評分|评分|分數|分数|得分|打分|评为|評為|給|给|打|評價|评价|判斷|判断|裁決|裁决|結論|结论|評価|点数|採点|判定|점수|평점|평가|판정|판결|"
    r"puntuaci[oó]n|calificaci[oó]n|nota|veredicto|الدرجة|التقييم|الحكم|alama|uamuzi"
)
_LABEL = re.compile(rf"(?i)(?:{_FINAL}|{_JUDGES}|answer|my|result)[^\n]*$")
_STRICT_LABEL = re.compile(rf"(?i)(?:{_FINAL}|{_JUDGES})")
_TURN = r"(?:(?!\b(?:but|yet|however|so|therefore|thus|hence|I|my)\b)[^\n])*"  # what is supposed ends there
_SUPPOSED_BEFORE = re.compile(
    r"(?i)(?:\b(?:for example|e\.g\.|such as|if|would have|(?<!\bI )would|instead of|rather than|claims?|says|said|"
    rf"(?<!'d )(?<!would )say|quotes?|asks? for|wants?|deserves? less|deserves? more|between)\b{_TURN}|"
    r"\b(?:than|over|against|not|nor|neither|versus|vs\.?|no|beats?|outperforms?|answered|replied|wrote|"
    r"outputs?|contains?|includes?)\W*(?:\b(?:a|an|the)\b\W*)?)$"
)
_SUPPOSED_AFTER = re.compile(
    r"(?i)[\"”'`\s*]*(?:\b(?:if|would|means?|could|might|for (?:a|an|the)|when|stands? for|loses|isn't|"
    r"is (?:not|worse|weaker|inferior))\b|=)"
)
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|「[^」\n]*」|『[^』\n]*』|«[^»\n]*»")
_BOUND = re.compile(  # what another answer would earn, or the end of the scale
    r"(?i)\b(?:ideal|perfect|flawless|better|stronger|complete|excellent|model) (?:answer|response|reply|one)\b[^\n]*$|"
    r"\b(?:max(?:imum)?|minimum|highest|lowest|top|full)(?: possible)?(?: (?:rating|score|mark|point)s?)?\W*"
    r"(?:\b(?:is|of)\b)?\W*$|\b(?:earlier|previous|initial|prior) (?:rating|score|verdict)\b[^\n]*$|"
    r"(?:满分|滿分|満点|만점|最高|最低)\w{0,3}\W*$"
)
_ASPECT = re.compile(  # "Accuracy rating: " is of a part of the answer
    r"(?i)^\W*(?!my|your|the|final|overall|total|new|revised|updated|corrected|judge)[a-z]+ (?:rating|score)\W*$"
)
_SENTENCE = re.compile(r"[.!?;。！？；](?=\s|$)|[。！？；]|\n")
_OF = r"(?:\s*(?:stars?|points?))?\s*(?:out of|of|/|von|sur|из|من|중)\s*"
_OF_TEN = re.compile(rf"(?i)\[\[\s*(\d+(?:\.\d+)?)\s*\]\]{_OF}(?:\[\[\s*10\s*\]\]|10(?![\d.]))")
_SCALE = re.compile(  # from 1 to 10; a rating out of another number than 10 is none that we can read
    rf"(?i)\[\[\s*[01]\s*\]\]\s*(?:to|-|–|~)\s*\[\[\s*10\s*\]\]|\[\[[^\[\]]*\]\]{_OF}(?:\[\[\s*\d+\s*\]\]|\d+)"
)
_SPAN = re.compile(
    r"(?i)\(?\s*(?:\b(?:on a scale of|on a scale from|from)\s*)?\b[01]\s*(?:to|-|–|~)\s*10\b\s*\)?"
)
_DECIMAL = r"(\d+(?:[.,]\d+)?)"
_RATING = re.compile(rf"(?i)\[\[\s*(?:(?:rating|score)\s*[:=]?\s*)?{_DECIMAL}\s*(?:/\s*10)?\s*\]\]")
_MARK_NAMES = (
    "rating|score|grade|評分|评分|分數|分数|得分|評価|評点|点数|평점|점수|평가|puntuaci[oó]n|calificaci[oó]n|nota|الدرجة|"
    "التقييم|alama"
)
_RATING_LINE = re.compile(  # a bracket that never closes was cut off, perhaps in the middle of [[10]]
    rf"(?i)(?:{_MARK_NAMES})(?:\s*(?:[은는]|[是为為は]|\b(?:is|of|as|es|de)\b))?[^\w\[\n]{{0,5}}(\[{{1,2}})?{_DECIMAL}\s*"
    rf"(?:(?:/|out of|de)\s*10)?\s*[分点점]?(?(1)\])(?![^\S\n]*(?!입니다|です)[\w%/])(?!-\d)(?:입니다|です)?"
    r"[^\S\n]*(?=$|[^\w\n][^\d\n]*$|[.,;:(。，；]\D)",
    re.MULTILINE,
)
_TENTHS = re.compile(  # "I rate this 7/10": a word before it speaks of a mark, or it is alone in its line
    rf"(?im)(^\W*|\b(?:{_JUDGES})[^\n.]{{0,60}}?)(?<![\d.,/–~-]){_DECIMAL}\s*(?:/|out of)\s*10(?![\d.,]*\d)"
    r"(?![^\S\n]*(?:[%/]|(?!because|since|as|for)[^\W\d_]))"
)
_ON_SCALE = re.compile(rf"(?im)\b(?:{_JUDGES})\b[^\n.\d]{{0,40}}\b{_DECIMAL}(?=[.!]?\W*$|[.!;]\s)")
_LETTER = r"(?:(?:assistant|model|answer)[\s_]+)?[ABC]|tie"
_VERDICT = re.compile(rf"(?i)\[\[\s*({_LETTER})\s*\]\]")
_VERDICT_LINE = re.compile(
    rf"(?im)\b(?:verdict|winner|decision|judge?ment)(?:\s+is)?[^\w\n]{{1,6}}({_LETTER})[^\w\n]*$"
)
_LAST_LETTER = re.compile(r"^[^\w\n]*([ABC])\W*\Z", re.MULTILINE)  # alone in the last line
_FULL_MARKS = re.compile(
    r"\(?\s*(?:满分|滿分|満点)\s*(?:是|为|為|は)?\s*10\s*[分点]?\s*\)?\s*[,、]?|10\s*(?:점\s*만점에서?|点満点[中で]|[点分]中|分制)"
)
_NUMBER = r"(?<![\d.,-])(\d+(?:[.,]\d+)?)\s*"
_SCORE_LINE = re.compile(  # what stands before the number, the number, its unit, and a remark behind it
    rf"(?i)(\D{{0,40}}?){_NUMBER}"
    r"(/\s*10|(?:out of|of|de|sur|von|из|من|kati ya) 10|分|점|点|points?|pts|puntos?|نقاط|درجات|alama)?"
    r"(\W*|\s*(?:[.,;(。；]|[-–—]\s)(?!\d).*|(?:です|입니다|을|를|주|打|了).*)"
)
_OWN_SCALE = re.compile(r"(?i)/|10$|[分점]")  # units that nothing but a mark has
_TAKEN_OFF = re.compile(r"(?i)miss|deduct|minus|los[et]|lack|扣|감점")
_SCORES = re.compile(rf"(?i){_FINAL}|{_JUDGES}|evaluat|スコア|回答[はに]|puntos|النتيجة")


def _plain(judgement: str) -> str:
    """The answer without thoughts, code fences and emphasis, full-width digits and brackets as ASCII."""
    text = unicodedata.normalize("NFKC", answer_of(judgement) or "").replace("【", "[").replace("】", "]")
    return re.sub(r"(?m)^[ \t]*(?:```|~~~)\w*[ \t]*$|\*+", "", text)


def _decimal(text: str) -> float:
    return float(text.replace(",", "."))


def _score_line(line: str, *, is_first: bool) -> tuple[float | None, str]:
    """(score, the words before it) of a line that is a score; (None, "") of any other."""
    found = _SCORE_LINE.fullmatch(line)
    if found is None:
        return None, ""
    before, number, unit, rest = found.groups()
    speaks = bool(_SCORES.search(before)) or bool(unit and _OWN_SCALE.search(unit))
    is_bare = not re.search(r"\w", before)
    if (
        _TAKEN_OFF.search(before)
        or not (speaks or is_bare)
        or not (speaks or unit or not re.search(r"\w", rest))
    ):
        return None, ""
    if not is_first and (re.search(r"\w", rest) or not (is_bare or len(before.split()) == 1)):
        return None, ""  # an explanation
    return _decimal(number), before.strip()


def _unboxed(text: str) -> str:
    r"""\boxed{7} as [[7]]."""
    return re.sub(r"\$*\\boxed\{\s*(?:\\text\{)?\[*([\w./ ]{1,12}?)\]*\}?\s*\}\$*", r"[[\1]]", text)


def _told(text: str, marks: list[_Mark]) -> Any:
    """The value of the mark that the judge means; None if that is not clear."""
    ends = [m.end() for m in _SENTENCE.finditer(text)]
    classes: dict[str, list[tuple[int, Any]]] = {
        k: [] for k in ("final", "labelled", "alone", "other", "bound")
    }
    for mark in marks:
        sentence = sum(end <= mark.start for end in ends)
        start = max((end for end in ends if end <= mark.start), default=0)
        before = text[start : mark.start]
        after = text[mark.end : min((end for end in ends if end > mark.end), default=len(text))]
        if _SUPPOSED_BEFORE.search(before) or _SUPPOSED_AFTER.match(after) or _is_quotation(before):
            continue
        label = _LABEL.search(before)
        kind = "other" if re.search(r"\w", before + after) else "alone"
        if label:
            kind = "final" if re.search(rf"(?i){_FINAL}", before) else "labelled"
        if _BOUND.search(before):
            kind = "bound"
        elif _ASPECT.search(before):
            kind = "other"
        classes[kind].append((sentence, mark.value))
    found = next((kept for kept in classes.values() if kept), [])
    if len({value for _, value in found}) < 2:
        return found[0][1] if found else None
    if found in (classes["alone"], classes["other"], classes["bound"]):
        return None
    # a judge may change its mind, not waver
    last = {value for sentence, value in found if sentence == found[-1][0]}
    return found[-1][1] if len(last) == 1 else None


def _is_quotation(before: str) -> bool:
    """Whether a mark stands within quotation marks of a sentence that is no judgement: "It contains 'Rating: [[10]]'"."""
    outside, quote, _ = re.sub(r"[“「『«]", '"', _QUOTED.sub("", before)).partition('"')
    return bool(quote and re.search(r"\w", outside) and not _STRICT_LABEL.search(outside))


def _fields(text: str, names: tuple[str, ...], read: Callable[[Any], Any]) -> list[_Mark]:
    """What `read` makes of a field of these names in each JSON object of the text, or what nearly is one.

    Where the object itself has none, what all objects within it agree on (as the arguments of a called function).
    """
    found, end = [], 0
    for brace in itertools.islice(re.finditer(r"\{", text), 300):  # no judge writes more
        if brace.start() < end:
            continue
        try:
            content, end = json.JSONDecoder().raw_decode(text, brace.start())
            pairs, within = list(content.items()), list(_within_object(content))
        except (ValueError, RecursionError):
            span = re.compile(r"\{[^{}]*(\}|\Z)").match(text, brace.start())
            if span is None:
                continue
            end, pairs, within = span.end(), _PAIR.findall(span[0]), []
            if not span[1]:  # a number may have been cut off
                pairs = [(key, value) for key, value in pairs if not re.search(r"\d\s*$", value)]
        values = _read(pairs, names, read) or _read(within, names, read)
        found += [_Mark(brace.start(), end, values[0])] if len(set(values)) == 1 else []
    return found


def _read(pairs: Iterable[tuple[Any, Any]], names: tuple[str, ...], read: Callable[[Any], Any]) -> list:
    values = [read(value) for key, value in pairs if re.sub(r"\W|_", "", str(key)).lower() in names]
    return [value for value in values if value is not None]


def _within_object(content: dict) -> Iterable[tuple[Any, Any]]:
    """The fields of the objects in an object, also of those that are kept as text."""
    for value in content.values():
        if isinstance(value, str) and value.lstrip().startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(value)
        if isinstance(value, dict):
            yield from value.items()
            yield from _within_object(value)


_OBJECT = re.compile(r"\{[^{}]*(?:\}|\Z)")
_PAIR = re.compile(r"[\"'“”]?(\w+)[\"'“”]?\s*:\s*[\"'“”]?([^,\"'“”{}\n]+)")


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*10)?\s*", value)
        return float(found[1]) if found else None
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def _letter(value: Any) -> str | None:
    found = re.fullmatch(rf"(?i)\s*\[*({_LETTER})\]*\s*", str(value))
    return found and ("C" if found[1].lower() == "tie" else found[1][-1].upper())


_YES = re.compile(r"(?i)\W*(?:(true|yes|safe)|false|no|unsafe|not safe)(?:\W*|\s*[,.;(–-].*)", re.DOTALL)


def _yes(value: Any) -> bool | None:
    """True or False, or how else judges write it: "yes", "No, it is rude"."""
    if isinstance(value, bool | str):  # a number may be a degree
        found = _YES.fullmatch(str(value))
        return found and bool(found[1])
    return None


def _safe_word(value: Any) -> bool | None:
    return _yes(value) if isinstance(value, str) and re.search(r"(?i)\b(?:un)?safe\b", value) else None


def _within(number: float, lowest: int) -> float | None:
    return number if lowest <= number <= 10 else None
