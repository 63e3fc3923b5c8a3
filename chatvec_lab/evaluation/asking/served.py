"""Replies of a served model: the same responses table from any OpenAI-compatible server (vLLM, llama.cpp, Ollama).

What servers do otherwise is evened out (stop strings that they keep, thoughts in a field of their own), noticed
(sampling that they ignore, prompts that they cut), or told (options that they refuse are left out by name).
"""

import re
import threading
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

import pandas as pd

from chatvec_lab.evaluation.asking import responses as table
from chatvec_lab.evaluation.asking.cache import JsonlCache
from chatvec_lab.evaluation.asking.http import Completion, Endpoint, UnknownOption, read_completion
from chatvec_lab.evaluation.asking.responses import Conversation, Decoding, digest, random_stream, some
from chatvec_lab.evaluation.asking.thinking import answer_of, begun_inside

_LONG = 400  # bytes of a prompt from which on its count of tokens tells whether the server cut it
# without these a request means the same task
_OPTIONAL = ("seed", "stop", "top_p", "top_k", "repetition_penalty")


def respond_served(
    base_url: str | Endpoint,
    model: str,
    prompts: pd.DataFrame | Sequence,
    *,
    template: Literal["chat", "plain"] = "chat",
    system: str | None = None,
    template_arguments: Mapping | None = None,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    samples: int = 1,
    seed: int = 0,
    key_env: str | None = None,
    workers: int = 16,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The responses table of `generation.respond`, from the server at `base_url` ("http://127.0.0.1:8000/v1").

    tokens are the server's count, which may include the token that ends a reply; missing if it does not say. Where it
    counts a thought, be it shown (then it is part of the response) or not, a column thinking_tokens follows.
    Where all thoughts end that no reply began, the server's template opens them: replies that were cut off are then read
    as thoughts that never ended (thinking_format "think/1:inside").
    A reply that could not be had after all retries has a missing response and finish_reason "error", as have
    the later turns of its conversation; one to a prompt that the server cut to fit is missing too, with "context". A
    warning counts them, and names options that the server refuses, which are then left out.
    base_url: an address, or an `Endpoint` with retries and time-outs of your own.
    template: "chat" asks /chat/completions and the server applies its template; "plain" asks /completions.
    template_arguments: for the server's template (chat_template_kwargs), such as {"enable_thinking": False}.
    top_k, repetition_penalty: sent only when set, since OpenAI itself does not know them.
    stop: cut off here as well, since some servers keep what ended a reply, or know no such option.
    seed: each reply's own seed follows from it; whether that repeats a reply is up to the server.
    key_env: name of the environment variable with the key; None for a server without one.
    out: a folder in which each finished conversation is a line of replies.jsonl, found again by what was asked of
      whom: a second call asks only for what is missing.
    Raises ValueError when several samples of each prompt are all equal: the server does not sample.
    """
    decoding = Decoding(max_tokens, temperature, top_p, top_k, repetition_penalty, tuple(stop))
    decoding.check_samples(samples)
    table.check_template(template, system)
    talks = table.conversations(prompts)
    endpoint = base_url if isinstance(base_url, Endpoint) else Endpoint(base_url, key_env=key_env)
    arguments = dict(template_arguments or {})
    server = _Server(endpoint, model, template, decoding, arguments)
    run = [endpoint.base_url, model, vars(decoding), template, system, arguments, seed]
    kept = JsonlCache(None if out is None else Path(out) / "replies.jsonl")
    jobs = {digest([*run, list(talk), i]): (talk, i) for talk in talks for i in range(samples)}
    about = {"seed": None if decoding.is_greedy else seed}

    def converse(key: str, job: tuple[Conversation, int]) -> dict[str, list]:
        talk, sample = job
        rows, said, told = [], [], []
        for turn in range(1, len(talk.turns) + 1):
            if template == "chat":
                answers = [answer_of(text) or "" for text in said]
                asked: Any = table.chat_messages(talk.turns[:turn], answers, system)
            else:
                asked = table.plain_text(talk.turns[:turn], said)
            reply = server.ask(asked, seed, (talk.prompt_id, sample, turn))
            said.append(reply.text)
            told.append([_bytes(asked), reply.prompt_tokens])
            told_of = (reply.text, reply.completion_tokens, reply.finish_reason)
            row = table.reply_row(talk, sample, turn, *told_of, **about)
            rows.append(row | ({"thinking_tokens": reply.reasoning_tokens} if reply.reasoning_tokens else {}))
        return {"rows": rows, "told": told}

    _, failed = kept.ask_all(jobs, converse, workers=workers, description="replies" if progress else None)
    records = {key: kept.get(key) for key in jobs}
    cut = _cut([pair for record in records.values() if record for pair in record["told"]])
    rows, lost = [], {"context": [], "error": []}
    for key, (talk, sample) in jobs.items():
        record = records[key]
        is_cut = record is not None and any(tuple(pair) in cut for pair in record["told"])
        if record is not None and not is_cut:
            rows += record["rows"]
            continue
        reason = "context" if is_cut else "error"
        lost[reason].append(talk.prompt_id)
        turns = range(1, len(talk.turns) + 1)
        rows += [table.reply_row(talk, sample, turn, None, None, reason, **about) for turn in turns]
    _tell(lost, failed, len(jobs), server.left_out)
    found = table.responses_table(rows, talks)
    if inside := begun_inside(found.response.dropna()):
        # of a reply that ended by itself without a mark nobody knows
        cut = found.finish_reason.isin(("length", "max_tokens"))
        found["thinking_format"] = found.thinking_format.where(~cut, inside)
    if samples > 1:
        _check_sampling(found, endpoint)
    return found


class _Server:
    """A model at a server: what is asked of it, less what it refuses."""

    def __init__(self, endpoint: Endpoint, model: str, template: str, decoding: Decoding, arguments: dict):
        self.endpoint, self.model, self.decoding = endpoint, model, decoding
        self.more = {"chat_template_kwargs": arguments} if arguments else {}
        self.is_chat = template == "chat"
        self.left_out: dict[str, str] = {}  # option -> what the server said
        self._lock = threading.Lock()

    def ask(self, asked: Any, seed: int, key: tuple) -> Completion:
        """One reply, cut at its stop string."""
        path, name = ("/chat/completions", "messages") if self.is_chat else ("/completions", "prompt")
        options = self.more | _options(self.decoding, seed, key)
        while True:
            sent = {k: v for k, v in options.items() if v is not None and k not in self.left_out}
            try:
                return self.endpoint.post(path, {"model": self.model, name: asked} | sent, read=self._read)
            except ValueError as error:
                # the server's own words, without what it repeats of the request
                said = re.split(r"It said: |refused the request\.", str(error))[-1]
                named = error.options if isinstance(error, UnknownOption) else re.findall(r"\w+", said)
                refused = [k for k in _OPTIONAL if k in sent and k in named]
                if not refused:
                    raise
                with self._lock:
                    self.left_out |= dict.fromkeys(refused, said[:200])

    def _read(self, body: dict) -> Completion:
        found = read_completion(body)
        ends = [found.text.find(stop) for stop in self.decoding.stop if stop in found.text]
        return found._replace(text=found.text[: min(ends)], finish_reason="stop") if ends else found


def _options(decoding: Decoding, seed: int, key: tuple) -> dict:
    """What goes into a request; None stays out of it."""
    penalty = decoding.repetition_penalty
    return {
        "max_tokens": decoding.max_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p if decoding.top_p < 1 else None,
        "top_k": decoding.top_k,
        "repetition_penalty": penalty if penalty != 1 else None,
        "stop": list(decoding.stop) or None,
        "seed": None if decoding.is_greedy else int(random_stream(seed, key).integers(2**31)),
    }


def _bytes(asked: Any) -> int:
    texts = [asked] if isinstance(asked, str) else [message["content"] for message in asked]
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def _cut(told: list) -> set[tuple]:
    """The (bytes, tokens) of prompts that the server must have cut: several lengths share its highest count.

    A server that fills its context silently counts as many tokens for a long prompt as for a longer one.
    """
    told = [(size, count) for size, count in told if isinstance(count, int)]
    if not told:
        return set()
    most = max(count for _, count in told)
    full = {size for size, count in told if count == most and size >= _LONG}
    usual = median(count / max(size, 1) for size, count in told)
    if len(full) < 2 or max(full) < 1.3 * min(full):
        return set()
    return {(size, most) for size in full if most < 0.7 * usual * size or size > 1.3 * min(full)}


def _check_sampling(table: pd.DataFrame, endpoint: Endpoint) -> None:
    """ValueError when all samples of all prompts are equal: the server ignores the temperature or keeps its answers."""
    of = table[table.response.notna() & table.response.str.len().gt(20)]
    groups = of.groupby(["prompt_id", "set", "language", "turn"], dropna=False).response
    sizes = groups.size()
    if (sizes > 1).sum() >= 3 and groups.nunique()[sizes > 1].eq(1).all():
        raise ValueError(
            f"{endpoint.base_url}: all samples of {int((sizes > 1).sum())} prompts are equal, though the "
            "temperature is above 0: the server does not sample, or answers from a cache. Ask for one sample, or turn that off."
        )


def _tell(
    lost: dict[str, list[str]], failed: Mapping[str, Exception], jobs: int, left_out: Mapping[str, str]
) -> None:
    if left_out:
        told = "; ".join(f"{name} ({said.strip()})" for name, said in left_out.items())
        warnings.warn(f"the server refuses options, which were left out: {told}", stacklevel=3)
    if lost["context"]:
        names = [name for name, _ in Counter(lost["context"]).most_common()]
        warnings.warn(
            f"the server cut {len(names)} prompts to its context ({some(names)}); their replies are left out. "
            "Give it a longer context, or shorten them.",
            stacklevel=3,
        )
    if lost["error"]:
        first = next(iter(failed.values()), "")
        warnings.warn(
            f"{len(lost['error'])} of {jobs} conversations got no reply: {some(lost['error'])}. With out= the same "
            f"call asks for these alone. First error: {first}",
            stacklevel=3,
        )
