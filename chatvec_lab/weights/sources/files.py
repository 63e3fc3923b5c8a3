"""Tensors that lie in files: where each begins, and how a span of one is read into the caller's buffer.

Every file format ends as the same thing, a list of `Entry` (file, offset, dtype, shape), so that each read is one
`pread`: no file is ever mapped or loaded whole. Open files come from one small pool.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np

from chatvec_lab import reading

# dtype names are torch's; bfloat16 travels as uint16, bool and the 8-bit floats as uint8
SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "C64": "complex64",
}  # fmt: skip
CODES = {name: code for code, name in SAFETENSORS_DTYPES.items()}
FLOATS = ("float16", "bfloat16", "float32", "float64")
NUMPY_DTYPES = {name: np.dtype(name) for name in CODES if name.startswith(("int", "uint"))}
NUMPY_DTYPES |= {name: np.dtype(name) for name in FLOATS if name != "bfloat16"}
NUMPY_DTYPES |= {
    "bfloat16": np.dtype(np.uint16),
    "bool": np.dtype(np.uint8),
    "complex64": np.dtype(np.complex64),
}
NUMPY_DTYPES |= {name: np.dtype(np.uint8) for name in CODES if name.startswith("float8")}


class Tensors(Protocol):
    """A source: where named tensors come from. Opening one reads headers only.

    `note` is "" or what a reader must know ("dequantised from Q8_0").
    """

    note: str

    @property
    def names(self) -> list[str]: ...
    def dtype(self, name: str) -> str: ...  # in torch's words: "bfloat16"
    def shape(self, name: str) -> tuple[int, ...]: ...
    def file(self, name: str) -> str: ...  # the name of the file that holds it: the sharding to keep
    def place(self, name: str) -> Hashable: ...  # equal for two tensors of one memory, also of two openings
    def fill(
        self, name: str, start: int, stop: int, out: np.ndarray
    ) -> np.ndarray: ...  # raw stored elements
    def quantised(self, name: str) -> str: ...  # from which format a tensor is dequantised; "" for whole ones
    def stored_dtype(
        self, name: str
    ) -> str: ...  # as it lies in the file, where `dtype` is what it is read as
    def noise(
        self, name: str, start: int, stop: int
    ) -> float: ...  # an estimate: sum of squares that its quantisation took from these elements
    def fingerprint(
        self,
    ) -> str: ...  # headers, sizes, identity and times of the files: stable between openings
    def check(self) -> None: ...  # OSError when what was opened is no longer what lies there


@dataclass(frozen=True)
class Entry:
    """One stored tensor: `offset` in bytes from the start of `file`, contiguous in row-major order."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * NUMPY_DTYPES[self.dtype].itemsize


class Stored:
    """The tensors of some files on this machine, by their entries (see `Tensors`).

    `also` are further files that say what the tensors are (an index): they count for `fingerprint` and `check`.
    """

    def __init__(self, entries: Mapping[str, Entry], *, also: tuple[Path, ...] = (), note: str = ""):
        self.entries, self.note = dict(entries), note
        files = dict.fromkeys([*(entry.file for entry in self.entries.values()), *also])
        self._states = {path: state_of(path) for path in files}

    @property
    def names(self) -> list[str]:
        return list(self.entries)

    def entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise KeyError(no_such(name, self.entries))
        return self.entries[name]

    def dtype(self, name: str) -> str:
        return self.entry(name).dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return self.entry(name).shape

    def file(self, name: str) -> str:
        return self.entry(name).file.name

    def place(self, name: str) -> Hashable:
        entry = self.entry(name)
        return entry.file, self._states[entry.file], entry.offset

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        """Read the flat elements [start, stop) into `out`, a raw array of at least that length; returns the view."""
        entry = self.entry(name)
        view = out[: stop - start]
        data = memoryview(view).cast("B")
        start_byte = entry.offset + start * view.itemsize
        if not HANDLES.read(entry.file, self._states[entry.file], data, start_byte):
            raise OSError(f"{entry.file} ended while {name!r} was being read; was it changed meanwhile?")
        return view

    def mapped(self, name: str) -> np.ndarray | None:
        """The flat elements as they lie in the file: read when they are touched, and forgotten when memory is short.

        What is written to them stays in memory. None where the file does not align them, or there are none.
        """
        entry = self.entry(name)
        kind = NUMPY_DTYPES[entry.dtype]
        if not entry.size or entry.offset % kind.itemsize:
            return None
        return np.memmap(entry.file, kind, "c", entry.offset, (entry.size,)).view(np.ndarray)

    def quantised(self, name: str) -> str:
        return ""

    def stored_dtype(self, name: str) -> str:
        return self.dtype(name)

    def noise(self, name: str, start: int, stop: int) -> float:
        return 0.0

    def fingerprint(self) -> str:
        files = [[str(path), *state[1:]] for path, state in sorted(self._states.items())]
        tensors = [[name, e.file.name, e.offset, e.dtype, e.shape] for name, e in self.entries.items()]
        return hashlib.sha256(json.dumps([files, tensors]).encode()).hexdigest()

    def check(self) -> None:
        for path, state in self._states.items():
            if not path.exists() or state_of(path) != state:
                raise OSError(changed(path))


def state_of(path: Path) -> tuple[int, int, int, int]:
    """What tells one state of a file from another without reading it: device, inode, size and time of change."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_is_no_pointer(path: Path) -> None:
    """ValueError for what Git leaves in the place of a large file that it has not fetched."""
    with open(path, "rb") as file:
        if file.read(24) == b"version https://git-lfs.":
            raise ValueError(
                f"{path} is a pointer of Git LFS and not the file itself: fetch it with `git lfs pull`, or download the model "
                "with `hf download`."
            )


def changed(path: Path) -> str:
    return (
        f"{path} was changed after it had been opened: is something writing it (a training run, a download)? "
        "Nothing was kept of it. Wait until it is whole, or give a copy, and start again."
    )


def no_such(name: str, names) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"no tensor {name!r}." + (f" Did you mean {near[0]!r}?" if near else "")


class Handles:
    """At most `limit` idle open files, the longest unused closed first; one that is being read is never closed."""

    def __init__(self, limit: int = 48):
        self.limit = limit
        self._lock = threading.Lock()
        self._idle: OrderedDict[tuple[Path, tuple], list[int]] = OrderedDict()
        self._count = 0

    def read(self, path: Path, state: tuple[int, int, int, int], data: memoryview, offset: int) -> bool:
        """Fill `data` from this byte on; False where the file ends before. OSError when another file lies there now."""
        handle = self._take((path, state))
        if handle is None:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(handle)
            if (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) != state:
                raise OSError(changed(path))
            done = 0
            while done < len(data):
                count = os.preadv(handle, [data[done:]], offset + done)
                if count == 0:
                    break
                done += count
        except BaseException:
            os.close(handle)
            raise
        self._give((path, state), handle)
        return done == len(data)

    def _take(self, key: tuple) -> int | None:
        with self._lock:
            free = self._idle.get(key)
            if not free:
                return None
            handle = free.pop()
            self._count -= 1
            if not free:
                del self._idle[key]
            return handle

    def _give(self, key: tuple, handle: int) -> None:
        spare = None
        with self._lock:
            self._idle.setdefault(key, []).append(handle)
            self._idle.move_to_end(key)
            self._count += 1
            if self._count > self.limit:
                oldest = next(iter(self._idle))
                spare = self._idle[oldest].pop(0)
                self._count -= 1
                if not self._idle[oldest]:
                    del self._idle[oldest]
        if spare is not None:
            os.close(spare)

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle, self._count = self._idle, OrderedDict(), 0
        for handle in (handle for free in idle.values() for handle in free):
            os.close(handle)

    def forget_lock(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = threading.Lock()


HANDLES = Handles()
os.register_at_fork(after_in_child=HANDLES.forget_lock)


def read_json(path: Path) -> dict:
    """A JSON object from a file; {} where there is no file. ValueError names a file that holds anything else."""
    if not path.is_file():
        return {}
    try:
        return reading.read_json(path)
    except ValueError as error:
        raise ValueError(f"{error} Download or copy it again.") from error
