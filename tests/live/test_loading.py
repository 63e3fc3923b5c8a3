"""`load` is the one way from an expression to a transformers model, and what it gives holds the stored bits."""

import re
import shutil

import gguf_files
import pytest
import torch
from pico import CP_TOKENS
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import chatvec_lab
from chatvec_lab import Checkpoint
from chatvec_lab.live import LiveModel, load, loading, places
from chatvec_lab.nano import multimodal
from chatvec_lab.paths import ROOT
from chatvec_lab.weights.saving.commit import discard

WHOLE = {2: torch.int16, 4: torch.int32}


def bits(model):
    return {name: t.clone().view(WHOLE[t.element_size()]) for name, t in model.state_dict().items()}


def same(one, other):
    one, other = bits(one), bits(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def opened(folders):
    base, chat, cp = map(Checkpoint, folders)
    return cp, chat - base


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mixtral", "gpt_neox"])
def test_every_kind_of_source_gives_the_stored_weights(families, kind, tmp_path):
    cp, tau = opened(families(kind, cp_tokens=CP_TOKENS))
    merged = cp + 0.7 * tau
    merged.save(tmp_path / "saved", progress=False)
    for source, folder in ((cp, cp.folder), (str(cp.folder), cp.folder), (merged, tmp_path / "saved")):
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        assert same(load(source, "cpu", "auto"), plain)
        assert same(load(source, "cpu"), plain.float())  # the stored weights, computed with in float32
    merged.save(tmp_path / "half", dtype="float16", progress=False)
    half = load(merged, "cpu", "float16")  # rounded once, as a save with this dtype
    assert same(half, AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto"))
    live = LiveModel(cp, tau, device="cpu")
    with live.at(0.7):
        assert same(live.model, load(merged, "cpu", "auto"))
    assert load(merged, "cpu").generation_config.eos_token_id == merged.generation_config["eos_token_id"]


def test_a_vision_language_model_loads_the_same_way(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    larger = multimodal.llava_around(cp, tmp_path / "larger", seed=0)
    merged = larger + 0.5 * (chat - base).within(larger)
    merged.save(tmp_path / "saved", progress=False)
    model = load(merged, "cpu", "auto")
    assert type(model).__name__ == "LlavaForConditionalGeneration" and not model.training
    assert same(model, AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", dtype="auto"))
    discard(tmp_path / "larger")  # as the notebook does before it builds the model again
    assert not (tmp_path / "larger").exists()


@pytest.mark.parametrize("lost", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"])
def test_a_model_with_a_weight_that_no_file_holds_is_refused(families, tmp_path, lost):
    folder = tmp_path / "cp"
    shutil.copytree(families("llama")[2], folder)
    state = load_file(folder / "model.safetensors")
    del state[lost]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"cp.*{re.escape(lost)}.*at random"):
        load(folder, "cpu")


def test_a_dequantised_model_holds_what_the_checkpoint_reads(tmp_path):
    folder = gguf_files.save_llama(tmp_path / "llama")
    for kind in ("F32", "Q8_0"):
        file = gguf_files.write_gguf(folder, tmp_path / f"{kind}.gguf", kind) or tmp_path / f"{kind}.gguf"
        model, stored = load(file, "cpu", "auto"), Checkpoint(file)
        found = places.places(model)
        assert len(stored.names) == 21 and all(torch.equal(found[n], stored.read(n)) for n in stored.names)
        live = LiveModel(stored, (stored - stored), device="cpu")
        assert same(live.model, model)


def test_what_the_vector_moves_and_the_model_has_no_place_for_is_named(families, monkeypatch):
    cp, tau = opened(families("gpt_neox"))
    real = places.places
    monkeypatch.setattr(
        loading, "places", lambda model: {n: t for n, t in real(model).items() if n != "embed_out.weight"}
    )
    with pytest.raises(
        ValueError, match=r"1 of 28 tensors of cp did not reach the model:\n  embed_out.weight   has no"
    ):
        load(cp + tau, "cpu")
    load(cp, "cpu")


def test_a_model_that_does_not_hold_the_stored_bits_is_refused(families, monkeypatch):
    cp, _ = opened(families("llama"))
    real = loading.open_model

    def others(*args, **options):
        model, found = real(*args, **options)
        with torch.no_grad():
            model.model.norm.weight[3] += 1
        return model, found

    monkeypatch.setattr(loading, "open_model", others)
    with pytest.raises(
        ValueError, match=r"model.norm.weight   is not what the model holds in its place: 1 of 16"
    ):
        load(cp, "cpu")


def test_nothing_else_in_the_package_opens_a_model():
    """Scorers open classifiers and guards of their own; all other weights come through `load`."""
    package = ROOT / "chatvec_lab"
    calls = {}
    for path in package.rglob("*.py"):
        for name in re.findall(r"\b(from_pretrained|open_model)\(", path.read_text()):
            calls.setdefault(name, set()).add(path.relative_to(package).as_posix())
    adapters, scorers = {"interop/peft.py"}, {"guard.py", "toxicity_scorers.py"}
    assert calls["from_pretrained"] == {"opening.py"} | adapters
    assert calls["open_model"] == {"opening.py", "live/loading.py"} | {
        f"evaluation/scorers/{s}" for s in scorers
    }
    assert chatvec_lab.live.load is load
