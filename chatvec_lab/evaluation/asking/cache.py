"""Answers that cost money, kept on disk: a line of JSON each, found again by the hash of the question."""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["JsonlCache"]


class JsonlCache:
    """Records by key in a JSONL file, or in memory alone with `path=None`.

    Every `put` is one appended line, on the disk when it returns. A line that a kill tore is skipped when the
    file is read (`damaged` counts such lines) and never joined to the next. Of two lines with one key the
    later counts. Threads may share a cache; processes may share a file, but see what was there when they
    opened it.

    `ask` journals a question before it is sent, so that a kill in between is seen: `unanswered` counts the requests
    that were sent and brought nothing, which a server may charge all the same.

    >>> cache = JsonlCache(None)
    >>> cache.put("a question's hash", {"text": "[[7]]"})
    >>> cache.get("a question's hash")
    {'text': '[[7]]'}
    """

    def __init__(self, path: str | Path | None):
        self.path = None if path is None else Path(path)
        self.damaged = 0
        self._records: dict[str, dict] = {}
        self._sent: Counter[str] = Counter()  # requests sent, less those answered or refused
        self._lock = threading.Lock()
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._journal = self.path.with_name(self.path.name + ".sent")
        for file, read in ((self._journal, self._read_sent), (self.path, self._read)):
            for line in file.read_bytes().splitlines() if file.exists() else ():
                read(line)

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of this key, or None."""
        return self._records.get(key)

    def ask(self, key: str, request: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The record that `request()` gives, kept under this key; that it is sent is on the disk before it is.

        What the server refuses (ValueError, PermissionError) has cost nothing and is noted as such.
        """
        self._note(key, 1)
        try:
            record = request()
        except (ValueError, PermissionError):
            self._note(key, -1)
            raise
        self.put(key, record)
        return record

    def unanswered(self, key: str) -> int:
        """How many requests of this key were sent, by any process, and brought neither an answer nor a refusal."""
        return self._sent[key]

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record that JSON can hold."""
        with self._lock:
            if self.path is not None:
                _append(self.path, {"key": key, **record})
            self._records[key] = record
            self._count(key, -1)

    def _note(self, key: str, sent: int) -> None:
        """Journal that a request is about to be sent (1), or that one was refused (-1)."""
        with self._lock:
            if self.path is not None:
                date = datetime.now(UTC).isoformat(timespec="seconds")
                _append(self._journal, {"key": key, "sent": sent, "date": date})
            self._count(key, sent)

    def _count(self, key: str, sent: int) -> None:
        self._sent[key] = max(
            0, self._sent[key] + sent
        )  # answers of older files have no note of their sending

    def _read(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            key = record.pop("key")
            self._records[key] = record
            self._count(key, -1)
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
            self.damaged += bool(line.strip())

    def _read_sent(self, line: bytes) -> None:
        try:
            note = json.loads(line)
            self._count(note["key"], note["sent"])
        except (ValueError, LookupError, TypeError, RecursionError):  # a kill tore it; nothing was sent yet
            return


def _append(path: Path, entry: dict[str, Any]) -> None:
    """Append a line of JSON that is on the disk when this returns."""
    line = json.dumps(entry).encode() + b"\n"
    with open(path, "a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # somebody was killed in the middle of a line
                line = b"\n" + line
        file.write(line)
        os.fsync(file.fileno())
