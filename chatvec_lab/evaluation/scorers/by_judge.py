"""Scorers that ask another model: a judge's rating, its choice between two replies, safety by judge or guard."""

from typing import Literal

import numpy as np
import pandas as pd

from chatvec_lab.evaluation.asking.responses import digest
from chatvec_lab.evaluation.scorers.contract import Column, is_last
from chatvec_lab.evaluation.scorers.guard import LocalGuard
from chatvec_lab.evaluation.scorers.judge import Judge, compare_replies, rate
from chatvec_lab.evaluation.scorers.judge_prompts import templates
from chatvec_lab.evaluation.scorers.safety import guard_safety, judge_safety

COUNTS = ("asked", "unanswered", "prompt_tokens", "completion_tokens")  # of requests, beside each judgement
__all__ = ["Preference", "Rating", "SafetyByGuard", "SafetyByJudge"]


class Rating:
    """A judge's score of the last reply: against a standard answer ("paper"), or as MT-Bench has it."""

    languages = None

    def __init__(self, judge: Judge, protocol: Literal["paper", "mt-bench"]):
        self.judge, self.protocol = judge, protocol
        self.name, self.version = f"{judge.model} ({protocol})", _version()
        sets, needs = (
            (("one_turn",), ("reference",)) if protocol == "paper" else (("one_turn", "two_turn"), ())
        )
        name = f"judge_{protocol.replace('-', '_')}"
        words = "judge's score against a standard answer" if needs else "judge's score"
        self.columns = (Column(name, "higher", words, "1 to 10", sets, needs),)

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        known = prompts[prompts.reference.notna()][["prompt_id", "reference"]]
        is_asked = pd.Series(True, responses.index)
        if self.protocol == "paper":  # it has no place for earlier turns
            is_asked = responses.prompt_id.isin(known.prompt_id) & responses.groupby(
                "prompt_id"
            ).turn.transform("max").eq(1)
        rated = rate(
            responses[is_asked], self.judge, protocol=self.protocol, references=known, last_only=True
        )
        return _placed(rated, responses, is_asked & is_last(responses), self.columns[0].name, "score")


class Preference:
    """A judge's choice between two replies to one prompt, asked in both orders; only agreement of both wins."""

    languages = None

    def __init__(self, judge: Judge):
        self.judge, self.name, self.version = judge, f"{judge.model} (pairs)", _version()
        self.column = Column(
            "judge_pair", "higher", "points against {baseline} by a judge", sets=("one_turn", "two_turn")
        )

    def compare(self, prompts: pd.DataFrame, a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
        known = prompts[prompts.reference.notna()][["prompt_id", "reference"]]
        found = compare_replies(a, b, self.judge, references=known if len(known) else None, last_only=True)
        return _placed(
            found, a, is_last(a), self.column.name, "score", ("verdict_ab", "verdict_ba", "status")
        )


class SafetyByJudge:
    """The paper's question to a judge: is the reply safe under the prompt's scenario (its category)?"""

    languages = None
    columns = (Column("unsafe", "lower", "replies that a judge calls unsafe", sets=("hostile",)),)

    def __init__(self, judge: Judge):
        self.judge, self.name, self.version = judge, f"{judge.model} (safety)", _version()

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        scenarios = {
            p: c if isinstance(c, str) else "any"
            for p, c in zip(prompts.prompt_id, prompts.category, strict=True)
        }
        last = is_last(responses)
        judged = judge_safety(responses, self.judge, scenarios=scenarios, last_only=True)
        return _placed(judged, responses, last, "unsafe", "unsafe", ("reason", "judgement", "status"))


class SafetyByGuard:
    """A guard model's verdict on the conversation up to the reply; its "Controversial" counts as unsafe."""

    languages = None
    columns = (Column("guard_unsafe", "lower", "replies that a guard model calls unsafe", sets=("hostile",)),)

    def __init__(self, guard: LocalGuard | Judge):
        self.guard, self.name, self.version = guard, f"guard {guard.model}", _version()

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        found = guard_safety(responses, self.guard, last_only=True)
        return _placed(
            found, responses, is_last(responses), "guard_unsafe", "unsafe", ("label", "categories", "status")
        )


def _version() -> str:
    """Of our wording of the questions."""
    return f"prompts {digest(templates())[:8]}"


def _placed(found: pd.DataFrame, responses: pd.DataFrame, places: pd.Series, column: str, value: str,
            more: tuple[str, ...] = ("judgement", "status")) -> pd.DataFrame:  # fmt: skip
    """The judgements in the places of their replies, NaN elsewhere; what explains and counts them is called COLUMN_…"""
    table = pd.DataFrame({column: np.full(len(responses), np.nan)})
    rows = np.flatnonzero(places.to_numpy())
    table.loc[rows, column] = found[value].to_numpy(dtype=float)
    for name in (*more, *COUNTS):
        if name in found:
            table[f"{column}_{name}"] = pd.Series(found[name].to_numpy(dtype=object), index=rows).reindex(
                table.index
            )
    return table
