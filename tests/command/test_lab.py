"""`lab`: copies to play with, that no study runs; the user's own edits are never lost."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from chatvec_lab import paths
from chatvec_lab.__main__ import main
from chatvec_lab.command import lab
from chatvec_lab.paths import NOTEBOOKS, ROOT


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


def test_the_notebooks_themselves_are_no_folder_for_copies(capsys):
    assert main(["lab", "--folder", str(NOTEBOOKS)]) == 1
    assert "holds the notebooks themselves" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_jupyterlab_serves_the_copies_and_lets_them_be_changed(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    environment |= {"JUPYTER_TOKEN": "x", "PYTHONPATH": str(ROOT)}
    options = ["--", "--no-browser", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command = [
        sys.executable,
        "-m",
        "chatvec_lab",
        "lab",
        "--folder",
        str(tmp_path / "copies"),
        "02_anatomy",
        *options,
    ]
    before = {path: path.read_bytes() for path in NOTEBOOKS.iterdir() if path.is_file()}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def call(path: str, **more):
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/{path}", headers={"Authorization": "token x"}, **more
        )
        with urllib.request.urlopen(asked, timeout=60) as reply:
            return json.loads(reply.read())

    try:
        end = time.monotonic() + 300
        while True:
            try:
                listed = call("contents")
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < end, server.stderr.read()
                time.sleep(0.5)
        names = {entry["name"] for entry in listed["content"]}
        assert names == {path.name for path in NOTEBOOKS.glob("*.ipynb")}
        opened = call("contents/02_anatomy.ipynb")
        opened["content"]["cells"][1]["source"] = "rank: int = 3  # mine"
        body = json.dumps({"type": "notebook", "content": opened["content"]}).encode()
        call("contents/02_anatomy.ipynb", method="PUT", data=body)
    finally:
        server.terminate()
        server.wait(60)
    assert "mine" in (tmp_path / "copies" / "02_anatomy.ipynb").read_text()
    assert {path: path.read_bytes() for path in NOTEBOOKS.iterdir() if path.is_file()} == before


def test_no_root_needs_no_leave_and_an_unknown_notebook_is_named(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(os, "execve", lambda program, command, environment: started.append(command))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    main(["lab"])
    assert "--allow-root" not in started[0]
    assert main(["lab", "02_anatom"]) == 1 and "did you mean '02_anatomy'?" in capsys.readouterr().err
