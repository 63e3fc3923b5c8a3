"""Does a model descend from another, and how much of a vector does it hold already? Judged by some of its rows.

Two models that were trained apart have no direction in common, whatever their architecture: the cosine between
their weights is that of chance. Fine-tuning and continual pre-training hardly turn the weights, so a descendant's
cosine with its base stays near 1. A few rows of a few tensors are enough to tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from math import prod, sqrt
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace, block_spans
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.tokens.rows import pairs_in_shape
from chatvec_lab.weights.tokens.vocabulary import runs

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.merged import MergedCheckpoint
    from chatvec_lab.weights.vector import WeightVector

# Measured over ten samples of every shipped nano model: descendants have cosines of 0.59 and more (an embedding after
# CP in an alphabet that the base hardly saw; layers 0.98), models of other seeds -0.10 to 0.08, unrelated pico models
# (tensors of a few hundred elements) up to 0.19. The threshold is the middle. Norms: 0.82 to 1.34 times the base's.
COSINE = 0.4
RATIO = 2.0  # a difference of weights has a tenth of the base's norm, or less
_RUN = 8  # rows read together
_ENOUGH = 1 << 15  # elements of one tensor: the cosine of chance is then 0.006


def evidence(
    member: Checkpoint,
    base: Checkpoint,
    layers: int = 3,
    rows: int = 64,
    seed: int = 0,
    placed: Mapping[str, str] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """How sampled tensors of a model lie to another's, one dict a tensor; the columns of `families.descent.descent`.

    `placed` maps names of a larger model to those of its language part (see `within`), where the member is one.
    """
    larger = {inner: outer for outer, inner in placed.items()}
    result = []
    for name in _sampled(base, layers):
        part, published = base.layout[name], base.layout.published(name)
        stored = member.resolve(larger.get(published, published))
        row = {"tensor": name, "layer": part.layer, "module": part.module, "rows": 0, "elements": 0}
        problem = _problem(member, stored, base, name)
        if problem is None:
            generator = np.random.default_rng([seed, *name.encode()])
            ours, theirs = _chosen(member, stored, base, name, rows, generator)
            if len(ours):
                row |= _compare(read_rows(member, stored, ours), read_rows(base, name, theirs))
                if np.isnan(row["cosine"]):
                    problem = "is zero or holds NaN, here or in the base: a damaged file?"
            else:
                problem = f"shares no token with {base.label}"
        cosine, ratio = row.get("cosine", np.nan), row.get("norm_ratio", np.nan)
        row["problem"] = problem
        row["descends"] = bool(cosine >= COSINE and 1 / RATIO <= ratio <= RATIO)
        result.append(row)
    return result


def _sampled(base: Checkpoint, layers: int) -> list[str]:
    """Embedding, head, and the matrices of evenly spaced layers, in file order. Norms and biases tell nothing."""
    layout = base.layout
    matrices = [
        name
        for name in base.names
        if len(base.shape(name)) > 1
        and base.dtype_name(name) in files.FLOATS
        and layout[name].module != "buffer"
        and name not in layout.ignored
    ]
    numbers = sorted({layout[name].layer for name in matrices} - {None})
    if numbers:
        picked = {numbers[round(i)] for i in np.linspace(0, len(numbers) - 1, max(1, layers))}
        return [n for n in matrices if layout[n].layer in picked or layout.is_table(n)]
    return matrices


def _problem(member: Checkpoint, stored: str | None, base: Checkpoint, name: str) -> str | None:
    """Why a tensor cannot be compared, or None."""
    if stored is None:
        return "is missing: another architecture"
    ours, theirs = member.shape(stored), base.shape(name)
    if not pairs_in_shape(base.layout[name], ours, theirs):
        return f"has the shape {ours}, in the base {theirs}: another architecture"
    if ours[0] != theirs[0] and None in (member.vocabulary, base.vocabulary):
        return (
            f"has {ours[0]} rows, in the base {theirs[0]}, and without both tokenizers they cannot be paired"
        )
    return None


def _chosen(member, stored: str, base, name: str, count: int, generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows to compare, in the member and in the base: some short runs of consecutive ones."""
    shape = base.shape(name)
    total = prod(shape[:-1])
    starts = np.unique(generator.integers(0, max(1, total - _RUN + 1), max(1, count // _RUN)))
    theirs = np.unique(starts[:, None] + np.arange(_RUN))
    theirs = theirs[theirs < total]
    if not base.layout.is_table(name) or len(shape) != 2 or None in (member.vocabulary, base.vocabulary):
        return theirs, theirs
    rows = member.shape(stored)[0]
    ours, base_tokens = member.vocabulary.tokens, base.vocabulary.tokens
    if ours == base_tokens:
        same = np.sort(np.fromiter(ours.values(), np.int64, len(ours)))
        pairs = np.repeat(same[same < min(total, rows)], 2).reshape(-1, 2)
    else:
        found = ((row, ours.get(token, rows)) for token, row in base_tokens.items() if row < total)
        pairs = np.array(sorted(pair for pair in found if pair[1] < rows), np.int64).reshape(-1, 2)
    if not len(pairs):
        return theirs[:0], theirs[:0]
    starts = generator.integers(0, max(1, len(pairs) - _RUN + 1), max(1, count // _RUN))
    picked = np.unique(starts[:, None] + np.arange(_RUN))
    picked = pairs[picked[picked < len(pairs)]]
    return picked[:, 1], picked[:, 0]


def read_rows(model: Checkpoint, stored: str, rows: np.ndarray) -> np.ndarray:
    """These rows of a tensor in float64, shape (rows, width)."""
    width = model.shape(stored)[-1]
    pieces = [model.raw(stored, row * width, (row + n) * width) for _, row, n in runs(rows)]
    return exact.widen(np.concatenate(pieces)).astype(np.float64).reshape(len(rows), width)


def _compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    length = _length(theirs)
    ratio = _length(ours) / length if length else np.nan
    between = length**2 * ratio  # the product of both norms

    def cosine(other: np.ndarray) -> float:
        return float((ours * other).sum() / between) if between else np.nan

    return {
        "rows": len(ours),
        "elements": ours.size,
        "cosine": cosine(theirs),
        "chance": cosine(np.roll(theirs, max(1, len(theirs) // 2), axis=0)) if len(theirs) > 1 else np.nan,
        "chance_sd": 1 / sqrt(ours.size),
        "relative_distance": _length(ours - theirs) / length if length else np.nan,
        "norm_ratio": ratio,
    }


def _length(rows: np.ndarray) -> float:
    """The L2 norm. numpy's own goes through BLAS, whose threads cost more than the work where they wake for so little."""
    return sqrt(float(np.einsum("ij,ij", rows, rows)))


def rows_for(models: list[Checkpoint], elements: int, layers: int = 3) -> int:
    """How many rows of each sampled tensor `evidence` may read: 8 to 64, some `elements` in all, not many of wide ones."""
    widths = [models[0].shape(name)[-1] for name in _sampled(models[0], layers)] or [1]
    affordable = min(elements // (sum(widths) * len(models)), _ENOUGH // min(widths))
    return max(_RUN, min(64, affordable // _RUN * _RUN))


@dataclass(frozen=True)
class Holding:
    """How much of tau = chat - base a CP holds already: `share` = <CP - base, tau> / <tau, tau>.

    An estimate from sampled places with its 95 % interval `low` to `high`, or exact where everything was read (low and
    high are the share). `band`: the CP's own elements with random signs have a share within ± band in 95 of 100 cases.
    `distance` and `from_chat` are |CP - base| and |CP - chat| over |tau|; both are 0 exactly when nothing differs.
    """

    share: float
    low: float
    high: float
    band: float
    distance: float
    from_chat: float
    length: float  # |tau| over |base| in the places read
    elements: int
    of: int

    @property
    def is_exact(self) -> bool:
        return self.elements == self.of


def holding(
    merged: MergedCheckpoint,
    base: Checkpoint,
    *,
    elements: int | None,
    seed: int = 0,
    places: int = 1000,
    record: Callable | None = None,
) -> Holding:
    """What the CP of `merged` holds of its vector, whose base is `base`; `elements` bounds what is read (None: all), which
    `record` sees, as that of a `Workspace`.

    Only tensors that get the vector count, and rows of tokens that base, chat and CP all have. ValueError when CP and
    base do not pair (a family within a larger model).
    """
    delta = merged.cp.minus(base, allow_mixed=True)
    names = [n for n in merged.cp.names if not merged.is_carried(n) and delta.resolve(merged.named(n))]
    if not names:
        raise ValueError(f"no tensor of {merged.cp.label} that gets the vector is one of {base.label}.")

    def of_a_tensor(spans: list[tuple[str, int, int]]) -> list[tuple[float, ...]]:
        sums, work = [], Workspace(record)
        for name, start, stop in spans:
            work.release()
            cp = exact.widen(work.fill(merged.cp, name, start, stop)).astype(np.float64)
            tau = _sum(merged.parts(name, start, stop, work), stop - start)
            own = _sum(delta.parts(merged.named(name), start, stop, work=work), stop - start)
            product, apart, base_part = own * tau, own - tau, cp - own
            sums.append(
                (product.sum(), tau @ tau, own @ own, apart @ apart, base_part @ base_part, product @ product)
            )
        return sums

    taken = list(_places(merged, names, elements, places, seed))
    by_tensor = [list(spans) for _, spans in groupby(taken, key=lambda place: place[0])]
    with ThreadPoolExecutor(2) as pool:  # a transformed vector is measured tensor by tensor, which takes long
        sums = [row for found in pool.map(of_a_tensor, by_tensor) for row in found]
    read = sum(stop - start for _, start, stop in taken)
    total = sum(prod(merged.cp.shape(name)) for name in names)
    table = np.array(sums or [(0.0,) * 6])
    with_tau, squared, moved, apart, length, products = table.sum(axis=0)
    if not squared:
        return Holding(*(np.nan,) * 4, sqrt(moved), sqrt(apart), 0.0, read, total)
    share, count = with_tau / squared, len(table)
    spread = 0.0
    if read < total and count > 1:  # a ratio of two sums over places drawn at random
        spread = 1.96 * sqrt(((table[:, 0] - share * table[:, 1]) ** 2).sum() * count / (count - 1)) / squared
    scale, band = sqrt(squared), 1.96 * sqrt(products) / squared
    return Holding(
        share, share - spread, share + spread, band, sqrt(moved) / scale, sqrt(apart) / scale,
        scale / sqrt(length) if length else np.nan, read, total,
    )  # fmt: skip


def is_nothing(vector: WeightVector) -> bool:
    """Whether every element of a vector is zero; reads until one is not."""
    work = Workspace()
    for name in vector.names:
        for start, stop in block_spans(vector.shape(name)):
            work.release()
            if _sum(vector.parts(name, start, stop, work=work), stop - start).any():
                return False
    return True


_PLACE = 1024  # elements of a place outside the tables; there it is a row


def _places(merged, names, elements: int | None, count: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """Spans of tensors: all of them, or so many drawn at random that about `elements` are read."""
    if elements is None:
        for name in names:
            for start, stop in block_spans(merged.cp.shape(name)):
                yield name, start, stop
        return
    layout = merged.cp.layout
    sizes = [prod(merged.cp.shape(n)[1:]) if layout.is_table(n) else _PLACE for n in names]
    counts = [-(-prod(merged.cp.shape(n)) // size) for n, size in zip(names, sizes, strict=True)]
    ends = np.cumsum(counts)
    if not len(ends):
        return
    total = sum(prod(merged.cp.shape(n)) for n in names)
    wanted = max(2, min(count, int(ends[-1]), elements * int(ends[-1]) // max(1, total)))
    drawn = np.random.default_rng(seed).choice(int(ends[-1]), wanted, replace=False)
    for place in np.sort(drawn):
        which = int(np.searchsorted(ends, place, side="right"))
        start = (int(place) - int(ends[which]) + counts[which]) * sizes[which]
        yield names[which], start, min(start + sizes[which], prod(merged.cp.shape(names[which])))


def _sum(parts: list[exact.Part], size: int) -> np.ndarray:
    """Raw parts as one float64 array; for measuring, not for writing."""
    total = np.zeros(size)
    for coefficient, plus, minus in parts:
        total += coefficient * exact.widen(plus).astype(np.float64)
        if minus is not None:
            total -= coefficient * exact.widen(minus).astype(np.float64)
    return total
