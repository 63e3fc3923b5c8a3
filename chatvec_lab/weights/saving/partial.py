"""A folder that appears whole or not at all, and a save that goes on where a killed one stopped.

Work happens in a hidden neighbour of the final folder; a journal there names the shards that are whole; the last
step is one rename. (No fsync: a power cut can lose a fresh save, and the manifest's digests then show it.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatvec_lab.weights.checkpoint import read_json
from chatvec_lab.weights.saving.provenance import write_json

JOURNAL = "journal.json"


def refuse_existing(path: Path) -> None:
    if path.is_symlink() or path.is_mount():  # neither can be replaced by the finished folder
        raise FileExistsError(f"{path} is a link or a mounted disk. Choose a folder inside it.")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(
            f"{path} exists already and is left as it is. Choose another folder or remove it first."
        )


def refuse_full_disk(parent: Path, needed: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"saving needs {needed:,} bytes but {parent} has {free:,} free. Nothing was written"
        )


@contextmanager
def partial_folder(path: Path, key: str, *, resume: bool, needed: int):
    """Yield `(folder, journal)` to work in; on success the folder becomes `path`, on failure it stays for resuming.

    `journal` maps shard names to what was noted of them; it is empty unless an earlier run had the same `key`.
    """
    path = path.absolute()
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.partial")
    folder.mkdir(exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FileExistsError(
                f"{path} is being saved by another process; wait for it or choose another folder."
            ) from error
        journal = _journal(folder, key) if resume else {}
        for entry in list(folder.iterdir()):
            if entry.name != JOURNAL and entry.name not in journal:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        refuse_full_disk(folder, needed - sum((folder / name).stat().st_size for name in journal))
        yield folder, journal
        (folder / JOURNAL).unlink(missing_ok=True)
        if path.is_dir():
            path.rmdir()  # empty, as checked above
        os.rename(folder, path)
    finally:
        os.close(lock)


def _journal(folder: Path, key: str) -> dict[str, Any]:
    path = folder / JOURNAL
    try:
        stored = read_json(path)
    except ValueError:
        return {}
    shards = stored.get("shards", {}) if stored.get("key") == key else {}
    return {name: noted for name, noted in shards.items() if (folder / name).is_file()}


def note(folder: Path, key: str, journal: dict[str, Any]) -> None:
    write_json(folder / JOURNAL, {"key": key, "shards": journal})


def whole_shards(folder: Path, journal: dict[str, Any], digest: Callable[[Path], str]) -> dict[str, Any]:
    """The journal's shards whose content still has the noted digest; the others are removed."""
    good = {}
    for name, noted in journal.items():
        try:
            intact = digest(folder / name) == noted["digest"]
        except (OSError, ValueError):
            intact = False
        if intact:
            good[name] = noted
        else:
            (folder / name).unlink(missing_ok=True)
    return good
