"""How thoughts are marked: a table of formats, and a reply taken apart at their marks.

A mark in quotation marks, backticks or a block of code that follows prose is spoken about, not used. Models mix formats up:
a thought that its own mark never closes ends at that of another.
"""

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple


class Format(NamedTuple):
    """How a thought is marked: `opening` begins it, `closing` ends it; `wrapping` may stand around the answer.

    `leading`: marks that are words like others, and so only count where a reply begins with the first of them; as two
    patterns, since each writes them a little differently.
    """

    version: int
    opening: str
    closing: str
    wrapping: tuple[str, ...] = ()
    leading: tuple[str, str] | None = None


FORMATS = {
    # Qwen3, QwQ, DeepSeek-R1, GLM, SmolLM3, Kimi-K2, Phi-4-reasoning; Granite and Hunyuan wrap the answer
    "think": Format(1, "<think>", "</think>", ("<answer>", "</answer>", "<response>", "</response>")),
    "magistral": Format(1, "[THINK]", "[/THINK]"),
    "harmony": Format(1, "<|channel|>", "<|end|>"),  # gpt-oss: channels, of which "final" is the answer
    "seed": Format(1, "<seed:think>", "</seed:think>"),
    "kimi": Format(1, "◁think▷", "◁/think▷"),
    "gemma": Format(1, "<|channel>", "<channel|>"),  # Gemma 4; the channel's name stands on its first line
    "thought": Format(1, "<thought>", "</thought>"),  # EXAONE Deep
    "thinking": Format(1, "<thinking>", "</thinking>", ("<output>", "</output>")),  # Reflection and its kin
    "reasoning": Format(1, "<reasoning>", "</reasoning>", ("<answer>", "</answer>")),
    "longcat": Format(1, "<longcat_think>", "</longcat_think>"),
    "apertus": Format(1, "<|inner_prefix|>", "<|inner_suffix|>"),
    "medgemma": Format(1, "<unused94>", "<unused95>"),  # "thought" stands on its first line, as Gemma 4's
    "open-thoughts": Format(  # OpenThinker, Sky-T1
        1,
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ),
    "cohere": Format(
        1,
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    "granite": Format(  # Granite 3.2; later ones write <think>
        1,
        "Here is my thought process:",
        "Here is my response:",
        leading=(
            r"\**Here(?: is|['’]s) my thought process(?::\**|\**:)",
            r"\**Here(?: is|['’]s) my response(?::\**|\**:)",
        ),
    ),
    "fence": Format(  # a block of code that is called a thought
        1,
        "```thinking",
        "```",
        leading=(r"(?:```|~~~)[ \t]*(?:think|thinking|thoughts?|reasoning)\b", r"^[ \t]*(?:```|~~~)[ \t]*$"),
    ),
}
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|constrain|>")


def found_in(text: str) -> str:
    """The format whose mark comes first; "none" without any."""
    if _CHANNEL.match(text) or _BARE_CHANNEL.match(text):
        return "harmony"
    found = {n: next(marks_in(text, f), None) for n, f in FORMATS.items() if n != "harmony"}
    places = {n: mark.start for n, mark in found.items() if mark}
    if places:
        return min(places, key=places.get)
    return next((n for n, f in FORMATS.items() if _is_cut(text, f)), "none")


def _is_cut(text: str, form: Format) -> bool:
    """Whether the reply was cut off while its first mark was being written."""
    start, least = text.strip(), len(form.opening) // 2 if form.leading else 1
    return least < len(start) < len(form.opening) and form.opening.startswith(start)


def begins_otherwise(text: str, form: Format) -> bool:
    """Whether a reply with no mark of its template's format begins with that of another."""
    if next(marks_in(text, form), None):
        return False
    first = (next(marks_in(text, other), None) for other in FORMATS.values())
    return any(mark and mark.opens and not text[: mark.start].strip() for mark in first)


class Mark(NamedTuple):
    """A mark that is used, not spoken about, and its place in a text."""

    start: int
    end: int
    opens: bool


def marks_in(text: str, form: Format) -> Iterable[Mark]:
    """Each opening and closing mark of a format in a text."""
    if form.leading:
        opened = re.match(rf"\s*(?:{form.leading[0]})", text, re.IGNORECASE)
        if opened is None:
            return
        yield Mark(0, opened.end(), True)
        if closed := re.compile(form.leading[1], re.IGNORECASE | re.MULTILINE).search(text, opened.end()):
            yield Mark(closed.start(), closed.end(), False)
        return
    yield from _written(text, _pattern(form.opening, form.closing))


def _written(text: str, pattern: re.Pattern, start: int = 0) -> Iterable[Mark]:
    for found in pattern.finditer(text, start):
        before, after = text[: found.start()][-1:], text[found.end() :][:1]
        if not (before in _QUOTES and after == _QUOTES[before]):
            yield Mark(found.start(), found.end(), found.lastgroup == "opening")


@functools.cache
def _pattern(opening: str, *closings: str) -> re.Pattern:
    """Of these marks; models that imitate a format write <Think> and </think >, too."""
    spelled = [
        re.sub(r"^<(/?)(.*)>$", r"<\\s*\1\\s*\2\\s*>", re.escape(mark)) for mark in (opening, *closings)
    ]
    closing = "|".join(spelled[1:])
    return re.compile(f"(?P<opening>{spelled[0]})|(?P<closing>{closing})", re.IGNORECASE)


_QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "『": "』", "«": "»"}
_TAGS = [f for name, f in FORMATS.items() if name != "harmony" and not f.leading]
_FENCE = re.compile(r"(?m)^[ \t]*(?:```|~~~)\w*[ \t]*$")


def take_apart(text: str, name: str, is_inside: bool) -> tuple[list[str] | None, str | None]:
    """(thoughts, what is said outside them) in the format of this name; None for no thought, None for no answer."""
    thoughts, said = _channels(text) if name == "harmony" else _tagged(text, FORMATS[name], is_inside)
    if thoughts and name in ("gemma", "medgemma"):
        thoughts = [part.removeprefix("thought\n") for part in thoughts]
    return thoughts, said if thoughts is None or said is None else _unwrapped(said, FORMATS[name].wrapping)


def _tagged(text: str, form: Format, is_inside: bool) -> tuple[list[str] | None, str | None]:
    if _is_cut(text, form):
        return [], None
    marks, begin = _used(text, form, is_inside)
    if not marks and not is_inside:
        return None, text
    thoughts, said, start, is_thought = [], [], begin, is_inside
    for mark in marks:
        # its opening mark was in the prompt: all so far was thought
        if not mark.opens and not is_thought:
            thoughts, said = [*thoughts, *said], []
        is_before = is_thought or not mark.opens
        (thoughts if is_before else said).append(text[start : mark.start])
        is_thought, start = mark.opens, mark.end
    (thoughts if is_thought else said).append(text[start:])
    answer = "".join(said)
    if begin:  # the block of code ends with the thought, or with the reply
        answer = re.sub(r"(?m)\A\s*(?:```|~~~)[ \t]*$|^[ \t]*(?:```|~~~)\s*\Z", "", answer, count=1)
    return thoughts, None if is_thought else answer


def _used(text: str, form: Format, is_inside: bool) -> tuple[list[Mark], int]:
    """The marks that a block of code does not only show, and where the reply begins: a block may hold the thought, too.

    A thought that its own mark never closes ends at that of another format, which models mix up.
    """
    used, begin, is_shown = [], 0, False
    for mark in marks_in(text, form):
        if not (used[-1].opens if used else is_inside):
            before = text[used[-1].end if used else 0 : mark.start]
            is_code = len(_FENCE.findall(before)) % 2 == 1
            is_first = not used and _FENCE.fullmatch(before.strip()) is not None
            if is_shown or (mark.opens and is_code and not is_first):
                is_shown = mark.opens
                continue
            begin = mark.start if mark.opens and is_first else begin
        used.append(mark)
    if (used[-1].opens if used else is_inside) and not form.leading:
        closings = _pattern(form.opening, *(f.closing for f in _TAGS))
        used += [m for m in _written(text, closings, used[-1].end if used else 0) if not m.opens][:1]
    return used, begin


_CHANNEL = re.compile(r"\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>")
_BARE_CHANNEL = re.compile(r"\s*(?:analysis|commentary)(?=[^\W\d_a-z]|.*assistantfinal)", re.DOTALL)
_PART = re.compile(
    r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(.*?)(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|<\|channel\|>|\Z)",
    re.DOTALL,
)


def _channels(text: str) -> tuple[list[str] | None, str | None]:
    """Harmony's messages by channel, also where a server dropped the special tokens between them."""
    if "<|channel|>" in text:
        parts = _PART.findall(text)
        finals = [body for channel, body in parts if channel == "final"]
        return [body for channel, body in parts if channel != "final"], "".join(finals) if finals else None
    if _is_cut(text, FORMATS["harmony"]):
        return [], None
    if not _BARE_CHANNEL.match(text):
        return None, text
    before, mark, after = text.rpartition("assistantfinal")
    thought = re.sub(r"^\s*(?:analysis|commentary)", "", before if mark else text)
    thought = re.sub("assistant(?:commentary|analysis)", "\n\n", thought)
    return [thought], after if mark else None


def _unwrapped(answer: str, marks: tuple[str, ...]) -> str:
    """The answer without the marks around it, and without the lines between thought and answer."""
    answer = answer.strip()
    for opening, closing in zip(marks[::2], marks[1::2], strict=True):
        if answer.startswith(opening):
            answer = answer.removeprefix(opening).removesuffix(closing).strip()
    return answer
