"""A study killed at random instants: the rerun completes, nothing done runs again, the tables are the same bytes."""

import random
import shutil
import signal
import time

import pytest

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


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_instants(lab, kills):
    lab.notebook("made", "seed: int = 0  # seed", MADE)
    lab.notebook("joined", "made: list[str] = []  # folders", JOINED)
    lab.study("""
        notebooks:
          made.ipynb: {grid: {seed: [0, 1, 2]}}
          joined.ipynb: {needs: {made: made}}
    """)
    start = time.monotonic()
    status, text = lab.run("--workers", "2")
    undisturbed = time.monotonic() - start
    assert status == 0, text
    expected = results(lab)
    assert len(expected) == 2 + 2 + 3 * 3 + 4

    chance = random.Random(f"{kills} kills")
    killed, done = 0, {}
    shutil.rmtree(lab.out)
    while killed < kills or len(done) < 4:
        process = lab.start("--workers", "2")
        if killed < kills:
            time.sleep(chance.uniform(0.1, undisturbed))
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
        text, _ = process.communicate(timeout=300)
        assert process.returncode in (0, -signal.SIGKILL), text
        now = {path: record for path, record in lab.records().items() if record["status"] == "done"}
        assert {path: now.get(path) for path in done} == done, "what was done has run again"
        done = now
        if process.returncode == 0:
            assert results(lab) == expected
            if killed < kills:
                shutil.rmtree(lab.out)
                done = {}
    status, text = lab.run("--workers", "2")
    assert status == 0 and text.startswith("4 cells, 4 already done, 0 to run")
    assert results(lab) == expected
