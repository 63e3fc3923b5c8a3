"""`lab`: copies to play with, that no study runs; the user's own edits are never lost."""

import json
import os

import pytest

from chatvec_lab import paths
from chatvec_lab.__main__ import main
from chatvec_lab.command import lab
from chatvec_lab.paths import NOTEBOOKS


def notebook(path, code: str, outputs=()):
    cell = {
        "cell_type": "code",
        "id": "a",
        "metadata": {},
        "source": code,
        "outputs": list(outputs),
        "execution_count": None,
    }
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}))


@pytest.fixture
def folders(tmp_path):
    shipped = tmp_path / "notebooks"
    shipped.mkdir()
    notebook(shipped / "one.ipynb", "print(1)")
    notebook(shipped / "two.ipynb", "print(2)")
    return shipped, tmp_path / "lab"


def test_copies_are_made_and_renewed(folders):
    shipped, copies = folders
    assert lab.renew(shipped, copies) == []
    assert (copies / "one.ipynb").read_bytes() == (shipped / "one.ipynb").read_bytes()
    notebook(
        copies / "one.ipynb", "print(1)", [{"output_type": "stream", "name": "stdout", "text": "1"}]
    )  # it was run
    notebook(shipped / "one.ipynb", "print(11)")
    assert lab.renew(shipped, copies) == []
    assert "print(11)" in (copies / "one.ipynb").read_text()


def test_an_edited_copy_is_kept_and_said_so_only_where_the_shipped_one_changed(folders):
    shipped, copies = folders
    lab.renew(shipped, copies)
    notebook(copies / "one.ipynb", "print('mine')")
    assert lab.renew(shipped, copies) == []
    notebook(shipped / "one.ipynb", "print(11)")
    (line,) = lab.renew(shipped, copies)
    assert line.startswith("one.ipynb: your edited copy is kept") and str(copies / "one.ipynb") in line
    assert "mine" in (copies / "one.ipynb").read_text()
    (copies / "one.ipynb").unlink()
    assert lab.renew(shipped, copies) == [] and "print(11)" in (copies / "one.ipynb").read_text()


def test_a_copy_that_no_longer_is_a_notebook_and_ones_own_are_left_alone(folders):
    shipped, copies = folders
    lab.renew(shipped, copies)
    (copies / "one.ipynb").write_text("half a")
    notebook(copies / "my_own.ipynb", "print('own')")
    lab.renew(shipped, copies)
    assert (copies / "one.ipynb").read_text() == "half a" and (copies / "my_own.ipynb").is_file()


@pytest.mark.parametrize(
    ("arguments", "opened", "more"),
    [
        ([], "playground.ipynb", []),
        (["02_anatomy"], "02_anatomy.ipynb", []),
        (["02_anatomy.ipynb", "--", "--port", "9999"], "02_anatomy.ipynb", ["--port", "9999"]),
        (["--", "--no-browser"], "playground.ipynb", ["--no-browser"]),
    ],
)
def test_it_becomes_jupyterlab_on_the_copy(tmp_path, monkeypatch, capsys, arguments, opened, more):
    started = []
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(
        os, "execve", lambda program, command, environment: started.append((command, environment))
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    before = {path: path.read_bytes() for path in NOTEBOOKS.iterdir() if path.is_file()}
    main(["lab", *arguments])
    ((command, environment),) = started
    assert command[1:3] == ["-m", "jupyterlab"] and str(tmp_path / "lab" / opened) in command
    assert f"--ServerApp.root_dir={tmp_path / 'lab'}" in command and "--allow-root" in command
    assert command[len(command) - len(more) :] == more
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path)
    assert "what you change there changes no study" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in NOTEBOOKS.iterdir() if path.is_file()} == before


def test_no_root_needs_no_leave_and_an_unknown_notebook_is_named(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(os, "execve", lambda program, command, environment: started.append(command))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    main(["lab"])
    assert "--allow-root" not in started[0]
    assert main(["lab", "02_anatom"]) == 1 and "did you mean '02_anatomy'?" in capsys.readouterr().err
