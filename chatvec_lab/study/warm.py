"""Kernels that start warm: a nursery imports the libraries once, and each kernel of a study is a fork of it.

A third of a small cell's time is imports (torch and transformers alone take four seconds). A fork has them already, and
shares their memory. It is a process of its own like any kernel: its session, its environment, its log, its random numbers.
The nursery imports libraries and reads which module imports which, but runs nothing: no thread and no device is open
when it forks. All workers of a machine share it: each asks through a door of its own. When a door closes, since its
worker ended, its kernels end; when the nursery's owner does, all of them and the nursery.

    python -m chatvec_lab.study.warm SOCKET LIBRARY ...       # what an engine starts
"""

import atexit
import contextlib
import functools
import gc
import io
import json
import os
import pkgutil
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatvec_lab.study import fingerprint, modules

LIBRARIES = ("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.debugger", "matplotlib.pyplot",
             "matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg",
             "seaborn", "pandas", "pyarrow.parquet", "tabulate", "scipy.stats", "httpx", "babel.dates", "numba",
             "tokenizers", "sentencepiece", "torch", "torch._dynamo", "accelerate", "transformers.generation.utils",
             "transformers.core_model_loading", "transformers.models.auto.modeling_auto",
             "transformers.models.llama.modeling_llama")  # fmt: skip
LARGEST = 1 << 17  # bytes of a request, most of it the environment
# A notebook that sets what libraries read when they are imported, or runs commands that may install some, starts cold.
_COLD = re.compile(r"\b(environ|putenv|setenv)\b|^\s*[!%]", re.MULTILINE)


class Nursery:
    """The process that kernels are forks of, for its owner: an engine.

    Not for processes with a GPU: its driver does not survive a fork, and a library may open it when it is imported.
    Raises OSError where the system cannot (it is not Linux, or an old one); kernels start cold there.
    """

    def __init__(self, environment: Mapping[str, str], libraries: Sequence[str] = LIBRARIES):
        try:
            os.close(os.pidfd_open(os.getpid()))
        except AttributeError as error:
            raise OSError("this system cannot hold a process by a file") from error
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", __name__, str(theirs.fileno()), *libraries]
        quiet = {"stdin": subprocess.DEVNULL, "start_new_session": True}  # Ctrl-C is not for it to answer
        with theirs:
            self.process = subprocess.Popen(
                command, env=dict(environment), pass_fds=[theirs.fileno()], **quiet
            )

    def door(self) -> socket.socket:
        """A door for a worker, who gives it to `allow`; raises OSError when the nursery is gone."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._socket, [b"door"], [theirs.fileno()])
        return ours

    def close(self) -> None:
        """End it and all its kernels."""
        ready, *_ = select.select([self._socket], [], [], 0)
        if not ready:  # still at its imports, which nothing needs any more
            self.process.kill()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # also where a fork of this process has it too
        self._socket.close()
        self.process.wait()


class Kernel:
    """As much of `subprocess.Popen` as Jupyter asks of a kernel that is another process's child."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid, self.returncode = pid, None
        try:
            self._open: int | None = os.pidfd_open(pid)
        except ProcessLookupError:  # ended already
            self._open, self.returncode = None, 1

    def poll(self) -> int | None:
        """None while it runs; then 1, as how it ended is not told here."""
        if self._open is not None and select.select([self._open], [], [], 0)[0]:
            os.close(self._open)
            self._open, self.returncode = None, 1
        return self.returncode

    def wait(self) -> int | None:
        if self._open is not None:
            select.select([self._open], [], [])
        return self.poll()

    def send_signal(self, number: int) -> None:
        if self._open is not None:
            signal.pidfd_send_signal(self._open, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class _Here:
    """The door through which this process's kernels come, if any."""

    door: socket.socket | None = None
    is_open = False  # the nursery is ready


def allow(door: socket.socket | None) -> None:
    """Let this process's kernels come through a nursery's door; None ends those that did, and later ones start cold."""
    if _Here.door is not None:
        _Here.door.close()
    if door is not None:
        door.set_inheritable(False)  # in a child's hands it would stay open when this process is killed
    _Here.door, _Here.is_open = door, False


def _asked(command: list[str], environment: Mapping[str, str], cwd: str | None, log: int) -> Kernel:
    """A kernel that writes to the open file `log`; raises OSError when the nursery is gone."""
    asked = {"argv": command, "environment": dict(environment), "cwd": str(cwd or os.getcwd())}
    socket.send_fds(_Here.door, [json.dumps(asked).encode()], [log])
    return Kernel(int(_told()))


def _told() -> bytes:
    if not (told := _Here.door.recv(32)):
        raise BrokenPipeError("the nursery of kernels has ended")
    return told


def is_for(sources: Iterable[str]) -> bool:
    """Whether a notebook of these code cells starts warm here: it imports torch, and nothing forbids it."""
    sources = list(sources)
    if _Here.door is None or any(_COLD.search(source) for source in sources):
        return False
    return "torch" in modules.libraries(sources)


def provisioner(manager: Any) -> Any:
    """What starts a kernel manager's kernels as forks of the nursery, and cold ones should that be gone."""
    from jupyter_client.provisioning import LocalProvisioner

    try:  # the first that is heard through a door is that the nursery is ready
        _Here.is_open = _Here.is_open or bool(_told())
    except OSError:
        allow(None)

    class Warm(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
            if _Here.door is None or cmd[:3] != [sys.executable, "-m", "ipykernel_launcher"]:
                return await super().launch_kernel(cmd, **options)
            try:
                log, cwd = options["stdout"], options.get("cwd")
                self.process = _asked(cmd[2:], options["env"], cwd, log)
            except OSError:  # it is gone, or the environment is too large for a message
                allow(None)
                return await super().launch_kernel(cmd, **options)
            self.pid = self.pgid = self.process.pid  # it leads a session
            self.cwd = cwd or Path.cwd()
            return self.connection_info

    return Warm(kernel_id=manager.kernel_id, kernel_spec=manager.kernel_spec, parent=manager)


def main(number: str, *libraries: str) -> None:
    """The nursery: get ready, then fork a kernel for each request until its owner is gone."""
    if sys.path[0] == "" or Path(sys.path[0]) == Path.cwd():  # of -m; a kernel adds it itself
        del sys.path[0]
    owner = socket.socket(fileno=int(number))
    owner.set_inheritable(False)
    os.environ["JPY_PARENT_PID"] = str(
        os.getpid()
    )  # read when ipykernel is imported: a kernel ends with its parent
    # read when matplotlib is imported; the backend itself looks for its shell when it is, so it is left to each kernel
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    gc.disable()  # nothing that is imported is garbage, and to look for some takes a fifth of the time
    for name in libraries:
        with contextlib.suppress(ImportError):  # an extra that is not there
            pkgutil.resolve_name(name)
    modules.digest(fingerprint.DECIDES)  # read once for all kernels
    gc.freeze()  # what is shared stays shared
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a kernel ended
    with contextlib.suppress(OSError):  # its owner was killed meanwhile, and below it ends
        owner.send(b"ready")
    doors: dict[socket.socket, list[Kernel]] = {}
    while True:
        for asking in select.select([owner, *doors], [], [])[0]:
            request, files = _next(asking)
            if asking is owner and not request:
                _end(kernel for kernels in doors.values() for kernel in kernels)
                os._exit(0)  # libraries have much to say when they are unloaded
            elif asking is owner:
                door = socket.socket(fileno=files[0])
                with contextlib.suppress(OSError):  # its worker ended at once
                    door.send(b"ready")
                doors[door] = []
            elif not request:
                _end(doors.pop(asking))
                asking.close()
            elif not (pid := os.fork()):
                for held in (owner, *doors):
                    held.close()
                return _become(json.loads(request), files[0])
            else:
                os.close(files[0])
                doors[asking] = [kernel for kernel in doors[asking] if kernel.poll() is None] + [Kernel(pid)]
                with contextlib.suppress(OSError):
                    asking.send(str(pid).encode())


def _next(asking: socket.socket) -> tuple[bytes, list[int]]:
    """What is asked, and the files that came along; nothing where the other end is closed."""
    try:
        return socket.recv_fds(asking, LARGEST, 1)[:2]
    except ConnectionResetError:  # it left before it had read all
        return b"", []


def _end(kernels: Iterable[Kernel]) -> None:
    """Kill these kernels, and what their notebooks started."""
    for kernel in kernels:
        if kernel.poll() is None:
            kill_below(kernel.pid)
            kernel.kill()


def kill_below(pid: int) -> None:
    """Kill a process's children and theirs: a worker's cold kernel, what a notebook started."""
    import psutil  # comes with ipykernel

    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _become(asked: dict[str, Any], log: int) -> None:
    """Be the kernel that was asked for."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(asked["cwd"])
    parent = os.environ["JPY_PARENT_PID"]
    os.environ.clear()
    os.environ.update(asked["environment"] | {"JPY_PARENT_PID": parent})
    if "numpy" in sys.modules:  # `random` does so by itself
        sys.modules["numpy"].random.seed()
    sys.argv = asked["argv"]
    try:
        runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # one that could not start waits at Python's end for sockets that nobody closes
        traceback.print_exc()
        os._exit(1)
    _finish()
    os._exit(status)  # what Python takes apart at its end takes half a second with these libraries


def _finish() -> None:
    """What of Python's own end a notebook can see: its threads end, `atexit` runs, what it wrote to open files is there."""
    threading._shutdown()
    atexit._run_exitfuncs()
    gc.collect()  # closes files that only a cycle holds
    is_file = functools.cache(lambda kind: issubclass(kind, io.IOBase))
    for thing in (sys.stdout, sys.stderr, *gc.get_objects()):  # those since the fork: the others are frozen
        if is_file(type(thing)):
            with contextlib.suppress(Exception):
                thing.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
