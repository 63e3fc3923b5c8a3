"""A row of a prompt file as what is asked: the turns of the user, an id, references and checks.

People keep prompts as a text, a list of turns, messages with roles, an instruction with its input, a question with its
context. Each is asked as it is meant; what a prompts table cannot say (a system prompt, an answer given beforehand,
choices, a picture) is refused, since leaving it out would ask something else.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from chatvec_lab.evaluation._frames import stored
from chatvec_lab.evaluation.asking.responses import is_broken
from chatvec_lab.evaluation.language import normalise
from chatvec_lab.keys import Key
from chatvec_lab.reading import DoubledKey, parse_json


def _keys(part: str) -> dict[str, Key]:
    """The columns of one purpose (data/prompt_columns.yaml), in order; of several that say the same the first counts."""
    told = stored("prompt_columns")["read"][part]
    return {name: Key(key["holds"], key["meaning"]) for key in told for name in key["names"]}


_ID, _TURNS, _MESSAGES, _CONTEXT, _REFERENCE, _ABOUT, _CHECKS = map(_keys, stored("prompt_columns")["read"])
ROW_KEYS = _ID | _TURNS | _MESSAGES | _CONTEXT | _REFERENCE | _ABOUT | _CHECKS
UNASKED = {name: key["reason"] for key in stored("prompt_columns")["refused"] for name in key["names"]}
_LANGUAGE = ("language", "lang")
_TEXT_TYPES = (
    "text",
    "input_text",
    "output_text",
)  # of the parts of a content; the latter as OpenAI's responses have it
_TEXT_KEYS = ("content", "text", "value", "prompt", "question")
# messages, or nothing but texts
_PRINTED = re.compile(
    r"""\s*\[\s*(?:\{'(?:role|from|content)'|(?:'[^'\n]*'|"[^"\n]*")(?:\s*,\s*(?:'[^'\n]*'|"[^"\n]*"))*\s*,?\s*\]\s*\Z)"""
)
_USER, _ASSISTANT = ("user", "human", "prompter"), ("assistant", "gpt", "model", "bot", "chatgpt", "ai")


def _is_broken(value: Any) -> bool:
    """Whether a text in it holds half a character."""
    if isinstance(value, str):
        return is_broken(value)
    parts = [*value, *value.values()] if isinstance(value, Mapping) else value
    return isinstance(value, Mapping | list | tuple) and any(map(_is_broken, parts))


def prompt_of(row: Any, place: str, position: int, *, set: str, language: str) -> dict:
    """One row of the prompts table; ValueError, with the place and the column, where it cannot be asked as meant."""
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        raise ValueError(f"{place} is {type(row).__name__}: a row is an object with a prompt, or a text")
    row = _known_names(row, place)
    for column, value in row.items():
        if _is_broken([column, value]):
            raise ValueError(
                f"{place}, column {column!a} holds half a character (a surrogate without its pair), which no file "
                "and no model takes: write that text anew"
            )
    for column, reason in UNASKED.items():
        if not _is_empty(row.get(column)) and not (column == "options" and "checks" in row):
            raise ValueError(f"{place}, column {column}: {reason}")
    turns, answers = _asked(row, place)
    said = next((row[k] for k in _REFERENCE if not _is_empty(row.get(k))), answers)
    found = {
        "prompt_id": _identifier(row, place, position),
        "set": set,
        "category": None if _is_empty(row.get("category")) else str(row["category"]),
        "language": _language(row, place) or language,
        "turns": turns,
        "checks": _checks(row, place),
        "reference": _reference(said, turns, place),
    }
    return found if _is_empty(row.get("item")) else found | {"item": str(row["item"])}


def _known_names(row: Mapping, place: str) -> dict:
    """The row with its columns under the names that we know, however they are capitalised: Prompt, ID, System."""
    named: dict[str, Any] = {}
    for column, value in row.items():
        bare = str(column).strip()
        name = bare.lower() if bare.lower() in ROW_KEYS or bare.lower() in UNASKED else bare
        if name in named:
            raise ValueError(f"{place}: two columns are called {name}; keep one, or rename the other")
        named[name] = value
    return named


def _language(row: dict, place: str) -> str | None:
    """The row's own language as a code; what is no code would count every reply as written in another."""
    column = next((k for k in _ABOUT if k in _LANGUAGE and not _is_empty(row.get(k))), None)
    if column is None:
        return None
    code = normalise(row[column])
    if code is None or not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]{4})?", code):
        raise ValueError(
            f"{place}, column {column} is {row[column]!r:.40}: a language is given by its code, such as en, ko or zh-Hant"
        )
    return code


def _asked(row: dict, place: str) -> tuple[list[str], list[str] | None]:
    """(turns, the answers that stand between them)."""
    told = {c: _messages(row[c], f"{place}, column {c}") for c in _MESSAGES if not _is_empty(row.get(c))}
    for column in _TURNS:
        value = row.get(column)
        if _is_empty(value) or (column == "input" and "instruction" in row):
            continue
        value = _listed(value, f"{place}, column {column}", is_list=column in ("turns", "questions"))
        if isinstance(value, list) and any(isinstance(one, Mapping) and _role(one) for one in value):
            told[column] = _messages(value, f"{place}, column {column}")
        elif isinstance(value, list):
            told[column] = [_plain(one, f"{place}, column {column}") for one in value], None
        else:
            told[column] = [_plain(value, f"{place}, column {column}")], None
    if not told:
        there = [c for c in (*_MESSAGES, *_TURNS) if c in row]
        if there:
            raise ValueError(f"{place}, column {there[0]} is empty: every row asks something")
        raise ValueError(f"{place}: none of {', '.join((*_TURNS, *_MESSAGES))} among {', '.join(row)[:200]}")
    column, (turns, answers) = next(iter(told.items()))
    for other, (also, _) in told.items():
        if also != turns and also != turns[: len(also)]:
            raise ValueError(
                f"{place}: columns {column} and {other} both say what is asked, and differ; keep one, or rename the other"
            )
    for turn in turns:
        if not turn.strip():
            raise ValueError(f"{place}, column {column} has an empty turn: every turn asks something")
    return _with_context(row, turns, column, place), answers


def _with_context(row: dict, turns: list[str], column: str, place: str) -> list[str]:
    """The first turn with what it is about: an instruction's input after it, a question's context before it."""
    after = row.get("input") if column != "input" and "instruction" in row else None
    before = next((row[c] for c in _CONTEXT if not _is_empty(row.get(c))), None)
    parts = [*([] if _is_empty(before) else [_plain(before, f"{place}, column context")]), turns[0]]
    if not _is_empty(after):
        parts.append(_plain(after, f"{place}, column input"))
    return ["\n\n".join(parts), *turns[1:]]


def _messages(value: Any, place: str) -> tuple[list[str], list[str] | None]:
    """What the user says, and what the assistant answers: a reference for each turn, or for none."""
    value = _listed(value, place, is_list=True)
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise ValueError(f"{place} is no list of messages, each with a role and a content")
    turns: list[str] = []
    answers: list[str] = []
    for message in value:
        role, content = _role(message), next((message[k] for k in _TEXT_KEYS if k in message), None)
        if role == "system" and _is_empty(content):
            continue
        if role in _USER and len(answers) == len(turns):
            turns.append(_plain(content, place))
        elif role in _ASSISTANT and len(answers) == len(turns) - 1:
            answers.append(_plain(content, place))
        elif role == "system":
            raise ValueError(
                f"{place} has a system message: leave it out here and give it to respond(system=...)"
            )
        elif role in (*_USER, *_ASSISTANT):
            raise ValueError(
                f"{place}: {role} speaks where the other's turn is; user and assistant alternate"
            )
        else:
            raise ValueError(f"{place} has a message of role {role!r}: user and assistant are understood")
    if answers and len(answers) < len(turns):
        raise ValueError(
            f"{place} fixes what the assistant said before the last turn, but a model answers every turn itself:"
            " keep the last turn, or give an answer to each as a reference"
        )
    return turns, answers or None


def _role(message: Mapping) -> str:
    return str(message.get("role") or message.get("from") or "").lower()


def _plain(value: Any, place: str) -> str:
    """The text of a turn: a string, an object that has one, or a list of text parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        if value.get("type", "text") not in _TEXT_TYPES:
            raise ValueError(f"{place} has a part of type {value['type']!r}: only text is asked")
        found = next((value[k] for k in _TEXT_KEYS if k in value), None)
        if isinstance(found, str | list):
            return _plain(found, place)
        raise ValueError(f"{place} is an object without a text; found {', '.join(map(str, value))}")
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        return "\n".join(_plain(part, place) for part in value)
    raise ValueError(
        f"{place} is {value!r:.60}, {type(value).__name__}, not text: write it in quotation marks"
    )


def _listed(value: Any, place: str, *, is_list: bool) -> Any:
    """A cell that holds a list as JSON, as a list; one that Python printed is refused."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        found = parse_json(value, place)
    except DoubledKey:
        raise
    except ValueError:
        found = None
    is_meant = is_list or (
        isinstance(found, list) and any(isinstance(o, Mapping) and _role(o) for o in found)
    )
    if isinstance(found, list) and is_meant:
        return found
    if found is None and (is_list or _PRINTED.match(value)):
        raise ValueError(
            f"{place} is a list as Python prints it ({value[:40]}…), which is not clear; write it as JSON"
        )
    return value


def _identifier(row: dict, place: str, position: int) -> str:
    named = [k for k in _ID if k in row]
    if not named:
        return str(position)
    column = next((k for k in named if not _is_empty(row[k])), named[0])
    value = row[column]
    if _is_empty(value) or isinstance(value, list | Mapping):
        raise ValueError(
            f"{place}, column {column} is {value!r:.40}: every row needs an id of its own, or leave the column out"
        )
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value)


def _reference(said: Any, turns: list[str], place: str) -> list[str | None] | None:
    if isinstance(said, str) and said.lstrip().startswith("[") and len(turns) > 1:
        said = _listed(said, f"{place}, column reference", is_list=True)
    if isinstance(said, int) and not isinstance(said, bool):
        said = str(said)
    if isinstance(said, str):
        return [said]
    if not isinstance(said, list):
        return None
    if len(said) > len(turns):
        raise ValueError(
            f"{place}, column reference has {len(said)} answers for {len(turns)} turns; give one a turn"
        )
    return [None if _is_empty(one) else _plain(one, f"{place}, column reference") for one in said]


def _checks(row: dict, place: str) -> list[dict]:
    """Our own checks as they are; IFEval's two parallel lists joined, without the nulls that pad its table."""
    column = "checks" if "instruction_id_list" not in row else "instruction_id_list"
    listed = _object(row.get(column), f"{place}, column {column}") or []
    if column == "checks":
        if not isinstance(listed, list) or not all(
            isinstance(o, Mapping) and "instruction" in o for o in listed
        ):
            raise ValueError(f"{place}, column checks is no list of objects with an instruction")
        return [
            {**one, "kwargs": _given(one["kwargs"], f"{place}, column checks")}
            if "kwargs" in one
            else dict(one)
            for one in listed
        ]
    kwargs = _object(row.get("kwargs"), f"{place}, column kwargs")
    if isinstance(listed, list) and not kwargs:
        kwargs = [{}] * len(listed)
    if not isinstance(listed, list) or not isinstance(kwargs, list) or len(listed) != len(kwargs):
        raise ValueError(f"{place}: instruction_id_list and kwargs are two lists of the same length")
    return [
        {"instruction": name, "kwargs": _given(given, f"{place}, column kwargs")}
        for name, given in zip(listed, kwargs, strict=True)
    ]


def _given(said: Any, place: str) -> dict:
    """The arguments of one check, without nulls."""
    kwargs = _object(said, place)
    if not isinstance(kwargs, Mapping | None):
        raise ValueError(
            f"{place}: the kwargs of a check are an object of names and values, got {kwargs!r:.40}"
        )
    return {k: v for k, v in (kwargs or {}).items() if v is not None and v == v}


def _object(value: Any, place: str) -> Any:
    """A cell that may hold JSON as text."""
    if not isinstance(value, str):
        return value
    return parse_json(value, place)


def _is_empty(value: Any) -> bool:
    is_gap = value is None or (isinstance(value, float) and math.isnan(value))
    return is_gap or (
        isinstance(value, str | list | Mapping) and not (value.strip() if isinstance(value, str) else value)
    )
