"""Replies of a served model, from a real HTTP server that is often in trouble."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from chatvec_lab.evaluation.asking.http import Endpoint, UnknownOption
from chatvec_lab.evaluation.asking.responses import COLUMNS
from chatvec_lab.evaluation.asking.served import respond_served


class Model:
    """An OpenAI-compatible server that repeats what it was asked, after every third request failed."""

    def __init__(self):
        self.requests, self.down, self.failures = [], set(), 0
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
        text = f"you said {asked}"
        choice = {"finish_reason": "stop", "text": text, "message": {"content": text}}
        return 200, json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}}).encode()


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
    assert len(file.read_bytes().splitlines()) == 5
    with pytest.raises(ValueError, match="model: 'm' there, 'n' now"):
        respond_served(model.url, "n", prompts(5), **settings)


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
    assert all(b"secret" not in path.read_bytes() for path in tmp_path.iterdir())


FORBIDDEN = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted", "input": "temperature"}
OPENAI = {
    "message": "Unsupported parameter: not supported with this model. Use temperature.",
    "code": "unsupported",
}
REFUSALS = {
    "transformers serve": lambda names: (422, {"detail": f"Unexpected fields in the request: {set(names)}"}),
    "fastapi": lambda names: (422, {"detail": [FORBIDDEN | {"loc": ["body", name]} for name in names]}),
    "openai": lambda names: (
        400,
        {"error": {"message": f"Unrecognized request argument supplied: {names[0]}"}},
    ),
    "openai, named": lambda names: (400, {"error": OPENAI | {"param": names[0]}}),
    "vllm": lambda names: (
        400,
        {"message": f"[{{'type': 'extra_forbidden', 'loc': ('body', '{names[0]}')}}]"},
    ),
}


def refusing(model, unknown, refusal):
    whole = model.answer

    def answer(path, body, headers):
        if odd := [name for name in body if name in unknown]:
            model.refused += 1
            status, content = refusal(odd)
            return status, json.dumps(content).encode()
        return whole(path, body, headers)

    model.answer, model.refused = answer, 0


@pytest.mark.parametrize("server", REFUSALS)
@pytest.mark.parametrize("option", ["top_k", "repetition_penalty"])
def test_an_option_that_the_server_does_not_know_ends_in_one_line_and_loses_no_reply(
    model, tmp_path, server, option
):
    asked = prompts(12, turns=1)
    settings = {"temperature": 0.7, "progress": False, "workers": 2, "out": tmp_path}
    changed = settings | {option: 5 if option == "top_k" else 1.3}
    refusing(model, {option}, REFUSALS[server])
    with pytest.raises(UnknownOption, match=f"does not know the option {option} ") as caught:
        respond_served(model.url, "m", asked, **changed)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert caught.value.options == [option] and model.refused <= 2, "not asked twelve times"
    model.answer = Model.answer.__get__(model)
    found = respond_served(model.url, "m", asked, **changed)
    assert found.response.notna().all() and len(found) == 12


@pytest.mark.parametrize("server", REFUSALS)
def test_a_server_that_knows_no_seed_is_asked_without_it(model, server):
    refusing(model, {"seed"}, REFUSALS[server])
    with pytest.warns(UserWarning, match="does not know the option seed"):
        found = respond_served(
            model.url, "m", prompts(6, turns=2), temperature=0.7, progress=False, workers=2
        )
    assert found.response.notna().all() and len(found) == 12 and model.refused <= 2


def test_a_refusal_for_another_reason_is_none_of_an_option(model):
    def answer(path, body, headers):
        return (
            400,
            b'{"error": {"message": "temperature 0.7: 11 tokens are not supported", "param": "messages"}}',
        )

    model.answer = answer
    with pytest.raises(ValueError, match="refused the request") as caught:
        respond_served(model.url, "m", prompts(6, turns=1), temperature=0.7, progress=False)
    assert not isinstance(caught.value, UnknownOption)
