"""The arithmetic under `statistics`: resampling in blocks of bounded memory, and a few closed formulas."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats
from scipy.optimize import brentq

BLOCK = 1 << 22  # elements of a resampled block: some 32 MB


def bootstrap(
    samples: tuple[np.ndarray, ...], statistic: Callable, level: float, resamples: int, seed: int
) -> tuple[float, float, str]:
    """(low, high, method): BCa for one sample, percentile for several or where BCa has no answer."""
    batch = max(1, BLOCK // samples[0].size)

    def run(method: str) -> tuple[float, float, str]:
        found = stats.bootstrap(
            samples,
            statistic,
            n_resamples=resamples,
            confidence_level=level,
            paired=len(samples) > 1,
            vectorized=True,
            batch=batch,
            method=method,
            rng=seed,
        ).confidence_interval
        return float(found.low), float(found.high), method.lower()

    if len(samples) == 1:
        with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
            warnings.simplefilter("ignore", category=stats.DegenerateDataWarning)  # answered just below
            result = run("BCa")
        if np.isfinite(result[:2]).all():
            return result
    return run("percentile")


def wilson(successes: float, n: int, level: float) -> tuple[float, float]:
    """Wilson's score interval; `successes` may be a fraction, when prompts are means of samples."""
    if n == 0:
        return np.nan, np.nan
    z = stats.norm.ppf((1 + level) / 2)
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low = centre - half if successes > 0 else 0.0  # exact at the ends, whatever the rounding
    high = centre + half if successes < n else 1.0
    return float(low), float(high)


def every_signing(n: int) -> Iterator[np.ndarray]:
    """All 2**n rows of n signs, in blocks."""
    rows = max(1, BLOCK // n)
    for start in range(0, 2**n, rows):
        numbers = np.arange(start, min(start + rows, 2**n))[:, None]
        yield 1.0 - 2.0 * (numbers >> np.arange(n) & 1)


def random_signings(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // n)
    for start in range(0, resamples, rows):
        yield 1.0 - 2.0 * rng.integers(0, 2, size=(min(rows, resamples - start), n), dtype=np.int8)


def resampled_sums(tables: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Sums of the rows of `tables` (cluster, k) over resampled clusters, in blocks of (draw, k)."""
    rng = np.random.default_rng(seed)
    n = len(tables)
    rows = max(1, BLOCK // max(n, tables.shape[1]))
    for start in range(0, resamples, rows):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(rows, resamples - start)) @ tables


def strengths(wins: np.ndarray, *, tolerance: float = 1e-10, most: int = 10_000) -> np.ndarray:
    """Bradley–Terry log strengths of each (draw, winner, loser) table, by Hunter's MM steps, mean 0."""
    games = wins + wins.transpose(0, 2, 1)
    won = wins.sum(axis=2)
    strength = np.ones_like(won)
    for _ in range(most):
        sums = strength[:, :, None] + strength[:, None, :]
        updated = won / (games / sums).sum(axis=2)
        updated /= np.exp(np.log(updated).mean(axis=1, keepdims=True))
        moved = np.abs(updated / strength - 1).max()
        strength = updated
        if moved < tolerance:
            return np.log(strength)
    raise ValueError(f"Bradley–Terry did not settle in {most} steps; the verdicts are nearly one-sided")


def strength_at(share: float, games: np.ndarray, estimate: np.ndarray, i: int) -> float:
    """Log strength (mean 0) at which model i takes this share of its games, the others' distances held.

    `games`: how many with each model. Infinite for a share of 0 or 1.
    """
    if not 1e-12 < share < 1 - 1e-12:
        return np.inf if share > 0.5 else -np.inf

    def surplus(strength: float) -> float:
        return float((games / (1 + np.exp(estimate - strength))).sum() - share * games.sum())

    found = brentq(surplus, estimate.min() - 50, estimate.max() + 50)
    moved = estimate.copy()
    moved[i] = found
    return found - moved.mean()


def kappa(tables: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Kappa of each (draw, label of a, label of b) table of counts."""
    n = tables.sum(axis=(1, 2))
    expected = tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :] / n[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (tables * penalty).sum(axis=(1, 2)) / (expected * penalty).sum(axis=(1, 2))
