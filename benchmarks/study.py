"""How long a study of the nano family takes, and how long with the code of another checkout, in turn on this machine.

python benchmarks/study.py
python benchmarks/study.py --beside ../chatvec_lab-before --rounds 2       # a git worktree of an earlier commit

Both run the same cells over this checkout's family, from nothing to the page; each round both, one after the other.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDY = """\
title: How long
question: How long does it take?
family: nano
notebooks:
  01_chat_vector:
    grid: {language: [zh, ko], seed: [0]}
  03_scale_sweep:
    grid: {language: [zh, ko], seed: [0, 1]}
  04_instruction_following:
    needs: {sweep: 03_scale_sweep}
    grid: {language: [zh, ko], seed: [0, 1]}
  05_toxicity:
    needs: {sweep: 03_scale_sweep}
    grid: {language: [zh, ko], seed: [0, 1]}
  06_multi_turn:
    needs: {sweep: 03_scale_sweep}
    grid: {language: [zh, ko], seed: [0, 1]}
"""


def seconds(checkout: Path, scratch: Path) -> float:
    """Wall seconds of one run of the study with a checkout's code, in a folder that is emptied first."""
    out, study = scratch / "out", scratch / "study.yaml"
    shutil.rmtree(out, ignore_errors=True)
    study.write_text(STUDY, "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # which users do not set
    command = [sys.executable, "-m", "chatvec_lab", "run", str(study), "--out", str(out)]
    began = time.perf_counter()
    subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def with_our_family(checkout: Path, scratch: Path) -> Path:
    """A copy of a checkout's code and notebooks that reads this one's family."""
    copy = scratch / "beside"
    for name in ("chatvec_lab", "notebooks", "data"):
        skipped = shutil.ignore_patterns("nano" if name == "data" else "__pycache__")
        shutil.copytree(checkout / name, copy / name, ignore=skipped)
    shutil.copy(checkout / "pyproject.toml", copy)
    (copy / "data" / "nano").symlink_to(ROOT / "data" / "nano")
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beside", type=Path, metavar="DIR", help="another checkout of the project")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="(default: 1)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chatvec-study-") as folder:
        scratch, checkouts = Path(folder), {"this code": ROOT}
        if options.beside:
            checkouts["beside"] = with_our_family(options.beside.resolve(), scratch)
        took: dict[str, list[float]] = {name: [] for name in checkouts}
        for number in range(options.rounds + 1):
            for name, checkout in checkouts.items():
                found = seconds(checkout, scratch)
                print(f"{'warms up' if number == 0 else f'round {number}'}: {name} {found:.0f} s", flush=True)
                took[name] += [found] if number else []
    for name, found in took.items():
        print(f"{name}: {statistics.median(found):.0f} s ({min(found):.0f}-{max(found):.0f})")
    if options.beside:
        ratios = [ours / theirs for ours, theirs in zip(took["this code"], took["beside"], strict=True)]
        print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
