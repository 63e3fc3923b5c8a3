"""Each cell a Slurm job: what is sent, what the queue says meanwhile, and why a job ended.

Jobs run this Python, in this folder, and outlive the caller. All is asked of sbatch, squeue and scontrol; sacct, which
needs an accounting database that sites may lack, is asked last.
"""

import json
import os
import re
import shlex
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatvec_lab.secrets.files import redact_files
from chatvec_lab.study import task
from chatvec_lab.study.asks import groups
from chatvec_lab.study.modules import PACKAGE
from chatvec_lab.study.sbatch import (
    SlurmError,
    ask,
    clean,
    line,
    minutes,
    read_options,
    refusal,
    submit,
    with_asks,
)

SQUEUE = "JobArrayID:64,State:24,RestartCnt:12,Reason:160"  # columns and their widths: what is longer is cut
SQUEUE_SECONDS = 5  # how old an answer of squeue may be
SILENT_SECONDS = 900  # how long squeue may fail
SETTLE_SECONDS = 15  # how long the files of an ended job may take over a network disk
NEWS_SECONDS = 60  # how often it is told, at most, why jobs wait
MOST_IN_ARRAY = 1000  # Slurm's MaxArraySize is 1001 unless a site says otherwise

ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
         "REVOKED", "TIMEOUT")  # fmt: skip
WAITS = {  # squeue's reasons, for people
    "Priority": "jobs of others are ahead",
    "Resources": "nodes are busy",
    "JobArrayTaskLimit": "at_once of this study run already",
    "Dependency": "another job has to end first",
    "DependencyNeverSatisfied": "the job that it depends on failed, so it never starts: scancel it",
    "BeginTime": "it may start later: begin=, or a moment after it was put back into the queue",
    "JobHeldUser": "held: `scontrol release JOB` lets it start",
    "JobHeldAdmin": "held by an administrator: ask them",
    "ReqNodeNotAvail": "the nodes that fit are down, drained or reserved",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is not active",
    "PartitionTimeLimit": "it asks for more time than the partition gives, so it may never start: lower hours",
    "PartitionNodeLimit": "it asks for more nodes than the partition has",
    "Licenses": "all licences are taken",
    "Reservation": "its reservation has not begun",
    "ReservationDeleted": "its reservation is gone",
    "InvalidAccount": "the account is not known any more",
    "InvalidQOS": "the qos is not known any more",
}


class Slurm:
    """Each cell a Slurm job, one job array for all that can start together (a second one from 1,000 on).

    folder: on a disk that the nodes share; scripts, calls and logs of the jobs.
    options: hours, gpus, cpus, memory_gb (numbers), at_once (how many of an array run together), setup (a line of shell
    before each cell, or a list of them: modules), python (how a node starts Python, such as "apptainer exec --nv
    lab.sif python3"), and any option of sbatch by its own name (account, qos, reservation, gres, ...), whose value is
    sent as it is written. Nothing else is sent but a name, the array and where the log goes.

    Raises ValueError for an option that does not exist or a value that cannot be.
    """

    def __init__(self, folder: Path, **options: Any):
        self.folder = Path(folder)
        self.options, self.at_once, self.setup, self.python = read_options(options)
        self._said = {name.strip().lstrip("-").replace("_", "-") for name in options} | {*options}
        self._pending: list[tuple[_Job, Callable, tuple, dict[str, str]]] = []
        self._queue: dict[str, tuple[str, int, str]] | None = None
        self._answered = time.monotonic()
        self._asked = self._told = -float("inf")
        self._waits: Counter[str] = Counter()
        self._restarts: dict[str, int] = {}  # as told

    takes_asks = True

    def submit(self, fn: Callable, *args: Any, asks: Mapping[str, str] | None = None) -> "_Job":
        job = _Job(self)
        self._pending.append((job, fn, args, self._options(asks or {})))
        return job

    def _options(self, asks: Mapping[str, str]) -> dict[str, str]:
        return with_asks(self.options, asks, self._said)

    def attach(self, token: str) -> "_Job | None":
        """The job that an earlier call submitted, while it waits or runs; None once it has left the queue.

        A queue that cannot be read may hold it: it is attached, and `done` waits until squeue answers.
        """
        queue, job = self.queued(), _Job(self, token)
        if queue is None or token in queue:
            return job
        job.redact()
        return None

    def flush(self) -> None:
        """Submit what is pending; SlurmError with sbatch's reason when it is refused, and then none of it is sent."""
        pending, self._pending = self._pending, []
        alike: dict[tuple, list] = {}  # an array's jobs ask for the same
        for entry in pending:
            alike.setdefault(tuple(entry[3].items()), []).append(entry)
        sent: list[str] = []
        try:
            for group in alike.values():
                for start in range(0, len(group), MOST_IN_ARRAY):
                    sent.append(self._send(group[start : start + MOST_IN_ARRAY]))
        except SlurmError:
            if sent:
                ask(["scancel", *sent])  # nobody would know their numbers
            raise
        if sent:
            self._asked = -float("inf")

    def _send(self, pending: list[tuple["_Job", Callable, tuple, dict[str, str]]]) -> str:
        """Submit one array and return its number."""
        folder = self.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)  # logs may hold secrets until their jobs have ended
        for number, (_, fn, args, _) in enumerate(pending):
            task.write_call(folder, number, fn, args)
        script = folder / "script.sh"
        script.write_text(self.script(folder, len(pending), pending[0][3]), "utf-8")
        array = submit(script)
        for number, (job, _, _, _) in enumerate(pending):
            job.token, job.result_file = f"{array}_{number}", task.result_file(folder, number)
        return array

    def script(self, folder: Path, jobs: int, options: Mapping[str, str] | None = None) -> str:
        """The batch script of an array of so many jobs, whose calls and logs lie in a folder; options of sbatch."""
        limit = f"%{self.at_once}" if self.at_once else ""
        # In sbatch's patterns a percent sign begins a number of the job: %A its array's, %a its place there.
        log = f"{folder}/".replace("%", "%%") + "%A_%a.log"
        said = {"job-name": "chatvec", "array": f"0-{jobs - 1}{limit}", "output": log}
        said |= self.options if options is None else options
        path = f'export PYTHONPATH={shlex.quote(str(PACKAGE.parent))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        call = (
            f'exec {self.python} -m chatvec_lab.study.task {shlex.quote(str(folder))} "$SLURM_ARRAY_TASK_ID"'
        )
        return "\n".join(["#!/bin/bash", *map(line, said, said.values()), "", *self.setup, path, call, ""])

    def describe(self, cells: Sequence[Any]) -> str:
        """What `--dry-run` shows: what the job of each cell asks for, and the scripts."""
        alike = groups(cells)
        return "\n".join(self._describe(asks, group, len(alike) > 1) for asks, group in alike)

    def _describe(self, asks: Mapping[str, str], cells: Sequence[Any], named: bool) -> str:
        options = self._options(asks)
        asked = [
            next((_asked(name, options[name]) for name in names.split() if name in options), default)
            for names, default in (
                ("time", "the partition's own time"),
                ("mem mem-per-cpu mem-per-gpu", "the partition's own memory"),
                ("gpus-per-node gpus gpus-per-task gres tres-per-task", "no GPU"),
                ("cpus-per-task cpus-per-gpu ntasks", "one core"),
            )
        ]
        script = self.script(self.folder / "BATCH", len(cells), options)
        shown = "".join(f"    {text}\n" for text in script.splitlines())
        whose = f"{_notebooks(cells)}: each of {len(cells)}" if named else f"each of these {len(cells)}"
        return f"{whose} is a job with {', '.join(asked)}, by this script:\n\n{shown}"

    def check(self, cells: Sequence[Any]) -> str:
        """Ask sbatch whether it would take the scripts (nothing is submitted): its answers, or SlurmError.

        Where there is no Slurm, on a laptop, that is what it says.
        """
        answers, refused = [], []
        alike = groups(cells)
        for asks, group in alike:
            options = self._options(asks)
            script = self.script(self.folder / "BATCH", len(group), options)
            answer = ask(["sbatch", "--test-only"], input=script)
            said = clean(answer.stderr or answer.stdout)
            if re.search("No such file or directory: 'sbatch'|configuration source|Unable to contact", said):
                return f"not checked by Slurm, which does not answer here ({said})"
            whose = f"{_notebooks(group)}: " if len(alike) > 1 else ""
            if why := refusal(said) if answer.returncode else self._too_long(options):
                refused.append(whose + why)
            answers.append(f"{whose}sbatch --test-only takes it: {said or 'no objection'}")
        if refused:
            raise SlurmError("\n".join(refused))
        return "\n".join(answers)

    def _too_long(self, options: Mapping[str, str]) -> str:
        """What sbatch takes and then lets wait for ever: more time than the partition gives."""
        rows = [row.split() for row in ask(["sinfo", "--noheader", "--format=%P %l"]).stdout.splitlines()]
        default = next((name.rstrip("*") for name, _ in rows if name.endswith("*")), "")
        chosen = options.get("partition", default).split(",")
        limits = {name.rstrip("*"): limit for name, limit in rows if name.rstrip("*") in chosen}
        asked = options.get("time", "0")
        if not limits or any(minutes(asked) <= minutes(limit) for limit in limits.values()):
            return ""
        told = ", ".join(f"{name} gives {limit}" for name, limit in limits.items())
        return (
            f"time={asked} is more than the partition gives ({told}): the job would wait for ever. Lower hours, "
            "or take another partition."
        )

    def queued(self) -> dict[str, tuple[str, int, str]] | None:
        """Of this user's jobs that wait or run, array tasks as 12_3: the state, how often it was put back, why it waits.

        None while squeue is silent.

        SlurmError when it has been for a quarter of an hour: the jobs go on, and the next call finds them.
        """
        if time.monotonic() - self._asked > SQUEUE_SECONDS:
            answer = ask(["squeue", "--noheader", "--array", f"--Format={SQUEUE}", f"--user={os.getuid()}"])
            self._queue = None  # a controller that is busy for a moment does not end our jobs
            self._asked = time.monotonic()
            if answer.returncode == 0:
                rows = [(row + " -").split(None, 3) for row in answer.stdout.splitlines() if row.strip()]
                self._queue = {
                    job: (state, int(restarts), why[:-1].strip())
                    for job, state, restarts, why in rows
                    if state not in ENDED
                }
                self._answered = self._asked
            elif self._asked - self._answered > SILENT_SECONDS:
                raise SlurmError(
                    f"squeue has not answered for {SILENT_SECONDS // 60} minutes: {clean(answer.stderr)}; "
                    "jobs go on, and the same command finds them again"
                )
        return self._queue

    def news(self, tokens: Sequence[str]) -> list[str]:
        """What to tell of these jobs since the last time: why they wait, and which were put back into the queue."""
        queue = self.queued()
        if queue is None:
            return []
        mine = {token: queue[token] for token in tokens if token in queue}
        # By Slurm's own count: a job may have begun, been put back and begun again between two answers.
        back = [token for token, (_, restarts, _) in mine.items() if restarts > self._restarts.get(token, 0)]
        self._restarts |= {token: mine[token][1] for token in back}
        lines = [
            f"  Slurm put job {token} back into the queue (node failed, preempted or requeued); it starts anew there"
            for token in back
        ]
        waits = Counter(
            _reason(reason) for state, _, reason in mine.values() if state == "PENDING" and reason != "None"
        )
        if waits != self._waits and time.monotonic() - self._told > NEWS_SECONDS:
            one, more = "  1 job waits", "  {} jobs wait"
            lines += [f"{one if n == 1 else more.format(n)}: {reason}" for reason, n in sorted(waits.items())]
            self._waits, self._told = waits, time.monotonic()
        return lines

    def close(self) -> None:
        """Nothing to stop: jobs go on, and the next call finds them (scancel ends them)."""
        self._pending.clear()


class _Job:
    def __init__(self, engine: Slurm, token: str | None = None):
        self._engine, self.token = engine, token
        self.result_file: Path | None = None
        self._left: float | None = None

    @property
    def log(self) -> Path | None:
        """What the job has printed, also one that an earlier call submitted."""
        return next(self._engine.folder.glob(f"*/{self.token}.log"), None)

    def redact(self) -> None:
        """Hide the secrets in the log of a job that has ended."""
        if log := self.log:
            redact_files(log)

    def done(self) -> bool:
        self._engine.flush()
        if self.result_file is not None and self.result_file.exists():
            return True
        queue = self._engine.queued()
        if queue is None or self.token in queue:
            self._left = None  # a fresh job may be listed late
            return False
        self._left = self._left or time.monotonic()
        return time.monotonic() - self._left > SETTLE_SECONDS

    def result(self) -> None:
        """Nothing when the call returned; SlurmError with the reason when it did not."""
        self.redact()
        if self.result_file is not None and self.result_file.exists():
            if error := json.loads(self.result_file.read_text("utf-8"))["error"]:
                raise SlurmError(error)
            return
        text, again = ending(*state_of(self.token or ""))
        log = f"; its log: {self.log}" if self.log else ""
        raise SlurmError(f"Slurm job {self.token} {text}{log}", again=again)


def state_of(token: str) -> tuple[str, str, str]:
    """State, exit code and time limit of a job that left the queue; "" where neither scontrol nor sacct knows."""
    answer = ask(["scontrol", "--oneliner", "show", "job", token])
    if answer.returncode == 0 and (found := re.search(r"JobState=(\w+)", answer.stdout)):
        more = [re.search(rf"\b{name}=(\S+)", answer.stdout) for name in ("ExitCode", "TimeLimit")]
        return found[1], *(match[1] if match else "" for match in more)
    form = "--noheader --parsable2 --allocations --format=State,ExitCode,Timelimit -j"
    answer = ask(["sacct", *form.split(), token])
    rows = [row.split("|") for row in answer.stdout.splitlines() if row.count("|") == 2]
    if answer.returncode == 0 and rows:
        state, code, limit = rows[-1]
        return state.partition(" ")[0], code, limit  # "CANCELLED by 1000"
    return "", "", ""


def ending(state: str, exit_code: str = "", limit: str = "") -> tuple[str, bool]:
    """How a job ended without a result, for people, and whether another attempt may succeed.

    >>> ending("OUT_OF_MEMORY")
    ('ran out of memory; ask for more: --slurm memory_gb=N', False)
    """
    code, _, number = exit_code.partition(":")
    match state:
        case "CANCELLED":
            return "was cancelled (scancel); the same command runs it again", False
        case "TIMEOUT":
            within = f" of {limit}" if limit else ""
            return f"reached its time limit{within}; for more time: --slurm hours=N", True
        case "OUT_OF_MEMORY":
            return "ran out of memory; ask for more: --slurm memory_gb=N", False
        case "NODE_FAIL" | "BOOT_FAIL":
            return "lost its node, and was not put back into the queue", True
        case "PREEMPTED" | "REVOKED":
            return "was preempted by a job of higher priority", True
        case "DEADLINE":
            return "reached its deadline", False
        case "FAILED" | "COMPLETED" if number == "9":
            return "was killed, as the system does when memory is gone; more: --slurm memory_gb=N", True
        case "FAILED" | "COMPLETED" if number not in ("", "0"):
            return f"was ended by signal {number}", True
        case "FAILED" | "COMPLETED":
            return f"ended with exit code {code} and no result: Python or setup= failed on the node", True
    return "left the queue without a result (neither scontrol nor sacct says why)", True


def _notebooks(cells: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(cell.notebook for cell in cells))


def _asked(name: str, value: str) -> str:
    """An option for people: a bare number of sbatch's time is minutes."""
    return f"{name}={value}" + (" minutes" if name == "time" and value.isdigit() else "")


def _reason(reason: str) -> str:
    """squeue's reason for waiting, with words for those who do not know it."""
    name = re.split(r"[ ,(]", reason.strip("()"), maxsplit=1)[0] or "no reason given"
    limit = "a limit of your account or qos is reached" if name.startswith(("Assoc", "QOS")) else ""
    told = WAITS.get(name, limit)
    return f"{name} ({told})" if told else reason or name
