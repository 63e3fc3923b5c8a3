"""Real notebooks through the real runner: what runs, what does not run again, what failure looks like."""

import argparse
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from chatvec_lab import study
from chatvec_lab.cores import cores
from chatvec_lab.study import fingerprint
from chatvec_lab.study.results import describe, is_done, write_record

SUMMARY = "study.save_summary(out, question='Which seed?', answer=f'Seed {seed}.')"
START = "from chatvec_lab import study\nout = study.output(out_dir)"


class Here:
    """An engine in a few lines: runs each cell at once, in this process. It shows how small the contract is."""

    def submit(self, fn, *args):
        future = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self):
        pass


@pytest.fixture
def run(lab, monkeypatch):
    """Run the study of the lab in this process; returns records by cell and the lines that were told."""
    monkeypatch.setattr(fingerprint, "PACKAGE", lab.root / "chatvec_lab")

    def now(**options):
        lines: list[str] = []
        plan = study.load(lab.root / "tiny.yaml")
        records = study.run(plan, lab.out, Here(), tell=lines.append, **options)
        return {str(c): records[c.key] for c in plan.cells}, lines

    return now


def test_what_a_cell_needs_runs_with_it_and_other_files_are_left_alone(lab, run):
    lab.notebook("first", "seed: int = 0  # seed", START, SUMMARY)
    lab.notebook("last", "first: str = ''  # folder", "x = 1")
    lab.study("notebooks: {first.ipynb: {}, last.ipynb: {needs: {first: first}}}")
    plan = study.load(lab.root / "tiny.yaml")
    records = study.run(plan, lab.out, Here(), cells=plan.cells[1:], tell=lambda _: None)
    assert [r["status"] for r in records.values()] == ["done", "done"]
    mine = lab.root / "paper" / "figures"
    mine.mkdir(parents=True)
    with pytest.raises(FileExistsError, match="figures of its own"):
        study.run(plan, mine.parent, Here(), tell=lambda _: None)
    assert list(mine.parent.iterdir()) == [mine]


def test_failed_killed_stopped_and_blocked_cells_do_not_stop_the_others(lab, run):
    lab.notebook("good", "seed: int = 3  # seed", START, SUMMARY)
    lab.notebook(
        "bad", "seed: int = 0  # seed", "x = 1", "def f():\n    return 1 / 0\n\nprint('so far')\nf()"
    )
    # a kernel sends what it prints from a second thread: give that a moment before the end
    last = "print('last words', flush=True)\ntime.sleep(1)\nos._exit(3)"
    lab.notebook("dies", "seed: int = 0  # seed", "import os, time", last)
    lab.notebook("stops", "seed: int = 0  # seed", "import sys\nsys.exit()", "print('never')")
    lab.notebook("after", "bad: str = ''  # folder", "x = 1")
    lab.notebook(
        "fine",
        "good: str = ''  # folder",
        "from chatvec_lab import study\nassert study.load_summary(good)['answer'] == 'Seed 3.'",
    )
    lab.study("""
        notebooks:
          bad.ipynb:
          dies.ipynb:
          stops.ipynb:
          after.ipynb: {needs: {bad: bad}}
          good.ipynb:
          fine.ipynb: {needs: {good: good}}
    """)
    records, lines = run()
    found = {name.split()[0]: record for name, record in records.items()}
    assert {name: record["status"] for name, record in found.items()} == {
        "bad": "failed",
        "dies": "killed",
        "stops": "failed",
        "after": "blocked",
        "good": "done",
        "fine": "done",
    }
    assert (
        describe(found["bad"]["error"]) == "ZeroDivisionError: division by zero (code cell 4: return 1 / 0)"
    )
    assert "the kernel died" in found["dies"]["error"]["value"]
    assert found["dies"]["error"]["line"] == "print('last words', flush=True)"
    assert found["dies"]["attempt"] == 2, "a killed cell is tried once more"
    assert found["bad"]["attempt"] == 1, "an error would only come back"
    assert "stopped before code cell 4" in found["stops"]["error"]["value"]
    assert "needs bad" in found["after"]["error"]["value"]

    def log(name):
        return next(lab.out.glob(f"cells/{name}/*/run.log")).read_text()

    assert "so far" in log("bad") and "ZeroDivisionError: division by zero" in log("bad")
    assert "last words" in log("dies")
    # a kernel is ended by an interrupt, of which it tells when the machine is busy
    told = log("good").replace("[IPKernelApp] ERROR | KeyboardInterrupt caught in kernel.\n", "")
    assert told == "", "a kernel starts without a word"

    # Again: only what has no result, and nothing of what has.
    kept = {
        name: path.stat().st_mtime_ns
        for name in ("good", "fine")
        for path in lab.out.glob(f"cells/{name}/*/run.json")
    }
    again, lines = run(retries=0)
    assert lines[0] == "6 cells, 2 already done, 4 to run"
    assert again == {name: again[name] for name in records}
    for name, stamp in kept.items():
        assert next(lab.out.glob(f"cells/{name}/*/run.json")).stat().st_mtime_ns == stamp

    table = study.results(lab.out)
    assert table.set_index("notebook").status["after"] == "not run"
    assert (
        table.set_index("notebook").error["bad"]
        == "ZeroDivisionError: division by zero (code cell 4: return 1 / 0)"
    )


def test_notebooks_of_other_writers_run(lab, run):
    """No kernelspec, another kernel's name, a byte order mark, and cells without ids, metadata and outputs."""
    lab.notebook("plain", "seed: int = 0  # seed", START, SUMMARY)
    whole = json.loads((lab.root / "plain.ipynb").read_text())
    other = {"kernelspec": {"name": "my-conda-env", "display_name": "mine", "language": "python"}}
    bare = [{"cell_type": c["cell_type"], "source": c["source"].splitlines(True)} for c in whole["cells"]]
    bare[1]["metadata"] = {"tags": ["parameters"]}
    for name, content in {
        "none": whole | {"metadata": {}},
        "another": whole | {"metadata": other},
        "bare": {"nbformat": 4, "nbformat_minor": 4, "cells": bare},
    }.items():
        (lab.root / f"{name}.ipynb").write_text("\ufeff" * (name == "none") + json.dumps(content), "utf-8")
    lab.study("notebooks: {none.ipynb: , another.ipynb: , bare.ipynb: }")
    records, _ = run()
    assert [(record["status"], record["error"]) for record in records.values()] == [("done", None)] * 3


def test_a_record_tells_what_made_the_result(lab, run, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")
    lab.notebook(
        "cell",
        "seed: int = 0  # seed",
        START,
        "import os\nprint(os.environ['SOME_API_KEY'], os.environ['PYTHONHASHSEED'], os.environ['TQDM_DISABLE'])",
        "import chatvec_lab\nprint(chatvec_lab.__file__)",
        SUMMARY,
    )
    lab.study("notebooks: {cell.ipynb: {set: {seed: 7}}}")
    records, _ = run()
    record = next(iter(records.values()))
    assert record["parameters"] == {"seed": 7} and record["error"] is None
    assert record["versions"]["papermill"] and record["host"] and record["seconds"] > 0
    folder = next(lab.out.glob("cells/cell/*"))
    assert json.loads((folder / "run.json").read_text()) == record
    log = (folder / "run.log").read_text()
    assert log.splitlines()[0] == "<SOME_API_KEY> 0 1"
    assert log.splitlines()[1] == str(lab.root / "chatvec_lab" / "__init__.py"), (
        "kernels import the same package"
    )
    assert "very-secret-value" not in (folder / "notebook.ipynb").read_text()


def test_a_package_that_changes_in_mid_cell_gives_no_result(lab, run):
    lab.notebook(
        "cell",
        "seed: int = 0  # seed",
        "import chatvec_lab.paths as p\nopen(p.__file__, 'a').write('EDITED = True\\n')",
    )
    lab.study("notebooks: {cell.ipynb: {}}")
    records, _ = run()
    record = next(iter(records.values()))
    assert record["status"] == "failed" and "changed since this study started" in record["error"]["value"]


@pytest.mark.parametrize("text", ["", "{", '{"status": "failed"}', '{"status": "killed"}'])
def test_only_a_run_json_that_says_done_counts(tmp_path: Path, text: str):
    (tmp_path / "notebook.ipynb").write_text("{}")
    (tmp_path / "run.json").write_text(text)
    assert not is_done(tmp_path)
    write_record(tmp_path, {"status": "done"})
    assert is_done(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_a_worker_killed_in_mid_cell_harms_no_other(lab):
    """The cell of seed 0 kills its worker at its first attempt, the one of seed 1 at every attempt."""
    lab.notebook(
        "cell",
        "seed: int = 0  # seed",
        START,
        """
        import os, pathlib, signal
        first = pathlib.Path("attempted")
        if seed == 1 or (seed == 0 and not first.exists()):
            first.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            import time; time.sleep(60)
        """,
        SUMMARY,
    )
    lab.study("notebooks: {cell.ipynb: {grid: {seed: [1, 0, 2]}}}")
    status, text = lab.run("--workers", "2")
    assert status == 1, text
    found = {record["parameters"]["seed"]: record for record in lab.records().values()}
    assert {seed: record["status"] for seed, record in found.items()} == {0: "done", 1: "killed", 2: "done"}
    assert "its worker process ended" in found[1]["error"]["value"] and found[1]["attempt"] == 2
    assert "2 done, 1 not; the same command tries these again" in text
    assert f"out/cells/cell/{found[1]['key']}" in text


def test_the_command_line(lab):
    lab.notebook("cell", "seed: int = 0  # seed\nscale: float = 1.0  # scale", START, SUMMARY)
    lab.study("notebooks: {cell.ipynb: {grid: {seed: [0, 1]}}}")
    status, text = lab.run("--dry-run")
    assert status == 0 and text.count("to run  cell") == 2
    assert "2 cells, 0 done, 2 to run; results go to out" in text and not lab.out.exists()

    status, text = lab.run("--set", "sclae=2")
    assert status == 2 and "'sclae': did you mean 'scale'?" in text
    status, text = lab.run("--set", "scale=high")
    assert status == 2 and "scale must be a finite number, got 'high' (str)" in text
    status, text = lab.run("--engine", "dask")
    assert status == 2 and ("needs --scheduler" in text or "pip install" in text)

    status, text = lab.run("--workers", "2", "--set", "scale=2e0")
    assert status == 0, text
    assert text.splitlines()[0] == "2 cells, 0 already done, 2 to run"
    assert "[2/2] done" in text and "2 done, 0 not" in text and "report: out/index.html" in text
    assert {(r["parameters"]["seed"], r["parameters"]["scale"]) for r in lab.records().values()} == {
        (0, 2.0),
        (1, 2.0),
    }

    status, text = lab.run("--set", "scale=2.0")
    assert status == 0 and text.splitlines()[0] == "2 cells, 2 already done, 0 to run"
    status, text = lab.run("--dry-run")
    assert "2 cells, 0 done, 2 to run" in text, "at scale 1 nothing has run"


def test_two_runs_do_not_share_a_folder_and_an_interrupt_leaves_nothing_behind(lab):
    lab.notebook(
        "cell",
        "seed: int = 0  # seed",
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(300)",
    )
    lab.study("notebooks: {cell.ipynb: {}}")
    first = lab.start("--workers", "1")
    pid = lab.root / "pid"
    wait_for(lambda: pid.exists() and pid.read_text())
    status, text = lab.run("--workers", "1")
    assert status == 2 and "another run is at work in" in text

    first.send_signal(signal.SIGINT)
    text, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "the same command goes on from here" in text
    wait_for(lambda: not Path(f"/proc/{pid.read_text()}").exists())
    assert lab.records() == {}


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys; from chatvec_lab import study; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {
        "torch",
        "papermill",
        "pandas",
        "numpy",
        "matplotlib",
        "jinja2",
        "nbformat",
        "distributed",
    }
    assert not heavy & set(loaded)


def test_devices_are_handed_out_and_threads_shared(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    engine = study.Local(2, devices=["3", "5"])
    try:
        handles = [engine.submit(_see, 1.0) for _ in range(2)]
        seen = [handle.result(timeout=300) for handle in handles]
    finally:
        engine.close()
    assert sorted(device for device, _, _ in seen) == ["3", "5"]
    assert {threads for _, threads, _ in seen} == {str(max(1, cores() // 2))}
    assert all(is_ready for _, _, is_ready in seen), "papermill is imported once, before the first cell"


def _see(seconds):
    time.sleep(seconds)  # long enough for the other worker to take the other call
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"], "papermill" in sys.modules


@pytest.mark.parametrize(("text", "devices"), [("0,2", ["0", "2"]), ("", []), ("-1", [])])
def test_visible_devices_respect_the_environment(monkeypatch, text, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
    assert study.engines.visible_devices() == devices


def test_a_missing_extra_answers_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'chatvec_lab\[dask\]'"):
        study.Dask("somewhere")


def wait_for(is_so, seconds=300):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


LOGIN, FULL = "On a cluster the login has likely run out: log in again", "the disk or your quota is full"


@pytest.mark.parametrize(
    ("when", "number", "told"),
    [
        ("study.json", errno.EACCES, LOGIN),
        ("study.json", errno.EKEYEXPIRED, LOGIN),
        ("study.json", errno.EDQUOT, FULL),
        ("study.json", errno.EIO, "What is done is kept; the same command goes on from here."),
        ("run.json", errno.EACCES, LOGIN),
        ("run.json", errno.ENOSPC, FULL),
    ],
)
def test_a_disk_that_refuses_ends_in_one_paragraph(lab, monkeypatch, capsys, when, number, told):
    """At the first file that is written, and when the end of a cell is booked (its worker could not write it either)."""
    monkeypatch.setattr(fingerprint, "PACKAGE", lab.root / "chatvec_lab")
    lab.notebook("cell", "seed: int = 0  # seed", "x = 1")
    study_file = lab.study("notebooks: {cell.ipynb: {}}")
    whole = Path.write_text

    def refused(path, *arguments, **options):
        if path.name.startswith(when):
            raise OSError(number, os.strerror(number), str(path))
        return whole(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", refused)
    monkeypatch.setattr(study.Local, "submit", Here.submit)
    parser = argparse.ArgumentParser()
    study.add_arguments(parser)
    status = study.main(parser.parse_args([str(study_file), "--out", str(lab.out), "--workers", "1"]))
    said = capsys.readouterr().err
    assert status == 2 and told in said and when in said and said.count("\n") == 1


def test_a_full_disk_is_told_and_what_is_done_is_kept(lab):
    """A real one: a limit on the size of files stands for a quota."""
    lab.notebook("small", "seed: int = 0  # seed", START, SUMMARY)
    big = "import resource, pathlib\npathlib.Path(out_dir, 'big').write_bytes(bytes(64 << 20))"
    lab.notebook("big", "seed: int = 0  # seed", big)
    lab.study("notebooks: {small.ipynb: , big.ipynb: }")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 20, 32 << 20))  # noqa: E731
    process = lab.start("--workers", "1", preexec_fn=limit)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "OSError: [Errno 27] File too large" in text, text
    assert {record["notebook"]: record["status"] for record in lab.records().values()} == {
        "small": "done",
        "big": "failed",
    }


def test_a_clock_that_is_set_back_gives_no_negative_seconds(lab, run, monkeypatch):
    lab.notebook("cell", "seed: int = 0  # seed", "x = 1")
    lab.study("notebooks: {cell.ipynb: {}}")
    now = iter(range(10_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    records, lines = run()
    (record,) = records.values()
    assert record["status"] == "done" and 0 < record["seconds"] < 300
    assert "left" not in lines[-1] or "-" not in lines[-1]


def test_a_clock_that_is_set_back_and_forward_changes_nothing(lab):
    """A laptop that wakes, a node whose clock is corrected by years: no negative seconds, no cell that runs again."""
    lab.notebook("cell", "seed: int = 0  # seed", START, SUMMARY)
    lab.study("notebooks: {cell.ipynb: {}}")
    (lab.root / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "real, jumps = time.time, itertools.cycle([0, -400 * 86400, 400 * 86400])\n"
        "time.time = lambda: real() + next(jumps)\n"
    )
    status, text = lab.run("--workers", "1")
    assert status == 0 and "[1/1] done" in text, text
    (record,) = lab.records().values()
    assert 0 <= record["seconds"] < 300 and "-" not in text.split("done")[1].split("s")[0]
    page = (lab.out / "index.html").read_bytes()
    status, text = lab.run("--workers", "1")
    assert status == 0 and text.startswith("1 cells, 1 already done, 0 to run"), text
    assert (lab.out / "index.html").read_bytes() == page
