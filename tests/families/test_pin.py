"""Pinning a family against a hub on loopback; a run says what is not pinned; facts say where they are from."""

import os
import re
import subprocess
import sys

import pytest
from pico import save_model
from weights.sources.test_hub import COMMIT, hub  # noqa: F401  (hub is a fixture)

from chatvec_lab.families import load_family
from chatvec_lab.families.pin import pin, unpinned
from chatvec_lab.paths import DATA
from chatvec_lab.reading import read_yaml

FAMILY = """# kept: a comment
base:
  source: lab/base  # kept too
  revision: null
  licence: MIT
chat:
  source: lab/chat
cp:
  ko: &cp
    source: lab/cp
    revision: main
    notes: >
      two lines
      of notes
  ja: *cp
confounds:
  - none
"""


def pinned(address, home, file):
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "chatvec_lab", "families", "--pin", str(file)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_commit_licence_and_files_are_written_where_they_belong(hub, tmp_path):  # noqa: F811
    address, repos, _ = hub
    file = tmp_path / "mine.yaml"
    file.write_text(FAMILY)
    for name in ("base", "chat", "cp"):
        repos[f"lab/{name}"] = save_model(tmp_path / name)
    # a folder beside the file is meant before a hub id
    for name in ("base", "chat", "cp"):
        repos[f"lab/{name}"] = (tmp_path / name).rename(tmp_path / f"served-{name}")
    done = pinned(address, tmp_path / "home", file)
    assert done.returncode == 0, done.stderr
    assert f"lab/base: {COMMIT}" in done.stdout
    text, family = file.read_text(), read_yaml(file)
    assert "# kept: a comment" in text and "lab/base  # kept too" in text and "of notes" in text
    for member in (family["base"], family["chat"], family["cp"]["ko"]):
        assert member["revision"] == COMMIT and "model.safetensors" in member["files"]
    assert family["cp"]["ja"] == family["cp"]["ko"] and family["base"]["licence"] == "MIT"
    assert not unpinned(load_family(file))
    before = file.read_bytes()
    again = pinned(address, tmp_path / "home", file)
    assert "pinned already" in again.stdout and file.read_bytes() == before


def test_a_model_that_is_not_there_changes_nothing(hub, tmp_path):  # noqa: F811
    address, repos, _ = hub
    file = tmp_path / "mine.yaml"
    file.write_text(FAMILY)
    repos["lab/base"] = save_model(tmp_path / "served")
    done = pinned(address, tmp_path / "home", file)
    assert done.returncode != 0 and "the hub has no model 'lab/chat'" in done.stderr
    assert file.read_text() == FAMILY and not list(tmp_path.glob("*.tmp"))


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="only a family that a YAML file describes"):
        pin("nano")
    (tmp_path / "short.yaml").write_text("base: a/b\nchat: a/c\ncp: {ko: a/d}\n")
    with pytest.raises(ValueError, match=r"names no model of the hub in a line of its own"):
        pin(str(tmp_path / "short.yaml"))


def test_a_run_says_what_is_not_pinned(capsys):
    from chatvec_lab.__main__ import main

    assert main(["run", str(DATA / "studies" / "llama-3.1-8b-swallow-ja.yaml"), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert (
        "tokyotech-llm/Llama-3.1-Swallow-8B-v0.2" in said and "families --pin llama-3.1-8b-swallow-ja" in said
    )
    assert main(["run", str(DATA / "studies" / "nano.yaml"), "--dry-run"]) == 0
    assert "not pinned" not in capsys.readouterr().err


FILES = sorted((DATA / "families").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_fact_of_a_family_has_a_page_or_is_called_unverified(file):
    family = load_family(file)
    assert family.confounds
    for name, facts in family.facts.items():
        for key in ("source", "licence", "parameters", "vocabulary", "dtype"):
            if facts.get(key):
                assert facts.get("pages") or key in facts.get("unverified", ()), (name, key)
        assert all(re.search(r"\b20\d\d\b", page) for page in facts.get("pages") or ()), name
    assert file.read_text().count("source:") >= 3


NEW = [file for file in FILES if "pages:" in file.read_text()]


@pytest.mark.parametrize("file", NEW, ids=lambda f: f.stem)
def test_a_new_family_has_a_study_and_no_revision_that_no_page_shows(file):
    assert (DATA / "studies" / f"{file.stem}.yaml").is_file()
    for facts in load_family(file).facts.values():
        assert facts.get("revision") is None
