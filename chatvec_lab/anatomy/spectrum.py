"""Singular values of the matrices of a vector, and how far two vectors share their leading directions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations, groupby
from math import nan, prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from chatvec_lab.anatomy import kernels
from chatvec_lab.anatomy.blocks import pieces_of
from chatvec_lab.anatomy.measures import checked
from chatvec_lab.anatomy.tables import PLACE, place
from chatvec_lab.weights.numerics.arrays import randomised_svd
from chatvec_lab.weights.numerics.blocks import Workspace, block_spans
from chatvec_lab.weights.vector import WeightVector

if TYPE_CHECKING:
    from pandas import DataFrame

EXACT_UP_TO = 2048  # the shorter side up to which "auto" computes every singular value
SPECTRUM = ["vector", "tensor", *PLACE, "index", "singular_value", "energy", "effective_rank",
            "stable_rank", "rank_90", "largest_rank", "method"]  # fmt: skip
SUBSPACES = ["a", "b", "tensor", *PLACE, "side", "index", "cosine", "overlap", "random_overlap"]


def spectrum(
    vectors: Mapping[str, WeightVector],
    *,
    rank: int = 64,
    tensors: str | None = None,
    method: Literal["auto", "exact", "randomized"] = "auto",
    seed: int = 0,
    progress: bool = True,
) -> DataFrame:
    """The `rank` largest singular values of every matrix of every vector, one row a value.

    `tensors`: a regular expression that picks names (all matrices unless told; stacked experts count one by one,
    as name[0], name[1], ...). Columns: vector, tensor, component, layer, module, projection, index (from 1),
    singular_value, energy (share of the
    squared Frobenius norm up to this index), and of the whole matrix: effective_rank (exp of the
    entropy of the singular values' shares, Roy and Vetterli 2007), stable_rank (squared Frobenius over squared
    spectral norm), rank_90 (values needed for 90 % of the energy), largest_rank (the shorter side), method.

    "exact" computes every value, "randomized" only the leading ones; "auto" is exact where the shorter side is at
    most 2048. Energies and the stable rank are right either way, since the Frobenius norm is; what needs the whole
    spectrum (effective_rank, and a rank_90 beyond `rank`) is missing under "randomized", never guessed.
    A matrix that is zero has singular values 0 and nothing else; tensors that a `select` left out are left out.
    One matrix is in memory at a time (as float64 where exact). Raises ValueError for NaN or infinity.
    """
    import pandas as pd

    if method not in ("auto", "exact", "randomized"):
        raise ValueError(f"method={method!r}: expected 'auto', 'exact' or 'randomized'.")
    vectors, rows = checked(vectors), []
    _check_rank(rank)
    for vector, tensor, name, matrix in _matrices(vectors, tensors, progress, "spectrum"):
        short = min(matrix.shape)
        is_exact = method == "exact" or (method == "auto" and short <= EXACT_UP_TO)
        values = singular_values(matrix) if is_exact else _leading(matrix, rank, seed)[1]
        first = {"vector": vector, "tensor": tensor, **place(vectors[vector].part(name))}
        whole = _ranks(values, kernels.squares(matrix.reshape(-1)), complete=len(values) == short)
        energy = whole.pop("energy")
        rows += [
            {**first, "index": i + 1, "singular_value": values[i], "energy": energy[i], **whole,
             "largest_rank": short, "method": "exact" if is_exact else "randomized"}
            for i in range(min(rank, len(values)))
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=SPECTRUM).astype({"layer": "Int64"})


def subspaces(
    vectors: Mapping[str, WeightVector],
    *,
    rank: int = 16,
    tensors: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> DataFrame:
    """How far the leading directions of two vectors coincide: principal angles, one row a pair, matrix, side and angle.

    Compares the spans of the `rank` leading left (output) and right (input) singular vectors. Columns: a, b,
    tensor, component, layer, module, projection, side, index (from 1), cosine (of the principal angle, from
    1 = shared to 0), overlap (mean
    squared cosine: the share of one span that lies in the other) and random_overlap (its mean for random spans,
    rank / side). Embedding and head are compared over tokens that both vectors know. A matrix that is zero in
    either vector, or smaller than `rank`, is left out.
    """
    import pandas as pd

    vectors, rows = checked(vectors), []
    _check_rank(rank)
    pieces_of(list(vectors.values()), list(vectors), together=True)  # raises where they do not pair
    matrices = _matrices(vectors, tensors, progress, "subspaces", shared_rows=True)
    for name, group in groupby(
        matrices, key=lambda item: item[2]
    ):  # all vectors of one tensor, then the next
        spans: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = defaultdict(dict)
        for vector, tensor, _, matrix in group:
            if min(matrix.shape) > rank and matrix.any():
                left, _, right = _leading(matrix, rank, seed)
                spans[tensor][vector] = (left, right.T)
        for tensor, of in spans.items():
            for a, b in combinations(of, 2):
                first = {"a": a, "b": b, "tensor": tensor, **place(vectors[a].part(name))}
                for side, ours, theirs in zip(("left", "right"), of[a], of[b], strict=True):
                    rows += _angles(first | {"side": side}, ours, theirs)
    return pd.DataFrame(rows, columns=SUBSPACES).astype({"layer": "Int64"})


def _angles(first: dict, ours: np.ndarray, theirs: np.ndarray) -> list[dict]:
    """A row for each principal angle between the spans of two orthonormal bases, (side, rank) each."""
    cosines = np.clip(np.linalg.svd(ours.T @ theirs, compute_uv=False), 0, 1)
    overlap, chance = float(np.mean(cosines**2)), ours.shape[1] / ours.shape[0]
    return [
        {**first, "index": i, "cosine": cosine, "overlap": overlap, "random_overlap": chance}
        for i, cosine in enumerate(cosines, 1)
    ]


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """All singular values, largest first, float64.

    By LAPACK up to a shorter side of 512; beyond, from the eigenvalues of the Gram matrix in float64, several times
    faster and right to 1e-8 of the largest value.
    """
    from scipy.linalg import eigvalsh

    if min(matrix.shape) <= 512:
        return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    long = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = np.zeros((long.shape[1], long.shape[1]))
    for start in range(0, len(long), 1024):  # float64 copies of a few rows at a time
        rows = np.ascontiguousarray(long[start : start + 1024], np.float64)
        gram += rows.T @ rows
    return np.sqrt(np.clip(eigvalsh(gram, overwrite_a=True, check_finite=False)[::-1], 0, None))


def _leading(matrix: np.ndarray, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return randomised_svd(matrix, min(rank, *matrix.shape), seed)


def _ranks(values: np.ndarray, squares: float, *, complete: bool) -> dict:
    """Energies, and what sums up the whole matrix; missing where the values known do not tell."""
    if not squares:
        return {
            "energy": np.full(len(values), nan),
            "effective_rank": nan,
            "stable_rank": nan,
            "rank_90": nan,
        }
    energy = np.minimum(1.0, np.cumsum(values**2) / squares)
    shares = values[values > 0] / values.sum()
    reached = np.flatnonzero(energy >= 0.9)
    return {
        "energy": energy,
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())) if complete else nan,
        "stable_rank": squares / values[0] ** 2,
        "rank_90": float(reached[0] + 1) if len(reached) else nan,
    }


def _check_rank(rank: int) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank={rank!r}: expected a whole number from 1.")


def _matrices(
    vectors: Mapping[str, WeightVector],
    pattern: str | None,
    progress: bool,
    label: str,
    *,
    shared_rows: bool = False,
) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """(vector, label of the matrix, tensor, float32 elements) of all tensors with at least two axes, one by one."""
    from tqdm import tqdm

    wanted = [
        (vector, name)
        for vector, v in vectors.items()
        for name in v.names
        if len(v.shape(name)) > 1 and any(term.coefficient(name) for term in v.terms)
        and (pattern is None or re.search(pattern, name))
    ]  # fmt: skip
    if pattern is not None and not wanted:
        known = next(iter(vectors.values())).names
        raise ValueError(
            f"tensors={pattern!r} fits no matrix; there are {len(known)} tensors such as {known[:3]}."
        )
    if shared_rows:
        wanted.sort(key=lambda item: item[1])  # stable: the vectors of one tensor one after the other
    common = _common_rows(vectors) if shared_rows else {}
    for vector, name in tqdm(wanted, unit="matrix", desc=label, delay=2, disable=None if progress else True):
        whole = _read(vectors[vector], name)
        if name in common:
            whole = whole[common[name][vector]]
        shape = whole.shape
        stack = (
            whole.reshape(-1, *shape[-2:]) if len(shape) < 4 else whole.reshape(1, shape[0], prod(shape[1:]))
        )
        for i, matrix in enumerate(stack):
            yield vector, name if len(stack) == 1 else f"{name}[{i}]", name, matrix


def _common_rows(vectors: Mapping[str, WeightVector]) -> dict[str, dict[str, np.ndarray]]:
    """Of embedding and head each vector's own rows of the tokens that all vectors know, in one order."""
    result: dict[str, dict[str, np.ndarray]] = {}
    for piece in pieces_of(list(vectors.values()), list(vectors), together=True):
        if piece.rows is not None and len(piece.live) == len(vectors):
            rows = result.setdefault(piece.name, {name: np.empty(0, np.int64) for name in vectors})
            for k, i in enumerate(piece.members):
                name = list(vectors)[i]
                rows[name] = np.concatenate([rows[name], piece.rows[k]])
    return result


def _read(vector: WeightVector, name: str) -> np.ndarray:
    shape, work = vector.shape(name), Workspace()
    result = np.empty(prod(shape), np.float32)
    for start, stop in block_spans(shape):
        kernels.total(vector.parts(name, start, stop, work=work), result[start:stop])
        work.release()
    if not np.isfinite(kernels.squares(result)):
        raise ValueError(
            f"{name} of {vector.label} holds NaN or infinity: it has no spectrum. Is a source damaged?"
        )
    return result.reshape(shape)
