"""Run the cells of a study on an engine, only what is missing or changed, and keep the books."""

import contextlib
import fcntl
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chatvec_lab import secrets
from chatvec_lab.paths import ROOT
from chatvec_lab.study import engines
from chatvec_lab.study.cell import redact, run_cell
from chatvec_lab.study.parameters import title
from chatvec_lab.study.plan import Cell, Study, with_needs
from chatvec_lab.study.results import MANIFEST, describe, is_done, read_record, write_record


def run(
    study: Study,
    out: Path,
    engine: Any,
    *,
    cells: list[Cell] | None = None,
    retries: int = 1,
    force: bool = False,
    tell: Callable[[str], None] = print,
    ending: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Run what is not done of `cells` (None: all of the study) below the folder `out`; records by cell key.

    A failed cell does not stop the others; those that need it get the status `blocked` and no `run.json`.
    `retries` is how often a *killed* cell (dead kernel or worker) is tried again; an error in a code cell
    would only come back. `force` runs done cells too. `tell` gets one line a finished cell.
    `ending` is called beside the last cells, in a thread: to prepare what comes after them.

    What the cells need is run with them. Raises BlockingIOError when another run is at work in `out`, and
    FileExistsError when `out` has figures or tables that are no study's: the report would write over them.
    """
    cells = study.cells if cells is None else with_needs(study, {cell.key for cell in cells})
    out = Path(out).resolve()
    alien = [
        name for name in ("figures", "tables") if (out / name).exists() and not (out / MANIFEST).exists()
    ]
    if alien:
        raise FileExistsError(
            f"{out} has {' and '.join(alien)} of its own; give the study a folder for itself"
        )
    with _only_run(out):
        write_manifest(study, out)
        return _Run(study, out, engine, cells, retries, tell, ending).go(force)


class _Run:
    """The state of one call: what waits, what runs, and the records so far."""

    def __init__(
        self, study: Study, out: Path, engine: Any, cells: list[Cell], retries: int, tell: Callable, ending: Callable
    ):  # fmt: skip
        self.study, self.out, self.engine, self.cells = study, out, engine, cells
        self.retries, self.tell, self.ending = retries, tell, ending
        self.records: dict[str, dict[str, Any]] = {}
        self.attempts = dict.fromkeys((cell.key for cell in cells), 0)
        self.git = git_state()

    def go(self, force: bool) -> dict[str, dict[str, Any]]:
        if not force:
            done = [cell for cell in self.cells if is_done(cell.folder(self.out))]
            self.records = {cell.key: read_record(cell.folder(self.out)) for cell in done}
        waiting = [cell for cell in self.cells if cell.key not in self.records]
        if hasattr(self.engine, "fit"):
            self.engine.fit(waiting)
        self.tell(f"{len(self.cells)} cells, {len(self.records)} already done, {len(waiting)} to run")
        self.total, self.finished, self.started = len(waiting), 0, time.monotonic()
        running: dict[Any, Cell] = {}
        pause, is_ending = 0.05, False
        while waiting or running:
            started = self._start_ready(waiting, running)
            ended = [handle for handle in running if handle.done()]
            for handle in ended:
                cell = running.pop(handle)
                if not self._finish(cell, handle):
                    waiting.insert(0, cell)
            if hasattr(self.engine, "news"):
                for line in self.engine.news([handle.token for handle in running]):
                    self.tell(line)
            if not waiting and not is_ending:
                is_ending = True
                threading.Thread(target=self.ending, daemon=True).start()
            # Cells take seconds to hours: look often at first, then less, and where that asks a cluster once a second.
            longest = 1.0 if hasattr(self.engine, "news") else 0.1
            pause = 0.05 if started or ended else min(longest, pause * 1.5)
            if running and not ended:
                time.sleep(pause)
        return self.records

    def _start_ready(self, waiting: list[Cell], running: dict[Any, Cell]) -> bool:
        """Submit every waiting cell whose needs are done; drop those whose needs have failed."""
        fresh = []
        for cell in list(waiting):
            needs = [need for group in cell.needs.values() for need in group]
            bad = [need for need in needs if self.records.get(need.key, {}).get("status", "done") != "done"]
            if bad:
                waiting.remove(cell)
                value = (
                    f"needs {', '.join(map(str, bad))}, which {'have' if len(bad) > 1 else 'has'} no result"
                )
                self._book(
                    cell,
                    {"status": "blocked", "error": {"name": "", "value": value, "cell": None, "line": ""}},
                )
            elif all(need.key in self.records for need in needs):
                waiting.remove(cell)
                fresh.append((self._submit(cell), cell))
        for handle, cell in fresh:
            running[handle] = cell
        for handle, cell in fresh:
            if hasattr(handle, "token"):
                handle.done()  # an engine that submits in batches has the token from here on
                engines.save_token(cell.folder(self.out), handle.token)
        return bool(fresh)

    def _submit(self, cell: Cell) -> Any:
        folder = cell.folder(self.out)
        token = engines.saved_token(folder)
        if token and hasattr(self.engine, "attach") and (handle := self.engine.attach(token)):
            self.tell(f"  {cell} is already job {token}")
            return handle
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").unlink(missing_ok=True)
        (folder / "job.json").unlink(missing_ok=True)
        self.attempts[cell.key] += 1
        asks = {"asks": cell.asks} if getattr(self.engine, "takes_asks", False) else {}
        return self.engine.submit(run_cell, self._job(cell), **asks)

    def _job(self, cell: Cell) -> dict[str, Any]:
        """All that `run_cell` needs, as plain data: it may travel to another machine."""
        folders = {name: [str(need.folder(self.out)) for need in group] for name, group in cell.needs.items()}
        return {
            "notebook": cell.notebook,
            "source": cell.source,
            "folder": str(cell.folder(self.out)),
            "parameters": cell.parameters,
            "folders": cell.places
            | {name: paths if name in cell.listed else paths[0] for name, paths in folders.items()},
            "needs": {name: [need.key for need in group] for name, group in cell.needs.items()},
            "inputs": self.study.inputs | cell.inputs,
            "key": cell.key,
            "code": cell.code,
            "imports": cell.imports,
            "stamp": cell.stamp,
            "attempt": self.attempts[cell.key],
            "git": self.git,
        }

    def _finish(self, cell: Cell, handle: Any) -> bool:
        """Book the cell by its run.json; False when it was killed and gets another attempt."""
        folder = cell.folder(self.out)
        name, reason, again = "WorkerKilled", "its worker left no result", True
        try:
            handle.result()
        except Exception as error:  # whatever an engine raises, the other cells go on
            again = getattr(error, "again", None)
            if again is None:
                again = True
                reason = (
                    f"its worker process ended: {error}" if str(error) else f"its worker ended: {error!r}"
                )
            else:  # a cluster's error, which knows what became of the job
                name, reason = "JobEnded", str(error)
        (folder / "job.json").unlink(missing_ok=True)
        record = read_record(folder)
        if record is None:
            error = {"name": name, "value": reason, "cell": None, "line": ""}
            record = {"status": "killed", "error": error, "notebook": cell.notebook, "key": cell.key}
            record |= {"parameters": cell.parameters, "attempt": self.attempts[cell.key], "git": self.git}
            redact(folder)
            record = secrets.redacted(record)
            write_record(folder, record)
        if record["status"] == "killed" and again and self.attempts[cell.key] <= self.retries:
            self.tell(f"  {cell} was killed ({record['error']['value']}); trying again")
            return False
        self._book(cell, record)
        return True

    def _book(self, cell: Cell, record: dict[str, Any]) -> None:
        self.records[cell.key] = record
        self.finished += 1
        line = f"[{self.finished}/{self.total}] {record['status']:7} {record.get('seconds', 0):6.1f}s  {cell}"
        if record["status"] != "done":
            line += f"  {describe(record['error'])}"
        elapsed = time.monotonic() - self.started
        left = elapsed / self.finished * (self.total - self.finished)
        self.tell(line + (f"  (about {duration(left)} left)" if self.finished < self.total else ""))


def duration(seconds: float) -> str:
    """
    >>> duration(42), duration(130), duration(8000)
    ('42 s', '2 min', '2.2 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def write_manifest(study: Study, out: Path) -> None:
    """Write `study.json`, the study's cells in order, for the report: the same study, the same bytes."""
    manifest = {
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "family": study.family,
        "inputs": study.inputs,
        "titles": list({cell.notebook: (cell.notebook, title(cell.path)) for cell in study.cells}.values()),
        "cells": [
            {
                "notebook": cell.notebook,
                "key": cell.key,
                "code": cell.code,
                "imports": cell.imports,
                "parameters": cell.parameters,
                "varying": cell.varying,
                "inputs": cell.inputs,
                "needs": {name: [need.key for need in group] for name, group in cell.needs.items()},
            }
            for cell in study.cells
        ],
    }
    part = out / f"{MANIFEST}.part"
    part.write_text(
        json.dumps(secrets.redacted(manifest), indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8"
    )
    part.replace(out / MANIFEST)


def git_state() -> dict[str, Any] | None:
    """Commit of the project and whether files differ from it; None outside a repository."""

    def ask(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True
        ).stdout

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return {
            "commit": ask("rev-parse", "HEAD").strip(),
            "dirty": bool(ask("status", "--porcelain").strip()),
        }
    return None


@contextlib.contextmanager
def _only_run(out: Path) -> Iterator[None]:
    """Hold the study's folder; the lock goes with the process, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another run is at work in {out}; wait for it, or give this one its own --out"
            ) from None
        except OSError:  # a disk without locks
            pass
        yield
