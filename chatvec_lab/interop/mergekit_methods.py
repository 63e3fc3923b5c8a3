"""What mergekit does to differences otherwise than we do, as methods of a transform."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from chatvec_lab.weights.methods import Magnitude, Tensor
from chatvec_lab.weights.numerics import draws, exact, votes
from chatvec_lab.weights.numerics.arrays import magnitude_threshold, raw_arrays, trim
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

    def thin(self, name: str, known: tuple[int, int] | None, start: int, values: np.ndarray) -> None:
        """Set to zero what falls out of the elements, flat float32, from `start` on."""
        if known is not None:
            trim([(1.0, values, None)], values, known[0], known[1] - start)


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
        parts = tensor.parts(start, stop, work)
        self.thin(tensor.name, known, start, *raw_arrays(parts))
        return parts

    def thin(self, name: str, known: None, start: int, *arrays: np.ndarray) -> None:
        """Set to zero what falls out of the elements, flat raw arrays, from `start` on."""
        if (density := self.density(name)) < 1.0:
            draws.thin(draws.stream("dare", self.seed, name), start, density, arrays)


@dataclass(frozen=True)
class Rescaled:
    """What `sparse` leaves, with the L1 norm that each tensor had before: mergekit's `rescale`."""

    sparse: RoundedDown | Masked
    keeps_chat_side: ClassVar[bool] = True

    def label(self, of: Sequence[str]) -> str:
        return f"{self.sparse.label(of)}, rescaled"

    def describe(self, of: Sequence[WeightVector]) -> dict:
        return {"rescaled": "l1", "of": self.sparse.describe(of)}

    def measure(self, tensor: Tensor) -> tuple[Any, float]:
        """What `sparse` knows of the tensor, and the factor: of norms of the elements in float32, added up in float64."""
        known = self.sparse.measure(tensor)

        def norms(start: int, values: np.ndarray) -> tuple[float, float]:
            before = draws.sizes(values)
            self.sparse.thin(tensor.name, known, start, values)
            return before, draws.sizes(values)

        before, after = (sum(each) for each in zip((0.0, 0.0), *tensor.each(norms), strict=True))
        return known, before / after if min(before, after) >= 1e-7 else 1.0

    def span(
        self, tensor: Tensor, known: tuple[Any, float], start: int, stop: int, work: Workspace
    ) -> list[exact.Part]:
        kept, factor = known
        parts = self.sparse.span(tensor, kept, start, stop, work)
        return [(c * factor, plus, minus) for c, plus, minus in parts]


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
