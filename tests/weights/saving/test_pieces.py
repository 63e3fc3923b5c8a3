"""A file made in pieces, by several threads in any order: its bytes, on disks with and without a way past the cache."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from chatvec_lab.weights.saving import pieces
from chatvec_lab.weights.saving.pieces import PieceFile


def make(path, content: bytes, steps, threads=3):
    """Put `content` in spans of uint16 of these lengths, in any order; how many were made in their place."""
    ends = np.cumsum(steps)
    spans = [(int(end - step), int(end)) for end, step in zip(ends, steps, strict=True)]
    np.random.default_rng(len(spans)).shuffle(spans)
    placed = []

    def one(span):
        start, stop = span
        values = np.frombuffer(content[start:stop], np.uint8)
        raw = file.place(start, values.dtype, stop - start)
        if raw is None:
            raw = values
        else:
            raw[:] = values
            placed.append(span)
        file.put(start, raw)

    with ThreadPoolExecutor(1) as disk, ThreadPoolExecutor(threads) as pool:
        file = PieceFile(path, len(content), disk, [])
        try:
            list(pool.map(one, spans))
            file.finish()
        finally:
            file.close()
    return len(placed)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 8192)


@pytest.mark.parametrize("size", [1, 4095, 8192, 8193, 5 * 8192 + 13])
def test_every_byte_is_in_its_place(small, tmp_path, size):
    rng = np.random.default_rng(size)
    content, steps = rng.bytes(size), [int(n) for n in rng.integers(1, 700, size)]
    while sum(steps) > size:
        steps.pop()
    steps += [size - sum(steps)] if sum(steps) < size else []
    placed = make(tmp_path / "file", content, steps)
    assert (tmp_path / "file").read_bytes() == content
    assert 0 < placed <= len(steps)


def test_one_span_over_many_pieces(small, tmp_path):
    content = np.random.default_rng(0).bytes(10 * 8192 + 5)
    assert make(tmp_path / "file", content, [3, len(content) - 3]) == 1
    assert (tmp_path / "file").read_bytes() == content


def test_elements_are_made_in_place_where_they_are_aligned(small, tmp_path):
    with ThreadPoolExecutor(1) as disk:
        file = PieceFile(tmp_path / "file", 100, disk, [])
        kind = np.dtype(np.float32)
        assert file.place(3, kind, 2) is None and file.place(4, kind, 2).dtype == kind
        file.close()


@pytest.mark.parametrize("refused_at", ["open", "write"])
def test_a_disk_that_cannot_do_without_the_cache(small, tmp_path, monkeypatch, refused_at):
    real_open, real_write, refused = os.open, os.pwrite, []

    def opened(path, flags, *mode, **more):
        if refused_at == "open" and flags & os.O_DIRECT:
            refused.append(path)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, *mode, **more)

    def written(handle, data, offset):
        import fcntl

        if refused_at == "write" and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(handle)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(handle, data[:5000], offset)  # nor all at once

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "pwrite", written)
    content = np.random.default_rng(0).bytes(3 * 8192 + 5)
    make(tmp_path / "file", content, [1000] * 24 + [len(content) - 24000])
    assert (tmp_path / "file").read_bytes() == content and len(refused) == 1


def test_a_disk_that_fails_is_told_and_no_handle_is_left(small, tmp_path, monkeypatch):
    def full(handle, data, offset):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    before = sorted(os.listdir("/proc/self/fd"))
    for size in (10, 40 * 8192):  # in `finish`, and in `put`, which waits for pieces before
        with pytest.raises(OSError, match="No space left"):
            make(tmp_path / "file", bytes(size), [size])
    assert sorted(os.listdir("/proc/self/fd")) == before
