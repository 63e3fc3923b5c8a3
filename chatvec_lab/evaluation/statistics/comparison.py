"""Intervals and tests over prompts: never a mean without its interval and n.

Prompts are the clusters. Samples, turns and judge repeats of one prompt are averaged before anything is
resampled, prompts that share an `item` are one cluster, models are compared on the same prompts, and every result
names its method and seed.
A missing score (NaN) is left out and counted in `missing`; it is never read as zero.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import require
from chatvec_lab.evaluation.statistics import intervals
from chatvec_lab.evaluation.statistics.intervals import RESAMPLES, Interval


def per_prompt(
    scores: pd.DataFrame, *, value: str = "score", by: Sequence[str] = (), prompt: str = "prompt_id"
) -> pd.DataFrame:
    """One row a prompt (and group): the mean over its samples and turns with a value, NaN if none has."""
    require(scores, [*by, prompt, value])
    keys = [*by, prompt]
    return scores.groupby(keys, sort=False, dropna=False, observed=True)[value].mean().reset_index()


def summarise(
    scores: pd.DataFrame,
    *,
    by: str | Sequence[str] = (),
    value: str = "score",
    prompt: str = "prompt_id",
    item: str = "item",
    share: bool | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of a column of scores in each group, with interval, n and coverage.

    `scores` has a row a reply (prompt, turn, sample); `by` names the columns of the groups. Prompts that share a value
    of the column `item`, where there is one, count as one cluster. Scores that are all 0 or 1 are a share.
    Columns: `by`, estimate, low, high, n, missing (prompts), level, method, seed, coverage (share of rows
    with a value), and items where prompts name them (how many carry the estimate). Options as in `mean_interval`.
    """
    by = [by] if isinstance(by, str) else list(by)
    require(scores, [*by, prompt, value])
    options = {"share": share, "level": level, "resamples": resamples, "seed": seed}
    if share is None:
        options["share"] = bool(scores[value].notna().any() and scores[value].dropna().isin((0, 1)).all())
    named, rows = item in scores and bool(scores[item].notna().any()), []
    for key, group in _groups(scores, by, [prompt, value]):
        means = per_prompt(group, value=value, prompt=prompt).set_index(prompt)[value]
        interval = intervals.mean_interval(
            means, clusters=_items(group, prompt, item, means.index), **options
        )
        coverage = group[value].notna().mean() if len(group) else np.nan
        counted = {"items": group[item][group[value].notna()].nunique()} if named else {}
        rows.append(dict(zip(by, key, strict=True)) | interval._asdict() | {"coverage": coverage} | counted)
    return pd.DataFrame(rows, columns=[*by, *Interval._fields, "coverage", *(["items"] if named else [])])


def compare(
    scores: pd.DataFrame,
    *,
    by: str,
    baseline: object,
    within: str | Sequence[str] = (),
    value: str = "score",
    prompt: str = "prompt_id",
    item: str = "item",
    test: Literal["permutation", "mcnemar"] = "permutation",
    correction: Literal["holm", "benjamini-hochberg"] = "holm",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Each level of `by` against the baseline on the same prompts: difference, interval, corrected p-value.

    `compare(scores, by="scale", baseline=0.0, within="language")` gives a row a scale and language.
    All rows are one family for the correction. Prompts that either side lacks are counted in `missing`. The interval
    leaves out 0 exactly where the uncorrected p-value is at most 1 − level. Prompts that share a value of the column
    `item`, where there is one, are signed together, by the permutation test also where McNemar's was asked for, which
    knows no clusters.
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
        items = _items(group, prompt, item, table.index)
        drawing = {"clusters": items, "resamples": resamples, "seed": seed}
        for other in table.columns.drop(baseline):
            interval = intervals.difference_interval(table[other], table[baseline], level=level, **drawing)
            tested = intervals.permutation_test(table[other], table[baseline], **drawing)
            if test == "mcnemar" and (items is None or not tested.method.startswith("permutation of items")):
                tested = intervals.mcnemar_test(table[other], table[baseline])
            row = dict(zip(within, key, strict=True)) | {by: other, "baseline": baseline}
            rows.append(row | interval._asdict() | {"p_value": tested.p_value, "test": tested.method})
    columns = [*within, by, "baseline", *Interval._fields[:-1], "p_value", "test"]
    result = pd.DataFrame(rows, columns=columns)
    adjust = intervals.holm if correction == "holm" else intervals.benjamini_hochberg
    result.insert(result.columns.get_loc("p_value") + 1, "p_adjusted", adjust(result["p_value"]))
    return result.assign(correction=correction, family=int(result["p_value"].notna().sum()), seed=seed)


def _items(frame: pd.DataFrame, prompt: str, item: str, prompts: pd.Index) -> pd.Series | None:
    """The item of each of these prompts; None where the table has none."""
    if item not in frame or frame[item].isna().all():
        return None
    pairs = frame[[prompt, item]].drop_duplicates()
    twice = pairs.loc[pairs[prompt].duplicated(), prompt]
    if len(twice):
        raise ValueError(f"{prompt} {twice.iloc[0]!r} belongs to several values of {item}; a prompt has one")
    return pairs.set_index(prompt)[item].reindex(prompts)


def _groups(frame: pd.DataFrame, by: list[str], needed: list[str]) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """(key, rows) of each group in order of appearance; one group with the key () when `by` is empty."""
    require(frame, [*by, *needed])
    return iter(frame.groupby(by, sort=False, dropna=False, observed=True)) if by else iter([((), frame)])
