"""Where cells run. An engine is anything with `submit(fn, *args)` and `close()`.

`submit` returns a handle with `done()` and `result()`; `result()` raises what kept `fn` from returning.
The runner polls `done()` and knows nothing else, so another engine is one small class.
An engine whose jobs outlive the caller (Slurm) also has `attach(token)`, and its handles a `token`.
"""

import contextlib
import getpass
import importlib
import json
import multiprocessing
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
SILENT_SECONDS = 900  # how long squeue may fail
SQUEUE_SECONDS = 5  # how old an answer of squeue may be
SETTLE_SECONDS = 15  # how long the files of an ended job may take over a network disk


class Local:
    """Worker processes on this machine that stay warm: each imports papermill once and takes cell after cell.

    workers: None takes one a GPU, or without GPUs one a core, 8 at most.
    devices: GPUs handed out to the workers in turn; None takes CUDA_VISIBLE_DEVICES or all that there are.
    Cores are shared out evenly as threads, unless OMP_NUM_THREADS is set already.
    """

    def __init__(self, workers: int | None = None, *, devices: Sequence[str] | None = None):
        devices = visible_devices() if devices is None else list(devices)
        cores = len(os.sched_getaffinity(0))
        self.workers = workers or len(devices) or min(cores, 8)
        if self.workers < 1:
            raise ValueError(f"workers must be 1 or more, got {workers}")
        threads = max(1, cores // self.workers)
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all = []
        for i in range(self.workers):
            worker = _Worker(devices[i % len(devices)] if devices else None, threads)
            self._all.append(worker)
            self._idle.put(worker)
        # One thread a worker waits for it; each worker is its own pool, so a broken one harms no other cell.
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="chatvec-cell")

    def submit(self, fn: Callable, *args: Any) -> Future:
        return self._threads.submit(self._call, fn, *args)

    def _call(self, fn: Callable, *args: Any) -> Any:
        worker = self._idle.get()
        try:
            return worker.call(fn, *args)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Stop everything, also what is in mid-cell."""
        for worker in self._all:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)


class _Worker:
    """One warm process, started at its first call and again after it was killed."""

    def __init__(self, device: str | None, threads: int):
        self._start = (device, threads)
        self._pool: ProcessPoolExecutor | None = None
        self._pid: int | None = None
        self._closed = False

    def call(self, fn: Callable, *args: Any) -> Any:
        if self._closed:
            raise RuntimeError("the engine is closed")
        try:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(
                    1, mp_context=context, initializer=_warm_up, initargs=self._start
                )
                self._pid = self._pool.submit(os.getpid).result()
                if self._closed:  # meanwhile
                    self.kill()
                    raise RuntimeError("the engine is closed")
            return self._pool.submit(fn, *args).result()
        except BrokenProcessPool:
            self._pool = self._pid = None
            raise

    def kill(self) -> None:
        self._closed = True
        pool, pid = self._pool, self._pid
        if pool is not None and pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            pool.shutdown(wait=True, cancel_futures=True)


def _warm_up(device: str | None, threads: int) -> None:
    """What a new worker does once: take its device and threads, and import papermill (2 s)."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    threads = os.environ.get("OMP_NUM_THREADS", str(threads))  # who set it meant all of them
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import papermill  # noqa: F401


def _leave_with_parent() -> None:
    """A worker must not outlive a killed study, or it would write into folders that the rerun uses."""
    multiprocessing.parent_process().join()
    os._exit(1)


def visible_devices() -> list[str]:
    """The GPUs that this process may use, without importing torch: [] where there are none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return answer.stdout.split() if answer.returncode == 0 else []


class Slurm:
    """Each cell a Slurm job, one job array for all that can start together. Needs the extra `slurm`.

    folder: on a disk that the nodes share; scripts, logs and results of the jobs.
    options: hours, gpus, cpus, memory_gb, at_once (array limit), or any of sbatch (partition, account,
    qos, constraint, wckey, ...). Jobs run this Python, in this folder, and outlive the caller.
    Whether a job has ended is asked of squeue, since sacct needs an accounting database that sites may lack.
    """

    RENAMED = {"gpus": "gpus_per_node", "cpus": "cpus_per_task", "memory_gb": "mem_gb"}  # noqa: RUF012

    def __init__(self, folder: Path, **options: Any):
        submitit = _optional("submitit", "slurm")
        if not shutil.which("sbatch"):
            raise FileNotFoundError(
                "--engine slurm needs sbatch on the PATH: start the study on a login node"
            )
        settings = {"slurm_array_parallelism": int(options.pop("at_once", 256)), "name": "chatvec"}
        settings["timeout_min"] = int(60 * float(options.pop("hours", 4)))
        for name, value in options.items():
            value = int(value) if str(value).isdigit() else value
            settings[self.RENAMED.get(name, f"slurm_{name}")] = value
        self._executor = submitit.AutoExecutor(folder=str(folder), cluster="slurm")
        self._executor.update_parameters(**settings)
        self._pending: list[tuple[_SlurmJob, Callable, tuple]] = []
        self._queue: set[str] | None = None
        self._answered = time.monotonic()
        self._asked = -float("inf")

    def submit(self, fn: Callable, *args: Any) -> "_SlurmJob":
        job = _SlurmJob(self)
        self._pending.append((job, fn, args))
        return job

    def attach(self, token: str) -> "_SlurmJob | None":
        """The job that an earlier call submitted, while it waits or runs; None once it has left the queue.

        A queue that cannot be read may hold it: it is attached, and `done` waits until squeue answers.
        """
        queue = self.queued()
        return _SlurmJob(self, token) if queue is None or token in queue else None

    def flush(self) -> None:
        """Submit what is pending, as one array."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        with self._executor.batch():
            jobs = [self._executor.submit(fn, *args) for _, fn, args in pending]
        for (handle, _, _), job in zip(pending, jobs, strict=True):
            handle.job, handle.token = job, job.job_id
        self._asked = -float("inf")

    def queued(self) -> set[str] | None:
        """Ids of this user's jobs that wait or run, array tasks as 12_3; None while squeue does not answer.

        RuntimeError when it has not for a quarter of an hour: the jobs go on, and the next call finds them.
        """
        if time.monotonic() - self._asked > SQUEUE_SECONDS:
            command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--user={getpass.getuser()}"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            self._queue = None  # a controller that is busy for a moment does not end our jobs
            self._asked = time.monotonic()
            if answer.returncode == 0:
                states = [line.split() for line in answer.stdout.splitlines() if line.strip()]
                ended = (
                    "COMPLETED",
                    "FAILED",
                    "CANCELLED",
                    "TIMEOUT",
                    "OUT_OF_MEMORY",
                    "NODE_FAIL",
                    "BOOT_FAIL",
                )
                self._queue = {job for job, state in states if state not in ended}
                self._answered = self._asked
            elif self._asked - self._answered > SILENT_SECONDS:
                raise RuntimeError(
                    f"squeue has not answered for {SILENT_SECONDS // 60} minutes: {answer.stderr.strip()}; "
                    "jobs go on, and the same command finds them again"
                )
        return self._queue

    def close(self) -> None:
        """Nothing to stop: jobs go on, and the next call finds them (scancel ends them)."""
        self.flush()


class _SlurmJob:
    def __init__(self, engine: Slurm, token: str | None = None):
        self._engine, self.token, self.job = engine, token, None
        self._left: float | None = None

    def done(self) -> bool:
        self._engine.flush()
        if self.job is not None and self.job.paths.result_pickle.exists():
            return True
        queue = self._engine.queued()
        if queue is None or self.token in queue:
            self._left = None  # a fresh job may be listed late
            return False
        self._left = self._left or time.monotonic()
        return time.monotonic() - self._left > SETTLE_SECONDS

    def result(self) -> Any:
        if self.job is not None and self.job.paths.result_pickle.exists():
            return self.job.result()
        where = f"; its log: {self.job.paths.stderr}" if self.job is not None else ""
        raise RuntimeError(
            f"Slurm job {self.token} left the queue without a result "
            f"(time limit, memory, node or scancel){where}"
        )


class Dask:
    """Cells on the workers of a running Dask cluster, by its scheduler's address. Needs the extra `dask`.

    Workers need the same package and disk; one thread each (`dask worker --nthreads 1`) shares memory
    kindly. A worker that dies in mid-cell has its cell run again elsewhere by the scheduler. No more cells
    are sent than there are threads: the scheduler would queue short ones behind a long one.
    """

    def __init__(self, scheduler: str | None):
        distributed = _optional("distributed", "dask")
        if not scheduler:
            raise ValueError(
                "--engine dask needs --scheduler, the address that `dask scheduler` printed (tcp://...)"
            )
        self._client = distributed.Client(scheduler, timeout="30s", set_as_default=False)
        self._waiting: list[_DaskJob] = []
        self._sent: list[_DaskJob] = []
        self._asked = -float("inf")

    def submit(self, fn: Callable, *args: Any) -> "_DaskJob":
        self._waiting.append(_DaskJob(self, fn, args))
        return self._waiting[-1]

    def feed(self) -> None:
        """Send waiting cells to threads that have none; asks for the number of threads once a second."""
        if not self._waiting or time.monotonic() - self._asked < 1:
            return
        self._asked = time.monotonic()
        self._sent = [job for job in self._sent if not job.future.done()]
        free = sum(self._client.nthreads().values()) - len(self._sent)
        for job in self._waiting[: max(0, free)]:
            job.future = self._client.submit(job.fn, *job.args, pure=False)  # pure: equal calls, one result
            self._sent.append(job)
        self._waiting = [job for job in self._waiting if job.future is None]

    def close(self) -> None:
        self._client.close()


class _DaskJob:
    def __init__(self, engine: Dask, fn: Callable, args: tuple):
        self._engine, self.fn, self.args, self.future = engine, fn, args, None

    def done(self) -> bool:
        self._engine.feed()
        return self.future is not None and self.future.done()

    def result(self) -> Any:
        return self.future.result()


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"the {extra} engine needs {module}, which is not installed: pip install 'chatvec_lab[{extra}]'"
        ) from error


def save_token(folder: Path, token: str) -> None:
    """Keep the id of a submitted job in its cell's folder, so that a later call finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps({"token": token}), "utf-8")


def saved_token(folder: Path) -> str | None:
    try:
        return json.loads((folder / "job.json").read_text("utf-8"))["token"]
    except (OSError, ValueError, KeyError):
        return None
