"""How often the intervals of `evaluation.statistics` hold the truth, and how wide they are.

    python benchmarks/interval_coverage.py                 # all tables, some minutes on two cores
    python benchmarks/interval_coverage.py shares kappas   # some of them

Enumerated where the outcomes can be counted (shares, paired differences, kappa of 40 replies), else 20,000 simulations
(a standard error of 0.0015 at 0.95). The last column says whether the level of the plan is reached.
"""

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from chatvec_lab.evaluation import statistics as s
from chatvec_lab.evaluation.statistics import _closed, judgements

SIMULATIONS = 20_000
SIZES = (15, 40, 200)


def shares(sizes=SIZES, truths=(0.02, 0.1, 0.5, 0.9)) -> pd.DataFrame:
    """A single share, by enumeration."""
    rows = []
    for n in sizes:
        found = [s.wilson_interval(k, n) for k in range(n + 1)]
        for truth in truths:
            weights = stats.binom.pmf(np.arange(n + 1), n, truth)
            rows.append({"n": n, "truth": truth} | _weighed(found, truth, weights))
    return _table(rows, 0.93)


def differences(
    sizes=SIZES, disagreements=((0.02, 0), (0.1, 0.02), (0.1, 0.1), (0.5, 0.02), (0.45, 0.45))
) -> pd.DataFrame:
    """A paired difference of yes/no answers, by enumeration; disagreements: only the one, only the other says yes."""
    rows = []
    for n in sizes:
        outcomes = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
        found = [s.difference_interval(*answers(b, c, n)) for b, c in outcomes]
        counts = np.array([(b, c, n - b - c) for b, c in outcomes])
        for one, other in disagreements:
            weights = stats.multinomial.pmf(counts, n, [one, other, 1 - one - other])
            rows.append({"n": n, "truth": f"{one} against {other}"} | _weighed(found, one - other, weights))
    return _table(rows, 0.93)


def answers(b: int, c: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Yes/no answers of two models to n prompts: b times only the first says yes, c times only the second."""
    ours, theirs = np.zeros(n), np.zeros(n)
    ours[:b], theirs[b : b + c] = 1, 1
    return ours, theirs


MEANS: dict[str, tuple[Callable, float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "log-normal, sd of the log 1": (lambda rng, n: rng.lognormal(size=n), float(np.exp(0.5))),
    "ratings 1 to 10": (lambda rng, n: rng.binomial(9, 0.7, size=n) + 1.0, 7.3),
    "ratings, many 10": (
        lambda rng, n: rng.choice([2.0, 5, 8, 9, 10], p=[0.1, 0.1, 0.2, 0.2, 0.4], size=n),
        8.1,
    ),
}


def means(sizes=(40, 200), simulations=SIMULATIONS, seed=0) -> pd.DataFrame:
    """Means of scores that are no shares, and the mean of paired differences of ratings."""
    rng, rows = np.random.default_rng(seed), []
    for n in sizes:
        for name, (draw, truth) in MEANS.items():
            found = [s.mean_interval(draw(rng, n), share=False) for _ in range(simulations)]
            rows.append({"n": n, "truth": name} | _weighed(found, truth))
        found = []
        for _ in range(simulations):  # each signs 999 times
            common = rng.binomial(9, 0.7, size=n)
            pair = (np.clip(common + rng.integers(-2, 3, size=n), 0, 9) for _ in range(2))
            found.append(s.difference_interval(*pair, resamples=999))
        rows.append({"n": n, "truth": "difference of ratings"} | _weighed(found, 0.0))
    return _table(rows, 0.92)


def items(sizes=(40, 200), simulations=SIMULATIONS, seed=0) -> pd.DataFrame:
    """Shares and paired differences where each item has three prompts that fare alike; n counts items."""
    rng, rows = np.random.default_rng(seed), []
    for n in sizes:
        clusters = np.repeat(np.arange(n), 3)
        for truth in (0.1, 0.5):
            chances = rng.beta(
                truth, 1 - truth, size=(simulations, n)
            )  # correlated within an item by one half
            drawn = rng.random((simulations, 3 * n)) < np.repeat(chances, 3, axis=1)
            found = [s.mean_interval(row, clusters=clusters) for row in drawn.astype(float)]
            rows.append({"n": n, "truth": f"share {truth}"} | _weighed(found, truth))
        for gain in (0.0, 0.2):
            found = []
            for _ in range(simulations):
                chance = rng.beta(0.4, 0.4, size=n)
                ours, theirs = (
                    rng.random(3 * n) < np.repeat(p, 3) for p in (chance * (1 - gain) + gain, chance)
                )
                pair = (ours.astype(float), theirs.astype(float))
                found.append(s.difference_interval(*pair, clusters=clusters, resamples=999))
            rows.append({"n": n, "truth": f"difference {gain / 2}"} | _weighed(found, gain / 2))
    return _table(rows, 0.92)


def kappas(sizes=(40, 200), simulations=SIMULATIONS, seed=0) -> pd.DataFrame:
    """Kappa of two labels (by enumeration at 40, where it is defined) and of four ordered ones."""
    rng, rows = np.random.default_rng(seed), []
    for n in sizes:
        every = _tables(n) if n <= 40 else None
        enumerated = None if every is None else [_kappa(row, 2) for row in every]
        for often in (0.5, 0.7, 0.9):
            for truth in (0.6, 0.9, 0.95, 0.99):
                apart = (1 - truth) * often * (1 - often)
                cells = np.array([often - apart, apart, apart, 1 - often - apart])
                if every is not None:
                    found, weights = enumerated, stats.multinomial.pmf(every, n, cells)
                else:
                    drawn, weights = np.unique(
                        rng.multinomial(n, cells, simulations), axis=0, return_counts=True
                    )
                    found = [_kappa(row, 2) for row in drawn]
                rows.append(
                    {"n": n, "truth": f"{truth}, one label {often}"} | _weighed(found, truth, weights)
                )
        for kind, truth in ((None, 0.8), ("quadratic", 0.8), ("quadratic", 0.97)):
            cells = (truth * np.eye(4) + (1 - truth) / 4) / 4  # equally frequent labels, alike or by chance
            found = [_kappa(row, 4, kind) for row in rng.multinomial(n, cells.ravel(), simulations)]
            rows.append(
                {"n": n, "truth": f"{truth}, four labels, {kind or 'no'} weights"} | _weighed(found, truth)
            )
    return _table(rows, 0.92)


def strengths(sizes=(40, 200), simulations=SIMULATIONS, seed=0) -> pd.DataFrame:
    """Strengths of two and of three models, without ties and with up to 0.3; each prompt is judged once a pair."""
    rng, rows = np.random.default_rng(seed), []
    for n in sizes:
        for truth in ((0.0, 0.0), (0.6, -0.6), (1.5, -1.5), (0.8, 0.0, -0.8)):
            for ties in (0.0, 0.3):
                true = np.array(truth)
                ends = np.array(
                    [judgements.strengths(_wins(rng, true, n, ties), 0.95)[1:3] for _ in range(simulations)]
                )
                low, high = ends[:, 0], ends[:, 1]
                width = (high - low)[np.isfinite(high - low)].mean()
                holds = ((low <= true) & (true <= high)).mean()
                rows.append({"n": n, "truth": f"{truth}, ties {ties}", "coverage": holds, "width": width})
    return _table(rows, 0.92)


def agreement(most=60, larger=10_000, seed=0) -> pd.DataFrame:
    """Is 0 outside the interval of a paired difference exactly where the test's p is at most .05?"""
    rng = np.random.default_rng(seed)
    tables = [(b, c, n) for n in range(2, most + 1) for b in range(n + 1) for c in range(n + 1 - b)]
    for _ in range(larger):
        n = int(rng.integers(most + 1, 2000))
        b = int(rng.integers(0, n + 1))
        tables.append((b, int(min(n - b, max(0, b + rng.integers(-60, 61)))), n))
    wrong = [table for table in tables if not agrees(*table)]
    return pd.DataFrame([{"tables": len(tables), "disagree": len(wrong), "first": str(wrong[:3])}])


def agrees(b: int, c: int, n: int) -> bool:
    ours, theirs = answers(b, c, n)
    found = s.difference_interval(ours, theirs)
    return (not found.low <= 0 <= found.high) == (s.mcnemar_test(ours, theirs).p_value <= 0.05)


def _wins(rng: np.random.Generator, truth: np.ndarray, n: int, ties: float) -> np.ndarray:
    """(prompt, winner, loser) points, with this share of ties, or as many as such strengths leave room for."""
    wins = np.zeros((n, len(truth), len(truth)))
    for i in range(len(truth)):
        for j in range(i):
            chance = 1 / (1 + np.exp(truth[j] - truth[i]))
            # a tie is half a win each, so the rest favours the better model more, to leave the mean where it is
            equal = min(ties, 1.8 * min(chance, 1 - chance))
            rest = (chance - equal / 2) / (1 - equal)
            wins[:, i, j] = np.where(rng.random(n) < equal, 0.5, rng.random(n) < rest)
            wins[:, j, i] = 1 - wins[:, i, j]
    return wins


def _tables(n: int) -> np.ndarray:
    """Every way to put n replies into four cells."""
    return np.array(
        [
            (i, j, k, n - i - j - k)
            for i in range(n + 1)
            for j in range(n + 1 - i)
            for k in range(n + 1 - i - j)
        ]
    )


def _kappa(cells: np.ndarray, size: int, weights: str | None = None) -> tuple[float, float]:
    """What `cohen_kappa` finds for a table of single replies, without building its labels."""
    places = np.repeat(np.arange(size * size), cells)
    tables = np.zeros((len(places), size * size))
    tables[np.arange(len(places)), places] = 1
    tables = tables.reshape(-1, size, size)
    seen = (cells.reshape(size, size).sum(0) + cells.reshape(size, size).sum(1)) > 0
    labels = np.flatnonzero(seen)
    tables = tables[:, labels][:, :, labels]
    penalty = 1.0 - np.eye(len(labels)) if weights is None else np.subtract.outer(labels, labels) ** 2.0
    if np.isnan(_closed.kappa(tables.sum(0), penalty)):
        return np.nan, np.nan
    return _closed.kappa_limits(tables, penalty, 0.95)


def _weighed(found: list, truth: float, weights: np.ndarray | None = None) -> dict:
    """Coverage and mean width over the outcomes that have an interval."""
    weights = np.ones(len(found)) if weights is None else weights
    low, high = np.array([f if isinstance(f, tuple) and len(f) == 2 else (f.low, f.high) for f in found]).T
    everything = weights.sum()
    weights = np.where(np.isnan(low), 0, weights)
    holds = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
    none = 1 - weights.sum() / everything
    return {
        "coverage": weights[holds].sum() / weights.sum(),
        "width": np.nansum(weights * (high - low)) / weights.sum(),
        "no_interval": none,
    }


def _table(rows: list[dict], wanted: float) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return table.assign(wanted=wanted, reached=table.coverage >= wanted)


TABLES = {f.__name__: f for f in (shares, differences, means, items, kappas, strengths, agreement)}

if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in TABLES]
    if unknown:
        sys.exit(f"no table {', '.join(unknown)}; there are {', '.join(TABLES)}")
    for name in sys.argv[1:] or TABLES:
        print(
            f"\n{name}: {TABLES[name].__doc__}\n{TABLES[name]().round(4).to_string(index=False)}", flush=True
        )
