"""What judges' verdicts come to: the strengths of models from pairwise ones, and how far two judges agree."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from chatvec_lab.evaluation._frames import require
from chatvec_lab.evaluation.statistics._closed import kappa, kappa_limits, t_of, wilson, z_of
from chatvec_lab.evaluation.statistics.intervals import RESAMPLES, Interval


def bradley_terry(
    judgements: pd.DataFrame,
    *,
    prompt: str = "prompt_id",
    item: str = "item",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Strength of each model from pairwise judgements, with intervals over prompts.

    `judgements`: a row a verdict; columns `prompt`, `a`, `b` (names of models) and `score`, the points of
    a: 1 won, 0 lost, 0.5 a tie (half a win each), NaN no verdict (left out, counted in `missing`). Prompts that share
    a value of the column `item`, where there is one, are one cluster.
    Strengths are natural logarithms with mean 0: P(a beats b) = 1 / (1 + exp(strength_b − strength_a)).
    Each compared pair gets half a win a side beforehand, which keeps an unbeaten model finite. The standard error is the
    larger of the model's own and of the one that the prompts show (a sandwich). A model that won or lost everything
    (`method` "wilson") has as its limits the strengths at Wilson's limits of its share of the points, the others held:
    that of an unbeaten model is infinite. Nothing is drawn: `resamples` and `seed` are those of the other functions.
    Columns: model, estimate, low, high, n (prompts), missing (verdicts), level, method, seed.
    Models that no chain of verdicts connects cannot be ordered: a ValueError.
    """
    told = _told(judgements, prompt)
    models = sorted(set(told["a"]) | set(told["b"]))
    size = len(models)
    a, b = (told[side].map({m: i for i, m in enumerate(models)}).to_numpy() for side in "ab")
    cluster, names = pd.factorize(told[item if item in told else prompt])
    wins = np.zeros((len(names), size, size))  # (cluster, winner, loser)
    np.add.at(wins, (cluster, a, b), told["score"].to_numpy(dtype=float))
    np.add.at(wins, (cluster, b, a), 1 - told["score"].to_numpy(dtype=float))
    _check_connected(wins.sum(axis=0), models)
    estimate, low, high, one_sided = strengths(wins, level)
    result = pd.DataFrame({"model": models, "estimate": estimate, "low": low, "high": high})
    missing, method = len(judgements) - len(told), np.where(one_sided, "wilson", "larger of two errors")
    return result.assign(n=told[prompt].nunique(), missing=missing, level=level, method=method, seed=None)


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
    """Agreement of two judges beyond chance (1 full, 0 as by chance), with its interval.

    `a` and `b` hold the labels of the same replies; `clusters` their prompts (None: each is its own).
    `weights` forgives near misses of numeric ratings: "quadratic" and "linear" need numbers. The interval is
    Wilson's of the share of disagreement over chance (`kappa_limits`): full agreement on n replies does not prove that
    the judges always agree. n counts clusters. Where all labels are one, chance explains everything: NaN. Nothing is
    drawn: `resamples` and `seed` are those of the other functions.

    >>> found = cohen_kappa([1] * 20 + [0] * 20, [1] * 20 + [0] * 20)
    >>> found.estimate, round(found.low, 2), found.high
    (1.0, 0.82, 1.0)
    """
    if weights not in (None, "linear", "quadratic"):
        raise ValueError(f"weights={weights!r}: choose None, 'linear' or 'quadratic'")
    # as lists: numpy would make the word "nan" of a missing label among words
    frame = pd.DataFrame({"a": list(a), "b": list(b)})
    frame["cluster"] = np.arange(len(frame)) if clusters is None else np.asarray(clusters)
    kept = frame.dropna(subset=["a", "b"])
    found = Interval(
        np.nan, np.nan, np.nan, 0, len(frame) - len(kept), level, "none: no pair of labels", None
    )
    if kept.empty:
        return found
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
    found = found._replace(estimate=kappa(tables.sum(axis=0), penalty), n=len(names))
    if np.isnan(found.estimate) or len(names) < 2:
        reason = "all labels are one" if np.isnan(found.estimate) else "one cluster"
        return found._replace(method=f"none: {reason}")
    return found._limited(*kappa_limits(tables, penalty, level), "wilson of disagreement")


def _told(judgements: pd.DataFrame, prompt: str) -> pd.DataFrame:
    """The rows with a verdict, checked."""
    require(judgements, (prompt, "a", "b", "score"))
    told = judgements[judgements["score"].notna()]
    if told.empty:
        raise ValueError(f"no verdict among {len(judgements)} judgements: nothing to order")
    if not told["score"].between(0, 1).all():
        raise ValueError(
            f"score is the share of the win that a takes, 0 to 1; found {sorted(set(told['score']))}"
        )
    if (told["a"] == told["b"]).any():
        raise ValueError("a model cannot be compared with itself; rows have a == b")
    return told


def _check_connected(wins: np.ndarray, models: list[str]) -> None:
    compared = wins + wins.T > 0
    reached = np.zeros(len(models), dtype=bool)
    reached[0] = True
    for _ in models:
        reached |= compared[reached].any(axis=0)
    if not reached.all():
        cut = ", ".join(m for m, is_reached in zip(models, reached, strict=True) if not is_reached)
        raise ValueError(
            f"no chain of verdicts leads from {models[0]} to: {cut}; judge a pair across the gap"
        )


def strengths(wins: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(estimates, low, high, whether it won or lost everything) of models from (cluster, winner, loser) points."""
    total = wins.sum(axis=0)
    played = total + total.T
    with_prior = total + 0.5 * (played > 0)
    estimate = _most_likely(with_prior)
    half = _half_widths(wins, with_prior, estimate, level)
    low, high = estimate - half, estimate + half
    share = total.sum(axis=1) / played.sum(axis=1)
    one_sided = (share == 0) | (share == 1)
    for i in np.flatnonzero(one_sided):
        asked = int((wins[:, i].sum(axis=1) + wins[:, :, i].sum(axis=1) > 0).sum())
        limits = wilson(share[i] * asked, asked, level)
        low[i], high[i] = (_strength_at(limit, played[i], estimate, i) for limit in limits)
    return estimate, low, high, one_sided


def _most_likely(wins: np.ndarray) -> np.ndarray:
    """Bradley–Terry log strengths of a (winner, loser) table, mean 0, by Newton's steps of bounded length."""
    games, won = wins + wins.T, wins.sum(axis=1)
    found = np.zeros(len(wins))
    for _ in range(500):
        chance = _chances(found)
        step = np.linalg.pinv(_information(games, chance)) @ (won - (games * chance).sum(axis=1))
        found = found + step * min(1.0, 1 / max(np.abs(step).max(), 1e-300))
        if np.abs(step).max() < 1e-10:
            return found - found.mean()
    raise ValueError("Bradley–Terry did not settle in 500 steps; the verdicts are nearly one-sided")


def _chances(strength: np.ndarray) -> np.ndarray:
    """The chance of the row's model against the column's."""
    return 1 / (1 + np.exp(strength[None] - strength[:, None]))


def _information(games: np.ndarray, chance: np.ndarray) -> np.ndarray:
    each = games * chance * (1 - chance)
    return np.diag(each.sum(axis=1)) - each


def _half_widths(wins: np.ndarray, with_prior: np.ndarray, estimate: np.ndarray, level: float) -> np.ndarray:
    """Half the interval of each strength: the larger of the model's own error and the sandwich over clusters."""
    games = with_prior + with_prior.T
    chance = _chances(estimate)
    inverse = np.linalg.pinv(_information(games, chance))
    widths = z_of(level) * np.sqrt(np.diag(inverse))
    clusters = len(wins)
    if clusters < 2:
        return widths
    surplus = wins.sum(axis=2) - ((wins + wins.transpose(0, 2, 1)) * chance).sum(axis=2)  # (cluster, model)
    moved = surplus @ inverse
    shown = np.sqrt((moved**2).sum(axis=0) * clusters / (clusters - 1))
    return np.maximum(widths, t_of(level, clusters - 1) * shown)


def _strength_at(share: float, games: np.ndarray, estimate: np.ndarray, i: int) -> float:
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
