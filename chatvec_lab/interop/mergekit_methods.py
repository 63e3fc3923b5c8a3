"""What mergekit does to differences otherwise than we do, as leaves of a vector; computed in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from chatvec_lab.weights.layout import has_vocabulary_axis
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.transforms import Sparsified, Transform
from chatvec_lab.weights.vector import WeightVector


class RoundedDown(Sparsified):
    """As ours, but mergekit rounds the number of kept elements down."""

    def kept(self, size: int) -> int:
        return max(1, int(self.density * size))


class Rescaled(Transform):
    """A sparsified vector whose tensors have the L1 norms of the whole one: mergekit's `rescale`."""

    def __init__(self, sparse: WeightVector, whole: WeightVector):
        super().__init__(sparse, f"{sparse.label}, rescaled")
        self.whole = Transform(whole, whole.label)

    def describe(self) -> dict:
        return {"rescaled": "l1", "of": self.vector.describe()}

    def measure(self, name: str) -> float:
        before, after = (sum(np.abs(b).sum() for _, b in v.blocks(name)) for v in (self.whole, self))
        return float(before / after) if min(before, after) >= 1e-7 else 1.0

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        return [(c * self.fact(name), p, m) for c, p, m in self.vector.parts(name, start, stop, work=work)]


class Elected(Transform):
    """Weighted deltas whose sign agrees with that of their sum, added up; divided by their weights to normalize."""

    def __init__(self, deltas: list[WeightVector], weights: list[Callable[[str], float]], normalize: bool):
        super().__init__(sum(deltas), "sign consensus of " + ", ".join(d.label for d in deltas))
        self.deltas, self.weights, self.normalize = deltas, weights, normalize

    def describe(self) -> dict:
        weights = [{n: w(n) for n in self.names} if not w.is_constant else w("") for w in self.weights]
        of = [delta.describe() for delta in self.deltas]
        return {"consensus": "sign of the sum", "normalize": self.normalize, "weights": weights, "of": of}

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        space = (
            {"vocabulary": self.vocabulary, "rows": self.shape(name)[0]} if has_vocabulary_axis(name) else {}
        )
        weights = np.array([weight(name) for weight in self.weights])[:, None]
        deltas = np.empty((len(self.deltas), stop - start))
        for row, delta in zip(deltas, self.deltas, strict=True):
            exact.combine(None, delta.parts(name, start, stop, work=work, **space), row, scratch=work.scratch)
        deltas *= weights
        agreeing = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1.0, -1.0)
        total = (deltas * agreeing).sum(0)
        if self.normalize:
            divisor = (weights * agreeing).sum(0)
            total /= np.where(divisor == 0, 1.0, divisor)
        return [(1.0, total, None)]
