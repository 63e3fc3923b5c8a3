"""Figures of the page itself: a table of all cells as SVG, one small figure a language, seeds overlaid.

They are drawn at the size of a phone's column and set beside each other where there is room, so that no label
shrinks. Colours and markers come from the page's style; every point says its value in a <title>, which is what a
reader without script sees on hover, and `data-where` says which replies it is of.
"""

import json
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from chatvec_lab.report.seeds import Over

WIDTH, CHARACTER = 340, 6.8  # units of a figure, and of a character of 11 units, on the generous side
HUES = 7  # colours with a marker each; more lines than that are no figure


class Point(NamedTuple):
    """A mean over seeds and its seeds' values: (seed, value, what a reader is told of it)."""

    x: Any  # the category, or the number on the x axis
    hue: str
    over: Over
    seeds: list[tuple[str, float, str]]
    told: str
    where: dict[str, str] | None = None  # the replies that it is of, where the page has them


class Axis(NamedTuple):
    """A range of values and how they are written."""

    low: float
    high: float
    is_share: bool = False
    is_log: bool = False

    def place(self, value: float, start: float, end: float) -> float:
        change = math.log if self.is_log else float
        low, high, value = change(self.low), change(self.high), change(min(max(value, self.low), self.high))
        return round(start + (end - start) * (value - low) / (high - low), 1)

    @property
    def ticks(self) -> list[float]:
        if self.is_log:
            ends = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [10.0**i for i in ends if self.low <= 10.0**i <= self.high]
            return found if len(found) > 1 else [self.low, self.high]
        step = _step((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def write(self, value: float) -> str:
        return f"{100 * value:.0f} %" if self.is_share else f"{value:.4g}"


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * i for i in (1, 2, 2.5, 5, 10) if power * i >= rough * 0.999)


def axis(values: Sequence[float], *, is_share: bool, from_zero: bool = False) -> Axis:
    """The axis on which all these values lie: whole shares, else a little more than the values' range."""
    low, high = min(values), max(values)
    if is_share:
        return Axis(
            -1.0 if low < -0.5 else -0.5 if low < 0 else 0.0, 1.0 if high > 0.5 or low >= 0 else 0.5, True
        )
    if low > 0 and high / low > 50:
        return Axis(low / 1.15, high * 1.15, is_log=True)
    if from_zero or 0 < low < 0.4 * high:
        low = min(low, 0.0)
    room = (high - low or abs(high) or 1.0) * 0.04
    return Axis(low if low == 0 else low - room, high + room)


def width_of(text: str) -> float:
    """Units that a label of 11 units takes, East Asian characters counted double."""
    return CHARACTER * sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def cut(text: str, room: float) -> str:
    """The label, or as much of it as there is room for."""
    if width_of(text) <= room:
        return text
    while text and width_of(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def tag(name: str, inner: str = "", **attributes: Any) -> str:
    """An element; `class_` is class, `data_seed` data-seed, and what is None or "" is left out."""
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}={_quoted(str(value))}"
        for key, value in attributes.items()
        if value not in (None, "")
    )
    return f"<{name}{given}>{inner}</{name}>" if inner else f"<{name}{given}/>"


def _quoted(value: str) -> str:
    """A value as HTML writes it; one of many quotation marks (JSON) stands in single ones and stays short."""
    if '"' in value:
        return "'" + escape(value, quote=False).replace("'", "&#39;") + "'"
    return f'"{escape(value)}"'


def label(text: str, x: float, y: float, room: float, **attributes: Any) -> str:
    """A text that keeps to its room; cut, it says the whole on hover."""
    shown = cut(text, room)
    whole = tag("title", escape(text)) if shown != text else ""
    return tag("text", escape(shown) + whole, x=x, y=y, **attributes)


def marker(kind: int, x: float, y: float, size: float = 4.2) -> str:
    """The outline of the marker of a hue around (x, y): colour is never alone."""
    s = size
    corners = {
        1: [(-s, -s), (s, -s), (s, s), (-s, s)],
        2: [(0, -1.2 * s), (1.15 * s, 0.9 * s), (-1.15 * s, 0.9 * s)],
        3: [(0, -1.3 * s), (1.3 * s, 0), (0, 1.3 * s), (-1.3 * s, 0)],
        4: [(0, 1.2 * s), (1.15 * s, -0.9 * s), (-1.15 * s, -0.9 * s)],
        5: [(-s, -0.4 * s), (s, -0.4 * s), (s, 0.4 * s), (-s, 0.4 * s)],
        6: [(-0.4 * s, -s), (0.4 * s, -s), (0.4 * s, s), (-0.4 * s, s)],
    }.get(kind % HUES)
    if corners is None:
        return (
            f"M{x - s:.1f} {y:.1f}a{s:.1f} {s:.1f} 0 1 0 {2 * s:.1f} 0a{s:.1f} {s:.1f} 0 1 0 {-2 * s:.1f} 0z"
        )
    return "M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners) + "z"


Places = Sequence[tuple[float, float]]


def _point(point: Point, kind: int | str, x: float, y: float, places: Places, size: float = 4.2) -> str:
    """A point with its seeds, and which replies it is of."""
    look = kind if isinstance(kind, str) else f"h{kind}"
    seeds = [
        tag(
            "circle",
            tag("title", escape(told)),
            class_=f"dot seed {look}",
            data_seed=seed,
            cx=f"{at:g}",
            cy=f"{up:g}",
        )
        for (seed, _, told), (at, up) in zip(point.seeds, places, strict=True)
        if len(places) > 1
    ]
    shape = marker(kind if isinstance(kind, int) else 0, x, y, size)
    mean = tag("path", tag("title", escape(point.told)), class_=f"mean {look}", d=shape)
    where = (
        None if point.where is None else json.dumps(point.where, ensure_ascii=False, separators=(",", ":"))
    )
    return tag("g", "".join([*seeds, mean]), data_where=where)


def _svg(height: float, name: str, parts: Sequence[str]) -> str:
    return tag(
        "svg",
        "".join(parts),
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="group",
        aria_label=name,
        class_="chart",
    )


def reach(points: Sequence[Point]) -> list[float]:
    """All values that an axis has to hold: means, intervals and seeds."""
    found = [value for point in points for value in (point.over.mean, point.over.low, point.over.high)]
    return [v for v in found if v is not None] + [value for point in points for _, value, _ in point.seeds]


def dots(points: Sequence[Point], hues: Sequence[str], values: Axis, name: str, widest: float) -> str:
    """Categories below each other, each with a mean, its interval and its seeds for every hue, on one shared axis.

    widest: of the labels of all small figures, so that their axes stand below each other.
    """
    rows = list(dict.fromkeys(str(point.x) for point in points))
    is_beside = widest <= 126  # else the label stands above its line
    start, end, line = (widest + 12 if is_beside else 10), WIDTH - 46, 12
    parts, y = [], 6.0
    body = []
    for row in rows:
        here = [point for point in points if str(point.x) == row]
        if not is_beside:
            body.append(label(row, 0, y + 10, WIDTH))
            y += 15
        else:
            body.append(label(row, start - 8, y + line * len(here) / 2 + 4, start - 8, class_="end"))
        for point in here:
            kind, middle = hues.index(point.hue), y + line / 2
            x = values.place(point.over.mean, start, end)
            places = [(values.place(value, start, end), middle) for _, value, _ in point.seeds]
            if point.over.low is not None and point.over.high is not None:
                low, high = (values.place(v, start, end) for v in (point.over.low, point.over.high))
                body.append(tag("path", class_=f"interval h{kind}", d=f"M{low} {middle}H{high}"))
            body.append(_point(point, kind, x, middle, places))
            shown = values.write(round(point.over.mean, 2)) if values.is_share else f"{point.over.mean:.3g}"
            body.append(tag("text", escape(shown), x=WIDTH, y=middle + 4, class_="end value"))
            y += line
        y += 7
    parts += _grid(values, start, end, lambda x: f"M{x:g} 2V{y:g}")
    parts += body + _ticks(values, start, end, y + 13)
    return _svg(y + 18, name, parts)


def _grid(values: Axis, start: float, end: float, line: Callable[[float], str]) -> list[str]:
    """The lines across a figure at the ticks of an axis, that of zero darker."""
    drawn = {tick: line(values.place(tick, start, end)) for tick in values.ticks}
    grid, zero = (
        "".join(p for tick, p in drawn.items() if (tick == 0) is is_zero) for is_zero in (False, True)
    )
    return [tag("path", class_=name, d=d) for name, d in (("grid", grid), ("zero", zero)) if d]


def _ticks(values: Axis, start: float, end: float, y: float) -> list[str]:
    """The numbers below an axis, as many as have room; the first and last keep inside the figure."""
    found, last = [], -math.inf
    for tick in values.ticks:
        text, x = values.write(tick), values.place(tick, start, end)
        half = width_of(text) / 2
        x = min(max(x, half), WIDTH - half)
        if x - half > last + 4:
            found.append(tag("text", escape(text), x=round(x, 1), y=y, class_="middle"))
            last = x + half
    return found


def lines(points: Sequence[Point], hues: Sequence[str], values: Axis, name: str, x_label: str) -> str:
    """Means over a number, with the band of their intervals and a thin line for each seed."""
    height = 230
    numbers = sorted({float(point.x) for point in points})
    across = Axis(numbers[0], numbers[-1], is_log=numbers[0] > 0 and numbers[-1] / numbers[0] > 50)
    ticks = values.ticks
    start = max(width_of(values.write(tick)) for tick in ticks) + 12  # a marker at the left covers no number
    end, top, bottom = WIDTH - 12, 10, height - 34
    parts = []
    parts += _grid(values, bottom, top, lambda y: f"M{start:g} {y:g}H{end}")
    for tick in ticks:
        y = values.place(tick, bottom, top)
        parts.append(tag("text", escape(values.write(tick)), x=start - 9, y=y + 4, class_="end"))
    parts += _ticks(across, start, end, bottom + 15)
    parts.append(label(x_label, (start + end) / 2, height - 4, end - start, class_="middle"))
    marks = []
    for kind, hue in enumerate(hues):
        line = sorted((point for point in points if point.hue == hue), key=lambda point: float(point.x))
        if not line:
            continue
        at = [across.place(float(point.x), start, end) for point in line]
        ends = [
            [
                values.place(v if v is not None else p.over.mean, bottom, top)
                for p, v in zip(line, side, strict=True)
            ]
            for side in ([p.over.low for p in line], [p.over.high for p in line])
        ]
        band = [*zip(at, ends[0], strict=True), *reversed([*zip(at, ends[1], strict=True)])]
        parts.append(tag("path", class_=f"band h{kind}", d=_path(band) + "z"))
        for seed in dict.fromkeys(seed for point in line for seed, _, _ in point.seeds):
            here = [(x, value) for x, p in zip(at, line, strict=True) for s, value, _ in p.seeds if s == seed]
            drawn = [(x, values.place(value, bottom, top)) for x, value in here]
            parts.append(tag("path", class_=f"thin seed h{kind}", data_seed=seed, d=_path(drawn)))
        mean = [values.place(point.over.mean, bottom, top) for point in line]
        parts.append(tag("path", class_=f"line h{kind}", d=_path([*zip(at, mean, strict=True)])))
        for point, x, y in zip(line, at, mean, strict=True):
            places = [(x, values.place(value, bottom, top)) for _, value, _ in point.seeds]
            marks.append(_point(point, kind, x, y, places))
    return _svg(height, name, parts + marks)


def _path(places: Places) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


def arrows(groups: Mapping[str, Sequence[tuple[str, Point, Point]]], values: Axis, name: str) -> str:
    """Before and after, a row each on one axis: a hollow marker, an arrow, a full one; intervals and seeds on both.

    groups: the rows (measure, before, after) by the question that they answer, which stands above them.
    """
    start, end, y = 10, WIDTH - 12, 4.0
    parts = []
    for question, text, before, after in (
        (question if not place else "", *row)
        for question, rows in groups.items()
        for place, row in enumerate(rows)
    ):
        if question:
            parts.append(label(question, 0, y + 11, WIDTH, class_="question"))
            y += 17
        parts.append(label(text, 0, y + 11, WIDTH))
        middle = y + 25
        parts.append(tag("path", class_="grid", d=f"M{start} {middle}H{end}"))
        a, b = (values.place(point.over.mean, start, end) for point in (before, after))
        if abs(b - a) > 14:
            tip = b - math.copysign(7, b - a)
            back = tip - math.copysign(5, b - a)
            head = f"M{back} {middle - 3}L{tip} {middle}L{back} {middle + 3}"
            parts.append(tag("path", class_="arrow", d=f"M{a} {middle}H{tip}{head}"))
        for point, x, look in ((before, a, "before"), (after, b, "after")):
            if point.over.low is not None and point.over.high is not None:
                low, high = (values.place(v, start, end) for v in (point.over.low, point.over.high))
                parts.append(tag("path", class_=f"interval {look}", d=f"M{low} {middle}H{high}"))
            places = [(values.place(value, start, end), middle) for _, value, _ in point.seeds]
            parts.append(_point(point, look, x, middle, places, 5))
        y += 42
    return _svg(y + 14, name, [*parts, *_ticks(values, start, end, y + 8)])


def bar(over: Over, seeds: Sequence[float], values: Axis) -> str:
    """One interval of a table's row, on the axis that its rows share."""
    width = 160
    at = [values.place(t, 4, width - 4) for t in values.ticks]
    parts = [tag("path", class_="grid", d="".join(f"M{x:g} 0V18" for x in at))]
    if over.low is not None and over.high is not None:
        low, high = (values.place(v, 4, width - 4) for v in (over.low, over.high))
        parts.append(tag("path", class_="interval h0", d=f"M{low} 9H{high}"))
    parts += [tag("circle", class_="dot h0", cx=f"{values.place(v, 4, width - 4):g}", cy=9) for v in seeds]
    parts.append(tag("path", class_="mean h0", d=marker(0, values.place(over.mean, 4, width - 4), 9, 3.4)))
    parts.append(tag("title", f"on an axis from {values.write(values.low)} to {values.write(values.high)}"))
    return tag("svg", "".join(parts), viewBox=f"0 0 {width} 18", class_="bar", aria_hidden="true")
