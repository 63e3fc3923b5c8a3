"""Every notebook through the real runner, on the shipped nano family with few prompts: values in result files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from chatvec_lab import study
from chatvec_lab.paths import NOTEBOOKS, ROOT

pytestmark = pytest.mark.slow  # a minute on two quiet cores, several on busy ones

MODELS = {"CP", "CP + τ", "CP + random", "chat"}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """The results of `python -m chatvec_lab run nano-quick`."""
    folder = tmp_path_factory.mktemp("quick")
    command = [
        sys.executable,
        "-m",
        "chatvec_lab",
        "run",
        "nano-quick",
        "--workers",
        "2",
        "--out",
        str(folder),
    ]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.fixture
def summary(out):
    return lambda notebook: json.loads(next(out.glob(f"cells/{notebook}/*/summary.json")).read_text("utf-8"))


@pytest.fixture
def table(out):
    return lambda notebook, name: pd.read_parquet(next(out.glob(f"cells/{notebook}/*/tables/{name}.parquet")))


def test_every_notebook_is_in_both_studies():
    names = {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    for name in ("nano", "nano-quick"):
        assert {cell.notebook for cell in study.load(name).cells} == names


def test_every_cell_answers_its_question(out):
    page = (out / "index.html").read_text("utf-8")
    for cell in study.load("nano-quick").cells:
        found = json.loads(next(out.glob(f"cells/{cell.notebook}/*/summary.json")).read_text("utf-8"))
        assert found["question"].endswith("?") and found["claims"] and "nan" not in found["answer"]
        assert found["question"] in page


def test_the_saved_model_is_the_formula(table, summary):
    audit = table("01_chat_vector", "audit")
    assert audit.wrong.sum() == 0 and audit.checked.sum() >= 4000 and audit.moved.sum() > 1000
    assert table("01_chat_vector", "identities").holds.all()
    assert "is what the formula says" in summary("01_chat_vector")["answer"]


def test_the_anatomy_has_its_identities(table):
    norms = table("02_anatomy", "norms")
    assert set(norms.vector) == {"chat", "CP zh", "CP ko"} and (norms.l2 >= 0).all()
    assert table("02_anatomy", "angles").cosine.abs().max() < 0.5
    assert table("02_anatomy", "fidelity").relative_error.between(0, 0.5).all()


def test_the_sweep_shows_the_effect(table, summary):
    scores = table("03_scale_sweep", "scores").set_index(["scale", "metric"]).estimate
    assert scores[0.0, "correct"] < 0.1, "the CP cannot answer in the chat format"
    assert max(scores[0.5, "correct"], scores[1.0, "correct"]) > scores[0.0, "correct"] + 0.3
    found = summary("03_scale_sweep")
    assert found["is_recommended"] and found["scale"] in (0.5, 1.0)
    assert set(table("03_scale_sweep", "replies").groupby("scale").size()) == {104}


def test_models_stand_side_by_side(table, summary):
    scale = summary("03_scale_sweep")["scale"]
    for notebook, keys in (
        ("04_instruction_following", "language"),
        ("05_toxicity", "frame"),
        ("06_multi_turn", "length"),
    ):
        scores = table(notebook, "scores")
        assert set(scores.model) >= MODELS and keys in scores
        assert (scores.low <= scores.estimate).all() and (scores.estimate <= scores.high).all()
        assert summary(notebook)["scale"] == scale, "the scale that the sweep chose"


def test_instructions_toxicity_and_conversations(table):
    right = table("04_instruction_following", "scores")
    right = right[right.metric == "correct"].set_index(["model", "language"]).estimate
    assert right["CP + τ", "zh"] > right["CP", "zh"] + 0.3 and right["CP + random", "zh"] < 0.1
    toxic = table("05_toxicity", "scores").set_index(["model", "frame", "metric"]).estimate
    assert toxic["CP + τ", "chat", "polite"] > toxic["CP", "chat", "polite"] + 0.3
    turns = table("06_multi_turn", "scores").set_index(["model", "length"]).estimate
    assert turns["CP + τ", "two turns"] > turns["CP", "two turns"] + 0.2
