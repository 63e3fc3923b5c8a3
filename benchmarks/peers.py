"""Others who make the same mixtures: scripts as people write them, and recipes of mergekit, each a process of its own.

`differing` counts how many elements of a result are not those of another one, bit by bit.
"""

import subprocess
import sys
import venv
from pathlib import Path

# b, c and o are the tensors of base, chat and other; {sum} is a formula of them, such as 0.7 * (c - b)
NAIVE = """
import sys, torch
from transformers import AutoModelForCausalLM as M
cp, *others = (M.from_pretrained(path, dtype="auto") for path in sys.argv[2:])
others = [model.state_dict() for model in others]
with torch.no_grad():
    for name, weight in cp.state_dict().items():
        {members} = (state[name] for state in others)
        weight += {sum}
cp.save_pretrained(sys.argv[1])
"""
EAGER = """
import glob, os, sys, torch
from safetensors.torch import load_file, save_file
cp, *others = (
    {{n: t for file in glob.glob(path + "/*.safetensors") for n, t in load_file(file).items()}} for path in sys.argv[2:]
)
for name, weight in cp.items():
    {members} = (state[name].float() for state in others)
    cp[name] = (weight.float() + {sum}).to(weight.dtype)
os.makedirs(sys.argv[1])
save_file(cp, sys.argv[1] + "/model.safetensors", metadata={{"format": "pt"}})
"""
SCRIPTS = {"naive transformers script": NAIVE, "torch, eager, float32": EAGER}

RECIPE = """
merge_method: task_arithmetic
base_model: {cp}
models:
  - {{model: {chat}, parameters: {{weight: 1.0}}}}
  - {{model: {base}, parameters: {{weight: -1.0}}}}
parameters: {{normalize: false}}
dtype: float32
out_dtype: bfloat16
tokenizer_source: base
"""
MIXTURE = """
merge_method: {method}
base_model: {base}
models:
  - {{model: {chat}, parameters: {{weight: 0.7{density}}}}}
  - {{model: {other}, parameters: {{weight: 0.3{density}}}}}
dtype: float32
out_dtype: bfloat16
tokenizer_source: base
"""
METHODS = {"task_arithmetic": "", "dare_linear": ", density: 0.3", "ties": ", density: 0.3"}


def script(source: str, formula: str, out: Path, cp: Path, *others: Path) -> list[str]:
    """The command of a script; `others` are base, chat and, where the formula has an o, other."""
    code = source.format(sum=formula, members=", ".join("bco"[: len(others)]))
    return [sys.executable, "-c", code, str(out), str(cp), *map(str, others)]


def mixture(folder: Path, method: str, **members: Path) -> Path:
    """The recipe of a mixture of two models, as a file that mergekit and `merge --mergekit` both run."""
    file = folder / f"{method}.yaml"
    file.write_text(MIXTURE.format(method=method, density=METHODS[method], **members))
    return file


def mergekit(folder: Path) -> Path | None:
    """mergekit's command in an environment of its own, or None when it cannot be installed."""
    command = folder / "bin" / "mergekit-yaml"
    if command.exists():
        return command
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "torch==2.13.0", "mergekit==0.1.5"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        print(f"mergekit is skipped, pip could not install it: {done.stderr.strip().splitlines()[-1]}")
        return None
    return command


def by_mergekit(tool: Path, recipe: Path, out: Path) -> list[str]:
    return [str(tool), str(recipe), str(out), "--out-shard-size", "500M"]


def differing(folder: Path, other: Path) -> tuple[int, int]:
    """(elements whose bits differ, elements) of two checkpoints of 16 bits with the same tensors.

    Counted by a process of its own, since the kernel takes what this one holds for the peak of those that it starts.
    """
    done = subprocess.run(
        [sys.executable, __file__, folder, other], capture_output=True, text=True, check=True
    )
    found, size = map(int, done.stdout.split())
    return found, size


def _count(folder: Path, other: Path) -> tuple[int, int]:
    import torch
    from safetensors.torch import load_file

    def tensors(place: Path) -> dict[str, torch.Tensor]:
        return {
            name: tensor for file in place.glob("*.safetensors") for name, tensor in load_file(file).items()
        }

    theirs, ours = tensors(folder), tensors(other)
    found = sum(int((theirs[n].view(torch.int16) != t.view(torch.int16)).sum()) for n, t in ours.items())
    return found, sum(tensor.numel() for tensor in ours.values())


if __name__ == "__main__":
    print(*_count(*map(Path, sys.argv[1:])))
