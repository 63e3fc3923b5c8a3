"""Answers that cost money, kept on disk: a line of JSON each, found again by the hash of the question."""

import json
import os
import threading
from pathlib import Path
from typing import Any

__all__ = ["JsonlCache"]


class JsonlCache:
    """Records by key in a JSONL file, or in memory alone with `path=None`.

    Every `put` is one appended line, on the disk when it returns. A line that a kill tore is skipped when the
    file is read (`damaged` counts such lines) and never joined to the next. Of two lines with one key the
    later counts. Threads may share a cache; processes may share a file, but see what was there when they
    opened it.

    >>> cache = JsonlCache(None)
    >>> cache.put("a question's hash", {"text": "[[7]]"})
    >>> cache.get("a question's hash")
    {'text': '[[7]]'}
    """

    def __init__(self, path: str | Path | None):
        self.path = None if path is None else Path(path)
        self.damaged = 0
        self._records: dict[str, dict] = {}
        self._lock = threading.Lock()
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                self._read(line)

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of this key, or None."""
        return self._records.get(key)

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record that JSON can hold."""
        line = json.dumps({"key": key, **record}).encode() + b"\n"
        with self._lock:
            if self.path is not None:
                with open(self.path, "a+b", buffering=0) as file:
                    if file.seek(0, os.SEEK_END):
                        file.seek(-1, os.SEEK_END)
                        if file.read(1) != b"\n":  # somebody was killed in the middle of a line
                            line = b"\n" + line
                    file.write(line)
                    os.fsync(file.fileno())
            self._records[key] = record

    def _read(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            self._records[record.pop("key")] = record
        except (ValueError, LookupError, AttributeError, TypeError):
            self.damaged += bool(line.strip())
