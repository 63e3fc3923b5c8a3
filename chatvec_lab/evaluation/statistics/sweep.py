"""Over the scale: the one that is best, what it costs, and the trade-offs between measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from chatvec_lab.evaluation.statistics._resampling import resampled_sums
from chatvec_lab.evaluation.statistics.intervals import Interval, statistic_interval


def best_scale(
    scores: pd.DataFrame,
    *,
    value: str = "score",
    prompt: str = "prompt_id",
    item: str = "item",
    level: float = 0.95,
    resamples: int = 1999,
    seed: int = 0,
) -> Interval:
    """The scale with the highest mean over prompts, and the scales that other draws of the prompts would choose.

    `scores` has a row a scale and prompt. Every resample of the prompts, the same for all scales, chooses its own
    best; `low` and `high` hold the middle `level` of these choices, so they are scales that were tried. Prompts that
    share a value of the column `item`, where there is one, are drawn together. Of equal means the smallest scale
    wins. Prompts that lack a value at some scale are left out and counted in `missing`.
    Raises ValueError when a prompt has two values at a scale, or none is left.
    """
    if scores.duplicated([prompt, "scale"]).any():
        raise ValueError(f"several rows for one {prompt} and scale; average them first (per_prompt does)")
    table = scores.pivot(index=prompt, columns="scale", values=value).sort_index(axis=1).astype(float)
    kept = table.dropna()
    if kept.empty:
        raise ValueError(f"no prompt has {value!r} at all of the scales {list(table.columns)}")
    scales = kept.columns.to_numpy(dtype=float)
    clusters = kept
    if item in scores:
        clusters = kept.groupby(scores.groupby(prompt)[item].first().reindex(kept.index), dropna=False).sum()
    sums = np.concatenate(list(resampled_sums(clusters.to_numpy(), resamples, seed)))
    chosen = scales[sums.argmax(axis=1)]
    low, high = np.quantile(chosen, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    best = scales[kept.mean().to_numpy().argmax()]
    method, missing = "percentile of the best scale", len(table) - len(kept)
    return Interval(float(best), float(low), float(high), len(kept), missing, level, method, seed)


def perplexity_ratio(costs: pd.DataFrame, scale: float, *, baseline: float = 0.0, seed: int = 0) -> Interval:
    """Perplexity at `scale` over perplexity at `baseline` on the same texts, with its paired bootstrap interval.

    `costs`: what `fluency.perplexity` finds at each scale, with the column scale. Above 1 the text got harder.
    """
    nats = costs.pivot(index="text_id", columns="scale", values="nats")
    tokens = costs.groupby("text_id").tokens.first()

    def ratio(a, b, tokens, axis):
        return np.exp((a.sum(axis) - b.sum(axis)) / tokens.sum(axis))

    return statistic_interval(nats[scale], nats[baseline], tokens, statistic=ratio, seed=seed)


def is_on_front(table: pd.DataFrame, *, most: Sequence[str] = (), least: Sequence[str] = ()) -> pd.Series:
    """Whether no other row is at least as good in every measure and better in one: the Pareto front.

    `most` names the columns of which more is better, `least` those of which less is. A row with a missing
    measure is not on the front, and no row loses to it.

    >>> table = pd.DataFrame({"right": [0.1, 0.8, 0.7], "toxic": [0.5, 0.2, 0.1]})
    >>> is_on_front(table, most=["right"], least=["toxic"]).tolist()
    [False, True, True]
    """
    if not [*most, *least]:
        raise ValueError("name at least one measure: most=[...] or least=[...]")
    points = np.column_stack([*(table[c] for c in most), *(-table[c] for c in least)]).astype(float)
    is_known = ~np.isnan(points).any(axis=1)
    as_good = (points[:, None] >= points[None]).all(axis=2)  # (row, other)
    beaten = (as_good & ~as_good.T)[is_known].any(axis=0)
    return pd.Series(is_known & ~beaten, index=table.index)
