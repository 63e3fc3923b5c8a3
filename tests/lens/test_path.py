"""Integrals along the path against those that can be written down."""

import numpy as np
import pytest

from chatvec_lab.lens import path


@pytest.mark.parametrize("scale", [1.0, 1.5, -0.7])
def test_nodes_and_weights_integrate_polynomials_exactly(scale):
    nodes, weights = map(np.array, zip(*path.gauss_legendre(8, scale), strict=True))
    assert (nodes * scale > 0).all() and (np.abs(nodes) < abs(scale)).all()
    for power in (0, 3, 15):
        assert (weights * nodes**power).sum() == pytest.approx(scale ** (power + 1) / (power + 1), rel=1e-12)


def test_a_running_integral_is_that_of_the_function():
    nodes = (np.polynomial.legendre.leggauss(16)[0] + 1) / 2
    at = np.linspace(0, 1, 11)
    for rate, integral in (
        (np.cos, np.sin),
        (np.exp, lambda s: np.exp(s) - 1),
        (lambda s: s**7, lambda s: s**8 / 8),
    ):
        np.testing.assert_allclose(path.running(16, 10) @ rate(nodes), integral(at), atol=1e-13)
    np.testing.assert_allclose(
        path.running(16, 10)[-1], np.polynomial.legendre.leggauss(16)[1] / 2, atol=1e-15
    )


@pytest.mark.parametrize("scale", [1.0, 2.0, -0.5])
def test_half_of_the_change(scale):
    nodes = (np.polynomial.legendre.leggauss(16)[0] + 1) / 2
    even, late = np.ones(16), 3 * nodes**2  # integrals s and s³
    np.testing.assert_allclose(
        path.half(np.stack([even, -late]), scale), [0.5 * scale, 0.5 ** (1 / 3) * scale], atol=1e-6
    )
    back = (
        2 - 4 * nodes + 3 * nodes**2
    )  # 2s − 2s² + s³, which is first at a half of 1 where 4s − 4s² + 2s³ = 1
    (root,) = [r.real for r in np.roots([2, -4, 4, -1]) if abs(r.imag) < 1e-12]
    assert path.half(back, scale) == pytest.approx(root * scale, abs=1e-6)
    assert np.isnan(path.half(np.zeros(16), scale)), "nothing changes"
