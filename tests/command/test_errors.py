"""A mistake ends in one paragraph, a fault of our own in a traceback that says so, an interrupt in a line."""

import os
import signal
import subprocess
import sys
import time

import pytest

from chatvec_lab.__main__ import main
from chatvec_lab.command import inspect


def run_with(monkeypatch, problem):
    def run(options):
        problem()

    monkeypatch.setattr(inspect, "run", run)
    return main(["inspect", "x"]), main(["inspect", "x", "--traceback"])


def raised(error):
    def problem():
        raise error

    return problem


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (raised(ValueError("layers: nothing there")), "layers: nothing there"),
        (raised(KeyError("no family 'x'")), "no family 'x'"),
        (raised(ImportError("pip install it")), "pip install it"),
        (lambda: os.stat("/none/such"), "No such file or directory: '/none/such'"),
        (raised(PermissionError("the key")), "the key"),
        (raised(FileNotFoundError()), "FileNotFoundError"),
    ],
)
def test_a_mistake_is_one_paragraph(monkeypatch, capsys, problem, told):
    assert run_with(monkeypatch, problem) == (1, 1)
    first, _, second = capsys.readouterr().err.partition("Traceback")
    assert first.startswith("chatvec_lab inspect: ") and told in first and "fault" not in first
    assert told in second and "test_errors.py" in second, "--traceback shows where"


@pytest.mark.parametrize(
    "problem",
    [
        lambda: {}[[]],  # unhashable type: 'list'
        lambda: [][1],
        lambda: None.x,
        lambda: {}["x"],
        lambda: int("x"),
        lambda: 1 / 0,
        raised(RuntimeError("shapes")),
        raised(AssertionError("only our own bug")),
    ],
)
def test_a_fault_of_our_own_keeps_its_traceback(monkeypatch, capsys, problem):
    assert run_with(monkeypatch, problem) == (1, 1)
    said = capsys.readouterr().err
    assert said.count("Traceback") == 2 and said.count("a fault of chatvec_lab itself") == 2


def test_an_interrupt_in_an_import_is_an_interrupt(monkeypatch, capsys):
    def problem():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("numpy failed to import") from error

    assert run_with(monkeypatch, problem)[0] == 130
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupt_that_an_import_of_c_code_swallows_is_still_the_stop(monkeypatch, capsys, how, status):
    """numpy's PyCapsule_Import drops the interrupt and says that numpy is badly installed."""

    def problem():
        try:
            os.kill(os.getpid(), how)
            time.sleep(5)
        except KeyboardInterrupt:
            pass
        raise ImportError("PyCapsule_Import could not import module")

    assert run_with(monkeypatch, problem)[0] == status
    said = capsys.readouterr().err
    assert "run the same command again" in said.splitlines()[0] and "PyCapsule" not in said.splitlines()[0]


def test_sigterm_is_told_of(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert run_with(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(5))[0] == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_error_shows_a_secret(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", token := "hf_abcdefghijklmnop")
    run_with(monkeypatch, raised(ValueError(f"refused Bearer {token}")))
    run_with(monkeypatch, raised(RuntimeError(f"refused Bearer {token}")))
    said = capsys.readouterr()
    assert token not in said.out + said.err and said.err.count("<HF_TOKEN>") >= 4


@pytest.mark.parametrize("after", [0.05, 0.15, 0.3, 0.6])
def test_ctrl_c_in_the_first_second_shows_no_traceback(families, tmp_path, after):
    base, chat, cp = map(str, families())
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a test's shell may ignore it
    code += "print('on', flush=True)\nimport runpy, sys; sys.argv[0] = 'chatvec_lab'\n"
    code += "runpy.run_module('chatvec_lab', run_name='__main__')"
    words = ["merge", "--base", base, "--chat", chat, "--cp", cp, "--out", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=-1, stderr=-1, text=True)
    process.stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said, said
    assert process.returncode in (0, 130, -signal.SIGINT)  # the last where it was at its end already


def test_run_shows_where_an_error_comes_from_when_asked(tmp_path, capsys):
    study = tmp_path / "s.yaml"
    study.write_text("notebooks: [a]\n")
    assert main(["run", str(study)]) == 2
    said = capsys.readouterr().err
    assert str(study) in said and "Traceback" not in said
    assert main(["run", str(study), "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("out", "vector"), [("z", "z"), ("y", "y/v"), ("x/m", "x")])
def test_two_outputs_never_share_a_folder(tmp_path, capsys, out, vector):
    words = ["--base", "b", "--chat", "c", "--cp", "p", "--out", str(tmp_path / out)]
    assert main(["merge", *words, "--save-vector", str(tmp_path / vector)]) == 1
    assert "give each a folder of its own" in capsys.readouterr().err and not list(tmp_path.iterdir())
