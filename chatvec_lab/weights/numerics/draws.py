"""Random numbers that know their place: element i of a tensor has its own, whoever asks for it and in which order.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, Random123) makes four words of a counter, the key being a digest of what
the numbers are for. The counters of a tile lie side by side for the processor's vectors: word w of the tile's counter j is
that of element w * COUNTERS + j. Normal numbers are Box and Muller's, float32, with polynomials for logarithm and sine.
The same bits on every machine, for any number of threads and any spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from types import ModuleType

import numpy as np
import xxhash

from chatvec_lab.weights.numerics.machine import Kernel, address
from chatvec_lab.weights.numerics.sums import code

GENERATOR = "philox4x32-10, by element"  # told in recipes: other numbers are another recipe
COUNTERS = 128  # of a tile
TILE = 4 * COUNTERS  # elements
LANES = 32  # sums that a sum of squares is made of

Stream = tuple[int, int]  # key and upper half of the counters


def stream(kind: str, seed: int, name: str) -> Stream:
    """The numbers of one tensor for one purpose."""
    digest = xxhash.xxh3_128_intdigest(f"{kind}/{seed}/{name}".encode())
    return digest & (2**64 - 1), digest >> 64


def _source() -> ModuleType:
    from chatvec_lab.weights.numerics import compiled_draws

    return compiled_draws


_WORDS = Kernel(_source, "words", "QQqqq")
_NOISE = Kernel(_source, "noise", "QQqqqqqq")
_SQUARES = Kernel(_source, "squares", "qqqqq")
_OF_PAIR = Kernel(_source, "squares_of_pair", "qqqqqqq")
_SIZES = Kernel(_source, "sizes", "qqqq")
_THIN = Kernel(_source, "thin", "QQqqQqqq")


def words(of: Stream, start: int, stop: int) -> np.ndarray:
    """The words of elements [start, stop), uint32: what the rest is made of.

    >>> [hex(word) for word in words((0, 0), 0, 385)[::128]]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    first, last = start // TILE * TILE, ceil(stop / TILE) * TILE
    out = np.empty(max(0, last - first), np.uint32)
    _WORDS(*of, first, out.size, address(out))
    return out[start - first : stop - first]


def noise(of: Stream, start: int, unit: int, norms: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Fill `out`, float32, with normal numbers from element `start` on, each `unit` of them scaled to a norm.

    `out` holds whole units (the last may be shorter); `norms` has the L2 norm of each, float64.
    """
    scratch = _scratch()
    _NOISE(*of, start, out.size, unit, address(norms), address(out), address(scratch))
    return out


def squares(values: np.ndarray, unit: int) -> np.ndarray:
    """The sum of squares of each `unit` elements, float64, of a flat float32 array."""
    found, scratch = np.empty(ceil(values.size / unit)), _scratch()
    _SQUARES(address(values), values.size, unit, address(found), address(scratch))
    return found


def sizes(values: np.ndarray) -> float:
    """The sum of the magnitudes of a flat float32 array, added up in float64.

    >>> sizes(np.float32([3, -4]))
    7.0
    """
    found, scratch = np.empty(1), _scratch()
    _SIZES(address(values), values.size, address(found), address(scratch))
    return float(found[0])


def squares_of_difference(plus: np.ndarray, minus: np.ndarray, unit: int) -> np.ndarray | None:
    """`squares` of plus - minus, flat arrays of one format of 16 bits, rounded to float32.

    None where an element is NaN, infinite or so small that its float32 might be no plain one.
    """
    found, scratch = np.empty(ceil(plus.size / unit)), _scratch()
    told = _OF_PAIR(
        address(plus), address(minus), code(plus), plus.size, unit, address(found), address(scratch)
    )
    return found if told == 0 else None


def thin(of: Stream, start: int, density: float, arrays: Sequence[np.ndarray]) -> None:
    """Keep each element, from `start` on, with a probability of `density` (a multiple of 2**-32); set the rest to zero.

    The raw flat arrays, all of one length, lose the same elements.
    """
    given = np.array([(address(raw), raw.itemsize) for raw in arrays], np.int64)
    limit, scratch = ceil(density * 2.0**32), _scratch()
    size = arrays[0].size if len(arrays) else 0
    _THIN(*of, start, size, limit, address(given), len(arrays), address(scratch))


def _scratch() -> np.ndarray:
    return np.empty(TILE + LANES)  # two tiles of 32 bits, and the sums
