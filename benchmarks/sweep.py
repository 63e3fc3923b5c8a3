"""The price of one more scale: a turn of a live model beside rewriting the checkpoint and loading it again.

    python benchmarks/sweep.py [--device cuda] [--rounds 5] [--layers 22] [--threads 2] [--two] [--no-mergekit]

TinyLlama-1.1B shapes in bfloat16, made by shapes.py. A turn is compared with one copy of all weights in memory (by
torch, and by numpy, whose copy bypasses the caches), on the same threads and in turns, since the machine may be
busy; ratios are of median walls, and of the least CPU time, which other work on the machine disturbs less.
The rewrites are `merged.save` and mergekit's best recipe (an environment of its own, see peers.py), each followed
by `from_pretrained`; they are the median of --rewrites runs.
"""

import argparse
import os
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from merge import measure
from peers import RECIPE, mergekit
from shapes import WORK, make
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from chatvec_lab import Checkpoint
from chatvec_lab.live import LiveModel

SCALES = (0.5, 0.7, 1.0, 1.3, -0.3)


def timed(function) -> tuple[float, float]:
    """Wall and CPU seconds of a call, all threads together, and of what it started on a GPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    for gpu in range(torch.cuda.device_count()):
        torch.cuda.synchronize(gpu)
    return time.perf_counter() - wall, time.process_time() - cpu


def copies(model) -> dict:
    """Functions that copy all weights once into memory of the same size: by torch and, on a CPU, by numpy."""
    weights = [parameter.detach() for parameter in model.parameters()]
    others = [weight.clone() for weight in weights]

    def by_torch():
        for weight, other in zip(weights, others, strict=True):
            other.copy_(weight)

    def by_numpy():
        for weight, other in zip(weights, others, strict=True):
            np.copyto(other.view(torch.uint8).numpy(), weight.view(torch.uint8).numpy())

    ways = {"copy by torch": by_torch}
    return ways | ({} if weights[0].is_cuda else {"copy by numpy (one thread)": by_numpy})


def held() -> float:
    """GB of memory of this process's own; pages of files, which the kernel may forget, are not counted."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e9


def reload(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def rewrites(models: dict, cp: Checkpoint, tau, with_mergekit: bool) -> dict:
    """Name to a function that makes the model of a scale in the folder `out` by other means."""
    ways = {"merged.save": lambda scale, out: (cp + scale * tau).save(out, progress=False)}
    tool = mergekit(WORK / "mergekit") if with_mergekit else None
    if tool:
        recipe, paths = WORK / "recipe.yaml", {name: str(path) for name, path in models.items()}

        def by_mergekit(scale, out):
            text = RECIPE.format(**paths)
            recipe.write_text(
                text.replace("weight: 1.0", f"weight: {scale}").replace("weight: -1.0", f"weight: {-scale}")
            )
            command = [str(tool), str(recipe), str(out), "--out-shard-size", "500M"]
            measure(command, HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")

        ways["mergekit 0.1.5"] = by_mergekit
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rewrites", type=int, default=2)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU such as cuda")
    parser.add_argument("--tau-device", default="auto", help="auto, or cpu to keep tau in host memory")
    parser.add_argument("--resident", default="cp", help="what is held beside the model: cp, all or none")
    parser.add_argument("--two", action="store_true", help="tau + 0.3 * (cp - base) instead of tau alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-mergekit", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()

    models = make(WORK / f"shapes-{options.layers}", members=("base", "chat", "cp"), layers=options.layers)
    base, chat, cp = (Checkpoint(models[name]) for name in ("base", "chat", "cp"))
    tau = chat - base + 0.3 * (cp - base) if options.two else chat - base
    start, before = time.perf_counter(), held()
    kept = {"tau_device": options.tau_device, "resident": options.resident}
    live = LiveModel(cp, tau, options.device, **kept)
    live.scale = 0.7  # compiles the kernel, where that was never done
    made = time.perf_counter() - start
    size = sum(p.nbytes for p in live.model.parameters()) / 1e9
    print(
        f"resident={options.resident}: the process holds {held() - before:.1f} GB more, the model has {size:.1f}"
    )
    copied = copies(live.model)
    contestants = copied | {
        f"turn to {scale}": lambda scale=scale: setattr(live, "scale", scale) for scale in (*SCALES, 0.0)
    }
    runs = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, function in contestants.items():
            runs[name].append(timed(function))
    wall = {name: statistics.median(r[0] for r in found) for name, found in runs.items()}
    cpu = {name: min(r[1] for r in found) for name, found in runs.items()}
    print(
        f"{live.model.num_parameters():,} parameters, {options.threads} threads, {options.rounds} rounds, load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; made in {made:.1f} s"
        + (
            f"; {torch.cuda.get_device_name(live.model.device)} turns {live.gpu_share:.0%} itself"
            if live.model.device.type == "cuda"
            else ""
        )
    )
    # a GPU's work costs the host no time that tells
    by_cpu = list(copied) if live.model.device.type == "cpu" else []
    print("| | ms (range) | copies by torch |" + "".join(f" CPU: {name} |" for name in by_cpu))
    print("|---" * (3 + len(by_cpu)) + "|")
    for name, found in runs.items():
        low, high = (1000 * f(r[0] for r in found) for f in (min, max))
        print(
            f"| {name} | {1000 * wall[name]:.1f} ({low:.1f}-{high:.1f}) | {wall[name] / wall['copy by torch']:.1f} |"
            + "".join(f" {cpu[name] / cpu[by]:.1f} |" for by in by_cpu)
        )

    turn = statistics.median(wall[f"turn to {scale}"] for scale in SCALES)
    out = WORK / "swept"
    ways = rewrites(models, cp, tau, not options.no_mergekit) if options.rewrites else {}
    for name, rewrite in ways.items():
        found = []
        for scale in SCALES[1 : 1 + options.rewrites]:
            shutil.rmtree(out, ignore_errors=True)
            found.append(
                (timed(lambda scale=scale, r=rewrite: r(scale, out))[0], timed(lambda: reload(out))[0])
            )
        written, loaded = (statistics.median(column) for column in zip(*found, strict=True))
        print(
            f"{name}: {written:.1f} s to write, {loaded:.1f} s to load; a turn of {turn:.2f} s is "
            f"{(written + loaded) / turn:.0f} times cheaper"
        )
    shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
