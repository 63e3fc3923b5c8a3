"""Where the vector is added, and how much of it there: a factor for each layer and kind of module, turned live.

A `Dial` is a schedule of the vector (`tau.scheduled`) that can be changed after a LiveModel was made of it: the
next turn of the scale reads the new factors, so that a switch costs a turn and not a reload. The weights are then
round(cp + scale * factor * tau), bit for bit those of `cp + scale * tau.scheduled(factors)`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from math import isfinite
from typing import TYPE_CHECKING

from chatvec_lab.weights.layout import COMPONENTS, KINDS, Part

if TYPE_CHECKING:
    from chatvec_lab.live import LiveModel
    from chatvec_lab.weights.vector import WeightVector

Place = tuple[
    int | None, str
]  # layer of the text (None outside the layers) and kind of module, or another component
Parts = tuple[tuple[Place, float], ...]  # the factors that are not 1, in the order of the places


_COMPONENT = "{} component"
ORDER = (*KINDS, *map(_COMPONENT.format, COMPONENTS))


def places(parts: Iterable[Part]) -> list[Place]:
    """Where a model has weights: first outside the layers, then layer by layer, each in the order of `KINDS`.

    What is no text (vision, audio, projector …) is one place a component, (None, "vision component").
    """
    found = {
        (p.layer, p.module) if p.component == "text" else (None, _COMPONENT.format(p.component))
        for p in parts
    }
    return sorted(found, key=lambda p: (-1 if p[0] is None else p[0], ORDER.index(p[1])))


def chosen(parts: Mapping[Place, float] | None, there: Collection[Place]) -> Parts:
    """The factors of a choice that are not 1, in the order of the places, so that equal choices compare equal.

    Raises KeyError for a place that the model lacks, TypeError or ValueError for what is no finite number.
    """
    given = {place if isinstance(place, tuple) else tuple(place): f for place, f in (parts or {}).items()}
    for place, factor in given.items():
        if place not in there:
            near = get_close_matches(in_words(place), [in_words(p) for p in there], n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise KeyError(f"parts: the model has no {in_words(place)}.{hint}")
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise TypeError(f"parts: the factor of {in_words(place)} must be a number, got {factor!r}.")
        if not isfinite(factor):
            raise ValueError(f"parts: the factor of {in_words(place)} must be finite, got {factor!r}.")
    return tuple((place, float(given[place])) for place in there if given.get(place, 1.0) != 1.0)


def is_anywhere(factors: Parts, there: Collection[Place]) -> bool:
    """Whether anything of the vector is left."""
    given = dict(factors)
    return any(given.get(place, 1.0) for place in there)


def in_words(place: Place) -> str:
    """
    >>> in_words((2, "mlp")), in_words((None, "embedding"))
    ('mlp of layer 2', 'embedding outside the layers')
    """
    layer, module = place
    return f"{module} outside the layers" if layer is None else f"{module} of layer {layer}"


class Dial:
    """The factors of one live model's vector. `turn` changes them, and the model with them."""

    def __init__(self):
        self._factors: dict[
            Place, float
        ] = {}  # all 1: a live model keeps the parts that are not zero when it is made

    def on(self, tau: WeightVector) -> WeightVector:
        """The vector with this dial's factors, whatever they are when a tensor is asked for."""
        there = {part.component for part in tau.parts_by_name.values()}
        text = tau.select(components="text") if there > {"text"} else tau
        found = text.scheduled(lambda layer, module: self._factors.get((layer, module), 1.0))
        for component in sorted(there - {"text"}):
            place = (None, _COMPONENT.format(component))
            part = tau.select(components=component)
            found += part.scheduled(lambda _, __, place=place: self._factors.get(place, 1.0))
        return found

    def turn(self, live: LiveModel, scale: float, factors: Parts) -> None:
        """**Changes the model's weights**, if scale or factors are others than before."""
        if (live.scale, self._factors) != (scale, dict(factors)):
            self._factors = dict(factors)
            live.scale = scale
