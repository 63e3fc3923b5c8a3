"""`run` says when a notebook is not the committed one."""

import json
import subprocess

import pytest

from chatvec_lab.paths import NOTEBOOKS
from chatvec_lab.study import command, plan, shipped


def cells(*code: str) -> str:
    made = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {},
            "source": text,
            "outputs": [],
            "execution_count": None,
        }
        for i, text in enumerate(code)
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": made})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "one.ipynb").write_text(cells("a = 1", "print(a)", "print(2)"))
    (tmp_path / shipped.RECORD).write_text(json.dumps(shipped.digests(tmp_path)))
    return tmp_path


def git(folder, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def told(folder, *names: str) -> list[str]:
    return shipped.edited(
        ((folder / name, (folder / name).read_text()) for name in names or ["one.ipynb"]), folder
    )


def test_in_a_checkout_the_code_cells_that_differ_are_named(folder):
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "x")
    assert told(folder) == []
    text = (folder / "one.ipynb").read_text()
    (folder / "one.ipynb").write_text(
        text.replace('"execution_count": null', '"execution_count": 3')
    )  # it was run
    assert told(folder) == []
    (folder / "one.ipynb").write_text(cells("a = 2", "print(a)", "print(2)", "print(3)"))
    assert told(folder) == ["one.ipynb differs from the committed notebook in code cells 1, 4"]
    (folder / "new.ipynb").write_text(cells("a = 2"))
    assert told(folder, "new.ipynb") == ["new.ipynb is not committed"]


def test_elsewhere_the_recorded_digest_tells(folder, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
    assert told(folder) == []
    (folder / "one.ipynb").write_text(cells("a = 2", "print(a)", "print(2)"))
    assert told(folder) == ["one.ipynb differs from the notebook that was shipped"]
    monkeypatch.setenv("PATH", "")  # no git at all
    assert told(folder) == ["one.ipynb differs from the notebook that was shipped"]


def test_inside_another_project_s_checkout_the_digest_tells_too(tmp_path, folder):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    assert told(folder) == []
    (folder / "one.ipynb").write_text(cells("a = 2"))
    assert told(folder) == ["one.ipynb differs from the notebook that was shipped"]


def test_the_recorded_digests_are_those_of_the_notebooks():
    recorded = json.loads((NOTEBOOKS / shipped.RECORD).read_text())
    assert recorded == shipped.digests(), "make format records them"


def test_a_notebook_of_ones_own_is_not_asked_about(folder):
    assert shipped.edited([(folder / "one.ipynb", cells("b"))]) == []


def test_run_says_it(lab, monkeypatch, capsys):
    import argparse

    lab.notebook("mine", "seed: int = 0  # seed", "print(seed)")
    lab.study("notebooks: {mine.ipynb: }")
    (lab.root / shipped.RECORD).write_text(json.dumps({"mine.ipynb": "another"}))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(lab.root.parent))
    monkeypatch.setattr(shipped.edited, "__defaults__", (lab.root,))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = [str(lab.root / "tiny.yaml"), "--out", str(lab.out), "--dry-run"]
    assert command.main(parser.parse_args(arguments)) == 0
    assert "note: mine.ipynb differs from the notebook that was shipped; its results are of your version" in (
        capsys.readouterr().out
    )
    assert plan.load(lab.root / "tiny.yaml").cells[0].notebook == "mine"
