"""The closed formulas under `statistics`: nothing here draws, so all of it is fast and repeats exactly."""

import functools

import numpy as np
from scipy import special
from scipy.optimize import brentq


def z_of(level: float) -> float:
    """The normal quantile of a two-sided interval."""
    return float(special.ndtri((1 + level) / 2))


def t_of(level: float, freedom: int) -> float:
    """Student's quantile of a two-sided interval."""
    return float(special.stdtrit(freedom, (1 + level) / 2))


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided p-value of b against c disagreements."""
    return min(1.0, 2 * float(special.bdtr(min(b, c), b + c, 0.5)))


def wilson(successes: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's score interval; `successes` and `n` may be fractions, when prompts are means of samples."""
    if n == 0:
        return np.nan, np.nan
    z = z_of(level)
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low = centre - half if successes > 0 else 0.0  # exact at the ends, whatever the rounding
    high = centre + half if successes < n else 1.0
    return float(low), float(high)


def effective(share: float, variance: float, clusters: int, level: float, most: float = np.inf) -> float:
    """The number of independent yes and no answers that would know a share as well (Korn and Graubard 1998).

    `variance` is that of the share, from this many clusters: few know their own variance badly, hence Student's t.
    Where there is no spread to go by, each cluster counts once.
    """
    spread = share * (1 - share)
    if spread < 1e-12 or variance < 1e-15:
        return min(clusters, most)
    return min(spread / variance, most) * (z_of(level) / t_of(level, clusters - 1)) ** 2


def by_cluster(values: np.ndarray, clusters: np.ndarray | None) -> np.ndarray:
    """One number a cluster with the mean of `values` as their mean, and its variance by clusters as theirs."""
    if clusters is None:
        return values
    sums, sizes = np.bincount(clusters, values), np.bincount(clusters)
    mean = values.mean()
    return mean + len(sums) * (sums - mean * sizes) / len(values)


def skewed_mean(values: np.ndarray, level: float) -> tuple[float, float]:
    """Student's interval of a mean, its quantiles bent by the skewness of the values (Hall 1992, the cubic form)."""
    n, mean = len(values), values.mean()
    scale = np.abs(values - mean).max()  # so that no power runs out of the floats
    apart = (values - mean) / scale
    skewness = (apart**3).mean() / apart.std() ** 3
    limits = []
    for sign in (1, -1):
        y = sign * t_of(level, n - 1) / np.sqrt(n)
        if abs(skewness) > 1e-9:
            y = 3 * (np.cbrt(1 + skewness * (y - skewness / (6 * n))) - 1) / skewness
        limits.append(float(mean - scale * apart.std(ddof=1) * y))
    return limits[0], limits[1]


@functools.lru_cache(maxsize=4096)
def tango(b: float, c: float, n: float, level: float) -> tuple[float, float]:
    """Score interval of a paired difference (b − c) / n of shares (Tango 1998); b and c disagree either way."""
    z = z_of(level)
    middle = (b - c) / n

    def score(d: float) -> float:
        linear = (2 * n - b + c) * d - b - c
        root = np.sqrt(max(linear * linear + 8 * n * c * d * (1 - d), 0.0))
        variance = n * ((root - linear) / (2 * n) + d * (1 - d))
        return (n * (middle - d)) / np.sqrt(max(variance, 1e-300))

    low = brentq(lambda d: score(d) - z, -1.0, middle, xtol=1e-13) if middle > -1 else -1.0
    high = brentq(lambda d: score(d) + z, middle, 1.0, xtol=1e-13) if middle < 1 else 1.0
    return float(low), float(high)


def kappa(table: np.ndarray, penalty: np.ndarray) -> float:
    """Kappa of a table of counts (label of a, label of b); NaN where chance explains everything."""
    n = table.sum()
    expected = np.outer(table.sum(1), table.sum(0)) / n
    chance = (expected * penalty).sum()
    return float(1 - (table * penalty).sum() / chance) if chance > 0 else np.nan


def kappa_limits(tables: np.ndarray, penalty: np.ndarray, level: float) -> tuple[float, float]:
    """Limits of kappa from the (cluster, label of a, label of b) counts of at least two clusters.

    1 − kappa is a share of disagreement (the mean penalty) over what chance would give. The share has Wilson's
    limits, at the number of answers that would know it as well as the clusters know this ratio; at most as many as
    there are. With three disagreements or fewer its lower limit is Poisson's, where Wilson's is too high.
    """
    total, most = tables.sum(0), penalty.max()
    n, clusters = total.sum(), len(tables)
    p = total / n
    rows, columns = p.sum(1), p.sum(0)
    share = (p * penalty).sum() / most
    chance = (np.outer(rows, columns) * penalty).sum() / most
    against_rows, against_columns = penalty @ columns / most, rows @ penalty / most
    ratio = share / chance
    moved = penalty / most - share - ratio * (against_rows[:, None] + against_columns - 2 * chance)
    moves = (tables * moved).sum((1, 2)) / n  # what each cluster adds to the share, chance held
    variance = (moves**2).sum() * clusters / (clusters - 1)
    n = effective(share, variance, clusters, level, most=n)
    low, high = wilson(share * n, n, level)
    if 0 < share * n <= 3:
        low = min(low, float(special.gammaincinv(share * n, 1 - level)) / n)
    return 1 - high / chance, 1 - low / chance
