"""What drew a figure, kept with it as data: the panels, and for each call the function's name, its table, its options.

So a finished study is drawn again for another venue, without its notebooks: `redraw(recipe, tables)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

DRAWN: dict[str, Callable[..., Any]] = {}  # the figure functions, by name
_KEPT = "_chatvec_recipe"  # on the Figure
_LAST = "_chatvec_last"  # on the Figure: what is done before it is written
_busy: list[str] = []  # the functions that are drawing: what they call is theirs, and is not kept


class Recipe:
    """Panels and calls of one figure; `whole` is False when something else drew on it, too."""

    def __init__(self, panels: Mapping[str, Any]):
        from chatvec_lab.figures.venues import current

        self.panels, self.venue = dict(panels), current()
        self.calls: list[dict[str, Any]] = []
        self.tables: list[DataFrame] = []
        self.state: list[Any] = []

    def data(self, figure: Figure) -> dict[str, Any]:
        """The recipe as plain data, `tables` counted; whole: whether all that the figure shows comes from its calls."""
        return {"panels": self.panels, "calls": self.calls, "whole": self.state == _state(figure)}


def begin(figure: Figure, panels: Mapping[str, Any]) -> None:
    """A figure of `figures.subplots`: from here on it is known what draws on it."""
    recipe = Recipe(panels)
    recipe.state = _state(figure)
    setattr(figure, _KEPT, recipe)


def is_ours(figure: Figure) -> bool:
    """Whether the figure is one of `figures.subplots`, whose size is ours to choose."""
    return hasattr(figure, _KEPT)


def now_and_last(figure: Figure, act: Callable[[], None]) -> None:
    """Do something now, and once more before the figure is written: what is drawn later may take room from it."""
    figure.__dict__.setdefault(_LAST, []).append(act)
    act()


def finish(figure: Figure) -> None:
    """What `now_and_last` was told, now that all is drawn."""
    for act in getattr(figure, _LAST, ()):
        act()


def of(figure: Figure) -> Recipe | None:
    """The figure's recipe; None where it was not made by `figures.subplots`, or nothing of ours drew on it."""
    recipe = getattr(figure, _KEPT, None)
    return recipe if recipe is not None and recipe.calls else None


def drawn(draw: Callable[..., Any]) -> Callable[..., Any]:
    """A figure function: draws in the house style, on new Axes unless some are given, and is kept in the figure's recipe.

    Its first argument is the table; options are keywords; `ax` is one Axes, `axes` several.
    """
    several = "axes" in inspect.signature(draw).parameters

    @wraps(draw)
    def wrapped(data: DataFrame, *, ax: Axes | None = None, **options: Any) -> Any:
        from chatvec_lab.figures.style import axes, style

        with style():
            given = options.pop("axes") if several else [axes(ax)]
            panels = list(given)
            _busy.append(draw.__name__)
            try:
                draw(data, **({"axes": panels} if several else {"ax": panels[0]}), **options)
            finally:
                _busy.pop()
        if not _busy:
            _keep(draw.__name__, panels, data, options)
        return given if several else panels[0]

    DRAWN[draw.__name__] = wrapped
    return wrapped


def _keep(name: str, panels: Sequence[Axes], data: DataFrame, options: Mapping[str, Any]) -> None:
    figure = panels[0].figure
    recipe = getattr(figure, _KEPT, None)
    if recipe is None:
        return
    places = [figure.axes.index(ax) for ax in panels]
    recipe.calls.append({"function": name, "axes": places, "options": dict(options)})
    recipe.tables.append(data.reset_index(drop=True))
    recipe.state = _state(figure)


def _state(figure: Figure) -> list[Any]:
    """What drawing by hand would change: numbers of artists, and the words and limits of the axes."""
    return [
        (len(ax.get_children()), ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left"), ax.get_title(),
         tuple(ax.get_xlim()), tuple(ax.get_ylim()), ax.get_xscale(), ax.get_yscale())
        for ax in figure.axes
    ] + [len(figure.get_children())]  # fmt: skip


def redraw(recipe: Mapping[str, Any], tables: Sequence[DataFrame], *, width: Any = None) -> Figure:
    """The figure of a recipe, drawn anew for the current venue; `width` in place of the figure's own.

    Raises ValueError for a recipe that does not fit this version: an unknown function, or not a table for each call.
    """
    import chatvec_lab.figures.anatomy
    import chatvec_lab.figures.inside
    import chatvec_lab.figures.scores  # noqa: F401  all fill DRAWN
    from chatvec_lab.figures.style import subplots

    calls, panels = recipe["calls"], dict(recipe["panels"])
    unknown = sorted({call["function"] for call in calls} - DRAWN.keys())
    if unknown or len(calls) != len(tables):
        what = (
            f"unknown figure functions {', '.join(unknown)}"
            if unknown
            else f"{len(tables)} tables for {len(calls)} calls"
        )
        raise ValueError(f"{what}: the figure was drawn by another version of chatvec_lab.")
    if width is not None:
        panels["width"] = width
    figure, _ = subplots(panels.pop("rows"), panels.pop("columns"), **panels)
    first = list(figure.axes)  # colour bars come later, at the end
    for call, table in zip(calls, tables, strict=True):
        chosen = [first[place] for place in call["axes"]]
        where = {"axes": chosen} if len(chosen) > 1 else {"ax": chosen[0]}
        DRAWN[call["function"]](table, **where, **call["options"])
    return figure
