"""Damaged text files by the thousand: each trial ends right, or in one paragraph that names the file.

Each trial runs in a forked child with a limit of 20 seconds of the processor, and 2 GB for all that the child tries. Its
outcome is one of

    right      the file is still one that can be read
    named      an error of one paragraph that names the file (or its folder)
    unnamed    an error for the user that names neither, or has many paragraphs
    traceback  another kind of exception: a fault of ours
    stopped    more than 20 seconds or 2 GB, or a crash
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from chatvec_lab.mistakes import is_mistake

SECONDS, BYTES = 20, 2 << 30
TOGETHER = 25  # trials of one child
BAD = ("unnamed", "traceback", "stopped")

VALUES = [b"null", b"true", b"[]", b"{}", b'""', b"0", b"-1", b"1e999", b"NaN", b"9" * 400, b'"\\ud800"', b"[[1]]",
          b'{"a": 1}', b'"' + b"x" * 3000 + b'"', b"0x10", b"~", b"no", b"- a", b"*a", b"&a",
          b"!!python/object:os.system"]  # fmt: skip
BYTES_INSERTED = [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[0m", b"\r", b"\t", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"{",
                  b"}", b"[", b'"', b"\\", b":", b",", b"#", b"'", b"\n\n---\n", b"<<: *a\n"]  # fmt: skip


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with one to three changes of a random kind."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice(CHANGES)(content, draw)
    return content


def _place(content: bytes, draw: random.Random) -> int:
    return draw.randrange(len(content) + 1)


def _flip(content, draw):
    if not content:
        return b"\xff"
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def _cut(content, draw):
    return content[: _place(content, draw)]


def _drop(content, draw):
    start = _place(content, draw)
    return content[:start] + content[start + draw.choice((1, 2, 8, 64, 512)) :]


def _repeat(content, draw):
    start = _place(content, draw)
    span = content[start : start + draw.choice((1, 8, 64, 512))]
    return content[:start] + span * draw.choice((2, 3, 100)) + content[start + len(span) :]


def _insert(content, draw):
    at = _place(content, draw)
    return content[:at] + draw.choice(BYTES_INSERTED) * draw.choice((1, 1, 1, 50_000)) + content[at:]


def _value(content, draw):
    """Another value in place of one: of another type, huge, or a tag."""
    found = list(re.finditer(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null|(?<=: )[^\n{\[]+', content))
    if not found:
        return content
    match = draw.choice(found)
    return content[: match.start()] + draw.choice(VALUES) + content[match.end() :]


def _line(content, draw):
    """A line twice, gone, or in another place."""
    lines = content.split(b"\n")
    line = lines.pop(draw.randrange(len(lines)))
    for _ in range(draw.choice((0, 1, 2))):
        lines.insert(draw.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


def _whole(content, draw):
    return draw.choice((
        b"", b"\n", b"null", b"[]", b"{}", b"[1, 2]", b'"text"', b"\0" * 100, b"\xff\xfe" + b"a\0" * 50,
        b"[" * 100_000, b'{"a":' * 20_000, draw.randbytes(200), b"a: &a [x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b]\n",
        b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n"), content * 2,
    ))  # fmt: skip


CHANGES = (_flip, _cut, _drop, _repeat, _insert, _value, _line, _whole)


def trials(read: Callable[[Path], object], files: list[Path]) -> Iterator[tuple[str, str]]:
    """(outcome, what was said) of `read(file)` for each, in forked children.

    A child takes one file after the other, since a fork costs more than most trials; where it ends, another one goes on.
    """
    while files:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _try(read, files, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = [json.loads(line) for line in pipe.read().splitlines() if line.endswith(b"]")]
        os.waitpid(child, 0)
        yield from map(tuple, said)
        if len(said) < len(files):  # the next one ended it
            yield "stopped", ""
        files = files[len(said) + 1 :]


def _try(read: Callable[[Path], object], files: list[Path], writer: int) -> NoReturn:
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, lambda *_: os._exit(9))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    warnings.simplefilter("ignore")
    for file in files:
        signal.setitimer(
            signal.ITIMER_PROF, SECONDS
        )  # of the processor: a busy machine is no fault of the file's
        signal.alarm(60 * SECONDS)
        os.write(writer, json.dumps(_outcome(lambda file=file: read(file), file)).encode() + b"\n")
    os._exit(0)


def _outcome(read: Callable[[], object], file: Path) -> tuple[str, str]:
    try:
        read()
        return "right", ""
    except Exception as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if isinstance(error, MemoryError):
            return "stopped", repr(error)
        if not is_mistake(error):
            return "traceback", f"{type(error).__name__}: {text}"[:500]
        names = str(file) in text or file.name in text or str(file.parent) in text
        return "named" if names and len(text) < 4000 and text.count("\n") < 40 else "unnamed", text[:500]


def campaign(
    kinds: dict, count: int, seed: int, folder: Path, kept: Path | None = None
) -> dict[str, dict[str, int]]:
    """Counts of outcomes for each kind of file, and a list of what was bad: {kind: {outcome: n}}.

    `kinds` maps a name to (file, read): the undamaged file, and a function of a path. Resumed from the lines of
    `kept`, one a trial. A trial follows from seed, kind and number, so that it can be made again.
    """
    done = {}
    if kept is not None and kept.exists():
        done = {
            tuple(row[:2]): row[2:]
            for row in map(json.loads, kept.read_text("utf-8").splitlines())
            if row[4] == seed
        }
    counts: dict = {}
    for kind, (source, read) in kinds.items():
        content = source.read_bytes()
        place = folder / kind.replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        todo = [number for number in range(count) if (kind, number) not in done]
        for start in range(0, len(todo), TOGETHER):
            some = todo[start : start + TOGETHER]
            files = [
                place / str(number) / source.name for number in some
            ]  # nothing that is kept by path is met again
            for number, file in zip(some, files, strict=True):
                file.parent.mkdir()
                file.write_bytes(damaged(content, random.Random(f"{seed}/{kind}/{number}")))
            for number, (outcome, said) in zip(some, trials(read, files), strict=True):
                done[kind, number] = [outcome, said]
                if kept is not None:
                    with kept.open("a", encoding="utf-8") as lines:
                        lines.write(json.dumps([kind, number, outcome, said, seed]) + "\n")
                shutil.rmtree(place / str(number))
        for number in range(count):
            outcome, said = done[kind, number][:2]
            tally = counts.setdefault(kind, {})
            tally[outcome] = tally.get(outcome, 0) + 1
            if outcome in BAD:
                counts.setdefault("bad", []).append((kind, number, outcome, said))
    return counts
