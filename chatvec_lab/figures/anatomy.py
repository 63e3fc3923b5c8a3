"""Figures of the anatomy's tables: layer profiles, heat maps, cosines, spectra, fidelity. A table in, Axes out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import TYPE_CHECKING, Literal

import numpy as np

from chatvec_lab.figures.style import MODULES, axes, look, style, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

LABELS = {
    "l2": "L2 norm of the difference", "relative_l2": "relative L2 norm", "rms": "RMS of the difference",
    "max_abs": "largest |difference|", "share_zero": "share of weights unchanged", "share_above": "share above 0.002",
    "cosine": "cosine", "sign_agreement": "share of equal signs", "overlap": "overlap of the largest entries",
    "opposed": "share of the overlap opposed", "unchanged": "share of weights unmoved",
    "relative_error": "relative error of the delta", "energy": "share of the energy",
    "singular_value": "singular value", "layer": "layer", "relative_depth": "relative depth (layer / layers)",
    "scale": "scale of the chat vector", "index": "index",
}  # fmt: skip
SIGNED = ("cosine",)


def _in_style(draw):
    """Draw in the house style, on new Axes unless some are given."""

    @wraps(draw)
    def drawn(table, *, ax=None, **options):
        with style():
            return draw(table, ax=axes(ax), **options)

    return drawn


@_in_style
def layer_profile(
    table: DataFrame, *, y: str = "relative_l2", hue: str = "module", ax: Axes | None = None
) -> Axes:
    """`y` over the layers, one line for each value of `hue` (a column, or "pair" for a and b joined).

    `table`: one row a layer and hue, such as `combine(norms, ["layer", "module"])` of one vector. Tensors outside
    the layers (embedding, head, final norm) have no place on the axis and are left out; `heat_map` shows them.
    Of several components (vision, audio …) the text is drawn, unless `hue` is "component".
    """
    table = _of_text(_with_pairs(table), hue).dropna(subset=["layer"])
    _lines(ax, table, "layer", y, hue)
    _layer_ticks(ax, table)
    return ax


@_in_style
def depth_profile(
    table: DataFrame, *, y: str = "relative_l2", hue: str = "family", ax: Axes | None = None
) -> Axes:
    """`y` over the relative depth, one line a family: models of different depth laid over one another.

    `table`: one row a layer and hue, such as `combine(family_norms(...), "layer")` of one vector.
    """
    table = _of_text(_with_pairs(table), hue).dropna(subset=["relative_depth"])
    _lines(ax, table, "relative_depth", y, hue)
    ax.set_xlim(-0.02, 1)
    return ax


@_in_style
def heat_map(
    table: DataFrame, *, value: str = "relative_l2", limit: float | None = None, ax: Axes | None = None
) -> Axes:
    """`value` as colour, layers across and kinds of module down; the last column holds what lies outside the layers.

    `table`: one row a layer and module, such as `combine(norms, ["layer", "module"])` of one vector or pair.
    `limit` is the end of the colour scale: signed values (cosines) run from -limit to limit (1 unless told), others
    from 0 to limit (the largest value unless told). Cells without a value are hatched.
    """
    table = _of_text(table)
    _check_single(table, ["layer", "module"])
    modules = [module for module in MODULES if module in set(table.module)]
    layers = sorted(int(layer) for layer in table.layer.dropna().unique())
    has_outside = bool(table.layer.isna().any())
    cells = np.full((len(modules), len(layers) + has_outside), np.nan)
    for row in table.to_dict("records"):
        column = len(layers) if _is_missing(row["layer"]) else layers.index(int(row["layer"]))
        cells[modules.index(row["module"]), column] = row[value]
    is_signed = value in SIGNED
    top = limit if limit is not None else (1.0 if is_signed else float(np.nanmax(cells)))
    ax.set_facecolor("0.93")
    ax.patch.set(hatch="////", edgecolor="0.75", linewidth=0)
    mesh = ax.pcolormesh(
        cells, vmin=-top if is_signed else 0.0, vmax=top, cmap="RdBu_r" if is_signed else "cividis",
        rasterized=True, edgecolors="white", linewidth=0.3,
    )  # fmt: skip
    step = max(1, -(-len(layers) // 12))
    places = [
        i for i in range(0, len(layers), step) if not has_outside or i < len(layers) - 0.15 * len(layers)
    ]
    labels = [str(layers[i]) for i in places]
    if has_outside:
        ax.axvline(len(layers), color="white", linewidth=2.5)
        places, labels = [*places, len(layers)], [*labels, "outside"]
    ax.set_xticks([place + 0.5 for place in places], labels)
    ax.set_yticks(np.arange(len(modules)) + 0.5, modules)
    ax.invert_yaxis()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("layer")
    ax.figure.colorbar(mesh, ax=ax, label=LABELS.get(value, value), pad=0.02).outline.set_visible(False)
    return ax


@_in_style
def cosine_matrix(table: DataFrame, *, value: str = "cosine", ax: Axes | None = None) -> Axes:
    """The cosine of every two vectors as a matrix with its numbers, colours from -1 to 1, the diagonal grey.

    `table`: one row a pair, such as `combine(cosines)`. An asterisk marks cosines beyond 1.96 standard deviations
    of a random pair of this size (`random_sd`).
    """
    _check_single(table, ["a", "b"])
    names = list(dict.fromkeys([*table.a, *table.b]))
    cells, marks = np.full((len(names), len(names)), np.nan), {}
    for row in table.to_dict("records"):
        i, j = names.index(row["a"]), names.index(row["b"])
        cells[i, j] = cells[j, i] = row[value]
        marks[i, j] = marks[j, i] = "*" if abs(row[value]) > 1.96 * row.get("random_sd", np.inf) else ""
    ax.set_facecolor("0.93")
    mesh = ax.imshow(cells, vmin=-1, vmax=1, cmap="RdBu_r")
    for (i, j), cell in np.ndenumerate(cells):
        number = f"{cell:.2f}" if abs(cell) >= 0.095 else f"{cell:.3f}"
        text = "1" if i == j else "–" if np.isnan(cell) else number.replace("-", "−") + marks[i, j]
        ax.text(
            j, i, text, ha="center", va="center", color="white" if abs(cell) > 0.6 else "black", fontsize=7
        )
    if any(marks.values()):
        ax.set_xlabel("* beyond 95 % of random pairs")
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(
        mesh, ax=ax, label=LABELS.get(value, value), ticks=[-1, -0.5, 0, 0.5, 1]
    ).outline.set_visible(False)
    return ax


@_in_style
def cosine_profile(table: DataFrame, *, hue: str = "pair", ax: Axes | None = None) -> Axes:
    """The cosine over the layers, one line a pair, with the band that holds 95 % of random pairs of this size.

    `table`: one row a layer and pair, such as `combine(cosines, "layer")`. Where pairs differ in size the band is
    the widest of them.
    """
    table = _of_text(_with_pairs(table), hue).dropna(subset=["layer"])
    band = 1.96 * table.groupby("layer").random_sd.max().astype(float)
    ax.fill_between(
        band.index.astype(int), -band, band, color="0.8", linewidth=0, label="95 % of random pairs"
    )
    ax.axhline(0, color="0.4", linewidth=0.6)
    _lines(ax, table, "layer", "cosine", hue, from_zero=False)
    _layer_ticks(ax, table)
    return ax


@_in_style
def spectra(
    table: DataFrame, *, y: Literal["singular_value", "energy"] = "singular_value", hue: str = "vector",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Singular values (both axes logarithmic) or energy up to an index; one line for each value of `hue`.

    `table` comes from `spectrum`. Where a line stands for several matrices it is their median, and the band holds
    the middle 80 % of them; singular values are then relative to the largest of their matrix.
    """
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    table = table[table.singular_value > 0]
    _check_single(table, [hue, "tensor", "index"])
    several = table.groupby(hue, sort=False).tensor.nunique().max() > 1
    if several and y == "singular_value":
        first = table.groupby(["vector", "tensor"]).singular_value.transform("max")
        table = table.assign(singular_value=table.singular_value / first)
    for i, (name, rows) in enumerate(table.groupby(hue, sort=False)):
        quantiles = rows.groupby("index")[y].quantile([0.1, 0.5, 0.9]).unstack()
        marks = {**look(i), "markevery": _decades(quantiles.index)}
        ax.plot(quantiles.index, quantiles[0.5], label=str(name), **marks)
        if several:
            ax.fill_between(
                quantiles.index,
                quantiles[0.1],
                quantiles[0.9],
                color=look(i)["color"],
                alpha=0.2,
                linewidth=0,
            )
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    if y == "singular_value":
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, 1.02)
    ax.set_xlabel("index of the singular value")
    ax.set_ylabel("singular value / largest" if several and y == "singular_value" else LABELS[y])
    _legend(ax, hue)
    return ax


@_in_style
def fidelity(
    table: DataFrame, *, y: Literal["relative_error", "unchanged", "cosine"] = "relative_error", hue: str = "dtype",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """What rounding leaves of scale * tau, over the scale: one line a dtype.

    `table`: one row a scale and dtype, such as `combine(fidelity(...))`. The relative error is logarithmic; scales
    at which it is exactly 0 or missing are left out. Where members were quantised, a dashed line is the noise floor
    that this is expected to have left in tau, over the length of tau.
    """
    _lines(ax, table, "scale", y, hue, from_zero=y != "relative_error")
    if y == "relative_error" and "noise_floor" in table and (table.noise_floor > 0).any():
        ax.axhline(
            table.noise_floor.median(), color="0.4", linestyle="--", label="expected quantisation noise"
        )
        _legend(ax, hue)
    ax.set_xlim(left=min(0.0, float(table.scale.min())))
    if y == "relative_error":
        ax.set_yscale("log")
        ax.minorticks_off()
    elif y == "cosine":
        ax.set_ylabel("cosine with scale · τ")
    return ax


def _lines(ax: Axes, table: DataFrame, x: str, y: str, hue: str, *, from_zero: bool = True) -> None:
    """A line with markers for each value of `hue`, ordered by x, labelled in words."""
    _check_single(table, [x, hue])
    names = list(dict.fromkeys(table[hue]))
    if hue == "module":
        names = [module for module in MODULES if module in names]
    for i, name in enumerate(names):
        rows = table[table[hue] == name].sort_values(x)
        marks = look(MODULES[name] if hue == "module" else i)
        ax.plot(rows[x].astype(float), rows[y].astype(float), label=str(name), clip_on=False, **marks)
    if from_zero and y not in SIGNED and (table[y].dropna() >= 0).all():
        ax.set_ylim(bottom=0)
    ax.set_xlabel(LABELS.get(x, x))
    ax.set_ylabel(LABELS.get(y, y))
    _legend(ax, hue)


def _of_text(table: DataFrame, hue: str = "") -> DataFrame:
    """The text's rows of a table with several components, whose layers share numbers; all where they are told apart."""
    if hue == "component" or "component" not in table or table.component.nunique() < 2:
        return table
    return table[table.component == "text"]


def _legend(ax: Axes, hue: str) -> None:
    """Above the Axes, where no line can run under it, in as many columns as there is room for."""
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > 1:
        room = ax.get_position().width * ax.figure.get_figwidth() * 14  # characters beside each other, about
        widest = max(text_width(label) for label in labels) + 6
        columns = int(min(len(handles), 4, max(1, room // widest)))
        ax.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, columnspacing=1.0
        )
    elif labels:
        ax.set_title(f"{hue}: {labels[0]}", loc="left")


def _with_pairs(table: DataFrame) -> DataFrame:
    if {"a", "b"} <= set(table) and "pair" not in table:
        return table.assign(pair=[f"{a} · {b}" for a, b in zip(table.a, table.b, strict=True)])
    return table


def _check_single(table: DataFrame, keys: Sequence[str]) -> None:
    lacking = [key for key in keys if key not in table]
    if lacking:
        raise ValueError(
            f"the table lacks {', '.join(lacking)}; it has {', '.join(map(str, table.columns))}."
        )
    if len(table) == 0:
        raise ValueError("the table is empty: there is nothing to draw.")
    doubled = table.duplicated(list(keys))
    if doubled.any():
        free = [
            c
            for c in ("family", "vector", "a", "b", "scale", "dtype", "tensor")
            if c in table and c not in keys
        ]
        example = table.loc[doubled, list(keys)].iloc[0].to_dict()
        raise ValueError(
            f"{int(doubled.sum()) + 1} rows where one is drawn for each {' and '.join(keys)}, such as {example}. Pick "
            f"rows by {', '.join(free) or 'another column'}, or aggregate them with anatomy.combine."
        )


def _is_missing(value) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def _layer_ticks(ax: Axes, table: DataFrame) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    if table.layer.nunique() > 16:  # markers would run into each other
        for line in ax.lines:
            line.set_markevery(max(1, table.layer.nunique() // 8))


def _decades(index) -> list[int]:
    """Positions of about eight marks, even on a logarithmic axis."""
    wanted = np.geomspace(1, max(len(index), 1), 8).round().astype(int) - 1
    return sorted(set(wanted.tolist()))
