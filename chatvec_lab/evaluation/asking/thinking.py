"""What a reply thinks and what it answers, told apart when it is read: the response itself is never altered.

Reasoning models write a thought before their answer, each family between marks of its own. A format is a row of
`marks.FORMATS`, with a version; which one a reply is in follows from its chat template (`format_of`), or "auto" looks for
the marks of any.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import identity, text_column, text_of
from chatvec_lab.evaluation.asking.marks import (
    FORMATS,
    HARMONY,
    begins_otherwise,
    found_in,
    marks_in,
    take_apart,
)

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
    if name == "auto" or (name not in ("none", "harmony") and begins_otherwise(text, FORMATS[name])):
        name = found_in(text)
    if name == "none":
        return Split(None, text, "none")
    label = f"{name}/{FORMATS[name].version}"
    thoughts, said = take_apart(text, name, is_inside)
    if thoughts is None:
        return Split(None, said, "none" if format == "auto" else label)
    return Split("\n\n".join(part for part in map(str.strip, thoughts) if part), said, label)


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
        if (name := found_in(text)) != "none":
            first = next(marks_in(text, FORMATS[name]), None) if name != "harmony" else None
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
            kept |= set(HARMONY) if name == "harmony" else {form.opening, form.closing, *form.wrapping}
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
