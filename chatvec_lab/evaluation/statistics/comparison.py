"""Intervals and tests over prompts: never a mean without its interval and n.

Prompts are the clusters. Samples, turns and judge repeats of one prompt are averaged before anything is
resampled, models are compared on the same prompts, and every result names its method and seed.
A missing score (NaN) is left out and counted in `missing`; it is never read as zero.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from chatvec_lab.evaluation.statistics._resampling import (
    kappa,
    resampled_sums,
    strength_at,
    strengths,
    wilson,
)
from chatvec_lab.evaluation.statistics.intervals import (
    RESAMPLES,
    Interval,
    Test,
    benjamini_hochberg,
    difference_interval,
    holm,
    mcnemar_test,
    mean_interval,
    permutation_test,
    statistic_interval,
    wilson_interval,
)

__all__ = [
    "RESAMPLES",
    "Interval",
    "Test",
    "benjamini_hochberg",
    "bradley_terry",
    "cohen_kappa",
    "compare",
    "difference_interval",
    "holm",
    "mcnemar_test",
    "mean_interval",
    "per_prompt",
    "permutation_test",
    "statistic_interval",
    "summarise",
    "wilson_interval",
]


def per_prompt(
    scores: pd.DataFrame, *, value: str = "score", by: Sequence[str] = (), prompt: str = "prompt_id"
) -> pd.DataFrame:
    """One row a prompt (and group): the mean over its samples and turns with a value, NaN if none has."""
    _require(scores, [*by, prompt, value])
    keys = [*by, prompt]
    return scores.groupby(keys, sort=False, dropna=False, observed=True)[value].mean().reset_index()


def summarise(
    scores: pd.DataFrame,
    *,
    by: str | Sequence[str] = (),
    value: str = "score",
    prompt: str = "prompt_id",
    share: bool | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of a column of scores in each group, with interval, n and coverage.

    `scores` has a row a reply (prompt, turn, sample); `by` names the columns of the groups.
    Columns: `by`, estimate, low, high, n, missing (prompts), level, method, seed, coverage (share of rows
    with a value). Options as in `mean_interval`.
    """
    by = [by] if isinstance(by, str) else list(by)
    options = {"share": share, "level": level, "resamples": resamples, "seed": seed}
    rows = []
    for key, group in _groups(scores, by, [prompt, value]):
        means = per_prompt(group, value=value, prompt=prompt)[value]
        interval = mean_interval(means, **options)
        coverage = group[value].notna().mean() if len(group) else np.nan
        rows.append(dict(zip(by, key, strict=True)) | interval._asdict() | {"coverage": coverage})
    return pd.DataFrame(rows, columns=[*by, *Interval._fields, "coverage"])


def compare(
    scores: pd.DataFrame,
    *,
    by: str,
    baseline: object,
    within: str | Sequence[str] = (),
    value: str = "score",
    prompt: str = "prompt_id",
    test: Literal["permutation", "mcnemar"] = "permutation",
    correction: Literal["holm", "benjamini-hochberg"] = "holm",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Each level of `by` against the baseline on the same prompts: difference, interval, corrected p-value.

    `compare(scores, by="scale", baseline=0.0, within="language")` gives a row a scale and language.
    All rows are one family for the correction. Prompts that either side lacks are counted in `missing`.
    Columns: `within`, `by`, baseline, estimate, low, high, n, missing, level, method, p_value, p_adjusted,
    test, correction, family (tests in it), seed.
    """
    if correction not in ("holm", "benjamini-hochberg"):
        raise ValueError(f"correction={correction!r}: choose 'holm' or 'benjamini-hochberg'")
    if test not in ("permutation", "mcnemar"):
        raise ValueError(f"test={test!r}: choose 'permutation' or 'mcnemar'")
    within = [within] if isinstance(within, str) else list(within)
    rows = []
    for key, group in _groups(scores, within, [by, prompt, value]):
        table = per_prompt(group, value=value, by=[by], prompt=prompt)
        table = table.pivot(index=prompt, columns=by, values=value)
        if baseline not in table.columns:
            raise ValueError(
                f"{by} has no {baseline!r} to compare with{f' in {key}' if key else ''};"
                f" it has {', '.join(map(repr, table.columns))}"
            )
        for other in table.columns.drop(baseline):
            interval = difference_interval(
                table[other], table[baseline], level=level, resamples=resamples, seed=seed
            )
            if test == "permutation":
                tested = permutation_test(table[other], table[baseline], resamples=resamples, seed=seed)
            else:
                tested = mcnemar_test(table[other], table[baseline])
            row = dict(zip(within, key, strict=True)) | {by: other, "baseline": baseline}
            rows.append(row | interval._asdict() | {"p_value": tested.p_value, "test": tested.method})
    columns = [*within, by, "baseline", *Interval._fields[:-1], "p_value", "test"]
    result = pd.DataFrame(rows, columns=columns)
    adjust = holm if correction == "holm" else benjamini_hochberg
    result.insert(result.columns.get_loc("p_value") + 1, "p_adjusted", adjust(result["p_value"]))
    return result.assign(correction=correction, family=int(result["p_value"].notna().sum()), seed=seed)


def bradley_terry(
    judgements: pd.DataFrame,
    *,
    prompt: str = "prompt_id",
    level: float = 0.95,
    resamples: int = 1999,
    seed: int = 0,
) -> pd.DataFrame:
    """Strength of each model from pairwise judgements, with bootstrap intervals over prompts.

    `judgements`: a row a verdict; columns `prompt`, `a`, `b` (names of models) and `score`, the points of
    a: 1 won, 0 lost, 0.5 a tie (half a win each), NaN no verdict (left out, counted in `missing`).
    Strengths are natural logarithms with mean 0: P(a beats b) = 1 / (1 + exp(strength_b − strength_a)).
    Each compared pair gets half a win a side beforehand, which keeps an unbeaten model finite. Where a model won
    or lost everything, or all prompts say the same of two models, there is nothing to resample: such a model's
    limits (`method` "wilson") are the strengths at Wilson's limits of its share of the points, the others held,
    and that of an unbeaten model is infinite.
    Columns: model, estimate, low, high, n (prompts), missing (verdicts), level, method, seed.
    Models that no chain of verdicts connects cannot be ordered: a ValueError.
    """
    _require(judgements, [prompt, "a", "b", "score"])
    told = judgements[judgements["score"].notna()]
    if told.empty:
        raise ValueError(f"no verdict among {len(judgements)} judgements: nothing to order")
    if not told["score"].between(0, 1).all():
        raise ValueError(
            f"score is the share of the win that a takes, 0 to 1; found {sorted(set(told['score']))}"
        )
    if (told["a"] == told["b"]).any():
        raise ValueError("a model cannot be compared with itself; rows have a == b")
    models = sorted(set(told["a"]) | set(told["b"]))
    size = len(models)
    a, b = (told[side].map({m: i for i, m in enumerate(models)}).to_numpy() for side in "ab")
    cluster, names = pd.factorize(told[prompt])
    score = told["score"].to_numpy(dtype=float)
    wins = np.zeros((len(names), size, size))  # (prompt, winner, loser)
    np.add.at(wins, (cluster, a, b), score)
    np.add.at(wins, (cluster, b, a), 1 - score)
    total = wins.sum(axis=0)
    prior = 0.5 * ((total + total.T) > 0)
    _check_connected(prior > 0, models)
    estimate = strengths((total + prior)[None])[0]
    draws = [
        strengths(sums.reshape(-1, size, size) + prior)
        for sums in resampled_sums(wins.reshape(len(names), -1), resamples, seed)
    ]
    draws = np.concatenate(draws)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    share = total.sum(axis=1) / (total + total.T).sum(axis=1)
    unanimous = (share == 0) | (share == 1) | (np.ptp(draws, axis=0) < 1e-9)
    for i in np.flatnonzero(unanimous):
        asked = np.unique(cluster[(a == i) | (b == i)]).size
        ends = [
            strength_at(limit, (total + total.T)[i], estimate, i)
            for limit in wilson(share[i] * asked, asked, level)
        ]
        low[i], high[i] = min(low[i], ends[0]), max(high[i], ends[1])
    result = pd.DataFrame({"model": models, "estimate": estimate, "low": low, "high": high})
    missing, method = len(judgements) - len(told), np.where(unanimous, "wilson", "percentile")
    return result.assign(n=len(names), missing=missing, level=level, method=method, seed=seed)


def cohen_kappa(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    weights: Literal["linear", "quadratic"] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Agreement of two judges beyond chance (Cohen's kappa), with a percentile interval.

    `a` and `b` hold the labels of the same items; `clusters` their prompts (None: each item is its own).
    `weights` count a near miss as less wrong, for ratings; labels are then ordered by value.
    NaN (kappa undefined) when both judges always give one and the same label.

    >>> round(cohen_kappa(list("yyynn"), list("yynnn")).estimate, 4)
    0.6154
    """
    if weights not in (None, "linear", "quadratic"):
        raise ValueError(f"weights={weights!r}: choose None, 'linear' or 'quadratic'")
    # as lists: numpy would make the word "nan" of a missing label among words
    frame = pd.DataFrame({"a": list(a), "b": list(b)})
    frame["cluster"] = np.arange(len(frame)) if clusters is None else np.asarray(clusters)
    kept = frame.dropna(subset=["a", "b"])
    missing = len(frame) - len(kept)
    if kept.empty:
        return Interval(np.nan, np.nan, np.nan, 0, missing, level, "none", None)
    labels = np.unique(np.concatenate([kept["a"], kept["b"]]))
    size = len(labels)
    cluster, names = pd.factorize(kept["cluster"])
    tables = np.zeros((len(names), size, size))
    np.add.at(tables, (cluster, np.searchsorted(labels, kept["a"]), np.searchsorted(labels, kept["b"])), 1)
    if weights is None:
        penalty = 1.0 - np.eye(size)
    else:
        values = labels.astype(float)
        penalty = np.abs(values[:, None] - values) ** (1 if weights == "linear" else 2)

    estimate = kappa(tables.sum(axis=0)[None], penalty)[0]
    sums = resampled_sums(tables.reshape(len(names), -1), resamples, seed)
    draws = np.concatenate([kappa(part.reshape(-1, size, size), penalty) for part in sums])
    if np.isnan(estimate) or len(names) < 2:
        return Interval(float(estimate), np.nan, np.nan, len(names), missing, level, "none", None)
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), len(names), missing, level, "percentile", seed)


def _check_connected(compared: np.ndarray, models: list[str]) -> None:
    reached = np.zeros(len(models), dtype=bool)
    reached[0] = True
    for _ in models:
        reached |= compared[reached].any(axis=0)
    if not reached.all():
        cut = ", ".join(m for m, is_reached in zip(models, reached, strict=True) if not is_reached)
        raise ValueError(
            f"no chain of verdicts leads from {models[0]} to: {cut}; judge a pair across the gap"
        )


def _groups(frame: pd.DataFrame, by: list[str], needed: list[str]) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """(key, rows) of each group in order of appearance; one group with the key () when `by` is empty."""
    _require(frame, [*by, *needed])
    return iter(frame.groupby(by, sort=False, dropna=False, observed=True)) if by else iter([((), frame)])


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    absent = [c for c in columns if c not in frame.columns]
    if absent:
        raise KeyError(f"no column {', '.join(absent)}; the table has {', '.join(map(str, frame.columns))}")
