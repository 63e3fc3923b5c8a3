"""The house style: ACL widths, embedded TrueType fonts, colours with markers, CJK text, the same bytes each time."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {"column": 3.03, "text": 6.30}  # inches: an ACL column (7.7 cm) and the text block (16 cm)
Width = Literal["column", "text"]

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

_SETTINGS = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "legend.handlelength": 2.4, "legend.borderaxespad": 0.3,
    "legend.labelspacing": 0.3, "mathtext.fontset": "stix", "axes.linewidth": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "lines.linewidth": 1.1,
    "lines.markersize": 3.2, "axes.unicode_minus": True, "pdf.fonttype": 42, "ps.fonttype": 42,
    "svg.fonttype": "none", "svg.hashsalt": "chatvec", "figure.constrained_layout.use": True,
    "figure.constrained_layout.wspace": 0.06,
    "savefig.pad_inches": 0.01, "figure.dpi": 150, "savefig.dpi": 300,
}  # fmt: skip
# families that have Chinese, Japanese and Korean together, the commonest first; then those that have most
_CJK_FAMILIES = [
    "Noto Serif CJK TC", "Noto Serif CJK JP", "Noto Sans CJK TC", "Noto Sans CJK SC", "Noto Sans CJK JP",
    "Noto Sans CJK KR", "Source Han Sans TC", "Source Han Sans", "WenQuanYi Micro Hei", "Arial Unicode MS",
    "PingFang TC", "PingFang SC", "Hiragino Sans", "Microsoft JhengHei", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "Apple SD Gothic Neo",
]  # fmt: skip
_CJK_FILES = re.compile(r"Noto(Sans|Serif)CJK.*Regular|SourceHanSans.*Regular|wqy-microhei", re.IGNORECASE)


@contextmanager
def style() -> Iterator[None]:
    """The house style for all figures made inside: `with figures.style(): figure, ax = plt.subplots(...)`."""
    import matplotlib

    cjk = cjk_family()
    # STIX is Times-like and comes with matplotlib, so that a figure has the same bytes on every machine
    families = ["STIXGeneral", "DejaVu Serif", *([cjk] if cjk else [])]
    with matplotlib.rc_context({**_SETTINGS, "font.family": families}):
        try:
            yield
        finally:  # the first figure loads a notebook's backend, which turns this on; it must outlive the style
            is_interactive = matplotlib.is_interactive()
    matplotlib.interactive(is_interactive)


@cache
def cjk_family() -> str | None:
    """A font family with Chinese, Japanese and Korean glyphs: an installed one, that of the extra `cjk`, or None."""
    from matplotlib import font_manager

    if found := _known_cjk_family():
        return found
    # matplotlib keeps a list of fonts and misses those that were installed later
    paths = [p for p in font_manager.findSystemFonts() if _CJK_FILES.search(Path(p).stem)]
    try:
        from noto_cjk_sans_otc import FONT_PATH

        paths.append(str(FONT_PATH))
    except ImportError:
        pass
    for path in sorted(paths):
        font_manager.fontManager.addfont(path)
    return _known_cjk_family()


def _known_cjk_family() -> str | None:
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    return next((family for family in _CJK_FAMILIES if family in known), None)


def size(width: Width = "column", ratio: float = 0.65) -> tuple[float, float]:
    """(width, height) in inches of a figure as wide as an ACL column or the text; height = ratio * width.

    >>> size("text", 0.5)
    (6.3, 3.15)
    """
    if width not in WIDTHS:
        raise ValueError(f"width={width!r}: expected one of {', '.join(WIDTHS)}.")
    return WIDTHS[width], WIDTHS[width] * ratio


def subplots(rows: int = 1, columns: int = 1, *, width: Width = "column", ratio: float = 0.65, **options):
    """`matplotlib.pyplot.subplots` at an ACL width in the house style; returns figure and axes."""
    import matplotlib.pyplot as plt

    with style():
        return plt.subplots(rows, columns, figsize=size(width, ratio), **options)


def save(figure: Figure | Axes, path: str | Path) -> tuple[Path, Path]:
    """Write PATH.pdf and PATH.png (300 dpi) at the drawn size, with the same bytes each time; returns both paths.

    `path` may end in .pdf or .png or have no ending. Fonts are embedded as TrueType. Warns, naming
    the script and what to install, when a text has characters that no font of the figures has.
    """
    figure = getattr(figure, "figure", None) or figure
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".pdf", ".png") else path
    stem.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = (stem.with_name(stem.name + ending) for ending in (".pdf", ".png"))
    with style(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(png, metadata={"Software": None})
    _tell(caught)
    return pdf, png


def _tell(caught: list[warnings.WarningMessage]) -> None:
    """Pass on what matplotlib warned of, its many lines about glyphs as one that names scripts and the cure."""
    lacking = set()
    for warning in caught:
        found = re.match(r"Glyph (\d+) .*missing from", str(warning.message))
        if found:
            lacking.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if not lacking:
        return
    cjk = {c for c in lacking if _is_cjk(c)}
    cures = ["pip install 'chatvec_lab[cjk]' (or the system's Noto CJK fonts)"] if cjk else []
    if others := sorted(lacking - cjk):
        scripts = sorted({unicodedata.name(c, "a sign of no name").split()[0].lower() for c in others})
        cures.append(f"for {', '.join(scripts)} the system's Noto fonts (Debian: fonts-noto-core)")
    warnings.warn(
        f"no font of the figures has {''.join(sorted(lacking)[:12])}; boxes are drawn instead. Install one: "
        f"{'; '.join(cures)}, then restart Python.",
        UserWarning, stacklevel=3,
    )  # fmt: skip


def _is_cjk(character: str) -> bool:
    name = unicodedata.name(character, "")
    return name.startswith(("CJK", "HANGUL", "HIRAGANA", "KATAKANA", "BOPOMOFO", "FULLWIDTH"))


def text_width(text: str) -> int:
    """Characters, East Asian ones counted double.

    >>> text_width("chat · 繁體")
    11
    """
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def axes(ax: Axes | None, *, width: Width = "column", ratio: float = 0.65) -> Axes:
    """The given Axes, or those of a new figure in the house style."""
    return ax if ax is not None else subplots(width=width, ratio=ratio)[1]


def look(i: int) -> dict:
    """Colour, marker and dash of the i-th line."""
    i %= len(COLORS)
    return {"color": COLORS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}
