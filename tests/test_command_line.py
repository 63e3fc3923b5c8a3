"""`python -m chatvec_lab merge` and its kin: what they read, and that mistakes end in one paragraph."""

import shutil
import sys

import pytest
import torch

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
