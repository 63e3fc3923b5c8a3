"""select, scheduled and the transforms: which tensors, and which values."""

import numpy as np
import pytest
import torch
from pico import CP_TOKENS

from chatvec_lab import Checkpoint
from chatvec_lab.weights.layout.naming import parts_of
from chatvec_lab.weights.numerics.arrays import randomised_svd
from chatvec_lab.weights.numerics.draws import GENERATOR
from chatvec_lab.weights.transforms import ties


@pytest.fixture(scope="module")
def tau(families):
    base, chat, _ = map(Checkpoint, families("llama"))
    return chat - base


@pytest.fixture(scope="module")
def cp_vector(families):
    base, _, cp = map(Checkpoint, families("llama"))
    return cp - base


NAMES = {
    "model.layers.10.self_attn.q_proj.weight": (10, "attention"),
    "model.layers.0.post_attention_layernorm.weight": (0, "norm"),
    "model.layers.3.self_attn.q_norm.weight": (3, "norm"),
    "model.norm.weight": (None, "norm"),
    "model.layers.2.self_attn.qkv_proj.weight": (2, "attention"),
    "model.layers.2.mlp.gate_up_proj.weight": (2, "mlp"),
    "model.layers.1.block_sparse_moe.gate.weight": (1, "router"),
    "model.layers.1.block_sparse_moe.experts.7.w1.weight": (1, "mlp"),
    "model.layers.1.mlp.experts.3.down_proj.weight": (1, "mlp"),
    "model.layers.1.mlp.gate.weight": (1, "router"),
    "model.layers.1.mlp.gate_proj.weight": (1, "mlp"),
    "gpt_neox.layers.5.attention.query_key_value.bias": (5, "attention"),
    "gpt_neox.layers.5.mlp.dense_h_to_4h.weight": (5, "mlp"),
    "gpt_neox.final_layer_norm.weight": (None, "norm"),
    "gpt_neox.embed_in.weight": (None, "embedding"),
    "embed_out.weight": (None, "head"),
    "transformer.h.4.ln_1.weight": (4, "norm"),
    "transformer.h.4.attn.c_attn.weight": (4, "attention"),
    "transformer.ln_f.weight": (None, "norm"),
    "transformer.word_embeddings_layernorm.weight": (None, "norm"),
    "model.decoder.layers.1.fc1.weight": (1, "mlp"),
    "model.layers.0.mlp.fc2.bias": (0, "mlp"),
    "language_model.model.layers.6.mlp.up_proj.weight": (6, "mlp"),
    "model.embed_tokens.weight": (None, "embedding"),
    "lm_head.weight": (None, "head"),
    "lm_head.bias": (None, "head"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_tell_layer_and_module(name):
    part = parts_of([name])[name]
    assert (part.layer, part.module) == NAMES[name]


def test_schedules_multiply(tau):
    varied = (
        (2 * tau)
        .scheduled(lambda layer, module: 0.5 if module == "mlp" else (layer or 0))
        .select(modules="mlp|norm")
    )
    for name in tau.names:
        part = tau.part(name)
        factor = {"mlp": 1.0, "norm": 2.0 * (part.layer or 0)}.get(part.module, 0.0)
        assert torch.equal(varied.read(name), factor * tau.read(name))


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_magnitude_keeps_exactly_the_largest(tau, density):
    sparse = tau.sparsified("magnitude", density=density)
    for name in tau.names:
        full, kept = tau.read(name).flatten(), sparse.read(name).flatten()
        mask = kept != 0
        assert torch.equal(kept[mask], full[mask])
        count = max(1, round(density * full.numel()))
        assert mask.sum() <= count and mask.sum() >= count - (full == 0).sum()
        if mask.any() and (~mask).any():
            assert full[mask].abs().min() >= full[~mask].abs().max() or mask.sum() < count


def test_dare_is_seeded_rescaled_and_the_same_in_any_span(tau):
    name = "model.layers.0.mlp.up_proj.weight"
    one, same, other = (tau.sparsified("dare", density=0.3, seed=s).read(name) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    mask = one != 0
    assert torch.allclose(one[mask], tau.read(name)[mask] / 0.3, rtol=1e-6)
    assert 0.2 < mask.float().mean() < 0.4
    assert torch.equal(tau.sparsified("dare", density=0.3, seed=1).read(name, slice(3, 8)), one[3:8])
    with pytest.raises(ValueError, match=r"density=1\.5"):
        tau.sparsified("dare", density=1.5)
    with pytest.raises(ValueError, match="magnitude, dare"):
        tau.sparsified("drop", density=0.5)


def test_low_rank_is_the_best_approximation_and_says_what_it_keeps(tau):
    small = tau.low_rank(4)
    name = "model.layers.0.mlp.up_proj.weight"
    full = tau.read(name).double()
    u, s, v = torch.linalg.svd(full, full_matrices=False)
    best = (u[:, :4] * s[:4]) @ v[:4]
    assert torch.allclose(small.read(name).double(), best, atol=1e-7)
    assert torch.equal(small.read(name, slice(5, 9)), small.read(name)[5:9])
    whole = small.describe()[0]["whole"]
    assert "model.norm.weight" in whole and "model.embed_tokens.weight" in whole and name not in whole
    assert torch.equal(small.read("model.norm.weight"), tau.read("model.norm.weight"))
    with pytest.raises(ValueError, match="rank=0"):
        tau.low_rank(0)


def test_randomised_svd_finds_the_leading_values():
    rng = np.random.default_rng(0)
    matrix = (
        (rng.standard_normal((300, 200)) * 0.9 ** np.arange(200)) @ rng.standard_normal((200, 200))
    ).astype(np.float32)
    exact = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[:10]
    u, s, v = randomised_svd(matrix, 10, seed=0)
    assert np.allclose(s, exact, rtol=1e-3)
    assert np.allclose(u.T @ u, np.eye(10), atol=1e-5) and np.allclose(v @ v.T, np.eye(10), atol=1e-5)


def test_noise_has_the_norms_and_nothing_else(tau):
    noise, other = tau.random_like(0), tau.random_like(1)
    for name in tau.names:
        a, b, c = tau.read(name).double(), noise.read(name).double(), other.read(name).double()
        assert torch.allclose(b.norm(), a.norm(), rtol=1e-6)
        assert (
            abs(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)) < 5 / a.numel() ** 0.5
        )
        assert not torch.equal(b, c)
    name = "model.embed_tokens.weight"
    assert torch.equal(noise.read(name, slice(7, 9)), noise.read(name)[7:9])
    assert noise.chat_side is None and tau.chat_side is not None


def test_the_recipe_names_the_generator(tau):
    """Other numbers from the same seed are another recipe: nothing is resumed or looked up across them."""
    for vector in (tau.random_like(0), tau.sparsified("dare", density=0.5)):
        assert vector.describe()[0]["generator"] == GENERATOR
    assert "generator" not in tau.sparsified("dare", density=1.0).describe()[0]


def test_rows_of_tokens_and_the_rest_are_the_vector(tau):
    rows = tau.at_tokens(["w3", "</s>"])
    ids = [tau.vocabulary.tokens[token] for token in ("w3", "</s>")]
    for name in tau.names:
        whole, own, rest = tau.read(name), rows.read(name), (tau - rows).read(name)
        if tau.is_table(name):
            assert torch.equal(own[ids], whole[ids]) and own[ids].any(1).all()
            assert own.any(1).sum() == 2 and not rest[ids].any()
            assert torch.equal(own + rest, whole) and torch.equal(rows.read(name, slice(4, 7)), own[4:7])
        else:
            assert not own.any() and torch.equal(rest, whole)
    assert rows.chat_side is not None and rows.describe()[0]["rows"] == ["w3", "</s>"]
    with pytest.raises(KeyError, match=r"no row of '<\|user\|>'"):
        tau.at_tokens(["w3", "<|user|>"]).read("model.embed_tokens.weight")
    for wrong in ("w3", []):
        with pytest.raises(TypeError, match="list of tokens"):
            tau.at_tokens(wrong)


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_trims_elects_signs_and_averages_what_agrees(tau, cp_vector, density):
    merged = ties([tau, cp_vector, 0.5 * tau - cp_vector], density=density)
    for name in tau.names:
        vectors = [v.read(name, dtype=torch.float64).numpy().ravel() for v in (tau, cp_vector)]
        vectors.append(0.5 * vectors[0] - vectors[1])
        kept = max(1, round(density * vectors[0].size))
        for vector in vectors:  # trim: of equals the first stay
            vector[np.argsort(-np.abs(vector).astype(np.float32), kind="stable")[kept:]] = 0
        sign = np.where(
            sum(vectors) >= 0, 1, -1
        )  # elect; where all cancel to 0 the positive ones, as in mergekit
        agree = [np.where(np.sign(vector) == sign, vector, 0) for vector in vectors]
        want = sum(agree) / np.maximum(1, sum(vector != 0 for vector in agree))  # disjoint mean
        np.testing.assert_allclose(
            merged.read(name, dtype=torch.float64).numpy().ravel(), want, rtol=1e-12, atol=0
        )
    with pytest.raises(TypeError, match="list of weight vectors"):
        ties([])


@pytest.mark.parametrize("change", ["sparsified", "low_rank", "at_tokens", "random_like", "ties", "sum"])
def test_transforms_reach_a_larger_vocabulary_by_token(families, change, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama", cp_tokens=CP_TOKENS))
    tau = chat - base
    vector = {
        "sparsified": lambda: tau.sparsified("dare", density=0.5),
        "low_rank": lambda: tau.low_rank(2),
        "at_tokens": lambda: tau.at_tokens(["w3", "<s>"]),
        "random_like": lambda: tau.random_like(0),
        "ties": lambda: ties([tau, 0.5 * tau]),
        "sum": lambda: tau + 0.3 * (cp - base),
    }[change]()
    name = "model.embed_tokens.weight"
    merged, own, before = (cp + vector).read(name), vector.read(name), cp.read(name)
    ids = chat.vocabulary.tokens
    for row, token in enumerate(CP_TOKENS):
        delta = own[ids[token]] if token in ids else torch.zeros(16)
        assert torch.allclose(merged[row].float(), before[row].float() + delta, atol=2e-3), token
        if token not in ids:
            assert torch.equal(merged[row], before[row])
    (cp + vector).save(tmp_path / "out", progress=False, verify=True)
