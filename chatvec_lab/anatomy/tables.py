"""From the sums of a pass to tidy tables."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from math import nan, sqrt
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.anatomy import kernels
from chatvec_lab.anatomy.blocks import NEW, Piece
from chatvec_lab.anatomy.onepass import Pass, Sums, pairs_of
from chatvec_lab.weights.layout import Part

if TYPE_CHECKING:
    from pandas import DataFrame

PLACE = ["component", "layer", "module", "projection"]
NORMS = ["vector", "tensor", *PLACE, "parameters", "l2", "relative_l2", "rms", "max_abs",
         "share_zero", "share_above", "base_l2"]  # fmt: skip
COSINES = ["a", "b", "tensor", *PLACE, "cosine", "sign_agreement", "random_sd", "signs_sd",
           "parameters", "both_moved", "l2_a", "l2_b"]  # fmt: skip
INTERFERENCE = ["a", "b", "tensor", *PLACE, "parameters", "top_a", "top_b", "overlap",
                "expected_overlap", "opposed"]  # fmt: skip
VOCABULARY = ["vector", "tensor", "module", "rows", "count", "parameters", "l2", "relative_l2", "rms", "max_abs",
              "share_zero", "model_rms", "base_rms"]  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """Four tidy tables of one pass; see `norms`, `cosines`, `interference` and `vocabulary` for their columns."""

    norms: DataFrame
    cosines: DataFrame
    interference: DataFrame
    vocabulary: DataFrame


def tables(done: Pass, *, pairs: bool = False) -> Survey:
    """The tables of a pass, those of pairs empty without `pairs`; warns of tensors that hold NaN or infinity."""
    import pandas as pd

    def frame(rows, columns):
        table = pd.DataFrame(rows, columns=columns)
        return table.astype({"layer": "Int64"}) if "layer" in columns else table

    paired = list(_pair_rows(done)) if pairs else []
    result = Survey(
        norms=frame(list(_norm_rows(done)), NORMS),
        cosines=frame([row for row, _ in paired], COSINES),
        interference=frame([row for _, row in paired], INTERFERENCE),
        vocabulary=frame(list(_vocabulary_rows(done)), VOCABULARY),
    )
    broken = result.norms[result.norms.l2.isna()]
    if len(broken):
        shown = "\n".join(f"  {row.vector}: {row.tensor}" for row in broken.head(20).itertuples())
        warnings.warn(
            f"{len(broken)} tensors hold NaN or infinity, so their statistics are missing:\n{shown}\n"
            "Is one of the checkpoints damaged?", UserWarning, stacklevel=3,
        )  # fmt: skip
    return result


def _norm_rows(done: Pass):
    for i, (vector, v) in enumerate(zip(done.names, done.vectors, strict=True)):
        for name in v.names:
            found = [(p, s) for p, s in done.by_tensor[name] if i in p.members]
            if found:
                yield {"vector": vector, "tensor": name, **place(v.part(name)), **_size(found, i)}  # fmt: skip


def place(part: Part) -> dict[str, object]:
    """What a tensor is, in the columns of a table."""
    return {
        "component": part.component,
        "layer": part.layer,
        "module": part.module,
        "projection": part.projection,
    }


def _size(found: list[tuple[Piece, Sums]], i: int) -> dict[str, float]:
    """Statistics of vector i over the pieces in which it has a difference."""
    live = [(p, s, p.members.index(i)) for p, s in found if p.members.index(i) in p.live]
    n = sum(p.size for p, _, _ in live)
    sums = np.array([s.vectors[k] for _, s, k in live]).reshape(-1, 5)
    squares, base = sums[:, kernels.SQUARES].sum(), sum(s.base[k] for _, s, k in live)
    sound = n > 0 and np.isfinite(squares)
    return {
        "parameters": n,
        "l2": sqrt(squares) if sound or n == 0 else nan,
        "relative_l2": sqrt(squares / base) if sound and base > 0 else nan,
        "rms": sqrt(squares / n) if sound else nan,
        "max_abs": sums[:, kernels.MAXIMUM].max() if sound else nan,
        "share_zero": sums[:, kernels.ZEROS].sum() / n if sound else nan,
        "share_above": sums[:, kernels.ABOVE].sum() / n if sound else nan,
        "base_l2": sqrt(base) if base >= 0 else nan,
    }


def _pair_rows(done: Pass):
    """(row of cosines, row of interference) of every pair and tensor."""
    for (i, a), (j, b) in combinations(enumerate(done.names), 2):
        for name in done.by_tensor:
            holders = [done.vectors[k] for k in (i, j) if name in done.vectors[k].names]
            if not holders:
                continue
            part = holders[0].part(name)
            first = {"a": a, "b": b, "tensor": name, **place(part)}
            cosine, meeting = _pair([(p, s) for p, s in done.by_tensor[name]], i, j)
            yield first | cosine, first | meeting


def _pair(found: list[tuple[Piece, Sums]], i: int, j: int) -> tuple[dict, dict]:
    n, sums, own = 0, np.zeros(6), np.zeros((2, 5))
    for piece, s in found:
        key = (piece.members.index(i), piece.members.index(j))
        if key in (pairs := pairs_of(piece)):
            n += piece.size
            sums += s.pairs[pairs.index(key)]
            own += s.vectors[list(key)]
    squares = own[:, kernels.SQUARES]
    sound = np.isfinite(squares).all()
    l2 = np.sqrt(squares) if sound else np.full(2, nan)
    scale = l2[0] * l2[1]
    directed = sound and scale > 0
    top = own[:, kernels.TOP]
    met = sums[kernels.TOP_BOTH]
    cosine = {
        "cosine": float(np.clip(sums[kernels.DOT] / scale, -1, 1)) if directed else nan,
        "sign_agreement": _ratio(sums[kernels.AGREE], sums[kernels.BOTH]) if sound else nan,
        "random_sd": 1 / sqrt(n) if n else nan,
        "signs_sd": sqrt(sums[kernels.SQUARED_PRODUCTS]) / scale if directed else nan,
        "parameters": n,
        "both_moved": int(sums[kernels.BOTH]),
        "l2_a": l2[0],
        "l2_b": l2[1],
    }
    meeting = {
        "parameters": n,
        "top_a": _ratio(top[0], n) if sound else nan,
        "top_b": _ratio(top[1], n) if sound else nan,
        "overlap": _ratio(met, top.min()) if sound else nan,
        "expected_overlap": _ratio(top.max(), n) if directed else nan,
        "opposed": _ratio(sums[kernels.TOP_OPPOSED], met) if sound else nan,
    }
    return cosine, meeting


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else nan


def _vocabulary_rows(done: Pass):
    for i, (vector, v) in enumerate(zip(done.names, done.vectors, strict=True)):
        for name in filter(v.is_table, v.names):
            kinds: dict[str, list] = defaultdict(list)
            for piece, sums in done.by_tensor[name]:
                if i in piece.members:
                    kinds[piece.kinds[piece.members.index(i)]].append((piece, sums))
            for kind in ("shared", "special", "padding", NEW):
                if kind in kinds:
                    yield {"vector": vector, "tensor": name, "module": v.part(name).module, "rows": kind,
                           **_row_statistics(kinds[kind], i, kind)}  # fmt: skip


def _row_statistics(found: list[tuple[Piece, Sums]], i: int, kind: str) -> dict[str, float]:
    n = sum(p.size for p, _ in found)
    size = {k: v for k, v in _size(found, i).items() if k in VOCABULARY}
    if kind == NEW:  # no difference is not a difference of zero
        size = dict.fromkeys(size, nan)
    own = [(s.model[p.members.index(i)], s.base[p.members.index(i)]) for p, s in found]
    model, base = np.sum(own, axis=0)
    return size | {
        "count": sum(p.shape[0] for p, _ in found),
        "parameters": n,
        "model_rms": sqrt(model / n) if n and model >= 0 else nan,
        "base_rms": sqrt(base / n) if n and base >= 0 else nan,
    }
