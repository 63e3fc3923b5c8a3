"""Vectors of other tools, in files written just as those tools write them."""

import json
import os
import pickle

import pytest
import torch
from pico import TEMPLATE, save_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatvec_lab import Checkpoint, WeightVector
from chatvec_lab.weights.sources import foreign as formats


def as_residuals(base, chat, folder, *, dtype=torch.float32):
    """What residuals 0.3.2 writes: Residuals.from_models(base, chat).save_pretrained(folder)."""
    residuals = pytest.importorskip("residuals", reason="the residuals package is not installed")
    made = residuals.Residuals.from_models(
        base_model=str(base),
        instruct_model=str(chat),
        dtype=dtype,
        instruct_tokenizer=AutoTokenizer.from_pretrained(chat),
    )
    made.save_pretrained(str(folder))
    return folder


def written_by_hand(base, chat, folder):
    """The same files without the package: state-dict differences in float32, its config and the instruct tokenizer."""
    import hashlib

    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32).state_dict() for p in (base, chat)
    )
    state = {name: theirs[name] - ours[name] for name in ours}
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    AutoTokenizer.from_pretrained(chat).save_pretrained(folder)
    names = sorted(state)
    shapes = "|".join(f"{n}:{list(state[n].shape)}" for n in names)
    config = {
        "residuals_version": "1.0", "format": "pytorch", "dtype": "float32", "param_count": len(names),
        "shapes_hash": hashlib.sha256(shapes.encode()).hexdigest(),
        "parameter_names_hash": hashlib.sha256("|".join(names).encode()).hexdigest(),
        "base_model_name": "lab/base", "instruct_model_name": "lab/chat", "library": {"package": "residuals"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def as_official(base, chat, folder):
    """What extract_chat_vector.py of the paper's repository writes, rows of the base included."""
    ours, theirs = (AutoModelForCausalLM.from_pretrained(p, dtype="auto") for p in (base, chat))
    stored = {
        "chat_embed": ours.get_input_embeddings().weight,
        "chat_lmhead": ours.get_output_embeddings().weight,
        "chat_vector": {},
        "cfg": {"base_model_path": str(base), "chat_model_path": str(chat)},
    }
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=False)
    for (name, before), (_, after) in pairs:
        stored["chat_vector"][name] = after.data - before.data
    folder.mkdir()
    torch.save(stored, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("write", [as_residuals, written_by_hand])
def test_a_residuals_vector_is_our_vector(families, tmp_path, write):
    base, chat, cp = families("llama")
    tau = WeightVector.load(write(base, chat, tmp_path / "r"))
    ours = Checkpoint(chat) - Checkpoint(base)
    assert sorted(tau.names) == sorted(ours.names)
    for name in ours.names:
        torch.testing.assert_close(tau.read(name), ours.read(name), rtol=1e-6, atol=0)
    merged, expected = Checkpoint(cp) + tau, Checkpoint(cp) + ours
    assert merged.chat_template == TEMPLATE and merged.generation_config["eos_token_id"] == 2
    wrong = sum(int((merged.read(n) != expected.read(n)).sum()) for n in expected.names)
    assert wrong == 0  # bfloat16 models: their float32 differences are exact here


@pytest.mark.parametrize("write", [as_residuals, written_by_hand])
def test_a_tied_residuals_vector_counts_its_embedding_once(families, tmp_path, write):
    base, chat, cp = families("llama", tied=True)
    tau = WeightVector.load(write(base, chat, tmp_path / "r"))
    assert "lm_head.weight" in load_file(tmp_path / "r" / "model.safetensors")
    assert "lm_head.weight" not in tau.names
    (Checkpoint(cp) + tau).save(tmp_path / "out", progress=False)
    expected = Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))
    saved = Checkpoint(tmp_path / "out")
    assert all(torch.equal(saved.read(n), expected.read(n)) for n in expected.names)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["recipe"]["vector"][0]["format"] == "residuals 1.0"


def test_a_residuals_folder_is_no_model_and_must_be_whole(families, tmp_path):
    base, chat, _ = families("llama")
    folder = written_by_hand(base, chat, tmp_path / "r")
    with pytest.raises(
        ValueError, match=r"a weight vector of another tool, not a model: open it with WeightVector"
    ):
        _ = Checkpoint(folder).names
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"shapes_hash": "0" * 64}))
    with pytest.raises(ValueError, match=r"shapes_hash of config.json does not fit the 21 tensors"):
        WeightVector.load(folder)
    with pytest.raises(FileNotFoundError, match="holds no vector of the residuals package"):
        formats.load_residuals(base)


def test_an_official_vector_loads_and_its_base_rows_are_told(families, tmp_path):
    base, chat, cp = families("llama")
    folder = as_official(base, chat, tmp_path / "official")
    with pytest.warns(UserWarning, match=r"chat_embed, chat_lmhead .* hold the BASE model's rows"):
        tau = WeightVector.load(folder)
    stored = torch.load(folder / "pytorch_model.bin", weights_only=True)["chat_vector"]
    assert tau.names == list(stored) or sorted(tau.names) == sorted(stored)
    assert all(torch.equal(tau.read(n), stored[n].float()) for n in tau.names)
    ours = Checkpoint(chat) - Checkpoint(base)
    name = "model.layers.0.mlp.up_proj.weight"  # bfloat16 rounds the difference, where ours is exact
    torch.testing.assert_close(tau.read(name), ours.read(name), rtol=2**-8, atol=1e-9)
    merged = Checkpoint(cp) + tau
    exact = Checkpoint(cp).read(name).double() + stored[name].double()
    assert torch.equal(merged.read(name), exact.to(torch.bfloat16))
    with pytest.raises(ValueError, match="a weight vector of another tool"):
        _ = Checkpoint(folder).names


def test_with_the_base_the_rows_are_checked_and_the_vocabulary_known(families, tmp_path):
    base, chat, _ = families("llama")
    folder = as_official(base, chat, tmp_path / "official")
    count = 2 * 63 * 16
    with pytest.warns(UserWarning, match=f"checked here: all {count:,} elements are base's"):
        tau = formats.load_official(folder, base=Checkpoint(base))
    assert tau.vocabulary.tokens == Checkpoint(base).vocabulary.tokens
    with pytest.warns(UserWarning, match="here they are not chat's"):
        formats.load_official(folder, base=Checkpoint(chat))


def test_parameters_lost_by_pairing_by_position_are_listed(families, tmp_path):
    base = families("llama")[0]
    short = save_model(tmp_path / "tied", seed=2, tied=True)  # one parameter less: zip drops the last pair
    folder = as_official(base, short, tmp_path / "official")
    with pytest.raises(
        ValueError, match=r"1 of 21 tensors do not fit base:\n  lm_head.weight   in base, not in the"
    ):
        formats.load_official(folder, base=Checkpoint(base))


def test_an_official_file_that_would_run_code_is_refused(families, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = tmp_path / "official"
    folder.mkdir()
    torch.save({"chat_vector": {"w": torch.zeros(2)}, "cfg": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"asks to import .*mkdir.*it was not run"):
        formats.load_official(folder)
    with pytest.raises(FileNotFoundError):
        WeightVector.load(folder)
    assert not (tmp_path / "ran").exists()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"chat_vector": {}}))
    with pytest.raises(ValueError, match="not a zip-based torch file"):
        formats.load_official(folder)
