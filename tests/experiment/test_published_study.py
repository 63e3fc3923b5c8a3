"""The notebooks on a family that did not grow in the micro-world: real pico checkpoints, named by a YAML file.

Once in memory, and once (03 and 04) at a server that also is the judge.

The code cells run one after the other in this process, with the parameters of a study; kernels are tested elsewhere.
"""

import json

import matplotlib
import pandas as pd
import pytest
from flaky_server import FlakyServer, completion
from test_exam import make_pico

from chatvec_lab import load_family, study
from chatvec_lab.experiment import Exam
from chatvec_lab.paths import DATA, NOTEBOOKS
from chatvec_lab.study import parameters

PUBLISHED = ("llama-2-7b-ko", "llama-2-7b-zh", "llama-2-7b-ja", "llama-3-8b-ko", "mistral-breeze-zh-tw")
PUBLISHED += ("qwen1.5-0.5b-sailor", "tinyllama-karasu")


NOTEBOOKS_ASKED = ("03_scale_sweep", "04_instruction_following", "05_toxicity", "06_multi_turn", "07a_parts",
                   "07b_pairs", "07c_cp_length", "07d_transfer", "10_knowledge", "11_tokens", "12_attribution",
                   "08_paper", "13_mixtures")  # fmt: skip


def run_notebook(notebook: str, folder, given: dict) -> None:
    """The code cells one after the other, with those of the given parameters that the notebook has."""
    path = NOTEBOOKS / f"{notebook}.ipynb"
    names = parameters.read(path)
    cells = [c["source"] for c in parameters.notebook_cells(path) if c["cell_type"] == "code"]
    scope: dict = {}
    exec(cells[0], scope)
    scope |= {name: value for name, value in given.items() if name in names} | {"out_dir": str(folder)}
    for number, source in enumerate(cells[1:], start=2):
        exec(compile(source, f"{notebook}, code cell {number}", "exec"), scope)
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> str:
    matplotlib.use("agg")
    return str(make_pico(tmp_path_factory.mktemp("published")))


@pytest.fixture(scope="module")
def out(family, tmp_path_factory):
    """Results of the notebooks, by name; the sweep recommends no scale, since a pico model follows no instruction."""
    root = tmp_path_factory.mktemp("in-memory")
    folder = lambda name: root / "cells" / name / "one"  # noqa: E731
    given = {"family": family, "language": "ko", "n": 4, "validation_n": 4, "texts": 4, "families": []}
    given |= {"trials": 3, "at_scales": [1.0], "guard": 2.0}
    given |= {"prompts": {"max_tokens": "4"}, "scales": [0.0, 1.0], "sweep": str(folder("03_scale_sweep"))}
    given |= {
        name: [str(folder(notebook))]
        for name, notebook in [("instructions", "04_instruction_following"), ("toxicity", "05_toxicity"),
                               ("pairs", "07b_pairs"), ("transfer", "07d_transfer"), ("knowledge", "10_knowledge")]
    }  # fmt: skip
    for notebook in NOTEBOOKS_ASKED:
        run_notebook(notebook, folder(notebook), given)
    return folder


def summary(out, name):
    return json.loads((out(name) / "summary.json").read_text("utf-8"))


def test_every_notebook_answers(out):
    for name in NOTEBOOKS_ASKED:
        found = summary(out, name)
        assert found["question"].endswith("?") and "nan" not in found["answer"], found["answer"]
        assert found["claims"] or name == "08_paper"


def test_without_a_recommended_scale_later_notebooks_say_so_and_take_the_papers(out):
    sweep = summary(out, "03_scale_sweep")
    assert not sweep["is_recommended"] and "No scale is recommended" in sweep["answer"]
    assert "fewer than 50" in sweep["answer"] or "which is few" in sweep["answer"]
    for name in ("04_instruction_following", "05_toxicity", "06_multi_turn", "10_knowledge"):
        found = summary(out, name)
        assert found["scale"] == 1.0 and "the sweep recommends none" in found["answer"], found["answer"]
    shares = pd.read_parquet(out("07a_parts") / "tables" / "parts.parquet").set_index("part").share_of_length
    assert shares["all of τ"] == 1.0, "scale 1, not 0 of every part"


def test_what_has_no_counterpart_in_the_paper_stands_apart(out):
    found = summary(out, "08_paper")["answer"]
    assert "names no setting of the paper" in found and "Nothing is set beside" in found
    assert "Not measured here: Tables 1, 2, 3" in found


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


def test_inside_a_published_family_its_own_reply_is_the_reference_and_the_parts_add_up(out):
    for name in ("11_tokens", "12_attribution"):
        assert "CP + τ's own reply (these prompts have no reference)" in summary(out, name)["answer"]
    tokens = pd.read_parquet(out("11_tokens") / "tables" / "tokens.parquet")
    assert tokens.groupby("model").pair.nunique().eq(4).all() and tokens.model.nunique() == 3
    checks = pd.read_parquet(out("12_attribution") / "tables" / "checks.parquet").set_index("model")
    assert checks.is_complete.all() and (checks.error < 0.02).all(), checks
    parts = pd.read_parquet(out("12_attribution") / "tables" / "parts.parquet")
    assert parts.estimate.sum() == pytest.approx(
        checks.difference["CP + τ"], abs=0.02 * checks["size"]["CP + τ"]
    )


def test_what_has_no_scorer_has_no_number(out):
    """A pico model writes no language that the English profanity scorer covers: no toxicity, not 0."""
    replies = pd.read_parquet(out("05_toxicity") / "tables" / "replies.parquet")
    assert replies.response.notna().all() and "reply" not in replies
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
            "07a_parts",
            "07b_pairs",
            "07d_transfer",
        } <= notebooks


class Server:
    """Replies to any question in either of OpenAI's shapes, and rates what it is asked to rate."""

    def __call__(self, path: str, body: dict) -> dict:
        if body["model"] == "judge":
            return completion("Rating: [[7]]")
        text = f"{body['model']} 모델이 대답합니다. 물론이죠, 알겠습니다."
        return completion(text) | {
            "choices": [{"text": text, "message": {"content": text}, "finish_reason": "stop"}]
        }


def test_a_served_model_goes_through_the_same_notebooks(family, tmp_path, monkeypatch):
    monkeypatch.setattr("chatvec_lab.live.LiveModel", None)  # nothing is loaded here
    monkeypatch.setattr("chatvec_lab.live.load", None)
    labels = ("CP", "CP + τ", "CP + random", "chat", "0", "1")
    folder = lambda name: tmp_path / "cells" / name / "one"  # noqa: E731
    with FlakyServer(Server()).running() as server:
        given = {
            "family": family, "language": "ko", "n": 4, "validation_n": 4, "scales": [0.0, 1.0], "system": "",
            "speaker": f"served:{server.url}/v1", "served": {label: f"merged {label}" for label in labels},
            "scorers": ["judge:mt-bench", "language"],
            "services": {"judge_model": "judge", "judge_url": f"{server.url}/v1"},
        }  # fmt: skip
        for notebook in ("03_scale_sweep", "04_instruction_following", "06_multi_turn"):
            run_notebook(notebook, folder(notebook), given)
        asked = len(server.bodies)
        run_notebook("04_instruction_following", folder("04_instruction_following"), given)
        assert len(server.bodies) == asked, "replies and judgements are kept"
    replies = pd.read_parquet(folder("04_instruction_following") / "tables" / "replies.parquet")
    said = replies[replies.language == "ko"].groupby("model").response.first()
    assert said["CP + τ"].startswith("merged CP + τ") and replies.judge_mt_bench.eq(7).all()
    assert "7.00" in summary(folder, "04_instruction_following")["answer"]
    assert "perplexity was not measured" in summary(folder, "03_scale_sweep")["answer"]
    with pytest.raises(ValueError, match="which of the server's models is 'CP → FT'"):
        exam = Exam(load_family(family), "ko", speaker=given["speaker"], served=given["served"])
        exam.ask({"CP → FT": None}, ["one_turn"], 2)
