"""Figures of scores with their intervals: over the scale, model beside model, and one measure against another.

All take `data, x, y, hue` as seaborn does. Where `y` (or `x`) is "estimate" its interval is in the columns low and
high, else in NAME_low and NAME_high; without those nothing is drawn around it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.figures import fonts
from chatvec_lab.figures.drawing import (
    SPACING,
    Labels,
    key,
    label_of,
    levels,
    log_axis,
    name_x,
    name_y,
    named,
    over_zero,
    thinned,
    wrapped,
)
from chatvec_lab.figures.recipe import drawn, is_ours, now_and_last
from chatvec_lab.figures.style import line, look
from chatvec_lab.figures.venues import current

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

MANY_TIMES = (
    50  # a y axis whose values lie further apart is logarithmic, or the small ones would be one flat line
)


@drawn
def over_scale(
    data: DataFrame, *, x: str = "scale", y: str = "estimate", hue: str | None = "metric", label: str, x_label: str = "",
    mark: float | None = None, labels: Labels = "legend", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Estimates over the scale, one line with its band for each value of `hue`; `mark` is a scale with a dotted line.

    `data`: columns scale, `hue`, estimate, and low and high for a band. `label` names the y axis.
    """
    x_label = x_label or label_of(x)
    return over(data, x=x, y=y, hue=hue, x_label=x_label, label=label, mark=mark, labels=labels, ax=ax)


@drawn
def over(
    data: DataFrame, *, x: str, y: str = "estimate", hue: str | None = "metric", x_label: str = "", label: str = "",
    is_log: bool = False, mark: float | None = None, points: Sequence[str] = (), labels: Labels = "legend",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Estimates over the column `x`, one line with its band for each value of `hue`; `is_log` for a log x axis.

    An x of 0 on a log axis stands beyond a break; `mark` is a value of x with a dotted line; `points` are values of
    `hue` whose estimates stand for themselves, so that no line joins them.
    """
    if data.empty:
        return _not_measured(ax, x_label or label_of(x), label)
    data = data if hue else data.assign(_all="")
    hue = hue or "_all"
    zeros = over_zero(data[x]) if is_log else None
    values = data[y][np.isfinite(data[y].astype(float))]
    is_far = bool(len(values)) and bool((values > 0).all()) and values.max() / values.min() > MANY_TIMES
    names, ends = levels(data, hue), []
    looks = [look(i) | ({"linestyle": "none"} if name in points else {}) for i, name in enumerate(names)]
    for i, name in enumerate(names):
        rows = data[data[hue] == name].sort_values(x)
        at = rows[x].astype(float).where(rows[x] != 0, zeros) if zeros is not None else rows[x].astype(float)
        height = rows[y].astype(float)
        ax.plot(at, height.where(np.isfinite(height)), **looks[i])
        _edge(ax, at[np.isinf(height)], look(i)["color"])
        ends.append(float(height[np.isfinite(height)].iloc[-1]) if np.isfinite(height).any() else np.nan)
        if bounds := _bounds(rows, y):
            low, high = (rows[column].astype(float) for column in bounds)
            ax.fill_between(at, low, high, color=look(i)["color"], alpha=0.18, linewidth=0)
    if is_log:
        log_axis(ax, "x", data[x], zeros)
        values = sorted(v for v in data[x].unique() if v > 0)
        places = [*([zeros] if zeros is not None else []), *values]
        ax.set_xticks(places, [*(["0"] if zeros is not None else []), *(_short(value) for value in values)])
        ax.set_xticks([], minor=True)
    if is_far and y == "estimate":
        log_axis(ax, "y", data[y], None)
    thinned(ax)
    if mark is not None:
        ax.axvline(mark, color="0.6", linewidth=line(0.6), linestyle=":")
    ax.set_xlabel(x_label or label_of(x))
    name_y(ax, label)
    key(ax, hue, names, looks, ends=ends, labels=labels)
    return ax


def _edge(ax: Axes, at: Sequence[float], color: str) -> None:
    """A triangle at the upper edge for what is beyond all numbers."""
    if len(at):
        ax.plot(at, [0.98] * len(at), "^", color=color, transform=ax.get_xaxis_transform())


def _bounds(data: DataFrame, column: str) -> tuple[str, str] | None:
    """The columns of a column's interval, where it has one with numbers in it."""
    pairs = [("low", "high")] if column == "estimate" else [(f"{column}_low", f"{column}_high")]
    return next((p for p in pairs if p[0] in data and p[1] in data and data[p[0]].notna().any()), None)


def _not_measured(ax: Axes, x_label: str, y_label: str = "") -> Axes:
    ax.text(0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes)
    ax.set(xlabel=x_label, ylabel=y_label, xticks=[], yticks=[])
    return ax


def _short(number: float) -> str:
    """
    >>> _short(153600), _short(1228800), _short(4e10), _short(12)
    ('154 k', '1.23 M', '40 G', '12')
    """
    size, unit = next(((10**n, u) for n, u in ((9, " G"), (6, " M"), (3, " k")) if number >= 10**n), (1, ""))
    return f"{number / size:.3g}{unit}"


@drawn
def by_model(
    data: DataFrame, *, x: str = "estimate", y: str = "model", hue: str | None = "metric", label: str,
    limits: tuple[float, float] | None = (0, 1), mark: float | None = None, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Estimates as points with their intervals, a line a model (or another `y`) from top to bottom, side by side for `hue`.

    `data`: columns `y`, `hue`, estimate, low, high; rows stand in the table's order. `mark` is a value with a dotted
    line; points beyond `limits` widen the axis, and none is cut.
    """
    if data.empty:
        return _not_measured(ax, label)
    data = data if hue else data.assign(_all="")
    hue = hue or "_all"
    rows_of, names = (
        levels(data, y) if y in ("module", "projection") else list(dict.fromkeys(data[y])),
        levels(data, hue),
    )
    looks = [{**look(i), "linestyle": "none"} for i in range(len(names))]
    bounds = _bounds(data, x)
    for i, name in enumerate(names):
        rows = data[data[hue] == name]
        shift = (i - (len(names) - 1) / 2) * 0.6 / max(len(names), 1)
        places = [rows_of.index(value) + shift for value in rows[y]]
        reach = None
        if bounds:
            low, high = (rows[column].astype(float) for column in bounds)
            reach = [(rows[x] - low).clip(lower=0).fillna(0), (high - rows[x]).clip(lower=0).fillna(0)]
        ax.errorbar(rows[x], places, xerr=reach, elinewidth=line(0.9), **looks[i])
    _name_rows(ax, words := [named(value, y) for value in rows_of])
    ax.set_ylim(len(rows_of) - 0.5, -0.5)
    ax.set_xlabel(label)
    if limits:
        ends = data[[x, *(bounds or ())]].to_numpy(dtype=float)
        ends = ends[np.isfinite(ends)]
        least, most = min(limits[0], *ends, limits[1]), max(limits[1], *ends, limits[0])
        margin = 0.02 * (most - least)
        ax.set_xlim(least - margin, most + margin)
    if mark is not None:
        ax.axvline(mark, color="0.6", linewidth=line(0.6), linestyle=":")
    ax.grid(axis="x", color="0.9", linewidth=line(0.6))
    ax.set_axisbelow(True)
    key(ax, hue, names, looks)
    now_and_last(ax.figure, lambda: _make_room(ax, words, label))
    return ax


def _name_rows(ax: Axes, words: Sequence[str], width: int = 22) -> float:
    """Write the rows' names in lines of so many letters; how many lines lie between the middles of two rows at most."""
    names = [wrapped(word, width) for word in words]
    ax.set_yticks(range(len(names)), names, linespacing=SPACING)
    counts = [name.count("\n") + 1 for name in names]
    return max(((one + two) / 2 for one, two in itertools.pairwise(counts)), default=1.0)


def _make_room(ax: Axes, words: Sequence[str], label: str) -> None:
    """Keep the names of neighbouring rows apart: on a higher figure, as far as the venue goes, in longer lines, or smaller.

    The name of the x axis goes into lines as long as that leaves room for. Names that somebody changed are let be.
    """
    plain = [" ".join(text.get_text().split()) for text in [*ax.get_yticklabels(), ax.xaxis.label]]
    if plain != [" ".join(word.split()) for word in [*words, label]]:
        return
    size = ax.get_yticklabels()[0].get_size()
    figure, place = ax.figure, ax.get_subplotspec()

    def named_in(width: int) -> tuple[float, float]:
        """With names in lines of so many letters: inches that the Axes have, and that they are too low."""
        lines = _name_rows(ax, words, width)
        fonts.lay_out(figure)
        name_x(ax, label)
        fonts.lay_out(figure)
        has = ax.get_position().height * figure.get_figheight()
        lacks = 1.05 * SPACING * size * lines * len(words) / 72 - has
        return has, lacks if lacks > 0.01 else 0

    has, lacks = named_in(22)
    if lacks and is_ours(figure) and place is not None:
        high = figure.get_figheight()
        figure.set_figheight(min(high + lacks * place.get_gridspec().nrows, max(high, current().height)))
        has, lacks = named_in(22)
    if lacks and any(len(word) > 22 for word in words):
        for width in (30, 40):
            has, lacks = named_in(width) if lacks else (has, lacks)
        if lacks:
            has, lacks = named_in(30)
    if lacks:
        ax.tick_params(axis="y", labelsize=size * max(has / (has + lacks), 0.5))


@drawn
def two_sources(data: DataFrame, *, ours: str, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Printed values of the paper on the first of two Axes, our own with intervals on the second, setups in one order.

    `data`: rows of one table of `experiment.paper.beside`. Each side keeps its own axis, from its lowest to its
    highest possible value, since they count different things.
    """
    left, right = axes
    number, unit = data.table.iloc[0], data.paper_unit.iloc[0]
    highest = 10 if "10" in unit else 100 if unit == "percent" else 1
    printed = data.assign(source="the paper")
    by_model(
        printed,
        x="paper",
        y="setup",
        hue="source",
        label=f"Table {number}: {unit}",
        limits=(0, highest),
        ax=left,
    )
    counted = data.here_unit.iloc[0]
    if "measure" in data:  # the axis shows from where to where it goes
        counted = f"{named(data.measure.iloc[0], 'measure')}: {counted.removesuffix(', 0 to 1')}"
    by_model(data.assign(source=ours), x="here", y="setup", hue="source", label=counted, ax=right)
    for ax, title in ((left, "the paper"), (right, ours)):
        ax.set_title(title, loc="left")
    right.set_yticks([])
    return axes


@drawn
def front(
    data: DataFrame, *, x: str, y: str, x_label: str = "", y_label: str = "", ax: Axes | None = None
) -> Axes:
    """One measure against another with both intervals, a point a scale; the Pareto front filled and joined.

    `data`: columns scale, is_on_front, and `x`, `x`_low, `x`_high, likewise `y`. A scale without one of the two is not
    drawn. Where most points crowd together and one lies far out, the x axis is logarithmic.
    """
    import matplotlib
    import seaborn

    shown = data[np.isfinite(data[x].astype(float)) & np.isfinite(data[y].astype(float))]
    if shown.empty:
        return _not_measured(ax, x_label or label_of(x), y_label or label_of(y))
    ends = {
        c: [shown[c] - shown.get(f"{c}_low", shown[c]), shown.get(f"{c}_high", shown[c]) - shown[c]]
        for c in (x, y)
    }
    reach = {c: [side.clip(lower=0).fillna(0) for side in sides] for c, sides in ends.items()}
    gone = look(7)["color"]
    ax.errorbar(
        shown[x],
        shown[y],
        xerr=reach[x],
        yerr=reach[y],
        fmt="none",
        elinewidth=line(0.6),
        ecolor=gone,
        zorder=1,
    )
    best = shown[shown.is_on_front].sort_values([x, y])
    ax.plot(best[x], best[y], color=look(0)["color"], linewidth=line(0.8), zorder=1)
    for is_best, fill in ((False, "white"), (True, look(0)["color"])):
        rows = shown[shown.is_on_front == is_best]
        edge = look(0)["color"] if is_best else gone
        marks = {"color": fill, "edgecolor": edge, "linewidth": line(0.9), "s": line(4.2) ** 2, "zorder": 3}
        seaborn.scatterplot(rows, x=x, y=y, legend=False, ax=ax, **marks)
    if (shown[x] > 0).all() and shown[x].max() / shown[x].median() > MANY_TIMES:
        log_axis(ax, "x", shown[x], None)
    ax.set_xlabel(x_label or label_of(x))
    name_y(ax, y_label or label_of(y))
    _name_points(ax, shown, x, y, 0.75 * matplotlib.rcParams["font.size"])
    return ax


def _name_points(ax: Axes, data: DataFrame, x: str, y: str, letters: float) -> None:
    """The scale beside each point, where it covers no other point and no other name; a name without room is left out."""
    from matplotlib.patheffects import withStroke

    fonts.lay_out(ax.figure)
    to_points = 72 / ax.figure.dpi
    at = ax.transData.transform(data[[x, y]].to_numpy(dtype=float)) * to_points
    taken: list[tuple[float, float, float, float]] = [(px - 2, py - 2, px + 2, py + 2) for px, py in at]
    edge = ax.get_window_extent()
    frame = tuple(side * to_points for side in (edge.x0, edge.y0, edge.x1, edge.y1))
    for (px, py), scale in zip(at, data.scale, strict=True):
        text = f"{scale:g}"
        width, height, gap = 0.55 * letters * len(text), letters, line(3)
        corners = [(gap, gap), (-gap - width, gap), (gap, -gap - height), (-gap - width, -gap - height),
                   (-width / 2, gap + 1), (-width / 2, -gap - height - 1)]  # fmt: skip
        for dx, dy in corners:
            box = (px + dx, py + dy, px + dx + width, py + dy + height)
            inside = frame[0] <= box[0] and box[2] <= frame[2] and frame[1] <= box[1] and box[3] <= frame[3]
            if inside and not any(
                box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken
            ):
                taken.append(box)
                place = ((px + dx - px), (py + dy - py))
                point = (
                    data[x].iloc[list(data.scale).index(scale)],
                    data[y].iloc[list(data.scale).index(scale)],
                )
                ax.annotate(
                    text,
                    point,
                    xytext=place,
                    textcoords="offset points",
                    fontsize=letters,
                    va="bottom",
                    ha="left",
                    path_effects=[withStroke(linewidth=line(1.6), foreground="white")],
                )
                break
