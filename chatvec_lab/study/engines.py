"""Where cells run. An engine is anything with `submit(fn, *args)` and `close()`.

`submit` returns a handle with `done()` and `result()`; `result()` raises what kept `fn` from returning.
The runner polls `done()` and knows nothing else, so another engine is one small class.
An engine whose jobs outlive the caller (Slurm) also has `attach(token)`, and its handles a `token`; one with a queue
has `news(tokens)`, lines for whoever waits. An error of `result()` may have `again`: whether to try the call once more.
What cells ask for (`study.asks`): an engine that divides up a machine (Local) has `fit(cells)`, called first; one that gives
each call its own share (Slurm) has `takes_asks`, and its `submit` a keyword `asks`.
"""

import contextlib
import json
import multiprocessing
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from chatvec_lab.cores import cores
from chatvec_lab.study import warm
from chatvec_lab.study.asks import divided
from chatvec_lab.study.cell import imported_papermill, kernel_environment
from chatvec_lab.study.slurm import Slurm
from chatvec_lab.study.task import THREAD_VARIABLES
from chatvec_lab.study.warm import kill_below

__all__ = ["Dask", "Local", "Slurm", "save_token", "saved_token", "visible_devices"]


class Local:
    """Worker processes on this machine that stay warm: each imports papermill once and takes cell after cell.

    workers: None takes one a GPU, or without GPUs one a core, 8 at most.
    devices: GPUs handed out to the workers in turn; None takes CUDA_VISIBLE_DEVICES or all that there are.
    Cores are shared out evenly as threads, unless OMP_NUM_THREADS is set already. Where cells ask for more of GPUs, cores
    or memory, there are fewer workers, each with as much; hours are not limited here.
    """

    def __init__(self, workers: int | None = None, *, devices: Sequence[str] | None = None):
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be 1 or more, got {workers}")
        self.devices = visible_devices() if devices is None else list(devices)
        self._wanted, self._all = workers, []
        self._sets: list[str] = []  # of devices, one a worker
        self._threads: ThreadPoolExecutor | None = None
        self._nursery: warm.Nursery | None = None
        self._lock = threading.Lock()
        self.workers = 0
        self.fit([])

    def fit(self, cells: Sequence[Any]) -> None:
        """Divide the machine up for what these cells ask for; ValueError where it has less. Nothing runs yet."""
        here = cores()
        workers, sets = divided(
            cells, devices=self.devices, cores=here, memory_gb=memory_here(), workers=self._wanted
        )
        if (workers, sets) == (self.workers, self._sets):
            return
        self.close()
        self.workers, self._sets = workers, sets
        self.threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, here // self.workers))
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all = []
        for i in range(self.workers):
            worker = _Worker(sets[i % len(sets)] if sets else None, self.threads, self._door)
            self._all.append(worker)
            self._idle.put(worker)
        # One thread a worker waits for it; each worker is its own pool, so a broken one harms no other cell.
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="chatvec-cell")

    def begin(self) -> None:
        """Get ready for cells while their plan is made: start what all kernels are forks of, which takes some 8 s."""
        with self._lock, contextlib.suppress(OSError):  # where there can be none, kernels start cold
            if self._nursery is None and not self.devices and not visible_devices():
                self._nursery = warm.Nursery(kernel_environment() | _threads(self.threads))

    def _door(self) -> socket.socket | None:
        self.begin()
        with contextlib.suppress(OSError):
            return self._nursery and self._nursery.door()

    def submit(self, fn: Callable, *args: Any) -> Future:
        return self._threads.submit(self._call, fn, *args)

    def describe(self, cells: Sequence[Any]) -> str:
        """What `--dry-run` shows: how many run together, and with what."""
        each = f"GPU {' | '.join(self._sets)} in turn" if self._sets else "no GPU"
        together = min(self.workers, len(cells))
        return (
            f"{together} of these {len(cells)} run together here, each with {self.threads} threads and {each}"
        )

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
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None


class _Worker:
    """One warm process, started at its first call and again after it was killed."""

    def __init__(self, device: str | None, threads: str, door: Callable[[], socket.socket | None]):
        self._start, self._door = (device, threads), door
        self._context = _Spawn()
        self._pool: ProcessPoolExecutor | None = None
        self._closed = False

    def call(self, fn: Callable, *args: Any) -> Any:
        if self._closed:
            raise RuntimeError("the engine is closed")
        try:
            if self._pool is None:
                door = self._door()
                self._pool = ProcessPoolExecutor(
                    1, mp_context=self._context, initializer=_warm_up, initargs=(*self._start, door)
                )
                started = self._started()
                if door is not None:
                    door.close()  # the worker has its own copy by now, whose end is the worker's
                if self._closed:  # meanwhile
                    self.kill()
                started.result()
            return self._pool.submit(fn, *args).result()
        except BrokenProcessPool:
            self._pool = None
            raise

    def _started(self) -> Future:
        """Start the process. Ctrl-C at a terminal reaches it too, and it is not for it to answer."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(os.getpid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kill(self) -> None:
        """Stop the process, also one that has not warmed up yet: on a busy machine that takes its time."""
        self._closed = True
        pool, process = self._pool, self._context.process
        if pool is not None and process is not None and process.pid is not None:
            kill_below(process.pid)
            process.kill()
            pool.shutdown(wait=True, cancel_futures=True)


class _Spawn(SpawnContext):
    """Fresh processes, of which it knows the last one as soon as there is one."""

    process: SpawnProcess | None = None

    def Process(self, *args: Any, **options: Any) -> SpawnProcess:
        self.process = SpawnProcess(*args, **options)
        return self.process


def _warm_up(device: str | None, threads: str, door: socket.socket | None) -> None:
    """What a new worker does once: take its device, threads and door, and import papermill (a second)."""
    signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which its kernels would inherit
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    os.environ.update(_threads(threads))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    warm.allow(door)
    imported_papermill()


def _threads(each: str) -> dict[str, str]:
    """How many threads libraries start, and that these do not wait in a loop; what is set already stays."""
    wanted = dict.fromkeys(THREAD_VARIABLES, each) | {"OMP_WAIT_POLICY": "PASSIVE"}
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def _leave_with_parent() -> None:
    """A worker must not outlive a killed study, or it would write into folders that the rerun uses."""
    multiprocessing.parent_process().join()
    kill_below(os.getpid())
    os._exit(1)


def memory_here() -> float:
    """The memory of this machine in GB (2**30 bytes), as the words of a study count."""
    import psutil

    return psutil.virtual_memory().total / 2**30


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


class Dask:
    """Cells on the workers of a running Dask cluster, by its scheduler's address. Needs the extra `dask`.

    Workers need the same package and disk; one thread each (`dask worker --nthreads 1`) shares memory
    kindly. A worker that dies in mid-cell has its cell run again elsewhere by the scheduler. No more cells
    are sent than there are threads: the scheduler would queue short ones behind a long one.
    This opens no port. A scheduler and workers do, and whoever reaches them can run code as you: on one machine give both
    `--host 127.0.0.1 --dashboard-address 127.0.0.1:0`; without the latter a worker's page listens everywhere.
    """

    def __init__(self, scheduler: str | None):
        try:
            import distributed
        except ImportError as error:
            raise ImportError(
                "the dask engine needs distributed, which is not installed: pip install 'chatvec_lab[dask]'"
            ) from error
        if not scheduler:
            raise ValueError(
                "--engine dask needs --scheduler, the address that `dask scheduler` printed (tcp://...)"
            )
        try:
            self._client = distributed.Client(scheduler, timeout="30s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--scheduler {scheduler}: no Dask scheduler answers there ({error or type(error).__name__})"
            ) from error
        self._waiting: list[_DaskJob] = []
        self._sent: list[_DaskJob] = []
        self._asked = -float("inf")

    def describe(self, cells: Sequence[Any]) -> str:
        """What `--dry-run` shows: how many run together."""
        threads = self._client.nthreads()
        asked = sorted({name for cell in cells for name in cell.asks})
        left = f"; what cells ask for ({', '.join(asked)}) is theirs to have" if asked else ""
        together = min(sum(threads.values()), len(cells))
        return f"{together} of these {len(cells)} run together on {len(threads)} workers of Dask{left}"

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


def save_token(folder: Path, token: str) -> None:
    """Keep the id of a submitted job in its cell's folder, so that a later call finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps({"token": token}), "utf-8")


def saved_token(folder: Path) -> str | None:
    try:
        return json.loads((folder / "job.json").read_text("utf-8"))["token"]
    except (OSError, ValueError, KeyError):
        return None
