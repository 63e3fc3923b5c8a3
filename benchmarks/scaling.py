"""Does a merge stay as fast and as small as the model grows? Seconds and CPU a gigabyte, and memory, at three sizes.

    python benchmarks/scaling.py [--rounds 2] [--sizes 0.1B 1.1B 7B] [--disk GB]

Each size has the shapes of a Llama (a GPT-2-like small one, TinyLlama, Llama-2-7B), random weights in bfloat16 (shapes.py). A
gigabyte is one read or written: three checkpoints and the result. Before each run the pages of the inputs are dropped from the
page cache, as 7B does not fit into it, and the limit (`cat` of three, writing one, and `sync` of that) is measured beside it in
the same way. The time of `--help` is taken off ours. Three members of 7B and a result take 54 GB of disk; where there is less
(or `--disk` allows less; 6 GB stay free in any case) they have fewer layers of the same shapes, and the table says how many. Of
their layers one is drawn and the others repeat its bytes. They are removed again unless `--keep`.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from math import prod
from pathlib import Path

from merge import Run, measure
from shapes import WORK, make, shapes

MEMBERS = ("base", "chat", "cp")
SIZES = {
    "0.1B": {"layers": 12, "hidden": 768, "intermediate": 2048, "heads": 12, "kv_heads": 12},
    "1.1B": {"layers": 22},
    "7B": {"layers": 32, "hidden": 4096, "intermediate": 11008, "heads": 32, "kv_heads": 32, "drawn": 1},
}
SPARED = 6e9  # bytes of the disk that stay free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--disk", type=float, default=float("inf"), metavar="GB", help="that 7B may take at most"
    )
    parser.add_argument("--keep", action="store_true", help="keep the inputs of 7B")
    options = parser.parse_args()
    ours = [sys.executable, "-m", "chatvec_lab"]
    print(
        "| size | GB | limit, s a GB | ours, s a GB (range) | x limit | CPU s a GB | its limit | peak MB |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for size in options.sizes:
        folder = WORK / ("shapes-22" if size == "1.1B" else f"shapes-{size}")
        shape = SIZES[size] if size != "7B" else fitting(SIZES[size], folder, options.disk * 1e9)
        models, out = make(folder, members=MEMBERS, **shape), WORK / "out-scaling"
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
        limit, its_cpu = (
            statistics.median(getattr(r, k) for r in runs["limit"]) / gigabytes for k in ("wall", "cpu")
        )
        walls = sorted((r.wall - start["wall"]) / gigabytes for r in runs["ours"])
        cpu = statistics.median(r.cpu - start["cpu"] for r in runs["ours"]) / gigabytes
        wall, peak = statistics.median(walls), max(r.peak for r in runs["ours"])
        if shape["layers"] < SIZES[size]["layers"]:
            size += f" shapes, {shape['layers']} of {SIZES[size]['layers']} layers"
        print(
            f"| {size} | {gigabytes:.1f} | {limit:.2f} | {wall:.2f} ({walls[0]:.2f}-{walls[-1]:.2f}) | {wall / limit:.2f} | "
            f"{cpu:.2f} | {its_cpu:.2f} | {peak:.0f} |",
            flush=True,
        )
        if "drawn" in shape and not options.keep:
            shutil.rmtree(folder)


def fitting(shape: dict[str, int], folder: Path, allowed: float) -> dict[str, int]:
    """The shape with as many layers as the disk has room for, beside what must stay free."""
    there = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))  # of an earlier run
    room = min(allowed, shutil.disk_usage(WORK).free + there - SPARED)
    for layers in range(shape["layers"], 0, -1):
        settings = {
            "hidden_size": shape["hidden"], "intermediate_size": shape["intermediate"], "num_hidden_layers": layers,
            "num_attention_heads": shape["heads"], "num_key_value_heads": shape["kv_heads"],
        }  # fmt: skip
        size = 2 * sum(prod(dimensions) for dimensions in shapes(settings, 32000).values())
        if (len(MEMBERS) + 1) * size <= room:
            return shape | {"layers": layers}
    raise OSError(f"no room for one layer of {folder.name}: {room:,.0f} bytes may be taken on that disk.")


def drop(files: list[Path]) -> None:
    """Forget what the page cache holds of these files."""
    subprocess.run(["sync", *map(str, files)], check=True)
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


if __name__ == "__main__":
    main()
