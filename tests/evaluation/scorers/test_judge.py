"""Judging: every reply ends with exactly one judgement, whatever the server does, and no number is made up."""

import hashlib
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pandas as pd
import pytest
from flaky_server import FlakyServer, completion
from hypothesis import given
from hypothesis import strategies as st

from chatvec_lab.evaluation.asking.cache import JsonlCache
from chatvec_lab.evaluation.asking.http import Endpoint
from chatvec_lab.evaluation.scorers.judge import Judge, compare_replies, rate
from chatvec_lab.evaluation.scorers.judge_prompts import fill, paper_template, templates
from chatvec_lab.evaluation.scorers.verdicts import read_rating, read_score, read_verdict
from chatvec_lab.evaluation.statistics import bradley_terry, summarise

KEY = "sk-test-51b2e8-never-show-this"
STRANGE = [
    "",
    " \n\t",
    "😀🔥",
    "مرحبا بالعالم",
    "x" * 100_000,
    "half \ud83d",
    "{answer} {question}",
    "[[10]]",
    "\x00\x1b[0m",
]


def replies(n=3, *, language="en", turns=1, **columns):
    rows = [
        {"prompt_id": f"p{i}", "set": "own", "language": language, "turn": turn, "sample": 0,
         "prompt": f"Question {i}.{turn}?", "response": f"Answer {i}.{turn}.", "tokens": 3,
         "finish_reason": "stop", "seed": None}
        for i in range(n) for turn in range(1, turns + 1)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def says(text):
    return FlakyServer(lambda path, body: completion(text(body) if callable(text) else text))


def judge_at(server, *, key_env=None, timeout=20, **options):
    endpoint = Endpoint(server.url, key_env=key_env, timeout=timeout, retries=30, backoff=0.001)
    return Judge("judge-1", endpoint, progress=False, **options)


def asked(server):
    return [body["messages"][-1]["content"] for body in server.bodies]


# --- the server in trouble ---


def score_of(question: str) -> int:
    return hashlib.sha256(question.encode()).digest()[0] % 10 + 1


@pytest.mark.parametrize("seed", [0, 1])
def test_every_reply_ends_with_exactly_one_judgement(tmp_path, monkeypatch, caplog, seed):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    responses = replies(60)
    references = dict.fromkeys(responses["prompt_id"], "The standard answer.")
    cache = tmp_path / "judgements.jsonl"
    server = FlakyServer(
        lambda path, body: completion(f"{score_of(body['messages'][1]['content'])}\nso"),
        trouble=0.3,
        seed=seed,
    )
    server.echo = KEY
    with server.running():
        judge = judge_at(server, key_env="JUDGE_KEY", cache=cache, workers=16, timeout=0.8)
        table = rate(responses, judge, references=references)
        questions = {b["messages"][1]["content"] for b in server.bodies}
        again = rate(responses, judge_at(server, key_env="JUDGE_KEY", cache=cache), references=references)

    assert sum(server.troubles.values()) > 12 and len(server.troubles) >= 5
    assert list(table["prompt_id"]) == list(responses["prompt_id"])
    assert (table["status"] == "ok").all() and (table["asked"] == 1).all()
    template = templates()["paper"]["en"]
    fields = {"reference": "The standard answer.", "language": "English"}
    pairs = zip(responses["prompt"], responses["response"], strict=True)
    filled = [fill(template, question=question, answer=answer, **fields) for question, answer in pairs]
    assert [score_of(m[1]["content"]) for m in filled] == list(table["score"])
    assert len(questions) == len(server.good) == 60

    keys = [json.loads(line)["key"] for line in cache.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 60
    assert again.drop(columns="asked").equals(table.drop(columns="asked")) and (again["asked"] == 0).all()

    shown = f"{judge!r}{vars(judge)}{caplog.text}{table.to_csv()}"
    files = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY not in shown and KEY.encode() not in files
    assert {h["Authorization"] for h in server.headers} == {f"Bearer {KEY}"}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    responses, cache = replies(60), tmp_path / "j.jsonl"

    def answer(path, body):
        if sum(server.requests.values()) == 20:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.01)
        return completion("[[7]]")

    server = FlakyServer(answer)
    with server.running():
        with pytest.raises(KeyboardInterrupt):
            rate(responses, judge_at(server, cache=cache, workers=4), protocol="mt-bench")
        time.sleep(0.2)  # those under way arrive and are kept
        while (done := len(cache.read_bytes().splitlines())) < sum(server.requests.values()):
            time.sleep(0.02)
        assert 16 <= done < 40
        table = rate(responses, judge_at(server, cache=cache, workers=4), protocol="mt-bench")
    assert int(table["asked"].sum()) == 60 - done
    assert set(server.good.values()) == {1}
    assert (table["score"] == 7).all()


@pytest.mark.slow
def test_a_killed_run_loses_and_doubles_nothing(tmp_path):
    cache = tmp_path / "j.jsonl"
    program = textwrap.dedent("""
        import sys
        import pandas as pd
        from chatvec_lab.evaluation.scorers.judge import Judge, rate
        responses = pd.DataFrame({"prompt_id": [f"p{i}" for i in range(400)], "prompt": "?",
                                  "response": [f"answer {i}" for i in range(400)]})
        judge = Judge("judge-1", sys.argv[1], key_env=None, cache=sys.argv[2], workers=4, progress=False)
        table = rate(responses, judge, protocol="mt-bench")
        assert (table["score"] == 7).all() and len(table) == 400
    """)

    def answer(path, body):
        time.sleep(0.005)
        return completion("[[7]]")

    with FlakyServer(answer).running() as server:
        kills = 0
        while True:
            run = subprocess.Popen([sys.executable, "-c", program, server.url, str(cache)])
            limit = sum(server.good.values()) + 90
            while run.poll() is None and sum(server.good.values()) < limit:
                time.sleep(0.005)
            if run.poll() is not None:
                break
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
        assert run.returncode == 0 and kills >= 3
        lines = [line for line in cache.read_bytes().splitlines() if line.endswith(b"}")]  # not the torn
        keys = [json.loads(line)["key"] for line in lines]
        assert len(set(keys)) == len(keys) == 400
        assert sum(server.good.values()) <= 400 + 4 * kills  # at most what was under way


def test_a_server_that_is_down_stops_the_run_and_keeps_what_is_paid(tmp_path):
    def answer(path, body):
        return completion("[[7]]") if sum(server.good.values()) <= 10 else (400, {"error": "no such model"})

    server = FlakyServer(answer)
    with server.running(), pytest.raises(ValueError, match="no such model"):
        rate(replies(60), judge_at(server, cache=tmp_path / "j.jsonl", workers=2), protocol="mt-bench")
    assert len((tmp_path / "j.jsonl").read_bytes().splitlines()) == 10
    assert sum(server.requests.values()) < 20


def test_one_refused_reply_fails_alone_and_is_asked_again(tmp_path):
    server = FlakyServer(
        lambda path, body: (400, {"error": "filtered"}) if "Answer 1" in str(body) else completion("[[7]]")
    )
    with server.running():
        table = rate(replies(), judge_at(server, cache=tmp_path / "j"), protocol="mt-bench")
        assert list(table["status"]) == ["ok", "failed", "ok"]
        assert np.isnan(table["score"][1]) and "filtered" in table["error"][1]
        server.answer = lambda path, body: completion("[[9]]")
        again = rate(replies(), judge_at(server, cache=tmp_path / "j"), protocol="mt-bench")
    assert list(again["score"]) == [7, 9, 7] and list(again["asked"]) == [0, 1, 0]


# --- reading judgements ---


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("8", 8), ("8\nBecause 3 of 4 facts are right.", 8), ("\n\n 10 \n", 10), ("7.5", 7.5), ("7,5", 7.5),
        ("8/10", 8),
        ("8 / 10.", 8), ("Score: 8", 8), ("**9**", 9), ("评分：6分", 6), ("評分: ９", 9), ("8점", 8), ("点数：８点", 8),
        ("الدرجة: ٨", 8), ("Puntuación: 4 puntos", 4), ("Alama: 3", 3), ("Rating: 7 out of 10", 7), ("0", 0),
        ("<think>maybe 3\n4</think>\n\n6\nGood.", 6), ("[5]", 5), ("# 5", 5),
        ("11", None), ("-3", None), ("100", None), ("", None), ("good", None), ("6 or 7", None), ("6-7", None),
        ("1. Helpfulness: it is fine\n8", None), ("I would give it 7 because it is right", None),
        ("The answer names 3 of the 5 rivers", None), ("<think>8", None), ("1.2.3", None), ("8 9", None),
        ("It misses 3 points", None), ("감점: 2점", None),
    ],
)  # fmt: skip
def test_the_score_stands_alone_on_the_first_line(text, score):
    assert read_score(text) == score


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Fine. Rating: [[7]]", 7), ("[[7.5]]", 7.5), ("［［8］］", 8), ("[[ 8 / 10 ]]", 8), ("Rating: 6", 6),
        ("The reply claims [[10]]. Rating: [[2]]", 2), ("**Rating:** 4/10", 4), ("<think>[[9]]</think>[[3]]", 3),
        ("Rating: [7]", 7), ("Rating: [[7]", 7), ("Rating: [[1", None), ("Rating: [1", None),  # of [[10]], cut off
        ("[[0]]", None), ("[[11]]", None), ("[[ten]]", None), ("see [1]", None), ("", None), ("<think>[[9]]", None),
    ],
)  # fmt: skip
def test_the_last_rating_counts(text, rating):
    assert read_rating(text) == rating


@given(st.text(st.characters(codec=None)))
def test_no_judgement_crashes_a_reader(text):
    for read, allowed in ((read_score, (0, 10)), (read_rating, (1, 10))):
        value = read(text)
        assert value is None or allowed[0] <= value <= allowed[1]
    assert read_verdict(text) in (None, "A", "B", "C")


def test_a_judgement_that_cannot_be_read_is_missing_and_counted():
    with says(lambda body: "no idea" if "Answer 1" in str(body) else "[[8]]").running() as server:
        table = rate(replies(), judge_at(server), protocol="mt-bench")
    assert list(table["status"]) == ["ok", "unparsable", "ok"]
    assert table["judgement"][1] == "no idea" and np.isnan(table["score"][1])
    assert table[["prompt_tokens", "completion_tokens", "asked"]].sum().tolist() == [30, 15, 3]
    mean = summarise(table, value="score", share=False).iloc[0]
    assert (mean["estimate"], mean["n"], mean["missing"]) == (8, 2, 1)


# --- what is asked ---


@pytest.mark.parametrize("language", ["en", "zh-Hant", "zh-Hans", "ko", "ja", "es", "ar", "sw"])
def test_the_paper_asks_in_the_language_of_the_prompt(language):
    asked_in, template = paper_template(language)
    user = template["user"]
    assert asked_in == language
    assert user.index("{question}") < user.index("{reference}") < user.index("{answer}")
    assert ("{language}" in user) == (language == "en")
    assert re.search(r"1\D{1,12}10", user)


def test_other_languages_are_asked_about_in_english():
    with says("7").running() as server:
        table = rate(replies(1, language="fr"), judge_at(server), references={"p0": "Oui."})
        assert "proper French" in asked(server)[0] and table["prompt_language"][0] == "en"
        rate(replies(1, language="zh-TW"), judge_at(server), references={"p0": "是"}, prompt_language="en")
        assert "proper Traditional Chinese" in asked(server)[1]
        table = rate(replies(1, language="zh-TW"), judge_at(server), references={"p0": "是"})
        assert "繁體中文" in asked(server)[2] and table["prompt_language"][0] == "zh-Hant"


def test_a_dialogue_is_judged_whole_and_its_reference_shown():
    responses = replies(2, turns=2)
    references = pd.DataFrame({"prompt_id": "p0", "turn": [1, 2], "reference": ["ideal one", "ideal two"]})
    with says("[[6]]").running() as server:
        table = rate(responses, judge_at(server, workers=1), protocol="mt-bench", references=references)
    first, second, third, fourth = asked(server)
    assert "ideal one" in first and "Question 0.2" not in first
    assert (
        second.index("ideal two")
        < second.index("Answer 0.1.")
        < second.rindex("Question 0.2?")
        < second.index("Answer 0.2.")
    )
    assert "Reference" not in third + fourth and "Answer 1.1." in fourth
    assert list(table["turn"]) == [1, 2, 1, 2] and table["prompt_hash"].nunique() == 4


def test_a_strong_models_replies_serve_as_references():
    strong = replies(2).assign(response=["ideal 0", "ideal 1"])
    with says("9").running() as server:
        rate(replies(2), judge_at(server, workers=1), references=strong)
    assert "ideal 0" in asked(server)[0] and "ideal 1" in asked(server)[1]


def test_a_prompts_table_gives_its_references_turn_by_turn():
    prompts = pd.DataFrame({"prompt_id": ["p0", "p1"], "reference": [["ideal one", "ideal two"], None]})
    with says("[[9]]").running() as server:
        rate(replies(2, turns=2), judge_at(server, workers=1), protocol="mt-bench", references=prompts)
        assert ["ideal" in text for text in asked(server)] == [True, True, False, False]
        assert "ideal two" in asked(server)[1] and "ideal two" not in asked(server)[0]
        none = prompts.assign(reference=None)
        assert (
            rate(replies(2, turns=2), judge_at(server), protocol="mt-bench", references=none)["score"] == 9
        ).all()


def test_scales_and_models_in_one_table_are_rated_apart():
    both = pd.concat(
        [replies(2, scale=0.0), replies(2, scale=1.0).assign(response="other")], ignore_index=True
    )
    with says("[[5]]").running() as server:
        table = rate(both, judge_at(server), protocol="mt-bench")
    assert list(table["scale"]) == [0, 0, 1, 1]
    assert len(server.bodies) == 4


def test_equal_questions_are_asked_once_and_repeats_again():
    same = pd.concat([replies(1, scale=0.0), replies(1, scale=1.0)], ignore_index=True)
    ratings = iter(range(1, 10))
    with says(lambda body: f"[[{next(ratings)}]]").running() as server:
        table = rate(same, judge_at(server, workers=1), protocol="mt-bench", repeats=3)
    assert len(server.bodies) == 3
    assert list(table["repeat"]) == [0, 1, 2, 0, 1, 2] and list(table["score"]) == [1, 2, 3, 1, 2, 3]
    assert list(table["asked"]) == [1, 1, 1, 0, 0, 0]


def test_options_model_and_template_are_part_of_the_question():
    with says("[[5]]").running() as server:
        for options in ({}, {"temperature": None}, {"seed": 1}):
            rate(replies(1), judge_at(server, **options), protocol="mt-bench")
        own = {"user": "Rate {answer} to {question} {like_this}"}
        rate(replies(1), judge_at(server), protocol="mt-bench", template=own)
    assert [b.get("temperature", "none") for b in server.bodies] == [0, "none", 0, 0]
    assert server.bodies[2]["seed"] == 1
    assert server.bodies[3]["messages"] == [
        {"role": "user", "content": "Rate Answer 0.1. to Question 0.1? {like_this}"}
    ]


def test_strange_replies_are_judged_like_any_other():
    responses = replies(len(STRANGE) + 1).assign(response=pd.Series([*STRANGE, None], dtype=object))
    with says("[[4]]").running() as server:
        table = rate(responses, judge_at(server), protocol="mt-bench")
    assert list(table["status"]) == ["ok"] * len(STRANGE) + ["no response"]
    assert len(server.bodies) == len(STRANGE) and np.isnan(table["score"].iloc[-1])


def test_no_replies_give_an_empty_table():
    with says("1").running() as server:
        table = rate(replies(1).iloc[:0], judge_at(server), protocol="mt-bench")
    assert len(table) == 0 and {"score", "status", "judge"} <= set(table)


def test_what_cannot_be_judged_is_named():
    with says("7").running() as server:
        judge = judge_at(server)
        with pytest.raises(ValueError, match=r"2 of 3 have none: 'p1', 'p2'"):
            rate(replies(), judge, references={"p0": "x"})
        with pytest.raises(ValueError, match="mt-bench"):
            rate(replies(1, turns=2), judge, references=replies(1, turns=2))
        with pytest.raises(ValueError, match="earlier turns"):
            rate(replies(1, turns=2).iloc[1:], judge, protocol="mt-bench")
        with pytest.raises(ValueError, match=r"same .*prompt_id"):
            rate(pd.concat([replies(1)] * 2), judge, protocol="mt-bench")
        with pytest.raises(ValueError, match="'paper' or 'mt-bench'"):
            rate(replies(1), judge, protocol="gpt")
        with pytest.raises(ValueError, match="two references"):
            rate(replies(1), judge, references=pd.DataFrame({"prompt_id": ["p0", "p0"], "reference": "x"}))
        with pytest.raises(KeyError, match="response"):
            rate(replies(1).drop(columns="response"), judge, protocol="mt-bench")
        assert not server.bodies


def test_the_judge_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("CHATVEC_JUDGE_MODEL", raising=False)
    with pytest.raises(ValueError, match="CHATVEC_JUDGE_MODEL"):
        Judge()
    with says("[[3]]").running() as server:
        monkeypatch.setenv("CHATVEC_JUDGE_MODEL", "some-model")
        monkeypatch.setenv("CHATVEC_JUDGE_URL", server.url)
        table = rate(replies(1), Judge(key_env=None, progress=False), protocol="mt-bench")
    assert server.bodies[0]["model"] == "some-model"
    assert (table["judge"][0], table["served_model"][0]) == ("some-model", "judge-2026-11-01")


# --- pairs ---


def first_answer(body):
    return re.search(r"Assistant A's Answer\]\n(.*)\n\[End", body["messages"][1]["content"])[1]


def pair(server, **options):
    a, b = replies(4).assign(response="good"), replies(4).assign(response="bad").iloc[::-1]
    return compare_replies(a, b, judge_at(server), names=("merged", "cp"), **options)


def test_a_win_counts_when_both_orders_agree():
    with says(lambda body: "[[A]]" if first_answer(body) == "good" else "so [[B]]").running() as server:
        table = pair(server)
    assert list(table["prompt_id"]) == ["p0", "p1", "p2", "p3"]
    assert (table["score"] == 1).all() and (table["verdict_ba"] == "a").all() and table["is_consistent"].all()
    assert len(server.bodies) == 8
    strengths = bradley_terry(table, resamples=99).set_index("model")["estimate"]
    assert strengths["merged"] > 0 > strengths["cp"]


def test_a_judge_that_likes_the_first_place_decides_nothing():
    with says("[[A]]").running() as server:
        table = pair(server)
    assert (table["score"] == 0.5).all() and not table["is_consistent"].any()
    assert int(table["prompt_tokens"].sum()) == 80 and int(table["asked"].sum()) == 8


def test_ties_losses_and_unreadable_verdicts():
    with says("[[C]]").running() as server:
        assert (pair(server)["score"] == 0.5).all()
    with says(lambda body: "[[A]]" if first_answer(body) == "bad" else "[[B]]").running() as server:
        assert (pair(server)["score"] == 0).all()
    with says(lambda body: "hm" if first_answer(body) == "bad" else "[[A]]").running() as server:
        table = pair(server)
    assert (
        table["score"].isna().all()
        and (table["status"] == "unparsable").all()
        and table["is_consistent"].isna().all()
    )


def test_dialogues_are_compared_whole():
    a, b = replies(1, turns=2), replies(1, turns=2).assign(response=["other 1", "other 2"])
    with says("[[B]]").running() as server:
        table = compare_replies(a, b, judge_at(server, workers=1))
    text = asked(server)[2]
    assert (
        text.index("Answer 0.1.") < text.index("Answer 0.2.") < text.index("other 1") < text.index("other 2")
    )
    assert list(table["turn"]) == [1, 2]


def test_pairs_must_pair():
    with says("[[A]]").running() as server:
        judge = judge_at(server)
        with pytest.raises(ValueError, match=r"1 replies have no partner.*'p2'"):
            compare_replies(replies(3), replies(2), judge)
        with pytest.raises(ValueError, match="several replies"):
            compare_replies(pd.concat([replies(1, scale=0), replies(1, scale=1)]), replies(1), judge)
        missing = replies(2).assign(response=["x", None])
        assert list(compare_replies(replies(2), missing, judge)["status"]) == ["ok", "no response"]


QUESTION = [{"role": "user", "content": "q"}]


def test_what_was_under_way_at_a_kill_is_counted_in_the_cost(tmp_path):
    """Two questions are in flight when the process is killed: they are asked again, and the report says so."""
    code = (
        "import sys, time, threading\nfrom chatvec_lab.evaluation.scorers.judge import Judge\n"
        "judge = Judge('m', sys.argv[1], key_env=None, cache=sys.argv[2], workers=2, progress=False)\n"
        "judge.ask([[{'role': 'user', 'content': f'q{i}'}] for i in range(6)])\n"
    )
    hanging = threading.Event()

    def answer(path, body):
        if body["messages"][-1]["content"] in ("q2", "q3") and not hanging.is_set():
            time.sleep(30)
        return completion("[[7]]")

    cache, server = tmp_path / "j.jsonl", FlakyServer(answer)
    with server.running():
        process = subprocess.Popen([sys.executable, "-c", code, server.url, str(cache)])
        while sum(server.requests.values()) < 4:
            time.sleep(0.02)
        process.kill()
        process.wait()
        hanging.set()
        questions = [[{"role": "user", "content": f"q{i}"}] for i in range(6)]
        judge = Judge("m", Endpoint(server.url), cache=cache, progress=False)
        records = judge.ask(questions)
        assert [r["unanswered"] for r in records] == [0, 0, 1, 1, 0, 0]
        assert [r["asked"] for r in records] == [0, 0, 1, 1, 1, 1]
        again = Judge("m", Endpoint(server.url), cache=cache, progress=False).ask(questions)
        assert [r["unanswered"] for r in again] == [0, 0, 1, 1, 0, 0], "the cost stays known"
    assert len(cache.read_bytes().splitlines()) == 6, "a line an answer"


def test_the_report_says_what_may_have_been_paid_twice(tmp_path):
    server = FlakyServer(lambda path, body: completion("[[7]]"))

    def judged(n):
        judge = Judge(
            "m", Endpoint(server.url, retries=0), key_env=None, cache=tmp_path / "j.jsonl", progress=False
        )
        return rate(replies(n), judge, protocol="mt-bench")

    with server.running():
        server.choose = lambda question: "dropped"
        lost = judged(1)
        assert lost.unanswered.tolist() == [1] and lost.status.tolist() == ["failed"]
        server.choose = lambda question: "good"
        table = judged(1)
        server.answer = lambda path, body: (400, {"error": "no such model"})
        refused = judged(2)
    assert table[["asked", "unanswered"]].to_numpy().tolist() == [[1, 1]]
    assert refused.unanswered.tolist() == [1, 0], "what the server refused has cost nothing"


@pytest.mark.parametrize(
    ("troubles", "unanswered"),
    [
        (
            ["hang", "dropped", "malformed", "empty", "truncated"],
            5,
        ),  # sent, and nothing that can be read came back
        (["busy", "error"], 0),  # the server says that it did nothing
        (["error", "hang", "busy"], 1),
    ],
)
def test_each_retry_that_may_be_charged_is_counted(tmp_path, troubles, unanswered):
    """A judge that answers too late is asked again, and bills both."""
    server = FlakyServer(lambda path, body: completion("[[7]]"))
    server.choose = lambda question: dict(enumerate(troubles)).get(len(server.moments), "good")
    server.retry_after = "0"
    cache = tmp_path / "j.jsonl"
    with server.running():
        endpoint = Endpoint(server.url, timeout=0.5, backoff=0.001)
        (record,) = Judge("m", endpoint, cache=cache, progress=False).ask([QUESTION])
        assert record["text"] == "[[7]]" and record["unanswered"] == unanswered
        (again,) = Judge("m", endpoint, cache=cache, progress=False).ask([QUESTION])
    assert (again["asked"], again["unanswered"]) == (0, unanswered)
    assert len(server.moments) == len(troubles) + 1


@pytest.mark.parametrize(("choose", "unanswered"), [("hang", 3), ("error", 0), (None, 0)])
def test_a_judge_that_never_answers_is_charged_for_what_reached_it(tmp_path, choose, unanswered):
    server = FlakyServer(lambda path, body: completion("[[7]]"))
    server.choose = lambda question: choose
    endpoint = Endpoint(server.url, timeout=0.3, retries=2, backoff=0.001)
    if choose:
        with server.running():
            (record,) = Judge("m", endpoint, cache=tmp_path / "j.jsonl", progress=False).ask([QUESTION])
    else:
        server._server.server_close()  # nobody listens there
        (record,) = Judge("m", endpoint, cache=tmp_path / "j.jsonl", progress=False).ask([QUESTION])
    assert "no answer after 3 attempts" in record["error"] and record["unanswered"] == unanswered


def test_two_processes_that_come_to_the_same_questions_pay_once(tmp_path):
    """Two cells of a study judge the same replies at one time, with one file of judgements: each question is sent once."""
    code = (
        "import json, sys\nfrom chatvec_lab.evaluation.scorers.judge import Judge\n"
        "judge = Judge('m', sys.argv[1], key_env=None, cache=sys.argv[2], workers=4, progress=False)\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "records = judge.ask([[{'role': 'user', 'content': f'q{i}'}] for i in range(12)])\n"
        "print(json.dumps([[r['text'], r['asked'], r['unanswered'], r['error']] for r in records]))\n"
    )

    def answer(path, body):
        time.sleep(0.15)
        return completion(f"[[{body['messages'][-1]['content'][1:]}]]")

    server = FlakyServer(answer)
    with server.running():
        command = [sys.executable, "-c", code, server.url, str(tmp_path / "j.jsonl")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        both = [subprocess.Popen(command, **pipes) for _ in range(2)]
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2, (
            "both have read the empty file"
        )
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert len(server.bodies) == 12 and set(server.good.values()) == {1}
    for records in found:
        assert [(text, lost, error) for text, _, lost, error in records] == [
            (f"[[{i}]]", 0, None) for i in range(12)
        ]
    assert [sum(asked) for asked in zip(*([r[1] for r in records] for records in found), strict=True)] == [
        1
    ] * 12


def test_who_waits_for_a_killed_process_asks_again_only_what_was_in_flight(tmp_path):
    """Of two cells with the same questions one is killed: the other waited, and asks anew for as many as were under way."""
    code = (
        "import sys\nfrom chatvec_lab.evaluation.scorers.judge import Judge\n"
        "judge = Judge('m', sys.argv[1], key_env=None, cache=sys.argv[2], workers=3, progress=False)\n"
        "print('begins', flush=True)\njudge.ask([[{'role': 'user', 'content': f'q{i}'}] for i in range(12)])\n"
    )
    released, cache, asked = threading.Event(), tmp_path / "j.jsonl", itertools.count()

    def answer(path, body):
        if next(asked) >= 4:  # whichever thread comes fifth
            released.wait(60)
        return completion("[[7]]")

    def begun():
        command = [sys.executable, "-c", code, server.url, str(cache)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "begins\n"
        return process

    server = FlakyServer(answer)
    with server.running():
        first = begun()
        while len(server.bodies) < 7:  # four are answered, three under way
            time.sleep(0.02)
        second = begun()
        journal = cache.with_name(cache.name + ".sent")
        time.sleep(1)
        assert len(server.bodies) == 7 and len(journal.read_bytes().splitlines()) == 7, "the second one waits"
        first.kill()
        first.wait()
        released.set()
        assert second.wait(timeout=60) == 0
    kept = JsonlCache(cache)
    keys = [json.loads(line)["key"] for line in cache.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 12 and sum(map(kept.unanswered, keys)) == 3
    assert sorted(server.requests.values()) == [1] * 9 + [2] * 3


def test_a_process_that_is_killed_while_it_asks_leaves_no_lock(tmp_path):
    code = (
        "import sys\nfrom chatvec_lab.evaluation.asking.cache import JsonlCache\nimport time\n"
        "def hang():\n    print('under way', flush=True)\n    time.sleep(60)\n"
        "JsonlCache(sys.argv[1]).ask('q', hang)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "j.jsonl")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "under way\n"
    process.kill()
    process.wait()
    cache = JsonlCache(tmp_path / "j.jsonl")
    assert (
        cache.unanswered("q") == 1
        and cache.ask("q", lambda: {"text": "x"})
        and cache.get("q") == {"text": "x"}
    )
    assert not cache.ask("q", lambda: pytest.fail("it was answered")) and cache.unanswered("q") == 1
