"""A folder of the PEFT library as a checkpoint: its base, and what a LoRA or DoRA adds to it.

W + scale * (B @ A) in float64, scale = alpha / r (rsLoRA: alpha / sqrt(r)), DoRA's rows brought to the magnitudes that it
stores. Modules that were trained whole, and tables with rows for added tokens, take the place of the base's. Every other
kind of adapter, and every setting that is not known here, is refused by name.
"""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatvec_lab.weights.sources.beside import ADAPTER, TOKENIZER_FILES, copy_companion, sort_companions
from chatvec_lab.weights.sources.files import read_json
from chatvec_lab.weights.sources.folder import Folder, sets_of_weights
from chatvec_lab.weights.tokens.rows import with_rows

if TYPE_CHECKING:
    from chatvec_lab.weights.sources.lora import LoRA
    from chatvec_lab.weights.sources.source import Source


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model beside it."""
    has_weights = any((folder / f"adapter_model.{kind}").is_file() for kind in ("safetensors", "bin"))
    return (folder / ADAPTER).is_file() and has_weights and not sets_of_weights(folder)


class Adapter:
    """An adapter on its base, as one source. Opening it reads nothing; its base is opened when it is needed.

    `name` is what it is called, its hub id for one of the hub; `is_sparse`: few rows of the base are to be read, by
    ranges where a hub has it.
    """

    refused = ""

    def __init__(self, path: Path, name: str | None = None, is_sparse: bool = False):
        self.path, self.name, self.is_sparse = path.resolve(), name or path.resolve().name, is_sparse

    def __reduce__(self):
        return Adapter, (self.path, self.name, self.is_sparse)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return read_json(self.path / ADAPTER)

    @property
    def label(self) -> str:
        """Its name and that of its base. Opens neither."""
        named = self._settings.get("base_model_name_or_path")
        base = self._base_folder.name if self._base_folder else named or "no base"
        return f"{self.name} (adapter on {base})"

    @cached_property
    def _base_folder(self) -> Path | None:
        """The folder that the adapter names as its base: where it says, in it or beside it; None for a hub id."""
        named = self._settings.get("base_model_name_or_path")
        if not isinstance(named, str) or not named:
            return None
        places = (Path(named), self.path / named, self.path.parent / named)
        return next((p.resolve() for p in places if p.is_dir() and p.resolve() != self.path), None)

    @cached_property
    def base(self) -> Source:
        """The model that the adapter names; FileNotFoundError where it is not to be had."""
        from chatvec_lab.weights.sources.source import open_source

        named, revision = self._settings.get("base_model_name_or_path"), self._settings.get("revision")
        if not isinstance(named, str) or not named:
            raise ValueError(
                f"{self.path / ADAPTER} names no base model (base_model_name_or_path). Write its folder or hub id there."
            )
        if self._base_folder:
            return open_source(str(self._base_folder))
        from chatvec_lab.weights.sources.hub import remote

        try:
            found = (remote(named, revision) if self.is_sparse else None) or open_source(named, revision)
            _ = found.tensors
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.path} holds an adapter ({self._settings.get('peft_type')}) for {named}, which is not to be had "
                f"({error}). Put that model there, or write where it is into base_model_name_or_path of {ADAPTER}."
            ) from error
        return found

    @cached_property
    def tensors(self) -> LoRA:
        from chatvec_lab.weights.sources.lora import LoRA

        if self.base.refused:
            raise ValueError(self.base.refused)
        return LoRA(self.path, self._settings, self.base.tensors, self.base.config)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The base's, with the rows that the adapter's tables have."""
        return with_rows(self.base.config, self.tensors.grown)

    @cached_property
    def _beside(self) -> Folder:
        """What lies beside the weights: the adapter's own tokenizer where it has one, and the base's files."""
        own = Folder(self.path, self.tensors)
        return own if own.vocabulary is not None else self.base

    @property
    def vocabulary(self):
        return self._beside.vocabulary

    @property
    def tokenizer_config(self) -> dict[str, Any]:
        return self._beside.tokenizer_config

    @property
    def chat_template(self) -> str | None:
        return self._beside.chat_template

    @property
    def generation_config(self) -> dict[str, Any]:
        return Folder(self.path, self.tensors).generation_config or self.base.generation_config

    def open_tokenizer(self):
        return self._beside.open_tokenizer()

    @cached_property
    def folder(self) -> Path:
        """A temporary folder with the companions of both, the adapter's before the base's; it lives as long as this."""
        import json

        self._temporary = tempfile.TemporaryDirectory(prefix="chatvec_lab-adapter-")
        folder = Path(self._temporary.name)
        own = sort_companions(self.path)[0]
        replaces = self._beside is not self.base
        for file in sort_companions(self.base.folder)[0]:
            if not (replaces and file.name in TOKENIZER_FILES):
                copy_companion(file, folder)
        for file in own:
            copy_companion(file, folder)
        for name, facts in (("config.json", self.config), ("generation_config.json", self.generation_config)):
            if facts:
                (folder / name).write_text(json.dumps(facts, indent=2), "utf-8")
        return folder
