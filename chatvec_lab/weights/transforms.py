"""Transforms of a vector, each a leaf of a new one: sparsify, low rank, random control, TIES. All stay lazy.

What a transform must know of a whole tensor (a threshold, two factors, a norm) is computed when the tensor is
first asked for and kept; elements are made span by span like those of any other leaf.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import ceil, prod, sqrt
from typing import Literal, get_args

import numpy as np
import xxhash

from chatvec_lab.weights.layout import has_vocabulary_axis
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace, block_spans
from chatvec_lab.weights.vector import Term, WeightVector

Method = Literal["magnitude", "dare"]


class Transform:
    """What all transforms share: names, rows and chat side of the vector within, and facts kept for each tensor."""

    def __init__(self, vector: WeightVector, label: str):
        self.vector, self.label = vector, label
        self._facts: dict = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return self.vector.names

    def resolve(self, name: str) -> str | None:
        return self.vector.resolve(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.vector.shape(name)

    @property
    def vocabulary(self):
        return self.vector.vocabulary

    @property
    def chat_side(self):
        return self.vector.chat_side

    def sources(self):
        return self.vector.sources()

    def fact(self, name: str):
        """`self.measure(name)`, computed once."""
        with self._lock:
            if name not in self._facts:
                self._facts[name] = self.measure(name)
            return self._facts[name]

    def values(self, name: str, start: int, stop: int, work: Workspace, dtype=np.float64) -> np.ndarray:
        """The vector's elements in a span of its own rows, rounded once."""
        parts = self.vector.parts(name, start, stop, work=work)
        return self.vector._combined(name, None, parts, np.empty(stop - start, dtype), work)

    def blocks(self, name: str, dtype=np.float64):
        """(start, elements) block by block."""
        work = Workspace()
        for start, stop in block_spans(self.shape(name)):
            yield start, self.values(name, start, stop, work, dtype)
            work.release()


def _generator(kind: str, seed: int, name: str, unit: int = 0) -> np.random.Philox:
    """A counter-based generator of its own for each tensor (and unit), the same on every machine."""
    return np.random.Philox(key=xxhash.xxh3_128_intdigest(f"{kind}/{seed}/{name}/{unit}".encode()))


class Sparsified(Transform):
    """A share `density` of each tensor's elements, the rest exactly zero.

    "magnitude" keeps the largest (ties at the threshold in file order, so that the share is exact);
    "dare" keeps each with probability `density` and divides it by `density` (arXiv 2311.03099).
    """

    def __init__(self, vector: WeightVector, method: Method, density: float, seed: int):
        if method not in get_args(Method):
            raise ValueError(f"method={method!r}: expected one of {', '.join(get_args(Method))}.")
        if not 0 < density <= 1:
            raise ValueError(f"density={density!r}: expected a share of elements to keep, in (0, 1].")
        super().__init__(vector, f"{method} {density:g} of {vector.label}")
        self.method, self.density, self.seed = method, float(density), seed

    def describe(self) -> dict:
        recipe = {"sparsified": self.method, "density": self.density, "of": self.vector.describe()}
        return recipe | ({"seed": self.seed} if self.method == "dare" else {})

    def kept(self, size: int) -> int:
        """How many of a tensor's elements "magnitude" keeps."""
        return max(1, round(self.density * size))

    def measure(self, name: str) -> tuple[float, int]:
        """The magnitude threshold, and the flat index behind the last element kept among those equal to it.

        Exact selection by radix (the bits of positive floats are in their order), in three passes over the tensor
        with the memory of a block.
        """
        size = prod(self.shape(name))
        keep = self.kept(size)
        above, prefix = 0, 0
        for shift, known in ((16, 0), (0, 16)):  # upper half of the bits, then the lower
            counts = np.zeros(1 << 16, np.int64)
            for _, block in self.blocks(name, np.float32):
                bits = np.abs(block).view(np.uint32)
                if known:
                    bits = bits[bits >> 16 == prefix]
                counts += np.bincount((bits >> shift) & 0xFFFF, minlength=1 << 16)
            from_top = counts[::-1].cumsum()
            digit = (1 << 16) - 1 - int(np.searchsorted(from_top, keep - above))
            above += int(counts[digit + 1 :].sum())
            prefix = prefix << 16 | digit
        threshold, wanted = np.uint32(prefix).view(np.float32), keep - above
        for start, block in self.blocks(name, np.float32):
            ties = np.flatnonzero(np.abs(block) == threshold)
            if wanted <= ties.size:
                return float(threshold), start + int(ties[wanted - 1]) + 1
            wanted -= ties.size
        raise AssertionError(f"{name}: {keep} of {size} elements were not found again")

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        parts = self.vector.parts(name, start, stop, work=work)
        if self.density == 1.0:
            return parts
        if self.method == "dare":
            start, stop = int(start), int(stop)  # numpy's own integers are too narrow for advance
            first = start // 4  # a Philox step gives four numbers
            bits = (
                _generator("dare", self.seed, name)
                .advance(first)
                .random_raw(stop - 4 * first)[start - 4 * first :]
            )
            dropped = bits >= np.uint64(self.density * 2.0**64)
            parts = [(c / self.density, plus, minus) for c, plus, minus in parts]
        else:
            threshold, behind = self.fact(name)
            size = np.abs(self.vector._combined(name, None, parts, np.empty(stop - start, np.float32), work))
            dropped = size < threshold
            dropped |= (size == threshold) & (np.arange(start, stop) >= behind)
        for _, plus, minus in parts:
            plus[dropped] = 0
            if minus is not None:
                minus[dropped] = 0
        return parts


class LowRank(Transform):
    """Each matrix as the product of two factors of `rank`: its best approximation, by randomised SVD.

    Norms, biases, embedding and head, matrices no larger than the rank and stacked experts are kept whole
    (`describe` lists them). Follows Halko et al. (arXiv 0909.4061) with four power iterations.
    """

    def __init__(self, vector: WeightVector, rank: int, seed: int):
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank={rank!r}: expected a whole number from 1.")
        super().__init__(vector, f"rank {rank} of {vector.label}")
        self.rank, self.seed = rank, seed

    def is_whole(self, name: str) -> bool:
        shape = self.shape(name)
        return len(shape) != 2 or has_vocabulary_axis(name) or min(shape) <= self.rank

    def describe(self) -> dict:
        whole = [name for name in self.names if self.is_whole(name)]
        return {"low_rank": self.rank, "seed": self.seed, "whole": whole, "of": self.vector.describe()}

    def measure(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Left factor with the singular values, (m, rank), and right factor, (rank, n), float64."""
        matrix = np.empty(prod(self.shape(name)), np.float32)
        for start, block in self.blocks(name, np.float32):
            matrix[start : start + block.size] = block
        left, values, right = randomised_svd(matrix.reshape(self.shape(name)), self.rank, self.seed)
        return left * values, right

    def factors(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The two factors of a tensor, or None where it is kept whole."""
        return None if self.is_whole(name) else self.fact(name)

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        if self.is_whole(name):
            return self.vector.parts(name, start, stop, work=work)
        left, right = self.fact(name)
        width = right.shape[1]
        first, last = start // width, -(-stop // width)
        # float64 products, rounded once to float32: the same elements whatever rows are asked for together
        rows = (left[first:last] @ right).astype(np.float32).reshape(-1)
        return [(1.0, rows[start - first * width : stop - first * width], None)]


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


class Noise(Transform):
    """Gaussian noise with the vector's L2 norm in each tensor: the control that task arithmetic uses.

    Every unit (a block, or a row of embedding and head) has its own generator, so any span can be made alone.
    """

    chat_side = None  # noise knows no template

    def __init__(self, vector: WeightVector, seed: int):
        super().__init__(vector, f"noise like {vector.label}")
        self.seed = seed

    def describe(self) -> dict:
        return {"random_like": self.vector.describe(), "seed": self.seed}

    def _unit(self, name: str) -> int:
        shape = self.shape(name)
        if has_vocabulary_axis(name):
            return prod(shape[1:])
        spans = block_spans(shape)
        return spans[0][1] - spans[0][0] if spans else 1

    def _raw(self, name: str, unit: int, size: int) -> np.ndarray:
        bits = _generator("noise", self.seed, name, unit)
        return np.random.Generator(bits).standard_normal(size, dtype=np.float32)

    def measure(self, name: str) -> float:
        """The factor that gives the noise the vector's norm."""
        squares = sum(float(np.dot(block, block)) for _, block in self.blocks(name))
        size, unit = prod(self.shape(name)), self._unit(name)
        drawn = 0.0
        for i in range(ceil(size / unit)):
            noise = self._raw(name, i, min(unit, size - i * unit)).astype(np.float64)
            drawn += float(np.dot(noise, noise))
        return sqrt(squares / drawn) if drawn else 0.0

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        size, unit = prod(self.shape(name)), self._unit(name)
        first, last = start // unit, max(ceil(stop / unit), start // unit + 1)
        pieces = [self._raw(name, i, min(unit, size - i * unit)) for i in range(first, last)]
        noise = np.concatenate(pieces)[start - first * unit : stop - first * unit]
        return [(self.fact(name), noise, None)]


class Ties(Transform):
    """TIES of several vectors: trim each to `density`, elect a sign, average those that agree (arXiv 2306.01708)."""

    def __init__(self, vectors: Sequence[WeightVector], density: float):
        self.trimmed = [v.sparsified("magnitude", density=density) for v in vectors]
        self.density = density
        super().__init__(sum(vectors), "TIES of " + ", ".join(v.label for v in vectors))

    def describe(self) -> dict:
        return {"ties": [v.describe() for v in self.trimmed], "density": self.density}

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        spaces = (
            {"vocabulary": self.vocabulary, "rows": self.shape(name)[0]} if has_vocabulary_axis(name) else {}
        )
        stack = []
        for vector in self.trimmed:
            parts = vector.parts(name, start, stop, work=work, **spaces)
            stack.append(vector._combined(name, None, parts, np.empty(stop - start), work))
        deltas = np.stack(stack)
        agreeing = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1.0, -1.0)
        total, count = (deltas * agreeing).sum(0), agreeing.sum(0)
        return [(1.0, np.divide(total, count, out=np.zeros_like(total), where=count > 0), None)]


def ties(vectors: Sequence[WeightVector], *, density: float = 0.2) -> WeightVector:
    """One vector from several by trimming, electing signs and averaging what agrees; see `Ties`.

    `density` is the share of each tensor that is kept before the vote (the paper keeps 20 %). The result is
    rounded to float64 once for each element (a mean has no exact sum form).
    """
    vectors = list(vectors)
    if not vectors or not all(isinstance(v, WeightVector) for v in vectors):
        raise TypeError(f"ties takes a list of weight vectors, got {vectors!r}.")
    return WeightVector((Term(1.0, Ties(vectors, density)),))
