"""Replies of a served model, from a real HTTP server that is often in trouble."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from chatvec_lab.evaluation.asking.http import Endpoint
from chatvec_lab.evaluation.asking.responses import COLUMNS
from chatvec_lab.evaluation.asking.served import respond_served


class Model:
    """An OpenAI-compatible server that repeats what it was asked, after every third request failed."""

    def __init__(self):
        self.requests, self.down, self.failures = [], set(), 0
        self.refuses, self.thought, self.context, self.reasoning_tokens = (), "", 10**6, None
        self.says = lambda asked, body: f"you said {asked}"
        self.ends = lambda text: "stop"
        self.lock = threading.Lock()
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = model.answer(self.path, body, self.headers)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path, body, headers):
        with self.lock:
            self.requests.append((path, body, headers.get("Authorization")))
            number = len(self.requests)
        asked = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        if asked in self.down:
            return 400, b"no"
        if self.failures and number % 3 == 0:
            return ((500, b"oops"), (429, b"slow down"), (200, b'{"choices": []}'), (200, b'{"cho'))[
                number % 4
            ]
        if refused := [name for name in self.refuses if name in body]:
            return 422, json.dumps({"detail": f"Extra inputs are not permitted: {refused[0]}"}).encode()
        text = self.says(asked, body)
        message = {"content": text} | ({"reasoning_content": self.thought} if self.thought else {})
        choice = {"finish_reason": self.ends(text), "text": text, "message": message}
        usage = {"completion_tokens": 3, "prompt_tokens": min(len(asked) // 4, self.context)}
        if self.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return 200, json.dumps({"choices": [choice], "usage": usage}).encode()


@pytest.fixture
def model():
    model = Model()
    yield model
    model.server.shutdown()
    model.server.server_close()


def prompts(n, turns=2):
    return [
        {"prompt_id": f"p{i}", "language": "en", "turns": [f"{i}.{t}" for t in range(1, turns + 1)]}
        for i in range(n)
    ]


def test_every_prompt_has_one_reply_though_a_third_of_requests_fails(model, tmp_path):
    model.failures = True
    endpoint = Endpoint(model.url, backoff=0.001)
    found = respond_served(endpoint, "m", prompts(40), system="be kind", out=tmp_path, progress=False)
    assert list(found.columns) == COLUMNS
    assert found.prompt.tolist() == [f"{i}.{t}" for i in range(40) for t in (1, 2)]
    assert (found.response == "you said " + found.prompt).all()
    assert found.tokens.eq(3).all() and found.seed.isna().all() and found.finish_reason.eq("stop").all()
    conversation = next(b["messages"] for _, b, _ in model.requests if b["messages"][-1]["content"] == "7.2")
    assert conversation == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "7.1"},
        {"role": "assistant", "content": "you said 7.1"},
        {"role": "user", "content": "7.2"},
    ]
    before = len(model.requests)
    again = respond_served(endpoint, "m", prompts(40), system="be kind", out=tmp_path, progress=False)
    pd.testing.assert_frame_equal(found, again)
    assert len(model.requests) == before


def test_a_refused_prompt_is_missing_and_asked_for_again(model, tmp_path):
    model.down = {"3.2"}
    settings = {"out": tmp_path, "progress": False}
    with pytest.warns(UserWarning, match=r"1 of 6 conversations got no reply: 'p3'.*status 400"):
        found = respond_served(model.url, "m", prompts(6), **settings)
    lost = found[found.prompt_id == "p3"]
    assert lost.turn.tolist() == [1, 2] and lost.finish_reason.eq("error").all()
    assert lost.response.isna().all() and found.response.notna().sum() == 10
    model.down, before = set(), len(model.requests)
    assert respond_served(model.url, "m", prompts(6), **settings).response.notna().all()
    assert len(model.requests) == before + 2


def test_a_torn_line_is_asked_for_again(model, tmp_path):
    settings = {"out": tmp_path, "progress": False}
    whole = respond_served(model.url, "m", prompts(5), **settings)
    file = tmp_path / "replies.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    before = len(model.requests)
    pd.testing.assert_frame_equal(whole, respond_served(model.url, "m", prompts(5), **settings))
    assert len(model.requests) == before + 2
    assert len(file.read_bytes().splitlines()) == 6, "the torn line, and its conversation again"
    before = len(model.requests)
    respond_served(model.url, "n", prompts(5), **settings)
    assert len(model.requests) == before + 10, "another model's replies are its own, in the same folder"


def test_each_sample_has_its_own_seed_and_the_run_repeats_it(model):
    settings = {"samples": 3, "temperature": 0.7, "top_p": 0.9, "stop": ["\n"], "progress": False}
    first = respond_served(model.url, "m", prompts(4, turns=1), seed=5, **settings)
    assert len(first) == 12 and first["sample"].tolist() == [0, 1, 2] * 4 and first.seed.eq(5).all()
    sent = [body for _, body, _ in model.requests]
    assert len({body["seed"] for body in sent}) == 12
    assert {(b["temperature"], b["top_p"], *b["stop"]) for b in sent} == {(0.7, 0.9, "\n")}
    assert not any({"top_k", "repetition_penalty"} & set(body) for body in sent)
    respond_served(model.url, "m", prompts(4, turns=1), seed=5, **settings)
    assert Counter(b["seed"] for b in sent) == Counter(b["seed"] for _, b, _ in model.requests[12:])


def test_plain_text_goes_to_completions_and_the_key_to_no_file(model, tmp_path, monkeypatch):
    monkeypatch.setenv("SERVED_KEY", "sk-very-secret")
    settings = {"template": "plain", "key_env": "SERVED_KEY", "out": tmp_path, "progress": False}
    found = respond_served(model.url, "m", prompts(1), **settings)
    assert [(path, body["prompt"]) for path, body, _ in model.requests] == [
        ("/v1/completions", "0.1"),
        ("/v1/completions", "0.1you said 0.1\n0.2"),
    ]
    assert {key for *_, key in model.requests} == {"Bearer sk-very-secret"}
    assert found.response.tolist()[0] == "you said 0.1"
    assert all(b"secret" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_stop_string_that_the_server_keeps_is_cut(model):
    model.says = lambda asked, body: "one\ntwo\nthree"
    found = respond_served(model.url, "m", prompts(3, turns=1), template="plain", stop=["\n"], progress=False)
    assert found.response.tolist() == ["one"] * 3 and found.finish_reason.eq("stop").all()


@pytest.mark.parametrize("refused", [("seed",), ("top_k", "repetition_penalty"), ("stop",)])
def test_options_that_the_server_refuses_are_left_out_by_name(model, refused):
    model.refuses = refused
    settings = {"temperature": 0.5, "top_k": 5, "repetition_penalty": 1.1, "stop": ["#"], "progress": False}
    with pytest.warns(UserWarning, match=f"left out: .*{refused[0]} "):
        found = respond_served(model.url, "m", prompts(8, turns=1), **settings)
    assert found.response.notna().all()
    assert not set(refused) & set(model.requests[-1][1]) and "temperature" in model.requests[-1][1]


def test_a_refusal_in_the_middle_of_a_run_loses_no_reply(model, tmp_path):
    """A server that was restarted with another version meanwhile: what it had answered is kept, the rest is asked again."""
    settings = {"temperature": 0.5, "top_k": 5, "seed": 3, "progress": False, "out": tmp_path}
    first = respond_served(model.url, "m", prompts(4), **settings)
    model.refuses, before = ("max_tokens",), len(model.requests)
    with pytest.raises(ValueError, match="does not take the option max_tokens") as caught:
        respond_served(model.url, "m", prompts(9), workers=1, **settings)
    assert "\n" not in str(caught.value) and len(model.requests) == before + 1, "once is enough"
    model.refuses = ("seed", "top_k")
    with pytest.warns(UserWarning, match="left out: "):
        found = respond_served(model.url, "m", prompts(9), **settings)
    assert len(found) == 18 and found.response.notna().all()
    pd.testing.assert_frame_equal(found.head(8), first)
    assert (found.response == "you said " + found.prompt).all()


def test_a_server_that_refuses_what_decides_the_reply_is_an_error_not_another_decoding(model):
    model.refuses = ("temperature",)
    with pytest.raises(ValueError, match="not permitted: temperature"):
        respond_served(model.url, "m", prompts(8, turns=1), progress=False)


def test_sampling_that_the_server_ignores_is_noticed(model):
    model.says = lambda asked, body: f"always the same long answer to {asked}"
    settings = {"temperature": 1.0, "samples": 3, "progress": False}
    with pytest.raises(ValueError, match="all samples of 5 prompts are equal"):
        respond_served(model.url, "m", prompts(5, turns=1), **settings)
    model.says = lambda asked, body: f"another answer each time {body['seed']}"
    assert len(respond_served(model.url, "m", prompts(5, turns=1), **settings)) == 15


def test_a_prompt_that_the_server_cuts_has_no_reply(model):
    long = [
        {"prompt_id": f"long{i}", "prompt": "word " * n} for i, n in enumerate((10, 20, 40, 60, 200, 400))
    ]
    whole = respond_served(model.url, "m", long, progress=False)
    assert whole.response.notna().all()
    model.context = 120  # tokens; the two longest no longer fit
    with pytest.warns(UserWarning, match="cut 2 prompts to its context"):
        found = respond_served(model.url, "m", long, progress=False).set_index("prompt_id")
    assert found.finish_reason.eq("context").tolist() == [False] * 4 + [True, True]
    assert found.response.isna().tolist() == [False] * 4 + [True, True]


def test_a_thought_in_a_field_of_its_own_is_part_of_the_raw_reply_and_not_said_again(model):
    from chatvec_lab.evaluation.asking.thinking import with_answers

    model.thought = "Let me think."
    found = with_answers(respond_served(model.url, "m", prompts(1), progress=False))
    assert (
        found.answer.tolist() == ["you said 0.1", "you said 0.2"] and found.thinking.eq("Let me think.").all()
    )
    assert "<think>" in found.response[0]
    assert model.requests[-1][1]["messages"][1] == {"role": "assistant", "content": "you said 0.1"}


@pytest.mark.parametrize("is_shown", [True, False])
def test_a_thought_counts_by_the_servers_tokens_whether_it_is_shown_or_not(model, is_shown):
    from chatvec_lab.evaluation.asking.thinking import thinking_scores, with_answers

    model.thought, model.reasoning_tokens = "Let me think." if is_shown else None, 17
    table = with_answers(respond_served(model.url, "m", prompts(2, turns=1), progress=False))
    scores = thinking_scores(table)
    assert table.answer.tolist() == ["you said 0.1", "you said 1.1"]
    assert scores.thinks.eq(1).all() and scores.thinking_tokens.eq(17).all() and scores.no_answer.eq(0).all()
    model.says = lambda asked, body: ""  # the tokens went into a thought that is not shown
    cut = with_answers(respond_served(model.url, "m", prompts(2, turns=1), progress=False))
    assert cut.assign(finish_reason="length").pipe(with_answers).answer.isna().all()


def test_a_server_that_counts_no_thought_says_nothing_of_it(model):
    from chatvec_lab.evaluation.asking.thinking import thinking_scores, with_answers

    scores = thinking_scores(
        with_answers(respond_served(model.url, "m", prompts(2, turns=1), progress=False))
    )
    assert scores.thinks.eq(0).all() and scores.thinking_tokens.eq(0).all()


def test_a_reply_cut_off_in_a_thought_that_the_server_began_is_no_answer(model):
    from chatvec_lab.evaluation.asking.thinking import with_answers

    model.says = lambda asked, body: "Let me think" if asked == "1.1" else f"Let me think.</think>\n\n{asked}"
    model.ends = lambda text: "stop" if "</think>" in text else "length"
    found = with_answers(respond_served(model.url, "m", prompts(3, turns=1), progress=False))
    assert found.answer.isna().tolist() == [False, True, False] and found.answer[2] == "2.1"
    assert found.thinking_format.tolist() == ["auto", "think/1:inside", "auto"]
    model.says = lambda asked, body: "A long answer" if asked == "1.1" else f"<think>Hm</think>{asked}"
    found = with_answers(respond_served(model.url, "m", prompts(3, turns=1), progress=False))
    assert found.answer.tolist() == [
        "0.1",
        "A long answer",
        "2.1",
    ]  # they begin their own: this one did not think
