"""The inner loops of the anatomy: compiled, without the GIL, over tiles that are in the cache.

A tile of a vector is float32 (an element is rounded once, 6e-8 relative); squares and products are summed in
float64. Counts and maxima stand in loops of their own and compare bits as int32, which the compiler turns into
vector instructions (floats would not do: their maximum must mind NaN). A NaN shows in the sum of squares.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from chatvec_lab.weights.numerics.exact import Part, widen

TILE = 65536  # elements a call; the tiles of several vectors fit the second-level cache
_CHUNK = 2048  # elements a pass inside a kernel, for the first-level cache

_SUM = {"reassoc", "contract", "nsz"}  # sums in any order, but NaN and infinity keep their meaning
_MAGNITUDE = np.int32(
    0x7FFFFFFF
)  # all bits of a float32 but the sign; as integers they have the order of the values

# columns of the accumulators
SQUARES, MAXIMUM, ZEROS, ABOVE, TOP = range(5)
DOT, SQUARED_PRODUCTS, AGREE, BOTH, TOP_BOTH, TOP_OPPOSED = range(6)


def _single(x): ...


@overload(_single, inline="always")
def _single_overload(x):
    if x == types.uint16:  # a bfloat16 is the upper half of a float32
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: np.float32(x)


def _double(x): ...


@overload(_double, inline="always")
def _double_overload(x):
    if x == types.uint16:
        return lambda x: np.float64(np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32))
    return lambda x: np.float64(x)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUM)
def _subtract(plus, minus, out):
    for i in range(out.size):
        out[i] = _single(plus[i]) - _single(minus[i])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUM)
def _add(coefficient, plus, minus, out):
    for i in range(out.size):
        out[i] += coefficient * (_double(plus[i]) - _double(minus[i]))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUM)
def _add_stored(coefficient, plus, out):
    for i in range(out.size):
        out[i] += coefficient * _double(plus[i])


def total(parts: list[Part], out: np.ndarray) -> None:
    """`out` (float32 or float64) becomes the sum of coefficient * (plus - minus) over raw parts of its length."""
    parts = [(c, _known(plus), minus if minus is None else _known(minus)) for c, plus, minus in parts]
    if len(parts) == 1 and parts[0][0] == 1.0 and parts[0][2] is not None and out.dtype == np.float32:
        _, plus, minus = parts[0]
        if plus.dtype != np.float64 and minus.dtype != np.float64:
            return _subtract(plus, minus, out)  # one float32 subtraction rounds once, like the way below
    sums = np.zeros(out.size)
    for coefficient, plus, minus in parts:
        if minus is None:
            _add_stored(coefficient, plus, sums)
        else:
            _add(coefficient, plus, minus, sums)
    out[:] = sums


def _known(raw: np.ndarray) -> np.ndarray:
    return widen(raw) if raw.dtype == np.float16 else raw  # numba has no arithmetic on float16


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUM)
def _squares(raw):
    result = 0.0
    for i in range(raw.size):
        x = _double(raw[i])
        result += x * x
    return result


def squares(raw: np.ndarray) -> float:
    """Sum of squares of raw stored elements."""
    return _squares(_known(raw))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUM)
def _count_vector(delta, line, top, out):
    largest = np.int32(0)
    zeros = np.int32(0)
    above = np.int32(0)
    high = np.int32(0)
    for i in range(delta.size):
        x = np.int32(np.float32(delta[i]).view(np.int32) & _MAGNITUDE)
        largest = max(largest, x)
        zeros = np.int32(zeros + np.int32(x == 0))
        above = np.int32(above + np.int32(x > line))
        high = np.int32(high + np.int32(x >= top))
    out[MAXIMUM] = max(out[MAXIMUM], np.float64(np.int32(largest).view(np.float32)))
    out[ZEROS] += zeros
    out[ABOVE] += above
    out[TOP] += high


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUM)
def _count_pair(a, b, top_a, top_b, out):
    agree = np.int32(0)
    both = np.int32(0)
    high = np.int32(0)
    opposed = np.int32(0)
    for i in range(a.size):
        x, y = np.float32(a[i]).view(np.int32), np.float32(b[i]).view(np.int32)
        size_x, size_y = np.int32(x & _MAGNITUDE), np.int32(y & _MAGNITUDE)
        differs = np.int32((x ^ y) < 0)
        moved = np.int32((size_x != 0) & (size_y != 0))
        is_top = np.int32((size_x >= top_a) & (size_y >= top_b))
        both = np.int32(both + moved)
        agree = np.int32(agree + (moved & (differs ^ np.int32(1))))
        high = np.int32(high + is_top)
        opposed = np.int32(opposed + (is_top & differs))
    out[AGREE] += agree
    out[BOTH] += both
    out[TOP_BOTH] += high
    out[TOP_OPPOSED] += opposed


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUM)
def _sum_pair(a, b, out):
    dot = 0.0
    squared = 0.0
    for i in range(a.size):
        product = np.float64(a[i]) * np.float64(b[i])
        dot += product
        squared += product * product
    out[DOT] += dot
    out[SQUARED_PRODUCTS] += squared


@njit(nogil=True, cache=True, error_model="numpy")
def measure(deltas, pairs, line, tops, vector_sums, pair_sums):
    """Add a tile's statistics to `vector_sums` (vectors, 5) and `pair_sums` (pairs, 6); columns are named above.

    `deltas` (vectors, elements) float32; `pairs` (pairs, 2) indices; `line` and `tops` (one a vector) magnitudes
    as bits (`bits_of`): ABOVE counts elements beyond the line, TOP those at or beyond their vector's top.
    """
    for start in range(0, deltas.shape[1], _CHUNK):
        stop = min(start + _CHUNK, deltas.shape[1])
        for v in range(deltas.shape[0]):
            delta = deltas[v, start:stop]
            vector_sums[v, SQUARES] += _squares(delta)
            _count_vector(delta, line, tops[v], vector_sums[v])
        for p in range(pairs.shape[0]):
            i, j = pairs[p, 0], pairs[p, 1]
            a, b = deltas[i, start:stop], deltas[j, start:stop]
            _sum_pair(a, b, pair_sums[p])
            _count_pair(a, b, tops[i], tops[j], pair_sums[p])


@njit(nogil=True, cache=True, error_model="numpy")
def measure_sides(sides, plus, minus, squared, pairs, line, tops, vector_sums, pair_sums, side_squares):
    """What `measure` adds, of plain differences that are taken here, a chunk at a time, from raw elements.

    `sides` (sides, elements) raw bfloat16 or float32; vector v is `sides[plus[v]] - sides[minus[v]]`. The sum of
    squares of the sides numbered in `squared` is added to `side_squares` (sides,).
    """
    deltas = np.empty((plus.size, _CHUNK), np.float32)
    for start in range(0, sides.shape[1], _CHUNK):
        stop = min(start + _CHUNK, sides.shape[1])
        for s in squared:
            side_squares[s] += _squares(sides[s, start:stop])
        for v in range(plus.size):
            delta = deltas[v, : stop - start]
            _subtract(sides[plus[v], start:stop], sides[minus[v], start:stop], delta)
            vector_sums[v, SQUARES] += _squares(delta)
            _count_vector(delta, line, tops[v], vector_sums[v])
        for p in range(pairs.shape[0]):
            i, j = pairs[p, 0], pairs[p, 1]
            a, b = deltas[i, : stop - start], deltas[j, : stop - start]
            _sum_pair(a, b, pair_sums[p])
            _count_pair(a, b, tops[i], tops[j], pair_sums[p])


def bits_of(magnitude: float) -> np.int32:
    """A non-negative number as the bits of its float32."""
    return np.float32(magnitude).view(np.int32)
