"""The seal of a stored vector: what its manifest, its small files and its headers held when they were written.

Weights are digested as they stream; the rest is small, so that it is checked whole whenever the vector is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chatvec_lab.weights.sources.safetensors import header_bytes

_BESIDE = (
    "vocabulary.json",
    "chat.json",
    "special_rows.safetensors",
    "vector*.safetensors",
    "vector*.index.json",
)


def sealed(folders: Iterable[Path], manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a vector that is whole but for it, in these folders, with digests of all that it vouches for."""
    found = [path for pattern in _BESIDE for folder in folders for path in sorted(folder.glob(pattern))]
    files = {path.name: _digest(path) for path in found}
    record = {key: value for key, value in manifest.items() if key != "seal"} | {"beside": files}
    return record | {"seal": _of(record)}


def check_seal(folder: Path, manifest: dict[str, Any], name: str) -> None:
    """Raise ValueError naming the file that is not what was written. Vectors of earlier versions have no seal."""
    if "seal" not in manifest:
        return
    record = {key: value for key, value in manifest.items() if key != "seal"}
    if _of(record) != manifest["seal"]:
        raise ValueError(
            f"{folder / name} is damaged: it is not what was saved. Save or copy the vector again."
        )
    for file, digest in record["beside"].items():
        path = folder / file
        if not path.is_file():
            raise ValueError(f"{path} is missing: it is a part of the vector. Save or copy the vector again.")
        if _digest(path) != digest:
            raise ValueError(f"{path} is damaged: it is not what was saved. Save or copy the vector again.")


def _digest(path: Path) -> str:
    """Of the weights' files the header alone, of others all."""
    content = (
        header_bytes(path)
        if path.name.startswith("vector") and path.suffix == ".safetensors"
        else path.read_bytes()
    )
    return hashlib.sha256(content).hexdigest()


def _of(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
