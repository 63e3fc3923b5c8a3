"""How many threads a save has: as many as asked for, the same bytes with any number, and a clear no to none."""

import threading

import pytest

from chatvec_lab import Checkpoint
from chatvec_lab.__main__ import main
from chatvec_lab.weights.saving import stream, writer


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("jobs", [1, 3, 7])
def test_so_many_threads_compute_and_the_bytes_are_the_same(families, tmp_path, monkeypatch, jobs):
    base, chat, cp = map(Checkpoint, families())
    merged = cp + 0.7 * (chat - base)
    merged.save(tmp_path / "default", progress=False)
    meeting, names, produce = threading.Barrier(jobs), set(), writer._produce

    def counted(*arguments):
        name = threading.current_thread().name
        if name not in names:
            names.add(name)
            meeting.wait(timeout=60)  # all of them are at work at once
        produce(*arguments)

    monkeypatch.setattr(writer, "_produce", counted)
    merged.save(tmp_path / "out", progress=False, jobs=jobs)
    assert len(names) == jobs
    assert files_of(tmp_path / "out") == files_of(tmp_path / "default")


def test_a_vector_has_the_same_bytes_too(families, tmp_path):
    base, chat, cp = map(Checkpoint, families())
    tau = 0.7 * (chat - base) + 0.3 * (cp - base)
    for jobs in (None, 1, 5):
        tau.save(tmp_path / f"{jobs}", progress=False, jobs=jobs)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "5") == files_of(tmp_path / "None")


@pytest.mark.parametrize(
    ("jobs", "error"),
    [(0, ValueError), (-2, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)],
)
def test_other_numbers_are_refused_before_anything_is_written(families, tmp_path, jobs, error):
    base, chat, cp = map(Checkpoint, families())
    for what in ((cp + (chat - base)).save, (chat - base).save):
        with pytest.raises(error, match=f"jobs={jobs!r}: expected"):
            what(tmp_path / "out", progress=False, jobs=jobs)
    assert not list(tmp_path.iterdir())


def test_the_command_has_it(families, tmp_path, capsys, monkeypatch):
    base, chat, cp = map(str, families())
    command = ["merge", "--base", base, "--chat", chat, "--cp", cp, "--out"]
    asked, real = [], stream.ThreadPoolExecutor
    monkeypatch.setattr(
        stream, "ThreadPoolExecutor", lambda count, **named: asked.append(count) or real(count, **named)
    )
    assert main([*command, str(tmp_path / "three"), "--jobs", "3"]) == 0
    assert main([*command, str(tmp_path / "default")]) == 0
    assert asked[0] == 3 and asked[len(asked) // 2] == stream.workers()
    assert files_of(tmp_path / "three") == files_of(tmp_path / "default")
    for wrong in ("0", "-1", "two", "1.5"):
        with pytest.raises(SystemExit):
            main([*command, str(tmp_path / "none"), "--jobs", wrong])
        assert "1 or more" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("cores", "wanted"), [(1, 2), (2, 2), (5, 5), (64, 8)])
def test_by_default_one_a_core_two_to_eight(monkeypatch, cores, wanted):
    monkeypatch.setattr(stream, "cores", lambda: cores)
    assert stream.workers() == wanted
