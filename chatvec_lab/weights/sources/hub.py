"""A model, or an adapter, of the hub as a source: downloaded, found in the cache, or read by rows over HTTP."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import re
import shutil
import struct
import sys
import time
from collections.abc import Hashable, Iterable, Mapping
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import numpy as np

from chatvec_lab.weights.sources.adapter import Adapter, is_adapter
from chatvec_lab.weights.sources.beside import ADAPTER
from chatvec_lab.weights.sources.files import SAFETENSORS_DTYPES, Entry, Tensors, no_such
from chatvec_lab.weights.sources.folder import Folder, open_folder

# what a model is opened with besides its weights: config, tokenizer in all its forms, template, code that is carried
COMPANIONS = (
    "*.json", "*.txt", "*.jinja", "*.py", "*.model", "*.model.*", "*.tiktoken", "*.vocab", "*.bpe", "*.spm", "*.codes",
    "*.merges", "spk_dict.pt", "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
SAFETENSORS, BIN, ADAPTER_BIN = "*.safetensors", "pytorch_model*.bin", "adapter_model.bin"
# weights in other tools' layouts, and optimizers, are not the model's own
IGNORED = ("consolidated*", "training_args*", "optimizer*", "scheduler*", "rng_state*", "*.index.json.bak")
# folders (original/, onnx/) aren't either, but for further chat templates and sentence-transformers' modules (1_Pooling/)
OWN_FOLDERS = re.compile(r"additional_chat_templates|[0-9]_[^/]*")
FOLDERS = ("[!0-9a]*/*", "a[!d]*/*", "[0-9][!_]*/*")  # the others, as patterns that are near enough


_TRIES = 3  # of one range; a survey of a large model asks for some hundred thousand


class Hub:
    """A hub id as a source: a model, or an adapter on one. Which of the two is known when its files are there."""

    def __init__(self, repo: str, revision: str | None = None):
        self.repo, self.revision = repo, revision

    def __reduce__(self):
        return Hub, (self.repo, self.revision)

    @cached_property
    def found(self) -> Folder | Adapter:
        """What was downloaded, or found in the cache."""
        folder = _download(self.repo, self.revision)
        return Adapter(folder, self.repo) if is_adapter(folder) else Snapshot(self.repo, folder)

    @property
    def label(self) -> str:
        """The hub id; of an adapter whose files are here also what it is on. Asks nothing of the hub."""
        if "found" not in vars(self):
            with contextlib.suppress(OSError, ValueError):
                folder = _cached(self.repo, self.revision, ADAPTER)
                return Adapter(folder, self.repo).label if is_adapter(folder) else self.repo
            return self.repo
        return self.found.label

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.found, name)


class Snapshot(Folder):
    """A downloaded model under its hub id."""

    def __init__(self, repo: str, folder: Path):
        self.repo, self.folder, self._given = repo, folder, None

    def __reduce__(self):
        return Snapshot, (self.repo, self.folder)

    @property
    def label(self) -> str:
        return self.repo


class Remote(Folder):
    """A hub id whose elements are asked for range by range; only config and tokenizer are downloaded."""

    def __init__(self, repo: str, revision: str | None = None):
        self.repo, self.revision, self._given = repo, revision, None

    def __reduce__(self):
        return Remote, (self.repo, self.revision)

    @property
    def label(self) -> str:
        return self.repo

    @cached_property
    def folder(self) -> Path:
        names = companions(_listed(self.repo, self.revision))
        return _snapshot(self.repo, self.revision, names, COMPANIONS)

    @cached_property
    def stored(self) -> Tensors:
        return RemoteTensors(self.repo, self.revision)


class RemoteTensors:
    """The tensors of a hub model's safetensors, read by HTTP ranges (see `Tensors`)."""

    note, is_scattered = "", False

    def __init__(self, repo: str, revision: str | None):
        from huggingface_hub import get_safetensors_metadata

        self.repo, self.revision = repo, revision
        found = get_safetensors_metadata(repo, revision=revision)
        self.entries: dict[str, Entry] = {}
        for file, metadata in sorted(found.files_metadata.items()):
            for name, tensor in metadata.tensors.items():
                dtype = SAFETENSORS_DTYPES.get(tensor.dtype)
                if dtype is None:
                    raise ValueError(
                        f"{repo}: {name!r} is stored as {tensor.dtype}, which is not read from the hub."
                    )
                self.entries[name] = Entry(Path(file), tensor.data_offsets[0], dtype, tuple(tensor.shape))
        self._starts: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        return list(self.entries)

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise KeyError(no_such(name, self.entries))
        return self.entries[name]

    def dtype(self, name: str) -> str:
        return self._entry(name).dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def file(self, name: str) -> str:
        return self._entry(name).file.name

    def quantised(self, name: str) -> str:
        return ""

    def stored_dtype(self, name: str) -> str:
        return self.dtype(name)

    def noise(self, name: str, start: int, stop: int) -> float:
        return 0.0

    def place(self, name: str) -> Hashable:
        entry = self._entry(name)
        return self.repo, self.revision, entry.file, entry.offset

    def fingerprint(self) -> str:
        facts = [[n, e.file.name, e.offset, e.dtype, e.shape] for n, e in self.entries.items()]
        return hashlib.sha256(json.dumps([self.repo, self.revision, facts]).encode()).hexdigest()

    def check(self) -> None:
        """Nothing to ask: what the hub holds under one revision does not change while it is read."""

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        entry, file = self._entry(name), self.file(name)
        if file not in self._starts:
            self._starts[file] = 8 + struct.unpack("<Q", self._range(file, 0, 8))[0]
        view = out[: stop - start]
        first = self._starts[file] + entry.offset + start * view.itemsize
        view[:] = np.frombuffer(self._range(file, first, first + view.nbytes), view.dtype)
        return view

    def _range(self, file: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of one file; OSError when the server sends anything else."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import HTTPError
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = {**build_hf_headers(), "range": f"bytes={start}-{stop - 1}"}
        url = hf_hub_url(self.repo, file, revision=self.revision)
        for attempt in range(1, _TRIES + 1):
            try:
                answer = get_session().get(url, headers=headers, follow_redirects=True, timeout=60)
                hf_raise_for_status(answer)
                break
            except HTTPError as error:  # the connection's is no OSError
                status = getattr(getattr(error, "response", None), "status_code", None)
                is_passing = status is None or status == 429 or status >= 500
                if attempt == _TRIES or not is_passing:
                    raise OSError(f"{self.repo}: {file} could not be read from the hub ({error}).") from error
                time.sleep(attempt)
        if len(answer.content) != stop - start:
            raise OSError(
                f"{self.repo}: asked for {stop - start} bytes of {file}, got {len(answer.content)}. "
                "The server does not send ranges; download the model first."
            )
        return answer.content


def remote(repo: str, revision: str | None) -> Remote | Adapter | None:
    """The model to be read by ranges, or an adapter whose base is; None where it is in the cache whole, has no
    safetensors, or no hub is there."""
    try:
        open_folder(_cached(repo, revision))
        return None
    except (OSError, ValueError):
        pass  # not in the cache, or not whole
    found = Remote(repo, revision)
    try:
        tensors = found.tensors
    except (
        Exception
    ):  # no safetensors, no network, no such model: the ordinary way downloads it, or says why not
        return _remote_adapter(repo, revision)
    if tensors.is_scattered:
        return None
    return found


def _remote_adapter(repo: str, revision: str | None) -> Adapter | None:
    """An adapter of the hub, which is small and is downloaded, on a base that is read by ranges; None for what is none."""
    from huggingface_hub import file_exists

    try:
        if not file_exists(repo, ADAPTER, revision=revision):
            return None
        folder = _download(repo, revision)
    except Exception:  # as above
        return None
    return Adapter(folder, repo, is_sparse=True) if is_adapter(folder) else None


def _cached(repo: str, revision: str | None, file: str = "config.json") -> Path:
    """The folder of a model in the cache, whole or not; FileNotFoundError when this file of it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision)
    if not isinstance(found, str):
        raise FileNotFoundError(f"{repo} is not in the cache")
    return Path(found).parent


def _listed(repo: str, revision: str | None) -> dict[str, int]:
    """The files that are a model's own, of whatever kind, and their sizes; {} where no hub can be asked."""
    from huggingface_hub import HfApi, constants

    sizes: dict[str, int] = {}
    folders = [] if constants.is_offline_mode() else [None]
    try:
        for folder in folders:
            for entry in HfApi().list_repo_tree(repo, folder, revision=revision):
                if hasattr(entry, "size"):
                    sizes[entry.path] = entry.size
                elif OWN_FOLDERS.fullmatch(entry.path):
                    folders.append(entry.path)
    except Exception:  # no network: it may be in the cache, else the download says why
        return {}  # half a list would pass for a whole one
    return {name: size for name, size in sizes.items() if not any(fnmatch(name, p) for p in IGNORED)}


def _snapshot(repo: str, revision: str | None, names: Iterable[str], otherwise: Iterable[str]) -> Path:
    """The folder in the cache with these files; with those of the patterns `otherwise` where none could be listed."""
    from huggingface_hub import snapshot_download

    allowed = [glob.escape(name) for name in names] or list(otherwise)
    return Path(
        snapshot_download(
            repo, revision=revision, allow_patterns=allowed, ignore_patterns=[*IGNORED, *FOLDERS]
        )
    )


def _download(repo: str, revision: str | None) -> Path:
    """The folder of a model or adapter, downloaded or from the cache. What is large is said, and fits the disk, before.

    Raises FileNotFoundError for what is not to be had, OSError where the disk has no room for it.
    """
    sizes = _listed(repo, revision)
    names = wanted(sizes)
    _check_room(repo, revision, {name: sizes[name] for name in names})
    try:
        return _snapshot(repo, revision, names, (SAFETENSORS, BIN, ADAPTER_BIN, *COMPANIONS))
    except Exception as error:  # the hub's many errors all mean the same to the caller
        for file in ("config.json", ADAPTER):
            with contextlib.suppress(
                Exception
            ):  # offline, a cache that lacks only what is not needed will do
                folder = _cached(repo, revision, file)
                if not is_adapter(folder):
                    open_folder(folder)
                return folder
        raise FileNotFoundError(
            f"{repo!r} is neither a folder here nor a model that could be had from the hub ({error}). "
            "Check the name, log in for gated models (HF_TOKEN), or give a local folder."
        ) from error


_LARGE = 1e9  # bytes; a smaller download needs no announcement


def _check_room(repo: str, revision: str | None, sizes: Mapping[str, int]) -> None:
    """Say how much a large download is; OSError when the disk of the cache has no room for it. Asks nothing."""
    from huggingface_hub import constants, try_to_load_from_cache

    lacking = sum(
        size
        for name, size in sizes.items()
        if not isinstance(try_to_load_from_cache(repo, name, revision=revision), str)
    )
    if lacking < _LARGE:
        return
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if lacking > free:
        raise OSError(
            f"{repo}: {lacking / 1e9:.1f} GB are to be downloaded, and the disk of {cache} has {free / 1e9:.1f} GB left. "
            "Nothing was downloaded. Make room, or set HF_HOME to a larger disk; `inspect`, `check` and `families --check` "
            "read headers and a few rows instead."
        )
    print(f"{repo}: {lacking / 1e9:.1f} GB to download into {cache}", file=sys.stderr)


def companions(stored: Iterable[str]) -> list[str]:
    """What is fetched of a repository with these files besides weights."""
    return [name for name in stored if any(fnmatch(name, pattern) for pattern in COMPANIONS)]


def wanted(stored: Iterable[str]) -> list[str]:
    """What is fetched of a repository with these files: one kind of weights, and all companions.

    >>> wanted(["model.safetensors", "pytorch_model.bin", "qwen.tiktoken", "additional_chat_templates/rag.jinja"])
    ['model.safetensors', 'qwen.tiktoken', 'additional_chat_templates/rag.jinja']
    """
    names = list(stored)
    kinds = [[name for name in names if fnmatch(name, kind)] for kind in (SAFETENSORS, BIN, ADAPTER_BIN)]
    safe = [name for name in kinds[0] if "/" not in name]
    weights = kinds[0] if safe else [*kinds[1], *kinds[2]]
    return [*weights, *companions(names)]
