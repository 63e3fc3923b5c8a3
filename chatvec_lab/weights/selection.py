"""Which tensors a choice of layers, modules and components means; a choice that fits nothing is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from chatvec_lab.weights.layout import KINDS, Part

LayerChoice = int | range | slice | str | Iterable[int]
NameChoice = str | Iterable[str]


class Selection:
    """1 for the chosen tensors and 0 for the others, as a schedule of a vector.

    What can be seen from the choice alone is checked at once; whether the vector has such layers, modules and
    components when the first tensor is asked for, so that nothing is opened before.
    Raises ValueError with the nearest name and the list of what there is.
    """

    def __init__(
        self,
        parts: Callable[[], dict[str, Part]],
        layers: LayerChoice | None,
        modules: NameChoice | None,
        components: NameChoice | None,
    ):
        self._parts = parts
        self._layers = None if layers is None else _spans(layers)
        self._modules = None if modules is None else _pieces(modules, "modules")
        self._components = None if components is None else _pieces(components, "components")
        self.said = ", ".join(
            f"{key}={value!r}"
            for key, value in (("layers", layers), ("modules", modules), ("components", components))
            if value is not None
        )

    def __call__(self, name: str, part: Part) -> float:
        _ = self._is_checked
        return float(self._fits(name, part))

    def _fits(self, name: str, part: Part) -> bool:
        return self._in_layers(part) and self._in_modules(name, part) and self._in_components(part)

    def _in_layers(self, part: Part) -> bool:
        if self._layers is None:
            return True
        # numbers count the text's layers, unless other components are named
        is_meant = part.component == "text" if self._components is None else True
        return is_meant and part.layer is not None and any(part.layer in span for span in self._layers)

    def _in_modules(self, name: str, part: Part) -> bool:
        return self._modules is None or any(_fits_piece(piece, name, part.module) for piece in self._modules)

    def _in_components(self, part: Part) -> bool:
        return self._components is None or any(re.fullmatch(p, part.component) for p in self._components)

    @cached_property
    def _is_checked(self) -> bool:
        parts = self._parts()
        meant = [p for p in parts.values() if self._in_components(p)]
        meant = [p for p in meant if self._components is not None or p.component == "text"]
        there = sorted({p.layer for p in meant} - {None})
        if self._layers is not None:
            beyond = [span for span in self._layers if not span.is_there(there)]
            if beyond:
                known = f"layers {there[0]} to {there[-1]}" if there else "no layers"
                raise ValueError(f"{self.said}: {beyond[0].text} is not all there; the vector has {known}.")
        kinds = sorted({p.module for p in parts.values()})
        for piece in self._modules or ():
            if piece not in KINDS and not any(_fits_piece(piece, n, p.module) for n, p in parts.items()):
                raise ValueError(_nothing(self.said, piece, kinds, [*KINDS, *parts]))
        components = sorted({p.component for p in parts.values()})
        for piece in self._components or ():
            if not any(re.fullmatch(piece, component) for component in components):
                raise ValueError(_nothing(self.said, piece, components, components))
        if not any(self._fits(name, part) for name, part in parts.items()):
            raise ValueError(f"{self.said} selects nothing: the vector has {', '.join(kinds)}.")
        return True


@dataclass(frozen=True)
class _Span:
    """Layers start, start + step, … before stop (None: to the end), as they were written."""

    start: int
    stop: int | None
    step: int
    text: str
    may_reach_beyond: bool = False  # as Python's slices do

    def __contains__(self, layer: int) -> bool:
        is_before = self.stop is None or layer < self.stop
        return layer >= self.start and is_before and (layer - self.start) % self.step == 0

    def is_there(self, layers: Sequence[int]) -> bool:
        if self.may_reach_beyond:
            return any(layer in self for layer in layers)
        last = self.start + (self.stop - 1 - self.start) // self.step * self.step
        return self.start in layers and last in layers


def _spans(layers: LayerChoice) -> list[_Span]:
    if isinstance(layers, slice):
        low, high, step = layers.start or 0, layers.stop, layers.step or 1
        if low < 0 or (high is not None and high < 0) or step < 1:
            raise ValueError(f"layers={layers!r}: count layers from 0; negative numbers are not understood.")
        return [_Span(low, high, step, f"layers {low}:{'' if high is None else high}", True)]
    if isinstance(layers, str):
        return [_written(piece, layers) for piece in layers.split(",")]
    if isinstance(layers, range) and layers.step > 0 and layers.start >= 0:
        return [_Span(layers.start, layers.stop, layers.step, str(layers))] if layers else []
    wanted = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, bytes) else [layers]
    if not all(isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 for layer in wanted):
        raise ValueError(f"layers={layers!r}: expected layer numbers, counted from 0.")
    return [_Span(layer, layer + 1, 1, f"layer {layer}") for layer in wanted]


def _written(piece: str, layers: str) -> _Span:
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", piece)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if high < low:
        raise ValueError(f"layers={layers!r}: expected numbers and ranges such as '0-7,12', got {piece!r}.")
    return _Span(low, high + 1, 1, f"layer {low}" if low == high else f"layers {low}-{high}")


def _pieces(choice: NameChoice, what: str) -> list[str]:
    """The patterns of a choice, alternatives apart, so that a misspelt one is found beside others that fit."""
    patterns = [choice] if isinstance(choice, str) else list(choice)
    pieces = [piece for p in patterns for piece in (p.split("|") if not re.search(r"[()\[\]\\]", p) else [p])]
    for piece in pieces:
        try:
            re.compile(piece)
        except re.error as error:
            raise ValueError(f"{what}={choice!r}: {piece!r} is no regular expression ({error}).") from error
        if not piece:
            raise ValueError(f"{what}={choice!r}: an empty pattern would fit everything; leave it out.")
    return pieces


def _fits_piece(piece: str, name: str, kind: str) -> bool:
    """A pattern that fits a whole kind goes by kind, so that "attention" leaves post_attention_layernorm alone."""
    if any(re.fullmatch(piece, known) for known in KINDS):
        return re.fullmatch(piece, kind) is not None
    return re.search(piece, name) is not None


def _nothing(said: str, piece: str, there: list[str], names: Iterable[str]) -> str:
    near = get_close_matches(piece, list(names), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{said}: {piece!r} fits no tensor.{hint} There are: {', '.join(there)}; or a regular expression on names."
