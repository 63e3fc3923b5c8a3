"""Kernels that start warm: a worker's nursery imports the libraries once, and each kernel is a fork of it.

A third of a small cell's time is imports (torch and transformers alone take four seconds). A fork has them already, and
shares their memory. It is a process of its own like any kernel: its session, its environment, its log, its random numbers.
The nursery imports libraries and reads which module imports which, but runs nothing: no thread and no device is open
when it forks. It ends with its worker, and its kernels with it.

    python -m chatvec_lab.study.warm SOCKET LIBRARY ...       # what a worker starts
"""

import contextlib
import gc
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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatvec_lab.study import modules

LIBRARIES = ("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "matplotlib.pyplot",
             "seaborn", "pandas", "pyarrow.parquet", "scipy.stats", "numba", "tokenizers", "torch",
             "torch._dynamo", "accelerate", "transformers.generation.utils", "transformers.core_model_loading",
             "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama")  # fmt: skip
LARGEST = 1 << 17  # bytes of a request, most of it the environment
# A notebook that sets what libraries read when they are imported, or runs commands that may install some, starts cold.
_COLD = re.compile(r"\b(environ|putenv|setenv)\b|^\s*[!%]", re.MULTILINE)


class Nursery:
    """The process that this one's kernels are forks of."""

    def __init__(self, environment: Mapping[str, str], libraries: Sequence[str] = LIBRARIES):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", __name__, str(theirs.fileno()), *libraries]
        quiet = {"stdin": subprocess.DEVNULL, "start_new_session": True}  # Ctrl-C is not for it to answer
        with theirs:
            self.process = subprocess.Popen(
                command, env=dict(environment), pass_fds=[theirs.fileno()], **quiet
            )
        self._socket, self._is_ready = ours, False

    def wait(self) -> None:
        """Return when it is ready; raises OSError when it ended before."""
        if not self._is_ready and not self._socket.recv(32):
            raise BrokenPipeError("the nursery of kernels has ended")
        self._is_ready = True

    def kernel(
        self, command: list[str], environment: Mapping[str, str], cwd: str | None, log: int
    ) -> "Kernel":
        """A kernel that writes to the open file `log`; raises OSError when the nursery is gone."""
        asked = {"argv": command, "environment": dict(environment), "cwd": str(cwd or os.getcwd())}
        socket.send_fds(self._socket, [json.dumps(asked).encode()], [log])
        if not (pid := self._socket.recv(32)):
            raise BrokenPipeError("the nursery of kernels has ended")
        return Kernel(int(pid))

    def close(self) -> None:
        """End it and its kernels."""
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
    """Whether this process may have a nursery, and the one that it has."""

    environment: Mapping[str, str] | None = None
    nursery: Nursery | None = None


def allow(environment: Mapping[str, str] | None) -> None:
    """Let this process's kernels start warm, in this environment; None takes that and the nursery away.

    Not for processes with a GPU: its driver does not survive a fork, and a library may open it when it is imported.
    Where the system cannot (it is not Linux, or an old one), kernels start cold as ever.
    """
    if _Here.nursery is not None:
        _Here.nursery.close()
    _Here.environment = _Here.nursery = None
    with contextlib.suppress(OSError, AttributeError):
        os.close(os.pidfd_open(os.getpid()))
        _Here.environment = environment


def is_for(sources: Iterable[str]) -> bool:
    """Whether a notebook of these code cells starts warm here: it imports torch, and nothing forbids it."""
    sources = list(sources)
    if _Here.environment is None or any(_COLD.search(source) for source in sources):
        return False
    return "torch" in modules.libraries(sources)


def provisioner(manager: Any) -> Any:
    """What starts a kernel manager's kernels as forks of the nursery, and cold ones should that be gone."""
    from jupyter_client.provisioning import LocalProvisioner

    try:  # before the kernel's ports are chosen: others may take them while the nursery gets ready
        _Here.nursery = _Here.nursery or Nursery(_Here.environment)
        _Here.nursery.wait()
    except OSError:
        _Here.environment = _Here.nursery = None

    class Warm(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
            nursery, is_ours = _Here.nursery, cmd[:3] == [sys.executable, "-m", "ipykernel_launcher"]
            if nursery is None or not is_ours:
                return await super().launch_kernel(cmd, **options)
            try:
                log, cwd = options["stdout"], options.get("cwd")
                self.process = nursery.kernel(cmd[2:], options["env"], cwd, log)
            except OSError:  # it is gone, or the environment is too large for a message
                _Here.environment = _Here.nursery = None
                return await super().launch_kernel(cmd, **options)
            self.pid = self.pgid = self.process.pid  # it leads a session
            self.cwd = cwd or Path.cwd()
            return self.connection_info

    return Warm(kernel_id=manager.kernel_id, kernel_spec=manager.kernel_spec, parent=manager)


def main(number: str, *libraries: str) -> None:
    """The nursery: get ready, then fork a kernel for each request until the worker is gone."""
    if sys.path[0] == "" or Path(sys.path[0]) == Path.cwd():  # of -m; a kernel adds it itself
        del sys.path[0]
    requests = socket.socket(fileno=int(number))
    requests.set_inheritable(False)
    os.environ["JPY_PARENT_PID"] = str(
        os.getpid()
    )  # read when ipykernel is imported: a kernel ends with its parent
    # read when matplotlib is imported; the backend itself looks for its shell when it is, so it is left to each kernel
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    for name in libraries:
        with contextlib.suppress(ImportError):  # an extra that is not there
            pkgutil.resolve_name(name)
    modules.digest(["import_module(any)"])  # all modules are read, once for all kernels
    gc.freeze()  # what is shared stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a kernel ended
    requests.send(b"ready")
    while True:
        request, files, *_ = socket.recv_fds(requests, LARGEST, 1)
        if not request:
            os._exit(0)  # libraries have much to say when they are unloaded
        if not (pid := os.fork()):
            requests.close()
            return _become(json.loads(request), files[0])
        os.close(files[0])
        requests.send(str(pid).encode())


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
    runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
