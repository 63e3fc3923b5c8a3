"""Intervals and tests of arrays: one number a prompt in, an estimate with its uncertainty out.

`statistics` does the same for tables of scores and is the module to import: it has all of these names.
Prompts that share an item (one question in several languages, paraphrases of one text) are no independent answers:
`clusters` names the item of each, and items are what is signed, resampled and counted.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from chatvec_lab.evaluation.statistics import _closed
from chatvec_lab.evaluation.statistics._resampling import bootstrap, mean_ends, signed_sums

RESAMPLES = 9999


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    `n` counts the prompts that carry it and `missing` those without a value; `seed` is None where nothing
    was drawn. Where there is no interval `low` and `high` are NaN and `method` says why ("none: …").
    """

    estimate: float
    low: float
    high: float
    n: int
    missing: int
    level: float
    method: str
    seed: int | None

    @property
    def ends(self) -> dict[str, float]:
        """estimate, low, high and n: what tables and claims hold of it."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high, "n": self.n}

    def _limited(self, low: float, high: float, method: str) -> "Interval":
        return self._replace(low=float(low), high=float(high), method=method)


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
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of one value a prompt, with its interval.

    Student's interval with its quantiles bent by the skewness of the values (Hall's). Shares of yes and no take
    Wilson's interval, which stays honest at 0 and 100 %; shares of several samples a prompt, or of prompts that
    share an item, take it at the number of independent answers that would know as much. `share=None` means: a share
    if every value is 0 or 1. Say `share=False` for a rating whose lowest mark is 1. Equal values that are no share
    have no spread to go by and no interval. Nothing is drawn: `resamples` and `seed` are those of the other functions.

    >>> interval = mean_interval([0, 0, 0, 0])
    >>> interval.low, round(interval.high, 3), interval.n, interval.method
    (0.0, 0.49, 4, 'wilson')
    """
    everything = np.asarray(values, dtype=float)
    if everything.ndim != 1:
        raise ValueError(f"mean_interval wants one value a prompt, in one dimension; got {everything.shape}")
    is_known = ~np.isnan(everything)
    data, items = everything[is_known], _numbered(clusters, is_known)
    n = len(data)
    count = n if items is None else int(items.max()) + 1
    found = Interval(
        float(data.mean()) if n else np.nan, np.nan, np.nan, n, len(everything) - n, level, "", None
    )
    if n == 0:
        return found._replace(method="none: no value")
    is_binary = bool(np.isin(data, (0, 1)).all())
    share = is_binary if share is None else share
    if share and (data.min() < 0 or data.max() > 1):
        raise ValueError(f"a share lies between 0 and 1; found {data.min()} to {data.max()}")
    if share and is_binary and items is None:
        return found._limited(*_closed.wilson(data.sum(), n, level), "wilson")
    if count == 1:
        return found._replace(method="none: one prompt" if items is None else "none: one item")
    each = _closed.by_cluster(data, items)
    if share:
        variance = float(each.var(ddof=1) / count)
        answers = _closed.effective(data.mean(), variance, count, level, most=n if is_binary else np.inf)
        limits, method = _closed.wilson(data.mean() * answers, answers, level), "wilson, effective"
    elif _are_equal(each):
        return found._replace(method="none: all equal")
    else:
        limits, method = _closed.skewed_mean(each, level), "t, skewed"
    return found._limited(*limits, method + _of(items, count))


def difference_interval(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of a − b over the same prompts, with an interval that agrees with its test at 1 − level.

    Arrays pair by position, two Series by their index. Yes/no answers take Tango's score interval, whose nearer limit
    is 0 where the exact McNemar test does not tell the two apart; others take all the differences that
    `permutation_test` (with the same seed) would not reject. So 0 is outside if and only if p ≤ 1 − level; a limit of
    exactly 0 is inside. Under six prompts (or items) no such test rejects anything, so that only yes/no answers
    have an interval; equal differences that are no yes and no have none.

    >>> found = difference_interval([1] * 5 + [0] * 45, [0] * 50)      # p = 0.06
    >>> found.low, round(found.high, 2), found.method
    (0.0, 0.21, 'tango, mcnemar')
    """
    a, b, missing, items = _paired(a, b, clusters)
    difference = a - b
    n, estimate = len(a), float((a - b).mean()) if len(a) else np.nan
    count = n if items is None else int(items.max()) + 1 if n else 0
    found = Interval(estimate, np.nan, np.nan, n, missing, level, "", None)
    if count < 2:
        reason = "no pair" if n == 0 else "one pair" if items is None else "one item"
        return found._replace(method=f"none: {reason}")
    is_binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    if not is_binary and 0.5 ** (count - 1) > 1 - level:
        return found._replace(method=f"none: {count} {'prompts' if items is None else 'items'} are too few")
    if not is_binary and _are_equal(difference):
        return found._replace(method="none: all equal")
    p_value, _, drawn = _permutation(difference, items, resamples, seed)
    if is_binary:
        limits = _tango(difference, items, count, level)
        method = "tango, mcnemar" if items is None else "tango, permutation"
    else:
        limits, method = mean_ends(*_totals(difference, items), resamples, seed, level), "permutation"
    limits = _agreeing(*limits, estimate, p_value <= round(1 - level, 12))
    return found._limited(*limits, method + _of(items, count))._replace(seed=drawn)


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
        reason = "none: one prompt" if n else "none: no value"
        return Interval(estimate, np.nan, np.nan, n, missing, level, reason, None)
    low, high, method = bootstrap(tuple(data), statistic, level, resamples, seed)
    return Interval(float(statistic(*data, axis=-1)), low, high, n, missing, level, method, seed)


def wilson_interval(successes: float, n: int, *, level: float = 0.95) -> Interval:
    """Share of successes among n, with Wilson's score interval.

    >>> wilson_interval(10, 200).low.__round__(3), wilson_interval(10, 200).high.__round__(3)
    (0.027, 0.09)
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n; got {successes} of {n}")
    low, high = _closed.wilson(successes, n, level)
    return Interval(successes / n if n else np.nan, low, high, n, 0, level, "wilson", None)


def permutation_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Test:
    """Paired permutation test that a and b have the same mean: the sign of each difference is exchangeable.

    With `clusters` the sign of an item's differences together. Exact when all 2**n signings of what differs are no more
    than `resamples`, or differ by equal steps as yes/no answers do (it is McNemar's exact test then); else a random
    sample of them, with the observed one counted in, so p is never 0. Pairing as in `difference_interval`.

    >>> permutation_test([1, 2, 3, 4], [0, 0, 0, 0]).p_value     # 2 of 16 signings are as extreme
    0.125
    """
    a, b, missing, items = _paired(a, b, clusters)
    if not len(a):
        return Test(np.nan, np.nan, 0, missing, "permutation", None)
    p_value, method, drawn = _permutation(a - b, items, resamples, seed)
    return Test(float((a - b).mean()), p_value, len(a), missing, method, drawn)


def mcnemar_test(a: ArrayLike, b: ArrayLike) -> Test:
    """Exact McNemar test on paired yes/no answers: among the disagreements, is either side favoured?

    >>> mcnemar_test([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]).p_value
    0.0625
    """
    a, b, missing, _ = _paired(a, b)
    if not np.isin(np.concatenate([a, b]), (0, 1)).all():
        raise ValueError(
            "McNemar's test wants one yes (1) or no (0) a prompt; means of samples take permutation_test"
        )
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    if not len(a):
        return Test(np.nan, np.nan, 0, missing, "mcnemar, exact", None)
    return Test(
        float((a - b).mean()), _closed.mcnemar(only_a, only_b), len(a), missing, "mcnemar, exact", None
    )


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
    return _adjusted(p_values, stats.false_discovery_control)


def _of(items: np.ndarray | None, count: int) -> str:
    return "" if items is None else f" of {count} items"


def _are_equal(values: np.ndarray) -> bool:
    return np.ptp(values) <= 1e-12 * np.abs(values).max()


def _permutation(
    difference: np.ndarray, items: np.ndarray | None, resamples: int, seed: int
) -> tuple[float, str, int | None]:
    """(p-value, method, seed): the sign test of the items' sums; those that are 0 keep it whatever their sign."""
    sums, sizes = _totals(difference, items)
    of_items = "" if items is None else " of items"
    differing = sums[np.abs(sums) > 1e-12 * np.abs(sums).max(initial=0)]
    steps = np.abs(differing)
    if len(differing) == 0 or np.ptp(steps) <= 1e-12 * steps.max():
        wins = int((differing > 0).sum())
        return _closed.mcnemar(wins, len(differing) - wins), f"permutation{of_items}, exact", None
    signed, _, is_exact = signed_sums(sums, sizes, resamples, seed)
    # a rounding error apart is a tie
    extreme = int((np.abs(signed) >= abs(sums.sum()) - 1e-12 * steps.sum()).sum())
    if is_exact:
        return extreme / len(signed), f"permutation{of_items}, exact", None
    return (extreme + 1) / (len(signed) + 1), f"permutation{of_items}, {resamples} drawn", seed


def _tango(difference: np.ndarray, items: np.ndarray | None, count: int, level: float) -> tuple[float, float]:
    """Tango's limits; with items at the number of independent pairs that would know the difference as well."""
    n, only_a, only_b = len(difference), float((difference > 0).sum()), float((difference < 0).sum())
    if items is None:
        return _closed.tango(only_a, only_b, n, level)
    alone = difference.var() / n
    together = _closed.by_cluster(difference, items).var(ddof=1) / count
    inflated = max(together / alone, 1.0) if alone > 0 else n / count
    return _closed.tango(only_a / inflated, only_b / inflated, n / inflated, level)


def _agreeing(low: float, high: float, estimate: float, is_told: bool) -> tuple[float, float]:
    """The limits, with the nearer one moved so that 0 is outside exactly if a test tells the two apart."""
    if not is_told:
        return min(low, 0.0), max(high, 0.0)
    if low <= 0 <= high:
        smallest = float(np.nextafter(0, estimate))
        return (smallest, high) if estimate > 0 else (low, smallest)
    return low, high


def _totals(difference: np.ndarray, items: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and size of each cluster; each prompt is its own without items."""
    if items is None:
        return difference, np.ones(len(difference))
    return np.bincount(items, difference), np.bincount(items).astype(float)


def _numbered(clusters: ArrayLike | None, kept: np.ndarray) -> np.ndarray | None:
    """The items of the kept prompts as numbers from 0; None if no two prompts share one."""
    if clusters is None or not kept.any():
        return None
    labels = np.asarray(clusters, dtype=object)
    if labels.shape != kept.shape:
        raise ValueError(f"clusters name the item of each prompt; got {labels.shape} for {kept.shape}")
    if pd.isna(labels[kept]).any():
        raise ValueError(
            "clusters: a prompt with a value has no item; name one for each prompt, or leave clusters out"
        )
    numbers, names = pd.factorize(labels[kept])
    return None if len(names) == len(numbers) else numbers


def _paired(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, int, np.ndarray | None]:
    """The pairs with both values, as float arrays, the number of those without, and the items of the pairs."""
    if isinstance(a, pd.Series) and isinstance(b, pd.Series):
        for side, series in (("a", a), ("b", b)):
            if series.index.has_duplicates:
                twice = series.index[series.index.duplicated()].unique()
                raise ValueError(
                    f"{side} has several values for {len(twice)} prompts, such as {twice[0]!r};"
                    " average the samples of a prompt first (per_prompt does)"
                )
        a, b = a.align(b)
        if isinstance(clusters, pd.Series):
            clusters = clusters.reindex(a.index)
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired values have one shape, one value a prompt; got {a.shape} and {b.shape}")
    kept = ~(np.isnan(a) | np.isnan(b))
    return a[kept], b[kept], int((~kept).sum()), _numbered(clusters, kept)


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
