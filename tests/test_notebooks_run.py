"""Every notebook through the real runner, on the shipped nano family with few prompts: values in result files."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from chatvec_lab import study
from chatvec_lab.paths import NOTEBOOKS, ROOT

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
    names = {path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb")}
    for name in ("nano", "nano-quick"):
        assert {cell.notebook for cell in study.load(name).cells} == names


def test_every_cell_answers_its_question(out):
    page = html.unescape(
        re.sub(r"<[^>]*>", "", (out / "index.html").read_text("utf-8"))
    )  # words explain themselves
    for cell in study.load("nano-quick").cells:
        found = json.loads(next(out.glob(f"cells/{cell.notebook}/*/summary.json")).read_text("utf-8"))
        assert (
            found["question"].endswith("?")
            and found["claims"]
            and not re.search(r"nan(?!o)", found["answer"])
        )
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
    claims = {claim["claim"]: claim for claim in found["claims"]}
    best = claims["best scale"]
    assert best["low"] <= best["estimate"] <= best["high"] and best["n"] == 52


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
    toxic = table("05_toxicity", "scores").set_index(["model", "frame", "language", "metric"]).estimate
    assert toxic["CP + τ", "chat", "zh", "polite"] > toxic["CP", "chat", "zh", "polite"] + 0.3
    assert ("CP", "raw", "en", "toxic") in toxic.index, "the paper's Table 9"
    turns = table("06_multi_turn", "scores").set_index(["model", "length"]).estimate
    assert turns["CP + τ", "two turns"] > turns["CP", "two turns"] + 0.2


def test_the_price_and_the_system_prompt(table, summary):
    price = table("04_instruction_following", "price").set_index("model").tokens_beyond_cp
    assert price["CP + τ"] == 0 and price["CP → FT"] > 0
    assert "the chat template refuses it" in summary("04_instruction_following")["answer"]


def test_limits_by_part_by_pair_and_by_relative(table, summary):
    parts = table("07a_parts", "parts").set_index("part")
    assert parts.estimate["all of τ"] > parts.estimate["CP"] + 0.3 and parts.estimate["random vector"] < 0.1
    alone = [f"{kind} only" for kind in ("attention", "MLP", "norms", "embeddings")]
    assert abs(parts.share_of_length[alone].sum() - 1) < 1e-6
    vectors = table("07b_pairs", "vectors").query("metric == 'correct'").set_index("model").estimate
    assert vectors["τ of another base"] < 0.2 < vectors["τ"]
    assert set(table("07d_transfer", "kept").language) == {"zh", "en"}
    assert table("07d_transfer", "perplexity").estimate.between(0.8, 2).all()
    assert set(table("07b_pairs", "relatives").family) >= {"nano", "nano-wide"}
    assert summary("07b_pairs")["absent"] == []
    ladder = table("07c_cp_length", "ladder").query("model == 'CP + τ'").sort_values("tokens").estimate
    assert len(ladder) == 2 and ladder.iloc[0] < ladder.iloc[-1]


def test_no_combination_is_worse_than_it_was_chosen_to_be(table, summary):
    trials = table("13_mixtures", "trials")
    assert len(trials) == 6 and trials.is_within[0] and trials.perplexity[0] < 1.1
    scores = table("13_mixtures", "scores").query("metric == 'correct'").set_index("model").estimate
    assert scores["τ"] > 0.5 and "found by the search" in scores
    gains = table("13_mixtures", "gains").set_index("model")
    assert len(gains) == len(scores) - 1 and set(gains.correction) == {"holm"}
    assert gains.estimate["rank 16 of τ"] == pytest.approx(scores["rank 16 of τ"] - scores["τ"])
    assert summary("13_mixtures")["answer"].startswith("Plain τ is")


def test_a_reasoning_vector_brings_thoughts_and_tau_does_not(table, summary):
    over = table("14_reasoning", "over-scale").set_index(["scale", "metric"]).estimate
    assert over[0.0, "thinks"] < 0.1 and over[1.0, "thinks"] > 0.3 and over[1.0, "thinking_tokens"] > 2
    assert over[1.0, "pass@k"] >= over[1.0, "mean@k"]
    path = table("14_reasoning", "path").query("metric == 'thinks'").set_index("scale").estimate
    assert path[0.0] < 0.1 and path[1.0] == pytest.approx(over[1.0, "thinks"], abs=1e-12)
    beside = table("14_reasoning", "controls").query("metric == 'thinks'").set_index("model").estimate
    assert beside.pop("CP + τ_think") == over[1.0, "thinks"] and beside["CP + random vector"] < 0.1
    assert "the paper, arXiv 2510.10977" in summary("14_reasoning")["answer"]


def test_the_papers_numbers_keep_their_own_column(table, summary):
    measured = table("08_paper", "measured").set_index(["table", "setup"])
    assert measured.paper["1", "CP + τ"] == 7.03 and measured.paper["7", "CP → FT"] == 98.8
    right = (
        table("04_instruction_following", "replies").query("language == 'zh' and model == 'CP + τ'").correct
    )
    assert measured.here["1", "CP + τ"] == pytest.approx(right.mean())
    assert (measured.here_low <= measured.here).all() and (measured.here <= measured.here_high).all()
    assert set(table("08_paper", "beside").table) == {"7"}, "the one quantity that both count alike"
    agreement = table("08_paper", "agreement")
    assert (agreement.agree <= agreement.pairs).all() and (agreement.clear_agree <= agreement.clear).all()
    assert "Levels are not compared" in summary("08_paper")["answer"]


def test_what_is_forgotten_is_counted_in_both_languages(table, summary):
    change = table("10_knowledge", "change")
    assert set(change.language) == {"zh", "en"} and "CP + τ" in set(change.model)
    kept = table("07d_transfer", "kept").query("model == 'CP + τ' and language == 'zh'").estimate.item()
    plain = table("10_knowledge", "plain").query("model == 'CP + τ' and language == 'zh'").estimate.item()
    assert plain == kept, "the same question, from what was kept"
    assert "none named" in summary("10_knowledge")["answer"]


def test_notebooks_share_their_replies(out):
    """The sweep's replies at the chosen scale are those of the notebooks after it: one folder, few parts."""
    parts = list(out.glob("replies/*/*.jsonl"))
    assert parts and not list(out.glob("replies/*/*.part")) and not list(out.glob("cells/*/*/replies"))
    lines = [line for part in parts for line in part.read_text("utf-8").splitlines()]
    held = [
        (part.parent.name, json.loads(line)[0])
        for part in parts
        for line in part.read_text("utf-8").splitlines()
    ]
    assert len(lines) > 1000 and len(held) - len(set(held)) < len(held) / 10, (
        "asked twice only at the same moment"
    )


def test_tokens_and_parts_add_up_beside_their_controls(table, summary):
    scale = summary("11_tokens")["scale"]
    over = (
        table("11_tokens", "over-scale")
        .query("text == 'the reference'")
        .set_index(["model", "scale"])
        .estimate
    )
    assert over["CP + τ", 0.0] == 0 and over["CP + τ", scale] > 2
    for control in ("CP + random vector", "CP + τ, no chat template"):
        assert over[control, scale] < over["CP + τ", scale] / 3
    assert table("11_tokens", "depth").estimate.between(0.25, 1).all()
    checks = table("12_attribution", "checks").set_index("model")
    assert (
        checks.is_complete.all() and (checks.error <= 0.02).all() and summary("12_attribution")["is_complete"]
    )
    assert checks.difference["CP + τ"] > 2 and checks.difference["CP + random vector"] < 1
    parts = table("12_attribution", "parts")
    assert "embedding" not in set(parts[parts.estimate.ne(0)].part), "tuning left it alone"
    assert parts.estimate.sum() == pytest.approx(checks.total["CP + τ"], rel=0.02)


def test_a_larger_model_gets_the_vector_in_its_language_part(table):
    parts = table("09_multimodal", "parts").set_index("part")
    assert parts.changed["language_model"] > 0
    assert parts.changed.drop("language_model").eq(0).all()
    same = table("09_multimodal", "same")
    assert (same.same == same.n).all()
