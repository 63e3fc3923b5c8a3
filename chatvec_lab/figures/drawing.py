"""Parts that figures share: lines, legends, labels beside lines, logarithmic axes that keep their zeros, checks."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chatvec_lab.figures import fonts
from chatvec_lab.figures.style import MODULES, line, look, text_width
from chatvec_lab.languages import language_name

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
    "scale": "scale of the chat vector", "index": "index", "tokens": "tokens",
    "divergence": "KL from the CP (nats)", "entropy": "entropy (nats)", "attribution": "attribution (nats)",
    "token_probability": "probability of that token", "rate": "nats per unit of scale",
}  # fmt: skip
SIGNED = ("cosine", "attribution", "rate")
Labels = Literal["legend", "direct"]
# q k v o and their like in the order of the computation; what has another name follows, in the table's order
PROJECTIONS = ["q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down"]
FEW_LINES = 6  # beside more of them, labels at their ends would be a list without a key
SPACING = (
    1.15  # of the lines of a wrapped label; STIX asks for so much that they look like labels of their own
)


def label_of(column: str) -> str:
    """A column in words.

    >>> label_of("relative_l2"), label_of("p_adjusted")
    ('relative L2 norm', 'p adjusted')
    """
    return LABELS.get(column, column.replace("_", " "))


def levels(data: DataFrame, column: str) -> list[Any]:
    """The values of a column in the order of a legend: modules and projections in the model's, others in the table's."""
    found = list(dict.fromkeys(data[column].dropna()))
    order = {"module": list(MODULES), "projection": PROJECTIONS}.get(column, [])
    return [*(value for value in order if value in found), *(value for value in found if value not in order)]


def named(value: Any, column: str) -> str:
    """A value as a label: codes of languages in words, numbers short, names of kinds and measures without underscores.

    >>> named("ko", "language"), named("ko", "model"), named(0.50, "scale"), named("what_is_it", "kind")
    ('Korean', 'ko', '0.5', 'what is it')
    >>> named("chat · CP zh", "pair"), named("CP in the plain frame", "model")
    ('chat · Chinese CP', 'CP in the plain frame')
    >>> named("cp_zh", "member"), named("chat_sft", "member")
    ('Chinese CP', 'chat sft')
    """
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    if column == "member":
        text = re.sub("^cp ", "CP ", text.replace("_", " "))
    if column in ("vector", "pair", "a", "b", "model", "member"):
        return re.sub(
            r"\bCP ([a-z]{2}(?:-[A-Za-z]+)?)\b(?! \w)", lambda found: f"{language_name(found[1])} CP", text
        )
    if column in ("kind", "metric", "measure", "set", "words"):
        return text.replace("_", " ")
    return language_name(text) if column.endswith("language") else text


def wrapped(text: str, width: int = 22) -> str:
    """A long label in several lines, about as long as each other, which take less of a narrow figure.

    >>> wrapped("vision-language model + τ")
    'vision-language\\nmodel + τ'
    """
    lines = textwrap.wrap(text, width, break_long_words=False)
    for narrower in range(width - 1, 0, -1):  # as few lines, none of them a word left over
        found = textwrap.wrap(text, narrower, break_long_words=False)
        if len(found) > len(lines) or max(map(len, found), default=0) > narrower:
            break
        lines = found
    return "\n".join(lines) or text


def fit(ax: Axes, texts: Sequence[Any], columns: int, rows: int) -> float:
    """Letters small enough for the widest of these texts to keep inside one of columns × rows cells of the Axes.

    Returns their size as a share of the figure's own letters; they are never larger than 0.85 of these.
    """
    import matplotlib

    own, largest = matplotlib.rcParams["font.size"], 0.85
    for text in texts:
        text.set_fontsize(largest * own)
    fonts.lay_out(ax.figure)
    cell = ax.get_window_extent()
    extents = [text.get_window_extent() for text in texts if text.get_text()]
    room = min(
        0.82 * cell.width / columns / max((extent.width for extent in extents), default=1),
        0.82 * cell.height / rows / max((extent.height for extent in extents), default=1),
    )
    size = largest * min(1.0, room)
    for text in texts:
        text.set_fontsize(size * own)
    return size


def name_y(ax: Axes, text: str) -> None:
    """The name of the y axis, in lines no longer than the axis is high."""
    import matplotlib

    points = ax.get_position().height * ax.figure.get_figheight() * 72
    width = max(8, int(points / (0.55 * matplotlib.rcParams["axes.labelsize"])))
    ax.set_ylabel(wrapped(text, width), linespacing=SPACING)


def name_x(ax: Axes, text: str) -> None:
    """The name of the x axis, in lines no longer than the axis is wide once the figure is laid out."""
    import matplotlib

    of_size = 0.45 if matplotlib.rcParams["mathtext.fontset"] == "stix" else 0.57
    points = ax.get_position().width * ax.figure.get_figwidth() * 72
    width = max(8, int(points / (of_size * matplotlib.rcParams["axes.labelsize"])))
    ax.set_xlabel(wrapped(text, width), linespacing=SPACING)


def lines(
    ax: Axes, data: DataFrame, x: str, y: str, hue: str | None, *, from_zero: bool = True, labels: Labels = "legend"
) -> None:  # fmt: skip
    """A line with markers for each value of `hue`, ordered by x; broken where a value is missing, never joined over it."""
    import seaborn

    check_single(data, [x, *([hue] if hue else [])])
    hue = hue or "_all"
    data = (data if hue in data else data.assign(_all="")).sort_values(x, kind="stable")
    names = levels(data, hue)
    looks = [look(MODULES.get(name, i) if hue == "module" else i) for i, name in enumerate(names)]
    piece = data.groupby(hue, sort=False, dropna=False)[y].transform(lambda values: values.isna().cumsum())
    drawn = data.assign(_piece=piece, **{x: data[x].astype(float), y: data[y].astype(float)})
    seaborn.lineplot(
        drawn[np.isfinite(drawn[y])], x=x, y=y, hue=hue, style=hue, hue_order=names, style_order=names, units="_piece",
        estimator=None, errorbar=None, palette=[one["color"] for one in looks], markers=[one["marker"] for one in looks],
        dashes=["" if one["linestyle"] == "-" else one["linestyle"][1] for one in looks], legend=False, clip_on=False,
        markeredgewidth=0, ax=ax,
    )  # fmt: skip
    mark_infinite(ax, drawn, x, y, hue, looks, names)
    if from_zero and y not in SIGNED and (data[y].dropna() >= 0).all():
        ax.set_ylim(bottom=0)
    ax.set_xlabel(label_of(x))
    name_y(ax, label_of(y))
    key(ax, hue, names, looks, ends=_ends(drawn, x, y, hue, names), labels=labels)


def _ends(data: DataFrame, x: str, y: str, hue: str, names: Sequence[Any]) -> list[float]:
    last = [data[(data[hue] == name) & np.isfinite(data[y])] for name in names]
    return [float(rows[y].iloc[-1]) if len(rows) else np.nan for rows in last]


def mark_infinite(
    ax: Axes, data: DataFrame, x: str, y: str, hue: str, looks: Sequence[dict], names: Sequence[Any]
) -> None:
    """A triangle at the edge for each value beyond all numbers, which a line cannot reach."""
    for one, name in zip(looks, names, strict=True):
        rows = data[(data[hue] == name) & np.isinf(data[y])]
        for edge, sign, place in (("^", 1, 0.98), ("v", -1, 0.02)):
            there = rows[np.sign(rows[y]) == sign]
            if len(there):
                ax.plot(
                    there[x],
                    [place] * len(there),
                    edge,
                    color=one["color"],
                    transform=ax.get_xaxis_transform(),
                )


def key(
    ax: Axes, hue: str, names: Sequence[Any], looks: Sequence[dict], *, ends: Sequence[float] = (), labels: Labels = "legend",
    more: Sequence[Any] = (),
) -> None:  # fmt: skip
    """What the lines are: their names at their ends, or a legend above the Axes; of one line, a title."""
    from matplotlib.lines import Line2D

    words = [named(name, hue) for name in names]
    if labels == "direct" and 1 < len(names) <= FEW_LINES and not more and _beside(ax, words, looks, ends):
        return
    handles = [
        *more,
        *(Line2D([], [], label=word, **one) for word, one in zip(words, looks, strict=True) if word),
    ]
    if len(handles) > 1:
        legend(ax, handles)
    elif handles and hue != "_all":
        title = words[0] if hue in ("metric", "member", "source") else f"{hue.replace('_', ' ')}: {words[0]}"
        ax.set_title(title, loc="left")


def legend(ax: Axes, handles: Sequence[Any]) -> None:
    """Above the Axes, where no line can run under it, in as few rows as there is room for."""
    import matplotlib

    # letters beside each other over the Axes, as wide as its labels leave it
    fonts.lay_out(ax.figure)
    of_size = 0.47 if matplotlib.rcParams["mathtext.fontset"] == "stix" else 0.58
    points = ax.get_position().width * ax.figure.get_figwidth() * 72
    room = points / (of_size * matplotlib.rcParams["legend.fontsize"])
    plain = [handle.get_label() for handle in handles]
    best: tuple[int, int, list[str]] | None = None
    for columns in range(1, min(len(plain), 4) + 1):
        width = int(room / columns) - 8  # the line and the gap before a name
        if width < 8 and columns > 1:
            break
        width = max(width, 8)
        names = [
            wrapped(name, width) if len(name) > 22 or text_width(name) > room - 8 else name for name in plain
        ]
        if max(text_width(part) for name in names for part in name.split("\n")) > width and columns > 1:
            break
        per_row = -(-len(names) // columns)
        rows = max(
            sum(n.count("\n") + 1 for n in names[k : k + per_row]) for k in range(0, len(names), per_row)
        )
        if best is None or rows < best[0]:
            best = (rows, columns, names)
    assert best is not None  # one column always is an answer
    _, columns, names = best
    made = ax.legend(
        list(handles), names, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, columnspacing=1.0
    )
    for text in made.get_texts():
        text.set_linespacing(SPACING)


def thinned(ax: Axes, most: int = 16) -> None:
    """Fewer markers on lines whose points are so many that markers would run into each other.

    A point without neighbours, of which no line tells, keeps its marker, and so do points that no line joins.
    """
    for one in ax.lines:
        if one.get_linestyle() == "None":
            continue
        is_there = np.isfinite(np.asarray(one.get_ydata(), dtype=float))
        count = len(is_there)
        if count > most:
            joined = np.convolve(is_there, [1, 0, 1], "same") > 0
            step = np.arange(count) % max(1, count // 8) == 0
            one.set_markevery(np.flatnonzero(is_there & (step | ~joined)).tolist())


def _beside(ax: Axes, words: Sequence[str], looks: Sequence[dict], ends: Sequence[float]) -> bool:
    """Write each line's name at its end, moved apart where ends meet; False where they would not fit."""
    import matplotlib

    height = ax.get_position().height * ax.figure.get_figheight() * 72
    least = 1.15 * matplotlib.rcParams["legend.fontsize"] / height
    if least * len(words) > 1 or max(map(text_width, words)) > 16 or not np.isfinite(ends).all():
        return False
    low, high = ax.get_ylim()
    to_axes = ax.transData + ax.transAxes.inverted()
    places = [float(to_axes.transform((ax.get_xlim()[0], min(max(end, low), high)))[1]) for end in ends]
    spread = _apart(places, least)
    for word, one, place in zip(words, looks, spread, strict=True):
        ax.annotate(word, (1, place), xycoords="axes fraction", xytext=(line(3), 0), textcoords="offset points",
                    color=one["color"], va="center", fontsize=matplotlib.rcParams["legend.fontsize"],
                    annotation_clip=False)  # fmt: skip
    return True


def _apart(places: Sequence[float], least: float) -> list[float]:
    """The places moved as little as need be for neighbours to be `least` apart, all within 0 to 1.

    >>> [round(place, 2) for place in _apart([0.5, 0.52, 0.0], 0.1)]
    [0.46, 0.56, 0.0]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    groups = [[places[i], 1] for i in order]  # middle and number of those that touch
    merged: list[list[float]] = []
    for middle, count in groups:
        merged.append([middle, count])
        while (
            len(merged) > 1
            and merged[-1][0] - merged[-2][0] < least * (merged[-1][1] + merged[-2][1]) / 2 - 1e-12
        ):
            (m2, n2), (m1, n1) = merged.pop(), merged.pop()
            half = least * (n1 + n2 - 1) / 2
            merged.append([min(max((m1 * n1 + m2 * n2) / (n1 + n2), half), 1 - half), n1 + n2])
    found = [m + least * (i - (n - 1) / 2) for m, n in merged for i in range(int(n))]
    spread = [0.0] * len(places)
    for i, place in zip(order, found, strict=True):
        spread[i] = place
    return spread


def over_zero(values: Any) -> float | None:
    """Where a logarithmic axis that breaks off below the least positive value can hold zeros; None where it needs not."""
    values = np.asarray(values, dtype=float)
    positive = values[np.isfinite(values) & (values > 0)]
    if not (values == 0).any() or not len(positive):
        return None
    decades = max(np.log10(positive.max() / positive.min()), 1)
    return float(10 ** (np.log10(positive.min()) - 0.22 * decades))


def log_axis(ax: Axes, axis: Literal["x", "y"], values: Any, zeros: float | None) -> None:
    """A logarithmic axis for these values; with `zeros`, broken, with a tick that says 0 at that place."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullLocator

    values = np.asarray(values, dtype=float)
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return  # nothing but zeros: a linear axis shows them
    along = getattr(ax, f"{axis}axis")
    getattr(ax, f"set_{axis}scale")("log")
    along.set_minor_locator(NullLocator())
    if zeros is None:
        return
    room = (positive.max() / zeros) ** 0.05
    getattr(ax, f"set_{axis}lim")(zeros / room, positive.max() * room)
    lowest, highest = np.log10(positive.min()), np.log10(positive.max())
    ticks = LogLocator(numticks=6).tick_values(positive.min(), positive.max())
    ticks = [tick for tick in ticks if positive.min() * 0.99 <= tick <= positive.max() * 1.01]
    ticks = ticks or [float(f"{10 ** ((lowest + highest) / 2):.1g}")]
    form = LogFormatterSciNotation()
    form.create_dummy_axis()
    along.set_ticks([zeros, *ticks], ["0", *(f"{t:g}" if 0.01 <= t < 1e4 else form(t) for t in ticks)])
    _break(ax, axis, zeros, float(positive.min()))


def _break(ax: Axes, axis: Literal["x", "y"], zeros: float, least: float) -> None:
    """Two strokes across the axis between the zeros and the least value: here it breaks off."""
    to_axes = ax.transData + ax.transAxes.inverted()
    low, high = ax.get_xlim(), ax.get_ylim()
    middle = np.sqrt(zeros * least)
    at = to_axes.transform((middle, high[0]) if axis == "x" else (low[0], middle))[0 if axis == "x" else 1]
    for shift in (-0.012, 0.012):
        long, wide = [at + shift - 0.01, at + shift + 0.01], [-0.015, 0.015]
        xs, ys = (long, wide) if axis == "x" else (wide, long)
        ax.plot(
            xs, ys, transform=ax.transAxes, color="black", linewidth=line(0.6), clip_on=False, label="_break"
        )


def check_single(data: DataFrame, keys: Sequence[str]) -> None:
    """Raise ValueError unless the table has these columns, and one row for each of their values."""
    lacking = [key for key in keys if key not in data]
    if lacking:
        raise ValueError(f"the table lacks {', '.join(lacking)}; it has {', '.join(map(str, data.columns))}.")
    if len(data) == 0:
        raise ValueError("the table is empty: there is nothing to draw.")
    doubled = data.duplicated(list(keys))
    if doubled.any():
        free = [
            c
            for c in ("family", "vector", "a", "b", "scale", "dtype", "tensor")
            if c in data and c not in keys
        ]
        example = data.loc[doubled, list(keys)].iloc[0].to_dict()
        raise ValueError(
            f"{int(doubled.sum()) + 1} rows where one is drawn for each {' and '.join(keys)}, such as {example}. Pick "
            f"rows by {', '.join(free) or 'another column'}, or aggregate them with anatomy.combine."
        )
