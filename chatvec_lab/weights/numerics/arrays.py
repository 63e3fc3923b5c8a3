"""What transforms compute on arrays: a threshold, a mask, a low rank. Nothing here knows a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.machine import Kernel, address
from chatvec_lab.weights.numerics.sums import NONE, TILE, code

BINS = 1 << 15  # of counts
PLAIN = 27 << 23  # 2**-100, as bits of a float32
SAMPLES, SAMPLE = 16, 4096  # stretches of a tensor, and elements of each, that a threshold is guessed from


def _source() -> ModuleType:
    from chatvec_lab.weights.numerics import compiled_arrays

    return compiled_arrays


_CLEAR = Kernel(_source, "clear", "qqqq")
_TRIM = Kernel(_source, "trim", "qqIqq")
_TRIM_PAIR = Kernel(_source, "trim_pair", "qqqqI")
_COUNTS = Kernel(_source, "counts", "qqIIq")
_NEAR = Kernel(_source, "near", "qqqqIIqqqq")


def raw_arrays(parts: Sequence[exact.Part]) -> list[np.ndarray]:
    """The arrays of parts, in their order."""
    return [raw for _, *both in parts for raw in both if raw is not None]


def drop(parts: list[exact.Part], dropped: np.ndarray) -> list[exact.Part]:
    """The parts with zeros where `dropped`, bool, is true; their arrays are overwritten."""
    kept, given = np.logical_not(dropped), _given(raw_arrays(parts))
    _CLEAR(address(kept), kept.size, address(given), len(given))
    return parts


def trim(parts: list[exact.Part], values: np.ndarray, threshold: int, equals: int) -> list[exact.Part]:
    """The parts with zeros where the magnitude of `values`, float32, has bits below a threshold.

    Of those that are equal to it the elements before index `equals` stay. The arrays of the parts are overwritten.
    """
    equals = min(max(0, equals), values.size)
    for least, cut in ((threshold, slice(0, equals)), (threshold + 1, slice(equals, None))):
        own, given = values[cut], _given([raw[cut] for raw in raw_arrays(parts)])
        _TRIM(address(own), own.size, least, address(given), len(given))
    return parts


def narrow_difference(parts: Sequence[exact.Part]) -> bool:
    """Whether parts are one difference of two arrays in one format of 16 bits, as it is."""
    if len(parts) != 1 or parts[0][0] != 1.0 or parts[0][2] is None:
        return False
    return parts[0][1].dtype == parts[0][2].dtype and parts[0][1].itemsize == 2


def trim_difference(parts: list[exact.Part], threshold: int, equals: int) -> bool:
    """`trim` by the elements themselves, in one go, where they are one difference of 16-bit arrays; False where not.

    Nor where the threshold is so small that a difference below it might be no plain float32.
    """
    if threshold < PLAIN or not narrow_difference(parts):
        return False
    _, plus, minus = parts[0]
    equals = min(max(0, equals), plus.size)
    for least, cut in ((threshold, slice(0, equals)), (threshold + 1, slice(equals, None))):
        own, other = plus[cut], minus[cut]
        _TRIM_PAIR(address(own), address(other), code(own), own.size, least)
    return True


class Elements(Protocol):
    """What a threshold is taken of: a flat run of elements that is read in blocks."""

    size: int

    def each(self, function: Callable[[int, np.ndarray], Any], of_pair: Callable | None = None) -> list: ...
    def lend(self, function: Callable[[int, np.ndarray], Any], start: int, stop: int) -> Any: ...


def magnitude_threshold(elements: Elements, keep: int) -> tuple[int, int]:
    """The magnitude of the `keep`-th largest element, as bits, and the index behind the last kept among its equals.

    Exact, as a rule in one pass (the bits of positive floats are in their order): it counts what is above, and keeps
    what is near, a guess from a sample. Where the guess was wrong the pass is made again, from counts.
    """
    found = _all_near(elements, *_guess(elements, keep))
    wanted = keep - sum(above for _, _, above in found)  # of those that are near
    if not 0 < wanted <= sum(near.size for _, near, _ in found):
        found = _all_near(elements, *_counted(elements, keep))
        wanted = keep - sum(above for _, _, above in found)
    threshold = _largest(np.concatenate([near for _, near, _ in found]), wanted)
    equals = wanted - sum(np.count_nonzero(near > threshold) for _, near, _ in found)  # how many of them stay
    here = np.cumsum([np.count_nonzero(near == threshold) for _, near, _ in found])
    last = int(np.searchsorted(here, equals))  # the block in which the last of them lies
    start, stop = found[last][0], found[last + 1][0] if last + 1 < len(found) else elements.size
    equals -= int(here[last - 1]) if last else 0
    places = elements.lend(lambda start, values: _places(values, threshold), start, stop)
    return threshold, start + int(places[equals - 1]) + 1


def _places(values: np.ndarray, threshold: int) -> np.ndarray:
    """Where magnitudes are equal to a threshold."""
    size = np.uint32(threshold).view(np.float32)
    return np.flatnonzero((values == size) | (values == -size))


def _all_near(elements: Elements, low: int, high: int) -> list[tuple[int, np.ndarray, int]]:
    """(start, magnitudes from low to high, how many are above) of each block."""

    def of_pair(start: int, plus: np.ndarray, minus: np.ndarray) -> tuple | None:
        found = _near(plus, low, high, minus) if low >= PLAIN else None
        return found and (start, *found)

    return elements.each(lambda start, values: (start, *_near(values, low, high)), of_pair)


def _near(
    values: np.ndarray, low: int, high: int, minus: np.ndarray | None = None
) -> tuple[np.ndarray, int] | None:
    """The magnitudes, as bits, from low to high, and how many are above: of float32 elements, or of a difference.

    That is of two arrays of 16 bits, and `low` 2**-100 or more; None where an element of it is NaN or infinite.
    """
    above, scratch = np.zeros(1, np.int64), np.empty(TILE + TILE // 8 + TILE // 2)
    kind = NONE if minus is None else code(values)
    for room in (values.size // 16, values.size):  # as a rule a few in a hundred
        out = np.empty(room + 1, np.uint32)
        found = _NEAR(
            address(values), address(minus), kind, values.size, low, high, address(out), room, address(above),
            address(scratch),
        )  # fmt: skip
        if found <= room:
            break
    return None if found < 0 else (out[:found].copy(), int(above[0]))


def _largest(numbers: np.ndarray, place: int) -> int:
    """The `place`-th largest number: counts tell its bin, a sort of that bin the number."""
    low, high = int(numbers.min()), int(numbers.max())
    shift = max(0, (high - low).bit_length() - (BINS.bit_length() - 1))
    chosen, within = _bin(_counts(numbers, low, shift), place)
    first = low + (chosen << shift)
    inside = np.sort(numbers[(numbers >= first) & (numbers - np.uint32(first) < 1 << shift)])
    return int(inside[inside.size - within])


def _counts(values: np.ndarray, low: int, shift: int) -> np.ndarray:
    """How many elements have magnitudes whose bits, less `low` and without the last `shift`, are 0, 1, …."""
    found = np.zeros(BINS, np.int64)
    _COUNTS(address(values), values.size, low, shift, address(found))
    return found


def _bin(counts: np.ndarray, place: int) -> tuple[int, int]:
    """The bin of the `place`-th largest, and which of that bin it is."""
    from_top = counts[::-1].cumsum()
    steps = int(np.searchsorted(from_top, place))
    return counts.size - 1 - steps, place - (int(from_top[steps - 1]) if steps else 0)


def _guess(elements: Elements, keep: int) -> tuple[int, int]:
    """Magnitudes, as bits, between which the wanted one lies in all likelihood: everything, of few elements."""
    if elements.size <= 8 * SAMPLES * SAMPLE:
        return 0, 2**31 - 1
    starts = [(elements.size - SAMPLE) * i // (SAMPLES - 1) for i in range(SAMPLES)]
    stretches = [elements.lend(lambda _, values: values.copy(), start, start + SAMPLE) for start in starts]
    sample = np.stack(stretches)
    up_to, share = _counts(sample, 0, 16).cumsum(), 1 - keep / elements.size

    def bits_at(share: float) -> int:
        """The magnitude, without its last bits, that a share of the sample does not exceed."""
        return int(np.searchsorted(up_to, share * sample.size)) << 16

    # neighbours are alike, so that each stretch counts as one observation
    below = np.abs(sample) < np.uint32(bits_at(share)).view(np.float32)
    margin = 4 * below.mean(1).std() / SAMPLES**0.5 + 0.001
    low, high = share - margin, share + margin
    return bits_at(low) if low > 0 else 0, bits_at(high) | 0xFFFF if high < 1 else 2**31 - 1


def _counted(elements: Elements, keep: int) -> tuple[int, int]:
    """Magnitudes, as bits, between which the wanted one lies: 1/128 of a binade."""
    upper, _ = _bin(sum(elements.each(lambda start, values: _counts(values, 0, 16))), keep)
    return upper << 16, upper << 16 | 0xFFFF


def randomised_svd(
    matrix: np.ndarray, rank: int, seed: int, *, oversampling: int = 10, iterations: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leading `rank` singular triplets of an (m, n) matrix: U (m, rank), values (rank,), V (rank, n), float64.

    Exact (LAPACK) where the sketch would not be smaller than the matrix.
    """
    m, n = matrix.shape
    sketch = rank + oversampling
    if 2 * sketch >= min(m, n):
        u, s, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank]
    generator = np.random.Generator(np.random.Philox(seed))
    basis = np.linalg.qr(matrix @ generator.standard_normal((n, sketch), dtype=np.float32))[0]
    for _ in range(iterations):
        basis = np.linalg.qr(matrix.T @ basis)[0]
        basis = np.linalg.qr(matrix @ basis)[0]
    u, s, v = np.linalg.svd(basis.T.astype(np.float64) @ matrix, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], v[:rank]


def _given(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Addresses and item sizes."""
    return np.array([(address(raw), raw.itemsize) for raw in arrays], np.int64)
