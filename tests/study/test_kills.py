"""A study killed at random instants: the rerun completes, nothing done runs again, the tables are the same bytes.

By SIGKILL of the command alone, as the system does when memory is gone, and by SIGTERM or Ctrl-C, at a terminal with all its
processes: no worker, no kernel and none of what a kernel started is left, and no half file.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import time

import psutil
import pytest
from campaigns import Kept

MADE = """
import numpy, pandas, time
from chatvec_lab import study
out = study.output(out_dir)
time.sleep(0.2)
table = pandas.DataFrame({"scale": [0.0, 0.5], "score": numpy.random.default_rng(seed).random(2)})
study.save_table(out, "scores", table, caption="Scores.")
time.sleep(0.2)
study.save_summary(out, question="How high?", answer=f"{table.score.max():.3f}", best=table.score.max())
"""
JOINED = """
from chatvec_lab import study
best = [study.load_summary(folder)["best"] for folder in made]
study.save_summary(study.output(out_dir), question="How high at all?", answer=f"{max(best):.3f}")
"""


def results(lab) -> dict[str, bytes]:
    """All that a study leaves for readers: the page, the tables, and each cell's own results."""
    files = [lab.out / "index.html", lab.out / "study.json"]
    for pattern in ("tables/*", "cells/*/*/tables/*", "cells/*/*/summary.json"):
        files += lab.out.glob(pattern)
    return {str(file.relative_to(lab.out)): file.read_bytes() for file in sorted(files)}


def spent(process) -> float:
    """Seconds of the processor that a command and all below it have used: an instant of its work on however busy a machine."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        seconds = 0.0
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                seconds += sum(member.cpu_times()[:4])  # with those of children that have ended
        return seconds
    return float("inf")


def stop(process, instant: float, how: signal.Signals, *, group: bool, patience: float = 180) -> bool:
    """Send a signal to a command at an instant of its work; whether it was still at work. All below it must be gone soon."""
    while process.poll() is None and spent(process) < instant:
        time.sleep(0.02)
    if process.poll() is not None:
        return False
    try:
        below = psutil.Process(process.pid).children(recursive=True)
        (os.killpg if group else os.kill)(process.pid, how)
    except (psutil.NoSuchProcess, ProcessLookupError):  # done meanwhile
        return False
    process.wait(patience)
    _, alive = psutil.wait_procs(below, timeout=patience / 6)
    assert not alive, f"after {how.name} at {instant:.2f} s there is left {[p.cmdline() for p in alive]}"
    return True


@pytest.mark.slow
def test_killed_ten_times_at_random_instants(lab):
    campaign(lab, 10, os.environ.get("CHATVEC_SEED", "0"))


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(10))
def test_two_hundred_kills_of_a_study(lab, part):
    """In ten parts of 20 with seeds of their own; one that has passed with this code is not done again."""
    kept, seed = Kept("kills-of-a-study", "study", "secrets", "report"), f"part {part}"
    if seed not in kept:
        campaign(lab, 20, seed)
        kept.add(seed, kills=20)


def campaign(lab, kills: int, seed: str) -> None:
    """A study of three cells, killed so many times at instants that the seed draws: within what is left of its work."""
    lab.patience = 3600  # a campaign's machine may be suspended meanwhile
    lab.notebook("made", "seed: int = 0  # seed", MADE)
    lab.notebook("joined", "made: list[str] = []  # folders", JOINED)
    lab.study("""
        notebooks:
          made.ipynb: {grid: {seed: [0, 1]}}
          joined.ipynb: {needs: {made: made}}
    """)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status, text = lab.run("--workers", "2")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    undisturbed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert status == 0, text
    expected = results(lab)
    assert len(expected) == 2 + 2 + 2 * 3 + 3

    print(f"{kills} kills, CHATVEC_SEED={seed}")
    chance = random.Random(f"{kills} kills, {seed}")
    killed, done = 0, {}
    shutil.rmtree(lab.out)
    while killed < kills or len(done) < 3:
        process = lab.start("--workers", "2", start_new_session=True)
        how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        left = undisturbed * (4 - len(done)) / 4
        instant, group = chance.uniform(0.01, left), how != signal.SIGKILL and chance.random() < 0.5
        if killed < kills:
            killed += stop(process, instant, how, group=group, patience=lab.patience)
            print(
                f"{killed} of {kills}: {how.name} at {instant:.2f} s of {left:.2f} of the processor",
                flush=True,
            )
        text, _ = process.communicate(timeout=lab.patience)
        ends = {0, -signal.SIGKILL, 128 + how, -how}  # the last before Python has started
        assert process.returncode in ends, f"{how.name} at {instant:.2f} s: {process.returncode}\n{text}"
        now = {path: record for path, record in lab.records().items() if record["status"] == "done"}
        assert {path: now.get(path) for path in done} == done, "what was done has run again"
        done = now
        if process.returncode == 0:
            assert results(lab) == expected
            half = [path for path in lab.out.rglob("*") if path.name.endswith((".part", ".tmp"))]
            assert not half, "a study that is done leaves no half file"
            if killed < kills:
                shutil.rmtree(lab.out)
                done = {}
    status, text = lab.run("--workers", "2")
    assert status == 0 and text.startswith("3 cells, 3 already done, 0 to run")
    assert results(lab) == expected


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_study_leaves_nothing_at_work(lab, how):
    """Also not what a notebook has started, nor the ports that its kernel and that program listen at."""
    if signal.getsignal(how) == signal.SIG_IGN:
        pytest.skip(f"{how.name} is ignored here (nohup), and a study leaves it so")
    code = """
    import os, pathlib, socket, subprocess, sys, time
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{listen}; time.sleep(600)"], stdout=subprocess.PIPE, text=True
    )
    port = child.stdout.readline().strip()
    pathlib.Path("began").write_text(f"{os.getpid()} {child.pid} {port}")
    time.sleep(600)
    """
    lab.notebook("cell", "seed: int = 0  # seed", code)
    lab.study("notebooks: {cell.ipynb: {}}")
    process = lab.start("--workers", "1")
    began = lab.root / "began"
    end = time.monotonic() + 120
    while not (began.exists() and began.read_text().count(" ") == 2):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    kernel, child, port = map(int, began.read_text().split())
    ports = {c.laddr.port for c in psutil.Process(kernel).net_connections() if c.status == "LISTEN"} | {port}
    assert len(ports) > 1 and psutil.pid_exists(child)
    assert stop(process, 0, how, group=False)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + how
    told = "interrupted" if how == signal.SIGINT else f"ended by {how.name}"
    assert text.splitlines()[-1] == f"{told}; the same command goes on from here" and "Traceback" not in text
    assert not psutil.pid_exists(kernel) and not psutil.pid_exists(child)
    assert not ports & {c.laddr.port for c in psutil.net_connections("tcp") if c.status == "LISTEN"}
    assert lab.records() == {}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_study_stopped_while_its_workers_warm_up_ends_at_once(lab, how):
    """On a starved machine the import of papermill takes minutes; nobody who stops a study should wait for it."""
    lab.notebook("cell", "seed: int = 0  # seed", "pass")
    lab.study("notebooks: {cell.ipynb: {grid: {seed: [0, 1]}}}")
    slow = "import pathlib, time\npathlib.Path('warming').touch()\ntime.sleep(600)\n"
    (lab.root / "papermill.py").write_text(slow)
    process = lab.start("--workers", "2")
    end = time.monotonic() + 120
    while not (lab.root / "warming").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    assert stop(process, 0, how, group=False)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + how and "Traceback" not in text
