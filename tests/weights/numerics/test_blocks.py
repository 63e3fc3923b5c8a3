"""The buffers of a worker: what several terms read of one checkpoint is read once, and nobody spoils it for another."""

import json

import numpy as np
import pytest
import torch
import xxhash
from pico import TOKENS

from chatvec_lab import Checkpoint, WeightVector
from chatvec_lab.weights.numerics import blocks, exact
from chatvec_lab.weights.numerics.blocks import Workspace, block_digests, block_spans, work_spans

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def members(families):
    return tuple(map(Checkpoint, families("llama")))


def alone(vector, name, start, stop):
    """The parts of a sum, each term read by itself."""
    return [part for term in vector.terms for part in WeightVector((term,)).parts(name, start, stop)]


def test_a_base_that_two_differences_share_is_read_once(members):
    base, chat, cp = members
    read = []
    work = Workspace(lambda source, name, start, raw: read.append(source.label))
    vector = 0.7 * (chat - base) + 0.3 * (cp - base)
    out = np.empty(60, np.float32)
    for start in (0, 60):
        parts = vector.parts(NAME, start, start + 60, work=work)
        exact.combine(None, parts, out)
        apart = alone(vector, NAME, start, start + 60)
        assert np.array_equal(out, exact.combine(None, apart, np.empty(60, np.float32)))
        work.release()
    assert sorted(read) == sorted([base.label, chat.label, cp.label] * 2)


def test_what_was_read_is_read_again_after_a_release(members):
    base = members[0]
    work = Workspace()
    first = work.fill(base, NAME, 0, 10)
    assert work.fill(base, NAME, 0, 10) is first and work.fill(base, NAME, 0, 11) is not first
    mark = work.mark()
    work.fill(base, NAME, 5, 9)
    work.release(mark)
    assert work.fill(base, NAME, 0, 10) is not first
    with work.apart():
        assert work.fill(base, NAME, 20, 30) is not work.fill(base, NAME, 20, 30)


@pytest.mark.parametrize(
    "change",
    [
        lambda tau: tau.sparsified("dare", density=0.5, seed=0),
        lambda tau: tau.sparsified("magnitude", density=0.5),
        lambda tau: tau.random_like(0),
        lambda tau: tau.at_tokens(TOKENS[:2]),
    ],
)
def test_a_transform_beside_a_plain_difference_spoils_nothing(members, change):
    """Both read base and chat; the transform overwrites what it read."""
    base, chat, cp = members
    tau = chat - base
    for vector in (tau + change(tau), change(tau) + tau, tau - 0.5 * change(cp - base)):
        for name in (NAME, "model.embed_tokens.weight"):
            for start, stop in block_spans(vector.shape(name)):
                apart = alone(vector, name, start, stop)
                whole = exact.combine(None, apart, np.empty(stop - start, np.float32))
                assert np.array_equal(vector.read(name).numpy().reshape(-1)[start:stop], whole)
        merged, raw = (cp + vector).read(NAME).reshape(-1), cp.raw(NAME)
        wanted = exact.combine(raw, alone(vector, NAME, 0, raw.size), np.empty_like(raw))
        assert np.array_equal(merged.view(torch.uint8).numpy(), wanted.view(np.uint8))


def test_a_worker_takes_whole_blocks_together(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 40)
    assert block_spans((7, 20)) == [(0, 40), (40, 80), (80, 120), (120, 140)]
    assert work_spans((7, 20)) == [(0, 80), (80, 140)] and work_spans((5, 20)) == [(0, 80), (80, 100)]
    assert work_spans((3,)) == [(0, 3)] and work_spans((0, 20)) == []


def test_each_block_has_a_digest_whatever_is_read_with_it():
    raw, grid = np.arange(140, dtype=np.uint16), {0: 40, 40: 80, 80: 120, 120: 140}
    wanted = {a: xxhash.xxh3_128_digest(raw[a:b]) for a, b in grid.items()}
    assert dict(block_digests(grid, 0, raw)) == wanted
    assert dict(block_digests(grid, 40, raw[40:120])) == {k: wanted[k] for k in (40, 80)}
    assert dict(block_digests(grid, 40, raw[40:100])) == {40: wanted[40]}  # the next one is not whole
    assert dict(block_digests(grid, 20, raw[20:120])) == {}  # off the grid


@pytest.mark.parametrize("together", [1, 3])
def test_bytes_and_digests_do_not_depend_on_the_span_of_a_worker(members, tmp_path, monkeypatch, together):
    base, chat, cp = members
    monkeypatch.setattr(blocks, "BLOCK", 96)
    merged = (
        cp + 0.7 * (chat - base).random_like(3) + 0.3 * (chat - base).sparsified("magnitude", density=0.4)
    )
    merged.save(tmp_path / "as-it-is", progress=False)
    monkeypatch.setattr(blocks, "TOGETHER", together)
    merged = (
        cp + 0.7 * (chat - base).random_like(3) + 0.3 * (chat - base).sparsified("magnitude", density=0.4)
    )
    merged.save(tmp_path / "other", progress=False)
    one, other = (tmp_path / name for name in ("as-it-is", "other"))
    for file in one.glob("*.safetensors"):
        assert file.read_bytes() == (other / file.name).read_bytes()
    first, second = (json.loads((folder / "manifest.json").read_text()) for folder in (one, other))
    assert first["weights"] == second["weights"] and first["sources"] == second["sources"]
