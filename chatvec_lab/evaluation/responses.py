"""What both back ends share: prompts in any form, the responses table, and its parts on disk.

A part is one finished unit of work, written whole or not at all, so a killed run goes on where it stopped.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

__all__ = [
    "COLUMNS",
    "Conversation",
    "Parts",
    "conversations",
    "digest",
    "responses_table",
    "some",
]

COLUMNS = [
    "prompt_id",
    "set",
    "language",
    "turn",
    "sample",
    "prompt",
    "response",
    "tokens",
    "finish_reason",
    "seed",
]


class Conversation(NamedTuple):
    """What a user says, turn after turn."""

    prompt_id: str
    set: str | None
    language: str | None
    turns: tuple[str, ...]


def conversations(prompts: pd.DataFrame | Sequence) -> list[Conversation]:
    """Prompts in any accepted form as conversations, in their order.

    Accepted: a frame or a list of dicts with `prompt_id` and `prompt` (one string) or `turns` (a list of
    strings), and optionally `set` and `language`; or a list of strings, whose ids are their positions.
    Raises ValueError for a missing column, an empty conversation or an id that occurs twice.
    """
    if not isinstance(prompts, pd.DataFrame):
        rows = [
            {"prompt_id": str(i), "prompt": p} if isinstance(p, str) else p for i, p in enumerate(prompts)
        ]
        prompts = pd.DataFrame(rows, columns=None if rows else ["prompt_id", "prompt"])
    if "prompt_id" not in prompts or not {"prompt", "turns"} & set(prompts):
        raise ValueError(
            f"Prompts need the columns prompt_id and prompt or turns; found: {', '.join(map(str, prompts))}."
        )
    found = [
        Conversation(str(row["prompt_id"]), _text(row.get("set")), _text(row.get("language")), _turns(row))
        for row in prompts.to_dict("records")
    ]
    silent = [c.prompt_id for c in found if not c.turns or not all(isinstance(t, str) for t in c.turns)]
    if silent:
        raise ValueError(f"{len(silent)} of {len(found)} prompts have no text: {some(silent)}.")
    broken = [c.prompt_id for c in found if any("\ud800" <= char <= "\udfff" for t in c.turns for char in t)]
    if broken:
        raise ValueError(f"{len(broken)} of {len(found)} prompts hold half a character: {some(broken)}.")
    ids = pd.Series([c.prompt_id for c in found], dtype=object)
    twice = ids[ids.duplicated()].unique().tolist()
    if twice:
        raise ValueError(
            f"{len(twice)} prompt_id occur more than once: {some(twice)}. Number samples with samples=."
        )
    return found


def _turns(row) -> tuple:
    turns = row.get("turns")
    if turns is None or isinstance(turns, float):  # a missing cell of a mixed frame
        turns = row.get("prompt")
    return (turns,) if isinstance(turns, str) or not hasattr(turns, "__iter__") else tuple(turns)


def _text(value) -> str | None:
    return None if value is None or pd.isna(value) else str(value)


def some(items: list, most: int = 20) -> str:
    return ", ".join(map(repr, items[:most])) + (
        f" and {len(items) - most} more" if len(items) > most else ""
    )


def responses_table(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=COLUMNS)
    text = ["prompt_id", "set", "language", "prompt", "response", "finish_reason"]
    return table.astype(
        {**dict.fromkeys(text, "str"), "turn": int, "sample": int, "tokens": int, "seed": "Int64"}
    )


class Parts:
    """The finished parts of a run in a folder; with folder None nothing is kept.

    `settings` say what the run is, in words and numbers; `identity` has hashes of what is too long to print.
    A folder that holds another run raises ValueError with everything that differs.
    """

    def __init__(self, folder: str | Path | None, settings: dict, identity: dict):
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        run = json.loads(json.dumps({**settings, **identity}))
        path = self.folder / "run.json"
        if path.exists():
            _same_run(path, run)
        else:
            _write_whole(
                path, lambda file: file.write(json.dumps(run, indent=2, ensure_ascii=False).encode())
            )

    def read(self, name: str) -> pd.DataFrame | None:
        """The part of this name, or None when it is not finished."""
        if self.folder is None or not (path := self.folder / f"{name}.parquet").exists():
            return None
        try:
            return responses_table(pd.read_parquet(path).to_dict("records"))
        except (OSError, ValueError) as error:  # pyarrow's own errors are among them
            raise ValueError(
                f"{path} is damaged ({error}). Delete it and run again: it is generated anew."
            ) from error

    def write(self, name: str, table: pd.DataFrame) -> None:
        if self.folder is not None:
            _write_whole(self.folder / f"{name}.parquet", lambda file: table.to_parquet(file, index=False))


def _same_run(path: Path, run: dict) -> None:
    there = json.loads(path.read_text(encoding="utf-8"))
    keys = [key for key in {**there, **run} if there.get(key) != run.get(key)]
    if keys:
        lines = "".join(f"\n  {key}: {there.get(key)!r} there, {run.get(key)!r} now" for key in keys)
        raise ValueError(
            f"{path.parent} holds the replies of another run.{lines}\nChoose another folder for out=."
        )


def _write_whole(path: Path, write) -> None:
    """A file that is complete as soon as it has its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def digest(value) -> str:
    """Short hash of anything that JSON can hold."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
