"""Transforms of a vector: sparsify, low rank, noise like it, TIES. Pure functions on arrays, and one adapter.

A method says what it must know of a whole tensor (`measure`: a threshold, two factors, norms), which is computed when
the tensor is first asked for and kept, and how a span is made from that (`span`). `Transform` makes any method a leaf.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from chatvec_lab.weights.methods import Dare, Magnitude, Method, Tensor, Ties
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.together import Together
from chatvec_lab.weights.vector import Term, WeightVector

Sparsity = Literal["magnitude", "dare"]


class Transform:
    """The one adapter: any method as the leaf of a new vector, in the rows and names of the first vector."""

    def __init__(self, method: Method, *vectors: WeightVector):
        self.method, self.vectors = method, vectors
        self.label = method.label([v.label for v in vectors])
        self._whole = vectors[0] if len(vectors) == 1 else sum(vectors)
        self._known: dict[str, Together] = {}
        self._spaces: list[Workspace] = []
        self._lock = threading.Lock()

    @property
    def vector(self) -> WeightVector:
        """The vector that is transformed, or the sum of several."""
        return self._whole

    @property
    def names(self) -> list[str]:
        return self._whole.names

    def resolve(self, name: str) -> str | None:
        return self._whole.resolve(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._whole.shape(name)

    def part(self, name: str):
        return self._whole.part(name)

    def live_rows(self, name: str) -> np.ndarray | None:
        return self._whole.live_rows(name)

    @property
    def vocabulary(self):
        return self._whole.vocabulary

    @property
    def chat_side(self):
        return self._whole.chat_side if self.method.keeps_chat_side else None

    @property
    def base(self):
        return self._whole.base

    @property
    def larger(self):
        return self._whole.larger

    @property
    def placed(self):
        return self._whole.placed if self.larger is not None else MappingProxyType({})

    @property
    def tied(self):
        return self._whole.tied

    @property
    def left_out(self):
        return self._whole.left_out

    def sources(self):
        return self._whole.sources()

    def describe(self) -> dict:
        return self.method.describe(self.vectors)

    def known(self, name: str, work: Workspace | None = None) -> Any:
        """What the method knows of a whole tensor, measured once, by all threads that ask meanwhile."""
        with self._lock:
            known = self._known.get(name)
            if known is None:
                mine = self._known[name] = Together()
        if known is not None:
            return known.wait()
        try:
            return mine.make(
                lambda share: self.method.measure(
                    Tensor(name, self.vectors, share, work and work.record, self._spaces)
                )
            )
        except BaseException:
            del self._known[name]  # to be tried again
            raise

    def untouched(self, name: str, start: int, stop: int, work: Workspace) -> tuple[list[exact.Part], Any]:
        """The parts of a span before the method has made anything of them, and what it knows of the tensor."""
        known = self.known(name, work)
        return Tensor(name, self.vectors).parts(start, stop, work), known

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        known = self.known(name, work)
        with work.apart():  # methods overwrite what they read
            return self.method.span(Tensor(name, self.vectors), known, int(start), int(stop), work)


def transformed(method: Method, *vectors: WeightVector) -> WeightVector:
    """The vector that a method makes of one or several vectors."""
    return WeightVector((Term(1.0, Transform(method, *vectors)),))


def sparsified(vector: WeightVector, method: Sparsity, density: float, seed: int) -> WeightVector:
    if method not in get_args(Sparsity):
        raise ValueError(f"method={method!r}: expected one of {', '.join(get_args(Sparsity))}.")
    if not 0 < density <= 1:
        raise ValueError(f"density={density!r}: expected a share of elements to keep, in (0, 1].")
    return transformed(
        Magnitude(float(density)) if method == "magnitude" else Dare(float(density), seed), vector
    )


def ties(vectors: Sequence[WeightVector], *, density: float = 0.2) -> WeightVector:
    """One vector from several by trimming, electing signs and averaging what agrees; see `Ties`.

    `density` is the share of each tensor that is kept before the vote (the paper keeps 20 %).
    """
    vectors = list(vectors)
    if not vectors or not all(isinstance(v, WeightVector) for v in vectors):
        raise TypeError(f"ties takes a list of weight vectors, got {vectors!r}.")
    return transformed(Ties(density), *(v.sparsified("magnitude", density=density) for v in vectors))
