"""Intervals and tests of arrays: one number a prompt in, an estimate with its uncertainty out.

`statistics` does the same for tables of scores and is the module to import: it has all of these names.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from chatvec_lab.evaluation.statistics._resampling import bootstrap, every_signing, random_signings, wilson

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

    Arrays pair by position, two Series by their index. If yes/no answers never disagree, or always the same
    way, the interval reaches as far as Wilson's upper limit of the share that might do otherwise: equal
    answers on n prompts do not prove equal models.
    """
    a, b, missing = _paired(a, b)
    result = mean_interval(a - b, share=False, level=level, resamples=resamples, seed=seed)
    if result.method == "constant" and np.isin(np.concatenate([a, b]), (0, 1)).all():
        reach = wilson(0, len(a), level)[1] * (1 + abs(result.estimate))  # from 1 to -1 it is twice as far
        low, high = max(result.estimate - reach, -1.0), min(result.estimate + reach, 1.0)
        result = result._replace(low=low, high=high, method="wilson of disagreements")
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
