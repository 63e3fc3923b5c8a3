"""cp + scale * (chat - base) on real checkpoints of many architectures, against rational numbers."""

import json
import shutil

import pytest
import torch
from pico import CP_TOKENS, SPECIAL, TEMPLATE, TOKENS, save_model
from reference import formula, fractions, state, tokens_of, wrongly_rounded
from safetensors.torch import load_file, save_file

from chatvec_lab import Checkpoint, WeightVector

SCALES = (0.5, 0.7, 1.0, 1.3, -0.3)
CASES = {
    "llama, larger vocabulary in another order": dict(kind="llama", cp_tokens=CP_TOKENS),
    "llama float16": dict(kind="llama", dtype=torch.float16),
    "llama float32": dict(kind="llama", dtype=torch.float32),
    "llama .bin": dict(kind="llama", as_bin=True),
    "qwen2, tied": dict(kind="qwen2", tied=True),
    "mistral, grouped queries, sharded": dict(kind="mistral", shard="4KB"),
    "gemma, tied": dict(kind="gemma", tied=True, cp_tokens=CP_TOKENS),
    "gpt_neox": dict(kind="gpt_neox"),
    "mixtral": dict(kind="mixtral"),
    "phi3, fused projections": dict(kind="phi3"),
}


def expected(name, cp, chat, base, scale, folders):
    """The exact formula for one tensor; embedding and head rows are paired by token, one by one."""
    if not any(key in name for key in ("embed", "lm_head")):
        return formula(cp[name], [(scale, chat[name], base[name])])
    ids = [tokens_of(folder) for folder in folders]  # cp, chat, base
    rows = []
    for token in sorted(ids[0], key=ids[0].get):
        row = cp[name][ids[0][token]]
        if token in ids[1] and token in ids[2]:
            rows += formula(row, [(scale, chat[name][ids[1][token]], base[name][ids[2][token]])])
        else:
            rows += fractions(row)
    return rows


@pytest.mark.parametrize("case", CASES)
def test_saved_bits_are_the_formula_rounded_once(case, families, tmp_path):
    base, chat, cp = families(**CASES[case])
    stored = [state(folder) for folder in (cp, chat, base)]
    for scale in SCALES:
        out = tmp_path / f"{scale}"
        (Checkpoint(cp) + scale * (Checkpoint(chat) - Checkpoint(base))).save(out, progress=False)
        merged = state(out)
        assert merged.keys() == stored[0].keys()
        for name, tensor in merged.items():
            assert tensor.dtype == stored[0][name].dtype
            assert wrongly_rounded(tensor, expected(name, *stored, scale, (cp, chat, base))) == 0, name


def test_the_result_loads_in_transformers_and_speaks_the_chat_format(families, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, chat, cp = families("llama", cp_tokens=CP_TOKENS)
    (Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / "out", progress=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(CP_TOKENS) == len(tokenizer)
    assert tokenizer.chat_template == TEMPLATE
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "w1 w2"}], return_tensors="pt", return_dict=False
    )
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape[1] > ids.shape[1]
    assert model.generation_config.eos_token_id == CP_TOKENS.index("</s>")  # by token, not by number


def test_scale_zero_hands_out_the_cps_own_bytes(families, tmp_path):
    def negative_zeros(parameters):
        for tensor in parameters.values():
            tensor.view(-1)[:2] = -0.0

    base, chat, _ = families("llama")
    cp = save_model(tmp_path / "cp", seed=5, near=base, change=negative_zeros)
    (Checkpoint(cp) + 0 * (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / "out", progress=False)
    assert (tmp_path / "out/model.safetensors").stat().st_size > 0
    before, after = state(cp), state(tmp_path / "out")
    assert all(torch.equal(before[n].view(torch.int16), after[n].view(torch.int16)) for n in before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_base_plus_its_chat_vector_is_chat(dtype, families):
    base, chat, _ = map(Checkpoint, families("llama", dtype=dtype))
    merged = base + (chat - base)
    for name in base.names:
        assert torch.equal(merged.read(name), chat.read(name)), name


def test_the_algebra_of_vectors(families):
    base, chat, cp = map(Checkpoint, families("llama"))
    tau, other = chat - base, cp - base
    for name in tau.names:
        delta = tau.read(name)
        assert torch.equal((-(-1 * tau)).read(name), delta)
        assert torch.equal((2 * tau).read(name), 2 * delta)
        assert torch.equal((tau / 2).read(name), delta / 2)
        assert torch.equal(
            (tau + other - other).read(name), delta
        )  # exact here: nothing is rounded in between
        assert torch.equal(sum([tau, other]).read(name), (other + tau).read(name))
        assert torch.equal((cp + (tau + 0.5 * other)).read(name), (cp + (0.5 * other + tau)).read(name))
    rows = slice(1, 3)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(tau.read(name, rows), tau.read(name)[rows])
    assert torch.equal((cp + tau).read(name, rows), (cp + tau).read(name)[rows])


def test_wrong_operands_are_type_errors(families):
    base, chat, cp = map(Checkpoint, families("llama"))
    tau = chat - base
    for wrong in (
        lambda: tau + 1,
        lambda: tau * tau,
        lambda: chat + base,
        lambda: chat - 1,
        lambda: True * tau,
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="finite"):
        float("nan") * tau
    with pytest.raises(ValueError, match="match, skip, strict"):
        cp.add(tau, vocabulary="mach")


def test_a_merged_checkpoint_is_a_checkpoint_to_every_consumer(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    merged = cp + 0.5 * (chat - base)
    again = merged + (base - base)
    assert all(torch.equal(again.read(n), merged.read(n)) for n in merged.names)
    merged.save(tmp_path / "out", progress=False)
    saved = Checkpoint(tmp_path / "out")
    assert all(not (saved - merged).read(n).any() for n in merged.names)


def test_the_same_recipe_gives_the_same_bytes(families, tmp_path):
    base, chat, cp = families("mistral", shard="4KB")
    for name in ("one", "two"):
        (Checkpoint(cp) + 0.7 * (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / name, progress=False)
    ones = sorted(p for p in (tmp_path / "one").iterdir())
    assert len(ones) > 6
    for file in ones:
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_the_cps_sharding_is_kept_and_larger_shards_are_cut(families, tmp_path):
    base, chat, cp = (Checkpoint(f) for f in families("mistral", shard="4KB"))
    merged = cp + (chat - base)
    merged.save(tmp_path / "kept", progress=False)
    names = lambda folder: json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]  # noqa: E731
    assert names(tmp_path / "kept") == names(cp.folder)
    merged.save(tmp_path / "cut", max_shard_size="2KB", progress=False)
    assert len(set(names(tmp_path / "cut").values())) > len(set(names(cp.folder).values()))
    assert all(torch.equal(state(tmp_path / "cut")[n], t) for n, t in state(tmp_path / "kept").items())
    with pytest.raises(ValueError, match="max_shard_size='big'"):
        merged.save(tmp_path / "no", max_shard_size="big")


def test_another_dtype_is_also_rounded_once(families, tmp_path):
    base, chat, cp = families("llama")
    merged = Checkpoint(cp) + 0.7 * (Checkpoint(chat) - Checkpoint(base))
    merged.save(tmp_path / "out", dtype="float32", verify=True, progress=False)
    stored = [state(f) for f in (cp, chat, base)]
    for name, tensor in state(tmp_path / "out").items():
        assert tensor.dtype == torch.float32
        assert wrongly_rounded(tensor, expected(name, *stored, 0.7, (cp, chat, base))) == 0
    assert "float32" in (tmp_path / "out/config.json").read_text()


def test_buffers_and_integers_are_carried(families, tmp_path):
    from safetensors.torch import load_file, save_file

    folders = families("llama")
    copies = []
    for i, folder in enumerate(folders):
        copy = tmp_path / str(i)
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        extra = {
            "step": torch.tensor([7 + i]),
            "mask": torch.tensor([True, False]),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(4),
        }
        save_file(load_file(copy / "model.safetensors") | extra, copy / "model.safetensors", {"format": "pt"})
        copies.append(copy)
    base, chat, cp = map(Checkpoint, copies)
    assert "step" not in (chat - base).names
    (cp + (chat - base)).save(tmp_path / "out", progress=False)
    before, after = state(copies[2]), state(tmp_path / "out")
    for name in ("step", "mask", "model.layers.0.self_attn.rotary_emb.inv_freq"):
        assert torch.equal(before[name], after[name])


def test_tied_sides_meet_untied_ones(families, tmp_path):
    base, chat, _ = families("qwen2", tied=True)
    untied = save_model(tmp_path / "cp", "qwen2", seed=9, tied=False)
    tau = Checkpoint(chat) - Checkpoint(base)
    merged = Checkpoint(untied) + tau  # the head of a tied model is its embedding
    head, embedding = state(untied)["lm_head.weight"], "model.embed_tokens.weight"
    want = formula(head, [(1.0, state(chat)[embedding], state(base)[embedding])])
    assert wrongly_rounded(merged.read("lm_head.weight"), want) == 0
    free_base, free_chat = (
        save_model(tmp_path / n, "qwen2", seed=s, tied=False) for n, s in (("b", 1), ("c", 2))
    )
    with pytest.raises(ValueError, match=r"(?s)lm_head.weight +only in the vector.*ties its head"):
        (Checkpoint(base) + (Checkpoint(free_chat) - Checkpoint(free_base))).check()


def test_an_untied_family_without_any_head_is_not_saved(tmp_path):
    members = [save_model(tmp_path / n, seed=s, tied=False) for n, s in (("base", 1), ("chat", 2), ("cp", 3))]
    for folder in members:
        tensors = load_file(folder / "model.safetensors")
        del tensors["lm_head.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    base, chat, cp = map(Checkpoint, members)
    with pytest.raises(ValueError, match=r"cp: lm_head\.weight is not stored.*does not tie it"):
        (cp + 0.5 * (chat - base)).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_null_architectures_and_missing_tokenizers_are_no_obstacle(families, tmp_path):
    copies = []
    for i, folder in enumerate(families("llama")):
        copy = tmp_path / str(i)
        copy.mkdir()
        (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        config = json.loads((folder / "config.json").read_text()) | {"architectures": None}
        (copy / "config.json").write_text(json.dumps(config))
        copies.append(Checkpoint(copy))
    base, chat, cp = copies
    report = (cp + 0.5 * (chat - base)).save(tmp_path / "out", progress=False)
    assert report.vocabulary.matched == len(SPECIAL + TOKENS)
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] is None
    larger = save_model(tmp_path / "large", tokens=CP_TOKENS)
    (larger / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"79 rows.*63.*no tokenizer"):
        (Checkpoint(larger) + (chat - base)).save(tmp_path / "no", progress=False)


def test_tensors_of_no_element_and_of_complex_numbers(families, tmp_path):
    folders, extra = [], {"model.empty": torch.empty(0, 4), "model.gain": torch.tensor(2.0)}
    for number, source in enumerate(families()):
        folder = shutil.copytree(source, tmp_path / source.name)
        own = {n: t + number for n, t in extra.items()} | {"model.freqs_cis": torch.full((3, 2), 1j * number)}
        save_file(load_file(folder / "model.safetensors") | own, folder / "model.safetensors")
        folders.append(Checkpoint(folder))
    base, chat, cp = folders
    tau = chat - base
    tau.save(tmp_path / "tau", progress=False)
    for number, vector in enumerate((tau, WeightVector.load(tmp_path / "tau"))):
        (cp + 0.5 * vector).save(tmp_path / f"out{number}", progress=False, verify=True)
    first, second = (load_file(tmp_path / f"out{number}" / "model.safetensors") for number in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert first["model.gain"] == 4.5 and first["model.empty"].shape == (0, 4)
    assert torch.equal(first["model.freqs_cis"], torch.full((3, 2), 2j))  # a constant, the CP's
