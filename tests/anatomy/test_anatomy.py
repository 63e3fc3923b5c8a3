"""The anatomy's numbers against float64 numpy on pico models, and the identities that they must obey."""

import json
import threading
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from pico import SPECIAL, TOKENS, save_model
from safetensors.torch import load_file

from chatvec_lab import Checkpoint, anatomy
from chatvec_lab.anatomy import kernels
from chatvec_lab.anatomy.blocks import run

LARGER = (
    SPECIAL + [f"n{i}" for i in range(7)] + TOKENS[::-1]
)  # new tokens, and the known ones in another order


def state(checkpoint):
    tensors = {}
    for file in sorted(checkpoint.folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def rows_by_token(checkpoint):
    vocabulary = json.loads((checkpoint.folder / "tokenizer.json").read_text())["model"]["vocab"]
    return dict(vocabulary)


@pytest.fixture(scope="module")
def llama(families):
    return [Checkpoint(folder) for folder in families("llama")]


@pytest.fixture(scope="module")
def larger(families):
    return [Checkpoint(folder) for folder in families("llama", cp_tokens=LARGER)]


@pytest.fixture(scope="module")
def surveyed(llama):
    base, chat, cp = llama
    return anatomy.survey({"chat": chat - base, "zh": cp - base}, top=0.05, progress=False)


def mean(values):
    return values.mean() if values.size else np.nan


def deltas(one, other):
    return {name: one[name] - other[name] for name in one}


def test_norms_are_those_of_numpy(llama, surveyed):
    base, chat, cp = map(state, llama)
    assert surveyed.norms.vector.unique().tolist() == ["chat", "zh"]
    for row in surveyed.norms.itertuples():
        delta = ({"chat": chat, "zh": cp}[row.vector][row.tensor] - base[row.tensor]).ravel()
        l2 = np.linalg.norm(delta)
        assert row.l2 == pytest.approx(l2, rel=1e-6)
        assert row.base_l2 == pytest.approx(np.linalg.norm(base[row.tensor]), rel=1e-6)
        assert row.relative_l2 == pytest.approx(l2 / np.linalg.norm(base[row.tensor]), rel=1e-6)
        assert row.rms == pytest.approx(np.sqrt((delta**2).mean()), rel=1e-6)
        assert row.max_abs == pytest.approx(np.abs(delta).max(), rel=1e-6)
        assert row.parameters == delta.size
        assert row.share_zero == (delta == 0).mean()
        assert row.share_above == (np.abs(delta.astype(np.float32)) > np.float32(0.002)).mean()


def test_norms_name_layer_and_module(surveyed):
    rows = surveyed.norms.set_index(["vector", "tensor"])
    assert rows.loc[("chat", "model.layers.1.mlp.up_proj.weight")][["layer", "module"]].tolist() == [1, "mlp"]
    assert rows.loc[("chat", "model.norm.weight")].module == "norm"
    assert pd.isna(rows.loc[("chat", "lm_head.weight")].layer)


def test_cosines_are_those_of_numpy(llama, surveyed):
    base, chat, cp = map(state, llama)
    assert len(surveyed.cosines) == len(base)
    for row in surveyed.cosines.itertuples():
        a, b = ((model[row.tensor] - base[row.tensor]).ravel() for model in (chat, cp))
        scale = np.linalg.norm(a) * np.linalg.norm(b)
        moved = (a != 0) & (b != 0)
        assert row.both_moved == moved.sum()
        assert row.sign_agreement == pytest.approx(mean((np.sign(a) == np.sign(b))[moved]), nan_ok=True)
        if scale == 0:  # 0.002 is less than half a step of bfloat16 around 1
            assert row.module == "norm" and np.isnan(row.cosine)
            continue
        assert row.cosine == pytest.approx(a @ b / scale, abs=1e-6)
        assert row.random_sd == pytest.approx(a.size**-0.5)
        assert row.signs_sd == pytest.approx(np.sqrt(a**2 @ b**2) / scale, rel=1e-5)


def test_the_random_band_is_what_random_vectors_give(llama):
    base, chat, _ = llama
    noise = {str(seed): (chat - base).random_like(seed) for seed in range(6)}
    table = anatomy.cosines(noise, progress=False).dropna()
    assert (table.cosine / table.random_sd).std() == pytest.approx(1, abs=0.12)
    assert (table.cosine / table.signs_sd).std() == pytest.approx(1, abs=0.12)


def test_interference_is_exact_for_small_tensors(llama, surveyed):
    base, chat, cp = map(state, llama)
    for row in surveyed.interference.itertuples():
        a, b = ((model[row.tensor] - base[row.tensor]).ravel() for model in (chat, cp))
        tops = []
        for delta in (a, b):
            size = np.abs(delta).astype(np.float32)
            tops.append((size >= np.sort(size)[-max(1, round(0.05 * size.size))]) & (size > 0))
        both = tops[0] & tops[1]
        assert (row.top_a, row.top_b) == (tops[0].mean(), tops[1].mean())
        if not (a.any() and b.any()):
            assert np.isnan(row.overlap)
            continue
        assert row.overlap == pytest.approx(both.sum() / min(t.sum() for t in tops))
        assert row.expected_overlap == pytest.approx(max(t.mean() for t in tops))
        opposed = mean((np.sign(a) != np.sign(b))[both])
        assert row.opposed == pytest.approx(opposed, nan_ok=True)


def test_a_vector_meets_itself_and_its_opposite(llama):
    base, chat, _ = llama
    tau = chat - base
    table = anatomy.survey({"tau": tau, "same": tau, "minus": -tau, "half": 0.5 * tau}, progress=False)
    cosine = table.cosines.set_index(["a", "b"]).cosine.groupby(level=[0, 1]).agg(["min", "max"])
    assert np.allclose(cosine.loc[("tau", "same")], 1, atol=1e-12)
    assert np.allclose(cosine.loc[("tau", "minus")], -1, atol=1e-12)
    assert np.allclose(cosine.loc[("minus", "half")], -1, atol=1e-7)
    same = table.interference.query("a == 'tau' and b == 'same'")
    assert (same.overlap == 1).all() and (same.opposed == 0).all()
    assert (table.interference.query("a == 'tau' and b == 'minus'").opposed == 1).all()
    assert (table.cosines.query("b == 'minus' and a == 'tau'").sign_agreement == 0).all()


@pytest.mark.parametrize("scale", [2.0, -0.5, 0.7, 1e-3])
def test_norm_of_a_multiple(llama, scale):
    base, chat, _ = llama
    table = anatomy.norms({"tau": chat - base, "multiple": scale * (chat - base)}, progress=False)
    tau, multiple = (table[table.vector == name].reset_index() for name in ("tau", "multiple"))
    np.testing.assert_allclose(multiple.l2, abs(scale) * tau.l2, rtol=1e-7)
    np.testing.assert_allclose(multiple.relative_l2, abs(scale) * tau.relative_l2, rtol=1e-7)
    assert (multiple.share_zero == tau.share_zero).all()


def test_a_sum_of_vectors_is_measured_like_its_sum(llama):
    base, chat, cp = llama
    summed = deltas(state(chat), state(base)), deltas(state(cp), state(base))
    table = anatomy.norms({"sum": (chat - base) - 0.5 * (cp - base)}, progress=False)
    for row in table.itertuples():
        expected = np.linalg.norm(summed[0][row.tensor] - 0.5 * summed[1][row.tensor])
        assert row.l2 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["qwen2", "mixtral", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_architectures_and_dtypes(families, kind, dtype):
    base, chat, cp = map(Checkpoint, families(kind, dtype=dtype))
    table = anatomy.survey({"chat": chat - base, "zh": cp - base}, progress=False)
    weights = [{c.layout.published(n): t for n, t in state(c).items()} for c in (base, chat, cp)]
    for row in table.norms.itertuples():
        model = weights[1 if row.vector == "chat" else 2]
        assert row.l2 == pytest.approx(
            np.linalg.norm(model[row.tensor] - weights[0][row.tensor]), rel=1e-6, abs=1e-9
        )
    whole = anatomy.combine(table.cosines).iloc[0]
    a, b = (
        np.concatenate([(m[n] - weights[0][n]).ravel() for n in table.norms.tensor.unique()])
        for m in weights[1:]
    )
    assert whole.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


def test_rows_pair_by_token_and_new_ones_do_not_count(larger):
    base, chat, cp = larger
    table = anatomy.survey({"chat": chat - base, "zh": cp - base}, progress=False)
    states, rows = [state(c) for c in larger], [rows_by_token(c) for c in larger]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tokens = SPECIAL + TOKENS
        b, c, z = (np.stack([s[name][r[t]] for t in tokens]) for s, r in zip(states, rows, strict=True))
        norm = table.norms.set_index(["vector", "tensor"]).loc[("zh", name)]
        assert norm.l2 == pytest.approx(np.linalg.norm(z - b), rel=1e-6)
        assert norm.parameters == b.size
        assert norm.base_l2 == pytest.approx(np.linalg.norm(b), rel=1e-6)
        pair = table.cosines.set_index("tensor").loc[name]
        expected = ((c - b) * (z - b)).sum() / np.linalg.norm(c - b) / np.linalg.norm(z - b)
        assert pair.cosine == pytest.approx(expected, abs=1e-6)
        assert pair.parameters == b.size


def test_norms_do_not_depend_on_the_company(larger):
    base, chat, cp = larger
    alone = anatomy.norms({"zh": cp - base}, progress=False)
    together = anatomy.survey({"chat": chat - base, "zh": cp - base}, progress=False).norms
    together = together[together.vector == "zh"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, together, rtol=1e-12)


def test_vocabulary_tells_shared_new_and_special_rows(larger):
    base, chat, cp = larger
    table = anatomy.vocabulary({"chat": chat - base, "zh": cp - base}, progress=False)
    zh = table[(table.vector == "zh") & (table.module == "embedding")].set_index("rows")
    assert zh["count"].to_dict() == {"shared": len(TOKENS), "special": len(SPECIAL), "new": 7}
    own, ids = state(cp)["model.embed_tokens.weight"], rows_by_token(cp)
    new = np.stack([own[ids[f"n{i}"]] for i in range(7)])
    assert zh.loc["new"].model_rms == pytest.approx(np.sqrt((new**2).mean()), rel=1e-6)
    assert pd.isna(zh.loc["new"].l2) and pd.isna(
        zh.loc["new"].base_rms
    )  # no difference is not a zero difference
    theirs, base_ids = state(base)["model.embed_tokens.weight"], rows_by_token(base)
    special = np.stack([own[ids[t]] - theirs[base_ids[t]] for t in SPECIAL])
    assert zh.loc["special"].l2 == pytest.approx(np.linalg.norm(special), rel=1e-6)
    norms = anatomy.norms({"zh": cp - base}, progress=False).set_index("tensor")
    total = np.hypot(zh.loc["shared"].l2, zh.loc["special"].l2)
    assert norms.loc["model.embed_tokens.weight"].l2 == pytest.approx(total, rel=1e-12)


def test_three_vocabularies_at_once(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama", cp_tokens=LARGER))
    folder = save_model(tmp_path / "ko", seed=9, near=base.folder, tokens=[*SPECIAL, *TOKENS, "k0", "n3"])
    ko = Checkpoint(folder)
    vectors = {"chat": chat - base, "zh": cp - base, "ko": ko - base}
    together = anatomy.survey(vectors, progress=False).cosines.query("tensor == 'lm_head.weight'")
    for row in together.itertuples():
        alone = anatomy.cosines({n: vectors[n] for n in (row.a, row.b)}, progress=False)
        assert alone.set_index("tensor").loc["lm_head.weight"].cosine == pytest.approx(row.cosine, abs=1e-12)
        assert (
            row.parameters == 63 * base.shape("lm_head.weight")[1]
        )  # n3 is new in both, so neither has a difference there


def test_zero_tensors_have_no_direction(llama):
    base, chat, cp = llama
    tau, zh = (chat - base).select(modules="attention"), cp - base
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = anatomy.survey({"chat": tau, "zh": zh}, progress=False)
    mlp = table.cosines[table.cosines.module == "mlp"]
    assert mlp.cosine.isna().all() and mlp.sign_agreement.isna().all() and (mlp.l2_a == 0).all()
    norms = table.norms[(table.norms.module == "mlp") & (table.norms.vector == "chat")]
    assert (norms.l2 == 0).all() and (norms.relative_l2 == 0).all() and (norms.share_zero == 1).all()
    interference = table.interference[table.interference.module == "mlp"]
    assert (interference.top_a == 0).all() and interference.overlap.isna().all()
    whole = anatomy.combine(table.cosines).iloc[0]
    full = anatomy.combine(anatomy.cosines({"chat": chat - base, "zh": zh}, progress=False), "module")
    attention = full[full.module == "attention"].iloc[0]
    total = anatomy.combine(anatomy.norms({"zh": zh}, progress=False)).iloc[0].l2
    assert whole.cosine == pytest.approx(attention.cosine * attention.l2_b / total, rel=1e-9)


def test_a_nan_makes_its_tensor_missing_and_is_named_once(families, tmp_path):
    base, chat, _ = map(Checkpoint, families("llama"))
    name = "model.layers.0.mlp.up_proj.weight"

    def spoil(parameters):
        parameters[name][3, 5] = float("nan")

    broken = Checkpoint(save_model(tmp_path / "nan", seed=3, near=base.folder, change=spoil))
    with pytest.warns(UserWarning, match=f"1 tensors hold NaN[^$]*zh: {name}") as caught:
        table = anatomy.survey({"chat": chat - base, "zh": broken - base}, progress=False)
    assert sum(warning.category is UserWarning for warning in caught) == 1
    zh = table.norms[table.norms.vector == "zh"].set_index("tensor")
    assert zh.loc[name, ["l2", "rms", "max_abs", "share_zero"]].isna().all()
    assert zh.drop(name).l2.notna().all()
    assert table.cosines.set_index("tensor").loc[name, ["cosine", "sign_agreement", "l2_b"]].isna().all()
    layers = anatomy.combine(table.norms, by="layer").query("vector == 'zh'")
    assert layers.set_index("layer").l2.isna().to_dict()[0] and layers.l2.notna().sum() == 2


def test_a_tensor_of_one_element(tmp_path):
    from safetensors.torch import save_file

    folders = []
    for i, value in enumerate((1.0, 1.5, 0.25)):
        folder = tmp_path / str(i)
        folder.mkdir()
        save_file(
            {"gate": torch.tensor([value]), "scalar": torch.tensor(value)}, folder / "model.safetensors"
        )
        folders.append(Checkpoint(folder))
    base, chat, cp = folders
    table = anatomy.survey({"chat": chat - base, "zh": cp - base}, progress=False)
    assert table.norms.l2.tolist() == [0.5, 0.5, 0.75, 0.75]
    assert table.cosines.cosine.tolist() == [-1, -1] and table.cosines.random_sd.tolist() == [1, 1]
    assert anatomy.spectrum({"chat": chat - base}, progress=False).empty  # no matrix, no spectrum


def test_combination_is_that_of_all_elements(llama, surveyed):
    base, chat, cp = map(state, llama)
    norms, cosines = surveyed.norms, surveyed.cosines
    for axes in ("layer", "module", "model", ["layer", "module"]):
        keys = [] if axes == "model" else [axes] if isinstance(axes, str) else axes
        for row in anatomy.combine(cosines, axes).to_dict("records"):
            chosen = cosines
            for key in keys:
                chosen = chosen[
                    chosen[key].isna() if pd.isna(row[key]) else (chosen[key] == row[key]).fillna(False)
                ]
            a, b, theirs = (
                np.concatenate([(x[n] - (y[n] if y else 0)).ravel() for n in chosen.tensor])
                for x, y in ((chat, base), (cp, base), (base, None))
            )
            scale = np.linalg.norm(a) * np.linalg.norm(b)
            assert row["cosine"] == pytest.approx(a @ b / scale if scale else np.nan, abs=1e-7, nan_ok=True)
            moved = (a != 0) & (b != 0)
            assert row["sign_agreement"] == pytest.approx(
                mean((np.sign(a) == np.sign(b))[moved]), nan_ok=True
            )
            assert row["random_sd"] == pytest.approx(a.size**-0.5)
            size = anatomy.combine(norms[norms.tensor.isin(chosen.tensor)]).set_index("vector").loc["chat"]
            assert size.l2 == pytest.approx(np.linalg.norm(a), rel=1e-6)
            assert size.relative_l2 == pytest.approx(np.linalg.norm(a) / np.linalg.norm(theirs), rel=1e-6)
            assert size.max_abs == pytest.approx(np.abs(a).max(), rel=1e-6)
            assert size.share_zero == pytest.approx((a == 0).mean())


def test_combined_interference_counts_entries(surveyed):
    table, whole = surveyed.interference, anatomy.combine(surveyed.interference).iloc[0]
    n_a, n_b = table.top_a * table.parameters, table.top_b * table.parameters
    met = (table.overlap.fillna(0) * np.minimum(n_a, n_b)).sum()
    assert whole.overlap == pytest.approx(met / np.minimum(n_a, n_b).sum())
    assert whole.top_a == pytest.approx(n_a.sum() / table.parameters.sum())


def test_combine_refuses_what_it_cannot_add(surveyed):
    with pytest.raises(ValueError, match="expected one from norms"):
        anatomy.combine(pd.DataFrame({"x": [1]}))
    with pytest.raises(ValueError, match="by='depth'"):
        anatomy.combine(surveyed.norms, "depth")
    with pytest.raises(ValueError, match="columns of that name"):
        anatomy.combine(anatomy.combine(surveyed.norms, "layer"), "module")


def test_families_of_different_depth_in_one_table(families):
    vectors = {}
    for kind in ("llama", "qwen2"):
        base, chat, _ = map(Checkpoint, families(kind))
        vectors[kind] = {"chat": chat - base}
    table = anatomy.family_norms(vectors, progress=False)
    assert table.columns[0] == "family" and set(table.family) == {"llama", "qwen2"}
    layered = table.dropna(subset="layer")
    assert (layered.relative_depth == layered.layer / 2).all()
    combined = anatomy.combine(table, "layer")
    assert {"family", "relative_depth"} <= set(combined) and len(combined) == 6


def test_transforms_do_not_disturb_their_neighbours(llama):
    base, chat, _ = llama
    tau = chat - base
    vectors = {"sparse": tau.sparsified("magnitude", density=0.1), "tau": tau, "noise": tau.random_like(0)}
    table = anatomy.survey(vectors, progress=False).norms
    alone = anatomy.norms({"tau": tau}, progress=False)
    pd.testing.assert_frame_equal(table[table.vector == "tau"].reset_index(drop=True), alone, rtol=1e-12)
    l2 = table.pivot(index="tensor", columns="vector", values="l2")
    np.testing.assert_allclose(l2.noise, l2.tau, rtol=1e-5)
    assert (table[table.vector == "sparse"].share_zero >= 0.85).all()


def test_a_stored_vector_has_no_base(llama, tmp_path):
    base, chat, _ = llama
    (chat - base).save(tmp_path / "tau", progress=False)
    stored = type(chat - base).load(tmp_path / "tau")
    table = anatomy.survey({"tau": chat - base, "stored": stored}, progress=False)
    assert np.allclose(table.cosines.cosine, 1, atol=1e-12)
    assert table.norms[table.norms.vector == "stored"].relative_l2.isna().all()


def test_each_block_is_read_once(llama, monkeypatch):
    base, chat, cp = llama
    asked = []
    fill = Checkpoint.fill

    def counted(self, name, start, stop, out):
        asked.append((self.label, name, start, stop))
        return fill(self, name, start, stop, out)

    monkeypatch.setattr(Checkpoint, "fill", counted)
    monkeypatch.setattr(
        "chatvec_lab.anatomy.onepass._Tops._find", lambda self, pieces, reader: [1] * 3
    )  # no sample
    again = Checkpoint(base.folder)  # the same files, opened twice
    anatomy.survey({"chat": chat - base, "zh": cp - again, "ko": cp - chat}, progress=False)
    elements = sum(stop - start for *_, start, stop in asked)
    assert elements == sum(np.prod(c.shape(name)) for c in (base, chat, cp) for name in c.names)


def test_sums_do_not_depend_on_threads_or_blocks(llama, monkeypatch):
    base, chat, cp = llama
    vectors = {"chat": chat - base, "zh": cp - base}
    expected = anatomy.survey(vectors, progress=False)
    monkeypatch.setattr("chatvec_lab.anatomy.blocks.workers", lambda: 7)
    pd.testing.assert_frame_equal(anatomy.survey(vectors, progress=False).cosines, expected.cosines, rtol=0)
    monkeypatch.setattr("chatvec_lab.weights.numerics.blocks.BLOCK", 96)
    monkeypatch.setattr(kernels, "TILE", 64)
    found = anatomy.survey(vectors, progress=False)
    pd.testing.assert_frame_equal(found.cosines, expected.cosines, rtol=1e-12)
    pd.testing.assert_frame_equal(found.norms, expected.norms, rtol=1e-12)


def test_a_large_tensor_takes_its_threshold_from_a_sample(tmp_path):
    torch.manual_seed(0)
    from safetensors.torch import save_file

    folders = []
    for i in range(3):
        folder = tmp_path / str(i)
        folder.mkdir()
        save_file({"up_proj.weight": torch.randn(800, 500) * min(i, 1)}, folder / "model.safetensors")
        folders.append(Checkpoint(folder))
    base, chat, cp = folders
    row = anatomy.interference({"chat": chat - base, "zh": cp - base}, top=0.02, progress=False).iloc[0]
    assert row.top_a == pytest.approx(0.02, rel=0.15) and row.top_b == pytest.approx(0.02, rel=0.15)
    a, b = (state(c)["up_proj.weight"].ravel() for c in (chat, cp))
    limits = [np.sort(np.abs(x))[-round(top * x.size)] for x, top in ((a, row.top_a), (b, row.top_b))]
    met = ((np.abs(a) >= limits[0]) & (np.abs(b) >= limits[1])).sum()
    assert row.overlap * min(row.top_a, row.top_b) * a.size == pytest.approx(met, abs=1)
    assert row.overlap == pytest.approx(row.expected_overlap, abs=0.01)


def test_what_does_not_pair_is_listed(families, llama):
    base, chat, _ = llama
    other_base, other_chat, _ = map(Checkpoint, families("qwen2"))
    vectors = {"chat": chat - base, "qwen": other_chat - other_base}
    with pytest.raises(
        ValueError, match=r"(?s)chat and qwen: .* tensors do not pair.*q_proj.bias   not in chat"
    ):
        anatomy.cosines(vectors, progress=False)
    assert set(anatomy.norms(vectors, progress=False).vector) == {"chat", "qwen"}  # each for itself


def test_wrong_arguments_are_named(llama):
    base, chat, _ = llama
    with pytest.raises(TypeError, match="'chat' is a Checkpoint"):
        anatomy.norms({"chat": chat})
    with pytest.raises(TypeError, match="expected a dict"):
        anatomy.cosines([chat - base])
    with pytest.raises(ValueError, match="no vectors"):
        anatomy.survey({})
    with pytest.raises(ValueError, match="top=2"):
        anatomy.interference({"chat": chat - base}, top=2)


def test_one_vector_has_no_pairs(llama):
    base, chat, _ = llama
    table = anatomy.cosines({"chat": chat - base}, progress=False)
    assert table.empty and "cosine" in table


def test_only_tokens_have_vocabulary_rows(llama, monkeypatch):
    base, chat, _ = llama
    asked = set()
    fill = Checkpoint.fill
    monkeypatch.setattr(Checkpoint, "fill", lambda s, name, *rest: (asked.add(name), fill(s, name, *rest))[1])
    anatomy.vocabulary({"chat": chat - base}, progress=False)
    assert asked and all(base.layout.is_table(name) for name in asked)


def test_an_error_or_ctrl_c_stops_all_threads():
    for error in (OSError, KeyboardInterrupt):
        done = []

        def work(job, tick, error=error, done=done):
            if job == 3:
                raise error("stopped")
            time.sleep(0.001)
            done.append(job)

        with pytest.raises(error, match="stopped"):
            run(range(3000), work, total=1, progress=False, label="")
        assert len(done) < 1500
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("chatvec-anatomy")]
