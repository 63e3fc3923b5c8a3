"""Damaged, missing, foreign and malicious files: each named, none run."""

import json
import os
import pickle
import struct

import pytest
import torch
from pico import save_model
from reference import state

from chatvec_lab import Checkpoint, WeightVector
from chatvec_lab.weights.sources.bin import bin_entries


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path):
    return save_model(tmp_path / "sharded", shard="4KB")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_a_key_that_stands_twice_is_refused_not_dropped(model, file):
    text = (model / file).read_text() if (model / file).is_file() else '{"a": 1}'
    (model / file).write_text('{"twice": 1, "twice": 2,' + text.strip()[1:])
    with pytest.raises(ValueError, match=rf"{file}: the key 'twice' stands twice"):
        checkpoint = Checkpoint(model)
        _ = checkpoint.config, checkpoint.tokenizer_config, checkpoint.generation_config


def test_reads_equal_the_libraries_own(model, sharded, families):
    for folder in (model, sharded, *families("llama", as_bin=True), *families("qwen2", tied=True)):
        checkpoint, stored = Checkpoint(folder), state(folder)
        assert set(checkpoint.names) == set(stored)
        for name, tensor in stored.items():
            assert checkpoint.dtype(name) == tensor.dtype and checkpoint.shape(name) == tuple(tensor.shape)
            assert torch.equal(checkpoint.read(name), tensor)
            assert torch.equal(checkpoint.read(name, slice(1, 4)), tensor[1:4])


def test_all_dtypes_and_odd_shapes(tmp_path):
    from safetensors.torch import save_file

    kinds = (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.int64,
        torch.int32,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
    # integers of other names would be taken for packed weights
    tensors = {f"{kind}_mask": torch.ones(3, 2, dtype=kind) for kind in kinds}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 4), "one": torch.tensor([2.0])}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(checkpoint.read(name), tensor)
    (tmp_path / "model.safetensors").rename(tmp_path / "other")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert all(torch.equal(Checkpoint(tmp_path).read(n), t) for n, t in tensors.items())


def test_bin_views_and_shared_storages(tmp_path):
    base = torch.arange(12.0).reshape(4, 3)
    torch.save({"a": base, "b": base, "rows": base[1:3]}, tmp_path / "pytorch_model.bin")
    checkpoint = Checkpoint(tmp_path)
    assert torch.equal(checkpoint.read("b"), base) and torch.equal(checkpoint.read("rows"), base[1:3])
    torch.save({"t": base.T}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin.*transposed"):
        _ = Checkpoint(tmp_path).names


def test_sharded_bins(model, tmp_path):
    tensors, folder = state(model), tmp_path / "bins"
    folder.mkdir()
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for shard, members in shards.items():
        torch.save({name: tensors[name] for name in members}, folder / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = Checkpoint(folder)
    assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in tensors.items())


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"w": torch.ones(2), "x": b}])
def test_a_malicious_pickle_does_not_run(tmp_path, monkeypatch, wrap):
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(Bomb()), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin asks to import .*system.*not run"):
        bin_entries(tmp_path / "pytorch_model.bin")
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="not a zip-based torch file"):
        bin_entries(tmp_path / "pytorch_model.bin")
    assert not (tmp_path / "exploded").exists()


def damage(folder, file, action):
    path = folder / file
    data = path.read_bytes()
    if action == "truncate":
        path.write_bytes(data[:-100])
    elif action == "cut the header":
        path.write_bytes(data[:20])
    elif action == "garble the header":
        path.write_bytes(data[:8] + b"!" * 30 + data[38:])
    elif action == "huge header":
        path.write_bytes(struct.pack("<Q", 1 << 60) + data[8:])
    elif action == "empty":
        path.write_bytes(b"")
    elif action == "remove":
        path.unlink()


@pytest.mark.parametrize(
    "action", ["truncate", "cut the header", "garble the header", "huge header", "empty"]
)
def test_a_damaged_input_is_named_before_anything_is_written(families, tmp_path, action):
    base, chat, _ = families("llama")
    cp = save_model(tmp_path / "cp", seed=4)
    damage(cp, "model.safetensors", action)
    with pytest.raises(ValueError, match=r"cp/model\.safetensors.*(?i:again)"):
        (Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / "out", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cp"]


def test_a_truncated_bin_is_named(families, tmp_path):
    folder = save_model(tmp_path / "cp", as_bin=True)
    damage(folder, "pytorch_model.bin", "truncate")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        _ = Checkpoint(folder).names


def test_missing_shards_and_wrong_indexes_are_named(sharded):
    names = sorted(p.name for p in sharded.glob("*.safetensors"))
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.layers.9.ghost.weight"] = names[0]
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index\.json names 1 tensors.*model\.layers\.9\.ghost\.weight"):
        _ = Checkpoint(sharded).names
    damage(sharded, names[1], "remove")
    with pytest.raises(FileNotFoundError, match=rf"misses 1 of {len(names)} shards.*{names[1]}"):
        _ = Checkpoint(sharded).names
    index.write_text("{}")
    with pytest.raises(ValueError, match="no weight_map"):
        _ = Checkpoint(sharded).names


def test_what_is_no_model_says_what_it_is(tmp_path, model):
    with pytest.raises(FileNotFoundError, match=r"no folder '\./nowhere'"):
        Checkpoint("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no model.*found nothing"):
        _ = Checkpoint(tmp_path / "empty").names
    (tmp_path / "empty/adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="PEFT adapter"):
        _ = Checkpoint(tmp_path / "empty").names
    with pytest.raises(FileNotFoundError, match="holds a model: use Checkpoint"):
        WeightVector.load(model)
    with pytest.raises(FileNotFoundError, match=r"someone/model.*hub"):
        _ = Checkpoint("someone/model").names
    with pytest.raises(KeyError, match=r"Did you mean 'lm_head.weight'"):
        Checkpoint(model).read("lm_haed.weight")


def test_quantised_dtypes_are_refused_by_name(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"ab")
    with pytest.raises(ValueError, match=r"is quantised.*'w' \(float8_e4m3fn\).*unquantised"):
        _ = Checkpoint(tmp_path).names


def test_unpaired_tensors_are_all_listed(families, tmp_path):
    base, chat, _ = families("llama")
    other = save_model(tmp_path / "mistral", "mistral")
    with pytest.raises(ValueError, match=r"4 of 21 tensors do not pair") as caught:
        _ = (Checkpoint(other) - Checkpoint(base)).names
    assert str(caught.value).count("k_proj") == 2 and "(8, 16)" in str(caught.value)
    neox = save_model(tmp_path / "neox", "gpt_neox")
    with pytest.raises(ValueError, match=r"(?s)only in .*more\nThe two look like different architectures"):
        (Checkpoint(neox) + (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_nan_is_refused_with_its_tensor_and_source(families, tmp_path):
    def poison(parameters):
        parameters["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")

    base, _, cp = families("llama")
    chat = save_model(tmp_path / "chat", seed=2, near=base, change=poison)
    with pytest.raises(
        ValueError, match=r"layers\.1\.mlp\.up_proj\.weight.*NaN or infinity comes from the vector"
    ):
        (Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_plain_tokenizer_is_not_replaced_by_that_of_the_model_type(families):
    """transformers gives each Qwen2 model a Qwen2 tokenizer, also where tokenizer.json says something else."""
    folder = families("qwen2")[2]
    found = Checkpoint(folder).tokenizer
    stored = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = [word for word in stored if word.isalnum()][:3]
    assert words
    assert found(" ".join(words), add_special_tokens=False).input_ids == [stored[word] for word in words]
