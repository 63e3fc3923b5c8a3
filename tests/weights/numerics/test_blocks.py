"""The buffers of a worker: what several terms read of one checkpoint is read once, and nobody spoils it for another."""

import numpy as np
import pytest
import torch
from pico import TOKENS

from chatvec_lab import Checkpoint, WeightVector
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace, block_spans

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
