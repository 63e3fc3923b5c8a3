"""The anatomy measured: all statistics of one chat and two CP vectors beside just reading the files, and modeldelta.

    python benchmarks/anatomy.py [--rounds 3] [--layers 22] [--no-modeldelta]

Four checkpoints of TinyLlama-1.1B shapes (8.9 GB, made by shapes.py under benchmarks/scratch/): norms, cosines,
interference and vocabulary rows of chat - base, cp - base and cp40k - base (8000 tokens more) from one pass, against
reading the same files with a reused 2 MiB buffer. Contestants take turns, each in a process of its own; seconds are
those of the call, without imports; the first round only warms caches. modeldelta (0.4.4, installed with pip beside
the checkpoints) analyses chat and cp on the 18 tensors of two layers, without spectra among different deltas; we do
the same with every singular value, and without spectra.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from shapes import WORK, make

READ = """
from pathlib import Path
def call(folders):
    buffer = bytearray(1 << 21)
    for file in sorted(f for folder in folders for f in Path(folder).glob("*.safetensors")):
        with open(file, "rb", buffering=0) as handle:
            while handle.readinto(buffer):
                pass
"""
VECTORS = """
from chatvec_lab import Checkpoint, anatomy
from chatvec_lab.weights.sources.files import Stored
from chatvec_lab.weights.sources.folder import Folder
def opened(folder, wanted):
    entries = Checkpoint(folder).tensors.entries
    kept = Stored({n: e for n, e in entries.items() if any(w in n for w in wanted)})
    return Checkpoint(folder, origin=Folder(Checkpoint(folder).folder, kept))
def vectors(folders, *wanted):
    base, *models = (opened(folder, wanted) for folder in folders)
    return {f"vector {i}": model - base for i, model in enumerate(models)}
anatomy.survey(vectors(folders, "model.norm"), progress=False)
"""
SURVEY = (
    VECTORS
    + """
def call(folders):
    anatomy.survey(vectors(folders, ""), progress=False)
"""
)
LAYERS = (
    VECTORS
    + """
def call(folders):
    chosen = vectors(folders, "layers.0.", "layers.1.")
    anatomy.survey(chosen, progress=False)
"""
)
SPECTRA = (
    LAYERS
    + """
    anatomy.spectrum(chosen, rank=20, method="exact", progress=False)
"""
)
MODELDELTA = """
from pathlib import Path
from safetensors import safe_open
from modeldelta.core.weight_diff import analyze_delta
def tensors(folder):
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as handle:
            for name in handle.keys():
                if "layers.0." in name or "layers.1." in name:
                    yield name, handle, file
def call(folders):
    places = [{name: file for name, _, file in tensors(folder)} for folder in folders]
    for place in places[1:]:
        for name, file in place.items():
            with safe_open(places[0][name], "pt") as ours, safe_open(file, "pt") as theirs:
                analyze_delta(ours.get_tensor(name), theirs.get_tensor(name))
"""
FRAME = """
import json, sys, time
folders = sys.argv[1:]
{body}
wall, cpu = time.perf_counter(), time.process_time()
call(folders)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
# (getrusage would report the parent's memory where that was more)
peak = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps(dict(wall=wall, cpu=cpu, peak=peak)))
"""


def measure(body: str, folders: list[Path], path: Path | None = None) -> dict[str, float]:
    """Seconds (wall and CPU) of the call in a process of its own, and the process's peak resident memory in MB."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    code = FRAME.replace("{body}", body)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, folders)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"a contestant failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def modeldelta(folder: Path) -> Path | None:
    """A folder with modeldelta alone (its requirements are ours), or None when pip cannot install it."""
    if not (folder / "modeldelta").is_dir():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(folder),
            "modeldelta==0.4.4",
        ]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            print(f"modeldelta is skipped, pip could not install it: {done.stderr.strip().splitlines()[-1]}")
            return None
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--no-modeldelta", action="store_true")
    options = parser.parse_args()
    made = make(WORK / f"shapes-{options.layers}", layers=options.layers)
    everything = [made[member] for member in ("base", "chat", "cp", "cp40k")]
    contestants = {"read": (READ, everything, None), "survey": (SURVEY, everything, None)}
    peer = None if options.no_modeldelta else modeldelta(WORK / "modeldelta")
    if peer is not None:
        contestants |= {
            "survey of 2 layers": (LAYERS, everything[:3], None),
            "survey and all singular values of 2 layers": (SPECTRA, everything[:3], None),
            "modeldelta of 2 layers": (MODELDELTA, everything[:3], peer),
        }
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for number in range(options.rounds + 1):
        for name, contestant in contestants.items():
            run = measure(*contestant)
            if number:
                seen[name].append(run)
            print(
                f"round {number}: {name}: {run['wall']:.2f} s, CPU {run['cpu']:.2f} s, peak {run['peak']:.0f} MB",
                flush=True,
            )

    def ratio(one: str, other: str, what: str) -> float:
        """Of two contestants, the median over rounds."""
        return statistics.median(a[what] / b[what] for a, b in zip(seen[one], seen[other], strict=True))

    peak = max(run["peak"] for run in seen["survey"])
    print(f"survey: {ratio('survey', 'read', 'wall'):.1f} x the time of reading the files, "
          f"{ratio('survey', 'read', 'cpu'):.1f} x its CPU time, peak {peak:.0f} MB")  # fmt: skip
    for name in (
        name for name in contestants if name.endswith("of 2 layers") and not name.startswith("modeldelta")
    ):
        wall, cpu = (ratio("modeldelta of 2 layers", name, what) for what in ("wall", "cpu"))
        print(f"modeldelta: {wall:.1f} x the time and {cpu:.1f} x the CPU time of our {name}")


if __name__ == "__main__":
    main()
