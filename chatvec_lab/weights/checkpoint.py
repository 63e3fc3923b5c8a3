"""A checkpoint as named tensors that are read lazily, from a local folder, a GGUF file or a hub id.

It *has* a source (`sources/`), which knows where the tensors lie and what is beside them. Nothing is mapped and nothing
is kept: each read goes from the file into the caller's buffer.
"""

from __future__ import annotations

import os
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatvec_lab.weights.layout import Layout
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.sources.files import Tensors, read_json
from chatvec_lab.weights.sources.hub import remote
from chatvec_lab.weights.sources.source import Source, looks_like_hub_id, open_source
from chatvec_lab.weights.tokens.vocabulary import Policy, Vocabulary

if TYPE_CHECKING:
    import torch

    from chatvec_lab.weights.merged import MergedCheckpoint
    from chatvec_lab.weights.vector import WeightVector

__all__ = ["Checkpoint", "read_json"]


class Checkpoint:
    """A model's stored weights. `source` is a folder, a .gguf file or a hub id, `revision` a branch, tag or commit.

    Nothing is read (and nothing downloaded) before it is needed. safetensors are preferred; `pytorch_model*.bin`
    are read without running their pickle. Subtract two checkpoints for a vector, add a vector for a merged one.

    Raises FileNotFoundError for a path that does not exist; damaged files are named when headers are read.
    """

    def __init__(
        self, source: str | os.PathLike, *, revision: str | None = None, origin: Source | None = None
    ):
        self.source = os.fspath(source)
        self.revision = revision
        self.origin = origin or open_source(self.source, revision)

    def __repr__(self) -> str:
        return f"Checkpoint({self.source!r}{f', revision={self.revision!r}' if self.revision else ''})"

    @property
    def label(self) -> str:
        """How reports and model cards call it: the hub id, or the folder's own name (never a machine's path)."""
        return self.origin.label

    @property
    def folder(self) -> Path:
        """The local folder of config and tokenizer; a hub id is downloaded, or found in the cache."""
        return self.origin.folder

    @property
    def path(self) -> Path:
        """The folder, or the GGUF file, that holds the model."""
        return self.origin.path

    @cached_property
    def tensors(self) -> Tensors:
        """Where the tensors come from. Reads headers only; ValueError for what is no model.

        A quantised model's tensors come as the floats that they stand for (`note` says so); a format that is not known
        is refused by name.
        """
        if self.origin.refused:
            raise ValueError(self.origin.refused)
        return self.origin.tensors

    @property
    def note(self) -> str:
        """What a reader must know of the tensors: "" or, of a GGUF file, "dequantised from Q8_0"."""
        return self.tensors.note

    @property
    def names(self) -> list[str]:
        """Stored tensor names in file order. A tied head that is not stored is not listed (see `resolve`)."""
        return self.tensors.names

    def __contains__(self, name: str) -> bool:
        return name in self._known

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def resolve(self, name: str) -> str | None:
        """The stored tensor that plays the part of `name`: a head that is not stored is the (tied) embedding."""
        return self.layout.holder(name)

    @cached_property
    def layout(self) -> Layout:
        """What each stored tensor is. Reads headers and config.json only."""
        return Layout.of(self.config, self.names, {name: self.shape(name) for name in self.names})

    @cached_property
    def is_tied(self) -> bool:
        """True when head and embedding are one: by the model's class and config, or by shared storage.

        A head that is merely absent is not tied: see `lacking`.
        """
        head, embedding = self.layout.head, self.layout.embedding
        is_shared = head and embedding and self.tensors.place(head) == self.tensors.place(embedding)
        return self.layout.is_tied or bool(is_shared)

    @cached_property
    def lacking(self) -> str:
        """What the model needs and its files lack, in words, and what to do; "" when they are whole."""
        lacks, head, wrapper = self.layout.lacks, self.layout.lacks_head, self.layout.wrapper
        if wrapper:
            return (
                f"its tensors are named {wrapper!r} before their own names, as a wrapper of its training had them, so that "
                "transformers would find none and make all up at random. Take the model out of the wrapper and save it again"
            )
        if not lacks:
            return ""
        kind = (self.config.get("architectures") or ["the model"])[0]
        if lacks == [head]:
            return (
                f"{head} is not stored, and config.json does not tie it to the embedding (tie_word_embeddings): "
                f"{kind} would make up its head at random. Download or copy the file that holds it"
            )
        more = f" and {len(lacks) - 8} more" if len(lacks) > 8 else ""
        return (
            f"{', '.join(lacks[:8])}{more} {'is' if len(lacks) == 1 else 'are'} not stored, and {kind} would make "
            f"{'it' if len(lacks) == 1 else 'them'} up at random. Download or copy the file "
            "that holds it"
        )

    def shape(self, name: str) -> tuple[int, ...]:
        return self._asked(self.tensors.shape, name)

    def file(self, name: str) -> str:
        """The name of the file that holds a tensor: a save keeps the sharding."""
        return self._asked(self.tensors.file, name)

    def _asked(self, method, name: str):
        try:
            return method(name)
        except KeyError as error:
            raise KeyError(f"{self.label} has {error.args[0]}") from None

    def dtype_name(self, name: str) -> str:
        """The stored dtype in torch's words ("bfloat16"), without importing torch."""
        return self._asked(self.tensors.dtype, name)

    def quantised(self, name: str) -> str:
        """From which format a tensor is dequantised; "" for one that is stored whole."""
        return self._asked(self.tensors.quantised, name)

    def noise(self, name: str, start: int, stop: int) -> float:
        """The sum of squares that quantisation is expected to have taken from these elements; 0.0 for whole ones."""
        return self._asked(lambda name: self.tensors.noise(name, start, stop), name)

    def written_dtype(self, name: str) -> str:
        """The dtype in which a merge into this checkpoint stores a tensor: its own; if dequantised, the config's."""
        stored = self._asked(self.tensors.stored_dtype, name)
        if not self.quantised(name):
            return stored
        told = [self.config, self.config.get("text_config") or {}]
        told = [str(config.get(key)) for config in told for key in ("dtype", "torch_dtype")]
        return next((name.removeprefix("torch.") for name in told if name.removeprefix("torch.") in files.FLOATS),
                    "float32")  # fmt: skip

    def nbytes(self, name: str) -> int:
        """The bytes that a tensor takes as it is read here (dequantised, of a quantised model)."""
        return prod(self.shape(name)) * files.NUMPY_DTYPES[self.dtype_name(name)].itemsize

    def dtype(self, name: str) -> torch.dtype:
        import torch

        return getattr(torch, self.dtype_name(name))

    @property
    def config(self) -> dict[str, Any]:
        """config.json as a dict; empty when the folder has none."""
        return self.origin.config

    @cached_property
    def tokenizer(self):
        """The transformers tokenizer. Raises FileNotFoundError when the folder has none."""
        return self.origin.open_tokenizer()

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The tokens and their rows; None when the folder has no tokenizer of any kind."""
        return self.origin.vocabulary

    @property
    def tokenizer_config(self) -> dict[str, Any]:
        return self.origin.tokenizer_config

    @property
    def generation_config(self) -> dict[str, Any]:
        return self.origin.generation_config

    @property
    def chat_template(self) -> str | None:
        """The Jinja text that turns a conversation into a prompt; None for models without one."""
        return self.origin.chat_template

    def fingerprint(self) -> list:
        """What identifies the weights without reading them: headers, sizes and times of files, and the tokens."""
        tokens = self.vocabulary.digest if self.vocabulary else ""
        return [self.label, tokens, self.tensors.fingerprint()]

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        """Read the flat elements [start, stop) into `out`, a raw array of at least that length; returns the view."""
        return self._asked(lambda name: self.tensors.fill(name, start, stop, out), name)

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The flat elements [start, stop) as a new raw array (bfloat16 as uint16, bool as uint8)."""
        stop = prod(self.shape(name)) if stop is None else stop
        return self.fill(name, start, stop, np.empty(stop - start, files.NUMPY_DTYPES[self.dtype_name(name)]))

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """One tensor, or the `rows` slice of its first axis, in its stored dtype, as memory of its own.

        Raises KeyError (with the nearest name) for a tensor that is not stored.
        """
        import torch

        shape = self.shape(name)
        if rows is not None and not shape:
            raise ValueError(f"{name!r} is a scalar: it has no rows to slice.")
        start, stop, step = (rows or slice(None)).indices(shape[0] if shape else 1)
        if step != 1:
            raise ValueError(f"rows={rows!r}: only slices with step 1 are read.")
        stop, width = max(start, stop), prod(shape[1:])
        tensor = torch.empty((stop - start, *shape[1:]) if shape else (), dtype=self.dtype(name))
        if tensor.numel():
            flat = (
                tensor.reshape(-1).view(torch.uint8).numpy().view(files.NUMPY_DTYPES[self.dtype_name(name)])
            )
            self.fill(name, start * width, stop * width, flat)
        return tensor

    def __getstate__(self):
        return {"source": self.source, "revision": self.revision, "origin": self.origin}

    def __setstate__(self, state):
        self.__init__(**state)

    def __sub__(self, other: Checkpoint) -> WeightVector:
        from chatvec_lab.weights.vector import difference

        return difference(self, other) if isinstance(other, Checkpoint) else NotImplemented

    def minus(self, base: Checkpoint, *, allow_mixed: bool = False) -> WeightVector:
        """`self - base`, also where one of the two is quantised and the other is not, or otherwise (`allow_mixed`)."""
        from chatvec_lab.weights.vector import difference

        return difference(self, base, allow_mixed=allow_mixed)

    def __add__(self, vector: WeightVector) -> MergedCheckpoint:
        from chatvec_lab.weights.vector import WeightVector

        return self.add(vector) if isinstance(vector, WeightVector) else NotImplemented

    def language_part(self, path: str | None = None) -> Checkpoint:
        """The text of a larger model, such as LLaVA, as a checkpoint under the names of its text family.

        `cp + (vlm_chat.language_part() - vlm_base.language_part())` takes a vector out of vision-language models;
        `tau.within(vlm)` puts one into them. `path` is taken out of the names; None finds it. Nothing is read yet.
        """
        from chatvec_lab.weights.sources.language import LanguagePart

        return Checkpoint(self.source, revision=self.revision, origin=LanguagePart(self.origin, path))

    def like(self, other: Checkpoint) -> Checkpoint:
        """This model in the pieces in which `other`, of its family, is stored; itself where the two are stored alike.

        Experts stacked or one by one, q, k and v in one or apart, InternLM2 and ChatGLM by the names of transformers:
        `cp + (chat.like(cp) - base.like(cp))`. Element for element; reads headers alone. What `other` lacks stays as it is.
        """
        from chatvec_lab.weights.sources.forms import Formed, differ

        if not differ(self.origin, other.origin):
            return self
        return Checkpoint(self.source, revision=self.revision, origin=Formed(self.origin, other.origin))

    def add(
        self,
        vector: WeightVector,
        *,
        vocabulary: Policy = "match",
        copy_special: bool = False,
        add_tokens: bool = False,
        allow_mixed: bool = False,
    ) -> MergedCheckpoint:
        """`self + vector` with its options spelled out; nothing is read yet.

        `vocabulary`: "match" pairs embedding and head rows by token string; "skip" leaves both alone (the paper's
        footnote 14, for Breeze); "strict" demands one and the same vocabulary. `copy_special`: special tokens that
        the CP never trained (row equal to the base's, bit for bit) take the chat model's own row. `add_tokens`:
        tokens that the chat template needs and the CP lacks are appended to embedding, head and tokenizer.
        `allow_mixed`: some members are quantised and others not, and that is meant.
        """
        from chatvec_lab.weights.merged import MergedCheckpoint

        return MergedCheckpoint(
            self, vector, vocabulary=vocabulary, copy_special=copy_special, add_tokens=add_tokens,
            allow_mixed=allow_mixed,
        )  # fmt: skip


def sparsely(checkpoint: Checkpoint) -> Checkpoint:
    """The same model, for reading few of its rows: a hub id that is not in the cache is read by ranges.

    Folders, models in the cache, and models without safetensors (which must be downloaded) come back as they are.
    """
    if type(checkpoint) is not Checkpoint or not looks_like_hub_id(checkpoint.source):
        return checkpoint
    origin = remote(checkpoint.source, checkpoint.revision)
    return (
        checkpoint
        if origin is None
        else Checkpoint(checkpoint.source, revision=checkpoint.revision, origin=origin)
    )
