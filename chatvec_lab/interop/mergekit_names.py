"""What a recipe of mergekit names: its keys, its models and where they lie; what is not known is refused by its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatvec_lab.reading import demand
from chatvec_lab.weights.checkpoint import Checkpoint

# sparsification, consensus by sign, normalize, rescale: mergekit 0.1.5's defaults
METHODS = {
    "task_arithmetic": (None, False, False, False),
    "ties": ("magnitude", True, True, False),
    "dare_ties": ("dare", True, False, True),
    "dare_linear": ("dare", False, False, True),
}
_KEYS = {"merge_method", "base_model", "models", "parameters", "dtype", "out_dtype", "tokenizer_source", "tokenizer",
         "chat_template"}  # fmt: skip
_PARAMETERS = {"weight", "density", "normalize", "rescale", "lambda", "int8_mask"}


def check_keys(config: Any) -> None:
    if not isinstance(config, Mapping) or "merge_method" not in config:
        raise ValueError("no mergekit recipe: expected a mapping with merge_method, base_model and models.")
    for key in ("slices", "modules"):
        if key in config:
            raise ValueError(
                f"{key}: is not supported: layers of different places have no common difference (chat - base). "
                "Write the recipe with models:, and layers through weight: [gradient] or filter:."
            )
    unknown = sorted(set(config) - _KEYS)
    if unknown:
        raise ValueError(
            f"unsupported in a recipe: {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}."
        )
    absent = type(None)
    shapes = {"merge_method": str, "base_model": (str, dict), "models": list, "parameters": (dict, absent),
              "dtype": (str, absent), "out_dtype": (str, absent), "tokenizer": (dict, absent),
              "tokenizer_source": (str, dict, absent), "chat_template": (str, absent)}  # fmt: skip
    demand(dict(config), {key: shape for key, shape in shapes.items() if config.get(key)}, "recipe")
    for place, entry in enumerate(config.get("models") or []):
        demand(entry, {"model": (str, dict)}, f"models, item {place}")
        demand(entry.get("parameters"), (dict, absent), f"models, item {place}, parameters")
    if not isinstance(config["merge_method"], str) or config["merge_method"] not in METHODS:
        raise ValueError(
            f"merge_method: {config['merge_method']} is not supported; a chat vector is a sum of weight differences, "
            f"so this runs {', '.join(METHODS)}."
        )
    if not config.get("base_model") or not config.get("models"):
        raise ValueError(f"merge_method: {config['merge_method']} needs base_model and models.")
    if config.get("chat_template") not in (None, "auto") and "{" not in str(config["chat_template"]):
        raise ValueError(
            f"chat_template: {config['chat_template']} names one of mergekit's own templates, which are not here. "
            "Leave it out: the chat model's template is carried over."
        )


def placed(tree: Any, folder: Path) -> Any:
    """The recipe with whole paths for the models that lie beside its file, since a relative path follows its file."""
    if isinstance(tree, list):
        return [placed(item, folder) for item in tree]
    if not isinstance(tree, Mapping):
        return tree
    names = ("base_model", "model", "path", "tokenizer_source", "source")
    return {
        key: _place(value, folder) if key in names and isinstance(value, str) else placed(value, folder)
        for key, value in tree.items()
    }


def _place(model: str, folder: Path) -> str:
    beside, here = folder / model, Path(model)
    if not beside.is_dir() and (folder / model.partition("@")[0]).is_dir() and "@" in model:
        raise ValueError(
            f"model {model!r}: {model.partition('@')[0]} is a folder, and a folder has no revision; leave it out."
        )
    if model in ("base", "union") or not beside.is_dir():
        return model
    if here.is_dir() and not here.samefile(beside):
        raise ValueError(
            f"model {model!r} is a folder beside the recipe ({beside}) and another one here ({here.resolve()}), which "
            "mergekit would take. Write a whole path."
        )
    return str(beside.resolve())


def checkpoint_of(reference: Any) -> Checkpoint:
    revision = None
    if isinstance(reference, Mapping):
        odd = sorted(set(reference) - {"model", "path", "revision"})
        if odd and any(reference[key] for key in odd):
            raise ValueError(
                f"{', '.join(odd)} of model {reference} is not supported; merge the adapter first."
            )
        inner = reference.get("model", reference)
        if isinstance(inner, Mapping):
            demand(inner, {"path": str}, "model")
            reference, revision = inner["path"], inner.get("revision")
        else:
            reference = inner
    reference = str(reference)
    if "+" in reference and not Path(reference).exists():
        raise ValueError(
            f"model {reference!r} has an adapter (model+lora), which is not supported; merge it first."
        )
    if "@" in reference and revision is None and not Path(reference).exists():
        reference, _, revision = reference.partition("@")
    return Checkpoint(reference, revision=revision)


def models_of(config: Mapping) -> tuple[Checkpoint, list[Checkpoint], list[Mapping]]:
    """base_model, the other models (base_model among them is dropped, as mergekit does), and their parameters."""
    base = checkpoint_of(config["base_model"])
    models, settings = [], []
    for entry in config["models"]:
        odd = sorted(set(entry) - {"model", "parameters"})
        if odd or "model" not in entry:
            raise ValueError(f"models: expected model and parameters, got {', '.join(sorted(entry))}.")
        own = entry.get("parameters") or {}
        for where, given in ((str(entry["model"]), own), ("parameters", config.get("parameters") or {})):
            unknown = sorted(set(given) - _PARAMETERS)
            if unknown:
                raise ValueError(
                    f"{where}: parameter {', '.join(unknown)} is not supported with merge_method: "
                    f"{config['merge_method']}; known are {', '.join(sorted(_PARAMETERS))}."
                )
        for name in ("normalize", "rescale", "lambda"):
            if name in own:
                hint = " Multiply the weight of the model instead." if name == "lambda" else ""
                raise ValueError(
                    f"{entry['model']}: {name} belongs under the recipe's own parameters; under a model mergekit "
                    f"ignores it without a word.{hint}"
                )
        model = checkpoint_of(entry["model"])
        if is_same(model, base):
            continue
        if any(is_same(model, other) for other in models):
            raise ValueError(f"model {model.label} is listed twice; add its weights up.")
        models.append(model)
        settings.append(own)
    if not models:
        raise ValueError("models lists nothing but base_model.")
    return base, models, settings


def is_same(a: Checkpoint, b: Checkpoint) -> bool:
    return os.path.realpath(a.source) == os.path.realpath(b.source) and a.revision == b.revision
