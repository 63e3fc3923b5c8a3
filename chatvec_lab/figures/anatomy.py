"""Figures of the anatomy's tables: layer profiles, heat maps, cosines, spectra, fidelity. A table in, Axes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from chatvec_lab.figures.drawing import (
    PROJECTIONS,
    SIGNED,
    Labels,
    check_single,
    fit,
    key,
    label_of,
    levels,
    lines,
    log_axis,
    named,
    over_zero,
    thinned,
)
from chatvec_lab.figures.recipe import drawn, now_and_last
from chatvec_lab.figures.style import MODULES, line, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from pandas import DataFrame

LEAST = 0.6  # of the figure's letters: numbers in cells that would be smaller are left out
# whether values lie below and above the ends of the colours: which ends of their bar are pointed
EXTENDS = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}


@drawn
def layer_profile(
    data: DataFrame,
    *,
    y: str = "relative_l2",
    hue: str = "module",
    labels: Labels = "legend",
    ax: Axes | None = None,
) -> Axes:
    """`y` over the layers, one line for each value of `hue` (a column, or "pair" for a and b joined).

    `data`: one row a layer and hue, such as `combine(norms, ["layer", "module"])` of one vector. Tensors outside
    the layers (embedding, head, final norm) have no place on the axis and are left out; `heat_map` shows them.
    Of several components (vision, audio …) the text is drawn, unless `hue` is "component". `labels`: a legend, or
    names at the lines' ends ("direct") where these have room.
    """
    data = _of_text(_with_pairs(data), hue).dropna(subset=["layer"])
    lines(ax, data, "layer", y, hue, labels=labels)
    _layer_ticks(ax, data)
    return ax


@drawn
def depth_profile(
    data: DataFrame,
    *,
    y: str = "relative_l2",
    hue: str = "family",
    labels: Labels = "legend",
    ax: Axes | None = None,
) -> Axes:
    """`y` over the relative depth, one line a family: models of different depth laid over one another.

    `data`: one row a layer and hue, such as `combine(family_norms(...), "layer")` of one vector.
    """
    data = _of_text(_with_pairs(data), hue).dropna(subset=["relative_depth"])
    lines(ax, data, "relative_depth", y, hue, labels=labels)
    ax.set_xlim(-0.02, 1)
    return ax


@drawn
def heat_map(
    data: DataFrame, *, value: str = "relative_l2", y: Literal["module", "projection"] = "module",
    limit: float | None = None, numbers: bool | None = None, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """`value` as colour, layers across and kinds of module (or projections: q k v o gate up down) down.

    `data`: one row a layer and `y`, such as `combine(norms, ["layer", "module"])` of one vector or pair. The last column
    holds what lies outside the layers. `limit` is the end of the colour scale: signed values (cosines) run from
    -limit to limit (1 unless told), others from 0 to limit (the largest value unless told). Cells without a value are
    hatched. `numbers` writes each value into its cell; unless told, where there is room.
    """
    import seaborn

    data = _of_text(data)
    data = data.dropna(subset=["projection"]) if y == "projection" and "projection" in data else data
    check_single(data, ["layer", y])
    order = list(MODULES) if y == "module" else PROJECTIONS
    rows = [
        *(name for name in order if name in set(data[y])),
        *(n for n in levels(data, y) if n not in order),
    ]
    layers = sorted(int(layer) for layer in data.layer.dropna().unique())
    has_outside = bool(data.layer.isna().any())
    cells = np.full((len(rows), len(layers) + has_outside), np.nan)
    for row in data.to_dict("records"):
        column = len(layers) if _is_missing(row["layer"]) else layers.index(int(row["layer"]))
        cells[rows.index(row[y]), column] = row[value]
    is_signed = value in SIGNED
    finite = cells[np.isfinite(cells)]
    top = limit if limit is not None else (1.0 if is_signed else float(finite.max(initial=0)) or 1.0)
    ax.set_facecolor("0.93")
    ax.patch.set(hatch="////", edgecolor="0.75", linewidth=0)
    beyond = (bool((finite < -top).any()) and is_signed, bool((finite > top).any()))
    seaborn.heatmap(
        cells, vmin=-top if is_signed else 0.0, vmax=top, cmap="RdBu_r" if is_signed else "cividis", linewidths=line(0.3),
        linecolor="white", rasterized=True, annot=None if numbers is False else _numbers(cells), fmt="", xticklabels=False,
        yticklabels=False, ax=ax, annot_kws={"fontsize": _size(0.85)},
        cbar_kws={"label": label_of(value), "pad": 0.02, "extend": EXTENDS[beyond]},
    )  # fmt: skip
    step = max(1, -(-len(layers) // 12))
    places = [
        i for i in range(0, len(layers), step) if not has_outside or i < len(layers) - 0.15 * len(layers)
    ]
    texts = [str(layers[i]) for i in places]
    if has_outside:
        ax.axvline(len(layers), color="white", linewidth=line(2.5))
        places, texts = [*places, len(layers)], [*texts, "outside"]
    ax.set_xticks([place + 0.5 for place in places], texts)
    ax.set_yticks(np.arange(len(rows)) + 0.5, [named(row, y) for row in rows], rotation=0)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("layer")
    ax.collections[0].colorbar.outline.set_visible(False)
    if words := list(ax.texts):
        now_and_last(ax.figure, lambda: _fit_numbers(ax, words, cells.shape, LEAST if numbers is None else 0))
    return ax


def _fit_numbers(ax: Axes, words: list[Text], shape: tuple[int, ...], least: float) -> None:
    """Write the cells' numbers as large as they fit; not at all where they would be smaller than `least`."""
    words = [word for word in words if word.axes is ax]  # not those that somebody took away
    size = fit(ax, words, shape[1], shape[0])
    for word in words:
        word.set_visible(size >= least)


def _numbers(cells: np.ndarray) -> np.ndarray:
    """The cells as short texts."""
    return np.array(
        [["" if not np.isfinite(cell) else f"{cell:.2g}".replace("-", "−") for cell in row] for row in cells]
    )


def _size(of_one: float) -> float:
    """A size of letters, as a share of the figure's own."""
    import matplotlib

    return of_one * matplotlib.rcParams["font.size"]


@drawn
def cosine_matrix(data: DataFrame, *, value: str = "cosine", ax: Axes | None = None) -> Axes:
    """The cosine of every two vectors as a matrix with its numbers, colours from -1 to 1, the diagonal grey.

    `data`: one row a pair, such as `combine(cosines)`. An asterisk marks cosines beyond 1.96 standard deviations
    of a random pair of this size (`random_sd`).
    """
    check_single(data, ["a", "b"])
    names = list(dict.fromkeys([*data.a, *data.b]))
    cells, marks = np.full((len(names), len(names)), np.nan), {}
    for row in data.to_dict("records"):
        i, j = names.index(row["a"]), names.index(row["b"])
        cells[i, j] = cells[j, i] = row[value]
        marks[i, j] = marks[j, i] = "*" if abs(row[value]) > 1.96 * row.get("random_sd", np.inf) else ""
    ax.set_facecolor("0.93")
    mesh = ax.imshow(cells, vmin=-1, vmax=1, cmap="RdBu_r")
    for (i, j), cell in np.ndenumerate(cells):
        number = f"{cell:.2f}" if abs(cell) >= 0.095 else f"{cell:.3f}"
        text = "1" if i == j else "–" if np.isnan(cell) else number.replace("-", "−") + marks[i, j]
        color = "white" if abs(cell) > 0.6 else "black"
        ax.text(j, i, text, ha="center", va="center", color=color)
    if any(marks.values()):
        ax.set_xlabel("* beyond 95 % of random pairs")
    across = max(len(named(name, "a")) for name in names) * len(names) > 26
    labels = [named(name, "a") for name in names]
    ax.set_xticks(range(len(names)), labels, rotation=30 if across else 0, ha="right" if across else "center")
    ax.set_yticks(range(len(names)), labels)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(mesh, ax=ax, label=label_of(value), ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_visible(False)
    words = list(ax.texts)
    now_and_last(ax.figure, lambda: _fit_numbers(ax, words, cells.shape, 0))
    return ax


@drawn
def cosine_profile(
    data: DataFrame,
    *,
    y: str = "cosine",
    hue: str = "pair",
    labels: Labels = "legend",
    ax: Axes | None = None,
) -> Axes:
    """The cosine over the layers, one line a pair, with the band that holds 95 % of random pairs of this size.

    `data`: one row a layer and pair, such as `combine(cosines, "layer")`. Where pairs differ in size the band is
    the widest of them.
    """
    data = _of_text(_with_pairs(data), hue).dropna(subset=["layer"])
    band = 1.96 * data.groupby("layer").random_sd.max().astype(float)
    shade = ax.fill_between(
        band.index.astype(int), -band, band, color="0.8", linewidth=0, label="95 % of random pairs"
    )
    ax.axhline(0, color="0.4", linewidth=line(0.6))
    lines(ax, data, "layer", y, hue, from_zero=False, labels=labels)
    if labels == "legend":
        names = levels(data, hue)
        key(ax, hue, names, [look(i) for i in range(len(names))], more=[shade])
    _layer_ticks(ax, data)
    return ax


@drawn
def spectra(
    data: DataFrame, *, y: Literal["singular_value", "energy"] = "singular_value", hue: str = "vector",
    labels: Labels = "legend", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Singular values (both axes logarithmic) or energy up to an index; one line for each value of `hue`.

    `data` comes from `spectrum`. Where a line stands for several matrices it is their median, and the band holds
    the middle 80 % of them; singular values are then relative to the largest of their matrix. Singular values of
    0 have no place on a logarithmic axis and are left out.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    data = data[data.singular_value > 0]
    check_single(data, [hue, "tensor", "index"])
    several = data.groupby(hue, sort=False).tensor.nunique().max() > 1
    if several and y == "singular_value":
        first = data.groupby(["vector", "tensor"]).singular_value.transform("max")
        data = data.assign(singular_value=data.singular_value / first)
    names, ends = levels(data, hue), []
    for i, name in enumerate(names):
        quantiles = data[data[hue] == name].groupby("index")[y].quantile([0.1, 0.5, 0.9]).unstack()
        marks = {**look(i), "markevery": _decades(quantiles.index)}
        ax.plot(quantiles.index, quantiles[0.5], **marks)
        ends.append(float(quantiles[0.5].iloc[-1]))
        if several:
            band = {"color": look(i)["color"], "alpha": 0.2, "linewidth": 0}
            ax.fill_between(quantiles.index, quantiles[0.1], quantiles[0.9], **band)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.xaxis.set_minor_locator(NullLocator())
    if y == "singular_value":
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, 1.02)
    ax.set_xlabel("index of the singular value")
    ax.set_ylabel("singular value / largest" if several and y == "singular_value" else label_of(y))
    key(ax, hue, names, [look(i) for i in range(len(names))], ends=ends, labels=labels)
    return ax


@drawn
def fidelity(
    data: DataFrame, *, y: Literal["relative_error", "unchanged", "cosine"] = "relative_error", hue: str = "dtype",
    labels: Labels = "legend", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """What rounding leaves of scale * tau, over the scale: one line a dtype.

    `data`: one row a scale and dtype, such as `combine(fidelity(...))`. The relative error is logarithmic; where it is
    exactly 0 (nothing was rounded) the axis is broken, and the point stands on the 0 below the break. Where members were
    quantised, a dashed line is the noise floor that this is expected to have left in tau, over the length of tau.
    """
    zeros = over_zero(data[y]) if y == "relative_error" else None
    shown = data if zeros is None else data.assign(**{y: data[y].where(data[y] != 0, zeros)})
    is_log = y == "relative_error" and bool((data[y] > 0).any())
    if is_log:
        log_axis(ax, "y", data[y], zeros)
    lines(ax, shown, "scale", y, hue, from_zero=not is_log, labels=labels)
    if y == "relative_error" and "noise_floor" in data and (data.noise_floor > 0).any():
        floor = ax.axhline(
            data.noise_floor.median(), color="0.4", linestyle="--", label="expected quantisation noise"
        )
        names = levels(data, hue)
        key(ax, hue, names, [look(i) for i in range(len(names))], more=[floor])
    ax.set_xlim(left=min(0.0, float(data.scale.min())))
    if y == "cosine":
        ax.set_ylabel("cosine with scale · τ")
    return ax


def _of_text(data: DataFrame, hue: str = "") -> DataFrame:
    """The text's rows of a table with several components, whose layers share numbers; all where they are told apart."""
    if hue == "component" or "component" not in data or data.component.nunique() < 2:
        return data
    return data[data.component == "text"]


def _with_pairs(data: DataFrame) -> DataFrame:
    if {"a", "b"} <= set(data) and "pair" not in data:
        return data.assign(pair=[f"{a} · {b}" for a, b in zip(data.a, data.b, strict=True)])
    return data


def _is_missing(value) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def _layer_ticks(ax: Axes, data: DataFrame) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    thinned(ax)


def _decades(index) -> list[int]:
    """Positions of about eight marks, even on a logarithmic axis."""
    wanted = np.geomspace(1, max(len(index), 1), 8).round().astype(int) - 1
    return sorted(set(wanted.tolist()))
