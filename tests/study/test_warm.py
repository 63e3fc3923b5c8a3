"""Kernels that are forks: processes of their own in all that a notebook can see, but for the imports that are done."""

import json
import os
import pathlib
import select
import shutil
import signal
import socket
import tempfile
import time

import pytest

from chatvec_lab.study import cell, fingerprint, warm
from chatvec_lab.study.parameters import cells_of

transport = cell._transport
USES_TORCH = "if False:\n    import torch\n"
TELL = """
import sys
was_there = "numpy" in sys.modules
import json, os, random
import numpy
from pathlib import Path
print("told in the log", flush=True)
told = {"was_there": was_there, "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0),
        "numbers": [numpy.random.rand(), random.random()], "names": os.getenv("CHATVEC_TEST"), "hash": hash("text"),
        "main": __name__, "cwd": os.getcwd()}
Path(out_dir, "told.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def nursery():
    nursery = warm.Nursery(cell.kernel_environment(), ("ipykernel.kernelapp", "numpy", "no_such_library"))
    yield nursery
    nursery.close()


@pytest.fixture
def door(nursery):
    """As a worker has it."""
    warm.allow(nursery.door())
    yield
    warm.allow(None)


def run(folder, *code):
    """The record of a cell that runs this code, and what it told."""
    given = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "out_dir: str = ''"}
    cells = [given, *({"cell_type": "code", "metadata": {}, "source": text} for text in code)]
    source = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})
    job = {"notebook": "n", "source": source, "folder": str(folder / "out"), "parameters": {}, "folders": {}, "needs": {},
           "inputs": {}, "key": "k", "code": "c", "attempt": 1, "git": None,
           "imports": fingerprint.imports(cells_of(source, "n"))}  # fmt: skip
    record, told = cell.run_cell(job), folder / "out/told.json"
    return record, json.loads(told.read_text()) if told.is_file() else None


def test_a_warm_kernel_is_a_process_of_its_own(nursery, door, tmp_path, monkeypatch):
    monkeypatch.setenv("CHATVEC_TEST", "set after the nursery began")
    (first, one), (second, two) = (run(tmp_path / name, USES_TORCH, TELL) for name in "ab")
    assert first["status"] == second["status"] == "done", (first["error"], second["error"])
    assert one["was_there"] and one["parent"] == two["parent"] == nursery.process.pid
    assert one["pid"] == one["session"] != two["pid"] == two["session"]
    assert one["numbers"][0] != two["numbers"][0] and one["numbers"][1] != two["numbers"][1]
    assert one["hash"] == two["hash"] and one["main"] == "__main__" and one["cwd"] == os.getcwd()
    assert one["names"] == "set after the nursery began"
    assert "told in the log" in (tmp_path / "a/out/run.log").read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(one["pid"], 0)  # ended, and nobody's zombie


def test_a_kernel_that_dies_costs_its_cell_alone(door, tmp_path):
    record, _ = run(tmp_path / "a", USES_TORCH, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert record["status"] == "killed" and record["error"]["name"] == "DeadKernelError"
    record, told = run(tmp_path / "b", USES_TORCH, TELL)
    assert record["status"] == "done" and told["was_there"]


@pytest.mark.parametrize("is_warm", [True, False])
def test_a_kernel_takes_no_port_that_another_process_may_take_first(door, tmp_path, is_warm):
    if not is_warm:
        warm.allow(None)
    tell = (
        "from ipykernel.connect import get_connection_info\n"
        "from pathlib import Path\n"
        "about = get_connection_info(unpack=True)\n"
        "told = {name: about[name] for name in ('ip', 'transport')}\n"
        "Path(out_dir, 'told.json').write_text(json.dumps(told))"
    )
    record, told = run(tmp_path, USES_TORCH, "import json", tell)
    assert record["status"] == "done", record["error"]
    place = pathlib.Path(told["ip"]).parent
    assert told["transport"] == "ipc"
    assert not place.exists(), "its sockets went with it"


def test_what_killed_kernels_left_is_swept_away_and_nothing_else(tmp_path, monkeypatch):
    place = pathlib.Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path is short
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    listening = []
    for name in ("ended", "listens", "starts", "kept"):
        (place / f"chatvec-kernel-{name}").mkdir()
        listening.append(socket.socket(socket.AF_UNIX))
        listening[-1].bind(str(place / f"chatvec-kernel-{name}" / "kernel-1"))
        listening[-1].listen()
        if name != "listens":
            listening[-1].close()
    (place / "chatvec-kernel-kept" / "kernel-2").write_text("no socket")
    (place / "chatvec-kernel-empty").mkdir()
    (place / "chatvec-kernel-file").write_text("no folder")
    for path in place.iterdir():
        if path.name != "chatvec-kernel-starts":
            os.utime(path, (0, time.time() - cell.STARTING - 1))
    try:
        with cell._place_of_sockets() as own:
            names = {path.relative_to(place).as_posix() for path in place.rglob("*")}
        found = {name.removeprefix("chatvec-kernel-") for name in names - {pathlib.Path(own).name}}
        kept = {"listens", "listens/kernel-1", "starts", "starts/kernel-1", "kept", "kept/kernel-2", "file"}
        assert found == kept
    finally:
        listening[1].close()
        shutil.rmtree(place)


def test_where_a_disk_has_no_sockets_kernels_take_ports():
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # a socket's path is short
        assert cell._transport(place) == {"transport": "ipc", "ip": f"{place}/kernel"}
        assert not os.listdir(place)
    assert "transport" not in cell._transport("/proc"), "which holds none"


@pytest.mark.parametrize("is_warm", [True, False])
def test_a_kernel_that_takes_ports_runs_too(door, tmp_path, monkeypatch, is_warm):
    monkeypatch.setattr(cell, "_transport", lambda place: transport("/proc"))
    if not is_warm:
        warm.allow(None)
    record, _ = run(tmp_path, USES_TORCH, TELL)
    assert record["status"] == "done", record["error"]


def test_a_kernel_that_cannot_start_ends_at_once(door, tmp_path):
    """ipykernel waits at Python's end for sockets that it did not close."""
    assert warm._told() == b"ready"
    ports = {
        f"{name}_port": n for n, name in enumerate(("shell", "stdin", "control", "hb", "iopub"), start=1)
    }
    about = {
        **ports,
        "ip": str(tmp_path / "k"),
        "transport": "ipc",
        "key": "",
        "signature_scheme": "hmac-sha256",
    }
    (tmp_path / "k-5").mkdir()  # where the last of its sockets should be
    connection, log = tmp_path / "connection.json", tmp_path / "log"
    connection.write_text(json.dumps(about))
    with log.open("wb") as file:
        command = ["ipykernel_launcher", "-f", str(connection)]
        kernel = warm._asked(command, cell.kernel_environment(), str(tmp_path), file.fileno())
    end = time.monotonic() + 60
    while kernel.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert kernel.poll() is not None, "it hangs"
    assert "in use" in log.read_text() or "ZMQError" in log.read_text()


def test_what_a_notebook_leaves_undone_is_done_as_python_does_it_at_its_end(door, tmp_path):
    """Files that nobody closed are written, and threads end."""
    leave = """
import os, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
def late(name):
    time.sleep(0.5)
    Path(out_dir, name).write_text(name)
threading.Thread(target=late, args=["thread"]).start()
ThreadPoolExecutor(1).submit(late, "pool")
class Holder: pass
holder = Holder()
holder.itself, holder.file = holder, open(Path(out_dir, "cycle"), "w")
holder.file.write("cycle")
os.held = open(Path(out_dir, "module"), "w")
os.held.write("module")
"""
    record, _ = run(tmp_path, USES_TORCH, leave)
    assert record["status"] == "done", record["error"]
    for name in ("cycle", "module", "thread", "pool"):
        assert (tmp_path / "out" / name).read_text() == name


def test_a_door_and_its_owner_close_though_other_processes_have_copies():
    nursery = warm.Nursery(cell.kernel_environment(), ("ipykernel.kernelapp",))
    door, copy = nursery.door(), nursery._socket.dup()
    door.set_inheritable(True)  # as a worker gets it
    warm.allow(door)
    assert not door.get_inheritable()
    assert select.select([copy], [], [], 60)[0], "ready"
    started = time.monotonic()
    with copy:
        nursery.close()
    warm.allow(None)
    assert time.monotonic() - started < 5


def test_a_nursery_whose_owner_was_killed_says_nothing(capfd):
    nursery = warm.Nursery(cell.kernel_environment(), ("ipykernel.kernelapp",))
    nursery._socket.close()  # amid its imports
    assert nursery.process.wait(60) == 0
    assert capfd.readouterr().err == ""


def test_a_closed_door_ends_its_kernels_alone(nursery, tmp_path):
    """A worker that is killed takes its kernel with it, and what that started, and no other worker's."""
    wait = "import os, pathlib, subprocess, sys, time\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    wait += "pathlib.Path(sys.argv[-1]).write_text(f'{os.getpid()} {child.pid}')\ntime.sleep(600)"
    asked, doors = {"cwd": str(tmp_path), "environment": dict(os.environ)}, [nursery.door() for _ in "ab"]
    kernels = []
    for door, name in zip(doors, "ab", strict=True):
        assert door.recv(32) == b"ready"
        code = f"--IPKernelApp.exec_lines={wait}"
        argv = ["ipykernel_launcher", code, "-f", str(tmp_path / f"{name}.json"), str(tmp_path / name)]
        with (tmp_path / "log").open("a") as log:
            message = json.dumps({**asked, "argv": argv}).encode()
            socket.send_fds(door, [message], [log.fileno()])
        kernels.append(warm.Kernel(int(door.recv(32))))
    told = [_read_when_there(tmp_path / name) for name in "ab"]
    doors[0].close()
    kernels[0].wait()
    assert kernels[1].poll() is None
    _wait_until_gone(told[0][1])
    os.kill(told[1][1], 0)
    doors[1].close()
    kernels[1].wait()
    _wait_until_gone(told[1][1])


def _read_when_there(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.is_file() or len(path.read_text().split()) < 2:
        assert time.monotonic() < end, (path.parent / "log").read_text()
        time.sleep(0.05)
    return list(map(int, path.read_text().split()))


def _wait_until_gone(pid, seconds=60):
    end = time.monotonic() + seconds
    while (
        pathlib.Path(f"/proc/{pid}").exists()
        and "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2]
    ):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_nursery_that_nobody_needs_ends_at_once():
    started = time.monotonic()
    warm.Nursery(cell.kernel_environment()).close()  # amid its imports
    assert time.monotonic() - started < 3


def test_without_a_nursery_kernels_start_cold(nursery, door, tmp_path):
    record, told = run(tmp_path / "a", USES_TORCH, TELL)
    assert record["status"] == "done" and told["was_there"]
    os.kill(nursery.process.pid, signal.SIGKILL)
    nursery.process.wait()
    record, told = run(tmp_path / "b", USES_TORCH, TELL)
    assert record["status"] == "done" and not told["was_there"] and told["parent"] == os.getpid()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import torch", True),
        ("from chatvec_lab.live import LiveModel", True),
        ("import numpy", False),  # nothing to gain
        ("import os, torch\nos.environ['HF_HOME'] = '/tmp'", False),  # read when it is imported
        ("import torch\nfrom os import putenv", False),
        ("%env OMP_NUM_THREADS=4\nimport torch", False),
        ("import torch\n!pip install --upgrade torch", False),
        ("# keys stay in the environment\nimport torch", True),
    ],
)
def test_which_notebooks_start_warm(code, expected, monkeypatch):
    monkeypatch.setattr(warm._Here, "door", object())
    assert warm.is_for([code]) is expected
    monkeypatch.setattr(warm._Here, "door", None)
    assert not warm.is_for([code])


def test_figures_stand_in_the_executed_notebook(tmp_path):
    """Though matplotlib was imported in another process, before there was a shell to show them."""
    nursery = warm.Nursery(cell.kernel_environment(), ("ipykernel.kernelapp", "matplotlib.pyplot"))
    try:
        warm.allow(nursery.door())
        told = "import sys\nprint('matplotlib' in sys.modules)"
        record, _ = run(tmp_path, USES_TORCH, told, "import matplotlib.pyplot as plt\nplt.plot([1, 2])")
    finally:
        warm.allow(None)
        nursery.close()
    assert record["status"] == "done", record["error"]
    *_, said, drawn = json.loads((tmp_path / "out/notebook.ipynb").read_text())["cells"]
    assert said["outputs"][0]["text"] == ["True\n"], "it was a warm one"
    assert "image/png" in drawn["outputs"][-1]["data"]
