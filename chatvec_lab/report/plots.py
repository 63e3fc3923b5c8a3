"""A table of all cells of a notebook as a figure of the page: what varies becomes rows, lines or small multiples."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from chatvec_lab.languages import language_name
from chatvec_lab.report import charts, tables
from chatvec_lab.report.charts import Axis, Point
from chatvec_lab.report.replies import Replies
from chatvec_lab.report.seeds import Over, by_cells, limits_of, over
from chatvec_lab.report.words import ASIDE, measure

if TYPE_CHECKING:
    import pandas

ACROSS = ("scale", "tokens", "step", "layer")  # numbers that make an x axis
_NO_KEYS = {"unit", "scorer", "test", "correction", "machine", "fair", "source", "note", "digest", "reason", "prompt",
            "right reply", "comparison", "method"}  # fmt: skip
_NO_VALUES = {"seed", "level", "seconds", "megabytes", "n", "coverage"}
MOST_ROWS, MOST_FIGURES = 24, 12


def plotted(item: Mapping[str, Any], notebook: str, kept: Sequence[str], dropped: set[str],
            replies: Replies | None) -> list[dict[str, Any]]:  # fmt: skip
    """The table as figures, one a unit: {"form", "svgs", "hues", "seeds", "caption"}; [] for what is no figure.

    kept: parameters that tell groups of cells apart; dropped: those that go with the seed, whose columns say nothing.
    """
    data = by_cells(item["data"])
    # a table's own column of a parameter's name (n) is no parameter: `by_cells` has that as cell_n
    data = data.drop(columns=[c for n in dropped if (c := f"cell_{n}" if f"cell_{n}" in data else n) in data])
    if "metric" in data and data.metric.nunique() > 1:
        data = data[~data.metric.isin(ASIDE)]
    if not len(data):
        return []
    parts = [rows for _, rows in data.groupby("unit", sort=False)] if "unit" in data else [data]
    found = [_plot(rows, notebook, kept, replies) for rows in parts]
    told = item.get("measures") or {}
    for plot in filter(None, found):  # in the words of its scorers, and which way is better
        plot["hues"] = [_told(name, told) for name in plot["hues"]]
    return [plot | {"caption": item["caption"], "file": item["file"]} for plot in found if plot]


def _told(name: str, measures: Mapping[str, Mapping[str, str]]) -> str:
    """A line's name in the legend: a measure is called as its scorer calls it, with the way that is better."""
    found = next((about for metric, about in measures.items() if name in (metric, measure(metric))), None)
    if found is None:
        return name
    arrow = {"higher": " ↑", "lower": " ↓"}.get(found.get("better", ""), "")
    return f"{found.get('words') or measure(name)}{arrow}"


def _value_of(data: "pandas.DataFrame") -> str | None:
    """The column that is drawn: the estimate; of a table without one that which has no unit, or the first number."""
    if "estimate" in data:
        return "estimate"
    if any(str(column).endswith("_low") for column in data):  # several measures side by side
        return None
    numbers = [c for c in data if data[c].dtype.kind == "f" and c not in (*ACROSS, *_NO_VALUES)]
    return next(iter([*(c for c in numbers if c.startswith(("relative_", "share_"))), *numbers]), None)


class Layout(NamedTuple):
    """What the columns of a table become: rows or an x axis, lines or colours, and small figures."""

    value: str
    keys: list[str]
    x: str
    hue: str | None
    groups: list[str]

    @property
    def is_line(self) -> bool:
        return self.x in ACROSS


def _layout(data: "pandas.DataFrame", kept: Sequence[str]) -> Layout | None:
    """None for a table that is no figure: it has no number, or two for one point."""
    value = _value_of(data)
    if value is None or not data[value].notna().any():
        return None
    keys = [
        c
        for c in data
        if c != "seed" and c not in _NO_KEYS and (c in ACROSS or data[c].dtype.kind not in "biufcmM")
    ]
    if data.duplicated([*keys, *(["seed"] if "seed" in data else [])]).any():
        return None
    many = [c for c in keys if data[c].nunique() > 1]
    groups = [c for name in kept if (c := f"cell_{name}" if f"cell_{name}" in data else name) in many]
    rest = [c for c in many if c not in groups]
    x = next((c for c in ACROSS if c in rest and _is_axis(data, c, [k for k in keys if k != c])), None)
    x = x or max(rest or groups, key=lambda c: (data[c].nunique(), c != "metric"), default=None)
    if x is None:
        return None
    rest, groups = [c for c in rest if c != x], [c for c in groups if c != x]
    hue = "metric" if "metric" in rest else min(rest, key=lambda c: data[c].nunique(), default=None)
    return Layout(value, keys, x, hue, groups + [c for c in rest if c != hue])


def _plot(
    data: "pandas.DataFrame", notebook: str, kept: Sequence[str], replies: Replies | None
) -> dict[str, Any] | None:
    layout = _layout(data, kept)
    if layout is None:
        return None
    value, hue, x = layout.value, layout.hue, layout.x
    data = data[data[value].notna()]
    hues = [_named(hue, v) for v in data[hue].unique()] if hue else [""]
    if len(hues) > charts.HUES or (not layout.is_line and data[x].nunique() > MOST_ROWS):
        return None
    points = _points(data, layout, notebook, replies)
    if len(points) > MOST_FIGURES:
        return None
    every = list(itertools.chain(*points.values()))
    from_zero = not layout.is_line and value != "cosine"
    axis = charts.axis(charts.reach(every), is_share=_are_shares(data, value), from_zero=from_zero)
    widest = max(charts.width_of(str(point.x)) for point in every)
    svgs = []
    for name, of in points.items():
        title = name or measure(value if value != "estimate" else x)
        drawn = (
            charts.lines(of, hues, axis, title, x)
            if layout.is_line
            else charts.dots(of, hues, axis, title, widest)
        )
        svgs.append({"title": name, "svg": drawn})
    seeds = list(dict.fromkeys(s[0] for p in every for s in p.seeds if len(p.seeds) > 1))
    about = {
        "value": "" if value == "estimate" else measure(value),
        "has_intervals": any(point.over.low is not None for point in every),
        "is_log": axis.is_log,
        "seeds": seeds,
        "asked": of_prompts(data["n"].dropna() if "n" in data else ()),
    }
    return {"form": "lines" if layout.is_line else "dots", "svgs": svgs, "hues": hues if hue else [], **about}


def _is_axis(data: "pandas.DataFrame", column: str, keys: list[str]) -> bool:
    """Whether a column is what everything else is drawn over: each line has three of its numbers at least."""
    by = [*keys, *(["seed"] if "seed" in data else [])]
    return (
        bool((data.groupby(by, dropna=False)[column].nunique() > 2).all())
        if by
        else data[column].nunique() > 2
    )


def _are_shares(data: "pandas.DataFrame", value: str) -> bool:
    return value.startswith("share_") or ("unit" in data and bool((data.unit == "share").all()))


def _points(
    data: "pandas.DataFrame", layout: Layout, notebook: str, replies: Replies | None
) -> dict[str, list[Point]]:
    """For each small figure, by its name, its points; seeds of one point together."""
    value, x, hue = layout.value, layout.x, layout.hue
    axis = Axis(0, 1, _are_shares(data, value))
    limits = limits_of(axis.is_share, "p_adjusted" in data)
    together: dict[tuple, list[dict[str, Any]]] = {}
    for row in data.to_dict("records"):
        together.setdefault(tuple(row[key] for key in layout.keys), []).append(row)
    found: dict[str, list[Point]] = {}
    for of, rows in together.items():
        keys = dict(zip(layout.keys, of, strict=True))
        group = ", ".join(_grouped(c, keys[c], keys) for c in layout.groups)
        colour = _named(hue, keys[hue]) if hue else ""
        what = ", ".join(filter(None, [_named(x, keys[x]), colour, group]))
        seeds = [_seed(row, value, axis) for row in rows]
        if len(seeds) > 1:
            mean = over([v for _, v, _ in seeds], limits)
            told = f"{what}: {_written(axis, mean.mean, mean.low, mean.high)}, {of_seeds(mean)}"
        else:
            mean, told = Over(seeds[0][1], *_ends(rows[0], value), 1, ""), f"{what}: {seeds[0][2]}"
        where = None
        if replies is not None and value == "estimate":
            given = {
                c: f"{v:g}" if isinstance(v, float) else str(v) for c, v in keys.items() if c != "metric"
            }
            where = replies.where(notebook, given, str(keys.get("metric", "")))
        at = keys[x] if layout.is_line else _named(x, keys[x])
        found.setdefault(group, []).append(Point(at, colour, mean, seeds, told, where))
    return found


def _ends(row: Mapping[str, Any], value: str) -> tuple[float | None, float | None]:
    low, high = (row.get(end) if value == "estimate" else None for end in ("low", "high"))
    return tuple(None if end is None or end != end else float(end) for end in (low, high))


def _seed(row: Mapping[str, Any], value: str, axis: Axis) -> tuple[str, float, str]:
    """Seed, value and what is told of one row."""
    seed, n = f"{row['seed']}" if "seed" in row else "", row.get("n")
    asked = "" if n is None or n != n else f", n {n:.0f}"
    told = f"{_written(axis, row[value], *_ends(row, value))}{asked}"
    return seed, float(row[value]), f"seed {seed}: {told}" if seed else told


def of_seeds(mean: Over) -> str:
    """How a mean over seeds came about: "mean of 3 seeds"."""
    return (
        f"mean of {mean.seeds} seeds" + (f" ({mean.note})" if mean.note else "")
        if mean.seeds > 1
        else "one seed"
    )


def of_prompts(n: Iterable[float]) -> str:
    """How many prompts numbers are of, in words.

    >>> of_prompts([120, 200]), of_prompts([64, 64]), of_prompts([])
    ('n = 120 to 200.', 'n = 64.', '')
    """
    counts = [int(count) for count in n]
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"n = {low:,}." if low == high else f"n = {low:,} to {high:,}."


def _written(axis: Axis, value: float, low: float | None, high: float | None) -> str:
    return percent(value, low, high) if axis.is_share else tables.interval(float(value), low, high)


def percent(value: float, low: float | None = None, high: float | None = None) -> str:
    """
    >>> percent(0.885), percent(0.885, 0.8, 0.9312)
    ('88.5 %', '88.5 % [80.0, 93.1]')
    """
    ends = f" [{100 * low:.1f}, {100 * high:.1f}]" if low is not None and low == low else ""
    return f"{100 * value:.1f} %{ends}"


def points(value: float, low: float | None = None, high: float | None = None) -> str:
    """A change of a share, in percentage points.

    >>> points(-0.075, -0.1, -0.05), points(0.02)
    ('−7.5 percentage points [−10.0, −5.0]', '+2.0 percentage points')
    """
    ends = f" [{100 * low:+.1f}, {100 * high:+.1f}]" if low is not None and low == low else ""
    return f"{100 * value:+.1f} percentage points{ends}".replace("-", "−")


def _named(column: str | None, value: Any) -> str:
    if column == "metric":
        return measure(str(value))
    if column in ACROSS:
        return f"{column} {value:g}"
    if column in ("kind", "part", "set", "module", "words"):
        return str(value).replace("_", " ")
    return language_name(str(value)) if column and column.endswith("language") else str(value)


def _grouped(column: str, value: Any, keys: Mapping[str, Any]) -> str:
    """What a small figure is of, said with the column where its value alone would not tell."""
    before = {
        "cell_language": "CP ",
        "frame": "frame ",
        "language": "asked in " if "cell_language" in keys else "",
    }
    name = language_name(str(value)) if "language" in column else _named(column, value)
    return f"{before.get(column, '')}{name}"
