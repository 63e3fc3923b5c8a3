"""Votes are their formula, in numpy, whatever the formats of the deltas and wherever they are trimmed."""

import numpy as np
import pytest

from chatvec_lab.weights.numerics import arrays, exact, votes
from chatvec_lab.weights.numerics.votes import Delta

RNG = np.random.default_rng(0)


def by_formula(deltas, weights, mean):
    weighted = np.stack(deltas) * np.array(weights)[:, None]
    agree = np.sign(weighted) == np.where(weighted.sum(0) >= 0, 1.0, -1.0)
    total, divisor = (weighted * agree).sum(0), (np.array(weights)[:, None] * agree).sum(0)
    return total / np.where(divisor == 0, 1.0, divisor) if mean else total


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("weights", [None, [0.7, 0.3, -0.2, 0.0, 1.3]])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_vote_is_its_formula(count, weights, mean):
    deltas = [np.round(RNG.standard_normal(1300)) for _ in range(count)]
    weights = weights and weights[:count]
    expected = by_formula(deltas, weights or [1.0] * count, mean)
    found = votes.agreed([Delta(delta) for delta in deltas], np.empty(1300), weights, mean=mean)
    assert np.array_equal(found, expected)
    # the same from differences, in any mix of formats
    kinds = [np.float16, np.float32, np.float64]
    pairs = [
        Delta((d + 3).astype(kinds[i % 3]), np.full(1300, 3, kinds[i % 2])) for i, d in enumerate(deltas)
    ]
    assert np.array_equal(votes.agreed(pairs, np.empty(1300), weights, mean=mean), expected)


def narrow(values, kind):
    return (
        values.astype(kind)
        if kind is np.float16
        else (values.astype(np.float32).view(np.uint32) >> 16).astype(kind)
    )


def pairs_of(kind, size, spread):
    """Two differences from one base, of which `spread` makes some inexact in float32."""
    base = RNG.normal(0, 0.02, size) * np.where(RNG.random(size) < spread, 1e-7, 1.0)
    return [narrow(base + RNG.normal(0, step, size), kind) for step in (0.002, 0.004)], narrow(base, kind)


@pytest.mark.parametrize("spread", [0.0, 0.1])
@pytest.mark.parametrize("kind", [np.uint16, np.float16])
def test_two_trimmed_deltas_are_as_if_they_had_been_trimmed_before(kind, spread):
    size = 5000
    sides, base = pairs_of(kind, size, spread)
    deltas, trimmed = [], []
    for side, keep, equals in zip(sides, (0.2, 0.3), (1234, 5000), strict=True):
        values = exact.combine(None, [(1.0, side, base)], np.empty(size, np.float32))
        least = int(np.sort(np.abs(values))[-int(keep * size)].view(np.uint32))
        deltas.append(Delta(side, base, least, equals))
        parts = [(1.0, side.copy(), base.copy())]
        arrays.trim(parts, values, least, equals)
        plus, minus = (exact.widen(raw).astype(np.float64) for raw in arrays.raw_arrays(parts))
        trimmed.append(plus - minus)
    expected = by_formula(trimmed, [1.0, 1.0], True)
    assert np.array_equal(votes.agreed(deltas, np.empty(size)), expected)
    high, low = np.empty(size, np.float32), np.empty(size, np.float32)
    rest = votes.agreed_of_two(deltas, high, low)
    assert (rest is None) == (not low.any()) and (rest is not None or spread == 0 or kind is np.float16)
    assert np.array_equal(high.astype(np.float64) - low, expected)
    assert np.array_equal(
        votes.agreed(deltas, np.empty(size), [0.7, 0.3]), by_formula(trimmed, [0.7, 0.3], True)
    )


def test_a_mean_that_two_floats_cannot_hold_is_told():
    zero, least, floats = np.uint16([0]), 27 << 23, np.empty((2, 1), np.float32)
    one, small, smaller, nan = (narrow(np.array([x]), np.uint16) for x in (1.0, 2.0**-26, 2.0**-52, np.nan))
    deltas = [Delta(one, small, least, 1), Delta(smaller, zero, least, 1)]
    assert votes.agreed(deltas, np.empty(1)) == [(1 - 2.0**-26 + 2.0**-52) / 2]
    with pytest.raises(OverflowError):
        votes.agreed_of_two(deltas, *floats)
    with pytest.raises(OverflowError):
        votes.agreed_of_two([deltas[1], Delta(nan, zero, least, 1)], *floats)
