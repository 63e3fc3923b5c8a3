"""What is measured together, and how it is read: pieces of tensors, and a reader that shares stored blocks.

A *piece* is a whole tensor or, where rows stand for tokens, the rows that are alike for every vector (shared by
all, new in one, special, ...). All elements of a piece are treated alike, so that no inner loop needs a mask.
Vectors that are plain differences share what is read: a base that three vectors have in common is read once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import prod

import numpy as np

from chatvec_lab.anatomy import kernels
from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.difference import Difference, Leaf, unpaired
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace, block_spans
from chatvec_lab.weights.saving.stream import workers
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.tokens.rows import Table, leaf_rows, paired
from chatvec_lab.weights.tokens.vocabulary import runs
from chatvec_lab.weights.transforms import Transform
from chatvec_lab.weights.vector import WeightVector

SHARED, SPECIAL, PADDING, NEW, ABSENT = "shared", "special", "padding", "new", "absent"


@dataclass(frozen=True)
class Piece:
    """Elements of one tensor that are alike for all `members` (indices of vectors).

    `kinds[k]` says what the rows are to member k; only shared, special and padding rows have a difference.
    `rows[k]` are the member's own rows (-1 where absent), or `rows` is None for all elements in stored order.
    """

    name: str
    members: tuple[int, ...]
    kinds: tuple[str, ...]
    rows: tuple[np.ndarray, ...] | None
    shape: tuple[int, ...]

    @cached_property
    def live(self) -> tuple[int, ...]:
        """Positions in `members` of the vectors that have a difference here."""
        return tuple(k for k, kind in enumerate(self.kinds) if kind in (SHARED, SPECIAL, PADDING))

    @property
    def size(self) -> int:
        return prod(self.shape)

    def spans(self) -> list[tuple[int, int]]:
        """Flat spans of about a million elements, whole rows where rows are tokens."""
        return block_spans(self.shape)


def pieces_of(vectors: Sequence[WeightVector], names: Sequence[str], *, together: bool) -> list[Piece]:
    """The pieces of all tensors. `together` False: vectors are measured each for itself and need not pair.

    Raises ValueError, listing every tensor that does not pair, when `together` is True.
    """
    result: list[Piece] = []
    lines: list[str] = []
    for name in dict.fromkeys(name for vector in vectors for name in vector.names):
        members = tuple(i for i, v in enumerate(vectors) if v.resolve(name))
        lines += [f"{name}   not in {names[i]}" for i in range(len(vectors)) if i not in members]
        shapes = {i: vectors[i].shape(name) for i in members}
        fixed = {s[1:] if vectors[members[0]].is_table(name) else s for s in shapes.values()}
        if len(fixed) > 1:
            lines.append(f"{name}   " + ", ".join(f"{names[i]} {shape}" for i, shape in shapes.items()))
        if together and not lines:
            result += _pieces(name, members, vectors)
        elif not together:
            for _, group in groupby(sorted(members, key=lambda i: _layout(name, vectors[i])),
                                    key=lambda i: _layout(name, vectors[i])):  # fmt: skip
                result += _pieces(name, tuple(group), vectors)
    if together and lines:
        total = len({name for vector in vectors for name in vector.names})
        raise ValueError(unpaired(" and ".join(names), lines, total, names[-1], names[0]))
    return result


def _layout(name: str, vector: WeightVector) -> tuple:
    """Equal for vectors whose rows agree one by one."""
    has_tokens = vector.is_table(name) and vector.vocabulary is not None
    return vector.shape(name), vector.vocabulary.digest if has_tokens else ""


def _pieces(name: str, members: tuple[int, ...], vectors: Sequence[WeightVector]) -> list[Piece]:
    shape = vectors[members[0]].shape(name)
    if not vectors[members[0]].is_table(name):
        return [Piece(name, members, (SHARED,) * len(members), None, shape)]
    chosen = [vectors[i] for i in members]
    frame = _frame(name, chosen)  # (members, rows): own row, or -1
    codes = np.stack([_kind_codes(name, v, rows) for v, rows in zip(chosen, frame, strict=True)])
    alike = np.zeros(codes.shape[1], np.int64)  # one small number a row: quicker to sort than columns are
    for code in codes:
        alike = np.unique(alike * len(_KINDS) + code, return_inverse=True)[1].reshape(-1)
    result = []
    for pattern in range(alike.max(initial=-1) + 1):
        taken = np.flatnonzero(alike == pattern)
        kinds = tuple(_KINDS[code] for code in codes[:, taken[0]])
        result.append(Piece(name, members, kinds, tuple(frame[:, taken]), (len(taken), *shape[1:])))
    return result


def _frame(name: str, vectors: list[WeightVector]) -> np.ndarray:
    """One row for each token that any vector has, with each vector's own row of it; shape (vectors, rows)."""
    layouts = [_layout(name, vector) for vector in vectors]
    counts = [vector.shape(name)[0] for vector in vectors]
    if len(set(layouts)) == 1:
        return np.tile(np.arange(counts[0]), (len(vectors), 1))
    for vector, count in zip(vectors[1:], counts[1:], strict=True):  # raises where a tokenizer is lacking
        first = vectors[0]
        ours = Table(first.label, first.vocabulary, counts[0])
        paired(name, ours, Table(vector.label, vector.vocabulary, count))
    if any(vector.vocabulary is None for vector in vectors):
        return np.tile(np.arange(counts[0]), (len(vectors), 1))  # as many rows each: paired one by one
    place: dict = {}
    keys = []
    for vector, count, layout in zip(vectors, counts, layouts, strict=True):
        by_row = vector.vocabulary.by_row
        keys.append(
            [by_row.get(row, (layout, row)) for row in range(count)]
        )  # padding pairs within one layout
        for key in keys[-1]:
            place.setdefault(key, len(place))
    frame = np.full((len(vectors), len(place)), -1, np.int64)
    for own, row_keys in zip(frame, keys, strict=True):
        own[[place[key] for key in row_keys]] = np.arange(len(row_keys))
    return frame


_KINDS = (SHARED, SPECIAL, PADDING, NEW, ABSENT)


def _kind_codes(name: str, vector: WeightVector, rows: np.ndarray) -> np.ndarray:
    """What each row of the frame is to a vector, as an index into `_KINDS`."""
    live, vocabulary = vector.live_rows(name), vector.vocabulary
    live = np.ones(vector.shape(name)[0], bool) if live is None else live
    codes = np.zeros(len(live), np.int64)
    if vocabulary is not None:
        known = np.zeros(len(live), bool)
        known[[row for row in vocabulary.by_row if row < len(live)]] = True
        codes[~known] = _KINDS.index(PADDING)
        special = [vocabulary.tokens[token] for token in vocabulary.special if token in vocabulary.tokens]
        codes[[row for row in special if row < len(live)]] = _KINDS.index(SPECIAL)
        codes[known & ~live] = _KINDS.index(NEW)
        codes[~known & ~live] = _KINDS.index(ABSENT)
    return np.where(rows >= 0, codes[rows], _KINDS.index(ABSENT))


def _rows_of(leaf: Leaf, name: str, vector: WeightVector, rows: np.ndarray) -> np.ndarray:
    """A leaf's own rows for rows of the vector (whose rows are those of its first term), -1 where it has none."""
    if len(vector.terms) == 1:
        return rows
    ids = leaf_rows(leaf, name, vector.vocabulary, vector.shape(name)[0])
    return np.where(rows >= 0, ids[rows], -1)


def base_of(vector: WeightVector) -> Difference | None:
    """The difference whose minus side is the vector's base; None for a stored vector, which has none."""
    leaf = vector.terms[0].leaf
    while isinstance(leaf, Transform):
        leaf = leaf.vector.terms[0].leaf
    return leaf if isinstance(leaf, Difference) else None


@dataclass(frozen=True)
class Side:
    """One stored tensor as a piece sees it; `rows` are its rows for those of the piece (None: all in order)."""

    source: Checkpoint
    stored: str
    width: int
    rows: np.ndarray | None

    @cached_property
    def identity(self) -> tuple:
        """Equal for two plain checkpoints that are opened on the same file."""
        plain = type(self.source) is Checkpoint
        return self.source.tensors.place(self.stored) if plain else (id(self.source), self.stored)

    @cached_property
    def shift(self) -> int | None:
        """Where the piece's elements begin in the tensor when they lie there in one run, else None."""
        if self.rows is None:
            return 0
        found = runs(self.rows)
        is_run = len(found) == 1 and found[0][2] == len(self.rows)
        return int(self.rows[0]) * self.width if is_run else None


@dataclass(frozen=True)
class Plan:
    """How one vector is read in one piece, found once: terms as (coefficient, leaf, rows, plus side, minus side)."""

    terms: list[tuple[float, Leaf, np.ndarray | None, Side | None, Side | None]]
    base: Side | None  # the base's elements; None for a stored vector
    model: Side | None  # the model's own rows of tokens, where the vector is one difference


def _plan(piece: Piece, vector: WeightVector, rows: np.ndarray | None) -> Plan:
    name, width, terms, base = piece.name, prod(piece.shape[1:]), [], base_of(vector)

    def sides(leaf: Difference, own: np.ndarray | None) -> list[Side]:
        paired = leaf.minus_rows(name) if own is not None else None
        minus = own if paired is None else np.where(own >= 0, paired[own], -1)
        if own is not None and len(vector.terms) > 1:
            own = np.where(minus >= 0, own, -1)  # a token that one side lacks carries no difference
        return [Side(source, source.resolve(name), width, ids)
                for source, ids in ((leaf.plus, own), (leaf.minus, minus))]  # fmt: skip

    for term in vector.terms:
        own = None if rows is None else _rows_of(term.leaf, name, vector, rows)
        pair = sides(term.leaf, own) if isinstance(term.leaf, Difference) else (None, None)
        if term.coefficient(name):
            terms.append((term.coefficient(name), term.leaf, own, *pair))
    is_model = rows is not None and len(vector.terms) == 1 and base is vector.terms[0].leaf
    return Plan(terms, sides(base, rows)[1] if base else None, sides(base, rows)[0] if is_model else None)


class Reader:
    """Reads spans of pieces for one thread; what several vectors share is read once a span."""

    def __init__(self, vectors: Sequence[WeightVector]):
        self.vectors = vectors
        self.work = Workspace()
        self._seen: dict[tuple, np.ndarray] = {}
        self._squares: dict[int, float] = {}  # by id of a block in `_seen`
        self._plans: dict[tuple[int, int], Plan] = {}

    def release(self) -> None:
        self.work.release()
        self._seen.clear()
        self._squares.clear()

    def plan(self, piece: Piece, k: int) -> Plan:
        key = (id(piece), k)
        if key not in self._plans:
            rows = None if piece.rows is None else piece.rows[k]
            self._plans[key] = _plan(piece, self.vectors[piece.members[k]], rows)
        return self._plans[key]

    def blocks(self, piece: Piece, start: int, stop: int) -> list[tuple[int, int]]:
        """A span in blocks to be read one by one: small ones that stay in the cache, whole rows where rows are tokens.

        Noise and other transforms make a million elements at a time, so with one among the members a span is whole.
        """
        leaves = [leaf for k in piece.live for _, leaf, *_ in self.plan(piece, k).terms]
        if not all(isinstance(leaf, Difference) for leaf in leaves):
            return [(start, stop)]
        width = 1 if piece.rows is None else prod(piece.shape[1:])
        step = max(1, kernels.TILE // width) * width
        return [(i, min(i + step, stop)) for i in range(start, stop, step)]

    def parts(self, piece: Piece, k: int, start: int, stop: int) -> list[exact.Part]:
        """Raw parts of member k in a span (of whole rows) of a piece in which it is live."""
        result: list[exact.Part] = []
        for coefficient, leaf, rows, plus, minus in self.plan(piece, k).terms:
            if plus is not None:
                result.append((coefficient, self.read(plus, start, stop), self.read(minus, start, stop)))
                continue
            if rows is None:  # a transform may change its blocks, so they are not shared
                own = leaf.own(piece.name, start, stop, self.work)
            else:
                width = prod(piece.shape[1:])
                own = self._gather_own(leaf, piece.name, rows[start // width : stop // width], width)
            result += [(coefficient * c, p, m) for c, p, m in own]
        return result

    def read(self, side: Side, start: int, stop: int) -> np.ndarray:
        """Raw elements of a side in a span of its piece, zero in rows that it lacks; not to be changed."""
        if side.shift is not None:
            key = (side.identity, start + side.shift, stop)
            if key not in self._seen:
                first, last = start + side.shift, stop + side.shift
                self._seen[key] = self.work.fill(side.source, side.stored, first, last)
            return self._seen[key]
        rows = side.rows[start // side.width : stop // side.width]
        key = (side.identity, rows.tobytes())
        if key not in self._seen:
            self._seen[key] = self._gather(side, rows)
        return self._seen[key]

    def squares(self, side: Side, start: int, stop: int) -> float:
        """The sum of squares of what `read` gives, computed once a span."""
        raw = self.read(side, start, stop)
        if id(raw) not in self._squares:
            self._squares[id(raw)] = kernels.squares(raw)
        return self._squares[id(raw)]

    def _gather(self, side: Side, rows: np.ndarray) -> np.ndarray:
        dtype = files.NUMPY_DTYPES[side.source.dtype_name(side.stored)]
        out = self.work.array(dtype, len(rows) * side.width)
        out[:] = 0
        for position, row, count in runs(rows):
            first, last = row * side.width, (row + count) * side.width
            side.source.fill(side.stored, first, last, out[position * side.width :])
        return out

    def _gather_own(self, leaf: Leaf, name: str, rows: np.ndarray, width: int) -> list[exact.Part]:
        result: list[exact.Part] = []
        for position, row, count in runs(rows):
            own = leaf.own(name, row * width, (row + count) * width, self.work)
            if count == len(rows):
                return own
            if not result:
                result = [(c, np.zeros(len(rows) * width, p.dtype),
                           None if m is None else np.zeros(len(rows) * width, m.dtype)) for c, p, m in own]  # fmt: skip
            span = slice(position * width, (position + count) * width)
            for (_, to, to_minus), (_, plus, minus) in zip(result, own, strict=True):
                to[span] = plus
                if minus is not None:
                    to_minus[span] = minus
        return result


def tiles(size: int) -> Iterable[slice]:
    return (slice(i, min(i + kernels.TILE, size)) for i in range(0, size, kernels.TILE))


def run(jobs: Sequence, work: Callable, *, total: int, progress: bool, label: str) -> list:
    """`[work(job, tick) for job in jobs]` in a few threads; `tick(elements)` moves the bar. Stops cleanly on Ctrl-C."""
    from tqdm import tqdm

    stop = threading.Event()
    bar = tqdm(total=total, unit=" weights", unit_scale=True, desc=label, delay=2,
               disable=None if progress else True)  # fmt: skip

    def one(job):
        return None if stop.is_set() else work(job, bar.update)

    with bar, ThreadPoolExecutor(workers(), thread_name_prefix="chatvec-anatomy") as pool:
        futures: list[Future] = [pool.submit(one, job) for job in jobs]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:  # also Ctrl-C: no thread goes on reading
            stop.set()
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]
