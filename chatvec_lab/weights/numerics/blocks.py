"""The grid on which tensors are streamed, and the buffers of one worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from chatvec_lab.weights.sources import files

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint

BLOCK = 1 << 18  # elements of a block
TOGETHER = 2  # blocks that one worker reads, combines and writes at a time: fewer cost time, more cost memory


def block_spans(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The flat spans of a tensor's blocks: whole rows of the last axis, about `BLOCK` elements each.

    A function of the shape alone, so that digests and noise do not depend on who asks.
    """
    size, width = prod(shape), (shape[-1] if len(shape) > 1 else 1)
    step = max(1, BLOCK // max(1, width)) * width
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def work_spans(shape: tuple[int, ...], together: int = TOGETHER) -> list[tuple[int, int]]:
    """The flat spans in which a tensor is streamed: a few whole blocks each."""
    blocks = block_spans(shape)
    firsts = range(0, len(blocks), together)
    return [(blocks[i][0], blocks[min(i + together, len(blocks)) - 1][1]) for i in firsts]


def measure_spans(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The flat spans in which a tensor is measured, for which fewer buffers are needed: larger, where that leaves many."""
    spans = work_spans(shape, 2 * TOGETHER)
    return spans if len(spans) >= 4 else work_spans(shape)


def block_digests(blocks: dict[int, int], start: int, raw: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(first element, digest) of each block that lies whole in `raw`, which begins at element `start`, a block's first.

    `blocks`: where each of the tensor's blocks begins and ends.
    """
    first, stop = start, start + raw.size
    while (end := blocks.get(first, stop + 1)) <= stop:
        yield first, xxhash.xxh3_128_digest(raw[first - start : end - start])
        first = end


class Workspace:
    """Buffers that one thread reuses from block to block (fresh ones would cost a page fault each 4 KB).

    What is read twice of one block, such as a base that several differences share, is read once.
    """

    def __init__(self, record: Callable[[Checkpoint, str, int, np.ndarray], None] | None = None):
        self.record = record  # sees every block that is read, for digests
        self._arrays: dict[np.dtype, list[np.ndarray]] = {}
        self._used: dict[np.dtype, int] = {}
        self._read: dict[tuple[Checkpoint, str, int, int], np.ndarray] | None = {}  # None: shares nothing

    def array(self, dtype: np.dtype, size: int) -> np.ndarray:
        pool, used = self._arrays.setdefault(dtype, []), self._used.get(dtype, 0)
        if used == len(pool):
            pool.append(np.empty(size, dtype))
        elif pool[used].size < size:
            pool[used] = np.empty(size, dtype)
        self._used[dtype] = used + 1
        return pool[used][:size]

    def mark(self) -> dict:
        return dict(self._used)

    def release(self, mark: dict | None = None) -> None:
        self._used = mark or {}
        if self._read:
            self._read.clear()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is read meanwhile belongs to who reads it, who may overwrite it."""
        with self._reading(None):
            yield

    @contextmanager
    def shared(self) -> Iterator[None]:
        """What is read meanwhile is read once, also within what is `apart`: not to be overwritten."""
        with self._reading({} if self._read is None else self._read):
            yield

    @contextmanager
    def _reading(self, into: dict | None) -> Iterator[None]:
        before, self._read = self._read, into
        try:
            yield
        finally:
            self._read = before

    def has(self, source: Checkpoint, name: str, raw: np.ndarray) -> None:
        """Hand out `raw` where this whole tensor is asked for."""
        self._read[source, name, 0, raw.size] = raw

    def fill(self, source: Checkpoint, name: str, start: int, stop: int) -> np.ndarray:
        """Elements of a checkpoint, raw; not to be overwritten, but for what is read `apart`."""
        key = (source, name, start, stop)
        if self._read and key in self._read:
            return self._read[key]
        raw = self.read(*key)
        if self._read is not None:
            self._read[key] = raw
        return raw

    def read(self, source: Checkpoint, name: str, start: int, stop: int) -> np.ndarray:
        raw = self.array(files.NUMPY_DTYPES[source.dtype_name(name)], stop - start)
        source.fill(name, start, stop, raw)
        if self.record is not None:
            self.record(source, name, start, raw)
        return raw
