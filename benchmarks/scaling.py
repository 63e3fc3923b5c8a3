"""Does a merge stay as fast and as small as the model grows? Seconds and CPU a gigabyte, and memory, at three sizes.

    python benchmarks/scaling.py [--rounds 2] [--sizes 0.1B 1.1B 7B]

Each size has the shapes of a Llama (a GPT-2-like small one, TinyLlama, Llama-2-7B), random weights in bfloat16 (shapes.py). A
gigabyte is one read or written: three checkpoints and the result. Before each run the pages of the inputs are dropped from the
page cache, as 7B does not fit into it, and the limit (`cat` of three, writing one, and `sync` of that) is measured beside it in
the same way. The time of `--help` is taken off ours. Inputs of 7B take 40 GB of disk, and are removed again unless `--keep`.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from merge import Run, measure
from shapes import WORK, make

MEMBERS = ("base", "chat", "cp")
SIZES = {
    "0.1B": {"layers": 12, "hidden": 768, "intermediate": 2048, "heads": 12, "kv_heads": 12},
    "1.1B": {"layers": 22},
    "7B": {"layers": 32, "hidden": 4096, "intermediate": 11008, "heads": 32, "kv_heads": 32},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--keep", action="store_true", help="keep the inputs of 7B")
    options = parser.parse_args()
    ours = [sys.executable, "-m", "chatvec_lab"]
    print(
        "| size | GB | limit, s a GB | ours, s a GB (range) | x limit | CPU s a GB | peak MB |\n|---|---|---|---|---|---|---|"
    )
    for size in options.sizes:
        folder = WORK / ("shapes-22" if size == "1.1B" else f"shapes-{size}")
        models, out = make(folder, members=MEMBERS, **SIZES[size]), WORK / "out-scaling"
        inputs = [file for m in MEMBERS for file in sorted(models[m].glob("*.safetensors"))]
        base, chat, cp = (str(models[m]) for m in MEMBERS)
        read = f"cat {base}/*.safetensors {chat}/*.safetensors > /dev/null"
        copy = f"{read}; mkdir -p {out}; cat {cp}/*.safetensors > {out}/x; sync {out}/x"
        merge = [
            *ours,
            "merge",
            "--base",
            base,
            "--chat",
            chat,
            "--cp",
            cp,
            "--scale",
            "0.7",
            "--out",
            str(out),
        ]
        gigabytes = sum(f.stat().st_size for f in inputs) * (1 + 1 / len(MEMBERS)) / 1e9
        runs: dict[str, list[Run]] = {"limit": [], "ours": [], "help": []}
        for _ in range(options.rounds):
            for name, command in {
                "limit": ["sh", "-c", copy],
                "ours": merge,
                "help": [*ours, "--help"],
            }.items():
                drop(inputs)
                runs[name].append(measure(command, out, HF_HUB_OFFLINE="1"))
                shutil.rmtree(out, ignore_errors=True)
        start = {k: statistics.median(getattr(r, k) for r in runs["help"]) for k in ("wall", "cpu")}
        limit = statistics.median(r.wall for r in runs["limit"]) / gigabytes
        walls = sorted((r.wall - start["wall"]) / gigabytes for r in runs["ours"])
        cpu = statistics.median(r.cpu - start["cpu"] for r in runs["ours"]) / gigabytes
        wall, peak = statistics.median(walls), max(r.peak for r in runs["ours"])
        print(
            f"| {size} | {gigabytes:.1f} | {limit:.2f} | {wall:.2f} ({walls[0]:.2f}-{walls[-1]:.2f}) | {wall / limit:.2f} | "
            f"{cpu:.2f} | {peak:.0f} |",
            flush=True,
        )
        if size == "7B" and not options.keep:
            shutil.rmtree(folder)


def drop(files: list[Path]) -> None:
    """Forget what the page cache holds of these files."""
    subprocess.run(["sync", *map(str, files)], check=True)
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


if __name__ == "__main__":
    main()
