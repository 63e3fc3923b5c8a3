"""What mergekit does to differences otherwise than we do, as methods of a transform; computed in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from chatvec_lab.weights.methods import Magnitude, Tensor
from chatvec_lab.weights.numerics import draws, exact, votes
from chatvec_lab.weights.numerics.arrays import magnitude_threshold, raw_arrays
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.vector import WeightVector

Share = Callable[
    [str], float
]  # a tensor's name -> a parameter of the recipe there; `is_constant`: the same everywhere


def told(share: Share, names: Iterable[str]) -> float | dict[str, float]:
    """A parameter for the manifest: one number, or that of each tensor."""
    return share("") if share.is_constant else {name: share(name) for name in names}


@dataclass(frozen=True)
class RoundedDown(Magnitude):
    """As ours, but mergekit rounds the number of kept elements down, and `density` may differ by tensor.

    Of equal magnitudes at the threshold the first in file order stay. mergekit keeps those that an unstable sort
    happens to put first, so the two may differ there, and only there.
    """

    density: Share

    def label(self, of: Sequence[str]) -> str:
        return f"magnitude of {of[0]}"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        kept = told(self.density, of[0].names)
        return {"sparsified": "magnitude", "rounded": "down", "density": kept, "of": of[0].describe()}

    def measure(self, tensor: Tensor) -> tuple[int, int] | None:
        density = self.density(tensor.name)
        if density == 1.0 or not tensor.size:
            return None
        return magnitude_threshold(tensor, max(1, int(density * tensor.size)))


@dataclass(frozen=True)
class Masked:
    """Each element with probability `density`, which may differ by tensor, unchanged; the rest zero.

    The mask is that of `transforms.Dare`. mergekit does not divide by the density; `Rescaled` is what it does.
    """

    density: Share
    seed: int
    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return f"random share of {of[0]}"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        kept = told(self.density, of[0].names)
        return {
            "sparsified": "random",
            "density": kept,
            "seed": self.seed,
            "generator": draws.GENERATOR,
            "of": of[0].describe(),
        }

    def measure(self, tensor: Tensor) -> None:
        return None

    def span(self, tensor: Tensor, known: None, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        parts, density = tensor.parts(start, stop, work), self.density(tensor.name)
        if density == 1.0:
            return parts
        draws.thin(draws.stream("dare", self.seed, tensor.name), start, density, raw_arrays(parts))
        return parts


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

    weights: tuple[Share, ...]
    normalize: bool
    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return "sign consensus of " + ", ".join(of)

    def describe(self, of: Sequence[WeightVector]) -> dict:
        weights = [told(weight, of[0].names) for weight in self.weights]
        terms = [delta.describe() for delta in of]
        return {"consensus": "sign of the sum", "normalize": self.normalize, "weights": weights, "of": terms}

    def measure(self, tensor: Tensor) -> None:
        return None

    def span(self, tensor: Tensor, known: None, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        weights = [weight(tensor.name) for weight in self.weights]
        out = work.array(np.dtype(np.float64), stop - start)
        deltas = tensor.deltas(start, stop, work)
        return [(1.0, votes.agreed(deltas, out, weights, mean=self.normalize), None)]
