"""Which constraints a reply keeps, in words: the checks of `evaluation.instructions`, said as a person would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from chatvec_lab.evaluation import instructions

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
    return f"{value:g}" if isinstance(value, int | float) else value if key == "language" else f"“{value}”"


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
