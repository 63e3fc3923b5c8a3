"""Where saved weights come from: digests of what was read and written, and the manifest that travels with them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.numerics.blocks import block_digests, block_spans
from chatvec_lab.weights.sources.beside import sort_companions
from chatvec_lab.weights.sources.files import Stored, state_of
from chatvec_lab.weights.sources.folder import Folder
from chatvec_lab.weights.sources.safetensors import safetensors_entries

MANIFEST = "manifest.json"
DIGEST = "xxh3-128 of the xxh3-128 digests of blocks of 256 Ki elements (whole rows), tensors sorted by name"


class Digests:
    """Collects the digests of blocks as they stream by, in any order and from any thread.

    What is read twice must have the same digest, and the files of `sources` must be at the end what they were at the
    start: a training that writes its next step meanwhile would make a mixture of two states. `sources` are kept.
    """

    def __init__(self, sources: Iterable[Checkpoint] = ()) -> None:
        self._blocks: dict[tuple[int, str], dict[int, bytes]] = {}
        self._steps: dict[tuple[int, str], dict[int, int]] = {}
        self._tensors: dict[tuple[int, str], str] = {}
        self.sources = list(sources)
        self._states = [_companions(source) for source in self.sources]

    def record(self, source: Checkpoint, name: str, start: int, raw: np.ndarray) -> None:
        key = (id(source), name)
        if key not in self._steps:
            self._steps[key] = dict(block_spans(source.shape(name)))
        # spans off the grid (matched rows) do not count
        for block, digest in block_digests(self._steps[key], start, raw):
            if self._blocks.setdefault(key, {}).setdefault(block, digest) != digest:
                raise _changed(source, f"{name} was read twice with different content")

    def check_unchanged(self) -> None:
        """OSError naming the first source that is no longer what it was at the start, or that read otherwise again."""
        for source, before in zip(self.sources, self._states, strict=True):
            for member in _stored(source):
                member.tensors.check()
            after = _companions(source)
            other = sorted(
                path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
            )
            if other:
                raise _changed(source, f"{', '.join(other[:3])} changed")
            for name in source.names:  # a verification has read them again
                key = (id(source), name)
                first = self._tensors.get(key)
                if first and len(self._blocks.get(key, ())) == len(block_spans(source.shape(name))):
                    del self._tensors[key]
                    if self.tensor(source, name) != first:
                        raise _changed(source, f"{name} was read twice with different content")

    def tensor(self, source: Checkpoint, name: str) -> str:
        """The digest of one tensor; what did not stream by is read now."""
        key = (id(source), name)
        if key not in self._tensors:
            blocks = self._blocks.pop(key, {})
            total = xxhash.xxh3_128()
            for start, stop in block_spans(source.shape(name)):
                total.update(blocks.get(start) or xxhash.xxh3_128_digest(source.raw(name, start, stop)))
            self._tensors[key] = total.hexdigest()
        return self._tensors[key]

    def remember(self, source: Checkpoint, known: dict[str, str]) -> None:
        """Digests that an earlier, interrupted run has noted."""
        self._tensors.update({(id(source), name): digest for name, digest in known.items()})

    def known(self, source: Checkpoint, names: list[str]) -> dict[str, str]:
        """Digests of those tensors that have streamed by whole, for the journal."""
        whole = [n for n in names if n in source and self._is_whole(source, n)]
        return {name: self.tensor(source, name) for name in whole}

    def _is_whole(self, source: Checkpoint, name: str) -> bool:
        key = (id(source), name)
        return key in self._tensors or len(self._blocks.get(key, ())) == len(block_spans(source.shape(name)))

    def weights(self, source: Checkpoint) -> str:
        return combined({name: self.tensor(source, name) for name in source.names})


def _stored(source: Checkpoint) -> list[Checkpoint]:
    """The checkpoints with files of their own that a source stands on: itself, or those of a sum."""
    from chatvec_lab.weights.merged import MergedCheckpoint

    if not isinstance(source, MergedCheckpoint):
        return [source]
    return [member for part in (source.cp, *source.vector.sources()) for member in _stored(part)]


def _companions(source: Checkpoint) -> dict[str, tuple]:
    """The state of each file beside the weights: config, tokenizer, template, code."""
    if not source.folder.is_dir():
        return {}
    carried = [path for path in sort_companions(source.folder)[0] if path.is_file()]
    return {path.name: state_of(path) for path in carried} | {
        name: state_of(source.folder / name)
        for name in ("config.json", "generation_config.json")
        if (source.folder / name).is_file()
    }


def _changed(source: Checkpoint, what: str) -> OSError:
    return OSError(
        f"{source.label} changed while it was being read: {what}. Nothing was saved, for it would be a mixture of two "
        "states. Wait until whatever writes there (a training, a download) is done, or copy the folder first."
    )


def combined(digests: dict[str, str]) -> str:
    return xxhash.xxh3_128_hexdigest(
        "".join(f"{name}\0{digests[name]}\n" for name in sorted(digests)).encode()
    )


def weights_digest(checkpoint: Checkpoint) -> str:
    """The digest of all weights of a checkpoint as manifests record it (see `DIGEST`); reads them once.

    Independent of file format and sharding: the same tensors give the same digest.
    """
    return Digests().weights(checkpoint)


def file_digest(path: Path) -> str:
    """The digest of one written shard, read again."""
    # this file alone, whatever else is missing yet
    shard = Checkpoint(path.parent, origin=Folder(path.parent, Stored(safetensors_entries(path))))
    digests = Digests()
    return combined({name: digests.tensor(shard, name) for name in shard.names})


def source_entry(source: Checkpoint, digests: Digests) -> dict[str, Any]:
    """One row of a manifest's `sources`: label, hub commit (None for a folder) and digest; no local path.

    Of an adapter also its base (`on`); of a quantised one also how it was (`note`), and the digest is of the values that
    its codes stand for.
    """
    note = {"note": source.note} if source.note else {}
    base = getattr(source.origin, "base", None)  # an adapter's
    on = {"on": {"name": base.label, "revision": _commit(base.path)}} if base else {}
    facts = {"name": source.label, "revision": _commit(source.path), "digest": digests.weights(source)}
    return facts | note | on


def _commit(path: Path) -> str | None:
    """The commit of a folder in the hub's cache."""
    return path.name if path.parent.name == "snapshots" else None


def versions() -> dict[str, str]:
    names = ("chatvec_lab", "numba", "numpy", "safetensors", "tokenizers", "transformers")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all: to a neighbour first, then one rename."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
