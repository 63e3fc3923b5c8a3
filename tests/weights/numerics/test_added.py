"""A CP and a delta in float32: the fast lane gives what the general way gives, next to every middle."""

import numpy as np
import pytest

from chatvec_lab.weights.numerics import added, exact

RNG = np.random.default_rng(0)
SIZE = 20_000


def narrow(values, kind):
    return (
        values.astype(kind)
        if kind is np.float16
        else (values.astype(np.float32).view(np.uint32) >> 16).astype(kind)
    )


def deltas_for(cp):
    size = np.abs(exact.widen(cp)).astype(np.float64)
    ties = size * RNG.choice([2.0**-n for n in range(8, 13)] + [3 * 2.0**-9, -(2.0**-9)], SIZE)
    yield RNG.normal(0, 0.01, SIZE)
    yield ties
    yield ties.astype(np.float32) * np.float32(1 + 2.0**-20)
    yield np.nextafter(ties.astype(np.float32), np.float32(0))
    yield -exact.widen(cp) * RNG.choice([1.0, 1 - 2.0**-20, 2.0], SIZE)
    yield np.where(RNG.random(SIZE) < 0.5, 0.0, -0.0)
    yield RNG.normal(0, 1, SIZE) * 2.0 ** -RNG.integers(1, 140, SIZE)


@pytest.mark.parametrize("kind", [np.uint16, np.float16])
def test_the_lane_gives_what_the_general_way_gives(kind):
    values = RNG.normal(0, 0.02, SIZE) * np.where(RNG.random(SIZE) < 0.02, 0.0, 1.0)
    cp, taken = narrow(values, kind), 0
    few = np.where(RNG.random(SIZE) < 0.001, RNG.normal(0, 1e-9, SIZE), 0).astype(np.float32)
    for delta in deltas_for(cp):
        for minus in (None, few):
            part = (1.0, delta.astype(np.float32), minus)
            assert added.can_fill(cp, *part[1:], np.empty_like(cp))
            found, expected = np.empty_like(cp), np.empty_like(cp)
            taken += added.fill(cp, *part[1:], found) is not None
            exact.combine(cp, [part], found)
            exact._combine(cp, [part], expected)
            assert found.tobytes() == expected.tobytes()
    assert taken >= 8, "the lane itself was at work"


def test_few_are_left_to_the_general_way():
    cp = narrow(RNG.normal(0, 0.02, 1 << 18), np.uint16)
    noise = RNG.normal(0, 0.002, cp.size).astype(np.float32)
    assert added.fill(cp, noise, None, np.empty_like(cp)).size < 40


def test_what_is_too_large_or_no_number_is_refused():
    for cp, bad in (
        (np.uint16([0x7F00, 0]), np.inf),
        (np.uint16([0x7F7F, 0]), 3e38),
        (np.uint16([1, 0]), np.nan),
    ):
        delta = np.float32([bad, 0])
        assert added.fill(cp, delta, None, np.empty_like(cp)) is None
        with pytest.raises(FloatingPointError, match="1 of 2"):
            exact.combine(cp, [(1.0, delta, None)], np.empty_like(cp))


def test_other_formats_are_not_its_own():
    cp, delta = np.uint16([1, 2]), np.float32([1, 2])
    for given in ((None, delta, None), (cp, cp, cp), (np.float32([1, 2]), delta, None), (cp, delta, cp)):
        assert not added.can_fill(*given, np.empty(2, np.uint16))
    assert not added.can_fill(cp, delta, None, np.empty(2, np.float32))
    assert not added.can_fill(cp, np.float32([1, 2, 3, 4])[::2], None, cp)
