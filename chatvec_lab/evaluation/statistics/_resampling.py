"""The drawing under `statistics`: resampling and signing in blocks of bounded memory."""

import functools
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

BLOCK = 1 << 22  # elements of a resampled block: some 32 MB


def bootstrap(
    samples: tuple[np.ndarray, ...], statistic: Callable, level: float, resamples: int, seed: int
) -> tuple[float, float, str]:
    """(low, high, method): BCa for one sample, percentile for several or where BCa has no answer."""
    options = {
        "n_resamples": resamples,
        "confidence_level": level,
        "paired": len(samples) > 1,
        "vectorized": True,
    }
    options["batch"] = max(1, BLOCK // samples[0].size)

    def run(method: str) -> tuple[float, float, str]:
        found = stats.bootstrap(samples, statistic, method=method, rng=seed, **options).confidence_interval
        return float(found.low), float(found.high), method.lower()

    if len(samples) == 1:
        with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
            warnings.simplefilter("ignore", category=stats.DegenerateDataWarning)  # answered just below
            result = run("BCa")
        if np.isfinite(result[:2]).all():
            return result
    return run("percentile")


def signed_sums(
    sums: np.ndarray, sizes: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The sums and the sizes of clusters under signings of the clusters, and whether these are all there are."""
    n = len(sums)
    is_exact = n < 60 and 2**n <= resamples
    blocks = every_signing(n) if is_exact else random_signings(n, resamples, seed)
    both = np.stack([sums, sizes], axis=1).astype(float)
    found = np.concatenate([signs @ both for signs in blocks])
    return found[:, 0], found[:, 1], is_exact


def every_signing(n: int) -> Iterator[np.ndarray]:
    """All 2**n rows of n signs, in blocks."""
    rows = max(1, BLOCK // n)
    for start in range(0, 2**n, rows):
        numbers = np.arange(start, min(start + rows, 2**n))[:, None]
        yield 1.0 - 2.0 * (numbers >> np.arange(n) & 1)


def random_signings(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    kept = _drawn_signings if n * resamples > BLOCK else _kept_signings
    return (block.astype(float) for block in kept(n, resamples, seed))


def _drawn_signings(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // n)
    for start in range(0, resamples, rows):
        yield 1 - 2 * rng.integers(0, 2, size=(min(rows, resamples - start), n), dtype=np.int8)


@functools.lru_cache(maxsize=8)  # a study compares many measures over the same prompts
def _kept_signings(n: int, resamples: int, seed: int) -> list[np.ndarray]:
    return list(_drawn_signings(n, resamples, seed))


def mean_ends(
    sums: np.ndarray, sizes: np.ndarray, resamples: int, seed: int, level: float
) -> tuple[float, float]:
    """The means that a sign test of the clusters would not reject at 1 − level: its inversion (Hartigan 1969).

    A signing is as extreme as what was seen for all means between those of its two halves.
    """
    total, n = sums.sum(), sizes.sum()
    signed, signed_sizes, is_exact = signed_sums(sums, sizes, resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        halves = np.stack([(total - signed) / (n - signed_sizes), (total + signed) / (n + signed_sizes)])
    lows, highs = halves.min(0), halves.max(0)
    lows[np.isnan(lows)], highs[np.isnan(highs)] = -np.inf, np.inf  # one half is empty: always as extreme
    drawn = len(lows)
    rejected = (1 - level) * drawn if is_exact else (1 - level) * (drawn + 1) - 1  # with the observed one
    place = int(np.floor(round(rejected, 9)))
    return float(np.sort(lows)[place]), float(np.sort(highs)[drawn - 1 - place])


def resampled_sums(tables: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Sums of the rows of `tables` (cluster, k) over resampled clusters, in blocks of (draw, k)."""
    rng = np.random.default_rng(seed)
    n = len(tables)
    rows = max(1, BLOCK // max(n, tables.shape[1]))
    for start in range(0, resamples, rows):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(rows, resamples - start)) @ tables
