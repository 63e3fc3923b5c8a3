"""Spectra, subspaces and fidelity against float64 numpy."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from pico import SPECIAL, TOKENS
from safetensors.torch import load_file, save_file

from chatvec_lab import Checkpoint, anatomy, figures
from chatvec_lab.anatomy.spectrum import singular_values

NAME = "model.layers.1.mlp.up_proj.weight"


def state(checkpoint):
    tensors = {}
    for file in sorted(checkpoint.folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


@pytest.fixture(scope="module")
def llama(families):
    return [Checkpoint(folder) for folder in families("llama")]


@pytest.fixture(scope="module")
def vectors(llama):
    base, chat, cp = llama
    return {"chat": chat - base, "zh": cp - base}


def folder_of(path, **tensors):
    path.mkdir()
    save_file(
        {name: torch.as_tensor(t).contiguous() for name, t in tensors.items()}, path / "model.safetensors"
    )
    return Checkpoint(path)


def test_spectrum_is_that_of_numpy(llama, vectors):
    base, chat, cp = map(state, llama)
    table = anatomy.spectrum(vectors, rank=10_000, progress=False)
    assert (table.method == "exact").all()
    for (vector, tensor), rows in table.groupby(["vector", "tensor"]):
        delta = ({"chat": chat, "zh": cp}[vector][tensor].double() - base[tensor].double()).numpy()
        values = np.linalg.svd(delta, compute_uv=False)
        np.testing.assert_allclose(rows.singular_value, values, rtol=1e-5, atol=1e-7 * values[0])
        shares = values[values > 1e-12] / values.sum()
        first = rows.iloc[0]
        assert first.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
        assert first.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-5)
        energy = np.cumsum(values**2) / (values**2).sum()
        np.testing.assert_allclose(rows.energy, energy, rtol=1e-5)
        assert first.rank_90 == 1 + np.flatnonzero(energy >= 0.9)[0]
        assert rows["index"].tolist() == list(range(1, len(values) + 1)) and first.largest_rank == min(
            delta.shape
        )


def test_a_part_of_the_spectrum_keeps_the_whole_ranks(vectors):
    whole = anatomy.spectrum(vectors, rank=10_000, tensors="up_proj", progress=False)
    part = anatomy.spectrum(vectors, rank=3, tensors="up_proj", progress=False)
    assert part["index"].max() == 3 and len(part) == 12
    merged = part.merge(whole, on=["vector", "tensor", "index"], suffixes=("", "_whole"))
    for column in ("singular_value", "energy", "effective_rank", "stable_rank", "rank_90"):
        assert (merged[column] == merged[column + "_whole"]).all()


def test_randomized_never_guesses_what_it_cannot_know(tmp_path):
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((n, 120)))[0] for n in (300, 200))
    values = 0.9 ** np.arange(120)
    base = folder_of(tmp_path / "base", w=np.zeros((300, 200), np.float32))
    chat = folder_of(tmp_path / "chat", w=((u * values) @ v.T).astype(np.float32))
    exact, randomized = (
        anatomy.spectrum({"tau": chat - base}, rank=30, method=method, progress=False)
        for method in ("exact", "randomized")
    )
    np.testing.assert_allclose(randomized.singular_value, exact.singular_value, rtol=1e-4)
    np.testing.assert_allclose(randomized.energy, exact.energy, rtol=1e-4)
    assert randomized.effective_rank.isna().all() and exact.effective_rank.notna().all()
    assert randomized.stable_rank[0] == pytest.approx(exact.stable_rank[0], rel=1e-4)
    assert (randomized.rank_90 == exact.rank_90).all()  # reached within the rank
    few = anatomy.spectrum({"tau": chat - base}, rank=2, method="randomized", progress=False)
    assert few.rank_90.isna().all()


def test_gram_route_agrees_with_lapack():
    matrix = np.random.default_rng(1).standard_normal((700, 900)).astype(np.float32)
    matrix[:, 600:] = matrix[:, :300]  # rank 600, so that small values are tried as well
    values = singular_values(matrix)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(values, expected, atol=1e-6 * expected[0])
    np.testing.assert_allclose(singular_values(matrix.T), values, atol=1e-9 * expected[0])


def test_zero_and_left_out_matrices(vectors):
    table = anatomy.spectrum({"tau": vectors["chat"].select(layers=1)}, progress=False)
    assert set(table.layer) == {1}
    base = vectors["chat"].terms[0].leaf.minus
    zero = anatomy.spectrum({"nothing": base - Checkpoint(base.folder)}, tensors="up_proj", progress=False)
    assert (zero.singular_value == 0).all() and zero[["energy", "effective_rank", "stable_rank"]].isna().all(
        axis=None
    )


def test_low_rank_shows_its_rank(vectors):
    table = anatomy.spectrum({"tau": vectors["chat"].low_rank(3)}, tensors="up_proj", rank=6, progress=False)
    values = table[table.layer == 0].singular_value.to_numpy()
    assert (values[:3] > 1e-3).all() and (values[3:] < 1e-6 * values[0]).all()


def test_subspaces_of_a_vector_with_itself_and_another(llama, vectors):
    base, chat, cp = map(state, llama)
    both = {**vectors, "again": 2.0 * vectors["chat"]}
    table = anatomy.subspaces(both, rank=4, tensors="up_proj", progress=False)
    same = table.query("a == 'chat' and b == 'again'")
    assert np.allclose(same.cosine, 1, atol=1e-6) and np.allclose(same.overlap, 1, atol=1e-6)
    pair = table[(table.a == "chat") & (table.b == "zh") & (table.tensor == NAME)]
    spans = [
        np.linalg.svd((m[NAME].double() - base[NAME].double()).numpy(), full_matrices=False)
        for m in (chat, cp)
    ]
    for side, one, other in (
        ("left", spans[0][0][:, :4], spans[1][0][:, :4]),
        ("right", spans[0][2][:4].T, spans[1][2][:4].T),
    ):
        rows = pair[pair.side == side]
        cosines = np.linalg.svd(one.T @ other, compute_uv=False)
        np.testing.assert_allclose(rows.cosine, cosines, atol=1e-4)
        assert rows.overlap.iloc[0] == pytest.approx((cosines**2).mean(), abs=1e-4)
        assert rows.random_overlap.iloc[0] == 4 / len(one)


def test_random_subspaces_overlap_by_chance(vectors):
    noise = {str(seed): vectors["chat"].random_like(seed) for seed in range(5)}
    table = anatomy.subspaces(noise, rank=4, tensors=r"mlp", progress=False).drop_duplicates(
        ["a", "b", "tensor", "side"]
    )
    assert (table.overlap / table.random_overlap).mean() == pytest.approx(1, abs=0.15)


def test_subspaces_compare_tokens_not_rows(families):
    reversed_tokens = SPECIAL + TOKENS[::-1]
    base, chat, cp = map(Checkpoint, families("llama", cp_tokens=reversed_tokens))
    twin = Checkpoint(cp.folder)
    table = anatomy.subspaces(
        {"chat": chat - base, "zh": cp - base, "twin": twin - base},
        rank=3,
        tensors="embed_tokens",
        progress=False,
    )
    assert np.allclose(table.query("a == 'zh' and b == 'twin'").cosine, 1, atol=1e-6)
    weights = [state(c)["model.embed_tokens.weight"].double().numpy() for c in (base, chat, cp)]
    vocabulary = [
        json.loads((c.folder / "tokenizer.json").read_text())["model"]["vocab"] for c in (base, chat, cp)
    ]
    b, c, z = (w[[v[t] for t in SPECIAL + TOKENS]] for w, v in zip(weights, vocabulary, strict=True))
    left = [np.linalg.svd(m - b, full_matrices=False)[0][:, :3] for m in (c, z)]
    rows = table.query("a == 'chat' and b == 'zh' and side == 'left'")
    np.testing.assert_allclose(rows.cosine, np.linalg.svd(left[0].T @ left[1], compute_uv=False), atol=1e-4)


def test_wrong_arguments_are_named(vectors):
    with pytest.raises(ValueError, match="method='fast'"):
        anatomy.spectrum(vectors, method="fast")
    with pytest.raises(ValueError, match="rank=0"):
        anatomy.subspaces(vectors, rank=0)
    with pytest.raises(ValueError, match="tensors='upproj' fits no matrix"):
        anatomy.spectrum(vectors, tensors="upproj")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_fidelity_is_that_of_torch(llama, vectors, dtype):
    base, chat, cp = map(state, llama)
    table = anatomy.fidelity(llama[2], vectors["chat"], [0.125, 0.5, 1.0], [dtype], progress=False)
    kind = getattr(torch, dtype)
    for row in table.itertuples():
        tau = (chat[row.tensor].double() - base[row.tensor].double()) * row.scale
        # powers of two keep the sum exact in float32, so that torch rounds once; at 0.1 it would round 2 % wrongly
        merged = (cp[row.tensor].double() + tau).to(kind).double()
        effective = merged - cp[row.tensor].to(kind).double()
        assert row.unchanged == pytest.approx((effective == 0).double().mean().item())
        if tau.norm() == 0:
            assert np.isnan(row.relative_error)
            continue
        assert row.relative_error == pytest.approx(
            ((effective - tau).norm() / tau.norm()).item(), rel=0.01, abs=1e-7
        )
        if effective.norm():
            cosine = (effective * tau).sum() / effective.norm() / tau.norm()
            assert row.cosine == pytest.approx(cosine.item(), abs=1e-9)
        assert row.l2 == pytest.approx(tau.norm().item(), rel=1e-9)
        assert row.parameters == tau.numel() and row.share_zero == (tau == 0).double().mean().item()


def test_fidelity_is_what_save_writes(llama, vectors, tmp_path):
    cp = llama[2]
    (cp + 0.3 * vectors["chat"]).save(tmp_path / "merged", progress=False)
    saved, before = state(Checkpoint(tmp_path / "merged")), state(cp)
    table = anatomy.fidelity(cp, vectors["chat"], [0.3], progress=False)
    for row in table.itertuples():
        assert row.unchanged == (saved[row.tensor] == before[row.tensor]).double().mean().item()


def test_the_effective_delta_is_a_vector_of_its_own(llama, vectors):
    cp, tau = llama[2], vectors["chat"]
    measured = anatomy.norms({"effective": (cp + 0.3 * tau) - cp}, progress=False).set_index("tensor").l2
    left = anatomy.fidelity(cp, tau, [0.3], progress=False).set_index("tensor").effective_l2
    np.testing.assert_allclose(measured[left.index], left, rtol=1e-6)


def test_fidelity_grows_with_the_scale_and_the_dtype(llama, vectors):
    table = anatomy.combine(
        anatomy.fidelity(llama[2], vectors["chat"], [1.0, 0.1], ["bfloat16", "float32"], progress=False),
        "model",
    ).set_index(["scale", "dtype"])
    error = table.relative_error
    assert error[0.1, "bfloat16"] > error[1.0, "bfloat16"] > error[1.0, "float32"]
    assert table.unchanged[0.1, "bfloat16"] > table.unchanged[1.0, "bfloat16"]
    assert table.cosine[1.0, "float32"] == pytest.approx(1, abs=1e-6)


def test_scale_zero_moves_nothing(llama, vectors):
    table = anatomy.fidelity(llama[2], vectors["chat"], [0], progress=False)
    assert (table.unchanged == 1).all() and table.relative_error.isna().all() and table.cosine.isna().all()
    assert anatomy.combine(table, "model").unchanged[0] == 1


def test_fidelity_leaves_out_rows_that_only_the_cp_knows(families):
    base, chat, cp = map(Checkpoint, families("llama", cp_tokens=[*SPECIAL, "new", *TOKENS]))
    table = anatomy.fidelity(cp, chat - base, [1.0], progress=False).set_index("tensor")
    row = table.loc["lm_head.weight"]
    assert row.parameters == base.shape("lm_head.weight")[0] * base.shape("lm_head.weight")[1]
    assert row.unchanged < 0.5  # the CP's own row, which does not move, is not among them


def test_combined_fidelity_is_that_of_all_elements(llama, vectors):
    base, chat, cp = map(state, llama)
    table = anatomy.fidelity(llama[2], vectors["chat"], [0.5], progress=False)
    row = anatomy.combine(table).iloc[0]
    names = table.tensor
    tau = torch.cat([(chat[n].double() - base[n].double()).reshape(-1) * 0.5 for n in names])
    before = torch.cat([cp[n].double().reshape(-1) for n in names])
    left = (before + tau).to(torch.bfloat16).double() - before
    assert row.relative_error == pytest.approx(((left - tau).norm() / tau.norm()).item(), rel=1e-9)
    assert row.cosine == pytest.approx((left @ tau / left.norm() / tau.norm()).item(), abs=1e-9)
    assert row.unchanged == pytest.approx((left == 0).double().mean().item())
    assert row.parameters == tau.numel()
    pd.testing.assert_series_equal(anatomy.combine(anatomy.combine(table, "layer")).iloc[0], row, rtol=1e-9)


def test_fidelity_names_what_goes_wrong(llama, vectors):
    with pytest.raises(ValueError, match=r"dtypes \['int8'\]"):
        anatomy.fidelity(llama[2], vectors["chat"], [1.0], ["int8"])
    with pytest.raises(ValueError, match="at least one finite number"):
        anatomy.fidelity(llama[2], vectors["chat"], [float("nan")])
    with pytest.raises(ValueError, match="at scale 1e\\+08 as float16"):
        anatomy.fidelity(llama[2], vectors["chat"], [1e8], ["float16"], progress=False)
    with pytest.raises(TypeError, match="expected a checkpoint and a weight vector"):
        anatomy.fidelity(vectors["chat"], llama[2], [1.0])


def test_the_noise_floor_is_that_of_the_members(llama, vectors):
    table = anatomy.fidelity(llama[2], vectors["chat"], [0.5], progress=False)
    assert (table.noise_floor.dropna() == 0).all()


@pytest.mark.filterwarnings("ignore:.*rounding noise of both")
def test_the_noise_floor_of_quantised_members_is_near_the_true_error(tmp_path):
    from gguf_files import save_llama
    from quantised_files import quantise

    base = save_llama(tmp_path / "base", dtype=torch.bfloat16)
    save_llama(tmp_path / "chat", near=base, step=0.01, dtype=torch.bfloat16, seed=1)
    for name in ("base", "chat"):
        quantise(tmp_path / name, tmp_path / f"{name}-8", "ct int8")
    members = {name: Checkpoint(tmp_path / name) for name in ("base", "chat", "base-8", "chat-8")}
    exact, noisy = members["chat"] - members["base"], members["chat-8"] - members["base-8"]
    floors = anatomy.fidelity(members["base-8"], noisy, [0.25, 1.0], progress=False)
    by_module = anatomy.combine(floors, "module").set_index(["module", "scale"]).noise_floor
    names = [n for n in exact.names if exact.part(n).module == "mlp"]
    error = sum(float((noisy.read(n).double() - exact.read(n).double()).square().sum()) for n in names) ** 0.5
    length = sum(float(noisy.read(n).double().square().sum()) for n in names) ** 0.5
    assert by_module["mlp", 1.0] == pytest.approx(error / length, rel=0.2)
    assert by_module["mlp", 0.25] == pytest.approx(by_module["mlp", 1.0])
    assert by_module["head", 1.0] == 0  # not quantised
    ax = figures.fidelity(anatomy.combine(floors))
    assert "expected quantisation noise" in [line.get_label() for line in ax.lines]
    with pytest.raises(ValueError, match="hold the rounding of some"):
        anatomy.fidelity(members["base"], noisy, [1.0], progress=False)
    assert len(anatomy.fidelity(members["base"], noisy, [1.0], allow_mixed=True, progress=False))
