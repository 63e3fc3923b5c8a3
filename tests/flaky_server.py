"""A real HTTP server on loopback that answers like a judge or a scorer, and misbehaves on purpose."""

import json
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANG = 1.2  # seconds; the clients of the tests give up earlier
TROUBLES = ("busy", "error", "hang", "malformed", "truncated", "dropped", "empty")


class FlakyServer:
    """`answer(path, body)` gives the JSON of a good answer, or (status, JSON).

    A `trouble` share of the requests goes wrong instead. Which ones follows from the seed, the question and
    how often it was asked, so neither threads nor timing change it.
    """

    def __init__(self, answer, *, trouble=0.0, seed=0):
        self.answer, self.trouble, self.seed = answer, trouble, seed
        self.requests, self.good, self.troubles = Counter(), Counter(), Counter()
        self.headers, self.bodies, self.moments = [], [], []
        self.retry_after = "0.02"
        self.echo = ""  # something that troubled answers repeat, such as a key
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def choose(self, question: str) -> str:
        draw = random.Random(f"{self.seed} {self.requests[question]} {question}")
        return draw.choice(TROUBLES) if draw.random() < self.trouble else "good"

    def _handler(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(size := int(self.headers["Content-Length"]))
                if len(body) < size:  # who asks was killed before the question was out: nothing was asked
                    return
                question = body.decode()
                with outer._lock:
                    outer.requests[question] += 1
                    kind = outer.choose(question)
                    (outer.good if kind == "good" else outer.troubles)[
                        question if kind == "good" else kind
                    ] += 1
                    outer.headers.append(dict(self.headers))
                    outer.bodies.append(json.loads(question))
                    outer.moments.append(time.monotonic())
                getattr(self, kind)(json.loads(question))

            def send(self, status, content, *, length=None, **headers):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content) if length is None else length))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)

            def good(self, body):
                answer = outer.answer(self.path, body)
                status, answer = answer if isinstance(answer, tuple) else (200, answer)
                self.send(status, json.dumps(answer).encode())

            def busy(self, body):
                self.send(429, f"slow down {outer.echo}".encode(), Retry_After=outer.retry_after)

            def error(self, body):
                self.send(500, f"oops {outer.echo}".encode())

            def hang(self, body):
                time.sleep(HANG)
                self.close_connection = True

            def malformed(self, body):
                self.send(200, f'{{"choices": [{{"mess {outer.echo}'.encode())

            def truncated(self, body):
                content = json.dumps(outer.answer(self.path, body)).encode()
                self.send(200, content[: len(content) // 2], length=len(content))
                self.close_connection = True

            def dropped(self, body):
                self.close_connection = True

            def empty(self, body):
                self.send(200, json.dumps({"choices": [], "results": [], "echo": outer.echo}).encode())

        return Handler

    @contextmanager
    def running(self):
        thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()


def completion(text, *, prompt_tokens=10, completion_tokens=5, finish_reason="stop"):
    """A chat completion in OpenAI's form."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"model": "judge-2026-11-01", "choices": [choice], "usage": usage}
