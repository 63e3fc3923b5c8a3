"""Random numbers by element: the published words, the normal law, a norm, and the same numbers for any span."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
from scipy import stats

from chatvec_lab.weights.numerics import draws, exact
from chatvec_lab.weights.numerics.draws import COUNTERS, TILE

STREAM = draws.stream("noise", 0, "model.norm.weight")


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10, from its paper."""
    low = 2**32 - 1
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            second >> 32 ^ counter[1] ^ key[0],
            second & low,
            first >> 32 ^ counter[3] ^ key[1],
            first & low,
        ]
        key = [key[0] + 0x9E3779B9 & low, key[1] + 0xBB67AE85 & low]
    return counter


# Random123's known answers: counter, key, words
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize("counter, key, expected", KNOWN)
def test_the_published_answers(counter, key, expected):
    counter, key, expected = ([int(word, 16) for word in text.split()] for text in (counter, key, expected))
    assert philox(counter, key) == expected
    upper, low = counter[2] | counter[3] << 32, counter[0] | counter[1] << 32
    if low >= 2**55:  # beyond what a tensor can have
        low %= 2**55
        expected = philox([low & 2**32 - 1, low >> 32, *counter[2:]], key)
    first = low // COUNTERS * TILE + low % COUNTERS
    found = draws.words((key[0] | key[1] << 32, upper), first, first + 3 * COUNTERS + 1)[::COUNTERS]
    assert found.tolist() == expected


def test_the_counter_has_more_than_32_bits():
    first = 4 * 2**33  # the first element of a tile whose counters are above 2**32
    found = draws.words(STREAM, first, first + 3 * COUNTERS + 1)[::COUNTERS].tolist()
    halves = [word >> shift & 2**32 - 1 for word in STREAM for shift in (0, 32)]
    assert found == philox([0, 2, *halves[2:]], halves[:2])


@pytest.mark.parametrize("start, stop", [(0, 1), (5, 5), (511, 513), (1024, 1536), (700, 5000)])
def test_words_do_not_depend_on_who_asks(start, stop):
    assert np.array_equal(draws.words(STREAM, start, stop), draws.words(STREAM, 0, 5120)[start:stop])


def normals(size: int, start: int = 0, stream=STREAM) -> np.ndarray:
    """Normal numbers as they are: with the norm that they have."""
    own = reference(draws.words(stream, start, start + size))
    return draws.noise(stream, start, size, np.array([np.sqrt((own**2).sum())]), np.empty(size, np.float32))


def reference(words: np.ndarray) -> np.ndarray:
    """Box and Muller's numbers of whole tiles, in float64."""
    tiles = words.reshape(-1, 4, COUNTERS)
    radius = np.sqrt(-2 * np.log(((tiles[:, ::2] >> 1) + 0.5) / 2.0**31))
    angle = 2 * np.pi * (tiles[:, 1::2] + 0.5) / 2.0**32
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 2).reshape(-1)


def test_each_number_is_box_and_mullers():
    found, expected = normals(1 << 18), reference(draws.words(STREAM, 0, 1 << 18))
    assert np.abs(found / expected - 1).max() < 1e-6
    assert found.astype(np.float64).std() == pytest.approx(1, abs=0.005)


def test_they_are_normal_and_do_not_depend_on_each_other():
    size = 1 << 20
    found = normals(size).astype(np.float64)
    assert stats.kstest(found, "norm").pvalue > 0.01
    assert abs(stats.skew(found)) < 4 * math.sqrt(6 / size)
    assert abs(stats.kurtosis(found)) < 4 * math.sqrt(24 / size)
    beyond = int((np.abs(found) > 4).sum())
    assert stats.binomtest(beyond, size, 2 * stats.norm.sf(4)).pvalue > 0.01
    other = normals(size, stream=draws.stream("noise", 1, "model.norm.weight")).astype(np.float64)
    for lag in (1, COUNTERS, 2 * COUNTERS, TILE):  # neighbours, and those of one counter
        for a, b in ((found[:-lag], found[lag:]), (found[:-lag] ** 2, found[lag:] ** 2)):
            assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(size)
    assert abs(np.corrcoef(found, other)[0, 1]) < 4 / math.sqrt(size)


@pytest.mark.parametrize("unit", [1, 3, 100, 1000, 5000])
def test_each_unit_has_its_norm_whichever_are_asked_for(unit):
    size = 5000
    norms = np.random.default_rng(0).uniform(0, 3, -(-size // unit))
    norms[0] = 0
    whole = draws.noise(STREAM, 0, unit, norms, np.empty(size, np.float32))
    found = np.sqrt(np.add.reduceat(whole.astype(np.float64) ** 2, np.arange(0, size, unit)))
    assert np.allclose(found, norms, rtol=1e-6, atol=0)
    for first in range(0, len(norms), max(1, len(norms) // 3)):
        part = np.empty(min(2 * unit, size - first * unit), np.float32)
        draws.noise(STREAM, first * unit, unit, norms[first : first + 2], part)
        assert part.tobytes() == whole[first * unit :][: part.size].tobytes()


@pytest.mark.parametrize("size, unit", [(1, 1), (31, 31), (1000, 7), (4096, 4096), (5000, 1024)])
def test_squares_are_those_of_each_unit(size, unit):
    getcontext().prec = 60
    values = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    whole = [sum(Decimal(float(v)) ** 2 for v in values[i : i + unit]) for i in range(0, size, unit)]
    assert np.allclose(draws.squares(values, unit), [float(e) for e in whole], rtol=1e-14)


@pytest.mark.parametrize("kind", [np.uint16, np.float16])
@pytest.mark.parametrize("size, unit", [(1, 1), (1000, 7), (5000, 1100)])
def test_squares_of_a_difference_are_those_of_its_elements(size, unit, kind):
    rng = np.random.default_rng(3)
    plus, minus = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    if kind is np.uint16:
        plus, minus = ((a.view(np.uint32) >> 16).astype(kind) for a in (plus, minus))
    else:
        plus, minus = plus.astype(kind), minus.astype(kind)
    values = exact.combine(None, [(1.0, plus, minus)], np.empty(size, np.float32))
    found = draws.squares_of_difference(plus, minus, unit)
    assert found.tobytes() == draws.squares(values, unit).tobytes()


def test_squares_of_a_difference_of_no_plain_numbers_are_not_told():
    plain, zero = np.uint16([0x3F80, 0x3F80]), np.uint16([0x3F80, 0])
    assert draws.squares_of_difference(plain, zero, 2) == [1.0]
    for odd in (0x7F80, 0x7FC0, 0x0001):  # infinite, no number, subnormal
        assert draws.squares_of_difference(plain, np.uint16([odd, 0]), 2) is None or odd == 0x0001
        assert draws.squares_of_difference(np.uint16([odd, 0]), np.uint16([0, 0]), 2) is None


@pytest.mark.parametrize("size", [0, 1, 31, 32, 1543, 5000])
def test_magnitudes_are_added_up(size):
    values = np.random.default_rng(3).standard_normal(size).astype(np.float32)
    assert draws.sizes(values) == pytest.approx(math.fsum(map(abs, values.tolist())), rel=1e-15)


@pytest.mark.parametrize("size", [5, 33, 512, 1543])
def test_squares_are_added_in_one_order(size):
    """Each of some sums takes every so many-th square, one after another: the norm's bits are the noise's."""
    values = np.random.default_rng(2).standard_normal(size).astype(np.float32)
    sums = [0.0] * draws.LANES
    for i, value in enumerate(values.tolist()):
        sums[i % draws.LANES] += value * value
    total = 0.0
    for one in sums:  # `sum` keeps track of errors since Python 3.12
        total += one
    assert draws.squares(values, size)[0] == total


@pytest.mark.parametrize("density", [1e-12, 0.3, 0.5, 0.999999, 1.0])
def test_a_share_is_kept_of_every_array_alike(density):
    size = 40_000
    arrays = [np.arange(1, size + 1).astype(kind) | 1 for kind in ("u2", "u4", "u8")]
    before = [array.copy() for array in arrays]
    draws.thin(STREAM, 0, density, arrays)
    kept = draws.words(STREAM, 0, size) / 2.0**32 < density
    assert abs(kept.mean() - density) < 5 * math.sqrt(density * (1 - density) / size) + 1e-9
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array, np.where(kept, old, 0))
    part = [old[777:5000].copy() for old in before]
    draws.thin(STREAM, 777, density, part)
    assert all(np.array_equal(p, array[777:5000]) for p, array in zip(part, arrays, strict=True))
