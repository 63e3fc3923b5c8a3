"""Which constraints a reply keeps, in words: the checks of `evaluation.instructions`, said as a person would.

They come with the prompts of a set, or are written by a person, a line a check, as a prompt file has them (`read`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from chatvec_lab.evaluation import instructions
from chatvec_lab.languages import language_name
from chatvec_lab.reading import brief, demand, parse_yaml

_RELATION = {"less than": "fewer than", "at least": "at least", "at most": "at most", "exactly": "exactly"}
# By the check's name; {…} are its kwargs, lists joined, relations in words.
_WORDS = {
    "keywords:existence": "uses {keywords}",
    "keywords:forbidden_words": "avoids {forbidden_words}",
    "keywords:frequency": "uses {keyword} {relation} {frequency} times",
    "keywords:letter_frequency": "has the letter {letter} {let_relation} {let_frequency} times",
    "language:response_language": "is written in {language}",
    "length_constraints:number_sentences": "has {relation} {num_sentences} sentences",
    "length_constraints:number_paragraphs": "has exactly {num_paragraphs} paragraphs",
    "length_constraints:number_words": "has {relation} {num_words} words",
    "length_constraints:nth_paragraph_first_word": (
        "has exactly {num_paragraphs} paragraphs, the {nth_paragraph}. beginning with {first_word}"
    ),
    "detectable_content:number_placeholders": "has at least {num_placeholders} placeholders in [brackets]",
    "detectable_content:postscript": "ends with a postscript after {postscript_marker}",
    "detectable_format:number_bullet_lists": "has exactly {num_bullets} bullets",
    "detectable_format:constrained_response": "gives one of the allowed answers",
    "detectable_format:number_highlighted_sections": "highlights at least {num_highlights} pieces with *stars*",
    "detectable_format:multiple_sections": "has at least {num_sections} sections headed {section_spliter}",
    "detectable_format:json_format": "is JSON",
    "detectable_format:title": "has a title in <<double angles>>",
    "combination:two_responses": "gives two different answers, parted by ******",
    "combination:repeat_prompt": "repeats the request first",
    "startend:end_checker": "ends with {end_phrase}",
    "startend:quotation": "is all in quotation marks",
    "change_case:capital_word_frequency": "has {capital_relation} {capital_frequency} words in capitals",
    "change_case:english_capital": "is all in capitals",
    "change_case:english_lowercase": "is all in small letters",
    "punctuation:no_comma": "has no comma",
}

# kwargs to begin with, for a person who adds a check; the others need none
_FIRST: dict[str, dict[str, Any]] = {
    "keywords:existence": {"keywords": ["red"]},
    "keywords:forbidden_words": {"forbidden_words": ["red"]},
    "keywords:frequency": {"keyword": "red", "relation": "at least", "frequency": 2},
    "keywords:letter_frequency": {"letter": "e", "let_relation": "at least", "let_frequency": 3},
    "language:response_language": {"language": "ko"},
    "length_constraints:number_sentences": {"relation": "at most", "num_sentences": 2},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_words": {"relation": "at most", "num_words": 50},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "red"},
    "detectable_content:number_placeholders": {"num_placeholders": 2},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:number_bullet_lists": {"num_bullets": 3},
    "detectable_format:number_highlighted_sections": {"num_highlights": 2},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 2},
    "combination:repeat_prompt": {"prompt_to_repeat": "What colour is it?"},
    "startend:end_checker": {"end_phrase": "That is all."},
    "change_case:capital_word_frequency": {"capital_relation": "at least", "capital_frequency": 2},
}  # fmt: skip
VERDICTS = ("kept", "broken", "no meaning here", "not defined")


def read(text: str) -> tuple[dict[str, Any], ...]:
    """The checks that a person wrote, a line each: a name, a name with its kwargs, or an entry of a prompt file.

    A check is put to the first reply unless it names another `turn`.
    Raises KeyError for an unknown name, ValueError for what is no check, with the line's number.

    >>> [one["instruction"] for one in read("punctuation:no_comma\\n# a remark\\nstartend:end_checker: {end_phrase: ok}")]
    ['punctuation:no_comma', 'startend:end_checker']
    >>> read('- {instruction: "punctuation:no_comma", turn: 2}')
    ({'instruction': 'punctuation:no_comma', 'kwargs': {}, 'turn': 2},)
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"your checks, line {number}"
        written = parse_yaml(line.strip().removeprefix("- "), where)
        if written is not None:
            found.append(_check(written, where))
    return tuple(found)


def _check(written: Any, where: str) -> dict[str, Any]:
    if isinstance(written, str):
        written = {"instruction": written}
    elif isinstance(written, dict) and "instruction" not in written and len(written) == 1:
        ((name, kwargs),) = written.items()
        kwargs = demand({} if kwargs is None else kwargs, dict, f"{where}, {name}")
        turn = {"turn": kwargs["turn"]} if "turn" in kwargs else {}
        written = {"instruction": name, "kwargs": {k: v for k, v in kwargs.items() if k != "turn"}} | turn
    if not isinstance(written, dict) or not {"instruction"} <= set(written) <= {
        "instruction",
        "kwargs",
        "turn",
    }:
        raise ValueError(
            f"{where}: expected a check, such as {line_of('length_constraints:number_words')}, found {brief(written)}."
        )
    one = {"instruction": written["instruction"], "kwargs": written.get("kwargs") or {}}
    validate([one], where)
    if "turn" in written:
        one["turn"] = demand(written["turn"], int, f"{where}, turn")
        if one["turn"] < 1:
            raise ValueError(
                f"{where}, turn: expected 1 for the first reply, 2 for the second …, found {one['turn']}."
            )
    return one


def validate(checks: Sequence[Mapping], where: str = "checks") -> None:
    """Raise KeyError or ValueError for the first check that cannot be put to a single reply."""
    instructions.validate(checks, where=where)
    for one in checks:
        if one["instruction"] not in instructions.CHECKS:
            raise ValueError(
                f"{where}: {one['instruction']} compares a reply with the one before it; here each reply is checked by itself."
            )


def line_of(instruction: str) -> str:
    """A check as a line to begin with.

    >>> line_of("length_constraints:number_words")
    'length_constraints:number_words: {"relation": "at most", "num_words": 50}'
    """
    kwargs = _FIRST.get(instruction)
    return f"{instruction}: {json.dumps(kwargs, ensure_ascii=False)}" if kwargs else instruction


def offered() -> list[tuple[str, str]]:
    """(line, what it says in words) for each check there is."""
    return [(line_of(name), in_words(name, _FIRST.get(name))) for name in _WORDS]


def in_words(instruction: str, kwargs: Mapping | None = None) -> str:
    """A check as the end of the sentence "the reply …".

    >>> in_words("length_constraints:number_words", {"relation": "less than", "num_words": 50})
    'has fewer than 50 words'
    """
    given = {key: _said(key, value) for key, value in (kwargs or {}).items()}
    return _WORDS[instruction].format_map(given)


def _said(key: str, value: object) -> str:
    if key.endswith("relation"):
        return _RELATION[str(value)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(f"“{one}”" for one in value)
    if key == "language":
        return language_name(str(value))
    return f"{value:g}" if isinstance(value, int | float) else f"“{value}”"


def scored(responses: pd.DataFrame, checks: Sequence[Mapping]) -> dict[str, list]:
    """The columns followed (1.0 all kept, 0.0 one broken, NaN none checked or undefined) and check, one entry a reply.

    check is one line a constraint: kept, broken, or without meaning in the reply's language.
    """
    single = [one for one in checks if one["instruction"] in instructions.CHECKS]
    asked = pd.DataFrame(
        [{"prompt_id": name, "checks": single} for name in responses.prompt_id.unique()],
    )
    results = instructions.instruction_scores(responses, asked)
    rows = [results[results.turn.eq(turn)] for turn in responses.turn]
    told = [
        "\n".join(
            f"{mark(row.strict)} {in_words(row.instruction, single[row.number - 1].get('kwargs'))}"
            for row in part.itertuples()
        )
        for part in rows
    ]
    return {
        "followed": [_all(part.strict) for part in rows],
        "check": told,
    }


def verdicts(check: str, followed: float) -> list[str]:
    """What was found of a reply, a line a constraint; the micro-world's one check gets its verdict here.

    >>> verdicts("right reply: 紅色", 1.0), verdicts("", float("nan"))
    (['kept: right reply: 紅色'], [])
    """
    lines = check.split("\n") if check else []
    if lines and lines[0].partition(":")[0] not in VERDICTS:
        kept = "not defined" if followed != followed else "kept" if followed else "broken"
        lines = [f"{kept}: {check}"]
    return lines


def joined(rows: pd.DataFrame, own: Mapping[str, list]) -> dict[str, list]:
    """The columns followed and check of replies that are checked by a set and by a person, in one."""
    told = [
        "\n".join([*verdicts(check, followed), *filter(None, [more])])
        for check, followed, more in zip(rows["check"], rows.followed, own["check"], strict=True)
    ]
    both = zip(
        zip(rows["check"], own["check"], strict=True),
        zip(rows.followed, own["followed"], strict=True),
        strict=True,
    )
    kept = [_all(pd.Series([v for c, v in zip(*of, strict=True) if c], dtype=float)) for of in both]
    return {"followed": kept, "check": told}


def _all(strict: pd.Series) -> float:
    if strict.eq(0).any():
        return 0.0
    return float("nan") if not len(strict) or strict.isna().any() else 1.0


def mark(strict: float) -> str:
    """
    >>> mark(1.0), mark(0.0), mark(float("nan"))
    ('kept:', 'broken:', 'no meaning here:')
    """
    return "no meaning here:" if strict != strict else "kept:" if strict else "broken:"
