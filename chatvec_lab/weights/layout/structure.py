"""What a model's own class in transformers says of its tensors: built from config.json on the meta device.

No weight is read, no memory for weights is taken, and no code of a repository is run: a class that transformers itself
does not have is not known here.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatvec_lab.weights.layout.familiar import Findings, left_out
from chatvec_lab.weights.layout.naming import Part, is_table, parts_of, pieces, projection

# buffers that training moves: the bias of a router, a layer's own factor
_TRAINED = re.compile(
    r"correction_bias$|expert_bias$|balancing_bias(?:es)?$|layer_scalar$|gate\.bias$|router\.\w*bias$"
)
# keys of the tokenizer's own size: RoCBert has tables of shapes and sounds too
_SIZE = re.compile(r"(?:decoder_|text_|padded_|unpadded_)?vocab_size(?:_per_layer_input)?")
_OTHER_TOKENS = re.compile(
    r"vision|visual|image|audio|speech|qformer|protein|codec|depth|vq_|codebook|perceiver"
)


class Unknown(ValueError):
    """transformers does not know the model, or cannot build it from this config; the message says why."""


@dataclass(frozen=True)
class Structure:
    """A class's tensors by their names in its state dict."""

    kind: str
    parts: Mapping[str, Part]
    tied: Mapping[str, str]
    embedding: str | None
    head: str | None
    unexpected: re.Pattern | None
    needed: tuple[frozenset[str], ...]  # names of one tensor each, one of which must be stored
    model: Any  # on the meta device: the renamings of transformers ask it

    def findings(self, names: Iterable[str]) -> Findings:
        """What stored tensors with these names are: under which name the class loads them, and which it leaves out."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )

        transforms = get_model_conversion_mapping(self.model)
        renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
        converters = [t for t in transforms if isinstance(t, WeightConverter)]
        prefix, names = self.model.base_model_prefix, list(names)
        found = Findings({}, {}, self.kind, tied=dict(self.tied), embedding=self.embedding, head=self.head)
        state = dict.fromkeys(self.parts, True)
        there: set[str] = set()
        for name in sorted(names, key=dot_natural_key):
            place, pattern = rename_source_key(name, renamings, converters, prefix, state)
            if place not in state and name in state:
                place, pattern = rename_source_key(name, [], [], prefix, state)
            published = place
            if pattern is not None:  # stored in other pieces or another order than the class has it
                published = rename_source_key(name, renamings, [], None, None)[0]
                if prefix and place.startswith(f"{prefix}.") and not published.startswith(f"{prefix}."):
                    published = f"{prefix}.{published}"
                found.lands[name] = place
                there |= set(_made(place, pattern, converters))
                stack = _stack(name, pattern, converters)
                if stack is not None:
                    found.stacks[name] = (place, *stack)
            found.published[name] = published
            if place in self.parts:
                part = self.parts[place]
                if published != place:
                    part = replace(part, projection=projection(pieces(published), part.module))
                found.parts[name] = part
            else:
                found.published[name] = name if pattern is None else published
                found.ignored[name] = self._why(name)
        if found.ignored:
            guessed = parts_of([n for n in names if n in found.ignored], depth=self._depth)
            for name, part in guessed.items():
                found.parts[name] = replace(part, axis="vocabulary" if is_table(name) else None)
        found.parts = {name: found.parts[name] for name in names}  # in file order
        there |= {found.lands.get(name, found.published[name]) for name in names if name not in found.ignored}
        found.lacking = [min(group) for group in self.needed if not there & group]
        found.ignored = {name: found.ignored[name] for name in names if name in found.ignored}
        return found

    @property
    def _depth(self) -> int | None:
        return getattr(self.model.config.get_text_config(decoder=True), "num_hidden_layers", None)

    def _why(self, name: str) -> str:
        known = left_out(name)
        if known:
            return known
        if self.unexpected is not None and self.unexpected.search(name):
            return f"{self.kind} leaves it out by its own list"
        return f"{self.kind} has no such tensor"


def _made(place: str, pattern: str, converters: list) -> list[str]:
    """The tensors of the class that are made of a stored one: several where it is split, the first of them at `place`."""
    targets = next((c.target_patterns for c in converters if pattern in c.source_patterns), [])
    return [place.replace(targets[0], target) for target in targets]


def _stack(name: str, pattern: str, converters: list) -> tuple[int, int] | None:
    """Of a tensor that is stacked whole, one expert on the other, with nothing else done to it: which expert, which part."""
    converter = next((c for c in converters if pattern in c.source_patterns), None)
    steps = (
        [(type(step).__name__, getattr(step, "dim", None)) for step in converter.operations]
        if converter
        else []
    )
    if steps not in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)]):
        return None
    numbers = re.findall(r"\.(\d+)\.", name)
    return int(numbers[-1]), converter.source_patterns.index(pattern)


def class_of(config: Mapping[str, Any]):
    """The class of transformers that a config.json names, and its config object; raises `Unknown`."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    name = (config.get("architectures") or [None])[0]
    own = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(own, type) and issubclass(own, transformers.PreTrainedModel)):
        own = None
    model_type = config.get("model_type")
    if model_type in CONFIG_MAPPING:
        kind = CONFIG_MAPPING[model_type]
    elif own is not None and own.config_class is not None:
        kind = own.config_class
    else:
        raise Unknown(f"transformers does not know the model type {model_type!r}")
    if own is not None and own.config_class is not None and not issubclass(kind, own.config_class):
        kind = own.config_class
    given = {k: v for k, v in config.items() if k not in ("quantization_config", "auto_map")}
    try:
        made = kind.from_dict(_with_floats(given))
    except Exception as error:  # configs raise whatever their validators raise
        raise Unknown(f"{kind.__name__} refuses this config.json ({_line(error)})") from error
    if own is None:
        autos = (
            transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM,
            transformers.AutoModelForSeq2SeqLM, transformers.AutoModel,
        )  # fmt: skip
        own = next((a._model_mapping[kind] for a in autos if kind in a._model_mapping), None)
        own = own[0] if isinstance(own, (tuple, list)) else own
    if own is None:
        raise Unknown(f"transformers has no model class for {kind.__name__}")
    return own, made


def _with_floats(value):
    """A config as transformers reads it: JSON has no infinity, so that it is stored as {"__float__": "Infinity"}."""
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    if isinstance(value, dict):
        marked = value.get("__float__") if len(value) == 1 else None
        return float(marked) if isinstance(marked, str) else {k: _with_floats(v) for k, v in value.items()}
    return value


def structure_of(config: Mapping[str, Any]) -> Structure:
    """The structure of the class that config.json names, built once for each config; raises `Unknown`."""
    keep = {
        k: v
        for k, v in config.items()
        if k not in ("transformers_version", "_name_or_path", "torch_dtype", "dtype")
    }
    return _structure(json.dumps(keep, sort_keys=True, default=str))


@functools.lru_cache(maxsize=32)
def _structure(text: str) -> Structure:
    own, config = class_of(json.loads(text))
    with _quietly():
        try:
            model = _built(own, config)
        except Exception as error:  # of a config that a class cannot take, a library that it lacks
            raise Unknown(f"{own.__name__} cannot be built from this config.json ({_line(error)})") from error
        rows = _vocabulary_names(own, config, model)
    embedding, head = _name_of(model, "get_input_embeddings"), _name_of(model, "get_output_embeddings")
    parts = _parts(model, config)
    for name, part in parts.items():
        if name in rows and part.module != "buffer":
            axis = "vocabulary" if rows[name] == 0 and (embedding or head) else "candidate"
            is_head = name.rsplit(".", 1)[0] == (head or ".").rsplit(".", 1)[0] or name.endswith("bias")
            parts[name] = replace(part, axis=axis, module="head" if is_head else part.module)
    if embedding is not None and parts[embedding].axis:
        parts[embedding] = replace(parts[embedding], module="embedding")
    patterns = sorted(model._keys_to_ignore_on_load_unexpected or ())
    return Structure(
        own.__name__, parts, _tied(model, parts), embedding, head,
        re.compile("|".join(f"(?:{p})" for p in patterns)) if patterns else None, _needed(model, parts, head), model,
    )  # fmt: skip


def _needed(model, parts: Mapping[str, Part], head: str | None) -> tuple[frozenset[str], ...]:
    """The tensors that a file must hold, each by all its names, but for the head (see `Layout.lacks_head`)."""
    spared = [*(model._keys_to_ignore_on_load_missing or ()), *(model._keys_to_ignore_on_save or ())]
    tied = {to: {to} for to in _tied(model, parts).values()}
    for name, to in _tied(model, parts).items():
        tied[to].add(name)
    groups: dict[int | str, set[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if parts[name].module != "buffer" and not any(re.search(pattern, name) for pattern in spared):
            groups.setdefault(id(tensor), set()).add(name)
    whole = (group.union(*(names for names in tied.values() if names & group)) for group in groups.values())
    return tuple(group for group in dict.fromkeys(map(frozenset, whole)) if head not in group)


def _built(own, config):
    import torch

    with torch.device("meta"):
        return own(copy.deepcopy(config))


@contextlib.contextmanager
def _quietly():
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


def _name_of(model, ask: str) -> str | None:
    """The state dict's name of the weight of the input or output embedding."""
    try:
        module = getattr(model, ask)()
    except (NotImplementedError, AttributeError):
        return None
    weight = getattr(module, "weight", None)
    if weight is None:
        return None
    path = next((name for name, other in model.named_modules() if other is module), None)
    return f"{path}.weight" if path else None


def _tied(model, parts: Mapping[str, Part]) -> dict[str, str]:
    found = {t: s for t, s in (getattr(model, "all_tied_weights_keys", None) or {}).items()}
    return {t: s for t, s in found.items() if t in parts and s in parts}


def _vocabulary_names(own, config, model) -> dict[str, int]:
    """Which tensors have an axis of the vocabulary, and which axis: those that change when only it grows."""
    larger, grown = copy.deepcopy(config), False
    own_size = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    known = [
        getattr(sub, "vocab_size", None) for path, sub in _walk(config) if not _OTHER_TOKENS.search(path)
    ]
    sizes = {own_size} if isinstance(own_size, int) else set(known)  # a policy of robots has none at its top
    for path, sub in _walk(larger):
        if _OTHER_TOKENS.search(path):
            continue
        for key in dict.fromkeys(["vocab_size", *filter(_SIZE.fullmatch, vars(sub))]):
            value = getattr(sub, key, None)
            if (
                isinstance(value, int)
                and (value in sizes or key != "vocab_size")
                and not _OTHER_TOKENS.search(key)
            ):
                setattr(sub, key, value + 64)
                grown = True
    own_shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if grown:
        try:
            other = _built(own, larger).state_dict()
        except Exception:  # a class that cannot take another size: its embeddings alone are known
            grown = False
    if not grown:
        asked = (_name_of(model, "get_input_embeddings"), _name_of(model, "get_output_embeddings"))
        return {name: 0 for name in asked if name is not None}
    found = {}
    for name, shape in own_shapes.items():
        theirs = tuple(other[name].shape) if name in other else shape
        if theirs != shape and len(theirs) == len(shape):
            found[name] = next(i for i, (a, b) in enumerate(zip(shape, theirs, strict=True)) if a != b)
    return found


def _walk(config, path: str = ""):
    """A config and its sub-configs, each with its path of keys."""
    from transformers import PreTrainedConfig

    yield path, config
    for key, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _walk(value, f"{path}.{key}")


def _parts(model, config) -> dict[str, Part]:
    """The part of each tensor, from names, classes of modules, sub-configs and lists of layers."""
    from torch import nn
    from transformers import PreTrainedModel

    modules = dict(model.named_modules())
    keys = {id(sub): path.rsplit(".", 1)[-1] for path, sub in _walk(model.config) if path}
    buffers = {name for name, _ in model.named_buffers() if not _TRAINED.search(name)}
    classes, hints, places = {}, {}, {}
    names = list(model.state_dict())
    for name in names:
        split = name.split(".")
        kinds, said, place = [], [], None
        for i, piece in enumerate(split):
            module = modules.get(".".join(split[: i + 1]))
            kinds.append(type(module).__name__ if module is not None else "")
            key = keys.get(id(module.config)) if isinstance(module, PreTrainedModel) else None
            said.append(f"{piece}.{key}.{_input_of(module)}" if key else piece)
            above = modules.get(".".join(split[:i])) if i else None
            if (
                place is None
                and isinstance(above, nn.ModuleList)
                and next(module.children(), None) is not None
            ):
                place = i
        length = len(pieces(name))
        classes[name], hints[name], places[name] = kinds[:length], said[:length], place
    depth = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    return parts_of(names, classes, hints, places, depth, buffers)


def _input_of(module) -> str:
    """What a sub-model takes in, in the words of `naming`: an encoder of pixels is vision, whatever its name."""
    return {
        "pixel_values": "vision",
        "flattened_patches": "vision",
        "input_features": "audio",
        "input_values": "audio",
    }.get(getattr(module, "main_input_name", ""), "")
