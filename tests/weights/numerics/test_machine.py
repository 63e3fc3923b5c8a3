"""Machine code that is kept: loaded without a compiler, and never taken from a file that is not whole and ours."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest

from chatvec_lab.weights.numerics import lanes, machine


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_folders", lambda: [tmp_path / "kernels"])
    return tmp_path / "kernels"


@pytest.fixture
def compiled(monkeypatch):
    """The names of what was compiled, in order."""
    names, compile_ = [], machine.Kernel._compiled

    def count(self, files):
        names.append(self.name)
        return compile_(self, files)

    monkeypatch.setattr(machine.Kernel, "_compiled", count)
    return names


def differences() -> np.ndarray:
    """What a fresh kernel says of five differences."""
    kernel = machine.Kernel(lanes._source, "differences_float32_float32", "qqqqf")
    plus, minus = np.float32([1, 2, 3, 4, -0.0]), np.float32([0.5, 2, 4, -4, 0.0])
    out = np.full(5, np.nan, np.float32)
    addresses = [array.__array_interface__["data"][0] for array in (plus, minus, out)]
    assert kernel(*addresses, out.size, 2.0**-100) == 0
    assert out.tobytes() == (plus - minus + np.float32(0)).tobytes()
    return out


@pytest.mark.parametrize("is_terminal", [True, False])
def test_who_waits_is_told_why_once(folder, monkeypatch, is_terminal):
    said = io.StringIO()
    said.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", said)
    machine._tell.cache_clear()
    for _ in range(2):
        differences()
        [kept] = folder.iterdir()
        kept.unlink()
    assert said.getvalue().count("once") == is_terminal


def test_a_kernel_is_compiled_once_and_then_loaded(folder, compiled):
    first = differences()
    [kept] = folder.iterdir()
    assert compiled == ["differences_float32_float32"]
    assert kept.stat().st_mode & 0o777 == 0o644 and folder.stat().st_mode & 0o777 == 0o700
    assert differences().tobytes() == first.tobytes() and len(compiled) == 1


@pytest.mark.parametrize("harm", ["cut", "flipped", "writable", "link", "empty", "folder"])
def test_a_kept_file_that_is_not_whole_and_ours_is_compiled_anew(folder, compiled, harm, tmp_path):
    differences()
    [kept] = folder.iterdir()
    content = bytearray(kept.read_bytes())
    if harm == "cut":
        kept.write_bytes(content[:-100])
    elif harm == "flipped":
        content[len(content) // 2] ^= 1
        kept.write_bytes(content)
    elif harm == "writable":
        kept.chmod(0o666)
    elif harm == "empty":
        kept.write_bytes(b"")
    else:
        kept.rename(tmp_path / "elsewhere")
        kept.symlink_to(tmp_path / "elsewhere") if harm == "link" else kept.mkdir()
    differences()
    assert len(compiled) == 2
    if harm != "folder":  # which stays, and is in the way
        assert kept.is_file() and not kept.is_symlink()
        differences()
        assert len(compiled) == 2, "what was written again is good"


def test_the_number_of_threads_does_not_compile_anew(monkeypatch):
    before = machine._surroundings.__wrapped__()
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert machine._surroundings.__wrapped__() == before
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert machine._surroundings.__wrapped__() != before


def test_other_sources_versions_and_processors_have_code_of_their_own(folder, compiled, monkeypatch):
    differences()
    monkeypatch.setattr(machine, "_surroundings", lambda: ("another processor",))
    differences()
    assert len(compiled) == len(list(folder.iterdir())) == 2


def test_code_that_needs_its_compiler_is_used_and_not_kept(folder, compiled, monkeypatch):
    monkeypatch.setattr(machine, "_alone", lambda text, symbol: None)
    differences()
    differences()
    assert len(compiled) == 2 and not folder.exists()


def test_where_nothing_can_be_kept_each_process_compiles(monkeypatch, compiled, folder):
    nowhere = machine.Path(os.devnull)
    monkeypatch.setattr(machine, "_folders", lambda: [nowhere])
    differences()
    differences()
    assert len(compiled) == 2
    monkeypatch.setattr(
        machine, "_folders", lambda: [nowhere, folder]
    )  # the user's, where a package is read-only
    differences()
    differences()
    assert len(compiled) == 3 and len(list(folder.iterdir())) == 1


def test_nothing_that_a_transform_computes_needs_numba():
    """Drawing, masks, thresholds, norms, votes: each kernel is kept, not compiled in every process."""
    code = (
        "import sys, numpy as np\n"
        "from chatvec_lab.weights.numerics import added, arrays, draws, votes\n"
        "raw, wide = np.ones(700, np.float32), [votes.Delta(np.ones(700)), votes.Delta(-np.ones(700))]\n"
        "cp = np.ones(700, np.uint16)\n"
        "draws.noise((1, 2), 0, 700, draws.squares(raw, 700), raw), draws.words((1, 2), 0, 5)\n"
        "draws.thin((1, 2), 0, 0.5, [raw]), arrays._near(raw, 0, 5), votes.agreed(wide, np.ones(700))\n"
        "votes.agreed_of_two([votes.Delta(cp, cp, 1 << 29)] * 2, raw, raw.copy()), added.fill(cp, raw, None, cp)\n"
        "draws.squares_of_difference(cp, cp, 700)\n"
        "arrays.trim([(1.0, raw, None)], raw, 5, 0), arrays.drop([(1.0, raw, None)], raw > 0)\n"
        "arrays._counts(raw, 0, 16)\n"
        "print('numba' in sys.modules)"
    )
    for _ in range(2):  # the first may compile
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr


def test_a_sum_of_kept_kernels_needs_no_numba():
    code = (
        "import sys, numpy as np\n"
        "from chatvec_lab.weights.numerics import exact\n"
        "a, b, c = np.float32([1, 2]), np.float32([3, 3]), np.float32([1, 2])\n"
        "for parts in ([(.5, b, c)], [(.5, b, c), (2., c, None)]):\n"
        "    print(*exact.combine(a, parts, np.empty(2, np.float32)))\n"
        "print('numba' in sys.modules)"
    )
    for _ in range(2):  # the first may compile
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert said.split() == ["2.0", "2.5", "4.0", "6.5", "False"]


@pytest.mark.parametrize("size", [0, 1, 7])
def test_arrays_that_do_not_fit_are_left_to_others(size):
    plus, minus = np.ones(5, np.float32), np.ones(size, np.float32)
    assert not lanes.subtract(plus, minus, np.empty(5, np.float32))
    assert not lanes.can_fill(plus, plus, minus, np.empty(5, np.float32))
    odd = np.frombuffer(bytes(21), np.uint8)[1:].view(np.float32)
    assert not lanes.can_fill(odd, plus, plus, np.empty(5, np.float32)), "not at an address of float32"


def test_kernels_are_for_this_processor_whoever_imports_their_sources():
    code = (
        "from chatvec_lab.weights.numerics import compiled_lanes, machine\n"
        "from numba import config\n"
        "print(config.CPU_FEATURES == machine.features(), compiled_lanes.HAS_HALF >= ('+f16c' in machine.features()))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["True", "True"], done.stderr
