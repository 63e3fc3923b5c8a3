"""The best scale by hand, its interval by counting, the front by definition."""

import numpy as np
import pandas as pd
import pytest

from chatvec_lab.evaluation.statistics.sweep import best_scale, is_on_front, perplexity_ratio


def scores(**by_scale):
    rows = [
        (float(s[1:].replace("_", ".")), i, v) for s, values in by_scale.items() for i, v in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["scale", "prompt_id", "score"])


def test_the_best_scale_wins_and_a_tie_goes_to_the_smallest():
    found = best_scale(scores(s0=[0, 0, 0, 0], s0_5=[1, 1, 1, 1], s1=[1, 1, 1, 1], s2=[0, 1, 1, 0]))
    assert (found.estimate, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 4)


def test_the_interval_is_what_other_prompts_would_choose():
    """Two scales that win on complementary prompts: a resample chooses 1.0 where it drew more of the second half."""
    n = 100
    found = best_scale(scores(s0_5=[1] * 52 + [0] * 48, s1=[0] * 52 + [1] * 48), resamples=4000)
    assert (found.estimate, found.low, found.high, found.n) == (0.5, 0.5, 1.0, n)
    narrow = best_scale(scores(s0_5=[1] * 80 + [0] * 20, s1=[0] * 80 + [1] * 20))
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_missing_scores_are_left_out_and_counted():
    found = best_scale(scores(s0=[0, np.nan, 0], s1=[1, 1, 1]))
    assert (found.estimate, found.n, found.missing) == (1.0, 2, 1)
    with pytest.raises(ValueError, match="no prompt has 'score' at all of the scales"):
        best_scale(scores(s0=[np.nan], s1=[1]))
    with pytest.raises(ValueError, match="several rows"):
        best_scale(pd.concat([scores(s0=[1]), scores(s0=[1])]))


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(0, 6, (40, 2)), columns=["good", "bad"]).astype(float)
    table.loc[3, "good"] = np.nan
    found = is_on_front(table, most=["good"], least=["bad"])
    for i, a in table.iterrows():
        beaten = any(
            b.good >= a.good and b.bad <= a.bad and (b.good > a.good or b.bad < a.bad)
            for _, b in table.iterrows()
        )
        assert found[i] == (not beaten and not np.isnan(a.good))


def test_the_perplexity_ratio_is_paired():
    """Every text costs half a nat a token more: the ratio is exp(0.5), with no spread, whatever the texts cost."""
    rows = [(s, i, 4 * (i + 1), 4 * (i + 1) * (1 + i + 0.5 * s)) for s in (0.0, 1.0) for i in range(20)]
    costs = pd.DataFrame(rows, columns=["scale", "text_id", "tokens", "nats"])
    found = perplexity_ratio(costs, 1.0)
    assert found[:3] == pytest.approx([np.exp(0.5)] * 3) and found.n == 20
