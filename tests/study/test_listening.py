"""What of ours listens, listens at loopback alone: asked of the system, for every process that is at work."""

import ipaddress
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_clusters import daemons, free_port, needs_dask, wait_for

ROOT = Path(__file__).resolve().parents[2]
HOLDS = """
import pathlib, time
pathlib.Path("began").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.1)
"""


def listening(pid: int) -> dict[tuple[str, int], str]:
    """Address and port of every socket at which a process, or one below it, takes connections or datagrams."""
    found = {}
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        for socket in process.net_connections("inet"):
            takes_datagrams = socket.type == 2 and not socket.raddr
            if socket.status == psutil.CONN_LISTEN or takes_datagrams:
                found[socket.laddr.ip, socket.laddr.port] = " ".join(process.cmdline())[:200]
    return found


def strangers(found: dict[tuple[str, int], str]) -> dict[tuple[str, int], str]:
    """Those at an address that another machine can reach."""
    return {place: who for place, who in found.items() if not ipaddress.ip_address(place[0]).is_loopback}


def test_an_open_socket_would_be_seen():
    code = (
        "import socket, time; s = socket.create_server(('0.0.0.0', 0)); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert len(strangers(listening(process.pid))) == 1
        process.kill()


def test_the_workers_and_kernels_of_a_study_listen_at_loopback(lab):
    lab.notebook("cell", "seed: int = 0  # seed", HOLDS)
    lab.study("notebooks: {cell.ipynb: {}}")
    process = lab.start("--workers", "1")
    wait_for((lab.root / "began").exists, "kernel at work")
    found = listening(process.pid)
    (lab.root / "go").touch()
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert found, "a kernel's channels are sockets in a folder, but ipykernel keeps a port for itself"
    assert not strangers(found)


@pytest.mark.slow
@needs_dask
def test_a_study_on_dask_opens_nothing_of_its_own_and_its_kernels_are_at_loopback(lab, tmp_path):
    lab.notebook("cell", "seed: int = 0  # seed", HOLDS)
    lab.study("notebooks: {cell.ipynb: {}}")
    address = f"tcp://127.0.0.1:{free_port()}"
    with daemons(tmp_path / "dask.log") as start:
        options = {"env": lab.environment, "cwd": lab.root}
        alone = [
            "--host",
            "127.0.0.1",
            "--dashboard-address",
            "127.0.0.1:0",
        ]  # as `study.Dask` says for one machine
        dask = [sys.executable, "-m"]
        start(
            *dask, "distributed.cli.dask_scheduler", *alone, "--port", address.rpartition(":")[2], **options
        )
        started = start(*dask, "distributed.cli.dask_worker", address, *alone, "--no-nanny", **options)
        driver = lab.start("--engine", "dask", "--scheduler", address)
        wait_for((lab.root / "began").exists, "kernel at work")
        assert listening(driver.pid) == {}, "the command only asks"
        found = listening(started.pid)
        (lab.root / "go").touch()
        text, _ = driver.communicate(timeout=120)
        assert driver.returncode == 0, text
        assert len(found) >= 2, "the worker's and one of its kernel's"
        assert not strangers(found)


@pytest.mark.slow
def test_make_lab_opens_jupyterlab_at_loopback(tmp_path):
    """What the Makefile calls, which also serves the playground; the port is left to it."""
    assert "-m chatvec_lab lab" in (ROOT / "Makefile").read_text("utf-8")
    command = [
        sys.executable,
        "-m",
        "chatvec_lab",
        "lab",
        "--folder",
        str(tmp_path / "copies"),
        "--",
        "--no-browser",
    ]
    environment = os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: list(tmp_path.glob("jpserver-*.json")), "server", 120)
        time.sleep(1)
        found = listening(server.pid)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert found and not strangers(found)
