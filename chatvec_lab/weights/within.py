"""A vector inside a larger model: its language part gets the vector, all the rest is carried bit for bit.

A vision-language model holds a language model under longer names. One rule pairs the names: the path of the
language part is taken out of the larger model's name, and what is left is the family's name.

    language_model.model.layers.0.mlp.up_proj.weight   LLaVA; path "language_model"
    model.language_model.layers.0.mlp.up_proj.weight   newer names; the same path
    model.layers.0.mlp.up_proj.weight                  Qwen2-VL; path ""
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.layout import Part
from chatvec_lab.weights.numerics.blocks import block_spans
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.sources.language import without
from chatvec_lab.weights.tokens.chat import ChatSide, chat_side_of
from chatvec_lab.weights.tokens.rows import pairs_in_shape

if TYPE_CHECKING:
    from pandas import DataFrame

    from chatvec_lab.weights.difference import Leaf
    from chatvec_lab.weights.vector import WeightVector


class Within:
    """The leaf of a vector under the names of a larger model. Nothing is read before it is asked for.

    `path` is the language part's; None finds it and demands that there is only one that fits.
    Raises ValueError that lists every tensor of the vector without a place, and every tensor of the language part
    (also layers that are too many) without one in the vector.
    """

    def __init__(self, leaf: Leaf, larger: Checkpoint, path: str | None):
        self.leaf, self.larger = leaf, larger
        self._path = None if path is None else path.strip(".")
        self.label = f"({leaf.label}) within {larger.label}"

    @cached_property
    def path(self) -> str:
        return find_path(self.leaf, self.larger) if self._path is None else self._path

    @cached_property
    def mapping(self) -> dict[str, str]:
        """The larger model's names of the language part, in file order, and the vector's names for them."""
        found = mapping(self.leaf, self.larger, self.path)
        lines = _unplaced(self.leaf, self.larger, self.path, found)
        if lines:
            shown = "\n  ".join(lines[:20]) + (f"\n  … {len(lines) - 20} more" if len(lines) > 20 else "")
            raise ValueError(
                f"{self.leaf.label} does not fit within {self.larger.label} at the path {self.path!r}:\n  {shown}\n"
                "Give the path of the language part, which is taken out of the larger model's names "
                "('language_model' for LLaVA, '' where they are the family's own), or a vector of its family."
            )
        return found

    @cached_property
    def outside(self) -> frozenset[str]:
        """The larger model's tensors that the vector has nothing to do with, by their published names."""
        return frozenset(map(self.larger.layout.published, self.larger.names)) - frozenset(self.mapping)

    @property
    def base(self) -> Checkpoint | None:
        return self.leaf.base

    @property
    def tied(self) -> Mapping[str, str]:
        return self.larger.layout.tied

    @property
    def left_out(self) -> Mapping[str, str]:
        return self.leaf.left_out

    @property
    def placed(self) -> Mapping[str, str]:
        return self.mapping

    def inner(self, name: str) -> str:
        """The vector's own name of a tensor."""
        return self.mapping.get(name, name)

    @cached_property
    def names(self) -> list[str]:
        own = set(self.leaf.names)
        return [name for name, inner in self.mapping.items() if inner in own]

    def resolve(self, name: str) -> str | None:
        return name if name in self.mapping else None

    def shape(self, name: str) -> tuple[int, ...]:
        return self.leaf.shape(self.inner(name))

    def part(self, name: str) -> Part:
        return self.larger.layout[name]

    def live_rows(self, name: str) -> np.ndarray | None:
        return self.leaf.live_rows(self.inner(name))

    @property
    def vocabulary(self):
        return self.leaf.vocabulary

    @cached_property
    def chat_side(self) -> ChatSide | None:
        """The chat model's, unless the larger model has a chat template of its own, which knows where images go."""
        side = self.leaf.chat_side
        if side is None:
            return None
        own = chat_side_of(self.larger, self.larger) or side
        return replace(
            own, special=side.special, rows=lambda tensor, token: side.rows(self.inner(tensor), token)
        )

    def own(self, name: str, start: int, stop: int, work) -> list:
        return self.leaf.own(self.inner(name), start, stop, work)

    def describe(self) -> dict:
        rule = {"path": self.path, "tensors": len(self.mapping), "carried": len(self.outside)}
        return {**self.leaf.describe(), "within": rule}

    def sources(self) -> list[Checkpoint]:
        return self.leaf.sources()


def mapping(leaf: Leaf, larger: Checkpoint, path: str) -> dict[str, str]:
    """Each published name of the larger model that the vector has, once `path` is taken out of it, and that name."""
    found, names = {}, set(leaf.names)
    for name in _floats(larger):
        inner = without(name, path)
        # a head that is tied in the family is known there under the embedding's name
        is_known = inner in names or (larger.layout[name].module == "head" and leaf.resolve(inner))
        if name in larger.layout.turned:  # not in the order of the family's tensor, whatever its shape
            continue
        if is_known and pairs_in_shape(larger.layout[name], leaf.shape(inner), larger.shape(name)):
            found[larger.layout.published(name)] = inner
    return found


def find_path(leaf: Leaf, larger: Checkpoint) -> str:
    """The one path under which every tensor of the vector has its place; ValueError if there is none, or several."""
    names = leaf.names
    probe = next((name for name in names if leaf.part(name).layer is not None), names[0]).split(".")
    paths = set()
    for name in _floats(larger):
        parts = name.split(".")
        extra = len(parts) - len(probe)
        for at in range(len(probe)):
            if extra >= 0 and parts[:at] + parts[at + extra :] == probe:
                paths.add(".".join(parts[at : at + extra]))
    fitting = [
        path for path in sorted(paths) if not _unplaced(leaf, larger, path, mapping(leaf, larger, path))
    ]
    if len(fitting) == 1:
        return fitting[0]
    where = f"several paths: {', '.join(map(repr, fitting))}" if fitting else "no path"
    tried = ", ".join(map(repr, sorted(paths))) or "none, as no name is similar"
    raise ValueError(
        f"{leaf.label} fits within {larger.label} at {where} (tried: {tried}). Name the path of the "
        "language part, such as tau.within(vlm, 'language_model'), to choose it or to see what does not pair."
    )


def _unplaced(leaf: Leaf, larger: Checkpoint, path: str, found: dict[str, str]) -> list[str]:
    """One line for each tensor, of the vector or of the language part, that has no partner."""
    placed = set(found.values())
    lines = [f"{name}   only in the vector {leaf.label}" for name in leaf.names if name not in placed]
    if len(placed) < len(found):
        twice = [name for name, inner in found.items() if list(found.values()).count(inner) > 1]
        lines += [f"{name}   one of several names for the vector's {found[name]}" for name in twice]
    # a layer that the vector lacks has the name of another but for its number
    patterns = {re.sub(r"\d+", "#", name) for name in leaf.names}
    for name in _floats(larger):
        inner = without(name, path)
        is_inside = inner != name or re.sub(r"\d+", "#", inner) in patterns
        if is_inside and larger.layout.published(name) not in found:
            sizes = f"{larger.shape(name)}, in the vector {leaf.shape(inner)}" if inner in leaf.names else ""
            lines.append(f"{name}   {sizes or 'only in ' + larger.label}")
    return lines


def _floats(model: Checkpoint) -> list[str]:
    return [
        n for n in model.names if model.dtype_name(n) in files.FLOATS and model.layout[n].module != "buffer"
    ]


def placement(vector: WeightVector, merged: Checkpoint) -> DataFrame:
    """Where a placed vector went: one row a tensor of the larger model.

    Columns: tensor, inner (the vector's own name for it; missing where the tensor is carried), parameters, changed
    (elements of `merged`, saved or not, whose bits are not the larger model's). Reads both models once.
    """
    import pandas as pd

    if vector.larger is None:
        raise ValueError(f"{vector.label} is not placed within a larger model; see WeightVector.within.")
    larger, inner_of, rows = vector.larger, vector.placed, []
    for name in larger.names:
        changed = 0
        for start, stop in block_spans(larger.shape(name)):
            before, after = larger.raw(name, start, stop), merged.raw(name, start, stop)
            if before.dtype != after.dtype:
                raise ValueError(
                    f"{name}: {larger.label} and {merged.label} differ in dtype; no bits to compare."
                )
            bits = f"u{before.itemsize}"
            changed += int(np.count_nonzero(before.view(bits) != after.view(bits)))
        rows.append((name, inner_of.get(larger.layout.published(name)), prod(larger.shape(name)), changed))
    return pd.DataFrame(rows, columns=["tensor", "inner", "parameters", "changed"])
