"""What mergekit does to differences otherwise than we do, as methods of a transform; computed in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.transforms import Magnitude, Tensor
from chatvec_lab.weights.vector import WeightVector


@dataclass(frozen=True)
class RoundedDown(Magnitude):
    """As ours, but mergekit rounds the number of kept elements down."""

    def kept(self, size: int) -> int:
        return max(1, int(self.density * size))


@dataclass(frozen=True)
class Rescaled:
    """Of (sparse, whole): the sparse vector with the whole one's L1 norm in each tensor: mergekit's `rescale`."""

    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return f"{of[0]}, rescaled"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        return {"rescaled": "l1", "of": of[0].describe()}

    def measure(self, tensor: Tensor) -> float:
        before, after = (sum(np.abs(b).sum() for _, b in tensor.blocks(which=i)) for i in (1, 0))
        return float(before / after) if min(before, after) >= 1e-7 else 1.0

    def span(self, tensor: Tensor, known: float, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        return [(c * known, p, m) for c, p, m in tensor.parts(start, stop, work)]


@dataclass(frozen=True)
class Elected:
    """Weighted deltas whose sign agrees with that of their sum, added up; divided by their weights to normalize."""

    weights: tuple[Callable[[str], float], ...]
    normalize: bool
    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return "sign consensus of " + ", ".join(of)

    def describe(self, of: Sequence[WeightVector]) -> dict:
        weights = [{n: w(n) for n in of[0].names} if not w.is_constant else w("") for w in self.weights]
        told = [delta.describe() for delta in of]
        return {"consensus": "sign of the sum", "normalize": self.normalize, "weights": weights, "of": told}

    def measure(self, tensor: Tensor) -> None:
        return None

    def span(self, tensor: Tensor, known: None, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        weights = np.array([weight(tensor.name) for weight in self.weights])[:, None]
        deltas = np.stack([tensor.values(start, stop, work, which=i) for i in range(len(tensor.vectors))])
        deltas *= weights
        agreeing = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1.0, -1.0)
        total = (deltas * agreeing).sum(0)
        if self.normalize:
            divisor = (weights * agreeing).sum(0)
            total /= np.where(divisor == 0, 1.0, divisor)
        return [(1.0, total, None)]
