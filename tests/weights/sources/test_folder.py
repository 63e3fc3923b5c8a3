"""Which of a folder's files hold the model, and that they are the ones that were opened."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from pico import save_family, save_model
from reference import state
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from chatvec_lab import Checkpoint
from chatvec_lab.weights.sources.files import HANDLES

NAME = "model.norm.weight"


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "model", change=lambda p: p[NAME].fill_(1.5))


def add_shards(folder, suffix="safetensors", stem="model"):
    """A second set of weights beside the first, with other values."""
    tensors = {name: torch.full_like(tensor, 9.0) for name, tensor in state(folder).items()}
    file = f"{stem}-00001-of-00001.{suffix}"
    save_file(tensors, folder / file) if suffix == "safetensors" else torch.save(tensors, folder / file)
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, file)}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()[NAME]


def test_of_two_sets_the_one_that_transformers_loads(model):
    add_shards(model)
    with pytest.warns(UserWarning, match=r"two sets of weights: model\.safetensors is read.*index\.json"):
        found = Checkpoint(model).read(NAME)
    assert torch.equal(found, loaded(model)) and found[0] == 1.5


def test_safetensors_before_bin_as_transformers(model):
    torch.save({n: t + 1 for n, t in state(model).items()}, model / "pytorch_model.bin")
    assert torch.equal(Checkpoint(model).read(NAME), loaded(model))
    add_shards(model)
    (model / "model.safetensors").unlink()
    assert torch.equal(Checkpoint(model).read(NAME), loaded(model)) and Checkpoint(model).read(NAME)[0] == 9


def test_an_index_left_behind_does_not_count(model):
    add_shards(model)
    (model / "model-00001-of-00001.safetensors").unlink()
    assert Checkpoint(model).read(NAME)[0] == 1.5  # no warning: there is one set


def test_weights_under_a_name_of_the_configs_own_are_refused(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}))
    with pytest.raises(ValueError, match=r"config\.json names its weights 'other\.safetensors'"):
        _ = Checkpoint(model).names


def test_an_index_stays_in_its_folder_and_names_a_tensor_once(tmp_path):
    folder = save_model(tmp_path / "sharded", shard="4KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    for wrong in ("../x.safetensors", "/etc/passwd", 3, None):
        index.write_text(json.dumps({"weight_map": content["weight_map"] | {first: wrong}}))
        with pytest.raises(ValueError, match=r"index\.json puts .* which is no file beside it"):
            _ = Checkpoint(folder).names
    index.write_text(json.dumps(content))
    shards = sorted(set(content["weight_map"].values()))
    shutil.copyfile(folder / shards[0], folder / "again.safetensors")
    extra = {"weight_map": content["weight_map"] | {"x": "again.safetensors"}}
    index.write_text(json.dumps(extra))
    with pytest.raises(ValueError, match=r"model-00001.*holds .*and so does again"):
        _ = Checkpoint(folder).names


def test_a_tensor_in_the_other_format_of_16_bits_is_refused(model):
    tensors = state(model)
    for name, said in (
        (
            "model.layers.1.mlp.up_proj.weight",
            r"'model\.layers\.[01]\.mlp\.up_proj\.weight' .* those of the other layers",
        ),
        (NAME, r"'model\.norm\.weight' is stored as float16, but the other 20 of 16 bits as bfloat16"),
    ):
        changed = tensors | {name: tensors[name].view(torch.float16)}
        save_file(changed, model / "model.safetensors")
        with pytest.raises(ValueError, match=rf"model\.safetensors: {said}"):
            _ = Checkpoint(model).names
    mixed = {n: t.float() if "norm" in n else t for n, t in tensors.items()}
    mixed |= {
        f"vision.{i}.weight": torch.ones(2, dtype=torch.float16) for i in range(2)
    }  # a tower of its own
    save_file(mixed, model / "model.safetensors")
    assert Checkpoint(model).dtype("vision.1.weight") == torch.float16


def test_an_adapter_is_named_with_its_base(tmp_path):
    config = {"peft_type": "LORA", "base_model_name_or_path": "lab/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"holds an adapter \(LORA\) for lab/base, which is not to be had"
    ):
        _ = Checkpoint(tmp_path).names


def test_a_file_that_changes_while_open_is_an_error(model):
    checkpoint = Checkpoint(model)
    before, print_ = checkpoint.read(NAME), checkpoint.tensors.fingerprint()
    checkpoint.tensors.check()
    save_file({n: t + 1 for n, t in state(model).items()}, model / "new")
    os.replace(model / "new", model / "model.safetensors")
    assert torch.equal(checkpoint.read(NAME), before)  # the file that is open is still the old one
    HANDLES.close()
    with pytest.raises(OSError, match=r"model\.safetensors was changed after it had been opened"):
        checkpoint.read(NAME)
    with pytest.raises(OSError, match=r"model\.safetensors was changed"):
        checkpoint.tensors.check()
    assert Checkpoint(model).tensors.fingerprint() != print_
    assert torch.equal(Checkpoint(model).read(NAME), before + 1)


def test_a_file_that_is_written_in_place_or_removed_is_an_error(model):
    for change in (lambda p: os.utime(p, ns=(1, 1)), lambda p: p.unlink()):
        checkpoint = Checkpoint(model)
        checkpoint.read(NAME)
        change(model / "model.safetensors")
        with pytest.raises(OSError, match=r"model\.safetensors was changed"):
            checkpoint.tensors.check()


def test_fingerprints_are_stable_and_differ(model, tmp_path):
    assert Checkpoint(model).fingerprint() == Checkpoint(model).fingerprint()
    other = shutil.copytree(model, tmp_path / "other")
    assert Checkpoint(other).fingerprint() != Checkpoint(model).fingerprint()
    again = pickle.loads(pickle.dumps(Checkpoint(model)))
    assert again.fingerprint() == Checkpoint(model).fingerprint() and torch.equal(
        again.read(NAME), Checkpoint(model).read(NAME)
    )


def test_many_shards_need_few_open_files(tmp_path):
    """300 shards of three members, with a limit of 96 open files; and none stays open once the pool is closed."""
    folder = tmp_path / "shards"
    folder.mkdir()
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(300)]
    for i, name in enumerate(names):
        save_file({name: torch.full((2, 2), float(i))}, folder / f"model-{i:05}.safetensors")
    index = {"weight_map": {n: f"model-{i:05}.safetensors" for i, n in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    code = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))\n"
        "from chatvec_lab.weights.checkpoint import Checkpoint\n"
        "from chatvec_lab.weights.sources.files import HANDLES\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "cs = [Checkpoint(sys.argv[1]) for _ in range(3)]\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    found = list(pool.map(lambda i: cs[i % 3].raw(cs[0].names[i % 300])[0], range(900)))\n"
        "assert found == [float(i % 300) for i in range(900)]\n"
        "HANDLES.close(); assert len(os.listdir('/proc/self/fd')) == before; print('ok')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.stdout.strip() == "ok", done.stderr


@pytest.mark.parametrize("how", ["in place", "replaced", "before the first byte", "its tokenizer"])
def test_an_input_that_changes_during_a_save_leaves_nothing(tmp_path, monkeypatch, how):
    """A training that writes its next step meanwhile would make a mixture of two states, verified."""
    from chatvec_lab.weights.saving.stream import Streamer

    base, chat, cp = save_family(tmp_path, shard="6KB")
    target = sorted(chat.glob("*.safetensors"))[-1]
    next_step = target.read_bytes()[:-4] + bytes(4)

    def change():
        if how == "its tokenizer":
            (chat / "tokenizer.json").write_text((chat / "tokenizer.json").read_text() + " ")
        elif how == "replaced":
            (tmp_path / "next").write_bytes(next_step)
            os.replace(tmp_path / "next", target)
        else:
            target.write_bytes(next_step)

    write, done = Streamer.write, []

    def writing(stream, path, tensors, whole):
        found = write(stream, path, tensors, whole)
        if not done:  # the first shard is written, the last not read yet
            done.append(change())
        return found

    merged = Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))
    merged.check()
    if how == "before the first byte":
        change()
    else:
        monkeypatch.setattr(Streamer, "write", writing)
    with pytest.raises(OSError, match=r"chat.*changed"):
        merged.save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "file", ["model.safetensors", "pytorch_model.bin", "model.gguf", "tokenizer.json", "tokenizer.model"]
)
def test_a_pointer_of_git_lfs_is_called_one(model, file):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4976698672\n"
    if file.startswith("pytorch"):
        (model / "model.safetensors").unlink()
    if file == "tokenizer.model":
        (model / "tokenizer.json").unlink()
    (model / file).write_text(pointer)
    opened = Checkpoint(model / file if file.endswith("gguf") else model)
    with pytest.raises(
        ValueError, match=rf"{file} is a pointer of Git LFS and not the file itself: .*git lfs pull"
    ):
        _ = opened.vocabulary if file.startswith("tokenizer") else opened.names
