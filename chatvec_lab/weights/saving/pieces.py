"""A new file, made by several threads in any order, that goes to the disk in large pieces, each as soon as it is whole.

It goes past the page cache where the system allows that (O_DIRECT): a save waits for the disk anyway, and fresh pages of
the cache are a copy more, which on a virtual machine may cost many times what the merge does.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import threading
from collections import deque
from concurrent.futures import Executor, Future, wait
from pathlib import Path

import numpy as np

PIECE = 1 << 22  # bytes
WAITING = 4  # whole pieces that may wait for the disk; then the threads wait for it, too
_PAGE = 4096  # past the cache, what is written begins and ends at multiples of this
_DIRECT = getattr(os, "O_DIRECT", 0)
_begin = getattr(
    ctypes.CDLL(None), "sync_file_range", None
)  # of Linux: have the disk begin, wait for nothing


class PieceFile:
    """The new file `path` of `size` bytes. `disk` is a pool of one thread; `spare` keeps buffers from file to file."""

    def __init__(self, path: Path, size: int, disk: Executor, spare: list[np.ndarray]):
        self.size, self._disk, self._spare = size, disk, spare
        self._handle = _opened(path)
        self._lock = threading.Lock()
        self._begun: dict[int, tuple[np.ndarray, int]] = {}  # a piece's number: buffer, bytes that it lacks
        self._waiting: deque[Future[None]] = deque()
        try:
            os.ftruncate(self._handle, size)
        except BaseException:
            os.close(self._handle)
            raise

    def place(self, offset: int, dtype: np.dtype, count: int) -> np.ndarray | None:
        """Where elements that begin at a byte may be made, to be `put` then; None where two pieces share them."""
        number, begin = divmod(offset, PIECE)
        end = begin + count * dtype.itemsize
        if end > PIECE or begin % dtype.itemsize:
            return None
        return self._piece(number)[begin:end].view(dtype)

    def put(self, offset: int, raw: np.ndarray | bytes) -> None:
        """Add what belongs at a byte: made in its place, or copied there now. Each byte is put once."""
        data = np.frombuffer(raw, np.uint8)
        while data.size:
            number, begin = divmod(offset, PIECE)
            part, piece = data[: PIECE - begin], self._piece(number)
            place = piece[begin : begin + part.size]
            if not np.may_share_memory(place, part):
                place[:] = part
            self._count(number, part.size)
            offset, data = offset + part.size, data[part.size :]

    def finish(self) -> None:
        """Wait until all of it is on the disk; raises what kept a piece from that."""
        while self._waiting:
            self._waiting.popleft().result()
        os.ftruncate(self._handle, self.size)  # the last piece was written to the end of its page
        os.fsync(self._handle)

    def close(self) -> None:
        wait(self._waiting)  # a piece must not go to whatever gets this handle next
        os.close(self._handle)

    def _piece(self, number: int) -> np.ndarray:
        with self._lock:
            if number not in self._begun:
                length = min(PIECE, self.size - number * PIECE)
                self._begun[number] = (self._spare.pop() if self._spare else _buffer()), length
            return self._begun[number][0]

    def _count(self, number: int, size: int) -> None:
        ahead = None
        with self._lock:
            piece, lacking = self._begun[number]
            self._begun[number] = piece, lacking - size
            if lacking == size:
                del self._begun[number]
                self._waiting.append(self._disk.submit(self._write, number * PIECE, piece))
                if len(self._waiting) > WAITING:
                    ahead = self._waiting.popleft()
        if ahead is not None:
            ahead.result()

    def _write(self, offset: int, piece: np.ndarray) -> None:
        length = min(PIECE, -(-(self.size - offset) // _PAGE) * _PAGE)
        data, done = memoryview(piece)[:length], 0
        while done < length:
            try:
                done += os.pwrite(self._handle, data[done:], offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not _go_through_cache(self._handle):
                    raise
        if _begin is not None:
            _begin(self._handle, ctypes.c_int64(offset), ctypes.c_int64(length), 2)  # `finish` tells errors
        self._spare.append(piece)


def _buffer() -> np.ndarray:
    pages = mmap.mmap(-1, PIECE)  # begins at a page
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def _opened(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags | _DIRECT, 0o644)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # what a disk answers that cannot do without the cache
            raise
        return os.open(path, flags, 0o644)


def _go_through_cache(handle: int) -> bool:
    """False where it does so already."""
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    fcntl.fcntl(handle, fcntl.F_SETFL, flags & ~_DIRECT)
    return bool(flags & _DIRECT)
