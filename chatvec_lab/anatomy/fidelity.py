"""What rounding leaves of scale * tau: the effective delta of a merged model against the one that was meant."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import isfinite, nan, prod, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from chatvec_lab.anatomy.blocks import run
from chatvec_lab.anatomy.kernels import _SUM, _double, _known
from chatvec_lab.anatomy.tables import PLACE, place
from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.mixed import expected_noise
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace, block_spans
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.vector import WeightVector

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ["scale", "dtype", "tensor", *PLACE, "unchanged", "relative_error", "cosine", "parameters",
           "share_zero", "l2", "effective_l2", "noise_floor"]  # fmt: skip
_UNCHANGED, _ZERO, _ERROR, _WANTED, _LEFT, _DOT = range(6)


def fidelity(
    cp: Checkpoint,
    tau: WeightVector,
    scales: Sequence[float],
    dtypes: Sequence[str] = ("bfloat16",),
    *,
    allow_mixed: bool = False,
    progress: bool = True,
) -> DataFrame:
    """How much of scale * tau survives the rounding of cp + scale * tau; one row a scale, dtype and tensor.

    The effective delta is round(cp + scale * tau) - round(cp), both rounded once to `dtype` ("bfloat16",
    "float16", "float32", "float64") by the function that `save` uses. Columns: scale, dtype, tensor, layer,
    module, unchanged (share of weights that do not move), relative_error (L2 of effective - scale * tau over L2
    of scale * tau), cosine (of the two; missing when nothing moves or nothing should), parameters (elements to
    which tau has something to add: rows of tokens that only the CP knows do not count), share_zero (of tau:
    these weights should not move), l2 (of scale * tau), effective_l2, noise_floor (the L2 that the
    quantisation of tau's members is expected to have left in tau, over that of tau: an estimate from the steps of their
    formats; 0 for whole ones, missing where a format's steps are not known). `combine` aggregates. `allow_mixed` as in `add`.

    Files are read once, in blocks of a million elements. Raises ValueError for tensors that do not pair, for
    NaN or infinity, and for results beyond the range of the dtype.
    """
    scales, dtypes = _checked(cp, tau, scales, dtypes)
    merged = cp.add(tau, allow_mixed=allow_mixed)
    merged.check()
    names = [name for name in cp.names if not merged.is_carried(name)]
    grid = [(scale, dtype) for scale in scales for dtype in dtypes]
    jobs = [(name, *span) for name in names for span in block_spans(cp.shape(name))]
    local = threading.local()

    def work(job, tick) -> np.ndarray:
        if not hasattr(local, "work"):
            local.work = Workspace()
        name, start, stop = job
        sums = _block(merged, tau, name, start, stop, grid, local.work)
        local.work.release()
        tick(stop - start)
        return sums

    results = run(
        jobs, work, total=sum(prod(cp.shape(name)) for name in names), progress=progress, label="fidelity"
    )
    totals = {name: np.zeros((len(grid), 6)) for name in names}
    for (name, _, _), sums in zip(jobs, results, strict=True):
        totals[name] += sums
    return _table(merged, tau, grid, totals)


def _checked(cp, tau, scales, dtypes) -> tuple[list[float], list[str]]:
    if not isinstance(cp, Checkpoint) or not isinstance(tau, WeightVector):
        raise TypeError(
            f"fidelity(cp, tau, scales): expected a checkpoint and a weight vector (chat - base), got "
            f"{type(cp).__name__} and {type(tau).__name__}."
        )
    dtypes = [dtypes] if isinstance(dtypes, str) else [str(dtype).removeprefix("torch.") for dtype in dtypes]
    unknown = [dtype for dtype in dtypes if dtype not in files.FLOATS]
    if unknown:
        raise ValueError(f"dtypes {unknown}: expected some of {', '.join(files.FLOATS)}.")
    scales = [float(scale) for scale in np.atleast_1d(scales)]
    if not scales or not dtypes or not all(isfinite(scale) for scale in scales):
        raise ValueError(
            f"scales={scales}, dtypes={dtypes}: expected at least one finite number and one dtype."
        )
    return scales, dtypes


def _block(merged, tau, name, start, stop, grid, work) -> np.ndarray:
    """Sums of one block, a row for each (scale, dtype)."""
    cp = work.fill(merged.cp, name, start, stop)
    parts = merged.parts(name, start, stop, work)
    wanted = work.array(np.dtype(np.float64), stop - start)
    _combine(None, parts, wanted, work, merged, name, "tau", 1.0)
    sums = np.zeros((len(grid), 6))
    kept: dict[str, np.ndarray] = {}
    for row, (scale, dtype) in enumerate(grid):
        raw = np.dtype(exact.RAW[dtype])
        if dtype not in kept:
            kept[dtype] = work.array(raw, stop - start)
            _combine(cp, [], kept[dtype], work, merged, name, dtype, 0.0)
        out = kept[dtype]
        if scale:
            mark = work.mark()
            out = work.array(raw, stop - start)
            scaled = [(scale * c, plus, minus) for c, plus, minus in parts]
            _combine(cp, scaled, out, work, merged, name, dtype, scale)
            work.release(mark)
        _compare(_known(out), _known(kept[dtype]), wanted, scale, sums[row])
    return sums


def _combine(cp, parts, out, work, merged, name, dtype, scale) -> None:
    try:
        exact.combine(cp, parts, out)
    except FloatingPointError as error:
        raise ValueError(
            f"fidelity of {merged.label}, {name} at scale {scale:g} as {dtype}: {error}. Leave out this dtype or "
            "scale; if it happens at every scale, one of the sources is damaged."
        ) from error


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUM)
def _compare(merged, cp, tau, scale, out):
    unchanged = np.int64(0)
    zero = np.int64(0)
    error = 0.0
    wanted = 0.0
    left = 0.0
    dot = 0.0
    for i in range(tau.size):
        effective = _double(merged[i]) - _double(cp[i])
        meant = scale * tau[i]
        unchanged += np.int64(effective == 0.0)
        zero += np.int64(tau[i] == 0.0)
        error += (effective - meant) * (effective - meant)
        wanted += meant * meant
        left += effective * effective
        dot += effective * meant
    out[0] += unchanged
    out[1] += zero
    out[2] += error
    out[3] += wanted
    out[4] += left
    out[5] += dot


def _table(merged, tau, grid, totals) -> DataFrame:
    import pandas as pd

    rows = []
    for name, sums in totals.items():
        size, part = prod(merged.cp.shape(name)), merged.layout[name]
        outside = size - _live_elements(merged.cp, tau, name)  # they neither move nor should
        n, noise = size - outside, expected_noise(tau, merged.named(name))
        for (scale, dtype), s in zip(grid, sums, strict=True):
            l2, left = sqrt(s[_WANTED]), sqrt(s[_LEFT])
            rows.append({
                "scale": scale, "dtype": dtype, "tensor": name, **place(part),
                "unchanged": (s[_UNCHANGED] - outside) / n if n else nan,
                "relative_error": sqrt(s[_ERROR]) / l2 if l2 else nan,
                "cosine": min(1.0, max(-1.0, s[_DOT] / (l2 * left))) if l2 and left else nan,
                "parameters": n, "share_zero": (s[_ZERO] - outside) / n if n else nan,
                "l2": l2, "effective_l2": left, "noise_floor": noise * abs(scale) / l2 if l2 else nan,
            })  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"layer": "Int64"})
    order = {key: i for i, key in enumerate(grid)}
    rank = [order[key] for key in zip(table.scale, table.dtype, strict=True)]
    return table.iloc[np.argsort(rank, kind="stable")].reset_index(drop=True)


def _live_elements(cp: Checkpoint, tau: WeightVector, name: str) -> int:
    shape = cp.shape(name)
    if not cp.layout.is_table(name):
        return prod(shape)
    live = tau.live_rows(cp.layout.published(name), cp.vocabulary, shape[0])
    return int(live.sum()) * prod(shape[1:])
