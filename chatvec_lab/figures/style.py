"""The house style: a venue's widths and letters, embedded TrueType fonts, colours with markers, the same bytes each time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatvec_lab.figures import fonts, venues
from chatvec_lab.figures.venues import Venue, Width, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# seaborn's "colorblind" palette, each colour with a marker and a dash of its own, so that colour is never alone
COLORS = ["#0173B2", "#DE8F05", "#029E73", "#D55E00", "#CC78BC", "#CA9161", "#56B4E9", "#949494"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = [
    "-",
    (0, (4, 1.2)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
    "-",
    (0, (4, 1.2)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
]
# a module kind looks the same in every figure
MODULES = {"attention": 0, "mlp": 1, "norm": 2, "embedding": 3, "head": 4, "router": 5, "other": 7,
           "ssm": 6, "convolution": 8, "projector": 9, "buffer": 10}  # fmt: skip

# in an ACL column; what is measured in points grows with a venue's letters
_SIZES = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4, "ytick.minor.width": 0.4, "xtick.major.size": 3.0, "ytick.major.size": 3.0,
    "xtick.minor.size": 1.6, "ytick.minor.size": 1.6, "xtick.major.pad": 2.6, "ytick.major.pad": 2.6,
    "axes.labelpad": 3.0, "axes.titlepad": 4.0, "lines.linewidth": 1.1, "lines.markersize": 3.2,
    "lines.markeredgewidth": 0.6, "patch.linewidth": 0.6, "grid.linewidth": 0.5, "hatch.linewidth": 0.5,
}  # fmt: skip
_SETTINGS = {
    "legend.frameon": False, "legend.handlelength": 2.4, "legend.borderaxespad": 0.3, "legend.labelspacing": 0.3,
    "axes.spines.top": False, "axes.spines.right": False, "axes.unicode_minus": True, "pdf.fonttype": 42,
    "ps.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "chatvec", "figure.constrained_layout.use": True,
    "figure.constrained_layout.wspace": 0.06, "savefig.pad_inches": 0.01, "figure.dpi": 150, "savefig.dpi": 300,
}  # fmt: skip
# SVG with its letters drawn as paths looks the same wherever it is opened, fonts or not
KINDS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    "png": {"metadata": {"Software": None}},
}


def settings(at: Venue | None = None) -> dict[str, Any]:
    """matplotlib's settings for figures of a venue (the current one)."""
    at = at or venues.current()
    cjk = fonts.cjk_family()
    is_serif = not at.family.startswith("DejaVu Sans") and at.family != "sans-serif"
    families = [at.family, "STIXGeneral", "DejaVu Serif"] if is_serif else [at.family, "DejaVu Sans"]
    return {
        **_SETTINGS,
        **{key: value * at.factor for key, value in _SIZES.items()},
        "figure.figsize": size(at=at),
        "mathtext.fontset": "stix" if is_serif else "dejavusans",
        "font.family": list(dict.fromkeys([*families, *([cjk] if cjk else [])])),
    }


@contextmanager
def style(at: Venue | None = None) -> Iterator[None]:
    """The house style for all figures made inside: `with figures.style(): figure, ax = plt.subplots(...)`."""
    import matplotlib

    with matplotlib.rc_context(settings(at)):
        try:
            yield
        finally:  # the first figure loads a notebook's backend, which turns this on; it must outlive the style
            is_interactive = matplotlib.is_interactive()
    matplotlib.interactive(is_interactive)


def subplots(rows: int = 1, columns: int = 1, *, width: Width | None = None, ratio: float = 0.65, **options):
    """`matplotlib.pyplot.subplots` as wide as the venue's column (or as told) in the house style; figure and axes."""
    import matplotlib.pyplot as plt

    from chatvec_lab.figures.recipe import begin

    with style():
        figure, panels = plt.subplots(rows, columns, figsize=size(width, ratio), **options)
    begin(figure, {"rows": rows, "columns": columns, "width": width, "ratio": ratio, **options})
    return figure, panels


def save(figure: Figure | Axes, path: str | Path) -> tuple[Path, Path]:
    """Write PATH.pdf and PATH.png (300 dpi) at the drawn size, with the same bytes each time; returns both paths.

    `path` may end in .pdf or .png or have no ending. Fonts are embedded as TrueType. Warns, naming
    the script and what to install, when a text has characters that no font here has.
    """
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".pdf", ".png") else path
    with style():
        pdf, png = write(figure, stem, ("pdf", "png"), level=3)
    return pdf, png


def write(
    figure: Figure | Axes, stem: Path, kinds: tuple[str, ...] = tuple(KINDS), *, dpi: int = 300, level: int = 2
) -> list[Path]:  # fmt: skip
    """Write a figure in several formats; texts get a font that has their script, where one is installed.

    A figure of ours is written as its venue wants it, another's with its own settings.
    """
    import matplotlib

    from chatvec_lab.figures.recipe import finish, of

    figure = getattr(figure, "figure", None) or figure
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    always = {key: _SETTINGS[key] for key in ("svg.fonttype", "svg.hashsalt", "pdf.fonttype")}
    recipe = of(figure)
    with (
        style(recipe.venue) if recipe else matplotlib.rc_context(always),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        finish(figure)
        fonts.cover(figure)
        with _settled(figure):
            for kind, file in zip(kinds, files, strict=True):
                figure.savefig(file, dpi=dpi, **KINDS[kind])
    fonts.tell(caught, level=level + 1)
    if letters := fonts.unshaped(figure):
        warnings.warn(
            f"this matplotlib sets {', '.join(letters)} letter by letter and from left to right: install "
            "matplotlib>=3.11, which shapes them.", UserWarning, stacklevel=level,
        )  # fmt: skip
    return files


@contextmanager
def _settled(figure: Figure) -> Iterator[None]:
    """Lay the figure out, keep the ticks that it then has, give room to those, and keep that for every format.

    Room for labels makes axes smaller, smaller axes have fewer ticks, and fewer ticks need less room: left alone, a
    figure may end with a label that reaches out of it.
    """
    from matplotlib.ticker import AutoLocator, FixedLocator

    engine = figure.get_layout_engine()
    if engine is None:
        yield
        return
    engine.execute(figure)
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        if type(axis.get_major_locator()) is AutoLocator:
            low, high = sorted(axis.get_view_interval())
            room = 1e-9 * (high - low)
            seen = [tick for tick in axis.get_majorticklocs() if low - room <= tick <= high + room]
            axis.set_major_locator(FixedLocator(seen))
    engine.execute(figure)
    figure.set_layout_engine("none")  # each `savefig` would do it again
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


def text_width(text: str) -> int:
    """Characters, East Asian ones counted double.

    >>> text_width("chat · 繁體")
    11
    """
    import unicodedata

    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def axes(ax: Axes | None) -> Axes:
    """The given Axes, or those of a new figure in the house style."""
    return ax if ax is not None else subplots()[1]


def line(points: float) -> float:
    """A line weight, offset or marker of so many points in an ACL column, at the current venue."""
    return points * venues.current().factor


def look(i: int) -> dict:
    """Colour, marker and dash of the i-th line."""
    i %= len(COLORS)
    return {"color": COLORS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}
