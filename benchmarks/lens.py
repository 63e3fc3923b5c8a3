"""Memory of the lens on a model of 1.1B shapes, beside the live model that it looks at.

    python benchmarks/lens.py [divergence readings attribution] [--layers 22] [--pairs 4] [--tokens 96] [--plain]

TinyLlama-1.1B shapes in bfloat16, made by shapes.py, held in float32 (LiveModel(..., dtype="float32")). Each look is a process
of its own. Printed, in GB of 10^9 bytes: the model's weights; the sides beside it (the CP's elements, and τ's: chat's and
base's, mapped from their files); the process's peak resident memory, as the kernel reports it, Python and its libraries in
it; the excess of the peak over model and sides; and the most that the process held of its own, without pages of files,
which the kernel may take back. Half of the tokens of a pair are asked, half are said. An attribution is of one node of the
integral, with activation checkpointing (not with --plain), since more nodes take more time and no more memory.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

from shapes import WORK, make

LOOKS = ("divergence", "readings", "attribution")


def look(what: str, layers: int, pairs: int, tokens: int, has_checkpointing: bool) -> dict[str, float]:
    """GB by name, and the seconds of the look itself."""
    from chatvec_lab import Checkpoint, lens
    from chatvec_lab.live import LiveModel

    folders = make(WORK / f"shapes-{layers}", members=("base", "chat", "cp"), layers=layers)
    base, chat, cp = (Checkpoint(folders[member]) for member in ("base", "chat", "cp"))
    live = LiveModel(cp, chat - base, device="cpu", dtype="float32")
    watch = Watch()
    loaded, drawn, began = peak(), random.Random(0), time.perf_counter()

    def words() -> list[int]:
        return [drawn.randrange(3, 32000) for _ in range(tokens // 2)]

    texts = [lens.Pair(words(), words(), str(i)) for i in range(pairs)]
    if what == "divergence":
        lens.divergence(live, texts, [1.0])
    elif what == "readings":
        lens.readings(live, texts[:1], [1.0])
    else:
        once = {"nodes": 1, "most_nodes": 1, "by_pair": False}
        lens.attribution(live, texts, 1.0, checkpointing=has_checkpointing, **once)
    seconds = time.perf_counter() - began
    weights = {t.data_ptr(): t.nbytes for t in (*live.model.parameters(), *live.model.buffers())}
    sides = [a for slot in live.slots for a in (slot.cp, *(side for part in slot.parts for side in part[2:]))]
    return {
        "model": sum(weights.values()) / 1e9,
        "sides": sum(side.nbytes for side in sides if side is not None) / 1e9,
        "loaded": loaded,
        "peak": peak(),
        "own": watch.most(),
        "seconds": seconds,
    }


class Watch(threading.Thread):
    """Looks ten times a second at the memory of this process's own (RssAnon)."""

    def __init__(self):
        super().__init__(daemon=True)
        self._most, self._ends = 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ends.wait(0.1):
            status = Path("/proc/self/status").read_text()
            self._most = max(self._most, int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e9)

    def most(self) -> float:
        self._ends.set()
        return self._most


def peak() -> float:
    """High water of this process's resident memory, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("looks", nargs="*", metavar="look", help=f"of {', '.join(LOOKS)}; all, unless told")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96, help="of a pair, asked and said")
    parser.add_argument("--plain", action="store_true", help="attribution without activation checkpointing")
    parser.add_argument("--alone", action="store_true", help="one look in this process; prints JSON")
    options = parser.parse_args()
    looks = options.looks or list(LOOKS)
    if unknown := set(looks) - set(LOOKS):
        parser.error(f"looks {sorted(unknown)} are unknown; there are {', '.join(LOOKS)}.")
    if options.alone:
        told = look(looks[0], options.layers, options.pairs, options.tokens, not options.plain)
        return print(json.dumps(told))
    settings = [f"--{name}={getattr(options, name)}" for name in ("layers", "pairs", "tokens")]
    settings += ["--plain"] * options.plain
    print(
        "| | model | sides | peak when loaded | peak | excess over model and sides | of its own | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for what in looks:
        # in a process of its own: the peak is a process's, and a child's begins with its parent's
        command = [sys.executable, __file__, what, "--alone", *settings]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        excess = told["peak"] - told["model"] - told["sides"]
        columns = [*(told[name] for name in ("model", "sides", "loaded", "peak")), excess, told["own"]]
        print(
            f"| {what} | {' | '.join(f'{gb:.2f} GB' for gb in columns)} | {told['seconds']:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
