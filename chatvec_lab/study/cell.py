"""Run one cell: a notebook through papermill, in a process that may run many, with a record as its result.

`run.json` is written last and atomically, and it alone says whether a cell is done: a notebook whose
kernel was killed looks finished in its own metadata.
"""

import contextlib
import errno
import fcntl
import functools
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from chatvec_lab import secrets
from chatvec_lab.secrets.files import redact_files
from chatvec_lab.study import fingerprint, warm
from chatvec_lab.study.parameters import cells_of
from chatvec_lab.study.results import write_record

STARTING = 600  # seconds after which a kernel that starts listens, or never will
SOCKETS = "chatvec-kernel-"  # how folders of sockets begin
PATIENCE = 60  # seconds to wait for the kernel of an earlier, killed attempt; it stops within about 3
VERSIONS = ("chatvec_lab", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pandas", "scipy")
VERSIONS += ("matplotlib", "seaborn", "papermill", "ipykernel")
# Headless runs want no bars; a fixed hash seed gives sets of text one order, so that results repeat. Up to 256 MB that a
# batch of replies frees are kept for the next: giving each back to the system took a sixth of a small model's time. And it
# lies on large pages, where the system has them: a batch's keys and values are too many small ones to look up.
KERNEL_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONHASHSEED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # of glibc
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
NAMES = ".secrets"  # a cell's file in which its kernel tells of its keys; see `secrets.environment`
WATCH = "__import__('chatvec_lab.secrets').secrets.watch()"  # before the first code cell


def run_cell(job: dict[str, Any]) -> dict[str, Any]:
    """Run the cell that `job` describes (see `runner.job`) and return its record, which is also `run.json`.

    Never raises for what happens in the notebook: `status` is done, failed (a code cell raised) or killed
    (its kernel died), and `error` then has name, value, the code cell's number and the line.
    """
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    started, clock = time.time(), time.monotonic()  # a clock may be set back meanwhile
    with (folder / "run.log").open("a", encoding="utf-8") as log:
        try:
            _hold(log, folder)
            _clear(folder)
            _only_mine(folder, True)  # until `redact`, what is in it may hold secrets
            log.truncate(0)
            error = _source_changed(job) or _execute(job, folder, log) or _source_changed(job)
        except Exception as problem:  # the record must be written whatever happened
            error = _error(type(problem).__name__, str(problem))
        if error:
            print(f"\n{error['name']}: {error['value']}\n" + "\n".join(error.pop("traceback")), file=log)
        log.flush()
        hidden = redact(folder)
        record = {
            "status": error["status"] if error else "done",
            **({"hidden": hidden} if hidden else {}),
            "error": error,
            **{
                name: job[name]
                for name in ("notebook", "key", "parameters", "needs", "inputs", "code", "imports")
            },
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
            "seconds": round(time.monotonic() - clock, 2),
            "attempt": job["attempt"],
            "host": platform.node(),
            "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "git": job["git"],
            "versions": versions(),
        }
        record = secrets.redacted(record)
        write_record(folder, record)
    return record


def _source_changed(job: dict[str, Any]) -> dict[str, Any] | None:
    """An edited package would give a result that belongs to no key."""
    if fingerprint.stamp() == job.get("stamp"):
        return None
    if fingerprint.imports(cells_of(job["source"], job["notebook"])) == job["imports"]:
        return None
    return _error("RuntimeError", "the source of chatvec_lab changed since this study started; run it again")


def _execute(job: dict[str, Any], folder: Path, log: Any) -> dict[str, Any] | None:
    """Execute the notebook into `folder`; None when every code cell ran, or what went wrong."""
    import logging

    papermill = imported_papermill()
    import nbformat
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it would say is in the record
    notebook = nbformat.reads(_complete(job["source"]), as_version=4)
    target = folder / "notebook.ipynb"
    try:
        with _place_of_sockets() as place:
            executed = papermill.execute_notebook(
                notebook,
                str(target).replace("{", "{{").replace("}", "}}"),  # papermill formats paths
                parameters=job["parameters"] | job["folders"] | {"out_dir": str(folder)},
                kernel_name="python3",
                progress_bar=False,
                stdout_file=log,
                stderr_file=log,
                start_timeout=300,  # a first import over a busy network disk takes its time
                kernel_manager_class=_kernel_manager(log, folder, notebook),
                config=Config({"KernelManager": _transport(place)}),
            )
    except papermill.PapermillExecutionError as error:
        return _located(error)
    except RuntimeError as error:
        if not isinstance(error, DeadKernelError):  # it did not start, say for want of memory or ports
            return _error("RuntimeError", str(error), status="killed")
        number, source = _last_started(target)
        value = "the kernel died: out of memory, or a crash; its log may say more"
        return _error("DeadKernelError", value, cell=number, line=source, status="killed")
    for number, cell in enumerate((c for c in executed.cells if c.cell_type == "code"), start=1):
        if cell.source.strip() and cell.execution_count is None:  # papermill calls sys.exit(0) a success
            return _error("SystemExit", f"the notebook stopped before code cell {number}", cell=number)
    return None


def _place_of_sockets() -> tempfile.TemporaryDirectory:
    """A folder of this user alone for a kernel's sockets, whose paths may have some hundred characters at most."""
    place = tempfile.gettempdir()
    place = place if len(os.fsencode(place)) < 70 else "/tmp"
    _sweep(Path(place))
    return tempfile.TemporaryDirectory(prefix=SOCKETS, dir=place, ignore_cleanup_errors=True)


def _transport(place: str) -> dict[str, str]:
    """How a kernel is spoken to: by sockets in this folder, or by TCP where the folder's disk has none.

    A TCP port that was free may be another's by the time that the kernel takes it.
    """
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(f"{place}/probe")
        os.unlink(f"{place}/probe")
    except OSError:
        return {"transport_encryption": "auto"}  # without which ipykernel warns at every start
    return {"transport": "ipc", "ip": f"{place}/kernel"}


def _sweep(place: Path) -> None:
    """Take away the sockets of kernels that ended with their workers, killed: nobody listens on them any more."""
    for folder in place.glob(f"{SOCKETS}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < STARTING:
                continue
            for path in filter(Path.is_socket, folder.glob("kernel-*")):
                with socket.socket(socket.AF_UNIX) as asking:
                    asking.setblocking(False)  # a kernel that is stopped does not answer
                    if asking.connect_ex(str(path)) == errno.ECONNREFUSED:
                        path.unlink()
            folder.rmdir()  # where nothing else is in it


def imported_papermill() -> Any:
    """papermill, without a grammar of international addresses that jsonschema would take a second to compile."""
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill

    return papermill


def _complete(source: str) -> str:
    """A notebook's text as papermill wants it: what other writers leave out, and nothing that they add; the kernel is ours."""
    content = json.loads(source)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells: list[dict[str, Any]] = []
    for number, cell in enumerate(cells_of(source, "the notebook")):
        ids = {made["id"] for made in cells}
        own = str(cell.get("id"))
        named = own if re.fullmatch(r"[\w-]{1,64}", own, re.ASCII) and own not in ids else f"cell-{number}"
        made = {"id": named, **{name: cell[name] for name in ("cell_type", "metadata", "source")}}
        if cell["cell_type"] == "code":
            made |= {"outputs": [], "execution_count": None}
        elif isinstance(cell.get("attachments"), dict):
            made["attachments"] = cell["attachments"]
        cells.append(made)
    metadata = {**(content.get("metadata") or {}), "kernelspec": kernel}
    metadata.pop("language_info", None)  # the kernel says it anew
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def kernel_environment() -> dict[str, str]:
    """The environment of every kernel: this process's, what headless runs want, and the package that this one imported."""
    own = {name: os.environ.get(name, value) for name, value in KERNEL_ENVIRONMENT.items()}
    here = str(fingerprint.PACKAGE.parent)
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return {**os.environ, **own, "PYTHONPATH": path}


def _kernel_manager(log: Any, folder: Path, notebook: Any) -> type:
    """A kernel manager whose kernels write to `log`; they start warm where the notebook and the worker allow it.

    Inheriting the log's file, the kernel also inherits its lock: see `_hold`.
    """
    from jupyter_client import AsyncKernelClient, AsyncKernelManager
    from traitlets import Type

    class Client(AsyncKernelClient):
        async def wait_for_ready(self, timeout: float | None = None) -> None:
            """As theirs, without a fifth of a second for what the kernel might still say of its start."""
            channel, heard = self.iopub_channel, []
            get_msg = channel.get_msg

            async def soon(timeout: float | None = None) -> Any:
                heard.append(await get_msg(timeout=0.01 if heard else timeout))
                return heard[-1]

            channel.get_msg = soon
            try:
                await super().wait_for_ready(timeout)
            finally:
                channel.get_msg = get_msg

    environment = kernel_environment() | {secrets.NAMES_FILE: str(folder / NAMES)}
    is_warm = warm.is_for(cell.source for cell in notebook.cells if cell.cell_type == "code")

    class Manager(AsyncKernelManager):
        client_factory = Type(Client)

        async def start_kernel(self, **options: Any) -> None:
            streams = {"stdout": log.fileno(), "stderr": log.fileno(), "env": environment}
            more = [*options.pop("extra_arguments", []), f"--IPKernelApp.exec_lines={WATCH}"]
            if is_warm and self.provisioner is None:
                self.kernel_id = self.kernel_id or str(uuid.uuid4())
                self.provisioner = warm.provisioner(self)
            await super().start_kernel(**streams, extra_arguments=more, **options)

    return Manager


def _hold(log: Any, folder: Path) -> None:
    """Lock the cell until this process and its kernel are gone, waiting for those of a killed attempt.

    A flock belongs to the open file, so the kernel that inherits it keeps it when its worker is killed.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"another run of this cell is still at work in {folder}") from None
            time.sleep(0.1)
        except OSError:  # a disk without locks; the study's own lock has to do
            return None


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name in ("run.log", "job.json"):
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _located(problem: Any) -> dict[str, Any]:
    """The record of a code cell that raised, with the line of that code cell."""
    trace = [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in problem.traceback]
    # IPython's frames in a notebook read "Cell In[3], line 2"; the last of this code cell is where it was.
    lines = re.findall(rf"Cell In\[{problem.exec_count}\], line (\d+)", "\n".join(trace))
    source = problem.source.splitlines()
    line = source[int(lines[-1]) - 1].strip() if lines and int(lines[-1]) <= len(source) else ""
    return _error(problem.ename, problem.evalue, cell=problem.exec_count, line=line, traceback=trace)


def _error(
    name: str,
    value: str,
    *,
    cell: int | None = None,
    line: str = "",
    status: str = "failed",
    traceback: list[str] | None = None,
) -> dict[str, Any]:
    return {
        "status": status,
        "name": name,
        "value": value,
        "cell": cell,
        "line": line,
        "traceback": traceback or [],
    }


def _last_started(notebook: Path) -> tuple[int | None, str]:
    """Number and first line of the last code cell that papermill started, from the notebook it saved."""
    number, source = None, ""
    with contextlib.suppress(OSError, ValueError):
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        for count, cell in enumerate((c for c in cells if c["cell_type"] == "code"), start=1):
            if cell["metadata"].get("papermill", {}).get("start_time"):
                number, source = count, "".join(cell["source"]).strip().partition("\n")[0]
    return number, source


def redact(folder: Path) -> list[str]:
    """Hide the secrets in all that a cell has left, and open its folder again; the names of what was found."""
    secrets.take_told(folder / NAMES)
    found = redact_files(folder)
    _only_mine(folder, False)
    return found


def _only_mine(folder: Path, closed: bool) -> None:
    """Close a folder to all others, or give it the mode that the umask gives to a new one."""
    mask = os.umask(0o077)
    os.umask(mask)
    with contextlib.suppress(PermissionError):  # a disk without modes
        folder.chmod(folder.stat().st_mode & 0o7000 | (0o700 if closed else 0o777 & ~mask))


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results may depend on; one that is missing is left out."""
    found = {"python": platform.python_version(), "platform": f"{sys.platform} {platform.machine()}"}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
