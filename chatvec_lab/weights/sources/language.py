"""The language part of a larger model as a source of its own: the text tensors under the names of the text family.

    model.language_model.layers.0.mlp.up_proj.weight   newer names; the path "language_model" is taken out
    language_model.model.layers.0.mlp.up_proj.weight   older names and LLaVA; the same path
    model.layers.0.mlp.up_proj.weight                  Qwen2-VL as published; nothing to take out

Towers, projectors and what else is no text are left out. `within` is the other direction.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Hashable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatvec_lab.weights.layout import Layout
from chatvec_lab.weights.layout.familiar import FAMILIES
from chatvec_lab.weights.layout.naming import list_place, pieces
from chatvec_lab.weights.sources.beside import copy_companion, sort_companions
from chatvec_lab.weights.sources.files import Tensors, no_such

if TYPE_CHECKING:
    from chatvec_lab.weights.sources.source import Source

# text parts without a class of their own in transformers, and the family whose names and arithmetic they have: for text
# alone their three positions of a token are one, which is the plain rotation
_SAME_AS = {
    "qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_5_vl_text": "qwen2",
    "qwen3_vl": "qwen3", "qwen3_vl_text": "qwen3",
}  # fmt: skip
_INNER = ("text_config", "llm_config", "language_config")  # where configs keep that of the language part
_OTHERS = re.compile(r"vision|visual|image|video|audio|speech|projector|processor|mm_")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_IS_LANGUAGE = re.compile(r"language|^text|llm")


class LanguagePart:
    """The language part of another source (see the module). Opening it reads nothing.

    `path` is taken out of the larger model's names; None finds it. Raises ValueError, when headers are read, for a
    model whose text has no layers, and for a path that leaves two tensors under one name.
    """

    def __init__(self, whole: Source, path: str | None = None):
        self.whole, self._path = whole, None if path is None else path.strip(".")

    def __reduce__(self):
        return LanguagePart, (self.whole, self._path)

    @property
    def label(self) -> str:
        return f"{self.whole.label} (language part)"

    @property
    def path(self) -> Path:
        return self.whole.path

    @property
    def refused(self) -> str:
        return self.whole.refused

    @cached_property
    def _layout(self) -> Layout:
        tensors = self.whole.tensors
        return Layout.of(
            self.whole.config, tensors.names, {name: tensors.shape(name) for name in tensors.names}
        )

    @cached_property
    def tensors(self) -> Renamed:
        text = [name for name, part in self._layout.parts.items() if part.component in ("text", "draft")]
        turned = sorted(self._layout.turned.intersection(text))
        if turned:
            raise ValueError(
                f"{self.label}: {len(turned)} tensors, such as {turned[0]}, are turned or cut by {self._layout.source} when it "
                "loads them, so that they are not the tensors of these names in a text model. Load the model with "
                "transformers and save its language model alone."
            )
        published = {name: self._layout.published(name) for name in text}
        path = self._found_path(published.values()) if self._path is None else self._path
        names: dict[str, str] = {}
        for stored, name in published.items():
            inner = without(name, path)
            if inner in names:
                raise ValueError(
                    f"{self.label}: without {path!r} both {names[inner]} and {stored} are called {inner}. Give the path of "
                    "the language part, such as 'language_model'."
                )
            names[inner] = stored
        return Renamed(self.whole.tensors, names)

    def _found_path(self, names) -> str:
        for name in names:
            split = pieces(name)
            place = list_place(split)
            if place is not None:
                return ".".join(piece for piece in split[: place - 1] if _IS_LANGUAGE.search(piece))
        raise ValueError(f"{self.whole.label} has no layers of text, so it has no language part.")

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json of the text family, as the larger model's says it."""
        return text_config(self.whole.config, is_tied=self._layout.is_tied)

    @property
    def vocabulary(self):
        return self.whole.vocabulary

    @property
    def tokenizer_config(self) -> dict[str, Any]:
        return self.whole.tokenizer_config

    @property
    def chat_template(self) -> str | None:
        return self.whole.chat_template

    @property
    def generation_config(self) -> dict[str, Any]:
        return self.whole.generation_config

    def open_tokenizer(self):
        return self.whole.open_tokenizer()

    @cached_property
    def folder(self) -> Path:
        """A temporary folder with the companions that a text model has; it lives as long as this."""
        self._temporary = tempfile.TemporaryDirectory(prefix="chatvec_lab-language-")
        folder = Path(self._temporary.name)
        for file in sort_companions(self.whole.folder)[0]:
            if file.name not in _PROCESSORS:
                copy_companion(file, folder)
        for name, facts in (("config.json", self.config), ("generation_config.json", self.generation_config)):
            if facts:
                (folder / name).write_text(json.dumps(facts, indent=2), "utf-8")
        return folder


class Renamed:
    """Some of another source's tensors under other names (see `Tensors`); `names` maps each to its stored one."""

    def __init__(self, tensors: Tensors, names: Mapping[str, str]):
        self._tensors, self._names = tensors, dict(names)

    def __reduce__(self):
        return Renamed, (self._tensors, self._names)

    @property
    def note(self) -> str:
        return self._tensors.note

    @property
    def names(self) -> list[str]:
        return list(self._names)

    def _stored(self, name: str) -> str:
        if name not in self._names:
            raise KeyError(no_such(name, self._names))
        return self._names[name]

    def dtype(self, name: str) -> str:
        return self._tensors.dtype(self._stored(name))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors.shape(self._stored(name))

    def file(self, name: str) -> str:
        return self._tensors.file(self._stored(name))

    def place(self, name: str) -> Hashable:
        return self._tensors.place(self._stored(name))

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        return self._tensors.fill(self._stored(name), start, stop, out)

    def quantised(self, name: str) -> str:
        return self._tensors.quantised(self._stored(name))

    def stored_dtype(self, name: str) -> str:
        return self._tensors.stored_dtype(self._stored(name))

    def noise(self, name: str, start: int, stop: int) -> float:
        return self._tensors.noise(self._stored(name), start, stop)

    def fingerprint(self) -> str:
        return f"{self._tensors.fingerprint()} {sorted(self._names.items())}"

    def check(self) -> None:
        self._tensors.check()


def without(name: str, path: str) -> str:
    """A name with the first occurrence of the path taken out; the name itself where it does not occur.

    >>> without("model.language_model.layers.0.mlp.up_proj.weight", "language_model")
    'model.layers.0.mlp.up_proj.weight'
    """
    parts, gone = name.split("."), path.split(".") if path else []
    for at in range(len(parts) - len(gone)):
        if gone and parts[at : at + len(gone)] == gone:
            return ".".join(parts[:at] + parts[at + len(gone) :])
    return name


def text_config(config: Mapping[str, Any], *, is_tied: bool) -> dict[str, Any]:
    """The config of the text family that a larger model's config holds, in a dict of its own or among its own keys.

    >>> inner = {"model_type": "qwen3_vl_text", "rope_parameters": {"rope_theta": 1e6, "mrope_section": [2, 1, 1]}}
    >>> found = text_config({"model_type": "qwen3_vl", "text_config": inner}, is_tied=False)
    >>> found["architectures"], found["rope_parameters"]
    (['Qwen3ForCausalLM'], {'rope_theta': 1000000.0})
    """
    inner = next((config[key] for key in _INNER if isinstance(config.get(key), dict)), None)
    if inner is None:
        inner = {k: v for k, v in config.items() if not _OTHERS.search(k) and k != "auto_map"}
    found = dict(inner)
    for key in ("dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id"):
        if found.get(key) is None and config.get(key) is not None:
            found[key] = config[key]
    kind = found.get("model_type")
    if kind is not None:
        found["model_type"] = _SAME_AS.get(kind, kind)
    found["tie_word_embeddings"] = is_tied
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(found.get(key), dict):
            found[key] = _plain(found[key])
    found["architectures"] = _class_of(found)
    return {key: value for key, value in found.items() if value is not None}


def _plain(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rotary settings without what spreads a position over time, height and width."""
    kept = {k: v for k, v in rope.items() if not k.startswith("mrope")}
    kept = {k: v for k, v in kept.items() if not (k in ("type", "rope_type") and v == "mrope")}
    return kept or None


def _class_of(config: Mapping[str, Any]) -> list[str] | None:
    """The class of the text alone; None where neither the config nor transformers names one."""
    kind, named = config.get("model_type"), config.get("architectures")
    if kind in FAMILIES:
        return [FAMILIES[kind].kind]
    if named and str(named[0]).endswith("ForCausalLM"):
        return list(named)
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    return [known] if isinstance(known, str) else None
