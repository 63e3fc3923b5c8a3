"""What notebooks ask of an engine: read as written, and a machine divided up for it."""

from types import SimpleNamespace

import pytest

from chatvec_lab import study
from chatvec_lab.study import asks

CODE = "from chatvec_lab import study\nout = study.output(out_dir)"


def cells(*asked):
    return [SimpleNamespace(notebook=f"n{i}", asks=ask) for i, ask in enumerate(asked)]


def test_a_study_says_what_its_cells_ask_for_and_results_do_not_depend_on_it(lab):
    lab.notebook("n", "seed: int = 0  # seed", CODE)
    file = lab.study("notebooks:\n  n.ipynb: {grid: {seed: [0, 1]}, hours: 0.50, gpus: 1, memory_gb: 40}\n")
    first = study.load(file)
    assert [cell.asks for cell in first.cells] == [{"hours": "0.50", "gpus": "1", "memory_gb": "40"}] * 2
    file = lab.study("notebooks:\n  n.ipynb: {grid: {seed: [0, 1]}}\n")
    assert [cell.key for cell in study.load(file).cells] == [cell.key for cell in first.cells]
    assert study.load(file).cells[0].asks == {}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("hours: two", "tiny.yaml: n.ipynb: hours: two: there should be a number above 0"),
        ("hours: 0", "a number above 0"),
        ("hours: .inf", "a number above 0"),
        ("memory_gb: -1", "a number above 0"),
        ("memory_gb: 40G", "a number above 0"),
        ("gpus: 1.5", "gpus: 1.5: there should be a whole number of 0 or more"),
        ("gpus: true", "got true"),
        ("cpus: 0", "a whole number of 1 or more"),
        ("cpus: [1]", "there should be text"),
        ("gpu: 1", "'gpu': did you mean 'gpus'?"),
        ("memory: 1", "did you mean 'memory_gb'?"),
    ],
)
def test_what_no_engine_could_give_is_refused_by_the_plan(lab, entry, message):
    lab.notebook("n", "seed: int = 0  # seed", CODE)
    with pytest.raises(ValueError) as error:
        study.load(lab.study(f"notebooks:\n  n.ipynb: {{{entry}}}\n"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("asked", "devices", "workers", "expected"),
    [
        ([], [], None, (8, [])),
        ([], ["0", "1"], None, (2, ["0", "1"])),
        ([], ["0", "1"], 5, (5, ["0", "1"])),
        ([{"gpus": "2"}, {"gpus": "1"}], ["0", "1", "2", "3", "4"], None, (2, ["0,1", "2,3"])),
        ([{"gpus": "0"}], [], None, (8, [])),
        ([{"gpus": "h100:2"}], ["4", "6"], None, (1, ["4,6"])),
        ([{"memory_gb": "20"}], [], None, (3, [])),
        ([{"memory_gb": "20"}, {"memory_gb": "40"}], ["0", "1"], None, (1, ["0", "1"])),
        ([{"cpus": "4"}], [], None, (4, [])),
        ([{"cpus": "99"}], [], None, (1, [])),
        ([{"hours": "999"}], [], 2, (2, [])),
    ],
)
def test_a_machine_is_divided_up(asked, devices, workers, expected):
    found = asks.divided(cells(*asked), devices=devices, cores=16, memory_gb=64, workers=workers)
    assert found == expected


@pytest.mark.parametrize(
    ("asked", "workers", "message"),
    [
        ({"gpus": "3"}, None, r"n0 asks for 3 GPUs, and 2 can be used here.*\(gpus:\)"),
        ({"memory_gb": "65"}, None, "n0 asks for 65 GB of memory, and this machine has 64"),
        ({"memory_gb": "20"}, 4, "--workers 4: n0 asks for 20 GB of memory.*take --workers 3"),
    ],
)
def test_more_than_there_is_is_refused(asked, workers, message):
    with pytest.raises(ValueError, match=message):
        asks.divided(cells(asked), devices=["0", "1"], cores=16, memory_gb=64, workers=workers)


def test_a_run_and_a_dry_run_refuse_what_this_machine_lacks_before_anything_runs(lab):
    lab.notebook("n", "seed: int = 0  # seed", CODE)
    lab.environment["CUDA_VISIBLE_DEVICES"] = ""
    lab.study("notebooks:\n  n.ipynb: {gpus: 1}\n")
    for more in (["--dry-run"], []):
        status, text = lab.run(*more)
        assert (
            status == 2 and "n asks for 1 GPU, and none can be used here" in text and "Traceback" not in text
        )
    assert lab.records() == {}
    lab.environment["CUDA_VISIBLE_DEVICES"] = "3,5"
    status, text = lab.run("--dry-run")
    assert status == 0 and "GPU 3 | 5 in turn" in text
