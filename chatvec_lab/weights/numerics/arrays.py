"""What transforms compute on arrays: a threshold, a mask's random bits, a low rank, a vote. Nothing here knows a vector."""

from __future__ import annotations

import numpy as np
import xxhash
from numba import njit

from chatvec_lab.weights.numerics import exact


def random_bits(kind: str, seed: int, name: str, unit: int = 0) -> np.random.Philox:
    """A counter-based generator of its own for each tensor (and unit), the same on every machine."""
    return np.random.Philox(key=xxhash.xxh3_128_intdigest(f"{kind}/{seed}/{name}/{unit}".encode()))


def drop(parts: list[exact.Part], dropped: np.ndarray) -> list[exact.Part]:
    """The parts with zeros where `dropped` is true; their arrays are overwritten."""
    for _, plus, minus in parts:
        for raw in (plus, minus):
            if raw is not None:
                _clear(raw.view(f"u{raw.itemsize}"), dropped)
    return parts


@njit(nogil=True, cache=True)
def _clear(raw, dropped):
    for i in range(raw.size):
        raw[i] = raw[i] * raw.dtype.type(not dropped[i])


@njit(nogil=True, cache=True)
def _count(bits, counts):
    """Add the elements, raw float32, to the counts of the upper halves of their magnitudes."""
    for i in range(bits.size):
        counts[(bits[i] >> np.uint32(16)) & np.uint32(0x7FFF)] += 1


@njit(nogil=True, cache=True)
def below(bits, threshold, start, behind, dropped):
    """Mark the elements, raw float32, whose magnitude is below a threshold, or equal to it from index `behind` on."""
    for i in range(bits.size):
        size = bits[i] & np.uint32(0x7FFFFFFF)
        dropped[i] = (size < threshold) | ((size == threshold) & (start + i >= behind))


def magnitude_threshold(blocks, keep: int) -> tuple[np.uint32, int]:
    """The magnitude of the `keep`-th largest element, as bits, and the index behind the last kept among its equals.

    `blocks()` iterates over (start, float32 elements). Exact, in two passes (the bits of positive floats are in their
    order): the first counts upper halves, the second keeps what lies in the half that holds the threshold, 1/128 of a
    binade.
    """
    counts = np.zeros(1 << 15, np.int64)
    for _, block in blocks():
        _count(block.view(np.uint32), counts)
    from_top = counts[::-1].cumsum()
    upper = (1 << 15) - 1 - int(np.searchsorted(from_top, keep))
    wanted = keep - int(counts[upper + 1 :].sum())
    near, places = [], []
    for start, block in blocks():
        size = block.view(np.uint32) & np.uint32(0x7FFFFFFF)
        here = np.flatnonzero(size >> 16 == upper)
        near.append(size[here])
        places.append(here + start)
    near, places = np.concatenate(near), np.concatenate(places)
    threshold = np.partition(near, near.size - wanted)[near.size - wanted]
    ties = places[near == threshold]
    return threshold, int(ties[wanted - 1 - int((near > threshold).sum())]) + 1


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


@njit(nogil=True, cache=True)
def agreed_mean(deltas):
    """Mean of the deltas (vectors, elements) whose sign is that of their sum; zero where none is. Shape (elements,)."""
    out = np.zeros(deltas.shape[1])
    for i in range(deltas.shape[1]):
        sums = 0.0
        for k in range(deltas.shape[0]):
            sums += deltas[k, i]
        total, count = 0.0, 0
        for k in range(deltas.shape[0]):
            if (deltas[k, i] > 0.0) if sums >= 0.0 else (deltas[k, i] < 0.0):
                total += deltas[k, i]
                count += 1
        if count:
            out[i] = total / count
    return out
