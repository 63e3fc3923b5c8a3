"""Intervals and tests over prompts: never a mean without its interval and n.

Prompts are the clusters. Samples, turns and judge repeats of one prompt are averaged before anything is
resampled, models are compared on the same prompts, and every result names its method and seed.
A missing score (NaN) is left out and counted in `missing`; it is never read as zero.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from ._resampling import (
    bootstrap,
    every_signing,
    kappa,
    random_signings,
    resampled_sums,
    strengths,
    wilson,
)

RESAMPLES = 9999


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    `n` counts the prompts that carry it and `missing` those without a value; `seed` is None where nothing
    was drawn. Without data the numbers are NaN; with one prompt `low` and `high` are.
    """

    estimate: float
    low: float
    high: float
    n: int
    missing: int
    level: float
    method: str
    seed: int | None


class Test(NamedTuple):
    """A paired test: the mean of a − b, its two-sided p-value, the pairs used and the pairs left out."""

    __test__ = False  # a result, not something for pytest to collect

    estimate: float
    p_value: float
    n: int
    missing: int
    method: str
    seed: int | None


def mean_interval(
    values: ArrayLike,
    *,
    share: bool | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of one value a prompt, with its interval.

    BCa bootstrap over prompts; percentile where BCa has no answer. Shares of yes and no take Wilson's
    interval, which stays honest at 0 and 100 %. `share=None` means: a share if every value is 0 or 1.
    Say `share=False` for a rating whose lowest mark is 1. Constant values that are no share have no spread
    to resample: low and high equal the estimate and the method reads "constant".

    >>> interval = mean_interval([0, 0, 0, 0])
    >>> interval.low, round(interval.high, 3), interval.n, interval.method
    (0.0, 0.49, 4, 'wilson')
    """
    everything = np.asarray(values, dtype=float)
    if everything.ndim != 1:
        raise ValueError(f"mean_interval wants one value a prompt, in one dimension; got {everything.shape}")
    data = everything[~np.isnan(everything)]
    n, missing = len(data), len(everything) - len(data)

    def result(low: float, high: float, method: str, seed: int | None = None) -> Interval:
        estimate = float(data.mean()) if n else np.nan
        return Interval(estimate, float(low), float(high), n, missing, level, method, seed)

    if n == 0:
        return result(np.nan, np.nan, "none")
    is_binary = bool(np.isin(data, (0, 1)).all())
    is_constant = bool((data == data[0]).all())
    share = is_binary if share is None else share
    if share and (data.min() < 0 or data.max() > 1):
        raise ValueError(f"a share lies between 0 and 1; found {data.min()} to {data.max()}")
    if share and (is_binary or is_constant):
        return result(*wilson(data.sum(), n, level), "wilson")
    if n == 1:
        return result(np.nan, np.nan, "none")
    if is_constant:
        return result(data[0], data[0], "constant")
    low, high, method = bootstrap((data,), _mean, level, resamples, seed)
    return result(low, high, method, seed)


def difference_interval(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of a − b over the same prompts, with its interval (BCa on the paired differences).

    Arrays pair by position, two Series by their index. If yes/no answers never disagree, the interval is
    ± Wilson's upper limit of the share that might: equal answers on n prompts do not prove equal models.
    """
    a, b, missing = _paired(a, b)
    result = mean_interval(a - b, share=False, level=level, resamples=resamples, seed=seed)
    if result.method == "constant" and np.isin(np.concatenate([a, b]), (0, 1)).all() and not result.estimate:
        limit = wilson(0, len(a), level)[1]
        result = result._replace(low=-limit, high=limit, method="wilson of disagreements")
    return result._replace(missing=missing)


def statistic_interval(
    *samples: ArrayLike,
    statistic: Callable[..., ArrayLike],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Any statistic of one or several arrays that share their prompts, with a bootstrap interval.

    `statistic(*samples, axis=-1)` works along an axis, as `np.median` does. One array takes BCa, several
    take the percentile method on resampled prompts. Prompts missing in any array are left out.

    >>> def ratio(x, y, axis):
    ...     return y.sum(axis) / x.sum(axis)
    >>> statistic_interval([1, 2, 3, 9], [2, 4, 6, 18], statistic=ratio)[:3]
    (2.0, 2.0, 2.0)
    """
    stacked = np.stack([np.asarray(s, dtype=float) for s in samples])
    data = stacked[:, ~np.isnan(stacked).any(axis=0)]
    n, missing = data.shape[1], stacked.shape[1] - data.shape[1]
    if n < 2:
        estimate = float(statistic(*data, axis=-1)) if n else np.nan
        return Interval(estimate, np.nan, np.nan, n, missing, level, "none", None)
    low, high, method = bootstrap(tuple(data), statistic, level, resamples, seed)
    return Interval(float(statistic(*data, axis=-1)), low, high, n, missing, level, method, seed)


def wilson_interval(successes: float, n: int, *, level: float = 0.95) -> Interval:
    """Share of successes among n, with Wilson's score interval.

    >>> wilson_interval(10, 200).low.__round__(3), wilson_interval(10, 200).high.__round__(3)
    (0.027, 0.09)
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n; got {successes} of {n}")
    low, high = wilson(successes, n, level)
    return Interval(successes / n if n else np.nan, low, high, n, 0, level, "wilson", None)


def permutation_test(a: ArrayLike, b: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Test:
    """Paired permutation test that a and b have the same mean: the sign of each difference is exchangeable.

    Exact when all 2**n signings are no more than `resamples`, else a random sample of them, with the
    observed one counted in, so p is never 0. Pairing as in `difference_interval`.

    >>> permutation_test([1, 2, 3, 4], [0, 0, 0, 0]).p_value     # 2 of 16 signings are as extreme
    0.125
    """
    a, b, missing = _paired(a, b)
    difference = a - b
    n = len(difference)
    if n == 0:
        return Test(np.nan, np.nan, 0, missing, "permutation", None)
    scale = np.abs(difference).sum()
    limit = abs(difference.sum()) - 1e-12 * scale  # a rounding error apart is a tie
    is_exact = n < 60 and 2**n <= resamples
    extreme = total = 0
    for signs in every_signing(n) if is_exact else random_signings(n, resamples, seed):
        extreme += int((np.abs(signs @ difference) >= limit).sum())
        total += len(signs)
    if is_exact:
        return Test(float(difference.mean()), extreme / total, n, missing, "permutation, exact", None)
    p_value = (extreme + 1) / (total + 1)
    return Test(float(difference.mean()), p_value, n, missing, f"permutation, {resamples} drawn", seed)


def mcnemar_test(a: ArrayLike, b: ArrayLike) -> Test:
    """Exact McNemar test on paired yes/no answers: among the disagreements, is either side favoured?

    >>> mcnemar_test([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]).p_value
    0.0625
    """
    a, b, missing = _paired(a, b)
    if not np.isin(np.concatenate([a, b]), (0, 1)).all():
        raise ValueError(
            "McNemar's test wants one yes (1) or no (0) a prompt; means of samples take permutation_test"
        )
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    disagreements = only_a + only_b
    p_value = float(stats.binomtest(only_a, disagreements).pvalue) if disagreements else 1.0
    estimate = float((a - b).mean()) if len(a) else np.nan
    return Test(estimate, p_value if len(a) else np.nan, len(a), missing, "mcnemar, exact", None)


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values adjusted by Holm: the chance of any false claim in the family. NaN stays and is not counted.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    return _adjusted(p_values, lambda p: np.maximum.accumulate(p * np.arange(len(p), 0, -1)))


def benjamini_hochberg(p_values: ArrayLike) -> np.ndarray:
    """p-values adjusted by Benjamini and Hochberg: the false share among the claims, for exploration.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    array([0.03, 0.04, 0.04])
    """
    return _adjusted(
        p_values, lambda p: np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    )


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
    Each compared pair gets half a win a side beforehand, which keeps an unbeaten model finite.
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
    low, high = np.quantile(np.concatenate(draws), [(1 - level) / 2, (1 + level) / 2], axis=0)
    result = pd.DataFrame({"model": models, "estimate": estimate, "low": low, "high": high})
    missing = len(judgements) - len(told)
    return result.assign(n=len(names), missing=missing, level=level, method="percentile", seed=seed)


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
    frame = pd.DataFrame({"a": np.asarray(a), "b": np.asarray(b)})
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


def _mean(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(x, axis=axis)


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
    """The pairs with both values, as float arrays, and the number of those without."""
    if isinstance(a, pd.Series) and isinstance(b, pd.Series):
        for side, series in (("a", a), ("b", b)):
            if series.index.has_duplicates:
                twice = series.index[series.index.duplicated()].unique()
                raise ValueError(
                    f"{side} has several values for {len(twice)} prompts, such as {twice[0]!r};"
                    " average the samples of a prompt first (per_prompt does)"
                )
        a, b = a.align(b)
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired values have one shape, one value a prompt; got {a.shape} and {b.shape}")
    kept = ~(np.isnan(a) | np.isnan(b))
    return a[kept], b[kept], int((~kept).sum())


def _check_connected(compared: np.ndarray, models: list[str]) -> None:
    reached = np.linalg.matrix_power(np.eye(len(models), dtype=int) + compared, len(models))[0] > 0
    if not reached.all():
        cut = ", ".join(m for m, is_reached in zip(models, reached, strict=True) if not is_reached)
        raise ValueError(
            f"no chain of verdicts leads from {models[0]} to: {cut}; judge a pair across the gap"
        )


def _adjusted(p_values: ArrayLike, adjust: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply `adjust` to the sorted p-values and put the results back in place."""
    p = np.asarray(p_values, dtype=float)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p-values lie between 0 and 1; found {p[(p < 0) | (p > 1)]}")
    result = np.full_like(p, np.nan)
    order = np.flatnonzero(~np.isnan(p))
    order = order[np.argsort(p[order], kind="stable")]
    result[order] = np.minimum(adjust(p[order]), 1.0)
    return result


def _groups(frame: pd.DataFrame, by: list[str], needed: list[str]) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """(key, rows) of each group in order of appearance; one group with the key () when `by` is empty."""
    _require(frame, [*by, *needed])
    return iter(frame.groupby(by, sort=False, dropna=False, observed=True)) if by else iter([((), frame)])


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    absent = [c for c in columns if c not in frame.columns]
    if absent:
        raise KeyError(f"no column {', '.join(absent)}; the table has {', '.join(map(str, frame.columns))}")
