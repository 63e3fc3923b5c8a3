"""Figures of what happens inside a model: texts coloured token by token, layers over tokens, one measure against another."""

from __future__ import annotations

import html
import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.figures import fonts
from chatvec_lab.figures.drawing import check_single, fit, key, label_of, levels, name_y
from chatvec_lab.figures.recipe import drawn, now_and_last
from chatvec_lab.figures.style import line, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from pandas import DataFrame

SHADES = "YlOrRd"
_UNSEEN = {"\n": "⏎", "\t": "⇥"}


@drawn
def coloured_text(
    data: DataFrame, *, value: str = "divergence", row: str = "text", limit: float | None = None, ax: Axes | None = None
) -> Axes:  # fmt: skip
    """Texts with each token on a ground as dark as `value` is large, one below the other, a title for each value of `row`.

    `data`: a row a token in the order of the text: columns `row`, position, token, `value`. Dark begins at `limit`
    (the largest value unless told); the colours grow with the square root of the value, so that small ones show.
    """
    import matplotlib
    from matplotlib.cm import ScalarMappable

    check_single(data, [row, "position"])
    finite = data[value][np.isfinite(data[value])]
    top = limit or float(finite.max() if len(finite) else 0) or 1.0
    norm = matplotlib.colors.PowerNorm(0.5, 0, top, clip=True)
    shades = matplotlib.colormaps[SHADES]
    bar = ax.figure.colorbar(
        ScalarMappable(norm, shades), ax=ax, label=label_of(value), pad=0.02, fraction=0.04
    )
    bar.outline.set_visible(False)
    bar.set_ticks(ticks := _round_ticks(top), labels=[f"{tick:g}" for tick in ticks])
    ax.set_axis_off()
    fonts.lay_out(ax.figure)
    box, letters = ax.get_window_extent(), matplotlib.rcParams["font.size"] * ax.figure.dpi / 72
    step, x, y = 1.75 * letters, 0.0, box.height
    for title in levels(data, row):
        y -= step
        small = {"color": "0.35", "fontsize": 0.85 * matplotlib.rcParams["font.size"]}
        _shorten(_put(ax, 0, y, f"{title}:", box, **small), box.width)
        y, x = y - step, 0.0
        rows = data[data[row] == title].sort_values("position")
        back = _is_from_right(rows.token)
        for token, amount in zip(rows.token, rows[value], strict=True):
            text = visible(token)
            color = shades(norm(amount)) if np.isfinite(amount) else (1, 1, 1, 1)
            dark = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] < 0.5
            ground = {"facecolor": color, "edgecolor": "none", "pad": 0.12 * letters * 72 / ax.figure.dpi}
            artist = _put(ax, 0, y, text, box, color="white" if dark else "black", bbox=ground)
            width = artist.get_window_extent(_renderer(ax)).width + 0.35 * letters
            if x + width > box.width and x > 0:
                x, y = 0.0, y - step
            place = box.width - x - width if back else x
            artist.set_position(((place + 0.12 * letters) / box.width, y / box.height))
            x += width
        y -= 0.4 * step
    _shrink(ax, box.height / (box.height - y - 0.4 * step + 0.3 * letters))
    return ax


def _round_ticks(top: float) -> list[float]:
    """0, some round values and none beyond `top`, for colours that grow with the square root.

    >>> _round_ticks(18.3), _round_ticks(0.7)
    ([0, 1.0, 5.0, 10.0], [0, 0.05, 0.2, 0.5])
    """
    decade = float(np.floor(np.log10(top)))
    steps = [float(f"{one * 10.0**ten:g}") for ten in (decade - 1, decade) for one in (1, 2, 5)]
    inside = [step for step in steps if step <= top * (1 + 1e-9)]
    apart: list[float] = [0]
    for step in inside:  # a tenth of the bar between neighbours
        if np.sqrt(step / top) - np.sqrt(apart[-1] / top) >= 0.2:
            apart.append(step)
    return apart


def _shorten(text: Text, room: float) -> None:
    """Cut the middle out of a line that is wider than the room (pixels), so that its beginning and end stay."""
    wide = text.get_window_extent(_renderer(text.axes)).width
    if wide > room:
        words = text.get_text()
        kept = max(8, int(len(words) * room / wide * 0.94) - 1)
        text.set_text(f"{words[: kept - kept // 2]}…{words[-(kept // 2) :]}")


def _shrink(ax: Axes, factor: float) -> None:
    """Bring lines nearer to each other, then make them smaller, from the upper left corner, where they would not fit."""
    factor = min(factor, 1.0)
    of_letters = min(factor / 0.72, 1.0)
    for text in ax.texts:
        text.set_in_layout(False)  # it has its room, and must not take more from the colour bar
        x, y = text.get_position()
        text.set_position((x * of_letters, 1 - (1 - y) * factor))
        text.set_fontsize(text.get_fontsize() * of_letters)


def _put(ax: Axes, x: float, y: float, text: str, box, **style):
    return ax.text(
        x / box.width, y / box.height, text, transform=ax.transAxes, va="baseline", parse_math=False, **style
    )


def _renderer(ax: Axes):
    return ax.figure.canvas.get_renderer() if hasattr(ax.figure.canvas, "get_renderer") else None


def rows_of_text(data: DataFrame, row: str = "text", *, width: int = 90) -> int:
    """About how many lines `coloured_text` will need, so that a figure can be made high enough."""
    sizes = data.groupby(row, sort=False).token.apply(lambda tokens: sum(len(visible(t)) + 1 for t in tokens))
    return int(sum(2.4 + size // width for size in sizes))


def visible(token: str) -> str:
    """A token as it can be seen: a line's end and spaces by a sign.

    >>> visible("\\n"), visible(" the"), visible(" ")
    ('⏎', 'the', '␣')
    """
    text = "".join(_UNSEEN.get(c, c) for c in token)
    return text.strip(" ") or "␣"


def _is_from_right(tokens) -> bool:
    letters = [unicodedata.bidirectional(c) for token in tokens for c in token if c.isalpha()]
    return sum(kind in ("R", "AL") for kind in letters) > len(letters) / 2


class ColouredText:
    """The same as `coloured_text`, for a notebook: each token says its numbers when pointed at.

    data: columns as there; `told` are columns that a token's hover names with their values.
    """

    def __init__(
        self, data: DataFrame, *, value: str = "divergence", row: str = "text", told: tuple[str, ...] = (),
        limit: float | None = None,
    ):  # fmt: skip
        finite = data[value][np.isfinite(data[value])]
        self.top = limit or float(finite.max() if len(finite) else 0) or 1.0
        self.data, self.value, self.row, self.told = data, value, row, told

    def _repr_html_(self) -> str:
        import matplotlib

        shades, parts = matplotlib.colormaps[SHADES], []
        for title in levels(self.data, self.row):
            spans = []
            for record in self.data[self.data[self.row] == title].sort_values("position").to_dict("records"):
                amount = record[self.value]
                share = min(max(amount / self.top, 0), 1) ** 0.5 if np.isfinite(amount) else 0.0
                r, g, b, _ = (round(255 * channel) for channel in shades(share))
                ink = "#fff" if 0.3 * r + 0.59 * g + 0.11 * b < 128 else "#000"
                hover = "\n".join(_said(name, record[name]) for name in (self.value, *self.told))
                spans.append(
                    f'<span style="background:rgb({r},{g},{b});color:{ink};padding:1px 2px;border-radius:2px" '
                    f'title="{html.escape(hover)}">{html.escape(visible(record["token"]))}</span>'
                )
            parts.append(
                f'<p style="margin:4px 0 0;opacity:.7">{html.escape(str(title))}</p>'
                f'<p dir="auto" style="margin:0 0 8px;line-height:1.9">{" ".join(spans)}</p>'
            )
        return f"<div>{''.join(parts)}</div>"


def _said(name: str, value: object) -> str:
    return f"{label_of(name)}: {value:.3g}" if isinstance(value, float) else f"{label_of(name)}: {value}"


@drawn
def token_map(
    data: DataFrame, *, value: str = "token_probability", x: str = "position", y: str = "layer", text: str = "read",
    token: str = "token", title: str = "", limits: tuple[float, float] | None = (0, 1), ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """`value` as colour, tokens across and layers down (the last on top), with what each layer would say in its cell.

    `data`: a row a position and layer, such as `lens.readings` of one pair and scale. `limits` are the ends of the
    colours, None those of the values.
    """

    check_single(data, [x, y])
    positions, layers = sorted(data[x].unique()), sorted(data[y].unique(), reverse=True)
    cells = np.full((len(layers), len(positions)), np.nan)
    words = [["" for _ in positions] for _ in layers]
    for row in data.to_dict("records"):
        i, j = layers.index(row[y]), positions.index(row[x])
        cells[i, j], words[i][j] = row[value], visible(str(row[text]))
    low, high = limits or (0.0, float(np.nanmax(cells)) or 1.0)
    mesh = ax.pcolormesh(
        cells, vmin=low, vmax=high, cmap="cividis", edgecolors="white", linewidth=line(0.4), rasterized=True
    )
    for (i, j), cell in np.ndenumerate(cells):
        dark = np.isfinite(cell) and (cell - low) / (high - low) < 0.55
        ax.text(j + 0.5, i + 0.5, _cut(words[i][j]), ha="center", va="center", parse_math=False,
                color="white" if dark else "black", clip_on=True)  # fmt: skip
    said = data.drop_duplicates(x).set_index(x)[token]
    ax.set_xticks(np.arange(len(positions)) + 0.5, [_cut(visible(str(said[p]))) for p in positions])
    for tick in ax.get_xticklabels():
        tick.set_parse_math(False)
    ax.set_yticks(np.arange(len(layers)) + 0.5, [str(int(layer)) for layer in layers])
    ax.invert_yaxis()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title, loc="left")
    ax.set_xlabel("token that follows in the text")
    ax.set_ylabel(label_of(y))
    bar = ax.figure.colorbar(mesh, ax=ax, label=label_of(value), pad=0.02)
    bar.outline.set_visible(False)
    now_and_last(ax.figure, lambda: fit(ax, [*ax.texts, *ax.get_xticklabels()], *reversed(cells.shape)))
    return ax


def _cut(word: str, most: int = 7) -> str:
    return word if len(word) <= most else f"{word[: most - 1]}…"


@drawn
def against(
    data: DataFrame, *, x: str, y: str, hue: str, x_label: str = "", y_label: str = "", ax: Axes | None = None
) -> Axes:
    """One value against another, a point a row, a mark for each value of `hue`; the lines of 0, and of equals dotted."""
    check_single(data, [x, y, hue])
    names = levels(data, hue)
    for i, name in enumerate(names):
        rows = data[data[hue] == name]
        ax.plot(rows[x], rows[y], **{**look(i), "linestyle": "none"})
    ends = data[[x, y]].to_numpy(dtype=float)
    low, high = float(min(ends.min(), 0)), float(max(ends.max(), 0))
    ax.plot([low, high], [low, high], color="0.6", linewidth=line(0.6), linestyle=":")
    for draw in (ax.axhline, ax.axvline):
        draw(0, color="0.8", linewidth=line(0.5), zorder=0)
    ax.set_xlabel(x_label or label_of(x))
    name_y(ax, y_label or label_of(y))
    key(ax, hue, names, [{**look(i), "linestyle": "none"} for i in range(len(names))])
    return ax
