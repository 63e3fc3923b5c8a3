"""Instructions whose following can be checked by code, in any script: IFEval's 25 types, written anew.

A check is data, `{"instruction": "length_constraints:number_words", "kwargs": {"relation": "less than",
"num_words": 50}}`, and rides on the row of its prompt. Names are IFEval's (arXiv 2311.07911), so that
google/IFEval and Qwen/P-MMEval load as they are; `checks.py` says what each one counts. Checks without
meaning in a language (capital letters in Chinese, sentences in Thai) are missing there, never failed.
"""

import difflib
import inspect
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import identity, text_of
from chatvec_lab.evaluation.asking.thinking import answer_of, answers
from chatvec_lab.evaluation.language import normalise
from chatvec_lab.evaluation.scorers.checks import CHECKS, COMPARISONS, RELATIONS
from chatvec_lab.reading import demand

VERSION = "chatvec_lab instructions 2"
_OF_CHECK = ("number", "measure", "instruction", "strict", "loose", "scorer")


def check(text: str, instruction: str, kwargs: Mapping | None = None, *, language: str = "en") -> bool | None:
    """Whether a reply's answer follows one instruction. Blank never follows.

    None if the instruction has no meaning in this language, or the reply never gets from its thought to an answer.

    Raises KeyError for an unknown instruction and ValueError for kwargs that do not fit it.

    >>> check("蘋果、香蕉", "punctuation:no_comma", language="zh-Hant")
    False
    >>> check("ABC", "change_case:english_capital", language="ja") is None
    True
    """
    validate([{"instruction": instruction, "kwargs": kwargs or {}}])
    answer = answer_of(text)
    if answer is None and text:
        return None
    return _check(text_of(answer) or "", instruction, _given(kwargs), normalise(language) or "en")


def validate(checks: Sequence[Mapping], *, where: str = "checks") -> None:
    """Raise for the first check that names no instruction (KeyError) or has unfit kwargs (ValueError)."""
    for one in checks:
        demand(one, {"instruction": str}, f"{where}, checks")
        demand(one.get("kwargs"), (dict, type(None)), f"{where}, kwargs")
        name, kwargs = one["instruction"], _given(one.get("kwargs"))
        if name in COMPARISONS and not kwargs:
            continue
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, n=1, cutoff=0)[0]
            raise KeyError(f"{where}: no instruction {name!r}; did you mean {near!r}?")
        try:
            inspect.signature(CHECKS[name]).bind("", "en", **kwargs)
        except TypeError as error:
            raise ValueError(f"{where}: {name} with {kwargs}: {error}") from error
        for key, value in kwargs.items():
            if key.endswith("relation") and (not isinstance(value, str) or value not in RELATIONS):
                raise ValueError(f"{where}: {name}: {key}={value!r}; choose one of {', '.join(RELATIONS)}")
            if (key.startswith("num_") or key.endswith(("frequency", "nth_paragraph"))) and (
                not isinstance(value, int | float) or not 0 <= value < 1e15 or int(value) != value
            ):
                raise ValueError(f"{where}: {name}: {key}={value!r} is no count")
            if isinstance(value, str | list) and not (len(value) and all(value)):
                raise ValueError(f"{where}: {name}: {key}={value!r} is empty")


def instruction_scores(responses: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Strict and loose result of every check on every reply, one row a reply and check.

    `prompts` has `prompt_id` and `checks` (a list; as loaded by `load_prompts`), `language` if ids repeat
    across languages, and `set` if they repeat across sets. Replies without a prompt there are an error, prompts
    without checks give no rows.
    A check counts for the first turn, or for the one it names as `turn`.
    Columns: those that identify the reply, number (of the check, from 1), measure (the check's own word, else
    "instruction"), instruction, strict, loose (1.0 followed, 0.0 not, NaN undefined in the language or no
    answer), scorer. Loose takes the best of eight readings: with or without first line, last line, asterisks.
    """
    scores = identity(responses, needs=["language"])
    asked, wanted = checks_by_prompt(responses, prompts)
    if unknown := sorted({key for key in asked if key not in wanted}, key=str):
        raise KeyError(f"{len(unknown)} replies' prompts are not in the prompt table, such as {unknown[0]}")
    wanted = {key: _single(wanted[key]) for key in dict.fromkeys(asked)}
    for key, checks in wanted.items():
        validate([one for _, one in checks], where=f"prompt {key[0]}")
    turns = responses["turn"] if "turn" in responses.columns else [1] * len(responses)
    rows, place = [], []
    for i, (key, turn, response, language) in enumerate(
        zip(asked, turns, answers(responses), responses["language"], strict=True)
    ):
        text, language = text_of(response), normalise(language) or "en"
        for number, one in wanted[key]:
            if one.get("turn", 1) == turn:
                strict, loose = _both(text, one["instruction"], _given(one.get("kwargs")), language)
                rows.append((number, one.get("measure", "instruction"), one["instruction"], strict, loose))
                place.append(i)
    results = pd.DataFrame(rows, columns=["number", "measure", "instruction", "strict", "loose"])
    found = pd.concat([scores.iloc[place].reset_index(drop=True), results], axis=1)
    return found.assign(scorer=VERSION)


def checks_by_prompt(responses: pd.DataFrame, prompts: pd.DataFrame) -> tuple[list[tuple], dict]:
    """The key of each reply's prompt, and the checks of each prompt by its key.

    A key is prompt_id and language, with the set only where those are not enough: then both tables must have it.
    """
    keys = ["prompt_id", "language"] if "language" in prompts.columns else ["prompt_id"]
    if prompts.duplicated(keys).any():
        keys.append("set")
        if not {"set"} <= {*prompts.columns} & {*responses.columns} or prompts.duplicated(keys).any():
            twice = prompts.loc[prompts.duplicated(keys[:-1]), "prompt_id"].iloc[0]
            raise ValueError(f"the prompt table has {twice!r} twice, and no set tells them apart")
    asked, known = (list(table[keys].itertuples(index=False, name=None)) for table in (responses, prompts))
    checks = prompts["checks"] if "checks" in prompts.columns else [None] * len(prompts)
    return asked, dict(zip(known, checks, strict=True))


def prompt_level(scores: pd.DataFrame) -> pd.DataFrame:
    """Did a reply follow all of its instructions? One row a reply; strict and loose as in `scores`.

    One check failed fails the reply; otherwise a check without a result leaves it missing.
    """
    keys = [c for c in scores.columns if c not in _OF_CHECK]
    groups = scores.groupby(keys, sort=False, dropna=False)[["strict", "loose"]]
    least, has_all = groups.min(), groups.count().eq(groups.size(), axis=0)
    return least.where(has_all | (least == 0)).reset_index()


def _both(text: str | None, instruction: str, kwargs: dict, language: str) -> tuple[float, float]:
    if text is None:
        return np.nan, np.nan
    strict = _check(text, instruction, kwargs, language)
    if strict is None:
        return np.nan, np.nan
    loose = strict or any(_check(reading, instruction, kwargs, language) for reading in _readings(text))
    return float(strict), float(loose)


def _readings(text: str) -> set[str]:
    """The eight readings of IFEval's loose score, less those that coincide."""
    lines = text.split("\n")
    cuts = ["\n".join(part).strip() for part in (lines, lines[1:], lines[:-1], lines[1:-1])]
    return {reading for cut in cuts for reading in (cut, cut.replace("*", ""))}


def _check(text: str, instruction: str, kwargs: dict, language: str) -> bool | None:
    followed = CHECKS[instruction](text, language, **kwargs)
    return followed if followed is None else bool(followed and text.strip())


def _given(kwargs: Mapping | None) -> dict:
    """Published tables fill the arguments of other checks with null: only those that were given."""
    listed = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in (kwargs or {}).items()}
    return {k: v for k, v in listed.items() if v is not None and v == v}


def _single(checks: object) -> list[tuple[int, Mapping]]:
    """Numbered checks of one reply alone; those that compare two turns are `multiturn`'s."""
    listed = list(checks) if isinstance(checks, list | tuple | np.ndarray) else []
    numbered = enumerate(listed, start=1)
    return [(n, one) for n, one in numbered if one["instruction"] not in COMPARISONS]
