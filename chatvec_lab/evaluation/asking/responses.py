"""What both back ends share: settings, prompts in any form, the responses table and its parts on disk.

A part is one finished unit of work, written whole or not at all, so a killed run goes on where it stopped.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from chatvec_lab.reading import brief, read_json

COLUMNS = [
    *("prompt_id", "set", "language", "turn", "sample"),
    *("prompt", "response", "tokens", "finish_reason", "seed", "thinking_format", "template_date"),
]
_NUMBERS = ("turn", "sample", "tokens", "seed")
_SCHEMA = pa.schema([(name, pa.int64() if name in _NUMBERS else pa.string()) for name in COLUMNS])


class Conversation(NamedTuple):
    """What a user says, turn after turn."""

    prompt_id: str
    set: str | None
    language: str | None
    turns: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str | None, str | None]:
        """What tells it apart: parallel prompts share their id across languages."""
        return self.prompt_id, self.set, self.language


def conversations(prompts: pd.DataFrame | Sequence) -> list[Conversation]:
    """Prompts in any accepted form as conversations, in their order.

    Accepted: a frame or a list of dicts with `prompt_id` and `prompt` (one string) or `turns` (a list of
    strings), and optionally `set` and `language`; or a list of strings, whose ids are their positions.
    Raises ValueError for a missing column, an empty conversation or an id that occurs twice in a set and language.
    """
    if isinstance(prompts, pd.DataFrame):
        rows = prompts.to_dict("records")
    else:  # not through a frame, whose strings must be valid
        rows = [{"prompt_id": i, "prompt": p} if isinstance(p, str) else p for i, p in enumerate(prompts)]
    lacking = [i for i, row in enumerate(rows) if not ("prompt_id" in row and {"prompt", "turns"} & set(row))]
    if lacking:
        columns = ", ".join(sorted({str(key) for row in rows for key in row}))
        raise ValueError(
            f"Prompts need prompt_id and prompt or turns; found: {columns}. Lacking: row {some(lacking)}."
        )
    found = [
        Conversation(str(row["prompt_id"]), _text(row.get("set")), _text(row.get("language")), _turns(row))
        for row in rows
    ]
    if silent := [c.prompt_id for c in found if not c.turns or not all(isinstance(t, str) for t in c.turns)]:
        raise ValueError(f"{len(silent)} of {len(found)} prompts have no text: {some(silent)}.")
    if broken := [c.prompt_id for c in found if any(map(is_broken, c.turns))]:
        raise ValueError(f"{len(broken)} of {len(found)} prompts hold half a character: {some(broken)}.")
    twice = [key[0] for key, times in Counter(c.key for c in found).items() if times > 1]
    if twice:
        raise ValueError(
            f"{len(twice)} prompt_id occur more than once in a language: {some(twice)}. Number samples with samples=."
        )
    return found


def _turns(row) -> tuple:
    turns = row.get("turns")
    if turns is None or isinstance(turns, float):  # a missing cell of a mixed frame
        turns = row.get("prompt")
    return (turns,) if isinstance(turns, str) or not hasattr(turns, "__iter__") else tuple(turns)


def _text(value) -> str | None:
    return None if value is None or pd.isna(value) else str(value)


def is_broken(text: str) -> bool:
    """Whether a text holds half a character: a surrogate without its pair."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def some(items: list, most: int = 20) -> str:
    """The first items, quoted, and how many more there are: for messages."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(repr, items[:most])) + more


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen and when a reply ends; temperature 0 is greedy."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        wrong = [
            f"{name}={getattr(self, name)!r}: {wanted}"
            for name, holds, wanted in (
                ("max_tokens", self.max_tokens >= 1, "at least 1"),
                ("temperature", self.temperature >= 0, "0 (greedy) or more"),
                ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
                ("top_k", self.top_k is None or self.top_k >= 1, "None or at least 1"),
                ("repetition_penalty", self.repetition_penalty > 0, "above 0; 1 means none"),
                ("stop", not isinstance(self.stop, str) and all(self.stop), "a list of non-empty strings"),
            )
            if not holds
        ]
        if wrong:
            raise ValueError("Decoding settings out of range. " + "; ".join(wrong))

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    def check_samples(self, samples: int) -> None:
        """ValueError unless this many samples a prompt make sense."""
        if samples < 1 or (samples > 1 and self.is_greedy):
            raise ValueError(f"samples={samples} at temperature={self.temperature}: greedy does not vary.")


def check_template(template: str, system: str | None) -> None:
    """ValueError for an unknown template, or a system prompt where there is no place for one."""
    if template not in ("chat", "plain"):
        raise ValueError(f"template={template!r}: 'chat' or 'plain'.")
    if template == "plain" and system is not None:
        raise ValueError("A system prompt needs template='chat'; in plain text write it into the prompts.")


def random_stream(seed: int, key: tuple) -> np.random.Generator:
    """Random numbers that depend on the seed and the key (prompt, sample, turn) alone, not on the batch."""
    value = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(value, "little")])


def chat_messages(turns: Sequence[str], said: Sequence[str], system: str | None) -> list[dict[str, str]]:
    """The messages before the next reply: the system prompt, then user and assistant in turn."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for user, reply in zip(turns, said, strict=False):
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    return [*messages, {"role": "user", "content": turns[len(said)]}]


def plain_text(turns: Sequence[str], said: Sequence[str]) -> str:
    """The text before the next reply: each prompt with its continuation, on lines of their own."""
    return "\n".join([*map(str.__add__, turns, said), turns[len(said)]])


def reply_row(
    talk: Conversation,
    sample: int,
    turn: int,
    response: str | None,
    tokens: int | None,
    finish_reason: str | None,
    *,
    seed: int | None,
    thinking_format: str = "auto",
    template_date: str | None = None,
) -> dict:
    """One row of the responses table; turns count from 1, samples from 0."""
    values = (*talk[:3], turn, sample, talk.turns[turn - 1], response, tokens, finish_reason, seed)
    return dict(zip(COLUMNS, (*values, thinking_format, template_date), strict=True))


def responses_table(rows: list[dict], talks: list[Conversation]) -> pd.DataFrame:
    """The rows as a table with fixed columns and dtypes, in the order of the conversations, sample, turn.

    The columns token_ids and thinking_tokens follow where the rows have them.
    """
    place = {talk.key: number for number, talk in enumerate(talks)}
    rows = sorted(rows, key=lambda row: (place[key_of(row)], row["sample"], row["turn"]))
    text = dict.fromkeys([name for name in COLUMNS if name not in _NUMBERS], "str")
    numbers = {"turn": "int64", "sample": "int64", "tokens": "Int64", "seed": "Int64"}
    more = [name for name in ("token_ids", "thinking_tokens") if any(name in row for row in rows)]
    kinds = text | numbers | ({"thinking_tokens": float} if "thinking_tokens" in more else {})
    return pd.DataFrame(rows, columns=[*COLUMNS, *more]).astype(kinds)


def key_of(row: dict) -> tuple[str, str | None, str | None]:
    """The `Conversation.key` that a row of the responses table answers."""
    return row["prompt_id"], row["set"], row["language"]


@contextlib.contextmanager
def evaluating(model) -> Iterator[None]:
    """The model in evaluation mode, and then as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class Parts:
    """The finished parts of a run in a folder; with folder None nothing is kept.

    `settings` say what the run is, in words and numbers; `identity` has hashes of what is too long to print.
    A folder that holds another run raises ValueError with everything that differs.
    """

    def __init__(self, folder: str | Path | None, settings: dict, identity: dict):
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            claim(self.folder, {**settings, **identity})

    def read(self, name: str) -> list[dict] | None:
        """The rows of this part, or None when it is not finished."""
        if self.folder is None or not (path := self.folder / f"{name}.parquet").exists():
            return None
        try:
            return pq.read_table(path).to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's own errors are among them
            raise ValueError(
                f"{path} is damaged ({error}). Delete it and run again: it is generated anew."
            ) from error

    def write(self, name: str, rows: list[dict]) -> None:
        """Keep the rows of a finished part, under its name only once they are all there."""
        if self.folder is not None:
            with_ids = bool(rows) and "token_ids" in rows[0]
            schema = _SCHEMA.append(pa.field("token_ids", pa.list_(pa.int64()))) if with_ids else _SCHEMA
            table = pa.Table.from_pylist(rows, schema=schema)
            write_whole(self.folder / f"{name}.parquet", lambda file: pq.write_table(table, file))


def kept_date(folder: str | Path | None) -> str | None:
    """The date that the templates of an unfinished run in this folder were given; None without one."""
    path = None if folder is None else Path(folder) / "run.json"
    if path is None or not path.exists():
        return None
    return read_json(path).get("template_date")


def claim(folder: Path, run: dict) -> None:
    """Make the folder this run's own; ValueError lists every difference if it holds another run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    run = json.loads(json.dumps(run))
    if not path.exists():
        text = json.dumps(run, indent=2, ensure_ascii=False)
        write_whole(path, lambda file: file.write(text.encode()))
        return
    there = read_json(path)
    keys = [key for key in {**there, **run} if there.get(key) != run.get(key)]
    if keys:
        lines = "".join(
            f"\n  {key[:80]}: {brief(there.get(key))} there, {brief(run.get(key))} now" for key in keys[:20]
        )
        raise ValueError(f"{folder} holds replies of another run.{lines}\nChoose another folder for out=.")


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """A file that is complete as soon as it has its name."""
    # as readable as all else, unlike tempfile's
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(value) -> str:
    """Short hash of anything that JSON can hold."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
