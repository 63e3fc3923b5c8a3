"""What a study needs, counted by hand from its parameters."""

import re

import pytest

from chatvec_lab import load_family, study
from chatvec_lab.experiment import needs

FAMILY = load_family("llama-2-13b-zh")  # base, chat, CP and CP → FT: six models in the lineup


def test_replies_and_requests_are_counted():
    values = {"n": 10, "system": "Be kind.", "scorers": ["judge:paper", "judge:pair", "language"]}
    replies = needs.replies_of("04_instruction_following", values, 6)
    assert replies == {"one_turn": 180}, "two languages, and the target's again with the system prompt"
    assert needs.requests_of(values["scorers"], replies) == {"judge:paper": 180, "judge:pair": 360}
    hostile = needs.replies_of("05_toxicity", {"n": 10}, 6)
    assert hostile == {"hostile": 60, "harmless": 60, "bare": 90}
    assert needs.requests_of(["safety:judge", "refusals"], hostile) == {"safety:judge": 150}
    assert needs.requests_of(["toxicity:perspective", "answers"], hostile) == {"toxicity:perspective": 210}
    assert needs.requests_of(["toxicity:english-profanity", "answers"], hostile) == {}
    assert needs.replies_of("07d_transfer", {"n": 10}, 6) == {"one_turn": 80, "two_turn": 20}
    assert needs.replies_of("07b_pairs", {"n": 10, "families": []}, 6) == {"one_turn": 140}
    assert needs.replies_of("07b_pairs", {"n": 10, "families": ["a", "b"]}, 6) == {"one_turn": 260}
    searched = {"n": 10, "validation_n": 5, "at_scales": [0.5, 1.0], "trials": 7}
    assert needs.replies_of("13_mixtures", searched, 6) == {"one_turn": 200 + 35 + 110}, (
        "at 0.5 and 1, and beyond at 1.5 and 2"
    )
    thought = {"n": 10, "samples": 4, "scales": [0.0, 1.0], "steps": [0.0, 0.5, 1.0]}
    assert needs.replies_of("14_reasoning", thought, 6) == {"one_turn": 240}, "and noise"
    assert needs.replies_of("11_tokens", {"n": 10}, 6) == {"one_turn": 20}, "the CP's and CP + τ's"


def test_the_papers_study_tells_its_judge_and_its_price():
    told = needs.page(FAMILY, study.load("paper-zh").cells)
    asked = dict(re.findall(r"(judge:paper|safety:judge) ([\d,]+)", told))
    paper, safety = (int(asked[name].replace(",", "")) for name in ("judge:paper", "safety:judge"))
    dollars = (paper * (900 * 30 + 200 * 60) + safety * (900 * 0.5 + 200 * 1.5)) / 1e6
    assert f"about ${dollars:,.0f}" in told and dollars > 100, (
        "GPT-4 rates, gpt-3.5-turbo judges what is safe"
    )
    assert "memory: 27 GB of a GPU" in told and "disk:" in told and "hours" in told


def test_to_look_inside_takes_two_live_models():
    sailor = study.load("qwen1.5-0.5b-sailor")
    told = needs.page(load_family("qwen1.5-0.5b-sailor"), sailor.cells)
    every = load_family("qwen1.5-0.5b-sailor").facts.values()
    parameters = max(int(facts.get("parameters", 0)) for facts in every)
    assert f"two live models, CP + τ and a random vector: {8 * parameters / 1e9:.0f} GB in float32" in told
    assert f"{12 * parameters / 1e9:.0f} GB of the machine" in told
    few = [cell for cell in sailor.cells if cell.notebook < "11"]
    assert "look inside" not in needs.page(load_family("qwen1.5-0.5b-sailor"), few)


def test_a_price_that_is_none_is_refused_and_a_nano_study_needs_no_word():
    with pytest.raises(ValueError, match=r"judge_price must be two numbers, such as 2.5/10, got 'cheap'"):
        study.load("paper-zh", set={"services": "{judge_model: m, judge_price: cheap}"})
    assert needs.page(load_family("nano"), study.load("nano-quick").cells) == ""


def test_a_dry_run_says_what_the_scorers_lack_here(monkeypatch):
    monkeypatch.delenv("CHATVEC_JUDGE_MODEL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def told(services: str, scorers: str = "['judge:mt-bench', world]"):
        plan = study.load("nano-quick", set={"scorers": scorers, "services": services})
        return needs.page(load_family("nano"), plan.cells)

    assert "lacking, in this environment: no judge: give a model" in told(
        "{judge_url: 'http://127.0.0.1:8/v1'}"
    )
    assert "the environment variable OPENAI_API_KEY holds no key" in told("{judge_model: m}")
    assert "the environment variable MY_KEY holds no key" in told("{judge_model: m, judge_key_env: MY_KEY}")
    assert "toxicity_languages" in told("{judge_model: m}", "['toxicity:moderation']")
    fine = told("{judge_model: m, judge_url: 'http://127.0.0.1:8/v1', judge_price: 1/2}")
    assert "lacking" not in fine and "requests to judges and endpoints, at most: judge:mt-bench" in fine
