"""What a checkpoint says of itself: its head, its parts, its parameters; and that it can be sent elsewhere."""

import json
import pickle
import re
import shutil

import pytest
import torch
from pico import save_family, save_model
from reference import state
from safetensors.torch import save_file

from chatvec_lab import Checkpoint
from chatvec_lab.weights.inspect import inspect

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def without_head(folder):
    save_file({n: t for n, t in state(folder).items() if n != HEAD}, folder / "model.safetensors")
    return folder


def set_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_a_head_that_is_absent_is_not_tied(tmp_path):
    folder = without_head(save_model(tmp_path / "model"))
    checkpoint = Checkpoint(folder)
    assert not checkpoint.is_tied and checkpoint.resolve(HEAD) is None and HEAD in checkpoint.lacking
    assert f"head: {HEAD} is not stored" in inspect(str(folder))


@pytest.mark.parametrize("member", [0, 1, 2])
def test_a_member_without_its_head_is_refused(tmp_path, member):
    folders = save_family(tmp_path)
    without_head(folders[member])
    base, chat, cp = map(Checkpoint, folders)
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        (cp + (chat - base)).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "mixtral", "gemma"])
@pytest.mark.parametrize("which", ["norm", "layer", "embedding"])
def test_a_cp_that_lacks_a_weight_is_refused_whatever_is_selected(families, tmp_path, kind, which):
    base, chat, cp = families(kind)
    folder, tensors = tmp_path / "half", state(cp)
    gone = {
        "norm": next(n for n in tensors if "norm" in n and "layers" not in n),
        "layer": next(
            n for n in tensors if "layers.1." in n and n.endswith(("o_proj.weight", "attention.dense.weight"))
        ),
        "embedding": Checkpoint(cp).layout.embedding,
    }[which]
    shutil.copytree(cp, folder)
    save_file(
        {n: t for n, t in tensors.items() if n != gone},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    half, tau = Checkpoint(folder), Checkpoint(chat) - Checkpoint(base)
    assert half.layout.lacks == [half.layout.published(gone)] and gone in inspect(str(folder))
    for vector in (tau, tau.select(modules="attention", layers=0)):
        with pytest.raises(
            ValueError, match=rf"half: {re.escape(gone)} is not stored, and \w+ would make it up at random"
        ):
            (half + vector).save(tmp_path / "out", progress=False)
    with pytest.raises(
        ValueError, match=rf"half: {re.escape(gone)} is not stored"
    ):  # and not: "of another family?"
        _ = (half - Checkpoint(base)).names
    assert Checkpoint(cp).lacking == "" and "not whole" not in inspect(str(cp))


def test_a_shard_alone_is_a_part_and_lacks_nothing_that_it_should_have(families, tmp_path):
    _, _, cp = families("llama")
    shutil.copytree(cp, tmp_path / "layer")
    only = {n: t for n, t in state(cp).items() if "layers.0." in n}
    save_file(only, tmp_path / "layer" / "model.safetensors")
    assert Checkpoint(tmp_path / "layer").layout.is_part and not Checkpoint(cp).layout.is_part


def test_a_tied_head_is_the_embedding_stored_or_not(tmp_path):
    folder = save_model(tmp_path / "tied", tied=True)
    checkpoint = Checkpoint(folder)
    assert checkpoint.is_tied and HEAD not in checkpoint and checkpoint.resolve(HEAD) == EMBEDDING
    assert checkpoint.lacking == "" and "head: tied to the embedding" in inspect(str(folder))
    save_file({**state(folder), HEAD: state(folder)[EMBEDDING].clone()}, folder / "model.safetensors")
    assert Checkpoint(folder).is_tied and Checkpoint(folder).resolve(HEAD) == HEAD


def test_a_head_of_its_own_stays_its_own_whatever_is_equal(tmp_path):
    folder = save_model(tmp_path / "model")
    save_file({**state(folder), HEAD: state(folder)[EMBEDDING].clone()}, folder / "model.safetensors")
    assert not Checkpoint(folder).is_tied
    tensors = state(folder)
    tensors[HEAD] = tensors[EMBEDDING]  # one storage in a .bin
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert Checkpoint(folder).is_tied


def test_buffers_are_no_parameters(tmp_path):
    folder = save_model(tmp_path / "model")
    own = sum(t.numel() for t in state(folder).values())
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    save_file({**state(folder), **buffers}, folder / "model.safetensors")
    page = inspect(str(folder))
    assert f"{own:,} parameters in {len(state(folder))} tensors" in page
    assert "buffer" in page


def test_a_checkpoint_can_be_sent_to_another_process(tmp_path):
    for options in ({}, {"shard": "4KB"}, {"as_bin": True}):
        folder = save_model(tmp_path / f"model{len(str(options))}", **options)
        checkpoint = Checkpoint(folder)
        _ = checkpoint.names, checkpoint.vocabulary
        again = pickle.loads(pickle.dumps(checkpoint))
        assert again.names == checkpoint.names and torch.equal(again.read(HEAD), checkpoint.read(HEAD))


def test_a_config_that_is_no_object_is_named(tmp_path):
    folder = save_model(tmp_path / "model")
    for text in ("[1]", "3", '{"a": ', "[" * 100_000):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            _ = Checkpoint(folder).config


@pytest.mark.parametrize(
    "key, value", [("architectures", 5), ("architectures", [1]), ("model_type", 3), ("text_config", [])]
)
def test_a_config_of_another_kind_is_named(families, tmp_path, key, value):
    copy = shutil.copytree(families("llama")[0], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text()) | {key: value}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json: {key} should be"):
        _ = Checkpoint(copy).layout


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_names_of_a_wrapper_are_called_that(families, tmp_path, prefix):
    wrapped = []
    for folder in families("llama"):
        shutil.copytree(folder, tmp_path / folder.name)
        renamed = {prefix + name: tensor for name, tensor in state(folder).items()}
        save_file(renamed, tmp_path / folder.name / "model.safetensors")
        wrapped.append(Checkpoint(tmp_path / folder.name))
    base, chat, cp = wrapped  # which pair, and make a model that transformers would fill at random
    with pytest.raises(
        ValueError, match=rf"cp: its tensors are named '{re.escape(prefix)}' before their own names"
    ):
        (cp + (chat - base)).check()
    plain = Checkpoint(families("llama")[0])
    with pytest.raises(ValueError, match=r"do not pair(?s:.)*chat: its tensors are named"):
        _ = (chat - plain).names
