"""Endpoints that misbehave, keys that must not leak, and answers kept on disk."""

import gc
import logging
import signal
import threading
import time

import pytest
from flaky_server import FlakyServer
from hypothesis import given
from hypothesis import strategies as st

from chatvec_lab.evaluation.asking.cache import JsonlCache
from chatvec_lab.evaluation.asking.http import (
    ContentFiltered,
    Endpoint,
    clean_text,
    map_concurrent,
    read_completion,
)

KEY = "sk-test-7f3a9c-never-show-this"


def scripted(*answers):
    """A server that gives these answers, one a request, and the last for ever."""
    left = list(answers)
    return FlakyServer(lambda path, body: left.pop(0) if len(left) > 1 else left[0])


def quick(url, **options):
    return Endpoint(url, **{"timeout": 0.8, "backoff": 0.001, **options})


def test_an_answer_comes_through_every_kind_of_trouble():
    with FlakyServer(lambda path, body: {"value": body["n"]}, trouble=0.5).running() as server:
        endpoint = quick(server.url, retries=30)
        ask = lambda n: endpoint.post("/x", {"n": n}, read=lambda b: b["value"])  # noqa: E731
        assert map_concurrent(ask, range(60), workers=16) == list(range(60))
        assert set(server.troubles) == {"busy", "error", "hang", "malformed", "truncated", "dropped", "empty"}
        assert len(server.good) == 60


def test_a_request_that_never_works_says_what_went_wrong_and_how_often():
    with scripted((500, {"detail": "out of memory"})).running() as server:
        with pytest.raises(ConnectionError, match=r"(?s)3 attempts.*status 500.*out of memory"):
            quick(server.url, retries=2).post("/x", {})
        assert sum(server.requests.values()) == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, ValueError), (422, ValueError), (401, PermissionError), (403, PermissionError)],
)
def test_a_refusal_is_not_repeated(status, error):
    with scripted((status, {"error": "because"})).running() as server:
        with pytest.raises(error, match="because"):
            quick(server.url).post("/x", {})
        assert sum(server.requests.values()) == 1


REFUSALS = {  # as these servers write them
    "transformers serve": (422, {"detail": "Unexpected fields in the request: {'top_k'}"}),
    "FastAPI": (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "top_k"], "msg": "Extra inputs are not permitted",
                                  "input": 5}]}),
    "FastAPI with pydantic 1": (422, {"detail": [{"loc": ["body", "top_k"], "msg": "extra fields not permitted",
                                                  "type": "value_error.extra"}]}),
    "vLLM 0.5": (400, {"object": "error", "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'top_k'), 'msg': 'Extra "
                       "inputs are not permitted', 'input': 5}]", "type": "BadRequestError", "param": None, "code": 400}),
    "vLLM": (400, {"error": {"message": "1 validation error:\n  {'type': 'extra_forbidden', 'loc': ('body', 'top_k'), 'msg': "
                             "'Extra inputs are not permitted', 'input': 5}", "type": "Bad Request", "code": 400}}),
    "OpenAI": (400, {"error": {"message": "Unrecognized request argument supplied: top_k", "type": "invalid_request_error",
                               "param": None}}),
    "OpenAI, o-series": (400, {"error": {"message": "Unsupported parameter: 'top_k' is not supported with this model.",
                                         "param": "top_k", "code": "unsupported_parameter"}}),
    "TGI": (422, {"error": "Input validation error: unknown field `top_k`, expected one of `messages`", "error_type": "x"}),
    "Gemini": (400, {"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \"top_k\": Cannot find "
                               "field.", "status": "INVALID_ARGUMENT"}}),
    "text": (422, "unknown field top_k"),
}  # fmt: skip


@pytest.mark.parametrize("server", REFUSALS)
def test_an_unknown_option_is_told_by_name_in_one_line_and_not_repeated(server):
    from chatvec_lab.evaluation.asking.http import UnknownOption

    payload = {"model": "m", "messages": [], "seed": 1, "top_k": 5, "stop": ["input"], "temperature": 0.5}
    with scripted(REFUSALS[server]).running() as answering:
        with pytest.raises(UnknownOption) as caught:
            quick(answering.url).post("/x", payload)
        assert sum(answering.requests.values()) == 1
    told = str(caught.value)
    assert caught.value.options == ["top_k"] and "does not take the option top_k (status 4" in told
    assert "\n" not in told and "Leave it out" in told


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (400, {"error": {"message": "The text is not allowed by our content policy. seed, stop", "code": "content_filter"}}),
        (422, {"detail": [{"type": "int_parsing", "loc": ["body", "top_k"], "msg": "not an integer", "input": "five"}]}),
        (400, {"error": {"message": "Unrecognized model m. It has no seed", "param": "model"}}),
        (400, {"error": {"message": "seed does not support top_k and stop", "status": "INVALID_ARGUMENT"}}),
    ],
)  # fmt: skip
def test_other_refusals_are_no_unknown_options(status, answer):
    from chatvec_lab.evaluation.asking.http import UnknownOption

    with scripted((status, answer)).running() as server, pytest.raises(ValueError) as caught:
        quick(server.url).post("/x", {"model": "m", "messages": [], "seed": 1, "stop": [], "top_k": 5})
    assert not isinstance(caught.value, UnknownOption)


def test_a_spent_quota_is_not_repeated():
    with scripted((429, {"error": {"code": "insufficient_quota"}})).running() as server:
        with pytest.raises(PermissionError, match="insufficient_quota"):
            quick(server.url).post("/x", {})
        assert sum(server.requests.values()) == 1


def test_404_hints_at_the_path():
    with scripted((404, {})).running() as server, pytest.raises(ValueError, match="/v1"):
        quick(server.url).post("/x", {})


def test_retry_after_is_waited_for_by_all_threads():
    server = FlakyServer(lambda path, body: {})
    server.retry_after = "1"
    server.choose = lambda question: "good" if server.moments else "busy"
    with server.running():
        endpoint = quick(server.url, timeout=20)
        first = threading.Thread(target=endpoint.post, args=("/x", {"n": 1}))
        first.start()
        while not server.moments:
            time.sleep(0.01)
        time.sleep(0.5)  # the answer is there by now
        endpoint.post("/x", {"n": 2})
        first.join()
        assert len(server.moments) == 3
        assert server.moments[1] - server.moments[0] >= 0.95


def test_retry_after_as_a_date_and_in_milliseconds():
    from email.utils import formatdate

    import httpx

    from chatvec_lab.evaluation.asking.http import _retry_after

    assert _retry_after(
        httpx.Headers({"Retry-After": formatdate(time.time() + 90, usegmt=True)})
    ) == pytest.approx(90, abs=2)
    assert _retry_after(httpx.Headers({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})) == 0
    assert _retry_after(httpx.Headers({"retry-after-ms": "1500", "retry-after": "9"})) == 1.5
    assert _retry_after(httpx.Headers({"retry-after": "soon"})) is None
    assert _retry_after(httpx.Headers({"retry-after": "-3"})) == 0


@pytest.mark.parametrize("wrong", [-400 * 86400, 400 * 86400])
def test_a_wait_until_a_date_does_not_believe_our_own_clock(monkeypatch, wrong):
    from email.utils import formatdate

    import httpx

    from chatvec_lab.evaluation.asking.http import _retry_after

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + wrong)
    until = {"Retry-After": formatdate(now + 90, usegmt=True)}
    assert _retry_after(httpx.Headers(until | {"Date": formatdate(now, usegmt=True)})) == 90
    assert _retry_after(httpx.Headers(until | {"Date": "soon"})) == pytest.approx(max(0, 90 - wrong), abs=2)


def test_a_server_that_asks_for_too_long_a_wait_ends_the_request():
    server = FlakyServer(lambda path, body: {}, trouble=1.0)
    server.choose = lambda question: "busy"
    with server.running():
        with pytest.raises(ConnectionError, match="longest_wait"):
            quick(server.url, longest_wait=0.01).post("/x", {})
        assert sum(server.requests.values()) == 1


def test_requests_a_second_are_bounded_over_all_threads():
    with scripted({}).running() as server:
        endpoint = quick(server.url, per_second=50)
        map_concurrent(lambda n: endpoint.post("/x", {"n": n}), range(16), workers=6)
        assert (
            max(server.moments) - min(server.moments) >= 0.2
        )  # 15 gaps of 0.02 s, less the way there under load


def test_an_endpoint_that_nobody_holds_closes_its_connections():
    server = FlakyServer(lambda path, body: {})
    with server.running():
        endpoint = quick(server.url)
        assert endpoint.post("/x", {}) == {}
        client = endpoint._client
        del endpoint
        gc.collect()
    assert client.is_closed


def test_the_time_out_holds_for_a_body_that_trickles(monkeypatch):
    server = FlakyServer(lambda path, body: {})
    make = server._server.RequestHandlerClass

    def trickle(self, body):
        self.send(200, b"", length=100)
        for _ in range(100):
            time.sleep(0.05)
            self.wfile.write(b" ")
        self.close_connection = True

    monkeypatch.setattr(make, "good", trickle)
    with server.running():
        start = time.monotonic()
        with pytest.raises(ConnectionError, match=r"took longer than 0\.2 s"):
            quick(server.url, timeout=0.2, retries=0).post("/x", {})
        assert time.monotonic() - start < 4


def test_the_key_is_sent_and_shown_nowhere(monkeypatch, caplog):
    monkeypatch.setenv("TEST_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    server = FlakyServer(lambda path, body: (400, {"error": f"Incorrect API key {KEY}"}))
    server.echo, told = KEY, []
    with server.running():
        endpoint = quick(server.url, key_env="TEST_KEY", retries=1)
        for kind in ("good", "busy", "error", "malformed", "truncated", "empty"):
            server.choose = lambda question, kind=kind: kind
            with pytest.raises((ConnectionError, ValueError)) as caught:
                endpoint.post("/x", {}, read=lambda body: body["value"])
            told.append(caught)
        assert {h["Authorization"] for h in server.headers} == {f"Bearer {KEY}"}
        assert KEY not in f"{endpoint!r}{vars(endpoint)}{caplog.text}"
    for caught in (
        told
    ):  # when no thread of the server runs: two that parse code at once disturb each other (Python 3.11)
        shown = caught.getrepr(style="long", showlocals=False)
        assert KEY not in f"{shown}{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"


def test_a_key_is_hidden_in_the_spelling_of_json_too(monkeypatch):
    monkeypatch.setenv("TEST_KEY", 'ab/cd"ef')
    for told in ('ab\\/cd\\"ef', 'ab/cd\\"ef', 'ab/cd"ef'):
        server = FlakyServer(lambda path, body: {})
        server.choose = lambda question: "error"
        server.echo = told
        with server.running(), pytest.raises(ConnectionError) as caught:
            quick(server.url, key_env="TEST_KEY", retries=0).post("/x", {})
        assert "cd" not in str(caught.value)


def test_other_headers_carry_the_bare_key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    with scripted({}).running() as server:
        quick(server.url, key_env="TEST_KEY", key_header="api-key").post("/x", {})
        assert server.headers[0]["api-key"] == KEY


@pytest.mark.parametrize("value", [None, "", "sk-a\nb", "sk ab", "ключ"])
def test_a_missing_or_broken_key_is_named_by_its_variable(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("TEST_KEY", raising=False)
    else:
        monkeypatch.setenv("TEST_KEY", value)
    with scripted({}).running() as server:
        with pytest.raises(PermissionError, match="TEST_KEY") as caught:
            quick(server.url, key_env="TEST_KEY").post("/x", {})
        assert not value or value not in str(caught.value)
        assert not server.requests


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x/v1", "https://me:secret@x/v1", "https://x/v1?key=secret"]
)
def test_an_address_with_a_key_or_without_a_server_is_refused(url):
    with pytest.raises(ValueError) as caught:
        Endpoint(url)
    assert "secret" not in str(caught.value)


def test_lone_surrogates_are_replaced_on_the_way_out_and_in():
    with scripted({"choices": [{"message": {"content": "a\ud800b"}}]}).running() as server:
        asked = {"model": "m", "messages": [{"role": "user", "content": "x\udfff😀"}]}
        answer = quick(server.url).post("/chat/completions", asked, read=read_completion)
        assert answer.text == "a\ufffdb"
        assert server.bodies[0]["messages"][0]["content"] == "x\ufffd😀"


@given(st.text(st.characters(codec=None)))
def test_clean_text_can_always_be_encoded_and_keeps_what_could(text):
    clean = clean_text(text)
    clean.encode()
    assert clean == text or any("\ud800" <= c <= "\udfff" for c in text)


def test_one_failure_stands_in_its_place_and_many_in_a_row_are_raised():
    def function(n):
        if n == 2:
            raise ValueError("two")
        return n

    first, second, third, fourth = map_concurrent(function, range(4), workers=1)
    assert (first, second, str(third), fourth) == (0, 1, "two", 3)
    calls = []

    def down(n):
        calls.append(n)
        raise ConnectionError("down")

    with pytest.raises(ConnectionError, match="down"):
        map_concurrent(down, range(1000), workers=2, patience=3)
    assert len(calls) < 10


@pytest.mark.parametrize("status", [400, 403])
def test_a_filter_of_contents_does_not_end_a_run_over_hostile_texts(status):
    refusal = {"error": {"code": "content_filter", "message": "triggering our content management policy"}}
    server = FlakyServer(lambda path, body: (status, refusal) if body["n"] % 10 else {"value": body["n"]})
    with server.running():
        endpoint = quick(server.url)
        found = map_concurrent(lambda n: endpoint.post("/x", {"n": n}), range(30), workers=2)
    assert [f["value"] for f in found[::10]] == [0, 10, 20]
    assert sum(isinstance(f, ContentFiltered) for f in found) == 27


def test_other_exceptions_are_raised_at_once():
    with pytest.raises(ZeroDivisionError):
        map_concurrent(lambda n: 1 / n, range(3))


def test_ctrl_c_returns_at_once_and_hands_out_nothing_more():
    release, started = threading.Event(), []

    def slow(n):
        started.append(n)
        if len(started) == 4:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        release.wait(10)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        map_concurrent(slow, range(100), workers=4)
    assert time.monotonic() - start < 5
    release.set()
    time.sleep(0.05)
    assert len(started) == 4


def test_a_torn_line_costs_one_record_and_never_the_next(tmp_path):
    path = tmp_path / "deep" / "cache.jsonl"
    for n in range(3):
        JsonlCache(path).put(f"k{n}", {"text": f"答案\n{n}"})
    content = path.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(content) + 1):
        path.write_bytes(content[:cut])
        cache = JsonlCache(path)
        is_whole = cut >= len(content) - 1
        assert len(cache) == (3 if is_whole else 2)
        assert cache.damaged == (not is_whole and cut > last)
        cache.put("new", {"text": "x"})
        again = JsonlCache(path)
        assert again.get("new") == {"text": "x"}
        assert again.get("k0") == {"text": "答案\n0"}
        assert len(again) == len(cache)


def test_threads_share_a_cache_file(tmp_path):
    cache = JsonlCache(tmp_path / "c.jsonl")
    map_concurrent(lambda n: cache.put(str(n), {"n": n}), range(200), workers=8)
    again = JsonlCache(tmp_path / "c.jsonl")
    assert {k: again.get(k) for k in map(str, range(200))} == {str(n): {"n": n} for n in range(200)}
    assert again.damaged == 0
