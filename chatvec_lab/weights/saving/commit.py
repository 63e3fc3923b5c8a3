"""A folder that appears whole or not at all, and a save that goes on where a killed one stopped.

Work happens in a hidden neighbour of the final folder. Its journal says that the folder is ours, which names we put
into it and which shards are whole; nothing else is ever removed, and no link is followed. Files are on the disk
(fsync) before the last step, one rename.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatvec_lab.weights.saving.provenance import (
    DIGEST,
    MANIFEST,
    combined,
    file_digest,
    versions,
    write_json,
)
from chatvec_lab.weights.saving.seal import seal_of

if TYPE_CHECKING:
    from chatvec_lab.weights.saving.stream import Streamer, Tensor

JOURNAL = ".chatvec_lab-journal.json"
OURS = "chatvec_lab partial folder 1"  # the journal's format, which proves whose folder it is
STAGE = "companions"  # where all but the shards is written first


def refuse_existing(path: Path) -> None:
    """FileExistsError where a finished folder could not or must not be put."""
    path = settled(path)
    if path.is_symlink() or path.is_mount():  # neither can be replaced by the finished folder
        raise FileExistsError(f"{path} is a link or a mounted disk. Choose a folder inside it.")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(
            f"{path} exists already and is left as it is. Choose another folder or remove it first."
        )


def settled(path: Path) -> Path:
    """The whole path without "..", so that a folder has one name: "new/.." is here, whether there is a "new" or not."""
    path = Path(path)
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def refuse_full_disk(parent: Path, needed: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"saving needs {needed:,} bytes but {parent} has {free:,} free. Nothing was written"
        )


class Commit:
    """A save at work: shards go to `folder`, each noted when whole; everything else goes to `companions`."""

    def __init__(self, folder: Path, key: str, names: Iterable[str], shards: dict[str, Any]):
        self.folder, self.key = folder, key
        self.shards = shards  # what is noted of each whole shard, by file name
        self.companions = folder / STAGE
        self._names = sorted(set(names))
        self._note()
        self.companions.mkdir()

    def _note(self) -> None:
        journal = {"format": OURS, "key": self.key, "names": self._names, "shards": self.shards}
        write_json(self.folder / JOURNAL, journal)

    def write_shards(
        self,
        shards: dict[str, list[Tensor]],
        stream: Streamer,
        also: Callable[[list[Tensor]], dict[str, Any]] = lambda tensors: {},
    ) -> None:
        """Write the shards that are not whole yet; the journal keeps their digests, and what `also` gives of each."""

        def whole(name: str, written: dict[str, str]) -> None:
            self.shards[name] = {"digest": combined(written), "tensors": written, **also(shards[name])}
            self._note()

        for name, tensors in shards.items():
            if name not in self.shards:
                stream.write(self.folder / name, tensors, partial(whole, name))
        stream.settle()

    @property
    def weights(self) -> dict[str, Any]:
        """The manifest's entry about all tensors and each file."""
        tensors = {n: d for noted in self.shards.values() for n, d in noted["tensors"].items()}
        files = {name: noted["digest"] for name, noted in sorted(self.shards.items())}
        return {"digest": combined(tensors), "files": files}

    def write_manifest(
        self,
        entries: dict[str, Any],
        card: Callable[[dict[str, Any]], str],
    ) -> dict[str, Any]:
        """Write manifest.json and README.md beside the other companions; returns the manifest.

        `entries` starts with "format"; weights (unless given), the names of all files, the digest's rule and the
        versions are added, and last the seal.
        """
        manifest = {**entries, "digest": DIGEST, "versions": versions()}
        manifest.setdefault("weights", self.weights)
        names = {MANIFEST, "README.md", *(path.name for path in self.companions.iterdir())}
        manifest["companions"] = sorted(names)
        manifest["seal"] = seal_of(manifest)
        write_json(self.companions / MANIFEST, manifest)
        (self.companions / "README.md").write_text(card(manifest), "utf-8")
        return manifest

    def settle(self) -> None:
        """Move the companions beside the shards, all on the disk; only the journal and the rename are left."""
        staged = sorted(self.companions.iterdir())
        self._names = sorted({*self._names, *(path.name for path in staged)})
        self._note()
        for path in staged:
            for inner in (*path.rglob("*"), path) if path.is_dir() else (path,):
                _sync(inner)
            os.replace(path, self.folder / path.name)
        self.companions.rmdir()
        _sync(self.folder)


@contextmanager
def commit(
    path: Path, key: str, names: Iterable[str], *, resume: bool = True, needed: int = 0
) -> Iterator[Commit]:
    """Yield a `Commit` to write with; on success its folder becomes `path`, on failure it stays for resuming.

    `names` are the shards that will be written, `needed` their bytes. Whole shards of an earlier run with the same
    `key` are kept (read again, and compared with their digests). Raises FileExistsError when `path` exists, when
    another process saves to it, or when the folder to work in holds what this project did not put there.
    """
    path = settled(path)
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.partial")
    names = sorted(names)
    lock = _locked(folder, path)
    try:
        refuse_existing(path)  # another save may have ended while this one waited
        journal, known = _ours(folder, path)
        is_same = resume and journal.get("key") == key
        kept = _whole(folder, journal.get("shards", {}) if is_same else {}, names)
        for name in known - set(kept) - {JOURNAL}:
            _remove(folder / name)
        try:
            refuse_full_disk(path.parent, needed - sum((folder / name).stat().st_size for name in kept))
        except OSError:
            with suppress(OSError):
                folder.rmdir()  # empty: nothing was begun
            raise
        work = Commit(folder, key, names, kept)
        yield work
        work.settle()
        (folder / JOURNAL).unlink()  # from here to the rename the manifest says whose folder it is
        os.rename(folder, path)  # an empty folder gives way; one that is no longer empty is an error
        _sync(path.parent)
    finally:
        os.close(lock)


def discard(path: Path) -> None:
    """Remove a folder that this project saved, if it is there; FileExistsError when it holds anything else.

    For notebooks, which save again where their last run saved.
    """
    if not os.path.lexists(path):
        return
    known = _of_manifest(path) if path.is_dir() and not path.is_symlink() else set()
    foreign = _foreign(path, known) if known else [path.name]
    if foreign:
        raise FileExistsError(
            f"{path} is not a folder that chatvec_lab saved, or holds more than that ({', '.join(foreign[:5])}); "
            "it is left as it is. Move it away, or choose another folder."
        )
    for name in known:
        _remove(path / name)
    path.rmdir()


def _locked(folder: Path, path: Path) -> int:
    """An open, locked handle on the partial folder, which is made if it is not there; never through a link."""
    with suppress(FileExistsError):
        os.mkdir(folder)
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise FileExistsError(
            f"{folder}, where a save to {path} does its work, is a link or a file, not a folder of ours; it is left "
            "as it is. Rename it, or save to another folder."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_gone = not folder.exists() or not os.path.samestat(os.fstat(lock), os.lstat(folder))
    except BlockingIOError:
        is_gone = True
    except OSError:  # a disk without locks
        is_gone = False
    if is_gone:
        os.close(lock)
        raise FileExistsError(
            f"{path} is being saved by another process; wait for it or choose another folder."
        )
    return lock


def _ours(folder: Path, path: Path) -> tuple[dict[str, Any], set[str]]:
    """The journal of the partial folder (empty for a fresh one), and the names that we put there.

    FileExistsError when there is anything else.
    """
    journal = _read(folder / JOURNAL)
    known = {JOURNAL, f"{JOURNAL}.tmp"}
    if journal.get("format") == OURS:
        known |= {STAGE, *journal["names"], *(f"{name}.part" for name in journal["names"])}
    else:
        journal = {}
        known |= _of_manifest(folder)  # stopped in the instant before the rename
    foreign = _foreign(folder, known)
    if foreign:
        raise FileExistsError(
            f"{folder}, where a save to {path} does its work, holds what this project did not put there "
            f"({', '.join(foreign[:5])}{', …' if len(foreign) > 5 else ''}); it is left as it is. Rename that folder, "
            "or save to another one."
        )
    return journal, known


def _foreign(folder: Path, known: set[str]) -> list[str]:
    """Entries of a folder that are not among the known names, and links, which we never make."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name not in known or entry.is_symlink())


def _of_manifest(folder: Path) -> set[str]:
    """Names of the files of a folder that this project saved, by its manifest; empty for any other folder."""
    manifest = _read(folder / MANIFEST)
    if not str(manifest.get("format", "")).startswith("chatvec_lab "):
        return set()
    files = manifest.get("weights", {}).get("files", {})
    return {MANIFEST, "README.md", *files, *manifest.get("companions", [])}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object from a file, not through a link; empty when there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(handle, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole(folder: Path, shards: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The journal's shards whose content still has the noted digest."""
    good = {}
    for name, noted in shards.items():
        if name not in names:
            continue
        try:
            if file_digest(folder / name) == noted["digest"]:
                good[name] = noted
        except (OSError, ValueError):
            continue
    return good


def _remove(path: Path) -> None:
    """Remove one entry that is known to be ours; a link goes, what it points to stays."""
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    shutil.rmtree(path) if is_folder else path.unlink()


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network disks cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)
