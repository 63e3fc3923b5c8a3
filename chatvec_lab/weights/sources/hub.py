"""A model of the hub as a source: downloaded, found in the cache, or read row by row over HTTP without its weights."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Hashable, Iterable
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import numpy as np

from chatvec_lab.weights.sources.files import SAFETENSORS_DTYPES, Entry, Tensors, no_such
from chatvec_lab.weights.sources.folder import Folder, open_folder

# what a model is opened with besides its weights: config, tokenizer in all its forms, template, code that is carried
COMPANIONS = (
    "*.json", "*.txt", "*.jinja", "*.py", "*.model", "*.model.*", "*.tiktoken", "*.vocab", "*.bpe", "*.spm", "*.codes",
    "*.merges", "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
SAFETENSORS, BIN = "*.safetensors", "pytorch_model*.bin"
# weights in other tools' layouts, optimizers, and folders (original/, onnx/) are not the model's own
IGNORED = (
    "*/*",
    "consolidated*",
    "training_args*",
    "optimizer*",
    "scheduler*",
    "rng_state*",
    "*.index.json.bak",
)


class Hub(Folder):
    """A hub id as a source: a folder that is downloaded, or found in the cache, when it is needed."""

    def __init__(self, repo: str, revision: str | None = None):
        self.repo, self.revision, self._given = repo, revision, None

    def __reduce__(self):
        return type(self), (self.repo, self.revision)

    @property
    def label(self) -> str:
        return self.repo

    @cached_property
    def folder(self) -> Path:
        return _download(self.repo, self.revision)


class Remote(Hub):
    """A hub id whose elements are asked for range by range; only config and tokenizer are downloaded."""

    @cached_property
    def folder(self) -> Path:
        return _snapshot(self.repo, self.revision, COMPANIONS)

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
        try:
            answer = get_session().get(url, headers=headers, follow_redirects=True, timeout=60)
            hf_raise_for_status(answer)
        except HTTPError as error:  # the connection's is no OSError
            raise OSError(f"{self.repo}: {file} could not be read from the hub ({error}).") from error
        if len(answer.content) != stop - start:
            raise OSError(
                f"{self.repo}: asked for {stop - start} bytes of {file}, got {len(answer.content)}. "
                "The server does not send ranges; download the model first."
            )
        return answer.content


def remote(repo: str, revision: str | None) -> Remote | None:
    """The model to be read by ranges; None where it is in the cache whole, has no safetensors, or no hub is there."""
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
        return None
    if tensors.is_scattered:
        return None
    return found


def _cached(repo: str, revision: str | None) -> Path:
    """The folder of a model in the cache, whole or not; FileNotFoundError when it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(found, str):
        raise FileNotFoundError(f"{repo} is not in the cache")
    return Path(found).parent


def _snapshot(repo: str, revision: str | None, patterns: Iterable[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            repo, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(IGNORED)
        )
    )


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, constants

    patterns: tuple[str, ...] = (SAFETENSORS, BIN, *COMPANIONS)
    if not constants.is_offline_mode():
        with contextlib.suppress(Exception):  # no network: it may be in the cache, else the download says why
            patterns = wanted(HfApi().list_repo_files(repo, revision=revision))
    try:
        return _snapshot(repo, revision, patterns)
    except Exception as error:  # the hub's many errors all mean the same to the caller
        with contextlib.suppress(Exception):  # offline, a cache that lacks only what is not needed will do
            folder = _cached(repo, revision)
            open_folder(folder)
            return folder
        raise FileNotFoundError(
            f"{repo!r} is neither a folder here nor a model that could be had from the hub ({error}). "
            "Check the name, log in for gated models (HF_TOKEN), or give a local folder."
        ) from error


def wanted(stored: Iterable[str]) -> tuple[str, ...]:
    """Patterns for what is fetched of a repository with these files: one kind of weights, and all companions.

    >>> wanted(["model.safetensors", "pytorch_model.bin", "consolidated.safetensors", "qwen.tiktoken"])[0]
    '*.safetensors'
    """
    own = [name for name in stored if not any(fnmatch(name, pattern) for pattern in IGNORED)]
    return (SAFETENSORS if any(fnmatch(name, SAFETENSORS) for name in own) else BIN, *COMPANIONS)
