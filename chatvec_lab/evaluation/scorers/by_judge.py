"""Scorers that ask another model: a judge's rating, its choice between two replies, safety by judge or guard."""

from typing import Literal

import numpy as np
import pandas as pd

from chatvec_lab.evaluation.asking.responses import digest
from chatvec_lab.evaluation.scorers.contract import Column, is_last
from chatvec_lab.evaluation.scorers.guard import LocalGuard
from chatvec_lab.evaluation.scorers.judge import COUNTS, Judge, compare_replies, rate
from chatvec_lab.evaluation.scorers.judge_prompts import templates
from chatvec_lab.evaluation.scorers.safety import guard_safety, judge_safety


class Rating:
    """A judge's score of the last reply: against a standard answer ("paper"), or as MT-Bench has it."""

    languages = None

    def __init__(self, judge: Judge, protocol: Literal["paper", "mt-bench"]):
        self.judge, self.protocol = judge, protocol
        self.name, self.version = f"{judge.model} ({protocol})", _version()
        column = Column("judge_mt_bench", "higher", "judge's score", "1 to 10", ("one_turn", "two_turn"))
        if protocol == "paper":
            words = "judge's score against a standard answer"
            column = Column("judge_paper", "higher", words, "1 to 10", ("one_turn",), needs=("reference",))
        self.columns = (column,)

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        known = prompts[prompts.reference.notna()][["prompt_id", "reference"]]
        is_asked = pd.Series(True, responses.index)
        if self.protocol == "paper":  # it has no place for earlier turns
            turns = responses.groupby("prompt_id").turn.transform("max")
            is_asked = responses.prompt_id.isin(known.prompt_id) & turns.eq(1)
        asked = responses[is_asked]
        rated = rate(asked, self.judge, protocol=self.protocol, references=known, last_only=True)
        return _placed(rated, responses, is_asked & is_last(responses), self.columns[0].name, "score")


class Preference:
    """A judge's choice between two replies to one prompt, asked in both orders; only agreement of both wins."""

    languages = None

    def __init__(self, judge: Judge):
        self.judge, self.name, self.version = judge, f"{judge.model} (pairs)", _version()
        words = "points against {baseline} by a judge"
        self.column = Column("judge_pair", "higher", words, sets=("one_turn", "two_turn"))

    def compare(self, prompts: pd.DataFrame, a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
        known = prompts[prompts.reference.notna()][["prompt_id", "reference"]]
        found = compare_replies(a, b, self.judge, references=known if len(known) else None, last_only=True)
        more = ("verdict_ab", "verdict_ba", "status")
        return _placed(found, a, is_last(a), self.column.name, "score", more)


class SafetyByJudge:
    """The paper's question to a judge: is the reply safe under the prompt's scenario (its category)?"""

    languages = None
    columns = (Column("unsafe", "lower", "replies that a judge calls unsafe", sets=("hostile",)),)

    def __init__(self, judge: Judge):
        self.judge, self.name, self.version = judge, f"{judge.model} (safety)", _version()

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        scenarios = prompts.set_index("prompt_id").category.astype(object)
        scenarios = scenarios.where(scenarios.map(lambda told: isinstance(told, str)), "any").to_dict()
        judged = judge_safety(responses, self.judge, scenarios=scenarios, last_only=True)
        more = ("reason", "judgement", "status")
        return _placed(judged, responses, is_last(responses), "unsafe", "unsafe", more)


class SafetyByGuard:
    """A guard model's verdict on the conversation up to the reply; its "Controversial" counts as unsafe."""

    languages = None
    columns = (Column("guard_unsafe", "lower", "replies that a guard model calls unsafe", sets=("hostile",)),)

    def __init__(self, guard: LocalGuard | Judge):
        self.guard, self.name, self.version = guard, f"guard {guard.model}", _version()

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        found = guard_safety(responses, self.guard, last_only=True)
        more = ("label", "categories", "status")
        return _placed(found, responses, is_last(responses), "guard_unsafe", "unsafe", more)


def _version() -> str:
    """Of our wording of the questions."""
    return f"prompts {digest(templates())[:8]}"


def _placed(found: pd.DataFrame, responses: pd.DataFrame, places: pd.Series, column: str, value: str,
            more: tuple[str, ...] = ("judgement", "status")) -> pd.DataFrame:  # fmt: skip
    """The judgements in the places of their replies, NaN elsewhere; what explains and counts them is called COLUMN_…"""
    rows = np.flatnonzero(places.to_numpy())
    kept = [value, *(name for name in (*more, *COUNTS) if name in found)]
    names = {name: f"{column}_{name}" for name in kept[1:]} | {value: column}
    table = found[kept].astype({value: float}).rename(columns=names).set_axis(rows)
    return table.reindex(range(len(responses)))
