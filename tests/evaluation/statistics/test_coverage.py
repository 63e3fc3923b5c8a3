"""Intervals hold the truth as often as they say, and agree with their tests; all of it: `benchmarks/interval_coverage.py`."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from chatvec_lab.evaluation import statistics as s
from chatvec_lab.evaluation.statistics import _closed, judgements
from chatvec_lab.paths import DATA


@pytest.fixture(scope="module")
def benchmark():
    file = DATA.parent / "benchmarks" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_coverage", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_zero_is_outside_exactly_where_mcnemars_test_tells_two_models_apart(benchmark):
    found = benchmark.agreement(most=30, larger=300)
    assert (
        found.tables[0] == sum((n + 1) * (n + 2) // 2 for n in range(2, 31)) + 300 and found.disagree[0] == 0
    )


@pytest.mark.slow
def test_zero_is_outside_exactly_where_the_test_says_so_in_every_table_to_60(benchmark):
    assert benchmark.agreement(most=60, larger=10_000).disagree[0] == 0


def test_shares_and_paired_differences_hold_their_level_by_enumeration(benchmark):
    shares, differences = benchmark.shares(), benchmark.differences(sizes=(15, 40))
    assert len(shares) == 12 and shares.reached.all(), shares
    assert len(differences) == 10 and differences.reached.all(), differences


@pytest.mark.slow
@pytest.mark.parametrize("name", ["differences", "means", "items", "kappas", "strengths"])
def test_every_table_of_the_benchmark_is_reached(benchmark, name):
    options = {} if name == "differences" else {"sizes": (40,), "simulations": 4000}
    found = benchmark.TABLES[name](**options)
    assert found.reached.all(), found


def test_tangos_is_where_its_score_is_z():
    """The limits by the likelihood itself: the constrained estimate is found by search, not by the formula."""
    for b, c, n in ((7, 2, 40), (1, 0, 15), (30, 12, 60)):
        for limit in _closed.tango(b, c, n, 0.95):
            q = np.linspace(1e-9, 1, 400_001)  # of the second kind of disagreement; the first is q + limit
            q = q[(q + limit > 0) & (2 * q + limit < 1)]
            likelihood = b * np.log(q + limit) + c * np.log(q) + (n - b - c) * np.log(1 - 2 * q - limit)
            best = q[likelihood.argmax()]
            variance = n * (2 * best + limit * (1 - limit))
            assert abs((b - c - n * limit) / np.sqrt(variance)) == pytest.approx(
                stats.norm.ppf(0.975), abs=1e-3
            )


def test_ratings_agree_with_the_permutation_test_whatever_the_size():
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(150):
        n = int(rng.integers(6, 70))
        a, b = rng.integers(1, 11, n), rng.integers(1, 11, n) - rng.integers(0, 4)
        found, p = s.difference_interval(a, b, resamples=999), s.permutation_test(a, b, resamples=999).p_value
        assert (not found.low <= 0 <= found.high) == (p <= 0.05), (found, p)
        told += p <= 0.05
    assert 10 < told < 140


def test_the_means_that_signs_do_not_reject_by_trying_them():
    rng = np.random.default_rng(1)
    difference = rng.normal(0.4, 1, 11)
    found = s.difference_interval(difference, np.zeros(11))
    for shift, is_inside in ((found.low - 1e-6, False), (found.low + 1e-6, True), (found.high + 1e-6, False)):
        assert (s.permutation_test(difference - shift, np.zeros(11)).p_value > 0.05) == is_inside
    few = s.difference_interval(difference[:5], np.zeros(5))
    assert np.isnan(few.low) and few.method == "none: 5 prompts are too few"


def test_prompts_that_share_an_item_count_together():
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(20), 6)
    fate = np.repeat(rng.random(20) < 0.5, 6).astype(float)  # all prompts of an item fare alike
    alone, together = s.mean_interval(fate), s.mean_interval(fate, clusters=items)
    of_items = s.wilson_interval(int(fate[::6].sum()), 20)
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert together.high - together.low == pytest.approx(of_items.high - of_items.low, rel=0.12)
    assert (together.n, together.method) == (120, "wilson, effective of 20 items")
    assert s.mean_interval(fate, clusters=np.arange(120)) == alone  # no two share one
    never = s.mean_interval(np.zeros(120), clusters=items)
    assert never.high == pytest.approx(s.wilson_interval(0, 20).high)
    one = s.difference_interval(np.ones(120), fate, clusters=np.zeros(120))
    assert np.isnan(one.low) and one.method == "none: one item"
    with pytest.raises(ValueError, match="clusters name the item of each prompt"):
        s.mean_interval(fate, clusters=items[:5])
    ratings = rng.normal(np.repeat(rng.normal(5, 2, 20), 6), 0.1)
    expected = s.mean_interval(ratings.reshape(20, 6).mean(1))
    assert s.mean_interval(ratings, clusters=items)[:3] == pytest.approx(expected[:3])
    difference = s.difference_interval(ratings, np.full(120, 4.6), clusters=items)
    by_item = s.difference_interval(ratings.reshape(20, 6).mean(1), np.full(20, 4.6))
    assert difference[:3] == pytest.approx(by_item[:3])


def test_the_item_column_is_used_where_there_is_one():
    rows = [(scale, f"p{i}", i // 5, float((i // 5 + scale) % 2)) for scale in (0, 1) for i in range(60)]
    table = pd.DataFrame(rows, columns=["scale", "prompt_id", "item", "score"])
    plain = table.drop(columns="item")
    assert s.summarise(table, by="scale").method.tolist() == ["wilson, effective of 12 items"] * 2
    wide, narrow = (s.compare(t, by="scale", baseline=0).iloc[0] for t in (table, plain))
    assert (
        wide.high - wide.low > 1.5 * (narrow.high - narrow.low) and wide.test == "permutation of items, exact"
    )
    assert s.compare(table, by="scale", baseline=0, test="mcnemar").test[0] == "permutation of items, exact"
    assert (
        narrow.p_value == s.mcnemar_test(*(plain[plain.scale == k].score.to_numpy() for k in (1, 0))).p_value
    )
    with pytest.raises(ValueError, match="'p0' belongs to several values of item"):
        s.summarise(pd.concat([table, table.assign(item=99)]))


def test_full_agreement_of_two_judges_is_not_known_too_well():
    labels = [1] * 20 + [0] * 20
    found = s.cohen_kappa(labels, labels)
    share = s.wilson_interval(0, 40).high
    assert (found.estimate, found.high) == (1, 1) and found.low == pytest.approx(1 - share / 0.5)
    one_apart = s.cohen_kappa(labels, [0, *labels[1:]])
    assert one_apart.low < found.low and one_apart.estimate < one_apart.high < 1
    few = s.cohen_kappa(labels, labels, clusters=np.repeat(np.arange(8), 5))
    assert few.low < found.low and few.n == 8
    assert s.cohen_kappa([1, 1], [1, 1]).method == "none: all labels are one"


def test_strengths_that_prompts_decide_together_are_known_less():
    rng = np.random.default_rng(0)
    rows = [(f"p{i}", i // 4, "x", "y", float(rng.random() < 0.6)) for i in range(80)]
    table = pd.DataFrame(rows, columns=["prompt_id", "item", "a", "b", "score"])
    table["score"] = table.groupby("item").score.transform("first")
    wide, narrow = (
        s.bradley_terry(t).set_index("model").loc["x"] for t in (table, table.drop(columns="item"))
    )
    assert wide.high - wide.low > 1.4 * (narrow.high - narrow.low) and (wide.n, narrow.n) == (80, 80)
    odds = np.log((table.score.sum() + 0.5) / (80 - table.score.sum() + 0.5))
    assert wide.estimate == narrow.estimate == pytest.approx(odds / 2)
    assert judgements.strengths(np.array([[[0, 1.0], [0, 0]]] * 3), 0.95)[2][0] == np.inf
