"""The points of the path along the scale at which gradients are taken, and what a rate sums up to on the way."""

from __future__ import annotations

import numpy as np

POINTS = 1000  # at which a running integral is told


def gauss_legendre(count: int, scale: float) -> list[tuple[float, float]]:
    """(node, weight) of the integral from 0 to the scale, in the order in which the path is walked."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return list(zip((scale * (nodes + 1) / 2).tolist(), (scale * weights / 2).tolist(), strict=True))


def running(count: int, points: int = POINTS) -> np.ndarray:
    """What the integral of a rate has come to at 0, 1/points, …, 1 of the path, of the rates at `count` nodes.

    A matrix (points + 1, count), for a path of length 1: times the rates it is the integral, from the start to each
    point, of the one polynomial through them. Its last row is Gauss–Legendre's weights.

    >>> ((running(3, 2) @ np.polynomial.legendre.leggauss(3)[0]).round(12) + 0.0).tolist()  # of a rate from -1 to 1
    [0.0, -0.25, 0.0]
    """
    from numpy.polynomial import legendre

    nodes, weights = legendre.leggauss(count)
    order = np.arange(count)
    # rates to the coefficients of Legendre's polynomials, which these nodes and weights tell apart exactly
    coefficients = (2 * order[:, None] + 1) / 2 * legendre.legvander(nodes, count - 1).T * weights
    integrals = legendre.legint(
        np.eye(count), lbnd=-1
    )  # of each polynomial from the start on: (count + 1, count)
    return legendre.legvander(np.linspace(-1, 1, points + 1), count) @ integrals @ coefficients / 2


def half(rates: np.ndarray, scale: float) -> np.ndarray:
    """The first scale at which half of the change is reached, of the rates at Gauss–Legendre's nodes.

    rates: (..., nodes) in the path's order; the result has the leading axes. NaN where nothing changes.
    """
    rates = np.asarray(rates, dtype=float)
    reached = rates @ running(rates.shape[-1]).T  # (..., points + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = reached / reached[..., -1:]
    there = np.nan_to_num(shares, nan=-1.0, posinf=-1.0, neginf=-1.0) >= 0.5
    i = there.argmax(-1)
    after, before = (np.take_along_axis(shares, np.maximum(k, 0)[..., None], -1)[..., 0] for k in (i, i - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        point = i - 1 + (0.5 - before) / (after - before)
    return np.where(there.any(-1), scale * point / (shares.shape[-1] - 1), np.nan)
