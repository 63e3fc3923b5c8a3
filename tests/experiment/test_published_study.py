"""The notebooks on a family that did not grow in the micro-world: real pico checkpoints, named by a YAML file.

The code cells run one after the other in this process, with the parameters of a study; kernels are tested elsewhere.
"""

import json

import matplotlib
import pandas as pd
import pytest
from test_exam import make_pico

from chatvec_lab import study
from chatvec_lab.paths import DATA, NOTEBOOKS
from chatvec_lab.study import parameters

PUBLISHED = ("llama-2-7b-ko", "llama-2-7b-zh", "llama-2-7b-ja", "llama-3-8b-ko", "mistral-breeze-zh-tw")
PUBLISHED += ("qwen1.5-0.5b-sailor", "tinyllama-karasu")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Results of the notebooks 03 to 08, by name."""
    matplotlib.use("agg")
    root = tmp_path_factory.mktemp("published")
    folder = lambda name: root / "cells" / name / "one"  # noqa: E731
    given = {
        "family": str(make_pico(root / "family")),
        "language": "ko",
        "n": 4,
        "validation_n": 4,
        "texts": 4,
    }
    given |= {"prompts": {"max_tokens": "4"}, "scales": [0.0, 1.0], "families": []}
    given |= {"sweep": str(folder("03_scale_sweep"))}
    given |= {
        name: [str(folder(notebook))]
        for name, notebook in [("instructions", "04_instruction_following"), ("toxicity", "05_toxicity"),
                               ("limits", "07_limits")]
    }  # fmt: skip
    for notebook in (
        "03_scale_sweep",
        "04_instruction_following",
        "05_toxicity",
        "06_multi_turn",
        "07_limits",
        "08_paper",
    ):
        names = parameters.read(NOTEBOOKS / f"{notebook}.ipynb")
        cells = [
            c["source"]
            for c in parameters.notebook_cells(NOTEBOOKS / f"{notebook}.ipynb")
            if c["cell_type"] == "code"
        ]
        told = {name: value for name, value in given.items() if name in names} | {
            "out_dir": str(folder(notebook))
        }
        scope: dict = {}
        exec(cells[0], scope)
        scope |= told
        for number, source in enumerate(cells[1:], start=2):
            exec(compile(source, f"{notebook}, code cell {number}", "exec"), scope)
        matplotlib.pyplot.close("all")
    return folder


def summary(out, name):
    return json.loads((out(name) / "summary.json").read_text("utf-8"))


def test_every_notebook_answers(out):
    for name in (
        "03_scale_sweep",
        "04_instruction_following",
        "05_toxicity",
        "06_multi_turn",
        "07_limits",
        "08_paper",
    ):
        found = summary(out, name)
        assert found["question"].endswith("?") and "nan" not in found["answer"], found["answer"]
        assert found["claims"] or name == "08_paper"


def test_replies_are_scored_by_checks_and_languages(out):
    replies = pd.read_parquet(out("04_instruction_following") / "tables" / "replies.parquet")
    assert set(replies.language) == {"ko", "en"} and replies.correct.isin([0, 1]).all()
    assert set(replies.model) == {"CP", "CP + τ", "CP + random", "chat"}
    assert "instructions followed" in summary(out, "04_instruction_following")["answer"]


def test_a_system_prompt_is_asked_with_where_the_template_knows_it(out):
    table = pd.read_parquet(out("04_instruction_following") / "tables" / "system.parquet")
    assert set(table.system) == {"with", "without"}
    assert (
        "with a system prompt instructions followed"
        in summary(out, "04_instruction_following")["answer"].lower()
    )


def test_what_has_no_scorer_has_no_number(out):
    """A pico model writes no language that the English profanity scorer covers: no toxicity, not 0."""
    replies = pd.read_parquet(out("05_toxicity") / "tables" / "replies.parquet")
    assert replies.toxic.isna().all() and set(replies["set"]) == {"hostile", "harmless"}
    assert "not measured" in summary(out, "05_toxicity")["answer"]


def test_no_price_is_made_up(out):
    assert not (out("04_instruction_following") / "tables" / "price.parquet").exists()
    assert "adding τ read no token" in summary(out, "04_instruction_following")["answer"].replace(
        "Adding", "adding"
    )


@pytest.mark.parametrize("name", [path.stem for path in sorted((DATA / "studies").glob("*.yaml"))])
def test_every_study_lists_its_cells_without_a_network(name):
    plan = study.load(name)
    assert (plan.cells and plan.title != name and plan.question.endswith("?")) or name.startswith("nano")


def test_the_published_families_have_a_study():
    assert set(PUBLISHED) <= {path.stem for path in (DATA / "studies").glob("*.yaml")}
    for name in PUBLISHED:
        notebooks = {cell.notebook for cell in study.load(name).cells}
        assert {
            "01_chat_vector",
            "02_anatomy",
            "03_scale_sweep",
            "04_instruction_following",
            "07_limits",
        } <= notebooks
