"""Where figures will be seen: widths, letters and line weights of a venue, for all figures drawn from then on.

figures.venue("icml")                                # from here on
with figures.venue("slides", width="text"): ...      # inside alone
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from types import TracebackType

Name = Literal["acl", "icml", "neurips", "iclr", "slides", "poster"]
Width = Literal["column", "text"] | float


@dataclass(frozen=True)
class Venue:
    """Widths of a column and of the text and the highest figure, in inches; the size of labels in points; the letters."""

    name: str
    column: float
    text: float
    height: float
    points: float
    family: str = "STIXGeneral"  # Times-like, and comes with matplotlib: the same bytes on every machine
    width: Width = "column"  # of figures that do not say their own

    @property
    def factor(self) -> float:
        """How much larger than in an ACL column letters, lines and marks are."""
        return self.points / 8


# The papers' own style files: ACL 7.7 and 16 cm, ICML 3.25 and 6.75 in; NeurIPS and ICLR have one column of 5.5 in.
# A slide of 13.33 by 7.5 in with margins and a title, in halves or whole; a third or two of an A0 poster, 33 in wide.
VENUES = {
    venue.name: venue
    for venue in (
        Venue("acl", 3.03, 6.30, 9.0, 8),
        Venue("icml", 3.25, 6.75, 9.0, 8),
        Venue("neurips", 5.5, 5.5, 9.0, 9),
        Venue("iclr", 5.5, 5.5, 9.0, 9),
        Venue("slides", 6.0, 12.3, 5.6, 16, "DejaVu Sans"),
        Venue("poster", 10.0, 20.5, 30.0, 26, "DejaVu Sans"),
    )
}
_chosen = VENUES["acl"]


def current() -> Venue:
    """The venue that figures are drawn for now."""
    return _chosen


class _Choice:
    """A venue that was chosen: for good, or, used in a `with` statement, until its end."""

    def __init__(self, before: Venue, chosen: Venue, settings: dict):
        self.venue, self._before, self._settings = chosen, before, settings

    def __enter__(self) -> Venue:
        return self.venue

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import matplotlib

        global _chosen
        _chosen = self._before
        matplotlib.rcParams.update(self._settings)

    def __repr__(self) -> str:
        at = self.venue
        return f"figures for {at.name}: {at.column:.2f} or {at.text:.2f} inches wide, {at.points:g} points, {at.family}"


def venue(name: Name, *, width: Width | None = None, font: str | None = None) -> _Choice:
    """Draw for a venue from now on, or inside a `with` statement: widths, letters, line weights.

    `width`: of figures that do not say their own: "column" (unless told), "text" or inches. `font`: a font family
    that is installed, in place of the venue's. matplotlib's own settings follow, so that `plt.subplots` does too.

    >>> with venue("neurips", width="text") as at:
    ...     at.text
    5.5
    """
    import matplotlib

    from chatvec_lab.figures.style import settings

    global _chosen
    if name not in VENUES:
        raise ValueError(f"venue {name!r}: expected one of {', '.join(VENUES)}.")
    chosen = VENUES[name]
    if width is not None:
        inches(width, chosen)
        chosen = replace(chosen, width=width)
    if font is not None:
        chosen = replace(chosen, family=_installed(font))
    ours = settings(chosen)
    choice = _Choice(_chosen, chosen, {key: matplotlib.rcParams[key] for key in ours})
    _chosen = chosen
    matplotlib.rcParams.update(ours)
    return choice


def inches(width: Width | None, at: Venue | None = None) -> float:
    """A width in inches: of a column or the text of the venue (the current one), as it is, or the venue's own."""
    at = at or _chosen
    width = at.width if width is None else width
    if isinstance(width, int | float) and not isinstance(width, bool) and 0 < width < 200:
        return float(width)
    if width not in ("column", "text"):
        raise ValueError(f"width={width!r}: expected one of column, text, or a number of inches.")
    return at.column if width == "column" else at.text


def size(width: Width | None = None, ratio: float = 0.65, *, at: Venue | None = None) -> tuple[float, float]:
    """(width, height) in inches of a figure for the current venue; height = ratio * width, at most what fits there.

    >>> [round(side, 2) for side in size("text", 0.5)]
    [6.3, 3.15]
    """
    at = at or _chosen
    across = inches(width, at)
    return across, min(across * ratio, at.height)


def _installed(font: str) -> str:
    """The name of a family that matplotlib finds, or a ValueError with the nearest names."""
    import difflib

    from matplotlib import font_manager

    known = sorted({entry.name for entry in font_manager.fontManager.ttflist})
    if font in known or font in ("serif", "sans-serif", "monospace"):
        return font
    near = difflib.get_close_matches(font, known, n=3) or known[:5]
    raise ValueError(
        f"font {font!r} is not installed here; near it, or among those that are: {', '.join(near)}."
    )
