"""Exact aggregates of the per-tensor tables: by layer, kind of module, projection or component, or over the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

Axis = Literal["layer", "module", "projection", "component"]
By = Axis | Literal["model"]
AXES = ("layer", "module", "projection", "component")


def combine(table: DataFrame, by: By | Sequence[Axis] = "model") -> DataFrame:
    """The table's statistics over all tensors of each layer, kind of module, or the model: sums, not means of ratios.

    `table` comes from `norms`, `family_norms`, `cosines`, `interference` or `fidelity` (any subset of its rows);
    `by` "layer" keeps one row for the tensors outside the layers (layer missing), ["layer", "module"] gives the
    cells of a heat map. Layers of several components (text, vision …) are never added up: where the table has
    several, the result is by component too. A missing statistic of one tensor makes that of its group missing.
    Raises ValueError for a table of another kind, or one that is combined over modules and then by module.

    >>> import pandas
    >>> table = pandas.DataFrame({"vector": "tau", "layer": [0, 0], "parameters": [4, 4], "l2": [3.0, 4.0],
    ...                           "relative_l2": 0.1, "rms": 1.0, "max_abs": [1.0, 2.0], "base_l2": [30.0, 40.0],
    ...                           "share_zero": [0.0, 0.5], "share_above": 1.0})
    >>> combine(table, "layer")[["layer", "l2", "relative_l2", "max_abs", "share_zero"]]
       layer   l2  relative_l2  max_abs  share_zero
    0      0  5.0          0.1      2.0        0.25
    """
    axes = [] if by == "model" else [by] if isinstance(by, str) else list(by)
    if "layer" in axes and "component" not in axes and "component" in table and table.component.nunique() > 1:
        axes = ["component", *axes]
    unknown = [axis for axis in axes if axis not in AXES]
    lacking = [axis for axis in axes if axis not in table]
    if unknown or lacking:
        raise ValueError(
            f"by={by!r}: expected 'model', or {', '.join(AXES)}, or a list of these, and columns of that name; "
            f"the table has {', '.join(table.columns)}."
        )
    kind = next((mark for mark in _KINDS if mark in table and "parameters" in table), None)
    if kind is None:
        raise ValueError(
            f"cannot combine a table with the columns {', '.join(table.columns)}: expected one from norms, cosines, "
            "interference or fidelity."
        )
    keys, statistics = _KINDS[kind]
    keys = [key for key in keys if key in table]
    depth = ["relative_depth"] if "relative_depth" in table and "layer" in axes else []
    groups = table.groupby(keys + axes + depth, dropna=False, sort=False)
    code, result = groups.ngroup().to_numpy(), groups.size().reset_index()[keys + axes + depth]

    def total(values, weights=1.0) -> np.ndarray:
        """The sum of each group; a missing value makes it missing."""
        return np.bincount(code, np.asarray(values, float) * weights, minlength=len(result))

    result = result.assign(**statistics(table, total, code, len(result)))
    order = [c for c in table.columns if c in result]
    return result[order].astype({"parameters": "int64"})


def _norms(t, total, code, count):
    n, l2, base = total(t.parameters), np.sqrt(total(t.l2**2)), np.sqrt(total(t.base_l2**2))
    largest = np.full(count, -np.inf)
    with np.errstate(invalid="ignore"):  # a missing maximum stays missing
        np.maximum.at(largest, code, np.where(t.parameters > 0, t.max_abs, 0.0))
    return {
        "parameters": n, "l2": l2, "relative_l2": _divide(l2, base), "rms": _divide(l2, np.sqrt(n)),
        "max_abs": largest, "base_l2": base,
        **{share: _divide(total(_counted(t[share], t.parameters)), n) for share in ("share_zero", "share_above")},
    }  # fmt: skip


def _cosines(t, total, code, count):
    scale = t.l2_a * t.l2_b
    # a tensor that is zero in one vector has no cosine, and adds nothing to the dot product
    dot, squared = (_counted(t.cosine, scale), _counted(t.signs_sd, scale) ** 2)
    a, b = np.sqrt(total(t.l2_a**2)), np.sqrt(total(t.l2_b**2))
    n, both = total(t.parameters), total(t.both_moved)
    return {
        "parameters": n, "l2_a": a, "l2_b": b, "both_moved": both.astype(np.int64),
        "cosine": np.clip(_divide(total(dot), a * b), -1, 1), "signs_sd": _divide(np.sqrt(total(squared)), a * b),
        "sign_agreement": _divide(total(_counted(t.sign_agreement, t.both_moved)), both),
        "random_sd": _divide(1.0, np.sqrt(n)),
    }  # fmt: skip


def _interference(t, total, code, count):
    a, b = _counted(t.top_a, t.parameters), _counted(t.top_b, t.parameters)
    met = _counted(t.overlap, np.minimum(a, b))
    n, top_a, top_b, both = total(t.parameters), total(a), total(b), total(met)
    # thresholds are a tensor's own, so what chance gives is the sum of what it gives in each
    expected = total(_counted(t.expected_overlap, np.minimum(a, b)))
    least = total(np.minimum(a, b))
    return {
        "parameters": n, "top_a": _divide(top_a, n), "top_b": _divide(top_b, n), "overlap": _divide(both, least),
        "expected_overlap": _divide(expected, least), "opposed": _divide(total(_counted(t.opposed, met)), both),
    }  # fmt: skip


def _fidelity(t, total, code, count):
    n, wanted, left = total(t.parameters), np.sqrt(total(t.l2**2)), np.sqrt(total(t.effective_l2**2))
    error = np.sqrt(total(_counted(t.relative_error, t.l2) ** 2))
    dot = total(_counted(t.cosine, t.l2 * t.effective_l2))
    return {
        "parameters": n, "l2": wanted, "effective_l2": left, "relative_error": _divide(error, wanted),
        "cosine": np.clip(_divide(dot, wanted * left), -1, 1),
        **{share: _divide(total(_counted(t[share], t.parameters)), n) for share in ("unchanged", "share_zero")},
        **({"noise_floor": _divide(np.sqrt(total(_counted(t.noise_floor, t.l2) ** 2)), wanted)}
           if "noise_floor" in t else {}),
    }  # fmt: skip


def _counted(ratio, whole) -> np.ndarray:
    """ratio * whole, where a whole of 0 gives 0 though the ratio is missing."""
    return np.where(np.asarray(whole) == 0, 0.0, np.asarray(ratio, float) * np.asarray(whole, float))


def _divide(part, whole) -> np.ndarray:
    """part / whole, missing where the whole is 0."""
    whole = np.asarray(whole, float)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)


# the column that tells a table's kind -> its keys, and how its statistics add up
_KINDS = {
    "relative_error": (["scale", "dtype"], _fidelity),
    "sign_agreement": (["family", "a", "b"], _cosines),
    "overlap": (["family", "a", "b"], _interference),
    "relative_l2": (["family", "vector"], _norms),
}
