"""Merging FP8 members beside merging the same in bfloat16: time over that of bfloat16, and memory.

    python benchmarks/fp8.py [--rounds 3] [--layers 22] [--scale-dtype float32]

TinyLlama-1.1B shapes (shapes.py), of which the linear layers are also stored as E4M3 with a scale for 128 x 128 weights,
in DeepSeek's float32 or Qwen3's bfloat16. Every round runs each merge once, in turn; the first warms the page cache. The
time of `--help`, the start of Python and its imports, is taken off both. Both results are in bfloat16.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from merge import measure
from shapes import WORK, make

BLOCK = 128


def quantise(whole: Path, folder: Path, scale_dtype: str) -> None:
    """Write the model of a folder with its linear layers in FP8, one file a shard."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    index = {}
    for shard in sorted(whole.glob("*.safetensors")):
        stored = {}
        with safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                is_linear = name.endswith("proj.weight")
                stored |= eight(name, tensor, getattr(torch, scale_dtype)) if is_linear else {name: tensor}
        save_file(stored, folder / shard.name, metadata={"format": "pt"})
        index |= dict.fromkeys(stored, shard.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = json.loads((folder / "config.json").read_text())
    entry = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": entry}))
    (folder / "done").touch()


def eight(name: str, tensor, scale_dtype) -> dict:
    """A matrix as codes and scales, one for each block."""
    import torch

    rows, columns = tensor.shape  # multiples of 128 in these shapes
    blocks = tensor.float().reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    scale = (blocks.abs().amax((1, 3)) / 448).to(scale_dtype)
    codes = (blocks / scale.float()[:, None, :, None]).to(torch.float8_e4m3fn).reshape(rows, columns)
    return {name: codes, f"{name}_scale_inv": scale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--scale-dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--make", nargs=2, metavar="FOLDER", help="only quantise the first folder into the second"
    )
    options = parser.parse_args()
    if options.make:
        return quantise(*map(Path, options.make), options.scale_dtype)
    members = ("base", "chat", "cp")
    whole = make(WORK / f"shapes-{options.layers}", members=members, layers=options.layers)
    packed = {m: WORK / f"fp8-{options.layers}-{options.scale_dtype}" / m for m in members}
    for m, folder in packed.items():
        if not (
            folder / "done"
        ).is_file():  # in a process of its own: a child's peak memory begins with its parent's
            told = ["--make", str(whole[m]), str(folder), "--scale-dtype", options.scale_dtype]
            subprocess.run([sys.executable, __file__, *told], check=True)
    out, start = WORK / "out-fp8", [sys.executable, "-m", "chatvec_lab"]

    def merge(folders: dict[str, Path]) -> list[str]:
        given = [text for m in members for text in (f"--{m}", str(folders[m]))]
        return [*start, "merge", *given, "--scale", "0.7", "--out", str(out)]

    contestants = {"help": [*start, "--help"], "bfloat16": merge(whole), "FP8": merge(packed)}
    runs = {name: [] for name in contestants}
    for i in range(options.rounds + 1):
        for name, command in contestants.items():
            run = measure(command, out, HF_HUB_OFFLINE="1")
            if i:
                runs[name].append(run)
                print(
                    f"round {i}: {name}: {run.wall:.2f} s, CPU {run.cpu:.2f} s, {run.peak:.0f} MB",
                    file=sys.stderr,
                )
    shutil.rmtree(out, ignore_errors=True)
    median = {
        n: {k: statistics.median(getattr(r, k) for r in rs) for k in ("wall", "cpu", "peak")}
        for n, rs in runs.items()
    }
    ratio = {
        k: (median["FP8"][k] - median["help"][k]) / (median["bfloat16"][k] - median["help"][k])
        for k in ("wall", "cpu")
    }
    ours, plain = median["FP8"], median["bfloat16"]
    print(
        f"{options.layers} layers, scales in {options.scale_dtype}, {options.rounds} rounds: FP8 takes {ratio['wall']:.2f} "
        f"times the seconds and {ratio['cpu']:.2f} times the CPU of bfloat16 (without the start); peak {ours['peak']:.0f} MB, "
        f"bfloat16 {plain['peak']:.0f} MB"
    )


if __name__ == "__main__":
    main()
