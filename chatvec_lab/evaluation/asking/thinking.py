"""What a reply thinks and what it answers, told apart when it is read: the response itself is never altered.

Reasoning models write a thought before their answer, each family between marks of its own. A format is a row of
FORMATS, with a version; which one a reply is in follows from its chat template (`format_of`), or "auto" looks for
the marks of any. A mark in quotation marks, backticks or a block of code that follows prose is spoken about, not used.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import identity, text_column, text_of


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
            r"\**Here(?: is|['’]s) my thought process:?\**:?",
            r"\**Here(?: is|['’]s) my response:?\**:?",
        ),
    ),
    "fence": Format(  # a block of code that is called a thought
        1,
        "```thinking",
        "```",
        leading=(r"(?:```|~~~)[ \t]*(?:think|thinking|thoughts?|reasoning)\b", r"^[ \t]*(?:```|~~~)[ \t]*$"),
    ),
}
_HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|constrain|>")
_INSIDE = ":inside"  # of a format's name: the template opened the thought, so the reply begins within it


class Split(NamedTuple):
    """The parts of a reply: `thinking` is None without a thought, `answer` None if the reply never left it."""

    thinking: str | None
    answer: str | None
    format: str  # "think/1"; "none" where there is no mark of a thought


def split(text: str | None, format: str = "auto") -> Split:
    """Thought and answer of one reply.

    `format`: a name of FORMATS, with or without version ("think", "think/1"; "think:inside" or "think/1:inside"
    where the prompt had opened the thought already), "none", or "auto". Raises ValueError for any other.

    >>> split("<think>\\nTwo and two.\\n</think>\\n\\nFour.")
    Split(thinking='Two and two.', answer='Four.', format='think/1')
    >>> split("<think>\\nTwo and two, so").answer is None
    True
    >>> split("Two and two, so", "think:inside")
    Split(thinking='Two and two, so', answer=None, format='think/1')
    """
    if not isinstance(text, str):
        return Split(None, None, "none")
    name, is_inside = _named(format)
    if name == "auto" or (name not in ("none", "harmony") and _begins_otherwise(text, FORMATS[name])):
        name = _found(text)
    if name == "none":
        return Split(None, text, "none")
    label = f"{name}/{FORMATS[name].version}"
    thoughts, said = _channels(text) if name == "harmony" else _tagged(text, FORMATS[name], is_inside)
    if thoughts is None:
        return Split(None, said, "none" if format == "auto" else label)
    answer = None if said is None else _unwrapped(said, FORMATS[name].wrapping)
    if name in ("gemma", "medgemma"):
        thoughts = [part.removeprefix("thought\n") for part in thoughts]
    return Split("\n\n".join(part for part in map(str.strip, thoughts) if part), answer, label)


def answer_of(text: object) -> str | None:
    """What a reply says behind its thought, if it has one; None if it never gets there, or is no text.

    >>> answer_of("[THINK]Hm.[/THINK]Yes."), answer_of("Yes."), answer_of("<think>Hm")
    ('Yes.', 'Yes.', None)
    """
    return split(text).answer


def answers(responses: pd.DataFrame) -> list[str | None]:
    """What scorers read of each reply: the column `answer` if there is one, else it is split off here.

    The column `thinking_format` (as `respond` writes it) says in which format; without it "auto".
    """
    said = responses["answer"] if "answer" in responses else [s.answer for s in _splits(responses)]
    return list(map(text_of, said))


def with_answers(
    responses: pd.DataFrame, format: str | None = None, *, tokenizer: Callable[[], Any] = lambda: None
) -> pd.DataFrame:
    """The responses with the columns `thinking`, `answer` and `thinking_tokens` behind them; `response` is as it was.

    `format` as in `split`; None takes each reply's own `thinking_format`, or "auto" where there is none.
    `answer` is missing where generation ended inside the thought, or before a word of an answer at the last token.
    `tokenizer` gives the model's tokenizer, and is called where a reply thinks; None counts no tokens. Tokens that a
    server has counted (the column is there already) stay, also those of a thought that it does not show.
    """
    splits = _splits(responses, format)
    thoughts = [(s.thinking or "").strip() for s in splits]
    counted = tokenizer() if any(thoughts) else None
    own = [_count(thought, counted) for thought in thoughts]
    tokens = [seen if not told > 0 else told for seen, told in zip(own, _hidden(responses), strict=True)]
    return responses.assign(
        thinking=text_column(s.thinking for s in splits),
        answer=text_column(s.answer for s in splits),
        thinking_tokens=np.array(tokens, dtype=float),
    )


def thinking_scores(responses: pd.DataFrame) -> pd.DataFrame:
    """How each reply of `with_answers` thinks, one row a reply; a reply that is missing has missing numbers.

    Columns: those that identify the reply, thinks (1.0 with a thought, be it one that a server only counts; an empty
    one is none), thinking_tokens (0 without a thought, missing where nothing counted those of one), thinking_language
    (as detected, of thoughts), no_answer (1.0 if it ended before an answer), ended (1.0 if it ended by itself, 0.0 cut
    off, NaN if not told).
    """
    from chatvec_lab.evaluation.language import read_language  # which reads answers by this module

    is_reply = responses["response"].map(lambda text: isinstance(text, str)).to_numpy(dtype=bool)
    thoughts = [text.strip() if isinstance(text, str) else "" for text in responses["thinking"]]
    thinks = (
        np.array([bool(thought) for thought in thoughts], dtype=bool)
        | responses["thinking_tokens"].gt(0).to_numpy()
    )
    reasons = responses["finish_reason"] if "finish_reason" in responses else [None] * len(responses)
    known = {"stop": 1.0, "eos": 1.0, "length": 0.0, "max_tokens": 0.0, "context": 0.0}
    return identity(responses).assign(
        thinks=np.where(is_reply, thinks.astype(float), np.nan),
        thinking_tokens=responses["thinking_tokens"].where(is_reply),
        thinking_language=text_column(read_language(t).language if t else None for t in thoughts),
        no_answer=np.where(is_reply, responses["answer"].isna().astype(float), np.nan),
        ended=np.array([known.get(reason, np.nan) for reason in reasons], dtype=float),
    )


def format_of(template: str, prompt: str = "") -> str:
    """The format that a chat template writes or reads, "auto" if it has none of the marks.

    `prompt` is what the template adds for the reply to come: if it opens a thought and leaves it open, the reply
    begins inside it.

    >>> format_of("{{ content.split('</think>')[-1] }}", "<|im_start|>assistant\\n<think>\\n")
    'think/1:inside'
    """
    # others end turns with <|end|>, blocks of code with ```
    names = [n for n, f in FORMATS.items()
             if f.opening in template or (f.closing in template and n not in ("harmony", "fence"))]  # fmt: skip
    if not names:
        return "auto"
    form = FORMATS[names[0]]
    is_open = names[0] != "harmony" and prompt.rfind(form.opening) > prompt.rfind(form.closing)
    return f"{names[0]}/{form.version}{_INSIDE if is_open else ''}"


def begun_inside(texts: Iterable[str | None]) -> str | None:
    """The format ("think/1:inside") in which all replies with a mark end a thought that none of them began; else None.

    A server does not show what its template adds to a prompt: where it opens the thought, a reply that was cut off within
    it has no mark at all.

    >>> begun_inside(["Hm.</think>Yes.", "No.</think>No.", "Let me see"]), begun_inside(["<think>Hm.</think>Yes.", "Well"])
    ('think/1:inside', None)
    """
    found = set()
    for text in filter(None, texts):
        if (name := _found(text)) != "none":
            first = next(_marks(text, FORMATS[name]), None) if name != "harmony" else None
            found.add((name, first is not None and not first.opens))
    name, is_closed = next(iter(found)) if len(found) == 1 else ("", False)
    return f"{name}/{FORMATS[name].version}{_INSIDE}" if is_closed else None


def marks_kept(tokens: Iterable[str]) -> set[str]:
    """Which of these special tokens mark a thought: a reply is decoded with them, its other special tokens dropped.

    >>> sorted(marks_kept(["<s>", "[THINK]", "[/THINK]", "<|end|>"]))
    ['[/THINK]', '[THINK]']
    """
    known, kept = set(tokens), set()
    for name, form in FORMATS.items():
        if form.opening in known:
            kept |= set(_HARMONY) if name == "harmony" else {form.opening, form.closing, *form.wrapping}
    return kept & known


def _named(format: str) -> tuple[str, bool]:
    """(name, whether the reply begins inside the thought)."""
    name, inside, rest = str(format).partition(_INSIDE)
    name, _, version = name.partition("/")
    if name in ("auto", "none") and not version and not inside:
        return name, False
    if name not in FORMATS or rest or (version and version != str(FORMATS[name].version)):
        known = ", ".join(f"{n}/{f.version}" for n, f in FORMATS.items())
        raise ValueError(f"thinking format {format!r}: choose 'auto', 'none' or one of {known}")
    return name, bool(inside)


def _found(text: str) -> str:
    """The format whose mark comes first; "none" without any."""
    if _CHANNEL.match(text) or _BARE_CHANNEL.match(text):
        return "harmony"
    found = {n: next(_marks(text, f), None) for n, f in FORMATS.items() if n != "harmony"}
    places = {n: mark.start for n, mark in found.items() if mark}
    if places:
        return min(places, key=places.get)
    return next((n for n, f in FORMATS.items() if _is_cut(text, f)), "none")


def _is_cut(text: str, form: Format) -> bool:
    """Whether the reply was cut off while its first mark was being written."""
    start, least = text.strip(), len(form.opening) // 2 if form.leading else 1
    return least < len(start) < len(form.opening) and form.opening.startswith(start)


def _begins_otherwise(text: str, form: Format) -> bool:
    """Whether a reply with no mark of its template's format begins with that of another."""
    if next(_marks(text, form), None):
        return False
    first = (next(_marks(text, other), None) for other in FORMATS.values())
    return any(mark and mark.opens and not text[: mark.start].strip() for mark in first)


class _Mark(NamedTuple):
    """A mark that is used, not spoken about, and its place in a text."""

    start: int
    end: int
    opens: bool


def _marks(text: str, form: Format) -> Iterable[_Mark]:
    """Each opening and closing mark of a format in a text."""
    if form.leading:
        opened = re.match(rf"\s*(?:{form.leading[0]})", text, re.IGNORECASE)
        if opened is None:
            return
        yield _Mark(0, opened.end(), True)
        if closed := re.compile(form.leading[1], re.IGNORECASE | re.MULTILINE).search(text, opened.end()):
            yield _Mark(closed.start(), closed.end(), False)
        return
    for found in _pattern(form.opening, form.closing).finditer(text):
        before, after = text[: found.start()][-1:], text[found.end() :][:1]
        if not (before in _QUOTES and after == _QUOTES[before]):
            yield _Mark(found.start(), found.end(), found.lastgroup == "opening")


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


def _tagged(text: str, form: Format, is_inside: bool) -> tuple[list[str] | None, str | None]:
    """(thoughts, what is said outside them); None for no thought, None for no answer."""
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


def _used(text: str, form: Format, is_inside: bool) -> tuple[list[_Mark], int]:
    """The marks that a block of code does not only show, and where the reply begins: a block may hold the thought, too.

    A thought that its own mark never closes ends at that of another format, which models mix up.
    """
    used, begin, is_shown = [], 0, False
    for mark in _marks(text, form):
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
        if found := closings.search(text, used[-1].end if used else 0):
            used.append(_Mark(found.start(), found.end(), False))
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


def _splits(responses: pd.DataFrame, format: str | None = None) -> list[Split]:
    """Each reply's split; an empty answer that the last allowed token ended was none yet."""
    given = responses["thinking_format"] if "thinking_format" in responses else [None] * len(responses)
    formats = [format or (one if isinstance(one, str) else "auto") for one in given]
    reasons = responses["finish_reason"] if "finish_reason" in responses else [None] * len(responses)
    found = [split(text_of(text), one) for text, one in zip(responses["response"], formats, strict=True)]
    cut = [reason in ("length", "max_tokens") for reason in reasons]
    return [s._replace(answer=None) if is_cut and s.answer == "" and (s.thinking or hidden > 0) else s
            for s, is_cut, hidden in zip(found, cut, _hidden(responses), strict=True)]  # fmt: skip


def _hidden(responses: pd.DataFrame) -> Iterable[float]:
    """The tokens of each thought that a server has counted."""
    return responses["thinking_tokens"] if "thinking_tokens" in responses else [np.nan] * len(responses)


def _count(thought: str, tokenizer) -> float:
    if not thought:
        return 0.0
    return np.nan if tokenizer is None else len(tokenizer(thought, add_special_tokens=False)["input_ids"])
