"""The pass: every stored block is read once and everything that `measures` reports is summed from it."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from math import nan, prod

import numpy as np

from chatvec_lab.anatomy import kernels
from chatvec_lab.anatomy.blocks import NEW, Piece, Reader, pieces_of, run, tiles
from chatvec_lab.anatomy.plain import plain_of
from chatvec_lab.weights.vector import WeightVector

SAMPLE = 32768  # elements that set the threshold of a tensor's largest entries, from
CHUNKS = 16  # places spread over it


@dataclass
class Sums:
    """What the pass adds up for one piece; rows follow the piece's members (all, or all pairs of live ones)."""

    vectors: np.ndarray  # (members, 5), columns as in kernels
    pairs: np.ndarray  # (pairs of live members, 6), columns as in kernels
    base: np.ndarray  # (members,) sum of squares of the base's elements; NaN without a base
    model: np.ndarray  # (members,) sum of squares of the model's own rows of tokens; NaN elsewhere

    def __iadd__(self, other: Sums) -> Sums:
        largest = np.maximum(self.vectors[:, kernels.MAXIMUM], other.vectors[:, kernels.MAXIMUM])
        self.vectors += other.vectors
        self.vectors[:, kernels.MAXIMUM] = largest
        self.pairs += other.pairs
        self.base += other.base
        self.model += other.model
        return self


@dataclass
class Pass:
    names: list[str]
    vectors: list[WeightVector]
    pieces: list[Piece]
    sums: list[Sums]

    def __post_init__(self):
        self.by_tensor: dict[str, list[tuple[Piece, Sums]]] = defaultdict(list)
        for piece, sums in zip(self.pieces, self.sums, strict=True):
            self.by_tensor[piece.name].append((piece, sums))


def one_pass(vectors, line, *, together, progress, top=None, only=lambda name: True) -> Pass:
    """Read everything once. `top` None leaves out pairs and top entries."""
    names, chosen = list(vectors), list(vectors.values())
    pieces = [p for p in pieces_of(chosen, names, together=together) if only(p.name)]
    line_bits = kernels.bits_of(line)
    tops = _Tops(pieces, top)
    local = threading.local()

    def work(job, tick) -> Sums:
        piece, start, stop = job
        if not hasattr(local, "reader"):
            local.reader, local.deltas = Reader(chosen), np.empty((len(chosen), kernels.TILE), np.float32)
            local.plain = {}
        if id(piece) not in local.plain:
            local.plain[id(piece)] = plain_of(piece, local.reader)
        sums = _measure(
            (piece, start, stop), local.reader, local.plain[id(piece)], local.deltas, line_bits,
            tops.of(piece, local.reader), top is not None,
        )  # fmt: skip
        tick(stop - start)
        return sums

    jobs = [(piece, *span) for piece in pieces for span in piece.spans()]
    total = sum(piece.size for piece in pieces)
    results = run(jobs, work, total=total, progress=progress, label="anatomy")
    sums = {id(piece): _empty(piece, top is not None) for piece in pieces}
    for (piece, *_), result in zip(jobs, results, strict=True):  # in file order, whichever thread was first
        sums[id(piece)] += result
    return Pass(names, chosen, pieces, [sums[id(piece)] for piece in pieces])


def pairs_of(piece: Piece) -> list[tuple[int, int]]:
    return list(combinations(piece.live, 2))


def _empty(piece: Piece, pairs: bool) -> Sums:
    members = len(piece.members)
    return Sums(np.zeros((members, 5)), np.zeros((len(pairs_of(piece)) if pairs else 0, 6)), np.zeros(members),
                 np.zeros(members))  # fmt: skip


def _measure(job, reader, plain, deltas, line_bits, thresholds, pairs) -> Sums:
    """The sums of one span, measured in tiles that stay in the cache."""
    piece, start, stop = job
    sums = _empty(piece, pairs)
    live = piece.live
    place = {k: i for i, k in enumerate(live)}
    index = np.array([(place[a], place[b]) for a, b in pairs_of(piece) if pairs], np.int64).reshape(-1, 2)
    limits = np.array([thresholds[k] for k in live], np.int32)
    measured = np.zeros((len(live), 5))
    if plain is not None:
        plain.measure(reader, start, stop, (index, line_bits, limits), measured, sums)
        reader.release()
    for begin, end in () if plain is not None else reader.blocks(piece, start, stop):
        parts = {k: reader.parts(piece, k, begin, end) for k in live}
        for tile in tiles(end - begin):
            block = deltas[: len(live), : tile.stop - tile.start]
            for k in live:
                kernels.total(
                    [(c, p[tile], m if m is None else m[tile]) for c, p, m in parts[k]], block[place[k]]
                )
            kernels.measure(block, index, line_bits, limits, measured, sums.pairs)
        for k, kind in enumerate(piece.kinds):
            plan = reader.plan(piece, k)
            base = plan.base if k in place else None
            model = plan.model if k in place or kind == NEW else None
            sums.base[k] += reader.squares(base, begin, end) if base else nan
            sums.model[k] += reader.squares(model, begin, end) if model else nan
        reader.release()
    sums.vectors[list(live)] = measured
    return sums


class _Tops:
    """The magnitude, as bits, from which an entry counts as one of the largest; per tensor and vector."""

    def __init__(self, pieces: list[Piece], share: float | None):
        self.share = share
        self.pieces: dict[tuple, list[Piece]] = defaultdict(list)
        for piece in pieces:
            self.pieces[piece.name, piece.members].append(piece)
        self._locks = {key: threading.Lock() for key in self.pieces}
        self._found: dict[tuple, list[int]] = {}

    def of(self, piece: Piece, reader: Reader) -> list[int]:
        key = (piece.name, piece.members)
        if self.share is None:
            return [int(kernels.bits_of(np.inf))] * len(piece.members)
        with self._locks[key]:
            if key not in self._found:
                self._found[key] = self._find(self.pieces[key], reader)
            return self._found[key]

    def _find(self, pieces: list[Piece], reader: Reader) -> list[int]:
        samples: list[list[np.ndarray]] = [[] for _ in pieces[0].members]
        for piece, start, stop in _sample_spans(pieces):
            for k in piece.live:
                out = np.empty(stop - start, np.float32)
                kernels.total(reader.parts(piece, k, start, stop), out)
                samples[k].append(out)
            reader.release()
        return [
            self._threshold(np.abs(np.concatenate(s))) if s else int(kernels.bits_of(np.inf)) for s in samples
        ]

    def _threshold(self, sizes: np.ndarray) -> int:
        count = max(1, round(self.share * sizes.size))
        limit = np.partition(sizes, sizes.size - count)[sizes.size - count]
        return max(1, int(kernels.bits_of(limit)))  # a zero entry is never one of the largest


def _sample_spans(pieces: list[Piece]) -> list[tuple[Piece, int, int]]:
    """All of a small tensor, or evenly spread chunks of a large one; whole rows where rows are tokens."""
    total = sum(piece.size for piece in pieces)
    if total <= SAMPLE:
        return [(piece, start, stop) for piece in pieces for start, stop in piece.spans()]
    result = []
    for wanted in np.linspace(0, total - SAMPLE // CHUNKS, CHUNKS).astype(int):
        for piece in pieces:
            if wanted < piece.size:
                width = 1 if piece.rows is None else prod(piece.shape[1:])
                start, length = int(wanted) // width * width, max(1, SAMPLE // CHUNKS // width) * width
                result.append((piece, start, min(piece.size, start + length)))
                break
            wanted -= piece.size
    return result
