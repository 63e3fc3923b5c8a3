"""The general way of the arithmetic: a sum of any number of differences, in any mix of formats, without an error.

A plain sum of floats, whose error is bounded by the sizes of its terms, decides most elements of narrower formats (in
registers alone for two or three terms in one format of 16 bits, which sums of chat vectors are; near their ties what is
left at the middle tells the side). The others, near a middle or left over where terms cancel, are summed again without
an error: each product is two float64s (a fused multiply-add gives the error of the first), each sum keeps its error
(Knuth's TwoSum) in a second float64, and what that second one loses is bounded in a third. An element whose rounding
this bound leaves open is flagged, for rational numbers to decide; sums that are exact are never flagged, however close
to a tie.

Arrays travel as addresses: one compiled kernel then serves every number of terms and every mix of formats, read-only
memory included. It works in tiles that stay in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from chatvec_lab.weights.numerics.machine import Kernel, address

TILE = 512  # elements; six rows, and places of two tiles, are 33 KB
NONE, BFLOAT16, FLOAT16, FLOAT32, FLOAT64 = range(5)  # codes of formats
ROW = TILE + 16  # of a row; rows that are a power of two apart compete for one place in the cache
ROOM = 6 * ROW + 2 * TILE + 8  # of a tile: a list of places may write a few behind its last


def _source() -> ModuleType:
    from chatvec_lab.weights.numerics import compiled_sums

    return compiled_sums


_SINGLE, _DOUBLE = (Kernel(_source, f"{kind}_sums", "qqqqqdqqqqqqq") for kind in ("single", "double"))
_CODES = {np.dtype(d): i + 1 for i, d in enumerate((np.uint16, np.float16, np.float32, np.float64))}


def fill(
    cp: np.ndarray | None,
    parts: Sequence[tuple[float, np.ndarray, np.ndarray | None]],
    threshold: float,
    out: np.ndarray,
) -> tuple[int, np.ndarray]:
    """Fill `out`; returns how many elements are not below `threshold`, and the indices of those that are left open.

    Raw flat arrays of one length, as in `exact.combine`.
    """
    given = [_flat(a) for a in (cp, *(a for _, plus, minus in parts for a in (plus, minus)))]
    first, *flat = [(address(a), code(a)) for a in given]
    arrays, coefficients = np.array(flat, np.int64), np.array([c for c, _, _ in parts], np.float64)
    is_narrow = code(out) < FLOAT32 and max(code(a) for a in given) < FLOAT64
    kernel = _SINGLE if is_narrow else _DOUBLE
    tile, bad, open_ = np.empty(ROOM), np.zeros(1, np.int64), np.empty(64, np.int64)

    def run() -> int:
        return kernel(
            *first, address(coefficients), address(arrays), len(parts), threshold, address(out), code(out),
            out.size, address(tile), address(open_), open_.size, address(bad),
        )  # fmt: skip

    unsure = run()
    if unsure > open_.size:  # rare: once more, with room for all
        open_ = np.empty(unsure, np.int64)
        run()
    return int(bad[0]), open_[:unsure]


def _flat(raw: np.ndarray | None) -> np.ndarray | None:
    return None if raw is None else np.ascontiguousarray(raw)


def code(raw: np.ndarray | None) -> int:
    """The format of a raw array, for a kernel."""
    return 0 if raw is None else _CODES[raw.dtype]
