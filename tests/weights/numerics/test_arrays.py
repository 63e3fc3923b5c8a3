"""What transforms compute: the threshold of the largest elements whatever the sample said, and masks."""

import numpy as np
import pytest

from chatvec_lab.weights.numerics import arrays, exact

BLOCK = 50_000


class Given:
    """Elements that lie in memory, read in blocks; counts the passes."""

    def __init__(self, values):
        self.all, self.size, self.passes = values.astype(np.float32), values.size, 0

    def each(self, function, of_pair=None):
        self.passes += 1
        return [
            function(start, self.all[start : start + BLOCK].copy()) for start in range(0, self.size, BLOCK)
        ]

    def lend(self, function, start, stop):
        return function(start, self.all[start:stop].copy())


RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal(700_000)
UNLIKE = (
    np.where(np.arange(700_000) % (695_904 / 15) < 4_096, 100.0, 1e-3) * NORMAL
)  # as the sample sees it, and elsewhere
CASES = {
    "normal": (NORMAL, 1),
    "few": (NORMAL[:1000], 1),
    "whole numbers": (np.round(3 * NORMAL), 1),
    "zeros": (NORMAL * (NORMAL > 1), 1),
    "rows of other sizes": (NORMAL * np.repeat(np.linspace(0.1, 3, 700), 1000), 1),
    "unlike its sample": (UNLIKE, 3),
}


@pytest.mark.parametrize("keep", [1, 100, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_the_largest_stay_and_of_equals_the_first(case, keep):
    values, most = CASES[case]
    elements = Given(values)
    keep = keep if isinstance(keep, int) else round(keep * elements.size)
    threshold, behind = arrays.magnitude_threshold(elements, keep)
    order = np.lexsort((np.arange(elements.size), -np.abs(elements.all)))
    kept = np.zeros(elements.size, bool)
    kept[order[:keep]] = True
    size = np.abs(elements.all).view(np.uint32)
    assert np.array_equal(kept, (size > threshold) | ((size == threshold) & (np.arange(size.size) < behind)))
    assert elements.passes <= most, "one pass, unless the sample misled"


@pytest.mark.parametrize("equals", [-5, 0, 3, 9, 50])
def test_trimming_clears_every_array_of_every_part(equals):
    values = np.float32([1, -2, 2, 0, 3, 2, -2, 1, 4])
    threshold = int(np.float32(2).view(np.uint32))
    kept = (np.abs(values) > 2) | ((np.abs(values) == 2) & (np.arange(9) < equals))
    own = [np.arange(1, 10).astype(kind) for kind in ("u2", "f4", "f8", "f2")]
    parts = [(1.0, own[0].copy(), own[3].copy()), (0.5, own[1].copy(), None), (2.0, own[2].copy(), None)]
    arrays.trim(parts, values, threshold, equals)
    for raw, old in zip(arrays.raw_arrays(parts), (own[0], own[3], own[1], own[2]), strict=True):
        assert np.array_equal(raw, np.where(kept, old, 0))


@pytest.mark.parametrize("kind", [np.uint16, np.float16])
def test_a_difference_of_narrow_arrays_is_trimmed_by_itself(kind):
    plus, minus = (np.round(4 * RNG.standard_normal(3000)).astype(np.float32) for _ in range(2))
    plus[:3] = np.inf, np.nan, -0.0
    values = plus - minus
    raw = [
        a.astype(kind) if kind is np.float16 else (a.view(np.uint32) >> 16).astype(kind)
        for a in (plus, minus)
    ]
    for threshold, equals in ((2.0, -3), (2.0, 1000), (2.0, 5000), (0.3, 0), (40.0, 0)):
        bits = int(np.float32(threshold).view(np.uint32))
        found, expected = ([(1.0, *(a.copy() for a in raw))] for _ in range(2))
        assert arrays.trim_difference(found, bits, equals)
        arrays.trim(expected, values, bits, equals)
        for a, b in zip(arrays.raw_arrays(found), arrays.raw_arrays(expected), strict=True):
            assert a.tobytes() == b.tobytes()


def test_other_sums_are_not_trimmed_by_themselves():
    one, wide = np.uint16([1, 2]), np.float32([1, 2])
    for parts in ([(0.5, one, one)], [(1.0, wide, wide)], [(1.0, one, None)], [(1.0, one, one)] * 2):
        assert not arrays.trim_difference(parts, 2**30, 0)
    assert not arrays.trim_difference([(1.0, one, one)], arrays.PLAIN - 1, 0) and one.tolist() == [1, 2]


def test_dropping_clears_what_is_marked():
    parts = [(1.0, np.float32([1, -np.inf, np.nan, 4]), np.uint16([1, 2, 3, 4]))]
    arrays.drop(parts, np.array([False, True, True, False]))
    assert parts[0][1].tolist() == [1, 0, 0, 4] and parts[0][2].tolist() == [1, 0, 0, 4]


@pytest.mark.parametrize("size", [1, 2, 7, 70_000])
def test_the_largest_of_a_place_is_that_of_a_sort(size):
    for numbers in (
        RNG.integers(0, 2**31, size, np.uint32),
        RNG.integers(2**30, 2**30 + 3, size, np.uint32),
        np.full(size, 2**31 - 1, np.uint32),
    ):
        ordered = np.sort(numbers)[::-1]
        for place in {1, (size + 1) // 2, size}:
            assert arrays._largest(numbers, place) == ordered[place - 1]


def test_more_near_a_guess_than_there_was_room_for():
    values = np.float32([3, -2, 1, -3, 0.5] * 100)
    near, above = arrays._near(values, *(int(np.float32(x).view(np.uint32)) for x in (1, 2)))
    assert near.view(np.float32).tolist() == [2, 1] * 100 and above == 200


@pytest.mark.parametrize("kind", [np.uint16, np.float16])
def test_what_is_near_in_a_difference_is_near_in_its_elements(kind):
    plus, minus = (np.round(64 * RNG.standard_normal(3001)).astype(np.float32) / 64 for _ in range(2))
    raw = [
        a.astype(kind) if kind is np.float16 else (a.view(np.uint32) >> 16).astype(kind)
        for a in (plus, minus)
    ]
    values = exact.combine(None, [(1.0, *raw)], np.empty(3001, np.float32))
    for low, high in ((0.5, 1.0), (0.01, 100.0), (50.0, 60.0)):
        bits = [int(np.float32(x).view(np.uint32)) for x in (low, high)]
        near, above = arrays._near(raw[0], *bits, raw[1])
        size = np.abs(values)
        assert near.view(np.float32).tolist() == size[(size >= low) & (size <= high)].tolist()
        assert above == np.count_nonzero(size > high)
    raw[0][17] = 0x7F80 if kind is np.uint16 else np.inf
    assert arrays._near(raw[0], 2**29, 2**30, raw[1]) is None, "for the general way to refuse"
