"""Merging measured: this project beside the I/O limit, mergekit's best recipe and a naive transformers script.

    python benchmarks/merge.py [--rounds 3] [--layers 22] [--no-mergekit] [--no-naive]

Every round runs all contestants once, in turn, on the same checkpoints (TinyLlama-1.1B shapes, bfloat16, made by
shapes.py under benchmarks/scratch/), each in a process of its own; outputs are removed before the next run. The first
round only warms the page cache. Ratios are of medians; the limit reads three inputs and writes one output.
mergekit lives in an environment of its own under benchmarks/scratch/ and is skipped, saying so, where pip cannot
install it there.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from peers import NAIVE, RECIPE, by_mergekit, mergekit, script
from shapes import WORK, make

# what two habits cost: the report before a save, and every file on the disk before the rename (fsync)
WITHOUT = {
    "the report": "import chatvec_lab.weights.preflight as p; p.examine = lambda m, **_: p.Report(m.label, {})",
    "having it on the disk": "import os; del os.O_DIRECT; os.fsync = lambda _: None; "
    "import chatvec_lab.weights.saving.pieces as p; p._begin = None",
}
MAIN = "; import sys; from chatvec_lab.command.main import main; sys.exit(main(sys.argv[1:]))"


@dataclass
class Run:
    wall: float
    cpu: float
    peak: float  # MB


def measure(command: list[str], out: Path | None = None, **environment: str) -> Run:
    """One process from start to exit: seconds and peak resident memory as the kernel reports them.

    Python's modules are compiled once and kept, as they are unless PYTHONDONTWRITEBYTECODE says otherwise.
    """
    environment = {"PYTHONDONTWRITEBYTECODE": ""} | environment
    if out is not None:
        shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    message = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise RuntimeError(f"{' '.join(command[:4])} … failed:\n{message[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--no-mergekit", action="store_true")
    parser.add_argument("--no-naive", action="store_true")
    options = parser.parse_args()

    models = make(WORK / f"shapes-{options.layers}", members=("base", "chat", "cp"), layers=options.layers)
    base, chat, cp = (str(models[name]) for name in ("base", "chat", "cp"))
    out = WORK / "out"
    read = f"cat {base}/*.safetensors {chat}/*.safetensors > /dev/null"
    copy = f"{read}; mkdir -p {out}; cat {cp}/*.safetensors > {out}/x"
    ours = [
        sys.executable,
        "-m",
        "chatvec_lab",
        "merge",
        "--base",
        base,
        "--chat",
        chat,
        "--cp",
        cp,
        "--out",
        str(out),
    ]
    contestants = {
        "limit: read three, write one": ["sh", "-c", copy],
        "chatvec_lab, scale 1": [*ours, "--scale", "1"],
        "chatvec_lab, scale 0.7": [*ours, "--scale", "0.7"],
    }
    for habit, code in WITHOUT.items():
        contestants[f"chatvec_lab, scale 1, without {habit}"] = [
            sys.executable, "-c", code + MAIN, *ours[3:], "--scale", "1"
        ]  # fmt: skip
    if not options.no_naive:
        contestants["naive transformers script"] = script(NAIVE, "c - b", out, cp, base, chat)
    tool = None if options.no_mergekit else mergekit(WORK / "mergekit")
    if tool:
        recipe = WORK / "recipe.yaml"
        recipe.write_text(RECIPE.format(base=base, chat=chat, cp=cp))
        contestants["mergekit 0.1.5, best recipe"] = by_mergekit(tool, recipe, out)
    quiet = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    torch_only = measure([sys.executable, "-c", "import torch"]).peak

    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for i in range(options.rounds + 1):
        for name, command in contestants.items():
            run = measure(command, out, **quiet)
            if i:  # the first round pays for the first touch of the files
                runs[name].append(run)
                print(f"round {i}: {name}: {run.wall:.2f} s, {run.peak:.0f} MB", file=sys.stderr)
    shutil.rmtree(out, ignore_errors=True)

    median = {name: Run(*(statistics.median(getattr(r, k) for r in rs) for k in ("wall", "cpu", "peak")))
              for name, rs in runs.items()}  # fmt: skip
    limit = median["limit: read three, write one"]
    print(
        f"{options.layers} layers, {options.rounds} rounds, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; "
        f"limit {limit.wall:.2f} s wall, {limit.cpu:.2f} s CPU; import torch alone: {torch_only:.0f} MB"
    )
    print("| | wall x limit (range) | CPU x limit | peak RSS | above import torch |\n|---|---|---|---|---|")
    for name, m in median.items():
        walls = [r.wall / limit.wall for r in runs[name]]
        above = "" if name.startswith("limit") else f"{m.peak - torch_only:+.0f} MB"
        print(f"| {name} | {m.wall / limit.wall:.2f} ({min(walls):.2f}-{max(walls):.2f}) | {m.cpu / limit.cpu:.2f} | "
              f"{m.peak:.0f} MB | {above} |")  # fmt: skip
    usual = median["chatvec_lab, scale 1"]
    for habit in WITHOUT:
        other = median[f"chatvec_lab, scale 1, without {habit}"]
        print(
            f"{habit} costs {usual.wall - other.wall:+.2f} s ({usual.wall / other.wall - 1:+.1%} wall, "
            f"{usual.cpu / other.cpu - 1:+.1%} CPU)"
        )
    if tool:
        theirs, ours = median["mergekit 0.1.5, best recipe"].wall, median["chatvec_lab, scale 1"].wall
        print(f"chatvec_lab is {theirs / ours:.1f} times as fast as mergekit's best recipe")


if __name__ == "__main__":
    main()
