"""Where a figure's texts lie once it is written: which reach out of it, and which lie on one another."""

from itertools import combinations

import matplotlib.text


def _unseen(figure) -> set[int]:
    """Labels of ticks beyond the axes' limits: they are not drawn."""
    found = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        along = axis.get_transform().transform  # so that a decade is a decade
        low, high = sorted(along(axis.get_view_interval()))
        room = 1e-9 * (high - low)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low - room <= along([tick.get_loc()])[0] <= high + room or not axis.get_visible():
                found |= {id(tick.label1), id(tick.label2)}
    return found


def boxes(figure) -> list:
    """(text, its box in pixels) of all that is written."""
    figure.draw_without_rendering()
    renderer, unseen = figure.canvas.get_renderer(), _unseen(figure)
    off = {id(text) for ax in figure.axes if not ax.axison for text in _of_axis(ax)}
    return [
        (text, text.get_window_extent(renderer))
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_text().strip() and text.get_visible() and id(text) not in unseen | off
    ]


def _of_axis(ax):
    return [
        text for axis in (ax.xaxis, ax.yaxis) for text in (axis.label, *axis.get_ticklabels(which="both"))
    ]


def cut(figure) -> list[str]:
    """Texts that reach out of the figure."""
    edge = figure.bbox
    return [
        text.get_text()
        for text, at in boxes(figure)
        if at.x0 < -1 or at.y0 < -1 or at.x1 > edge.width + 1 or at.y1 > edge.height + 1
    ]


def on_one_another(figure) -> list[tuple[str, str]]:
    """Pairs of level texts that share more than a sliver of the figure; the boxes of slanted ones are larger than they."""
    level = [(text, at) for text, at in boxes(figure) if text.get_rotation() % 90 == 0]
    found = []
    for (one, a), (two, b) in combinations(level, 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if across > 1 and up > 0.2 * min(a.height, b.height):
            found.append((one.get_text(), two.get_text()))
    return found
