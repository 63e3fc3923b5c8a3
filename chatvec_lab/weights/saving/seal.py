"""The seal of what was saved: a manifest that knows itself, and the small files and headers of a stored vector.

Weights are digested as they stream; the rest is small, so that it is checked whole whenever a vector is opened.
"""

from __future__ import annotations

import hashlib
import json
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


def seal_of(manifest: dict[str, Any]) -> str:
    """The digest of a manifest's content, which it keeps under "seal"."""
    record = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def beside(*folders: Path) -> dict[str, str]:
    """Digests of the files that a stored vector's manifest vouches for, by name: of its weights the headers alone."""
    found = (path for folder in folders for pattern in _BESIDE for path in folder.glob(pattern))
    return {path.name: _digest(path) for path in sorted(found)}


def check_seal(folder: Path, manifest: dict[str, Any], name: str) -> None:
    """Raise ValueError naming the file that is not what was saved. Vectors of earlier versions have no seal."""
    if "seal" not in manifest:
        return
    if seal_of(manifest) != manifest["seal"]:
        raise ValueError(
            f"{folder / name} is damaged: it is not what was saved. Save or copy the vector again."
        )
    for file, digest in manifest.get("beside", {}).items():
        path = folder / file
        if not path.is_file():
            raise ValueError(f"{path} is missing: it is a part of the vector. Save or copy the vector again.")
        if _digest(path) != digest:
            raise ValueError(f"{path} is damaged: it is not what was saved. Save or copy the vector again.")


def _digest(path: Path) -> str:
    is_weights = path.name.startswith("vector") and path.suffix == ".safetensors"
    return hashlib.sha256(header_bytes(path) if is_weights else path.read_bytes()).hexdigest()
