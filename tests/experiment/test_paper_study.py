"""The paper's study from end to end, through the real runner, killed twice: every table has a measured row."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from paper_study import KEY, Services, local_task, prompt_files, save_members, study_file

from chatvec_lab.evaluation.asking.cache import JsonlCache
from chatvec_lab.paths import ROOT

N = 6
KILLS, WORKERS = 2, 8  # requests that a judge is asked at a time
TABLES = {"1", "2", "3", "4", "5", "6", "7", "8", "9", "13"}
pytestmark = pytest.mark.slow


def start(study: Path, out: Path, *more: str) -> subprocess.Popen:
    environment = os.environ | {"PAPER_KEY": KEY, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "1",
                                "HF_HOME": str(out.parent / "hf"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "chatvec_lab",
        "run",
        str(study),
        "--out",
        str(out),
        "--workers",
        "1",
        *more,
    ]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    text, _ = process.communicate(timeout=3600)  # a loaded machine needs half an hour
    assert process.returncode == 0, text
    return text


def killed(process: subprocess.Popen, services: Services, at: int) -> None:
    """Kill the run, workers and all, as soon as so many questions were asked."""
    deadline = time.monotonic() + 600
    while sum(services.asked.values()) < at and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(2)  # the kernel notices that its parent is gone


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two studies of the same models: one family names no setting of the paper, the other does."""
    root = save_members(tmp_path_factory.mktemp("stand-in"))
    assert importlib.util.find_spec("lm_eval"), (
        "Table 4 is measured by lm-eval: pip install 'chatvec_lab[lmeval]'"
    )
    tasks = local_task(root / "tasks")
    services = Services(prompt_files(N))
    with services.running():
        studies = {
            name: study_file(root, services.url, name, n=8 * N, tasks=tasks) for name in ("apart", "labelled")
        }
        out = root / "out"
        killed(start(studies["apart"], out / "apart"), services, 5)
        killed(start(studies["apart"], out / "apart"), services, 60)
        texts = {"apart": finish(start(studies["apart"], out / "apart"))}
        again = dict(services.asked)
        texts["again"] = finish(start(studies["apart"], out / "apart", "--force"))
        counted = {"before": again, "after": dict(services.asked)}
        texts["labelled"] = finish(start(studies["labelled"], out / "labelled"))
        yield {"out": out, "services": services, "texts": texts, "asked": counted}


def tables(done, study: str, name: str, notebook: str = "08_paper") -> pd.DataFrame:
    return pd.read_parquet(next((done["out"] / study).glob(f"cells/{notebook}/*/tables/{name}.parquet")))


def answer(done, study: str) -> str:
    return json.loads(next((done["out"] / study).glob("cells/08_paper/*/summary.json")).read_text())["answer"]


def test_every_table_of_the_paper_has_a_measured_row(done):
    for study in ("apart", "labelled"):
        assert set(tables(done, study, "measured").table) == TABLES
        assert tables(done, study, "measured").here.notna().all()
        assert "Not measured here: Tables" not in answer(done, study)


def test_a_family_without_a_setting_stands_apart_and_says_why(done):
    measured = tables(done, "apart", "measured")
    assert set(measured.comparison) == {"apart"} and measured.paper.isna().all()
    assert "names no setting of the paper" in answer(done, "apart")
    assert tables(done, "apart", "beside").empty


def test_a_family_of_the_papers_setting_stands_beside_it(done):
    beside = tables(done, "labelled", "beside")
    assert set(beside.table) == TABLES and beside.paper.notna().all()
    rows = beside.set_index(["table", "condition", "setup"])
    merged = rows.loc[("1", "no_system_prompt", "CP + τ")]
    assert (merged.paper, merged.scorer) == (7.03, "gpt-4 (paper)")
    assert rows.paper["6", "chat_vector", "τ of xwin"] == 7.28
    assert 1 <= rows.here["8", "", "CP + τ → FT"] <= 10
    assert "Measured as the paper did" in answer(done, "labelled")


def test_every_judgement_is_asked_once_but_for_what_was_in_flight(done):
    before, after = done["asked"]["before"], done["asked"]["after"]
    assert after == before, "a study that runs again asks nothing again"
    folder = done["out"] / "apart" / "replies" / "judgements"
    kept, lost = 0, 0
    for file in folder.glob("*.jsonl"):
        keys = [json.loads(line)["key"] for line in file.read_text().splitlines()]
        assert len(set(keys)) == len(keys), f"{file.name} holds a judgement twice"
        cache = JsonlCache(file)
        kept, lost = kept + len(keys), lost + sum(cache.unanswered(key) for key in keys)
    assert len(before) == kept, "each question that was asked has its judgement"
    # a request is journalled before it is sent, so the journal holds all that a kill made vain
    assert sum(before.values()) - kept <= lost <= KILLS * WORKERS


def test_the_key_is_used_and_nowhere_on_disk(done):
    assert f"Bearer {KEY}" in done["services"].keys
    for file in done["out"].parent.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file
    assert not any(KEY in text for text in done["texts"].values())
