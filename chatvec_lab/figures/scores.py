"""Figures of scores with their intervals: over the scale, model beside model, and one measure against another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chatvec_lab.figures.style import axes, look, style, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


def over_scale(table: DataFrame, *, hue: str = "metric", label: str, ax: Axes | None = None) -> Axes:
    """Estimates over the scale, one line with its band for each value of `hue`.

    `table`: columns scale, `hue`, estimate, low, high (missing low and high: no band). `label` names the y axis.
    """
    return over(table, x="scale", x_label="scale of the chat vector", hue=hue, label=label, ax=ax)


def over(
    table: DataFrame, *, x: str, x_label: str, hue: str = "metric", label: str, is_log: bool = False,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Estimates over the column `x`, one line with its band for each value of `hue`; `is_log` for a log x axis."""
    with style():
        ax = axes(ax)
        for i, (name, rows) in enumerate(table.groupby(hue, sort=False)):
            rows = rows.sort_values(x)
            ax.plot(rows[x], rows.estimate, label=str(name), **look(i))
            ax.fill_between(rows[x], rows.low, rows.high, color=look(i)["color"], alpha=0.18, linewidth=0)
        if is_log:
            ax.set_xscale("log")
            values = sorted(table[x].unique())
            ax.set_xticks(values, [_short(value) for value in values])
            ax.set_xticks([], minor=True)
        ax.set(xlabel=x_label, ylabel=label)
        _legend(ax)
    return ax


def _short(number: float) -> str:
    """
    >>> _short(153600), _short(1228800), _short(4e10), _short(12)
    ('154 k', '1.23 M', '40 G', '12')
    """
    size, unit = next(((10**n, u) for n, u in ((9, " G"), (6, " M"), (3, " k")) if number >= 10**n), (1, ""))
    return f"{number / size:.3g}{unit}"


def by_model(
    table: DataFrame, *, hue: str = "metric", label: str, limits: tuple[float, float] | None = (0, 1),
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Estimates as points with their intervals, a line a model from top to bottom, side by side for each `hue`.

    `table`: columns model, `hue`, estimate, low, high; models stand in the table's order.
    """
    with style():
        ax = axes(ax)
        if table.empty:
            ax.text(0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes)
            ax.set(xlabel=label, xticks=[], yticks=[])
            return ax
        models = list(dict.fromkeys(table.model))
        groups = list(table.groupby(hue, sort=False))
        for i, (name, rows) in enumerate(groups):
            shift = (i - (len(groups) - 1) / 2) * 0.6 / max(len(groups), 1)
            places = [models.index(model) + shift for model in rows.model]
            reach = [(rows.estimate - rows.low).clip(lower=0), (rows.high - rows.estimate).clip(lower=0)]
            shown = {**look(i), "linestyle": "none"}
            ax.errorbar(rows.estimate, places, xerr=reach, label=str(name), elinewidth=0.9, **shown)
        ax.set_yticks(range(len(models)), models)
        ax.set_ylim(len(models) - 0.5, -0.5)
        ax.set_xlabel(label)
        if limits:
            margin = 0.02 * (limits[1] - limits[0])
            ax.set_xlim(limits[0] - margin, limits[1] + margin)
        ax.grid(axis="x", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        _legend(ax)
    return ax


def two_sources(table: DataFrame, *, ours: str, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Printed values of the paper on the first of two Axes, our own with intervals on the second, setups in one order.

    `table`: rows of one table of `experiment.paper.beside`. Each side keeps its own axis, from its lowest to its
    highest possible value, since they count different things.
    """
    left, right = axes
    number, unit = table.table.iloc[0], table.paper_unit.iloc[0]
    printed = table.assign(model=table.setup, estimate=table.paper, low=table.paper, high=table.paper)
    highest = 10 if "10" in unit else 100 if unit == "percent" else 1
    by_model(
        printed.assign(metric="the paper"), label=f"Table {number}: {unit}", limits=(0, highest), ax=left
    )
    names = {"setup": "model", "here": "estimate", "here_low": "low", "here_high": "high"}
    by_model(table.rename(columns=names).assign(metric=ours), label=table.here_unit.iloc[0], ax=right)
    right.set_yticks([])
    return axes


def front(table: DataFrame, *, x: str, y: str, x_label: str, y_label: str, ax: Axes | None = None) -> Axes:
    """One measure against another with both intervals, a point a scale; the Pareto front filled and joined.

    `table`: columns scale, is_on_front, and `x`, `x`_low, `x`_high, likewise `y`.
    """
    with style():
        ax = axes(ax)
        for row in table.to_dict("records"):
            error = [
                [[max(row[c] - row[f"{c}_low"], 0)], [max(row[f"{c}_high"] - row[c], 0)]] for c in (x, y)
            ]
            shown = look(0) if row["is_on_front"] else {**look(7), "markerfacecolor": "white"}
            shown = {**shown, "linestyle": "none", "marker": "o"}
            ax.errorbar(row[x], row[y], xerr=error[0], yerr=error[1], elinewidth=0.6, **shown)
            ax.annotate(
                f"{row['scale']:g}", (row[x], row[y]), xytext=(3, 3), textcoords="offset points", fontsize=6
            )
        best = table[table.is_on_front].sort_values([x, y])
        ax.plot(best[x], best[y], color=look(0)["color"], linewidth=0.8, zorder=1)
        ax.set(xlabel=x_label, ylabel=y_label)
    return ax


def _legend(ax: Axes) -> None:
    """Above the Axes, in as many columns as there is room for."""
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > 1:
        room = ax.get_position().width * ax.figure.get_figwidth() * 14  # characters beside each other, about
        columns = int(max(1, room // (max(map(text_width, labels)) + 6)))
        ax.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(len(handles), columns)
        )
    elif labels:
        ax.set_title(labels[0], loc="left")
