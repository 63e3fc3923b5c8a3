"""Statistics against scipy, closed formulas, direct maximum likelihood and simulated truth."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from chatvec_lab.evaluation import statistics as s

RATINGS_A = [7, 8, 6, 9, 5, 7, 8, 4, 6, 7]
RATINGS_B = [6, 8, 5, 7, 5, 6, 9, 3, 4, 6]


def test_a_mean_takes_students_interval_bent_by_its_skewness():
    even = [3, 4, 5, 6, 7, 8, 9.0]  # no skewness: Student's own
    found = s.mean_interval(even, seed=3)
    expected = stats.ttest_1samp(even, 0).confidence_interval()
    assert found[:3] == (6, pytest.approx(expected.low), pytest.approx(expected.high))
    assert (found.n, found.missing, found.method, found.seed) == (7, 0, "t, skewed", None)
    long_tail = s.mean_interval(np.exp(np.linspace(-2, 2, 41)))
    assert long_tail.high - long_tail.estimate > 1.2 * (long_tail.estimate - long_tail.low)


def test_missing_scores_are_left_out_and_counted():
    found = s.mean_interval([*RATINGS_A, np.nan, np.nan])
    assert found == s.mean_interval(RATINGS_A)._replace(missing=2)


@pytest.mark.parametrize("successes", [0, 1, 40, 79, 80])
def test_shares_take_wilson_as_scipy_has_it(successes):
    expected = stats.binomtest(successes, 80).proportion_ci(method="wilson")
    from_values = s.mean_interval([1] * successes + [0] * (80 - successes))
    assert from_values == s.wilson_interval(successes, 80)
    assert from_values[:3] == (successes / 80, pytest.approx(expected.low), pytest.approx(expected.high))


def test_constant_data_have_an_answer_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for equal in ([3.0] * 9, [1.0] * 9, [0.1 + 0.2] * 3):  # a rating whose lowest mark is 1 among them
            found = s.mean_interval(equal, share=False)
            assert found.estimate == equal[0] and np.isnan([found.low, found.high]).all()
            assert found.method == "none: all equal"
        half = s.mean_interval([0.5] * 80, share=True)  # each prompt toxic in half of its samples
        assert half[1:3] == pytest.approx(s.wilson_interval(40, 80)[1:3])


def test_bca_without_an_answer_falls_back_to_percentile():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = s.statistic_interval([1.0] * 6, statistic=np.median)
    assert found[:3] == (1, 1, 1) and found.method == "percentile"


@pytest.mark.parametrize(
    ("values", "n", "reason"), [([], 0, "no value"), ([np.nan], 0, "no value"), ([5.0], 1, "one prompt")]
)
def test_too_few_prompts_have_no_interval(values, n, reason):
    found = s.mean_interval(values)
    assert np.isnan([found.low, found.high]).all() and found.n == n and found.method == f"none: {reason}"


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [s.mean_interval(rng.exponential(size=60)) for _ in range(2000)]
    assert 0.935 <= np.mean([one.low <= 1 <= one.high for one in found]) <= 0.965


def test_a_paired_difference_is_tighter_than_two_means():
    difference = s.difference_interval(RATINGS_A * 2, RATINGS_B * 2)
    assert difference.estimate == pytest.approx(0.8)
    assert difference.low > 0
    assert s.mean_interval(RATINGS_A * 2).low < s.mean_interval(RATINGS_B * 2).high


def test_series_pair_by_prompt_not_by_position():
    a = pd.Series([1.0, 2.0, 4.0], index=["p1", "p2", "p3"])
    b = pd.Series([3.5, 0.5, 9.0], index=["p3", "p1", "p9"])
    found = s.difference_interval(a, b)
    assert (found.estimate, found.n, found.missing) == (0.5, 2, 2)
    with pytest.raises(ValueError, match="several values for 1 prompts, such as 'p1'"):
        s.difference_interval(a, pd.Series([1.0, 2.0], index=["p1", "p1"]))


def test_no_disagreement_on_few_prompts_is_not_proof_of_equality():
    found = s.difference_interval([1, 0, 1, 1, 0] * 4, [1, 0, 1, 1, 0] * 4)
    limit = s.wilson_interval(0, 20).high  # Tango's interval is Wilson's where nothing disagrees
    assert found[:3] == (0, pytest.approx(-limit), pytest.approx(limit))
    always = s.difference_interval([1] * 20, [0] * 20)
    assert always.high == 1 and 0.6 < always.low < 1 - limit
    assert s.difference_interval([0] * 20, [1] * 20)[:3] == (-1, -1, pytest.approx(-always.low))


def test_statistics_of_two_arrays_resample_prompts_together():
    x = np.arange(1.0, 31)
    ratio = s.statistic_interval(x, 3 * x, statistic=lambda a, b, axis: b.sum(axis) / a.sum(axis))
    assert ratio[:3] == pytest.approx((3, 3, 3)) and ratio.method == "percentile"


def test_permutation_is_exact_when_small():
    found = s.permutation_test(RATINGS_A, RATINGS_B)
    expected = stats.permutation_test(
        (RATINGS_A, RATINGS_B), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples"
    )
    assert found.p_value == pytest.approx(expected.pvalue) and found.method == "permutation, exact"


def test_permutation_is_sampled_when_large_and_never_zero():
    rng = np.random.default_rng(0)
    b = rng.normal(size=80)
    a = b + rng.normal(0.25, 1, size=80)
    assert s.permutation_test(a, b).p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.01)
    assert s.permutation_test(b + np.linspace(4, 5, 80), b).p_value == 1e-4
    assert s.permutation_test(b > -9, b > 9).p_value == 2 * 0.5**80  # equal steps: McNemar's, by its formula
    assert s.permutation_test(a, b, seed=1) == s.permutation_test(a, b, seed=1)
    assert s.permutation_test(b, b).p_value == 1


def test_mcnemar_looks_at_disagreements_only():
    a = [1] * 12 + [0] * 4 + [1] * 30 + [0] * 5
    b = [0] * 12 + [1] * 4 + [1] * 30 + [0] * 5
    found = s.mcnemar_test(a, b)
    assert found.p_value == pytest.approx(2 * stats.binom.cdf(4, 16, 0.5))
    assert found.estimate == pytest.approx(8 / 51)
    assert s.mcnemar_test([1, 0], [1, 0]).p_value == 1
    with pytest.raises(ValueError, match="permutation_test"):
        s.mcnemar_test([0.5, 1], [0, 1])


def test_corrections_skip_what_is_missing():
    p = [0.01, np.nan, 0.04, 0.03, 0.005]
    np.testing.assert_allclose(s.holm(p), [0.03, np.nan, 0.06, 0.06, 0.02])
    expected = stats.false_discovery_control([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(s.benjamini_hochberg(p), np.insert(expected, 1, np.nan))
    assert s.holm([]).shape == (0,)
    with pytest.raises(ValueError, match="between 0 and 1"):
        s.holm([1.2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections_keep_the_order_and_never_lower(p):
    for adjusted in (s.holm(p), s.benjamini_hochberg(p)):
        assert (adjusted >= np.array(p) - 1e-15).all() and (adjusted <= 1).all()
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    assert (s.benjamini_hochberg(p) <= s.holm(p) + 1e-15).all()


def replies(rows):
    return pd.DataFrame(rows, columns=["scale", "language", "prompt_id", "sample", "score"])


def test_samples_of_a_prompt_are_averaged_first():
    table = replies([(0, "zh", "p1", i, 1.0) for i in range(8)] + [(0, "zh", "p2", 0, 0.0)])
    found = s.summarise(table, by="scale").iloc[0]
    assert (found.estimate, found.n) == (0.5, 2)  # not 8/9 of 9
    assert found.method == "wilson"


def test_a_summary_shows_its_coverage():
    table = replies([(0, "ko", "p1", 0, np.nan), (0, "ko", "p2", 0, 0.4), (0, "ko", "p2", 1, np.nan)])
    found = s.summarise(table, by=["scale", "language"]).iloc[0]
    assert (found.estimate, found.n, found.missing, found.coverage) == (0.4, 1, 1, pytest.approx(1 / 3))
    assert np.isnan(found.low)
    assert list(s.summarise(table)) == [*s.Interval._fields, "coverage"]


def test_models_are_compared_on_the_same_prompts_and_corrected():
    rng = np.random.default_rng(0)
    rows = [
        (scale, language, f"p{i}", 0, difficulty + gain + noise)
        for language in ("en", "zh")
        for i, difficulty in enumerate(rng.normal(5, 2, size=40))
        for scale, gain in ((0.0, 0), (0.5, 0), (1.0, 1))
        for noise in [rng.normal(0, 0.5)]
    ]
    found = s.compare(replies(rows), by="scale", baseline=0.0, within="language").set_index(
        ["language", "scale"]
    )
    assert len(found) == 4 and (found.family == 4).all() and (found.n == 40).all()
    for language in ("en", "zh"):
        better = found.loc[(language, 1.0)]
        assert better.low > 0.5 and better.high < 1.5
        assert better.p_adjusted == pytest.approx(4 * better.p_value, rel=0.5) and better.p_adjusted < 0.01
        assert found.loc[(language, 0.5)].low < 0 < found.loc[(language, 0.5)].high
    with pytest.raises(ValueError, match=r"scale has no 2\.0"):
        s.compare(replies(rows), by="scale", baseline=2.0)
    with pytest.raises(KeyError, match="no column alpha"):
        s.compare(replies(rows), by="alpha", baseline=0.0)


def verdicts(seed, prompts=120):
    """Round robins of three models whose true log strengths are TRUE; a tenth are ties."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(prompts):
        for a, b in (("cp", "half"), ("half", "full"), ("full", "cp")):
            wins = rng.random() < 1 / (1 + np.exp(TRUE[b] - TRUE[a]))
            rows.append((f"p{i}", a, b, 0.5 if rng.random() < 0.1 else float(wins)))
    return pd.DataFrame(rows, columns=["prompt_id", "a", "b", "score"])


TRUE = {"cp": -0.4, "half": 0.1, "full": 0.3}


def test_bradley_terry_is_the_maximum_of_its_likelihood():
    table = verdicts(seed=1)
    found = s.bradley_terry(table, resamples=499).set_index("model")
    models = list(found.index)
    a, b = (table[c].map(models.index).to_numpy() for c in "ab")

    def loss(strength):
        logit = strength[a] - strength[b]
        of_data = (table.score * np.logaddexp(0, -logit) + (1 - table.score) * np.logaddexp(0, logit)).sum()
        return of_data + 0.5 * np.logaddexp(0, np.subtract.outer(strength, strength)).sum()

    best = optimize.minimize(loss, np.zeros(3), tol=1e-10).x
    np.testing.assert_allclose(found.estimate, best - best.mean(), atol=1e-4)
    assert (found.n == 120).all() and (found.missing == 0).all()


def test_bradley_terry_intervals_cover_the_truth():
    hits = [
        found.low <= TRUE[found.model] <= found.high
        for seed in range(100)
        for found in s.bradley_terry(verdicts(seed), resamples=199).itertuples()
    ]
    assert 0.89 <= np.mean(hits) <= 0.99


def test_bradley_terry_with_ties_silence_and_gaps():
    columns = ["prompt_id", "a", "b", "score"]
    ties = pd.DataFrame(
        [("p1", "x", "y", 0.5), ("p2", "y", "x", 0.5), ("p3", "x", "y", np.nan)], columns=columns
    )
    found = s.bradley_terry(ties, resamples=99)
    limits = np.array(s.wilson_interval(1, 2)[1:3])  # two ties do not prove equal models
    expected = np.log(limits / (1 - limits)) / 2
    np.testing.assert_allclose(found[["estimate", "low", "high"]], [[0, *expected]] * 2, atol=0.01)
    assert (found.missing == 1).all() and (found.n == 2).all()
    unbeaten = pd.DataFrame([("p1", "x", "y", 1.0), ("p2", "x", "y", 1.0)], columns=columns)
    found = s.bradley_terry(unbeaten, resamples=99).set_index("model")
    assert found.estimate["x"] == pytest.approx(np.log(5) / 2)  # 2.5 wins against 0.5
    share = s.wilson_interval(2, 2).low
    assert found.low["x"] == pytest.approx(np.log(share / (1 - share)) / 2) == -found.high["y"]
    assert (found.high["x"], found.low["y"]) == (np.inf, -np.inf) and set(found.method) == {"wilson"}
    apart = pd.DataFrame([("p1", "w", "x", 1.0), ("p1", "y", "z", 1.0)], columns=columns)
    with pytest.raises(ValueError, match="from w to: y, z"):
        s.bradley_terry(apart)


def test_an_unbeaten_model_among_three_is_not_known_too_well():
    rows = [(f"p{k}", "x", other, 1.0) for k in range(20) for other in "yz"]
    rows += [(f"p{k}", "y", "z", float(k % 2)) for k in range(20)]
    found = s.bradley_terry(pd.DataFrame(rows, columns=["prompt_id", "a", "b", "score"]), resamples=199)
    assert list(found.method) == ["wilson", *["larger of two errors"] * 2]
    x, y, z = found.itertuples()
    assert x.high == np.inf and x.low < x.estimate and np.isfinite([y.low, y.high, z.low, z.high]).all()
    # by hand: y and z are equal and lie d under x, which so has 2/3 d in a mean of 0
    share = s.wilson_interval(20, 20).low
    assert x.low == pytest.approx(2 / 3 * np.log(share / (1 - share)))


def test_bradley_terry_orders_many_models():
    names = [f"m{i:02d}" for i in range(24)]
    rows = [
        (f"p{k}", a, b, float(k < 3)) for i, a in enumerate(names) for b in names[i + 1 :] for k in range(4)
    ]
    found = s.bradley_terry(pd.DataFrame(rows, columns=["prompt_id", "a", "b", "score"]), resamples=9)
    assert list(found.sort_values("estimate", ascending=False).model) == names


def test_kappa_as_in_cohens_table():
    # Cohen 1960's worked form: 20 both yes, 15 both no, 5 and 10 apart of 50.
    a = [1] * 20 + [1] * 5 + [0] * 10 + [0] * 15
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    found = s.cohen_kappa(a, b)
    assert found.estimate == pytest.approx(0.4) and found.low < 0.4 < found.high and found.n == 50
    missing = s.cohen_kappa([*a, np.nan], [*b, 1])
    assert missing.estimate == found.estimate and missing.missing == 1
    words = s.cohen_kappa(["yes", "no", "yes", np.nan], ["yes", "no", "no", "yes"])
    assert (words.estimate, words.n, words.missing) == (pytest.approx(0.4), 3, 1)  # nan is no label
    assert np.isnan(s.cohen_kappa([1, 1], [1, 1]).estimate)  # one label: chance explains everything


def test_weighted_kappa_forgives_near_misses():
    a, b = [1, 2, 3, 4, 5, 5], [2, 3, 4, 5, 5, 4]
    table = np.zeros((5, 5))
    np.add.at(table, (np.array(a) - 1, np.array(b) - 1), 1)
    grid = np.subtract.outer(np.arange(5), np.arange(5)) ** 2
    expected = 1 - (table * grid).sum() / (np.outer(table.sum(1), table.sum(0)) / 6 * grid).sum()
    assert s.cohen_kappa(a, b, weights="quadratic").estimate == pytest.approx(expected)
    assert s.cohen_kappa(a, b, clusters=list("ppqqrr")).n == 3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(np.nan)), max_size=30))
def test_an_interval_holds_its_estimate(values):
    found = s.mean_interval(values, share=False)
    assert found.n + found.missing == len(values)
    if not found.method.startswith("none"):
        assert np.isfinite([found.low, found.high]).all() and found.low < found.high
    else:
        assert np.isnan([found.low, found.high]).all()
