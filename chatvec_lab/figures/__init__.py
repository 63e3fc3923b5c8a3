"""Paper figures from tidy tables: a table in, Axes out; the caller arranges and saves.

from chatvec_lab import anatomy, figures

table = anatomy.combine(anatomy.norms({"chat": chat - base}), ["layer", "module"])
figure, (left, right) = figures.subplots(1, 2, width="text", ratio=0.3)
figures.layer_profile(table, ax=left)
figures.heat_map(table, ax=right)
figures.save(figure, "norms")                     # norms.pdf and norms.png

with figures.venue("slides"):                     # the same, drawn for a talk
    ...
"""

from chatvec_lab.figures.anatomy import (
    cosine_matrix,
    cosine_profile,
    depth_profile,
    fidelity,
    heat_map,
    layer_profile,
    spectra,
)
from chatvec_lab.figures.fonts import cjk_family
from chatvec_lab.figures.inside import ColouredText, against, coloured_text, rows_of_text, token_map
from chatvec_lab.figures.recipe import redraw
from chatvec_lab.figures.scores import by_model, front, over, over_scale, two_sources
from chatvec_lab.figures.style import save, size, style, subplots
from chatvec_lab.figures.venues import venue
from chatvec_lab.languages import language_name

__all__ = [
    "ColouredText",
    "against",
    "by_model",
    "cjk_family",
    "coloured_text",
    "cosine_matrix",
    "cosine_profile",
    "depth_profile",
    "fidelity",
    "front",
    "heat_map",
    "language_name",
    "layer_profile",
    "over",
    "over_scale",
    "redraw",
    "rows_of_text",
    "save",
    "size",
    "spectra",
    "style",
    "subplots",
    "token_map",
    "two_sources",
    "venue",
]
