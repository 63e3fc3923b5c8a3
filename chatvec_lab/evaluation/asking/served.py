"""Replies of a served model: the same responses table from any OpenAI-compatible server (vLLM, llama.cpp)."""

import json
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from chatvec_lab.evaluation.asking.http import (
    Completion,
    Endpoint,
    UnknownOption,
    clean_text,
    complete_chat,
    map_concurrent,
)
from chatvec_lab.evaluation.asking.responses import (
    Conversation,
    Decoding,
    chat_messages,
    check_template,
    claim,
    conversations,
    digest,
    key_of,
    plain_text,
    random_stream,
    reply_row,
    responses_table,
    some,
)

__all__ = ["respond_served"]


def respond_served(
    base_url: str | Endpoint,
    model: str,
    prompts: pd.DataFrame | Sequence,
    *,
    template: Literal["chat", "plain"] = "chat",
    system: str | None = None,
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

    tokens are the server's count, which may include the token that ends a reply; missing if it does not say.
    A reply that could not be had after all retries has a missing response and finish_reason "error", as have
    the later turns of its conversation; a warning counts them.
    base_url: an address, or an `Endpoint` with retries and time-outs of your own.
    template: "chat" asks /chat/completions and the server applies its template; "plain" asks /completions.
    top_k, repetition_penalty: sent only when set, since OpenAI itself does not know them. A server that refuses an
      option (400 or 422) ends the run with UnknownOption, which names it; replies that are there stay in `out`.
    seed: each reply's own seed follows from it; whether that repeats a reply is up to the server. One that does not
      know `seed` is asked without it, and a warning says so.
    key_env: name of the environment variable with the key; None for a server without one.
    out: a folder in which each finished conversation is a line of replies.jsonl; a second call with the same
      arguments asks only for what is missing.
    """
    decoding = Decoding(max_tokens, temperature, top_p, top_k, repetition_penalty, tuple(stop))
    decoding.check_samples(samples)
    check_template(template, system)
    talks = conversations(prompts)
    endpoint = base_url if isinstance(base_url, Endpoint) else Endpoint(base_url, key_env=key_env)
    settings = {
        "base_url": endpoint.base_url,
        "model": model,
        **vars(decoding),
        "template": template,
        "system": system,
        "samples": samples,
        "seed": seed,
    }
    finished = _Finished(out, {**settings, "prompts": digest(talks)})
    seed_column = None if decoding.is_greedy else seed
    missing = [(t, i) for t in talks for i in range(samples) if (t.key, i) not in finished.rows]

    unknown: set[str] = set()  # options that this server does not know and that it can be asked without

    def ask(said: list[str], talk: Conversation, turn: int, options: dict) -> Completion:
        options = {name: value for name, value in options.items() if name not in unknown}
        try:
            if template == "chat":
                messages = chat_messages(talk.turns[:turn], said, system)
                return complete_chat(endpoint, messages, model=model, **options)
            return _complete_text(endpoint, plain_text(talk.turns[:turn], said), model=model, **options)
        except UnknownOption as error:
            if error.options != ["seed"]:  # the others say what is sampled
                raise
            unknown.add("seed")
            return ask(said, talk, turn, options)

    def converse(item: tuple[Conversation, int]) -> None:
        talk, sample = item
        rows, said = [], []
        for turn in range(1, len(talk.turns) + 1):
            answer = ask(said, talk, turn, _options(decoding, seed, (talk.prompt_id, sample, turn)))
            said.append(clean_text(answer.text))
            rows.append(
                reply_row(
                    talk,
                    turn,
                    sample,
                    response=said[-1],
                    tokens=answer.completion_tokens,
                    finish_reason=answer.finish_reason,
                    seed=seed_column,
                )
            )
        finished.add(talk.key, sample, rows)

    results = map_concurrent(converse, missing, workers=workers, description="replies" if progress else None)
    if unknown:
        warnings.warn(
            f"{endpoint.base_url} does not know the option seed and was asked without it: a repetition may get other "
            "replies.",
            stacklevel=2,
        )
    failed = [(item, error) for item, error in zip(missing, results, strict=True) if error is not None]
    lost = [
        reply_row(t, turn, i, response=None, tokens=None, finish_reason="error", seed=seed_column)
        for (t, i), _ in failed
        for turn in range(1, len(t.turns) + 1)
    ]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(talks) * samples} conversations got no reply: "
            f"{some([t.prompt_id for (t, _), _ in failed])}. With out= the same call asks for these alone. "
            f"First error: {failed[0][1]}",
            stacklevel=2,
        )
    return responses_table([row for rows in finished.rows.values() for row in rows] + lost, talks)


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


def _complete_text(endpoint: Endpoint, prompt: str, *, model: str, **options) -> Completion:
    payload = {"model": model, "prompt": prompt} | {k: v for k, v in options.items() if v is not None}

    def read(body: dict) -> Completion:
        choice, usage = body["choices"][0], body.get("usage") or {}
        if not isinstance(choice["text"], str):
            raise TypeError(f"text is {type(choice['text']).__name__}, not a string")
        return Completion(
            choice["text"],
            choice.get("finish_reason"),
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
        )

    return endpoint.post("/completions", payload, read=read)


class _Finished:
    """Finished conversations by (key, sample), each also a line of replies.jsonl if there is a folder.

    A kill can tear the last line; it is then cut off and its conversation asked for again.
    """

    def __init__(self, folder: str | Path | None, run: dict):
        self.rows: dict[tuple[tuple, int], list[dict]] = {}
        self._path, self._lock = None, threading.Lock()
        if folder is None:
            return
        claim(Path(folder), run)
        self._path = Path(folder) / "replies.jsonl"
        self._path.touch()
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        for line in whole.splitlines():
            rows = json.loads(line)
            self.rows[key_of(rows[0]), rows[0]["sample"]] = rows

    def add(self, key: tuple, sample: int, rows: list[dict]) -> None:
        with self._lock:
            if self._path is not None:
                with self._path.open("ab") as file:
                    file.write(json.dumps(rows).encode() + b"\n")
            self.rows[key, sample] = rows
