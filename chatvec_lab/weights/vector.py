"""The lazy algebra: sums, multiples and selections of weight vectors.

A `WeightVector` is a list of terms, each a float64 factor on a leaf (a difference, a stored vector, a transform).
Asked for a span of one tensor it returns *parts*, `(coefficient, plus, minus)` with raw stored elements, so that
`exact.combine` can round the whole formula once. Nothing is read before a part is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.difference import Difference, Leaf, unpaired
from chatvec_lab.weights.layout import Part
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace, block_spans
from chatvec_lab.weights.selection import LayerChoice, NameChoice, Selection
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.terms import Term, place, renamed, silent, span
from chatvec_lab.weights.tokens.chat import ChatSide
from chatvec_lab.weights.tokens.rows import leaf_rows, pairs_in_shape
from chatvec_lab.weights.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch


class WeightVector:
    """A vector of weights: named tensors that are differences, read lazily. Made by `chat - base`, or loaded.

    Supports `scale * tau`, `-tau`, `a + b`, `a - b`, `cp + tau` and what is below. Tensors go by published names.
    """

    def __init__(self, terms: tuple[Term, ...]):
        self.terms = terms

    def __repr__(self) -> str:
        return "WeightVector(" + " + ".join(f"{t.factor:g} * ({t.leaf.label})" for t in self.terms) + ")"

    @property
    def label(self) -> str:
        return " + ".join(
            t.leaf.label if t.factor == 1 else f"{t.factor:g} * ({t.leaf.label})" for t in self.terms
        )

    @cached_property
    def names(self) -> list[str]:
        """Names of the tensors, in the file order of the first term; a head that only others have comes last."""
        first, *others = (term.leaf for term in self.terms)
        lines = [f"{n}   not in {leaf.label}" for leaf in others for n in first.names if not leaf.resolve(n)]
        lines += [
            f"{n}   not in {first.label}" for leaf in others for n in leaf.names if not first.resolve(n)
        ]
        lines += [
            f"{n}   {first.label} {first.shape(n)}, {leaf.label} {leaf.shape(n)}"
            for leaf in others
            for n in first.names
            if leaf.resolve(n) and not pairs_in_shape(first.part(n), first.shape(n), leaf.shape(n))
        ]
        if lines:
            raise ValueError(
                unpaired("sum of vectors", lines, len(first.names), others[0].label, first.label)
            )
        return list(dict.fromkeys(name for term in self.terms for name in term.leaf.names))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.terms[0].leaf.shape(name)

    def part(self, name: str) -> Part:
        """What a tensor is: component, layer, module, projection and axis."""
        return self.terms[0].leaf.part(name)

    @property
    def parts_by_name(self) -> dict[str, Part]:
        return {name: self.part(name) for name in self.names}

    @property
    def tied(self) -> Mapping[str, str]:
        """A tensor that has another's difference where it is not stored (a head), and that other (the embedding)."""
        return self.terms[0].leaf.tied

    def is_table(self, name: str) -> bool:
        """True when the tensor has one row a token."""
        return self.part(name).axis == "vocabulary"

    def resolve(self, name: str) -> str | None:
        """The tensor that plays the part of `name` (a tied head is the embedding), or None."""
        return name if all(term.leaf.resolve(name) for term in self.terms) else None

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self.terms[0].leaf.vocabulary

    @property
    def base(self) -> Checkpoint | None:
        """The checkpoint that the vector was taken from; None where it is not known (a stored vector)."""
        return self.terms[0].leaf.base

    @property
    def chat_side(self) -> ChatSide | None:
        """Template, end-of-turn ids and special rows: of the last term that is added (not subtracted) and has them."""
        sides = [term.leaf.chat_side for term in self.terms if term.factor > 0]
        return next((side for side in reversed(sides) if side), None)

    @property
    def left_out(self) -> dict[str, str]:
        """Tensors of one side alone that transformers would not load, with what they are; they are not in `names`."""
        return {name: why for term in self.terms for name, why in term.leaf.left_out.items()}

    def parts(
        self,
        name: str,
        start: int,
        stop: int,
        *,
        vocabulary: Vocabulary | None = None,
        rows: int | None = None,
        work: Workspace | None = None,
    ) -> list[exact.Part]:
        """The flat span [start, stop) of a tensor as raw parts, to be summed by `exact.combine`.

        With `vocabulary` (and `rows`, its number of rows) the span counts rows of that vocabulary; rows whose
        token the vector lacks are zero. Without, the span counts the vector's own rows. Not to be overwritten.
        """
        work = work or Workspace()
        if vocabulary is None and len(self.terms) > 1 and self.is_table(name):
            vocabulary, rows = self.vocabulary, self.shape(name)[0]
        result: list[exact.Part] = []
        for term in self.terms:
            coefficient = term.coefficient(name)
            if coefficient:
                inner = span(term.leaf, name, start, stop, vocabulary, rows, work)
                result += [(coefficient * c, plus, minus) for c, plus, minus in inner]
        return result

    def only(
        self,
        name: str,
        start: int,
        stop: int,
        *,
        vocabulary: Vocabulary | None = None,
        rows: int | None = None,
    ) -> tuple[Leaf, int] | None:
        """The leaf that a span is, as it is, and where the span begins in its rows; None for any other sum."""
        if len(self.terms) != 1 or self.terms[0].coefficient(name) != 1.0:
            return None
        leaf = self.terms[0].leaf
        begin = place(leaf, name, start, stop, vocabulary, rows)
        return None if begin is None else (leaf, begin)

    def live_rows(
        self, name: str, vocabulary: Vocabulary | None = None, rows: int | None = None
    ) -> np.ndarray | None:
        """Which rows of a table carry a difference, shape (rows,), bool; None: all, or the tensor is no table.

        Rows are the vector's own; with `vocabulary` and `rows` they are that vocabulary's.
        """
        if not self.is_table(name):
            return None
        if rows is None and len(self.terms) == 1:
            return self.terms[0].leaf.live_rows(name)
        if rows is None:
            vocabulary, rows = self.vocabulary, self.shape(name)[0]
        live = np.zeros(rows, bool)
        for term in self.terms:
            ids, own = leaf_rows(term.leaf, name, vocabulary, rows), term.leaf.live_rows(name)
            live |= (ids >= 0) if own is None else (ids >= 0) & own[ids]
        return live

    def read(self, name: str, rows: slice | None = None, *, dtype: torch.dtype | None = None) -> torch.Tensor:
        """One tensor of the vector (or a slice of its rows), exact and rounded once; float32 unless `dtype` says.

        Rows are the vector's own: those of the first term's first checkpoint.
        """
        import torch

        dtype = dtype or torch.float32
        shape = self.shape(name)
        first, last, step = (rows or slice(None)).indices(shape[0] if shape else 1)
        if step != 1:
            raise ValueError(f"rows={rows!r}: only slices with step 1 are read.")
        last, width = max(first, last), prod(shape[1:])
        kind = str(dtype).removeprefix("torch.")
        if kind not in files.FLOATS:
            raise TypeError(f"dtype={dtype}: a vector is read as one of {', '.join(files.FLOATS)}.")
        tensor = torch.empty((last - first, *shape[1:]) if shape else (), dtype=dtype)
        flat = tensor.reshape(-1).view(torch.uint8).numpy().view(exact.RAW[kind]) if tensor.numel() else None
        work = Workspace()
        for begin, end in block_spans((last - first, *shape[1:]) if shape else ()):
            offset = first * width
            parts = self.parts(name, begin + offset, end + offset, work=work)
            self._combined(name, None, parts, flat[begin:end], work)
            work.release()
        return tensor

    def _combined(self, name, cp, parts, out, work) -> np.ndarray:
        try:
            return exact.combine(cp, parts, out)
        except FloatingPointError as error:
            raise ValueError(f"{name} of {self.label}: {error}. Is one of the sources damaged?") from error

    def _map(self, **changes) -> WeightVector:
        return WeightVector(
            tuple(replace(term, **{k: f(term) for k, f in changes.items()}) for term in self.terms)
        )

    def __mul__(self, scale: float) -> WeightVector:
        if isinstance(scale, bool) or not isinstance(scale, int | float | np.integer | np.floating):
            return NotImplemented
        if not isfinite(scale):
            raise ValueError(f"the scale must be a finite number, got {scale!r}.")
        return self._map(factor=lambda term: term.factor * float(scale))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> WeightVector:
        if isinstance(divisor, bool) or not isinstance(divisor, int | float):
            return NotImplemented
        return self * (1.0 / divisor)

    def __neg__(self) -> WeightVector:
        return self * -1.0

    def __add__(self, other: WeightVector) -> WeightVector:
        return WeightVector(self.terms + other.terms) if isinstance(other, WeightVector) else NotImplemented

    def __sub__(self, other: WeightVector) -> WeightVector:
        return self + (-other) if isinstance(other, WeightVector) else NotImplemented

    def __radd__(self, other):
        return self if other == 0 else NotImplemented  # so that sum(vectors) works

    def select(
        self,
        layers: LayerChoice | None = None,
        modules: NameChoice | None = None,
        components: NameChoice | None = None,
    ) -> WeightVector:
        """The vector in some places and zero elsewhere.

        `layers`: a number, range, slice, iterable or text "0-7,12", counted in the text unless `components` says
        otherwise (tensors outside the layers are then left out); `modules`: kinds ("attention", "mlp", "router",
        "norm", "embedding", "head", …) or regular expressions on names; `components`: "text", "vision", "audio",
        "projector", "draft", "other". Raises ValueError, when the vector is first used, for a choice that fits nothing.
        """
        selection = Selection(lambda: self.parts_by_name, layers, modules, components)
        return self._map(schedules=lambda term: (*term.schedules, selection))

    def scheduled(self, f: Callable[[int | None, str], float]) -> WeightVector:
        """The vector times `f(layer, module)`, with layer None outside the layers and module one of the kinds."""
        schedule = lambda name, part: float(f(part.layer, part.module))  # noqa: E731
        return self._map(schedules=lambda term: (*term.schedules, schedule))

    def chat_side_only(self) -> WeightVector:
        """The chat model's template and end of turn, and none of its weights: added, it leaves every bit of the CP."""
        return self._map(schedules=lambda term: (*term.schedules, silent))

    def sparsified(
        self, method: Literal["magnitude", "dare"], *, density: float, seed: int = 0
    ) -> WeightVector:
        """A share `density` of each tensor's elements; see `methods.Magnitude` and `methods.Dare`."""
        from chatvec_lab.weights.transforms import sparsified

        return sparsified(self, method, density, seed)

    def low_rank(self, rank: int, *, seed: int = 0) -> WeightVector:
        """Each matrix replaced by its best approximation of `rank`; norms, embedding and head stay whole."""
        from chatvec_lab.weights.methods import LowRank
        from chatvec_lab.weights.transforms import transformed

        return transformed(LowRank(rank, seed), self)

    def at_tokens(self, tokens: Iterable[str]) -> WeightVector:
        """The rows of these tokens in embedding and head, and zero elsewhere: what new markers alone are worth.

        `tau - tau.at_tokens(["<|user|>"])` is all but them. Raises KeyError, when it is read, for a token without a row.
        """
        from chatvec_lab.weights.methods import Rows
        from chatvec_lab.weights.transforms import transformed

        if isinstance(tokens, str) or not (named := tuple(tokens)):
            raise TypeError(f"tokens={tokens!r}: expected a list of tokens, one or more.")
        return transformed(Rows(named), self)

    def random_like(self, seed: int) -> WeightVector:
        """Gaussian noise with the same L2 norm for each tensor, and in tables for each row: the control."""
        from chatvec_lab.weights.methods import Noise
        from chatvec_lab.weights.transforms import transformed

        return transformed(Noise(seed), self)

    def within(self, larger: Checkpoint, path: str | None = None) -> WeightVector:
        """The vector for the language part of a larger model, such as LLaVA; the rest of that model is carried.

        Add it to that model: `vlm + tau.within(vlm)`. `path` is the language part's, taken out of the larger model's
        names ("language_model", or "" where they are the family's own); None finds it. See `within.Within`.
        The larger model keeps its chat template, if it has one.
        """
        from chatvec_lab.weights.within import Within

        leaves = [Within(term.leaf, larger, path) for term in self.terms]
        return WeightVector(
            tuple(
                Term(term.factor, leaf, tuple(renamed(schedule, leaf) for schedule in term.schedules))
                for term, leaf in zip(self.terms, leaves, strict=True)
            )
        )

    @property
    def placed(self) -> dict[str, str]:
        """Of a vector put `within` a larger model: each name there, and the vector's own name for it."""
        return {name: inner for term in self.terms for name, inner in term.leaf.placed.items()}

    def is_outside(self, name: str) -> bool:
        """True for a tensor of a larger model that no part of this vector, put `within` it, has to do with."""
        return self.larger is not None and not any(name in term.leaf.placed for term in self.terms)

    @property
    def larger(self) -> Checkpoint | None:
        """The larger model whose language part this vector is for; None for an ordinary vector."""
        return next((term.leaf.larger for term in self.terms if term.leaf.larger is not None), None)

    def save(self, path: str | os.PathLike, *, progress: bool = True, jobs: int | None = None) -> Path:
        """Store the vector as an artifact of its own (exact; usable without base and chat); returns the folder."""
        if self.larger is not None:
            raise ValueError(
                f"{self.label} goes by the names of a larger model. Save the vector itself, and place it when it is "
                "needed: vlm + WeightVector.load(path).within(vlm)."
            )
        from chatvec_lab.weights.saving.artifact import save_vector

        return save_vector(self, Path(path), progress=progress, jobs=jobs)

    @staticmethod
    def load(path: str | os.PathLike) -> WeightVector:
        """A vector stored by `save`."""
        from chatvec_lab.weights.saving.artifact import load_vector

        return load_vector(Path(path))

    def describe(self) -> list[dict]:
        """The recipe, one entry a term: leaf, factor and, where a schedule varies it, each tensor's coefficient."""
        result = []
        for term in self.terms:
            entry = {**term.leaf.describe(), "factor": term.factor}
            if term.schedules:
                entry["coefficients"] = {name: term.coefficient(name) for name in self.names}
            result.append(entry)
        return result

    def sources(self) -> list[Checkpoint]:
        return list(dict.fromkeys(source for term in self.terms for source in term.leaf.sources()))


def difference(plus: Checkpoint, minus: Checkpoint, *, allow_mixed: bool = False) -> WeightVector:
    """The lazy vector plus - minus; `allow_mixed` where one of the two is quantised and the other is not."""
    return WeightVector((Term(1.0, Difference(plus, minus, allow_mixed)),))
