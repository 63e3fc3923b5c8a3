"""HTTP endpoints asked many times: retries with back-off, bounded concurrency, and a key that stays secret.

The key is read from the environment for each request and lives nowhere else: not in the object, a file, a
log, a URL or an exception. Judges, toxicity endpoints and served models all go through here.
"""

import json
import queue
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx
from tqdm import tqdm

from chatvec_lab import secrets

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGEST_BODY = 1 << 26  # bytes; no honest answer is longer
_TRY_AGAIN = {408, 409, 425, 429}  # and every 5xx but 501, which says that a thing does not exist there
_GAVE_UP = {408, 504, 524}  # somebody on the way gave up waiting; the model may have answered all the same
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_FILTERED = re.compile(
    r"(?i)content[_ ](?:filter|policy|management policy)|data_?inspection_?failed|responsibleaipolicy"
)
_MALFORMED = (LookupError, TypeError, AttributeError, ValueError, RecursionError)


class Endpoint:
    """One server that is asked by POST with JSON, as often as it takes.

    `base_url` without a key ("https://api.openai.com/v1", "http://127.0.0.1:8000/v1"). `key_env` names the
    environment variable with the key, None for a server that wants none; `key_header` carries it, with
    "Bearer " before it if that is Authorization. `timeout` is the seconds of one attempt, body included.
    An attempt fails by a time-out, a broken connection, an unreadable body, 408, 409, 425, 429 or 5xx; it is
    repeated `retries` times after `backoff` × 2ⁿ seconds, with jitter, or what Retry-After asks, which then
    holds for all threads. A server that asks for more than `longest_wait` seconds ends the request.
    `per_second` bounds the requests of all threads together. Safe to share between threads.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key_env: str | None = None,
        key_header: str = "Authorization",
        timeout: float = 120.0,
        retries: int = 8,
        backoff: float = 1.0,
        longest_wait: float = 120.0,
        per_second: float | None = None,
    ):
        self.base_url = _checked_url(base_url)
        self.key_env, self.key_header = key_env, key_header
        if key_env:
            secrets.name_secret(key_env)
        self.timeout, self.retries, self.backoff = timeout, retries, backoff
        self.longest_wait, self.per_second = longest_wait, per_second
        self._lock = threading.Lock()
        self._open_at = 0.0  # no thread asks before this moment of time.monotonic()
        # a proxy of the environment is not meant for a server on this machine
        is_local = urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1")
        # without TLS there is nothing to verify, and loading the certificates takes longer than an answer
        uses_tls = base_url.startswith("https")
        self._client = httpx.Client(timeout=timeout, trust_env=not is_local, verify=uses_tls)
        weakref.finalize(self, self._client.close).atexit = False  # threads may be asking then

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r}, key_env={self.key_env!r})"

    def post(
        self,
        path: str,
        payload: Any,
        *,
        read: Callable[[Any], Result] = lambda body: body,
        lost: Callable[[], Any] = lambda: None,
    ) -> Result:
        """What `read` makes of the JSON that the server answers.

        `read` may raise LookupError, TypeError, AttributeError or ValueError: the body is then malformed and
        asked for again. Lone surrogates in `payload` are sent as U+FFFD. `lost` is called before an attempt is repeated
        that the server may charge though it brought nothing: one that was sent and then broke off.

        Raises ValueError when the server refuses this request (4xx), UnknownOption when it does not know some of its
        options, ContentFiltered when a filter refuses its text,
        PermissionError for a missing or rejected key or a spent quota, ConnectionError when the last retry failed: its
        `may_be_charged` says whether that one was sent and broke off.
        """
        content = clean_text(json.dumps(payload, ensure_ascii=False)).encode()
        url = self.base_url + path
        for attempt in range(self.retries + 1):
            self._wait_for_turn()
            asked, may_be_charged = None, True
            try:
                status, headers, text = self._send(url, content)
            except httpx.RequestError as error:
                trouble = secrets.redacted(f"{type(error).__name__}: {error}")
                may_be_charged = not isinstance(error, _NEVER_SENT)
            else:
                if 200 <= status < 300:
                    try:
                        return read(json.loads(text))
                    except _MALFORMED as error:
                        trouble = f"unreadable answer ({type(error).__name__}: {error}): {text[:200]!r}"
                else:
                    trouble, may_be_charged = f"status {status}: {text[:500]!r}", status in _GAVE_UP
                    if refused := _unknown_options(status, text, payload):
                        raise UnknownOption(url, status, refused, text)
                    is_passing = status in _TRY_AGAIN or (status >= 500 and status != 501)
                    if "insufficient_quota" in text or not is_passing:
                        raise _refusal(url, status, trouble, self.key_env)
                    asked = _retry_after(headers)
            if asked is not None and asked > self.longest_wait:
                trouble += f"; the server asks for {asked:.0f} s, longest_wait is {self.longest_wait:.0f} s"
                break
            if attempt < self.retries:
                if may_be_charged:
                    lost()
                self._back_off(attempt, asked)
        # outside the except: httpx keeps the request, and with it the key, on its errors
        failure = ConnectionError(f"POST {url}: no answer after {attempt + 1} attempts. Last: {trouble}")
        failure.may_be_charged = may_be_charged
        raise failure

    def _send(self, url: str, content: bytes) -> tuple[int, httpx.Headers, str]:
        headers = {"Content-Type": "application/json"}
        key = read_key(self.key_env) if self.key_env else None
        if key:
            headers[self.key_header] = f"Bearer {key}" if self.key_header == "Authorization" else key
        deadline = time.monotonic() + self.timeout
        body = bytearray()
        with self._client.stream("POST", url, content=content, headers=headers) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > deadline:  # httpx only times the gap between two chunks
                    raise httpx.ReadTimeout(f"the body took longer than {self.timeout} s")
                if len(body) > LARGEST_BODY:
                    raise httpx.ReadError(f"the body is longer than {LARGEST_BODY} bytes")
            status, headers = response.status_code, response.headers
        text = body.decode("utf-8-sig", "replace")
        if key:
            escaped = json.dumps(key)[1:-1]
            for spelling in (escaped.replace("/", "\\/"), escaped, key):
                text = text.replace(spelling, "[key]")
        return status, headers, text

    def _wait_for_turn(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                if now >= self._open_at:
                    if self.per_second:
                        self._open_at = now + 1 / self.per_second
                    return
                wait = self._open_at - now
            time.sleep(wait)

    def _back_off(self, attempt: int, asked: float | None) -> None:
        if asked is None:
            time.sleep(min(self.longest_wait, self.backoff * 2**attempt) * random.uniform(0.5, 1))
            return
        with self._lock:
            self._open_at = max(self._open_at, time.monotonic() + asked)
        time.sleep(asked + self.backoff * random.random())  # not all threads at the same instant


class UnknownOption(ValueError):
    """A server does not take `options` of a request, and so would refuse every request with them."""

    def __init__(self, url: str, status: int, options: list[str], text: str):
        self.options = options
        s, it = ("s", "them") if len(options) > 1 else ("", "it")
        super().__init__(
            f"POST {url}: the server does not take the option{s} {', '.join(options)} (status {status}). Leave {it} out "
            f"(None, or the default), or ask a server that takes {it}. It said: {' '.join(text.split())[:200]}"
        )


class ContentFiltered(ValueError):
    """A server's filter refused the text of a request: it says nothing about the next one."""


class Completion(NamedTuple):
    """A completion; what the server does not tell is None. `model` is the name it gives itself.

    A thought that the server gives in a field of its own stands before the text, between <think> marks; its tokens
    are those that the server counts as `reasoning_tokens`.
    """

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None = None
    model: str | None = None


def map_concurrent(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 8,
    description: str | None = None,
    patience: int = 5,
) -> list[Result | Exception]:
    """`function(item)` for every item, in their order, from `workers` threads.

    A request that failed (ConnectionError, ValueError) stands in the list as its exception, so one bad item
    does not cost the rest; `patience` failures in a row, with no success between, mean that the endpoint is
    down, and the last is raised. Texts that a filter refuses (ContentFiltered) do not count among them: a run over
    hostile prompts may hold many in a row. Any other exception is raised at once, and so is UnknownOption.
    `description` names the progress bar; None shows none. Ctrl-C returns at once; requests under way finish in the
    background.

    >>> map_concurrent(lambda x: x * x, range(4))
    [0, 1, 4, 9]
    """
    items = list(items)
    jobs, finished = iter(enumerate(items)), queue.SimpleQueue()
    lock, stop, failures = threading.Lock(), threading.Event(), 0

    def work() -> None:
        nonlocal failures
        while True:
            with lock:
                index, item = next(jobs, (None, None))
            if index is None or stop.is_set():
                return
            try:
                result, failed = function(item), False
            except BaseException as error:
                result, failed = error, True
            with lock:
                if not isinstance(result, ContentFiltered):
                    failures = failures + 1 if failed else 0
                is_fatal = failed and (
                    failures >= patience
                    or isinstance(result, UnknownOption)
                    or not isinstance(result, (ConnectionError, ValueError))
                )
            if is_fatal:
                stop.set()
            finished.put((index, result, is_fatal))

    results: list = [None] * len(items)
    try:
        # daemons, unlike the threads of an executor, do not hold up Ctrl-C until their request is answered
        for _ in range(min(workers, len(items))):
            threading.Thread(target=work, daemon=True).start()
        for _ in tqdm(range(len(items)), desc=description, disable=description is None):
            index, results[index], is_fatal = finished.get()
            if is_fatal:
                raise results[index]
    finally:
        stop.set()
    return results


def read_key(key_env: str) -> str:
    """The key in the environment variable `key_env`; PermissionError if nothing there can be one."""
    key = secrets.key(key_env)
    if key is None:
        raise PermissionError(
            f"the environment variable {key_env} holds no key: export it; for a server that wants none say key_env=None, "
            "in a study its address alone"
        )
    return key


def clean_text(text: str) -> str:
    """The text with each lone surrogate, which no encoding can carry, as U+FFFD.

    >>> clean_text("a\\ud800b")
    'a\ufffdb'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_completion(body: dict) -> Completion:
    """What the JSON of /chat/completions or /completions says; an error for `Endpoint.post` where it is malformed."""
    choice, usage = body["choices"][0], body.get("usage") or {}
    message = choice["message"] if "message" in choice else {"content": choice["text"]}
    text = message["content"]
    if not isinstance(text, str | None):
        raise TypeError(f"content is {type(text).__name__}, not text")
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thought, str) and thought:
        text = f"<think>\n{thought}\n</think>\n\n{text}" if text else f"<think>\n{thought}"
    details = usage.get("completion_tokens_details") or {}
    return Completion(
        clean_text(text or ""),
        choice.get("finish_reason"),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        details.get("reasoning_tokens"),
        body.get("model"),
    )


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = secrets.shown_address(url)
        raise ValueError(
            f"base_url={shown!r} is no http or https address, such as 'http://127.0.0.1:8000/v1'"
        )
    if parts.username or parts.password or parse_qsl(parts.query, keep_blank_values=True) or parts.fragment:
        # a URL ends up in logs; the message does not repeat it
        raise ValueError("base_url carries a user, query or fragment; keys belong in the environment")
    return url.rstrip("/")


_UNKNOWN = re.compile(
    r"(?i)unexpected (?:field|keyword|argument)|extra_forbidden|extra inputs|extra fields|unrecogni[sz]ed|"
    r"(?:unknown|unsupported|invalid|additional)[_ ](?:request )?(?:parameter|field|argument|propert|option|value)|"
    r"not (?:permitted|supported|allowed)|unknown name|cannot find field"
)


def _unknown_options(status: int, text: str, payload: Any) -> list[str]:
    """Which options of a request a server says that it does not take.

    transformers serve answers 422 with "Unexpected fields in the request: {'top_k'}", servers of FastAPI with a list
    of "extra_forbidden" at ["body", "top_k"], vLLM 400 with such a list as text in its message, OpenAI 400 with
    "Unrecognized request argument supplied: top_k".
    """
    told = text.replace("INVALID_ARGUMENT", "")  # Google's word for every refusal
    if status not in (400, 422) or not isinstance(payload, dict) or not _UNKNOWN.search(told):
        return []
    if _FILTERED.search(text):  # what is not allowed is the text
        return []
    asked = {"model", "messages", "prompt"}
    said = text
    try:
        detail = json.loads(text).get("detail")
        if isinstance(detail, list):  # each with its place; what it quotes as input names nothing
            said = " ".join(
                str(d.get("loc")) for d in detail if d.get("type") in ("extra_forbidden", "value_error.extra")
            )
        elif isinstance(error := json.loads(text).get("error"), dict):
            said = f"{error.get('param') or error.get('message')}"
    except _MALFORMED:
        pass
    return [n for n in payload if n not in asked and re.search(rf"(?<!\w){re.escape(n)}(?!\w)", said)]


def _refusal(url: str, status: int, trouble: str, key_env: str | None) -> Exception:
    if status not in (401, 429) and _FILTERED.search(trouble):
        return ContentFiltered(f"POST {url}: a content filter refused the text. {trouble}")
    if status in (401, 403, 429):
        key = (
            f"the key in {key_env} was rejected or is spent"
            if key_env
            else "key_env=None, but it wants a key"
        )
        return PermissionError(f"POST {url}: {key}. {trouble}")
    hint = " Is the path right? An OpenAI-compatible base_url mostly ends in /v1." if status == 404 else ""
    return ValueError(f"POST {url}: the server refused the request. {trouble}.{hint}")


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that the server asks to wait, as a number or a date; None if it does not say.

    A date is read by the server's own clock where it tells it: ours may be wrong by years.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    then = _moment(headers.get("retry-after"))
    now = _moment(headers.get("date"))
    return None if then is None else max(0.0, then - (time.time() if now is None else now))


def _moment(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
