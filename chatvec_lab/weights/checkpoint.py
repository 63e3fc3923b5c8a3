"""A checkpoint as named tensors that are read lazily, from a local folder or a hub id.

Nothing is mapped and nothing is kept: each read is a `pread` of the asked elements into the caller's buffer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatvec_lab.weights.layout import Layout, has_vocabulary_axis, is_head
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.vocabulary import Policy, Vocabulary

if TYPE_CHECKING:
    import torch

    from chatvec_lab.weights.merged import MergedCheckpoint
    from chatvec_lab.weights.vector import WeightVector


class Checkpoint:
    """A model's stored weights. `source` is a folder, a .gguf file or a hub id, `revision` a branch, tag or commit.

    Nothing is read (and nothing downloaded) before it is needed. safetensors are preferred; `pytorch_model*.bin`
    are read without running their pickle. Subtract two checkpoints for a vector, add a vector for a merged one.

    Raises FileNotFoundError for a path that does not exist; damaged files are named when headers are read.
    """

    quantisation = ""  # the block formats of a GGUF source, which is dequantised

    def __new__(cls, source: object = None, *_, **__):
        if cls is Checkpoint and str(source).endswith(".gguf"):
            from chatvec_lab.weights.sources.gguf import GGUF

            return super().__new__(GGUF)
        return super().__new__(cls)

    def __init__(self, source: str | os.PathLike, *, revision: str | None = None):
        self.source = os.fspath(source)
        self.revision = revision
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()
        if not Path(self.source).is_dir() and not _looks_like_hub_id(self.source):
            raise FileNotFoundError(
                f"no folder {self.source!r}, and it is no hub id of the form 'owner/name' either. "
                "Give a folder that holds config.json and weights, or a hub id."
            )

    def __repr__(self) -> str:
        return f"Checkpoint({self.source!r}{f', revision={self.revision!r}' if self.revision else ''})"

    @property
    def label(self) -> str:
        """How reports and model cards call it: the hub id, or the folder's own name (never a machine's path)."""
        return Path(self.source).resolve().name if Path(self.source).is_dir() else self.source

    @cached_property
    def folder(self) -> Path:
        """The local folder; a hub id is downloaded, or found in the cache."""
        if Path(self.source).is_dir():
            return Path(self.source).resolve()
        return _download(self.source, self.revision)

    @cached_property
    def entries(self) -> dict[str, files.Entry]:
        """Name to stored place, in file order. Reads headers only."""
        entries = find_entries(self.folder)
        if "chat_embed" in entries or "residuals_version" in read_json(self.folder / "config.json"):
            raise ValueError(
                f"{self.folder} holds a weight vector of another tool, not a model: open it with WeightVector.load."
            )
        return entries

    @property
    def names(self) -> list[str]:
        """Stored tensor names in file order. A tied head that is not stored is not listed (see `resolve`)."""
        return list(self.entries)

    def resolve(self, name: str) -> str | None:
        """The stored tensor that plays the part of `name`: a head that is not stored is the (tied) embedding."""
        return self.layout.holder(name)

    @cached_property
    def layout(self) -> Layout:
        """What each stored tensor is. Reads headers and config.json only."""
        return Layout.of(self.config, self.names, {name: self.shape(name) for name in self.names})

    @cached_property
    def is_tied(self) -> bool:
        """True when head and embedding are one: by config, by shared storage, or because no head is stored."""
        heads = [e for n, e in self.entries.items() if is_head(n) and n.endswith("weight")]
        embeddings = [e for n, e in self.entries.items() if has_vocabulary_axis(n) and not is_head(n)]
        shared = any((h.file, h.offset) == (e.file, e.offset) for h in heads for e in embeddings)
        return not heads or shared or bool(self.config.get("tie_word_embeddings"))

    def _entry(self, name: str) -> files.Entry:
        if name not in self.entries:
            import difflib

            near = difflib.get_close_matches(name, self.entries, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise KeyError(f"{self.label} has no tensor {name!r}.{hint}")
        return self.entries[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype_name(self, name: str) -> str:
        """The stored dtype in torch's words ("bfloat16"), without importing torch."""
        return self._entry(name).dtype

    def dtype(self, name: str) -> torch.dtype:
        import torch

        return getattr(torch, self.dtype_name(name))

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json as a dict; empty when the folder has none."""
        return read_json(self.folder / "config.json")

    @cached_property
    def tokenizer(self):
        """The transformers tokenizer. Raises FileNotFoundError when the folder has none."""
        if self.vocabulary is None:
            raise FileNotFoundError(f"{self.label} has no tokenizer (no tokenizer.json or tokenizer.model).")
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        # a class of the model type's own (Qwen2's, say) would silently replace what tokenizer.json says
        named = self.tokenizer_config.get("tokenizer_class")
        is_plain = named in ("TokenizersBackend", "PreTrainedTokenizerFast")
        return (PreTrainedTokenizerFast if is_plain else AutoTokenizer).from_pretrained(self.folder)

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        return Vocabulary.from_folder(self.folder)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        return read_json(self.folder / "tokenizer_config.json")

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        return read_json(self.folder / "generation_config.json")

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja text that turns a conversation into a prompt; None for models without one."""
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text("utf-8")
        stored = self.tokenizer_config.get("chat_template")
        if stored is None:  # older vision-language models keep it beside the processor
            stored = read_json(self.folder / "chat_template.json").get("chat_template")
        if isinstance(stored, list):  # several named templates
            return {item["name"]: item["template"] for item in stored}.get("default")
        return stored

    def fingerprint(self) -> list:
        """What identifies the weights without reading them: files with their sizes and times, and the tokens."""
        stored = sorted({entry.file for entry in self.entries.values()})
        tokens = sorted(self.vocabulary.tokens.items()) if self.vocabulary else []
        digest = hashlib.sha256(json.dumps(tokens).encode()).hexdigest()
        return [str(self.folder), digest, [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in stored]]

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        """Read the flat elements [start, stop) into `out`, a raw array of at least that length; returns the view."""
        entry = self._entry(name)
        view = out[: stop - start]
        item = view.itemsize
        data = memoryview(view).cast("B")
        offset, done = entry.offset + start * item, 0
        while done < len(data):
            count = os.preadv(self._open(entry.file), [data[done:]], offset + done)
            if count == 0:
                raise OSError(f"{entry.file} ended while {name!r} was being read; was it changed meanwhile?")
            done += count
        return view

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

    def _open(self, path: Path) -> int:
        handle = self._files.get(path)
        if handle is None:
            with self._lock:
                if path not in self._files:
                    self._files[path] = os.open(path, os.O_RDONLY)
                handle = self._files[path]
        return handle

    def __del__(self):
        for handle in getattr(self, "_files", {}).values():
            os.close(handle)

    def __getstate__(self):
        return {"source": self.source, "revision": self.revision}

    def __setstate__(self, state):
        self.__init__(state["source"], revision=state["revision"])

    def __sub__(self, other: Checkpoint) -> WeightVector:
        from chatvec_lab.weights.vector import difference

        if not isinstance(other, Checkpoint):
            return NotImplemented
        if self.quantisation or other.quantisation:
            from chatvec_lab.weights.sources.gguf import check_difference

            check_difference(self, other)
        return difference(self, other)

    def __add__(self, vector: WeightVector) -> MergedCheckpoint:
        from chatvec_lab.weights.vector import WeightVector

        return self.add(vector) if isinstance(vector, WeightVector) else NotImplemented

    def add(
        self,
        vector: WeightVector,
        *,
        vocabulary: Policy = "match",
        copy_special: bool = False,
        add_tokens: bool = False,
    ) -> MergedCheckpoint:
        """`self + vector` with its options spelled out; nothing is read yet.

        `vocabulary`: "match" pairs embedding and head rows by token string; "skip" leaves both alone (the paper's
        footnote 14, for Breeze); "strict" demands one and the same vocabulary. `copy_special`: special tokens that
        the CP never trained (row equal to the base's, bit for bit) take the chat model's own row. `add_tokens`:
        tokens that the chat template needs and the CP lacks are appended to embedding, head and tokenizer.
        """
        from chatvec_lab.weights.merged import MergedCheckpoint

        return MergedCheckpoint(
            self, vector, vocabulary=vocabulary, copy_special=copy_special, add_tokens=add_tokens
        )


def _looks_like_hub_id(source: str) -> bool:
    parts = source.split("/")
    return (
        len(parts) == 2
        and all(parts)
        and not source.startswith((".", "~", "/"))
        and not Path(source).exists()
    )


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    patterns = ["*.safetensors", "*.bin", "*.json", "*.model", "*.txt", "*.jinja"]
    if not constants.is_offline_mode():
        with contextlib.suppress(Exception):  # no network: it may be in the cache, else the download says why
            stored = HfApi().list_repo_files(repo, revision=revision)
            keep = (
                "*.safetensors" if any(n.endswith(".safetensors") for n in stored) else "pytorch_model*.bin"
            )
            patterns = [keep, "*.json", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"])
        )
    except Exception as error:  # the hub's many errors all mean the same to the caller
        raise FileNotFoundError(
            f"{repo!r} is neither a folder here nor a model that could be had from the hub ({error}). "
            "Check the name, log in for gated models (HF_TOKEN), or give a local folder."
        ) from error


def read_json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Download or copy it again.") from error


def find_entries(folder: Path, stem: str = "model") -> dict[str, files.Entry]:
    """Every stored tensor of a folder, in file order; an index and its shards must agree."""
    for file, reader in (
        (f"{stem}.safetensors", files.safetensors_entries),
        (f"pytorch_{stem}.bin", files.bin_entries),
    ):
        index, single = folder / f"{file}.index.json", folder / file
        if index.is_file():
            return _sharded_entries(index, reader)
        if single.is_file():
            return reader(single)
    found = sorted(p.name for p in folder.iterdir())[:8]
    hint = ""
    if any(name.startswith("vector") and name.endswith(".safetensors") for name in found):
        hint = " It holds a weight vector, not a model: open it with WeightVector.load."
    elif "adapter_config.json" in found:
        hint = " It holds a PEFT adapter: merge it into its base first (merge_and_unload), then save."
    raise FileNotFoundError(
        f"{folder} holds no model: expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or "
        f"pytorch_model.bin.index.json, found {', '.join(found) or 'nothing'}.{hint}"
    )


def _sharded_entries(index: Path, reader) -> dict[str, files.Entry]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map. Download it again.")
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{index.parent} misses {len(missing)} of {len(shards)} shards that its index names: "
            f"{', '.join(missing[:5])}. Download them again."
        )
    entries: dict[str, files.Entry] = {}
    for shard in shards:
        entries |= reader(index.parent / shard)
    absent = [
        f"{name} (in {shard})"
        for name, shard in weight_map.items()
        if name not in entries or entries[name].file.name != shard
    ]
    if absent:
        raise ValueError(
            f"{index} names {len(absent)} tensors that its shards do not hold: {', '.join(absent[:5])}. "
            "Index and shards are not of one download."
        )
    return entries
