"""What transforms compute on arrays: a threshold, a mask's random bits, a low rank, a vote. Nothing here knows a vector."""

from __future__ import annotations

import numpy as np
import xxhash

from chatvec_lab.weights.numerics import exact


def random_bits(kind: str, seed: int, name: str, unit: int = 0) -> np.random.Philox:
    """A counter-based generator of its own for each tensor (and unit), the same on every machine."""
    return np.random.Philox(key=xxhash.xxh3_128_intdigest(f"{kind}/{seed}/{name}/{unit}".encode()))


def drop(parts: list[exact.Part], dropped: np.ndarray) -> list[exact.Part]:
    """The parts with zeros where `dropped` is true; their arrays are overwritten."""
    for _, plus, minus in parts:
        plus[dropped] = 0
        if minus is not None:
            minus[dropped] = 0
    return parts


def magnitude_threshold(blocks, keep: int) -> tuple[float, int]:
    """The magnitude of the `keep`-th largest element, and the index behind the last one kept among those equal to it.

    `blocks()` iterates over (start, float32 elements). Exact selection by radix (the bits of positive floats are in
    their order), in three passes with the memory of a block.
    """
    above, prefix = 0, 0
    for shift, known in ((16, 0), (0, 16)):  # upper half of the bits, then the lower
        counts = np.zeros(1 << 16, np.int64)
        for _, block in blocks():
            bits = np.abs(block).view(np.uint32)
            if known:
                bits = bits[bits >> 16 == prefix]
            counts += np.bincount((bits >> shift) & 0xFFFF, minlength=1 << 16)
        from_top = counts[::-1].cumsum()
        digit = (1 << 16) - 1 - int(np.searchsorted(from_top, keep - above))
        above += int(counts[digit + 1 :].sum())
        prefix = prefix << 16 | digit
    threshold, wanted = np.uint32(prefix).view(np.float32), keep - above
    for start, block in blocks():
        ties = np.flatnonzero(np.abs(block) == threshold)
        if wanted <= ties.size:
            return float(threshold), start + int(ties[wanted - 1]) + 1
        wanted -= ties.size
    raise AssertionError(f"{keep} elements were not found again")


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


def agreed_mean(deltas: np.ndarray) -> np.ndarray:
    """Mean of the deltas (vectors, elements) whose sign is that of their sum; zero where none is. Shape (elements,)."""
    agreeing = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1.0, -1.0)
    total, count = (deltas * agreeing).sum(0), agreeing.sum(0)
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)
