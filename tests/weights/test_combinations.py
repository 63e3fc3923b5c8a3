"""Combinations beside the plain vector, each against a few lines of its paper's formula on the same tensors."""

import numpy as np
import pytest
import torch
from pico import CP_TOKENS

from chatvec_lab import Checkpoint
from chatvec_lab.weights import combinations

GATE, EMBEDDING, NORM = (
    "model.layers.1.mlp.gate_proj.weight",
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
)


@pytest.fixture(scope="module")
def members(families):
    base, chat, cp = map(Checkpoint, families("llama"))
    return base, chat, cp


@pytest.fixture(scope="module")
def vectors(members):
    base, chat, cp = members
    return chat - base, cp - base


def exactly(vector, name):
    return vector.read(name, dtype=torch.float64).numpy()


@pytest.mark.parametrize("name", [GATE, EMBEDDING, NORM])
def test_what_is_projected_off_is_orthogonal_to_the_direction(vectors, name):
    tau, v = (exactly(vector, name) for vector in vectors)
    found = exactly(combinations.projected_off(*vectors), name)
    expected = tau - (tau * v).sum() / (v * v).sum() * v
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-18)
    assert abs((found * v).sum()) < 1e-9 * np.abs(tau * v).sum()


def test_nothing_is_left_of_a_vector_off_itself_and_all_of_it_off_nothing(vectors):
    tau, _ = vectors
    assert np.abs(exactly(combinations.projected_off(tau, 3 * tau), GATE)).max() < 1e-15
    still = combinations.projected_off(tau, 0.0 * tau)
    assert np.array_equal(exactly(still, GATE), exactly(tau, GATE))


def test_a_direction_with_more_tokens_pairs_by_token(families):
    base, chat, cp = map(Checkpoint, families("llama", cp_tokens=CP_TOKENS))
    tau, v = chat - base, cp - base
    found = combinations.projected_off(tau, v)
    ours, theirs, paired = exactly(tau, EMBEDDING), exactly(v, EMBEDDING), np.zeros((63, 16))
    assert len(theirs) == 79
    for token, row in base.vocabulary.tokens.items():
        if token in cp.vocabulary.tokens:
            paired[row] = theirs[cp.vocabulary.tokens[token]]
    expected = ours - (ours * paired).sum() / (paired * paired).sum() * paired
    assert np.allclose(exactly(found, EMBEDDING), expected, rtol=1e-12, atol=1e-18)


def test_the_projection_brings_taus_template_and_not_the_cps(families):
    base, chat, cp = map(Checkpoint, families("llama"))
    assert combinations.projected_off(chat - base, cp - base).chat_side.template == chat.chat_template
    assert combinations.projected_off(cp - base, chat - base).chat_side is None, (
        "the direction gives no template"
    )


def test_any_span_of_a_projection_is_the_same(vectors):
    made = combinations.projected_off(*vectors)
    whole = made.read(GATE)
    assert torch.equal(made.read(GATE, slice(5, 11)), whole[5:11])


def test_swapped_layers_are_the_chat_models_own(members, vectors):
    _, chat, cp = members
    model = cp + combinations.swapped(*vectors, layers=range(1, 2))
    for name in cp.names:
        expected = chat if ".1." in name else cp if ".layers." in name else cp + vectors[0]
        assert torch.equal(model.read(name), expected.read(name)), name


def test_a_layer_of_transition_is_the_mean_of_both(members, vectors):
    _, chat, cp = members
    model = cp + combinations.swapped(*vectors, layers=range(1, 2), transition=1)
    name = "model.layers.0.mlp.up_proj.weight"
    mean = (chat.read(name).double() + cp.read(name).double()) / 2
    assert torch.equal(model.read(name), mean.to(torch.bfloat16))


def test_weights_are_numbers_or_schedules(members, vectors):
    _, chat, cp = members
    mixed = combinations.weighted(vectors, [lambda layer, module: 0.5 if module == "mlp" else 0.0, -2])
    tau, v = (exactly(vector, GATE) for vector in vectors)
    assert np.allclose(exactly(mixed, GATE), 0.5 * tau - 2 * v, rtol=1e-12)
    assert np.array_equal(exactly(mixed, NORM), -2 * exactly(vectors[1], NORM))
    assert (cp + combinations.weighted(vectors, [0, 0])).chat_template == chat.chat_template


def test_what_makes_no_sense_is_refused(vectors):
    tau, v = vectors
    for wrong in (range(0), range(2), range(1, 3), range(0, 2, 2), range(-1, 1)):
        with pytest.raises(ValueError, match="some but not all of the layers 0 to 1"):
            combinations.swapped(tau, v, layers=wrong)
    with pytest.raises(ValueError, match="transition=-1"):
        combinations.swapped(tau, v, layers=range(1), transition=-1)
    with pytest.raises(TypeError, match="a list of weight vectors"):
        combinations.weighted([], [])
    with pytest.raises(ValueError, match="1 weights for 2 vectors"):
        combinations.weighted([tau, v], [1])
