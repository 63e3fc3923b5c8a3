"""A recipe of mergekit run as ours: task_arithmetic, ties, dare_linear and dare_ties over whole models.

What mergekit computes in `dtype`, rounding at every step, is computed exactly here and rounded once. Whatever a
recipe asks for that is not known is refused by its name, before anything is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatvec_lab.interop.mergekit_methods import Elected, Masked, Rescaled, RoundedDown, Share
from chatvec_lab.interop.mergekit_names import METHODS, check_keys, checkpoint_of, is_same, models_of, placed
from chatvec_lab.mistakes import naming
from chatvec_lab.reading import demand, read_yaml
from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.difference import Difference
from chatvec_lab.weights.merged import MergedCheckpoint
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.transforms import transformed
from chatvec_lab.weights.vector import Term, WeightVector


@dataclass(frozen=True)
class Recipe:
    """A mergekit recipe as a lazy checkpoint; `dtype` is what the recipe wants stored (None: base_model's).

    `notes` say what is done otherwise than mergekit does it.
    """

    merged: MergedCheckpoint
    dtype: str | None
    notes: tuple[str, ...]

    def save(self, path: str | os.PathLike, **options):
        """`merged.save` with the recipe's dtype; returns its `SaveReport`."""
        return self.merged.save(path, **{"dtype": self.dtype, **options})


def load(config: str | os.PathLike | Mapping[str, Any], *, seed: int = 0) -> Recipe:
    """The recipe in a YAML file (or an already parsed one) as a merged checkpoint; nothing is read yet but headers.

    `seed` draws the masks of dare_*; model i uses seed + i. The result has base_model's vocabulary, config and
    sharding (or those of a model of weight 1 that `tokenizer_source` names), and the chat model's template.

    Raises ValueError naming the key, method, parameter or model that is not supported, and where vocabularies
    differ and the recipe does not say which to keep.
    """
    if isinstance(config, Mapping):
        return _recipe(config, seed)
    with naming(config):
        return _recipe(placed(read_yaml(config), Path(config).parent), seed)


def _recipe(config: Mapping[str, Any], seed: int) -> Recipe:
    check_keys(config)
    method = config["merge_method"]
    sparsify, consensus, normalize, rescale = METHODS[method]
    base, models, settings = models_of(config)
    shared = config.get("parameters") or {}
    layers = {
        n: part.layer
        for stored, part in base.layout.parts.items()
        for n in (stored, base.layout.published(stored))
        if part.component == "text" and part.layer is not None
    }
    normalize, rescale = _flag(shared, "normalize", normalize), _flag(shared, "rescale", rescale)
    weights = [
        _evaluator("weight", [own, shared], layers, m.label) for m, own in zip(models, settings, strict=True)
    ]
    for weight in weights:
        _ = [weight(name) for name in base.names]  # so that a missing one is told now
    factor = _evaluator("lambda", [shared], layers, default=1.0)
    densities = [_density(own, shared, layers, m.label) for m, own in zip(models, settings, strict=True)]
    least = min(density(name) for density in densities for name in base.names)
    if not sparsify and least < 1:
        raise ValueError(
            f"density {least!r} means nothing to merge_method: {method}; leave it out or use ties."
        )
    is_plain = not (sparsify or normalize) and factor.is_constant and factor("") == 1.0
    start, kept = _start(config, base, models, weights, is_plain=is_plain)
    deltas = [
        _delta(model - base, sparsify, density, rescale, seed + i)
        for i, (model, density) in enumerate(zip(models, densities, strict=True))
    ]
    if consensus:
        vector = _scheduled(transformed(Elected(tuple(weights), normalize), *deltas), factor)
    else:
        vector = _weighted(models, deltas, weights, factor, normalize, kept)
    return Recipe(start + vector, _dtype(config), _notes(config, sparsify, least))


def _delta(
    delta: WeightVector, sparsify: str | None, density: Share, rescale: bool, seed: int
) -> WeightVector:
    """A model's difference from base_model as the method thins it out."""
    if not sparsify or (density.is_constant and density("") == 1):
        return delta
    sparse = RoundedDown(density) if sparsify == "magnitude" else Masked(density, seed)
    return transformed(Rescaled(sparse) if rescale else sparse, delta)


def _dtype(config: Mapping) -> str | None:
    dtype = str(config.get("out_dtype") or config.get("dtype") or "").removeprefix("torch.")
    if dtype and dtype not in files.FLOATS:
        raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(files.FLOATS)}.")
    return dtype or None


def _flag(settings: Mapping, name: str, default: bool) -> bool:
    value = settings.get(name, default)
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise ValueError(f"{name}: {value!r} is not supported; write true or false.")
    return bool(value)


def _density(own: Mapping, shared: Mapping, layers: Mapping[str, int], model: str) -> Share:
    """A model's density as a function of the tensor's name; every value that a tensor can get is checked."""
    density = _evaluator("density", [own, shared], layers, model, default=1.0)

    def checked(tensor: str) -> float:
        value = density(tensor)
        if not 0 < value <= 1:
            raise ValueError(f"density: {value!r} of {model}: expected a share in (0, 1].")
        return value

    checked.is_constant = density.is_constant
    return checked


def _evaluator(
    name: str,
    sources: list[Mapping],
    layers: Mapping[str, int],
    model: str = "",
    default: float | None = None,
) -> Callable[[str], float]:
    """A parameter as a function of the tensor's name: a number, a gradient over the layers, or a list of filters."""
    last = max(layers.values(), default=0)

    def number(value: Any) -> float:
        # text is no number, as in mergekit
        if isinstance(value, bool | int | float) and math.isfinite(value):
            return float(value)
        raise ValueError(f"{name}: {value!r} of {model or 'the recipe'} is no number.")

    def evaluate(setting: Any, tensor: str) -> float | None:
        settings = setting if isinstance(setting, list) else [setting]
        if not settings:
            return None
        if any(isinstance(item, Mapping) for item in settings):
            known = ({"value"}, {"filter", "value"})
            odd = [s for s in settings if not isinstance(s, Mapping) or set(s) not in known]
            odd += [s for s in settings if not odd and not isinstance(s.get("filter"), str | None)]
            if odd:
                raise ValueError(
                    f"{name}: {odd[0]!r} of {model or 'the recipe'}: expected entries with filter (text) and "
                    "value, or with value alone."
                )
            fits = (s for s in settings if s.get("filter") in (None, "*") or s["filter"] in tensor)
            first = next(fits, None)
            return None if first is None else evaluate(first.get("value"), tensor)
        points = [number(value) for value in settings]
        layer = layers.get(tensor)
        at = 0.0 if layer is None else (layer / last if last else 1.0)  # mergekit's t; 0 outside the layers
        place = at * (len(points) - 1)
        below = int(place)
        above, share = min(len(points) - 1, below + 1), place - below
        return (1 - share) * points[below] + share * points[above]

    def value(tensor: str) -> float:
        for source in sources:
            if name in source:
                found = evaluate(source[name], tensor)
                if found is not None:
                    return found
        if default is None:
            raise ValueError(f"{model}: no {name} for {tensor}; give it under the model's own parameters:.")
        return default

    value.is_constant = all(not isinstance(source.get(name), list | Mapping) for source in sources)
    return value


def _start(config, base, models, weights, *, is_plain: bool) -> tuple[Checkpoint, int | None]:
    """The checkpoint to which deltas are added, and its number among the models (None: base_model)."""
    tokenizer = config.get("tokenizer") or {}
    source = config.get("tokenizer_source", tokenizer.get("source"))
    if tokenizer.get("pad_to_multiple_of"):
        raise ValueError("tokenizer: pad_to_multiple_of is not supported; padding rows stay as they are.")
    demand(tokenizer.get("tokens"), (dict, type(None)), "tokenizer, tokens")
    for token, how in (tokenizer.get("tokens") or {}).items():
        demand(how, dict, f"tokenizer, tokens, {token}")
        known = [m for m in (base, *models) if m.vocabulary and token in m.vocabulary.tokens]
        keeps = (
            how.get("force")
            and isinstance(how.get("source"), str)
            and is_same(checkpoint_of(how["source"]), base)
        )
        if not keeps or len(known) == 1 + len(models):
            raise ValueError(
                f"tokenizer: the rule for token {token!r} is not supported (rows pair by token here)."
            )
    if source == "union":
        raise ValueError("tokenizer_source: union is not supported: it renumbers the tokens of every model.")
    if source not in (None, "base") and not is_same(checkpoint_of(source), base):
        wanted = checkpoint_of(source)
        for i, (model, weight) in enumerate(zip(models, weights, strict=True)):
            if is_same(model, wanted) and is_plain and weight.is_constant and weight("") == 1.0:
                return model, i
        raise ValueError(
            f"tokenizer_source: {source}: only base_model's vocabulary can be kept, or that of a model that a "
            "task_arithmetic recipe adds with weight 1. Make it the base_model (see chatvec_lab's own recipes)."
        )
    if source is None:
        own, *sizes = (
            {m.layout.published(n): m.shape(n)[0] for n in m.layout.tables} for m in (base, *models)
        )
        differing = [f"{m.source} ({rows})" for m, rows in zip(models, sizes, strict=True) if rows != own]
        if differing:
            raise ValueError(
                f"{', '.join(differing)} and base_model {base.source} ({own}) have different vocabularies, and the "
                "recipe does not say which to keep. Best is base_model: CP with chat at +scale and base at -scale; "
                "tokenizer_source: base keeps base_model's alone."
            )
    return base, None


def _weighted(models, deltas, weights, factor, normalize, kept) -> WeightVector:
    """lambda * sum of weight * delta / divisor; the model that is kept as a start has its delta in already."""
    terms = []
    pair = len(models) == 2 and not normalize and all(isinstance(d.terms[0].leaf, Difference) for d in deltas)
    constant = all(w.is_constant for w in (*weights, factor)) and not normalize
    if pair and constant and kept is None and weights[0]("") == -weights[1](""):
        plus, minus = models if weights[0]("") > 0 else models[::-1]
        return abs(weights[0]("")) * factor("") * (plus - minus)  # a chat vector

    def divisor(tensor: str) -> float:
        total = sum(weight(tensor) for weight in weights) if normalize else 1.0
        return total if abs(total) >= 1e-8 else 1.0

    def coefficient(weight):
        return lambda tensor: factor(tensor) * weight(tensor) / divisor(tensor)

    for i, (delta, weight) in enumerate(zip(deltas, weights, strict=True)):
        if i != kept:
            terms.append(
                (factor("") * weight("")) * delta if constant else _scheduled(delta, coefficient(weight))
            )
    return sum(terms) if terms else 0.0 * deltas[0]


def _scheduled(vector: WeightVector, factor: Callable[[str], float]) -> WeightVector:
    schedule = lambda name, part: factor(name)  # noqa: E731
    return WeightVector(tuple(Term(t.factor, t.leaf, (*t.schedules, schedule)) for t in vector.terms))


def _notes(config: Mapping, sparsify: str | None, least: float) -> tuple[str, ...]:
    notes = [f"computed exactly and rounded once, not in {config.get('dtype') or 'the dtype of the models'}"]
    if sparsify == "dare" and least < 1:
        notes.append(
            "the masks of dare are our generator's, not torch's: the same statistics, other elements"
        )
    if sparsify == "magnitude" and least < 1:
        notes.append(
            "among equal magnitudes at the threshold the first in file order are kept; mergekit's sort is not stable, "
            "and it may keep others"
        )
    notes.append("chat template and end-of-turn tokens are the chat model's")
    return tuple(notes)
