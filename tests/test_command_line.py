"""`python -m chatvec_lab merge` and its kin: what they read, and that mistakes end in one paragraph."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatvec_lab import Checkpoint, WeightVector
from chatvec_lab.__main__ import main


def test_a_folder_with_an_at_sign_is_that_folder(families, tmp_path):
    base, chat, cp = families()
    shutil.copytree(base, tmp_path / "m")
    shutil.copytree(chat, tmp_path / "m@v2")
    models = ["--base", str(tmp_path / "m"), "--chat", str(tmp_path / "m@v2"), "--cp", str(cp)]
    assert main(["merge", *models, "--out", str(tmp_path / "out")]) == 0
    wanted = Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))
    found = Checkpoint(tmp_path / "out")
    assert all(torch.equal(found.read(name), wanted.read(name)) for name in wanted.names)


def test_the_vector_is_saved_after_the_model(families, tmp_path, capsys):
    """So that what stopped the model does not keep the same command from going on."""
    base, chat, cp = map(str, families())
    out, vector = tmp_path / "out", tmp_path / "tau"
    command = ["merge", "--base", base, "--chat", chat, "--cp", cp, "--scale", "0.5", "--out", str(out)]
    command += ["--save-vector", str(vector)]
    out.mkdir()
    (out / "mine").write_text("x")
    assert main(command) == 1 and not vector.exists()
    shutil.rmtree(out)
    assert main(command) == 0
    tau = Checkpoint(chat) - Checkpoint(base)
    name = "model.norm.weight"
    assert torch.equal(WeightVector.load(vector).read(name), tau.read(name))
    shutil.rmtree(out)
    assert main(command) == 0, "the vector that is there is the one that it would save"
    assert "tau: saved already" in capsys.readouterr().out and (out / "model.safetensors").exists()
    shutil.rmtree(out)
    other = [chat if word == base else cp if word == chat else word for word in command]
    for another in (other, [*command, "--base", base, "--chat", cp]):  # another vector, or a sum of two
        assert main(another) == 1 and not out.exists()
        assert "tau exists already" in capsys.readouterr().err
    (vector / "manifest.json").unlink()
    assert main(command) == 1 and not out.exists() and "tau exists already" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert main(["inspect", str(tmp_path / "x.gguf")]) == 1
    assert "pip install 'chatvec_lab[gguf]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["merge", "--select", "("], "missing )"),
        (["merge", "--mergekit", "BAD"], "is not YAML"),
        (["families", "BAD"], "is not YAML"),
        (["families", "LIST"], "cp names a model a language"),
        (["families", "TEXT"], "should be a mapping"),
    ],
)
def test_mistakes_end_in_one_paragraph(families, tmp_path, capsys, words, told):
    texts = {"BAD": "base: [", "LIST": "base: a/b\nchat: a/c\ncp: [a/d]\n", "TEXT": "hello\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    command = [str(tmp_path / f"{word}.yaml") if word in texts else word for word in words]
    if "--mergekit" not in words and words[0] == "merge":
        base, chat, cp = map(str, families())
        command += ["--base", base, "--chat", chat, "--cp", cp]
    command += ["--out", str(tmp_path / "out")] if words[0] == "merge" else []
    assert main(command) == 1
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error and not (tmp_path / "out").exists()


def test_a_merge_stopped_between_its_outputs_goes_on(families, tmp_path, capsys):
    base, chat, cp = map(str, families())
    recipe, out, vector = tmp_path / "recipe.yaml", tmp_path / "out", tmp_path / "tau"
    command = ["merge", "--base", base, "--chat", chat, "--cp", cp, "--scale", "0.5", "--out", str(out)]
    command += ["--save-vector", str(vector), "--export-mergekit", str(recipe)]
    assert main(command) == 0
    whole = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert main(command) == 1, "nothing is left to do, and nothing is written over"
    # stopped after the model, and after the recipe; and what somebody has deleted meanwhile
    for lost in ([vector], [vector, out], [out], [out, recipe]):
        for path in lost:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        capsys.readouterr()
        assert main(command) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
        assert ("there already" in said) == (recipe not in lost)
        assert ("saved already" in said) == (len([p for p in (out, vector) if p in lost]) == 1)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == whole


def test_other_outputs_in_the_way_are_left_alone(families, tmp_path, capsys):
    base, chat, cp = map(str, families())
    recipe, out, vector = tmp_path / "recipe.yaml", tmp_path / "out", tmp_path / "tau"
    command = [
        "merge",
        "--base",
        base,
        "--chat",
        chat,
        "--cp",
        cp,
        "--out",
        str(out),
        "--export-mergekit",
        str(recipe),
    ]
    recipe.write_text("mine")
    assert main(command) == 1 and recipe.read_text() == "mine" and not out.exists()
    assert "holds another recipe" in capsys.readouterr().err
    recipe.unlink()
    assert main(command) == 0
    command = [word for word in command if word not in ("--export-mergekit", str(recipe))]
    command += ["--save-vector", str(vector)]
    for other in (["--scale", "0.7"], ["--dtype", "float32"], ["--layers", "0"], ["--cp", chat]):
        assert main(command + other) == 1 and not vector.exists(), other
        assert "exists already" in capsys.readouterr().err
    changed = tmp_path / Path(chat).name  # the same name, other weights
    shutil.copytree(chat, changed)
    tensors = load_file(Path(chat) / "model.safetensors")
    tensors["model.norm.weight"] = 2 * tensors["model.norm.weight"]
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    command[command.index(chat)] = str(changed)
    assert main(command) == 1 and "exists already" in capsys.readouterr().err and not vector.exists()


def test_a_merge_leaves_the_process_as_it_was(families, tmp_path, monkeypatch):
    import gc
    import os

    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    base, chat, cp = map(str, families())
    assert main(["merge", "--base", base, "--chat", chat, "--cp", cp, "--out", str(tmp_path / "out")]) == 0
    assert gc.isenabled() and "OPENBLAS_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("layers", ["0-9999999999", "9" * 5000, "0-" + "9" * 30, "-1", "a", "0--1"])
def test_layers_that_are_no_numbers_cost_nothing_and_are_refused(families, tmp_path, capsys, layers):
    base, chat, cp = map(str, families())
    command = ["merge", "--base", base, "--chat", chat, "--cp", cp, "--out", str(tmp_path / "out")]
    assert main([*command, f"--layers={layers}"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and "layers=" in said and not (tmp_path / "out").exists()
