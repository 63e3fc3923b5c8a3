"""Vectors that other tools have made: the `residuals` package, and the official code of the paper.

Both are read in place and lazily, like our own; no pickle runs. What the formats lack (rows of the chat model, exact
differences, a tokenizer) is stated, not made up.
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType

import numpy as np

from chatvec_lab.weights.checkpoint import Checkpoint, read_json
from chatvec_lab.weights.layout import Layout, Part
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace, block_spans
from chatvec_lab.weights.sources.bin import bin_entries
from chatvec_lab.weights.sources.files import FLOATS, Stored, Tensors
from chatvec_lab.weights.sources.folder import Folder, open_folder
from chatvec_lab.weights.tokens.chat import ChatSide
from chatvec_lab.weights.tokens.vocabulary import Vocabulary
from chatvec_lab.weights.vector import Term, WeightVector

OFFICIAL = "pytorch_model.bin"


def _opened(folder: Path, tensors: Tensors) -> Checkpoint:
    """The files of a foreign vector, to be read like a checkpoint's."""
    return Checkpoint(folder, origin=Folder(folder, tensors))


class Foreign:
    """The leaf of a foreign vector: each tensor as it is stored, coefficient 1."""

    base = larger = None
    placed = left_out = MappingProxyType({})

    def __init__(
        self, stored: Checkpoint, label: str, format: str, names: list[str], vocabulary: Vocabulary | None
    ):
        self.files, self.label, self.format = stored, label, format
        self.names, self.vocabulary = names, vocabulary
        self.chat_side: ChatSide | None = None

    @cached_property
    def layout(self) -> Layout:
        own = {name: self.files.shape(name) for name in self.names}
        return Layout.of(self.files.config, list(own), own)

    @property
    def tied(self) -> dict[str, str]:
        return self.layout.tied

    def part(self, name: str) -> Part:
        return self.layout[name]

    def live_rows(self, name: str) -> None:
        return None  # these formats do not say

    def resolve(self, name: str) -> str | None:
        return self.layout.holder(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.files.shape(self.resolve(name) or name)

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        return [(1.0, work.fill(self.files, self.resolve(name), start, stop), None)]

    def describe(self) -> dict:
        return {"stored": self.label, "format": self.format}

    def sources(self) -> list[Checkpoint]:
        return [self.files]


def is_residuals(folder: Path) -> bool:
    """Whether a folder holds a vector of the `residuals` package."""
    return "residuals_version" in read_json(folder / "config.json")


def load_residuals(folder: str | Path) -> WeightVector:
    """The vector that `residuals` (0.3) stored with `save_pretrained`; headers and hashes are checked.

    Its elements are instruct - base as that tool rounded them (float32 by default). Template and end-of-turn token
    come from the tokenizer beside it; it keeps no rows of the instruct model, so none can be copied or appended.
    A head that equals the embedding bit for bit is taken as tied.

    Raises FileNotFoundError when the folder holds none, ValueError when config.json and weights do not agree.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    if "residuals_version" not in config:
        raise FileNotFoundError(
            f"{folder} holds no vector of the residuals package (no residuals_version in config.json)."
        )
    stored = _opened(folder, open_folder(folder))
    _check_hashes(stored, config)
    names, embedding = _weights(stored), stored.layout.embedding
    heads = [n for n in names if stored.layout[n].module == "head"]
    tied = {head for head in heads if embedding is not None and _equal(stored, head, embedding)}
    made_from = [config.get("instruct_model_name"), config.get("base_model_name")]
    label = " - ".join(Path(name).name if Path(name).is_absolute() else name for name in made_from if name)
    vocabulary = Vocabulary.from_folder(folder)
    leaf = Foreign(
        stored,
        label or folder.name,
        f"residuals {config['residuals_version']}",
        [n for n in names if n not in tied],
        vocabulary,
    )
    leaf.chat_side = _chat_side(stored, leaf.label, vocabulary)
    return WeightVector((Term(1.0, leaf),))


def _weights(model: Checkpoint) -> list[str]:
    return [n for n in model.names if model.dtype_name(n) in FLOATS and model.layout[n].module != "buffer"]


def _check_hashes(stored: Checkpoint, config: dict) -> None:
    names = sorted(stored.names)
    shapes = "|".join(f"{name}:{list(stored.shape(name))}" for name in names)
    for key, text in (("parameter_names_hash", "|".join(names)), ("shapes_hash", shapes)):
        if config.get(key) not in (None, hashlib.sha256(text.encode()).hexdigest()):
            raise ValueError(
                f"{stored.folder}: {key} of config.json does not fit the {len(names)} tensors beside it. "
                "The two are not of one download; get them again."
            )


def _equal(stored: Checkpoint, a: str, b: str) -> bool:
    if stored.shape(a) != stored.shape(b) or stored.dtype_name(a) != stored.dtype_name(b):
        return False
    return all(
        np.array_equal(stored.raw(a, *span), stored.raw(b, *span)) for span in block_spans(stored.shape(a))
    )


def _chat_side(stored: Checkpoint, label: str, vocabulary: Vocabulary | None) -> ChatSide | None:
    if not stored.chat_template or vocabulary is None:
        return None
    eos = stored.tokenizer_config.get("eos_token")
    eos = eos.get("content") if isinstance(eos, dict) else eos
    special = tuple(sorted(vocabulary.special, key=vocabulary.tokens.get))
    generation = {"eos_token_id": eos} if eos else {}
    return ChatSide(label, stored.chat_template, eos, generation, special, lambda tensor, token: None)


def is_official(folder: Path) -> bool:
    """Whether a folder holds a vector of the paper's own code: a .bin with chat_vector in it."""
    try:
        return bool(bin_entries(folder / OFFICIAL, "chat_vector"))
    except (ValueError, OSError):
        return False


def load_official(folder: str | Path, *, base: Checkpoint | None = None) -> WeightVector:
    """The vector in the `pytorch_model.bin` that the paper's extract_chat_vector.py wrote, without its defects.

    Its elements are chat - base as that code rounded them (to the dtype of the models). That file also holds
    `chat_embed` and `chat_lmhead`, which are the BASE model's rows although their names and its README say chat;
    they are not used, so copy_special copies nothing. With `base` this is checked bit for bit; `base` also gives the
    vocabulary for pairing rows by token, which the file lacks. (No template or tokenizer is in the file either.)

    Raises FileNotFoundError when the folder holds none, ValueError for a file that is damaged, runs code, or was cut
    short by the code's pairing of parameters by position (with `base`: any tensor that does not fit base's).
    Warns (UserWarning) about the rows.
    """
    folder = Path(folder)
    if not (folder / OFFICIAL).is_file():
        raise FileNotFoundError(f"{folder} holds no vector of the paper's code (no {OFFICIAL}).")
    stored = _opened(folder, Stored(bin_entries(folder / OFFICIAL, "chat_vector")))
    rows = Stored(bin_entries(folder / OFFICIAL))
    vocabulary = Vocabulary.from_folder(folder)
    found = ""
    if base is not None:
        _check_base(stored, base)
        found = _rows_of(_opened(folder, rows), base)
        vocabulary = vocabulary or base.vocabulary
    if rows.names:
        warnings.warn(
            f"{folder.name}: {', '.join(sorted(rows.names))} in {OFFICIAL} hold the BASE model's rows, not chat's "
            f"(a defect of extract_chat_vector.py){found}. They are not used; for the chat model's rows of special "
            "tokens make the vector from the models: Checkpoint(chat) - Checkpoint(base).",
            UserWarning,
            stacklevel=2,
        )
    return WeightVector(
        (Term(1.0, Foreign(stored, folder.name, "official chat vector", stored.names, vocabulary)),)
    )


def _check_base(stored: Checkpoint, base: Checkpoint) -> None:
    own = [n for n in _weights(base) if base.layout.published(n) not in base.layout.tied]
    lines = [f"{n}   in {base.label}, not in the vector" for n in own if n not in stored]
    lines += [f"{n}   in the vector, not in {base.label}" for n in stored.names if n not in own]
    lines += [
        f"{n}   {base.label} {base.shape(n)}, vector {stored.shape(n)}"
        for n in own
        if n in stored and base.shape(n) != stored.shape(n)
    ]
    if lines:
        raise ValueError(
            f"{stored.folder}: {len(lines)} of {len(own)} tensors do not fit {base.label}:\n  "
            + "\n  ".join(lines[:20])
            + "\nThe paper's code pairs parameters by position and drops what is left over. Make the vector again "
            "from the models: Checkpoint(chat) - Checkpoint(base)."
        )


def _rows_of(holder: Checkpoint, base: Checkpoint) -> str:
    found = []
    for name in holder.names:
        is_head = name == "chat_lmhead"
        tensor = (
            base.layout.head if is_head else None
        ) or base.layout.embedding  # a tied head is the embedding
        if tensor is not None and base.shape(tensor) == holder.shape(name):
            ours, theirs = exact.widen(base.raw(tensor)), exact.widen(holder.raw(name))
            found.append((name, np.array_equal(ours, theirs), prod(holder.shape(name))))
    if found and all(equal for _, equal, _ in found):
        return f"; checked here: all {sum(n for *_, n in found):,} elements are {base.label}'s"
    return (
        f"; here they are not {base.label}'s, so another base or another version of the code made them"
        if found
        else ""
    )


def load_foreign(folder: Path) -> WeightVector | None:
    """The vector of either format, or None when the folder holds neither."""
    if is_residuals(folder):
        return load_residuals(folder)
    return load_official(folder) if is_official(folder) else None
