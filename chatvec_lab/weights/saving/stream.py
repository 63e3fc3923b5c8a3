"""Write tensors into safetensors shards, block by block: reading, computing and writing overlap in few threads.

One worker reads and computes a block with one thread of arithmetic; several workers overlap each other, and one thread
writes the pieces of a file that they make whole (`pieces`).
(Two OpenMP threads that spin on each small operation were measured eight times slower on a busy machine.)
"""

from __future__ import annotations

import errno
import json
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import xxhash

from chatvec_lab.cores import cores
from chatvec_lab.weights.numerics.blocks import Workspace, block_digests, block_spans, work_spans
from chatvec_lab.weights.saving.pieces import PieceFile
from chatvec_lab.weights.sources import files

Produce = Callable[[str, int, int, np.ndarray, Workspace], None]


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * files.NUMPY_DTYPES[self.dtype].itemsize


def workers(jobs: int | None = None) -> int:
    """Threads that read, compute and write: `jobs`, or (None) one a core that this process may use, two to eight.

    TypeError and ValueError for `jobs` that are no whole number, 1 or more.
    """
    if jobs is None:
        return max(2, min(8, cores()))
    if isinstance(jobs, bool) or not hasattr(jobs, "__index__"):
        raise TypeError(
            f"jobs={jobs!r}: expected a whole number of threads, or None (one a core, two to eight)."
        )
    if jobs < 1:
        raise ValueError(f"jobs={jobs}: expected 1 thread or more, or None (one a core, two to eight).")
    return int(jobs)


def parse_size(size: str | int) -> int:
    """Bytes from a number or text such as "5GB" (powers of 1000) or "500MiB" (powers of 1024).

    >>> parse_size("5GB"), parse_size("1MiB")
    (5000000000, 1048576)
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    units = {"B": 1, **{f"{u}B": 1000 ** (i + 1) for i, u in enumerate("KMGT")}}
    units |= {f"{u}IB": 1024 ** (i + 1) for i, u in enumerate("KMGT")}
    text = str(size).strip().upper()
    number = text.rstrip("KMGTIB")
    try:
        return int(float(number) * units[text[len(number) :].strip() or "B"]) or units["?"]
    except (KeyError, ValueError):
        raise ValueError(
            f"max_shard_size={size!r}: expected bytes or a text such as '5GB' or '500MB'."
        ) from None


def layout(groups: list[list[Tensor]], limit: int, stem: str = "model") -> dict[str, list[Tensor]]:
    """File name to tensors: the source's shards are kept, those over the limit are cut in file order."""
    shards: list[list[Tensor]] = []
    for group in groups:
        current: list[Tensor] = []
        for tensor in group:
            if current and sum(t.nbytes for t in current) + tensor.nbytes > limit:
                shards.append(current)
                current = []
            current.append(tensor)
        shards.append(current)
    if len(shards) == 1:
        return {f"{stem}.safetensors": shards[0]}
    return {f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards, 1)}


def index_of(shards: dict[str, list[Tensor]]) -> dict | None:
    """The content of `model.safetensors.index.json`; None for a single file."""
    if len(shards) == 1:
        return None
    total = sum(t.nbytes for tensors in shards.values() for t in tensors)
    weight_map = {t.name: file for file, tensors in shards.items() for t in tensors}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def header(tensors: list[Tensor]) -> tuple[bytes, dict[str, int]]:
    """The safetensors header and each tensor's first byte in the file."""
    offsets, position, entries = {}, 0, {"__metadata__": {"format": "pt"}}
    for tensor in tensors:
        offsets[tensor.name] = position
        span = [position, position + tensor.nbytes]
        entries[tensor.name] = {
            "dtype": files.CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": span,
        }
        position += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    prefix = struct.pack("<Q", len(text)) + text
    return prefix, {name: len(prefix) + offset for name, offset in offsets.items()}


def progress_bar(total: int, path: Path, progress: bool):
    """A bar over bytes, on a terminal or in a notebook; none when `progress` is False or TQDM_DISABLE is set."""
    from tqdm import tqdm

    shown = (
        progress
        and not os.environ.get("TQDM_DISABLE")
        and ("ipykernel" in sys.modules or sys.stderr.isatty())
    )
    return tqdm(total=total, unit="B", unit_scale=True, desc=path.name, disable=not shown)


class Streamer:
    """A pool of `workers(jobs)`, each with buffers of its own, that fills shards. Use as a context manager."""

    def __init__(
        self,
        produce: Produce,
        *,
        record=None,
        progress: Callable[[int], object] = lambda n: None,
        jobs: int | None = None,
    ):
        self.produce, self.record, self.progress = produce, record, progress
        self._local = threading.local()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(workers(jobs), thread_name_prefix="chatvec-stream")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="chatvec-disk")  # writes pieces
        self._end = ThreadPoolExecutor(1, thread_name_prefix="chatvec-end")  # waits for the disk
        self._spare: list[np.ndarray] = []
        self._last: Future[None] | None = None

    def __enter__(self) -> Streamer:
        return self

    def __exit__(self, kind, *_):
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._end.shutdown(wait=True)
        self._disk.shutdown(wait=True)

    def _workspace(self) -> Workspace:
        if not hasattr(self._local, "work"):
            self._local.work = Workspace(self.record)
        return self._local.work

    def write(self, path: Path, tensors: list[Tensor], whole: Callable[[dict[str, str]], None]) -> None:
        """Write one shard under a temporary name; `whole` gets each tensor's digest once it is on the disk and renamed.

        The disk may take its time: the next shard is computed meanwhile. `settle` waits for the last one.
        """
        prefix, offsets = header(tensors)
        temporary = path.with_name(path.name + ".part")
        size = len(prefix) + sum(t.nbytes for t in tensors)
        with ExitStack() as unless_whole:
            unless_whole.enter_context(_named(path, size))
            file = PieceFile(temporary, size, self._disk, self._spare)
            unless_whole.callback(file.close)
            file.put(0, prefix)
            digests = self._run(
                tensors,
                lambda t, start, raw: file.put(offsets[t.name] + start * raw.itemsize, raw),
                lambda t, start, kind, count: file.place(
                    offsets[t.name] + start * kind.itemsize, kind, count
                ),
            )
            self.settle()
            closing = unless_whole.pop_all()

        def finish() -> None:
            with closing:
                file.finish()  # a journal must not name a shard that a power cut can still lose
                os.replace(temporary, path)
                whole(digests)

        self._last = self._end.submit(finish)

    def settle(self) -> None:
        """Wait until the last shard is whole; raises what kept it from that."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def compare(self, tensors: list[Tensor], stored) -> list[str]:
        """Names of tensors whose stored bytes differ from what `produce` gives."""
        differing: set[str] = set()

        def check(tensor: Tensor, start: int, raw: np.ndarray) -> None:
            if stored.raw(tensor.name, start, start + raw.size).tobytes() != raw.tobytes():
                differing.add(tensor.name)

        self._run(tensors, check)
        return sorted(differing)

    def _run(
        self,
        tensors: list[Tensor],
        deliver: Callable[[Tensor, int, np.ndarray], None],
        place: Callable[[Tensor, int, np.dtype, int], np.ndarray | None] = lambda *_: None,
    ) -> dict[str, str]:
        """Digests by tensor. `place` may give an array that a span is to be made in."""
        blocks = {tensor.name: dict(block_spans(tensor.shape)) for tensor in tensors}
        digests: dict[str, dict[int, bytes]] = {tensor.name: {} for tensor in tensors}

        def work(tensor: Tensor, start: int, stop: int) -> None:
            if self._stop.is_set():
                return
            space = self._workspace()
            space.release()
            kind, count = files.NUMPY_DTYPES[tensor.dtype], stop - start
            raw = place(tensor, start, kind, count)
            if raw is None:
                raw = space.array(kind, count)
            self.produce(tensor.name, start, stop, raw, space)
            digests[tensor.name].update(block_digests(blocks[tensor.name], start, raw))
            deliver(tensor, start, raw)
            self.progress(raw.nbytes)

        jobs: list[Future] = [
            self._pool.submit(work, tensor, start, stop)
            for tensor in tensors
            for start, stop in work_spans(tensor.shape)
        ]
        try:
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
        except BaseException:  # also Ctrl-C: stop the workers before the file is closed under them
            self._stop.set()
            for job in jobs:
                job.cancel()
            wait(jobs)
            raise
        return {name: _join(found) for name, found in digests.items()}


@contextmanager
def _named(path: Path, size: int) -> Iterator[None]:
    """A full disk is told with the name of the shard."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"no room for {path.name} ({size:,} bytes) in {path.parent}: {error.strerror}. Whole shards are "
            "kept; make room and save again to go on from there",
        ) from error


def _join(blocks: dict[int, bytes]) -> str:
    total = xxhash.xxh3_128()
    for start in sorted(blocks):
        total.update(blocks[start])
    return total.hexdigest()
