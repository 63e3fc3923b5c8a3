"""The same study on a real one-node Slurm and a real Dask cluster, each losing a job or worker in mid-cell."""

import contextlib
import getpass
import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
NO_SLURM = [name for name in DAEMONS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
needs_slurm = pytest.mark.skipif(
    bool(NO_SLURM), reason=f"Debian's slurm-wlm and munge: no {', '.join(NO_SLURM)}"
)
needs_dask = pytest.mark.skipif(not importlib.util.find_spec("distributed"), reason="needs the extra `dask`")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(is_so: Callable[[], object], what: str, seconds: float = 300) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := is_so():
            return found
        time.sleep(0.2)
    raise TimeoutError(f"after {seconds} s there is no {what}")


@pytest.fixture
def slow_study(lab):
    """Three cells that leave a file `began` with their process id, and run until told, or for 2 s."""
    lab.notebook(
        "cell",
        "seed: int = 0  # of the cell",
        """
        import os, pathlib, time
        from chatvec_lab import study
        out = study.output(out_dir)
        (out / "began").write_text(str(os.getppid()))
        time.sleep(2)
        while seed == 1 and pathlib.Path("hold").exists():
            time.sleep(0.1)
        study.save_summary(out, question="Which seed?", answer=f"Seed {seed}.")
        """,
    )
    lab.study("""
        notebooks:
          cell.ipynb:
            grid: {seed: [0, 1, 2]}
    """)
    (lab.root / "hold").touch()
    return lab


def held_cell(lab) -> Path | None:
    """Folder of the one cell that waits for `hold` to go, once the other two are done."""
    began = {path.parent for path in lab.out.glob("cells/cell/*/began")}
    left = began - {path.parent for path in lab.out.glob("cells/cell/*/run.json")}
    return left.pop() if len(began) == 3 and len(left) == 1 else None


@contextlib.contextmanager
def daemons(log: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start programs that end with the test."""
    running: list[subprocess.Popen] = []

    def start(*command: str, **options: object) -> subprocess.Popen:
        with log.open("a") as file:
            running.append(subprocess.Popen(command, stdout=file, stderr=file, **options))
        return running[-1]

    try:
        yield start
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A munged, a slurmctld and a slurmd of our own, on loopback, with everything in a temporary folder."""
    home = tmp_path / "slurm"
    for folder in ("state", "spool"):
        (home / folder).mkdir(parents=True)
    key = home / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    node, user, munge = platform.node().partition(".")[0], getpass.getuser(), home / "munge.socket"
    (home / "slurm.conf").write_text(f"""
ClusterName=chatvec
SlurmctldHost={node}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthType=auth/munge
AuthInfo=socket={munge}
CredType=cred/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=5
NodeName={node} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={node} Default=YES State=UP MaxTime=60
""")
    monkeypatch.setenv("SLURM_CONF", str(home / "slurm.conf"))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    log = home / "daemons.log"
    with daemons(log) as start:
        files = {
            "key-file": key,
            "socket": munge,
            "pid-file": home / "munged.pid",
            "log-file": home / "munged.log",
        }
        files["seed-file"] = home / "munged.seed"
        start("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items()))
        wait_for(munge.exists, "socket of munged")
        start("slurmctld", "-D", "-c")
        start("slurmd", "-D", "-N", node)
        idle = ["sinfo", "--noheader", "--states=idle", "--format=%N"]
        try:
            wait_for(lambda: subprocess.run(idle, capture_output=True).stdout.strip(), "idle node")
            yield
            # A job is in the queue until its last process is gone; daemons stopped earlier would leave some.
            subprocess.run(["scancel", f"--user={user}"], check=True)
            queue = ["squeue", "--noheader"]
            wait_for(lambda: not subprocess.run(queue, capture_output=True).stdout.strip(), "empty queue")
        except TimeoutError:
            print(log.read_text())
            raise


@pytest.mark.slow
@needs_slurm
def test_a_study_on_slurm_survives_a_killed_job_and_a_killed_driver(slow_study, slurm):
    lab = slow_study
    lab.environment |= {name: os.environ[name] for name in ("SLURM_CONF", "PATH")}
    driver = lab.start("--engine", "slurm", "--slurm", "cpus=1", "--slurm", "at_once=3")
    folder = wait_for(lambda: held_cell(lab), "third cell at work")
    job = (folder / "job.json").read_text()

    driver.kill()
    driver.communicate()
    again = lab.start("--engine", "slurm", "--slurm", "cpus=1")
    wait_for(lambda: "is already job" in again.stdout.readline(), "word of the running job")
    assert (folder / "job.json").read_text() == job
    assert (folder / "began").exists(), "the second call has not started the cell anew"

    task = job.split('"')[3]
    os.kill(int((folder / "began").read_text()), signal.SIGKILL)  # as the out-of-memory killer does
    wait_for(
        lambda: not (folder / "job.json").exists() or (folder / "job.json").read_text() != job, "new job"
    )
    (lab.root / "hold").unlink()
    text, _ = again.communicate(timeout=300)

    assert again.returncode == 0, text
    assert f"Slurm job {task} was killed, as the system does when memory is gone" in text
    records = lab.records()
    assert [record["status"] for record in records.values()] == ["done"] * 3
    assert (lab.out / "index.html").read_text().count("Seed ") >= 3


def lines_of(process: subprocess.Popen) -> list[str]:
    """A list that grows with what the process prints."""
    import threading

    found: list[str] = []
    threading.Thread(target=lambda: found.extend(iter(process.stdout.readline, "")), daemon=True).start()
    return found


def seed_of(lab, job: Path) -> int:
    """The seed of the cell whose job.json this is."""
    cells = json.loads((lab.out / "study.json").read_text())["cells"]
    return next(cell["parameters"]["seed"] for cell in cells if cell["key"] == job.parent.name)


@pytest.mark.slow
@needs_slurm
def test_what_a_real_slurm_refuses_is_told_before_and_when_it_is_sent(slow_study, slurm):
    lab = slow_study
    lab.environment |= {name: os.environ[name] for name in ("SLURM_CONF", "PATH")}
    for option, sentence in {
        "partition=gpu": "invalid partition specified: gpu",
        "memory_gb=500": "Requested node configuration is not available",
        "reservation=course": "Requested reservation is invalid",
        "gpus=1": "Invalid generic resource (gres) specification",
        "hours=2": "time=120 is more than the partition gives (all gives 1:00:00)",
    }.items():
        status, text = lab.run("--engine", "slurm", "--dry-run", "--slurm", option)
        assert status == 2 and sentence in text and "Traceback" not in text, text
    assert not lab.out.exists()
    status, text = lab.run(
        "--engine", "slurm", "--dry-run", "--slurm", "hours=0.5", "--slurm", "comment=two words"
    )
    assert status == 0 and "sbatch --test-only takes it: Job " in text, text
    shutil.copy(lab.root / "cell.ipynb", lab.root / "large.ipynb")
    for asks, answer, sentence in (
        ("{hours: 0.5, cpus: 2}", 0, "large: sbatch --test-only takes it: Job "),
        (
            "{memory_gb: 500}",
            2,
            "large: sbatch refused the job: allocation failure: Requested node configuration is not available",
        ),
        ("{hours: 2}", 2, "large: time=120 is more than the partition gives"),
    ):
        lab.study(f"notebooks:\n  cell.ipynb: {{cpus: 1}}\n  large.ipynb: {asks}\n", name="asks")
        status, text = lab.run("--engine", "slurm", "--dry-run", name="asks")
        assert status == answer and sentence in text and "cell: sbatch refused" not in text, text
    status, text = lab.run("--engine", "slurm", "--slurm", "partition=gpu")
    told = text.splitlines()[-1]
    assert status == 2 and "Traceback" not in text
    assert told.startswith("sbatch refused the job: ") and "partition= names one of: all." in told, text
    queue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert queue.stdout == "" and not list(lab.out.glob("cells/*/*/job.json"))


@pytest.mark.slow
@needs_slurm
def test_cancelled_timed_out_and_requeued_jobs_are_told_apart(slow_study, slurm):
    """Four minutes: Slurm's shortest time limit is a minute, and a requeued job waits two."""
    lab = slow_study
    lab.environment |= {name: os.environ[name] for name in ("SLURM_CONF", "PATH")}
    cell = lab.root / "cell.ipynb"
    cell.write_text(
        cell.read_text().replace("while seed == 1 and", "while")
    )  # all three wait for `hold` to go
    node = subprocess.run(
        ["sinfo", "--noheader", "--format=%n"], capture_output=True, text=True
    ).stdout.strip()
    drain = ["scontrol", "update", f"nodename={node}"]
    subprocess.run([*drain, "state=drain", "reason=test"], check=True)
    driver = lab.start(
        "--engine", "slurm", "--slurm", "hours=0.01", "--slurm", "comment=a b", "--retries", "0"
    )
    lines = lines_of(driver)
    wait_for(
        lambda: any("3 jobs wait: " in line and "drain" in line.lower() for line in lines),
        "word of a drained node",
    )
    subprocess.run([*drain, "state=resume"], check=True)
    jobs = wait_for(lambda: len(list(lab.out.glob("cells/cell/*/began"))) == 3, "three cells at work")
    jobs = {
        seed_of(lab, job): json.loads(job.read_text())["token"]
        for job in lab.out.glob("cells/cell/*/job.json")
    }
    subprocess.run(["scancel", jobs[0]], check=True)
    subprocess.run(["scontrol", "requeue", jobs[2]], check=True)
    wait_for(
        lambda: any(f"put job {jobs[2]} back into the queue" in line for line in lines),
        "word of a requeued job",
    )
    wait_for(lambda: any("reached its time limit" in line for line in lines), "word of a time limit")
    (lab.root / "hold").unlink()
    driver.wait(300)
    text = "".join(lines)
    assert driver.returncode == 1, text
    assert f"JobEnded: Slurm job {jobs[0]} was cancelled (scancel); the same command runs it again" in text
    assert (
        f"JobEnded: Slurm job {jobs[1]} reached its time limit of 00:01:00; for more time: --slurm hours=N"
        in text
    )
    statuses = {record["parameters"]["seed"]: record["status"] for record in lab.records().values()}
    assert statuses == {0: "killed", 1: "killed", 2: "done"}, "what was put back has gone on"
    status, text = lab.run("--engine", "slurm")
    assert status == 0 and text.startswith("3 cells, 1 already done, 2 to run"), text


@pytest.mark.slow
@needs_dask
def test_a_study_on_dask_survives_a_killed_worker(slow_study, tmp_path: Path):
    lab = slow_study
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker"]
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with daemons(tmp_path / "dask.log") as start:
        options = {"env": lab.environment, "cwd": lab.root}
        start(*dask, "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", **options)
        for _ in range(2):
            start(*worker, address, "--nthreads", "1", "--no-nanny", "--no-dashboard", **options)
        driver = lab.start("--engine", "dask", "--scheduler", address)
        folder = wait_for(lambda: held_cell(lab), "third cell at work")
        os.kill(int((folder / "began").read_text()), signal.SIGKILL)
        wait_for(lambda: not (folder / "began").exists(), "second attempt on the other worker")
        (lab.root / "hold").unlink()
        text, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, text
    assert [record["status"] for record in lab.records().values()] == ["done"] * 3
