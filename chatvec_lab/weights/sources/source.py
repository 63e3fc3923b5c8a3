"""What a checkpoint is opened from: a folder, a GGUF file, or a hub id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

from chatvec_lab.secrets import shown_address
from chatvec_lab.weights.sources.adapter import Adapter, is_adapter
from chatvec_lab.weights.sources.files import Tensors
from chatvec_lab.weights.sources.folder import Folder
from chatvec_lab.weights.sources.gguf import GGUF
from chatvec_lab.weights.sources.hub import Hub
from chatvec_lab.weights.tokens.vocabulary import Vocabulary


class Source(Protocol):
    """Tensors, and what lies beside them. Opening one reads nothing; each attribute is read when it is asked for."""

    @property
    def label(self) -> str: ...  # the hub id, or the file's or folder's own name, never a machine's path
    @property
    def folder(self) -> Path: ...  # where config and tokenizer lie as files
    @property
    def path(
        self,
    ) -> Path: ...  # the folder or file that holds everything: what two models with one label differ in
    @property
    def tensors(self) -> Tensors: ...
    @property
    def refused(self) -> str: ...  # why the weights are not read, in words; "" for all others
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def vocabulary(self) -> Vocabulary | None: ...
    @property
    def tokenizer_config(self) -> dict[str, Any]: ...
    @property
    def generation_config(self) -> dict[str, Any]: ...
    @property
    def chat_template(self) -> str | None: ...
    def open_tokenizer(self): ...


def open_source(source: str, revision: str | None = None) -> Source:
    """The source behind a path or hub id; FileNotFoundError for what is neither."""
    path = Path(source)
    if source.endswith(".gguf"):
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {source!r}. A GGUF of the hub is downloaded first: hf download."
            )
        if revision is not None:
            raise ValueError(f"{source} is a file; it has no revision {revision!r}.")
        return GGUF(path)
    if path.is_dir():
        return Adapter(path) if is_adapter(path) else Folder(path)
    if looks_like_hub_id(source):
        return Hub(source, revision)
    raise FileNotFoundError(
        f"no folder {shown_address(source) if '://' in source else source!r}, and it is no hub id of the form "
        "'owner/name' either. Give a folder that holds config.json and weights, or a hub id."
    )


def looks_like_hub_id(source: str) -> bool:
    """Whether a text is an id of the hub's and no path here."""
    return is_hub_id(source) and not Path(source).exists()


def is_hub_id(text: str) -> bool:
    """Whether the hub could have a model of this name: "owner/name", by its own rules for names.

    >>> [is_hub_id(text) for text in ("meta-llama/Llama-2-7b", "../x", "a/..", "/a", "a/b/c", "a/-b", "~/x")]
    [True, False, False, False, False, False, False]
    """
    is_formed = re.fullmatch(r"\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", text, re.ASCII)
    return bool(is_formed) and not re.search(r"--|\.\.|\.git$", text)
