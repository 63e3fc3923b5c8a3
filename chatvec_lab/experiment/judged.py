"""What judging came to: how much of it can be read and was paid, how strong the models are, and whether scorers agree."""

import itertools
from typing import TYPE_CHECKING

import pandas as pd

from chatvec_lab.evaluation.scorers.by_judge import COUNTS
from chatvec_lab.evaluation.scorers.judge import STATUSES
from chatvec_lab.evaluation.statistics import bradley_terry, cohen_kappa

if TYPE_CHECKING:
    from chatvec_lab.experiment.exam import Exam


def judging(exam: "Exam", replies: pd.DataFrame, by: str = "model") -> pd.DataFrame:
    """How the judgements of `exam.ask` ended, one row a measure and group; empty without a judge. Read it beside a mean.

    Columns: measure, scorer, `by`, n (replies to be judged), ok, unparsable, cut off, failed, no response; consistent
    (share of pairs whose two orders agree; NaN for ratings); asked (requests made now, not read from what is kept),
    unanswered (requests that brought nothing, which a server may charge all the same), prompt_tokens,
    completion_tokens (of all judgements, also those that were kept).
    """
    rows = []
    for measure in (m for m in exam.measures if f"{m}_status" in replies):
        judged = replies[replies[f"{measure}_status"].notna()]
        judged = judged.rename(columns={c: c.removeprefix(f"{measure}_") for c in judged})
        orders = {"verdict_ab", "verdict_ba"} <= set(judged)
        for name, group in judged.groupby(by, sort=False):
            ends = {end: int(group.status.eq(end).sum()) for end in STATUSES}
            both = group[group[["verdict_ab", "verdict_ba"]].notna().all(axis=1)] if orders else group.head(0)
            alike = float((both.verdict_ab == both.verdict_ba).mean()) if len(both) else float("nan")
            counts = {c: int(pd.to_numeric(group[c]).sum()) for c in COUNTS}
            about = {"measure": measure, "scorer": exam.scored_by[measure], by: name, "n": len(group)}
            rows.append(about | ends | {"consistent": alike} | counts)
    return pd.DataFrame(rows)


def strengths(replies: pd.DataFrame, *, baseline: str = "CP") -> pd.DataFrame:
    """Strength of each model by a judge's choices against the baseline (`statistics.bradley_terry`); empty without any.

    P(a preferred to b) = 1 / (1 + exp(strength_b − strength_a)); the strengths have mean 0.
    """
    if "judge_pair" not in replies or not replies.judge_pair.notna().any():
        return pd.DataFrame()
    pairs = replies[replies.model.ne(baseline)].rename(columns={"model": "a", "judge_pair": "score"})
    return bradley_terry(pairs[pairs.score.notna()].assign(b=baseline)).drop(columns=["missing", "seed"])


def agreement(exam: "Exam", replies: pd.DataFrame) -> pd.DataFrame:
    """How far two scorers agree that a reply is bad, beyond chance: Cohen's kappa with its interval; one row a pair.

    Columns: a, b (measures), kappa, low, high, n (prompts), method. Empty where no two were measured on the same replies.
    """
    bad = [m for m, (column, *_) in exam.measures.items()
           if column.better == "lower" and column.unit == "share" and m in replies]  # fmt: skip
    rows = []
    for a, b in itertools.combinations(bad, 2):
        both = replies[replies[a].notna() & replies[b].notna()]
        if len(both) and exam.scored_by[a] != exam.scored_by[b]:
            found = cohen_kappa(both[a], both[b], clusters=both.prompt_id)
            ends = {"kappa": found.estimate, "low": found.low, "high": found.high, "n": found.n}
            rows.append({"a": a, "b": b, **ends, "method": found.method})
    return pd.DataFrame(rows)
