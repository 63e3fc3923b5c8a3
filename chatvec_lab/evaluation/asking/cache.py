"""Answers that cost money, kept on disk: a line of JSON each, found again by the hash of the question."""

import contextlib
import fcntl
import json
import os
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chatvec_lab.evaluation.asking.http import map_concurrent

_SLOTS = 64  # lock files; two questions that share one wait for each other


class JsonlCache:
    """Records by key in a JSONL file, or in memory alone with `path=None`.

    Every `put` is one appended line, on the disk when it returns. A line that a kill tore is skipped when the
    file is read (`damaged` counts such lines) and never joined to the next. Of two lines with one key the
    later counts. Threads and processes may share a file: `ask` sends a question once, also when two of them come to it
    at one time.

    `ask` journals a question before it is sent, so that a kill in between is seen: `unanswered` counts the requests
    that were sent and brought nothing, which a server may charge all the same.

    >>> cache = JsonlCache(None)
    >>> cache.put("a question's hash", {"text": "[[7]]"})
    >>> cache.get("a question's hash")
    {'text': '[[7]]'}
    """

    def __init__(self, path: str | Path | None):
        self.path = None if path is None else Path(path)
        self._journal = self.path and self.path.with_name(self.path.name + ".sent")
        self._records: dict[str, dict] = {}
        self._sent: Counter[str] = Counter()  # requests sent, less those answered or refused
        self._damaged = 0
        self._torn: dict[Path, bool] = {}  # whether a file's last line is not whole
        self._read_to: Counter[Path] = Counter()
        self._lock = threading.Lock()
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._refresh()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def damaged(self) -> int:
        """Lines that hold no record."""
        return self._damaged + self._torn.get(self.path, False)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of this key, or None."""
        return self._records.get(key)

    def ask(self, key: str, request: Callable[[], dict[str, Any]]) -> bool:
        """Keep what `request()` gives under this key; that it is sent is on the disk before it is. Whether it was sent.

        While it is under way, other threads and processes wait with the same question, and then find the answer. What
        the server refuses (ValueError, PermissionError), and what never reached it, has cost nothing and is noted as such.
        """
        with self._alone(key):
            with self._lock:
                self._refresh()
            if key in self._records:
                return False
            self._note(key, 1)
            try:
                record = request()
            except (ValueError, PermissionError, ConnectionError) as error:
                if not getattr(error, "may_be_charged", isinstance(error, ConnectionError)):
                    self._note(key, -1)
                raise
            self.put(key, record)
        return True

    def ask_all(
        self,
        questions: Mapping[str, Any],
        request: Callable[[str, Any], dict],
        *,
        workers: int,
        description: str | None,
    ) -> tuple[set[str], dict[str, Exception]]:
        """Ask for what is not kept, `workers` questions at a time: (keys that were asked here, what failed).

        `questions` maps keys to questions; `request` takes both. What is under way at an interrupt is paid for, and kept.
        """
        todo = {key: question for key, question in questions.items() if self.get(key) is None}
        results = map_concurrent(
            lambda item: self.ask(item[0], lambda: request(*item)), todo.items(), workers=workers,
            description=description if todo else None,
        )  # fmt: skip
        found = dict(zip(todo, results, strict=True))
        failed = {key: error for key, error in found.items() if isinstance(error, Exception)}
        return {key for key, was_sent in found.items() if was_sent is not False}, failed

    def unanswered(self, key: str) -> int:
        """How many requests of this key were sent, by any process, and brought neither an answer nor a refusal."""
        return self._sent[key]

    def lost(self, key: str) -> None:
        """Journal that a request broke off and is about to be sent again: its server may charge both."""
        self._note(key, 1)

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record that JSON can hold."""
        with self._lock:
            if self.path is None:
                self._records[key] = record
                self._count(key, -1)
            else:
                _append(self.path, {"key": key, **record})
                self._refresh()

    def _note(self, key: str, sent: int) -> None:
        """Journal that a request is about to be sent (1), or that one was refused (-1)."""
        with self._lock:
            if self.path is None:
                self._count(key, sent)
            else:
                date = datetime.now(UTC).isoformat(timespec="seconds")
                _append(self._journal, {"key": key, "sent": sent, "date": date})
                self._refresh()

    @contextlib.contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Nobody else asks this question meanwhile; a lock ends with the process that holds it."""
        if self.path is None:
            yield
            return
        folder = self.path.with_name(self.path.name + ".locks")
        folder.mkdir(exist_ok=True)
        with open(folder / f"{zlib.crc32(key.encode()) % _SLOTS:02d}", "ab") as slot:
            # a disk that knows no locks: at worst a question is asked twice
            with contextlib.suppress(OSError):
                fcntl.flock(slot, fcntl.LOCK_EX)
            yield

    def _refresh(self) -> None:
        """Read what was appended since, here or by another process; the journal first, as its notes were written."""
        for file, read in ((self._journal, self._read_sent), (self.path, self._read)):
            for line in self._new_lines(file) if file else ():
                read(line)

    def _new_lines(self, file: Path) -> list[bytes]:
        try:
            with open(file, "rb") as opened:
                opened.seek(self._read_to[file])
                found = opened.read()
        except FileNotFoundError:
            return []
        lines = found.split(b"\n")
        try:
            json.loads(lines[-1])
            tail = b""
        except (ValueError, RecursionError):
            tail = lines.pop()  # torn, or somebody is writing it
        self._torn[file] = bool(tail.strip())
        self._read_to[file] += len(found) - len(tail)
        return lines

    def _count(self, key: str, sent: int) -> None:
        # answers of older files have no note of their sending
        self._sent[key] = max(0, self._sent[key] + sent)

    def _read(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            key = record.pop("key")
            self._records[key] = record
            self._count(key, -1)
        except _NO_RECORD:
            self._damaged += bool(line.strip())

    def _read_sent(self, line: bytes) -> None:
        with contextlib.suppress(*_NO_RECORD):  # a kill tore it; nothing was sent yet
            note = json.loads(line)
            self._count(note["key"], note["sent"])


_NO_RECORD = (ValueError, LookupError, AttributeError, TypeError, RecursionError)


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
