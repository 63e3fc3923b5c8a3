"""Paper figures from tidy tables: a table in, Axes out; the caller arranges and saves.

from chatvec_lab import anatomy, figures

table = anatomy.combine(anatomy.norms({"chat": chat - base}), ["layer", "module"])
figure, (left, right) = figures.subplots(1, 2, width="text", ratio=0.3)
figures.layer_profile(table, ax=left)
figures.heat_map(table, ax=right)
figures.save(figure, "norms")                     # norms.pdf and norms.png
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
from chatvec_lab.figures.style import cjk_family, save, size, style, subplots

__all__ = [
    "cjk_family",
    "cosine_matrix",
    "cosine_profile",
    "depth_profile",
    "fidelity",
    "heat_map",
    "layer_profile",
    "save",
    "size",
    "spectra",
    "style",
    "subplots",
]
