"""The methods of transforms: what each must know of a whole tensor, and how a span is made from that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, prod
from typing import Any, ClassVar, Protocol

import numpy as np

from chatvec_lab.weights.numerics import draws, exact, votes
from chatvec_lab.weights.numerics.arrays import (
    PLAIN,
    drop,
    magnitude_threshold,
    narrow_difference,
    randomised_svd,
    raw_arrays,
    trim,
    trim_difference,
)
from chatvec_lab.weights.numerics.blocks import Workspace, block_spans, measure_spans, work_spans
from chatvec_lab.weights.together import Share, alone
from chatvec_lab.weights.vector import WeightVector

OfPair = Callable[[int, np.ndarray, np.ndarray], Any]


@dataclass(frozen=True)
class Tensor:
    """One tensor of the vectors that are transformed, all in the rows of the first."""

    name: str
    vectors: tuple[WeightVector, ...]
    share: Share = alone
    record: Callable | None = None  # sees what is read, as that of a `Workspace`
    spaces: list[Workspace] = field(default_factory=list)  # idle ones

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self.vectors[0].shape(self.name)

    @cached_property
    def size(self) -> int:
        return prod(self.shape)

    @cached_property
    def is_table(self) -> bool:
        return self.vectors[0].is_table(self.name)

    @cached_property
    def rows(self) -> dict:
        """The rows in which the vectors are read, where each has its own."""
        if len(self.vectors) == 1 or not self.is_table:
            return {}
        return {"vocabulary": self.vectors[0].vocabulary, "rows": self.shape[0]}

    def parts(self, start: int, stop: int, work: Workspace, which: int = 0) -> list[exact.Part]:
        return self.vectors[which].parts(self.name, start, stop, work=work, **self.rows)

    def deltas(self, start: int, stop: int, work: Workspace) -> list[votes.Delta]:
        """Each vector's elements in a span for a vote, which takes them as they are read and trims them on its way."""
        # neighbouring spans, of two threads, begin with different vectors, so that these are measured side by side
        count, found = len(self.vectors), {}
        with work.shared():  # a base that several have is read once
            for i in range(count):
                which = (i + start // max(1, stop - start)) % count
                found[which] = self._delta(start, stop, work, which)
        return [found[i] for i in range(count)]

    def _delta(self, start: int, stop: int, work: Workspace, which: int) -> votes.Delta:
        leaf, begin = self.vectors[which].only(self.name, start, stop, **self.rows) or (None, start)
        known = None
        if isinstance(getattr(leaf, "method", None), Magnitude):
            parts, known = leaf.untouched(self.name, begin, begin + stop - start, work)
        else:
            parts = self.parts(start, stop, work, which)
        if known is not None and narrow_difference(parts) and known[0] >= PLAIN:
            return votes.Delta(*parts[0][1:], known[0], known[1] - begin)
        if known is None and len(parts) == 1 and parts[0][0] == 1.0:
            return votes.Delta(*parts[0][1:])
        values = self._rounded(parts, np.float64, stop - start, work, which)
        if known is not None:
            single = self._rounded(parts, np.float32, stop - start, work, which)
            trim([(1.0, values, None)], single, known[0], known[1] - begin)
        return votes.Delta(values)

    def values(self, start: int, stop: int, work: Workspace, dtype=np.float64, which: int = 0) -> np.ndarray:
        """The elements in a span, rounded once, in a buffer of `work`."""
        return self._rounded(self.parts(start, stop, work, which), dtype, stop - start, work, which)

    def _rounded(self, parts: list[exact.Part], dtype, size: int, work: Workspace, which: int) -> np.ndarray:
        out = work.array(np.dtype(dtype), size)
        return self.vectors[which]._combined(self.name, None, parts, out, work)

    def blocks(self, dtype=np.float64, which: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(start, elements) span by span."""
        work = Workspace(self.record)
        for start, stop in work_spans(self.shape):
            yield start, self.values(start, stop, work, dtype, which)
            work.release()

    def each(self, function: Callable[[int, np.ndarray], Any], of_pair: OfPair | None = None) -> list:
        """`lend` of each span, in their order, shared among threads."""
        return self.share(lambda span: self.lend(function, *span, of_pair), measure_spans(self.shape))

    def lend(
        self,
        function: Callable[[int, np.ndarray], Any],
        start: int,
        stop: int,
        of_pair: OfPair | None = None,
    ) -> Any:
        """`function(start, elements)` of one span, whose elements, float32, are lent.

        Where they are one difference of two arrays of 16 bits `of_pair(start, plus, minus)` is tried first: None says that
        it cannot tell.
        """
        try:
            work = self.spaces.pop()
        except IndexError:
            work = Workspace()
        work.record = self.record
        try:
            parts = self.parts(start, stop, work)
            if of_pair is not None and narrow_difference(parts):
                found = of_pair(start, *parts[0][1:])
                if found is not None:
                    return found
            return function(start, self._rounded(parts, np.float32, stop - start, work, 0))
        finally:
            work.release()
            self.spaces.append(work)


class Method(Protocol):
    """A transform: what it is called, what it must know of a whole tensor, and how a span of the result is made."""

    keeps_chat_side: bool  # whether the result still carries the chat model's template and end of turn

    def label(self, of: Sequence[str]) -> str: ...
    def describe(self, of: Sequence[WeightVector]) -> dict: ...
    def measure(self, tensor: Tensor) -> Any: ...
    def span(
        self, tensor: Tensor, known: Any, start: int, stop: int, work: Workspace
    ) -> list[exact.Part]: ...


@dataclass(frozen=True)
class Magnitude:
    """The largest elements of each tensor, a share `density`; ties at the threshold in file order."""

    density: float
    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return f"magnitude {self.density:g} of {of[0]}"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        return {"sparsified": "magnitude", "density": self.density, "of": of[0].describe()}

    def kept(self, size: int) -> int:
        """How many of a tensor's elements stay."""
        return max(1, round(self.density * size))

    def measure(self, tensor: Tensor) -> tuple[int, int] | None:
        if self.density == 1.0 or not tensor.size:
            return None
        return magnitude_threshold(tensor, self.kept(tensor.size))

    def span(self, tensor: Tensor, known, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        parts = tensor.parts(start, stop, work)
        if known is None:
            return parts
        threshold, behind = known
        if trim_difference(parts, threshold, behind - start):
            return parts
        values = work.array(np.dtype(np.float32), stop - start)
        tensor.vectors[0]._combined(tensor.name, None, parts, values, work)
        return trim(parts, values, threshold, behind - start)


@dataclass(frozen=True)
class Dare:
    """Each element with probability `density`, divided by it; the rest exactly zero (arXiv 2311.03099)."""

    density: float
    seed: int
    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return f"dare {self.density:g} of {of[0]}"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        facts = {"sparsified": "dare", "density": self.density, "of": of[0].describe(), "seed": self.seed}
        return facts if self.density == 1.0 else facts | {"generator": draws.GENERATOR}

    def measure(self, tensor: Tensor) -> None:
        return None

    def span(self, tensor: Tensor, known: None, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        parts = tensor.parts(start, stop, work)
        if self.density == 1.0:
            return parts
        draws.thin(draws.stream("dare", self.seed, tensor.name), start, self.density, raw_arrays(parts))
        return [(c / self.density, plus, minus) for c, plus, minus in parts]


@dataclass(frozen=True)
class LowRank:
    """Each matrix as the product of two factors of `rank`: its best approximation, by randomised SVD.

    Norms, biases, tables, matrices no larger than the rank and stacked experts are kept whole (`describe` lists
    them). Follows Halko et al. (arXiv 0909.4061) with four power iterations.
    """

    rank: int
    seed: int
    keeps_chat_side: ClassVar[bool] = True

    def __post_init__(self):
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank={self.rank!r}: expected a whole number from 1.")

    def label(self, of: Sequence[str]) -> str:
        return f"rank {self.rank} of {of[0]}"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        whole = [name for name in of[0].names if self.is_whole(Tensor(name, tuple(of)))]
        return {"low_rank": self.rank, "seed": self.seed, "whole": whole, "of": of[0].describe()}

    def is_whole(self, tensor: Tensor) -> bool:
        return len(tensor.shape) != 2 or tensor.is_table or min(tensor.shape) <= self.rank

    def measure(self, tensor: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
        """Left factor with the singular values, (m, rank), and right factor, (rank, n), float64; None: kept whole."""
        if self.is_whole(tensor):
            return None
        matrix = np.empty(tensor.size, np.float32)
        for start, block in tensor.blocks(np.float32):
            matrix[start : start + block.size] = block
        left, values, right = randomised_svd(matrix.reshape(tensor.shape), self.rank, self.seed)
        return left * values, right

    def span(self, tensor: Tensor, known, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        if known is None:
            return tensor.parts(start, stop, work)
        left, right = known
        width = right.shape[1]
        first, last = start // width, -(-stop // width)
        # float64 products, rounded once to float32: the same elements whatever rows are asked for together
        rows = (left[first:last] @ right).astype(np.float32).reshape(-1)
        return [(1.0, rows[start - first * width : stop - first * width], None)]


@dataclass(frozen=True)
class Rows:
    """The rows of some tokens in the tables that have one a token, and zero everywhere else."""

    tokens: tuple[str, ...]
    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return f"rows of {' '.join(self.tokens)} of {of[0]}"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        return {"rows": list(self.tokens), "of": of[0].describe()}

    def measure(self, tensor: Tensor) -> np.ndarray | None:
        """Which rows stay, shape (rows,), bool; None for a tensor that has no row a token."""
        if not tensor.is_table:
            return None
        vector = tensor.vectors[0]
        known = vector.vocabulary.tokens if vector.vocabulary is not None else {}
        if unknown := [
            token for token in self.tokens if known.get(token, tensor.shape[0]) >= tensor.shape[0]
        ]:
            raise KeyError(
                f"{tensor.name} of {vector.label} has no row of {', '.join(map(repr, unknown))}: "
                f"{'no such token' if known else 'the tokenizer cannot be read by token'}."
            )
        kept = np.zeros(tensor.shape[0], bool)
        kept[[known[token] for token in self.tokens]] = True
        return kept

    def span(self, tensor: Tensor, known, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        parts = tensor.parts(start, stop, work)
        if known is None:
            return drop(parts, np.ones(stop - start, bool))
        return drop(parts, ~known[np.arange(start, stop) // prod(tensor.shape[1:])])


@dataclass(frozen=True)
class Noise:
    """Gaussian noise with the vector's L2 norm in each tensor, and in each row of a table: the control.

    Row by row, so that rows without a difference get none, and any CP's choice of rows has the vector's norm. In other
    tensors each block of some 262,144 elements has its share of the norm, √(its elements / all), so that a block is drawn
    and scaled at once. An element's number depends on seed, tensor and place alone (`numerics.draws`), so any span can be
    made by itself; it is rounded to float32 once it is scaled.
    """

    seed: int
    keeps_chat_side: ClassVar[bool] = False  # noise knows no template

    def label(self, of: Sequence[str]) -> str:
        return f"noise like {of[0]}"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        return {"random_like": of[0].describe(), "seed": self.seed, "generator": draws.GENERATOR}

    def measure(self, tensor: Tensor) -> np.ndarray:
        """The norm of each unit of the noise, shape (units,), float64."""
        unit = self._unit(tensor)
        found = tensor.each(  # spans are whole units
            lambda start, values: draws.squares(values, unit),
            lambda start, plus, minus: draws.squares_of_difference(plus, minus, unit),
        )
        squares = np.concatenate([np.zeros(0), *found])
        if not tensor.is_table:  # each unit has its share of the tensor's
            sizes = np.minimum(unit, tensor.size - unit * np.arange(squares.size))
            squares = squares.sum() * (sizes / max(1, tensor.size))
        return np.sqrt(squares)

    def span(self, tensor: Tensor, known, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        unit = self._unit(tensor)
        first, last = start // unit, max(ceil(stop / unit), start // unit + 1)
        begin, end = first * unit, min(last * unit, tensor.size)
        out = work.array(np.dtype(np.float32), end - begin)
        draws.noise(draws.stream("noise", self.seed, tensor.name), begin, unit, known[first:last], out)
        return [(1.0, out[start - begin : stop - begin], None)]

    def _unit(self, tensor: Tensor) -> int:
        """Elements of a unit: a row of a table, else a block."""
        if tensor.is_table:
            return prod(tensor.shape[1:])
        spans = block_spans(tensor.shape)
        return spans[0][1] - spans[0][0] if spans else 1


@dataclass(frozen=True)
class Ties:
    """Of trimmed vectors: elect a sign, average those that agree (arXiv 2306.01708). Rounded to float64 once.

    Where they cancel to exactly 0 the positive ones are elected. They were trimmed tensor by tensor, as in mergekit; the
    authors' own code ranks all parameters together.
    """

    density: float
    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return "TIES of " + ", ".join(of)

    def describe(self, of: Sequence[WeightVector]) -> dict:
        return {"ties": [v.describe() for v in of], "density": self.density}

    def measure(self, tensor: Tensor) -> None:
        return None

    def span(self, tensor: Tensor, known: None, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        deltas, size = tensor.deltas(start, stop, work), stop - start
        if len(deltas) == 2 and all(delta.least for delta in deltas):
            high, low = (work.array(np.dtype(np.float32), size) for _ in range(2))
            with suppress(OverflowError):
                return [(1.0, high, votes.agreed_of_two(deltas, high, low))]
        return [(1.0, votes.agreed(deltas, work.array(np.dtype(np.float64), size)), None)]
