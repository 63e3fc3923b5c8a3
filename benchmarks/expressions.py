"""Every kind of sum measured beside the limit of its own reading and writing.

    python benchmarks/expressions.py [--rounds 3] [--layers 22] [EXPRESSION ...]

Each expression is saved by a process of its own; its limit reads (`cat`) the checkpoints that it has to read, as often as
it has to read them, and writes one of its size. A round runs all of them once, in turn; the first round only warms the
page cache. Ratios are of medians. The start of Python is in the seconds of an expression, not in those of its limit.
"""

import argparse
import os
import shutil
import statistics
import sys
from dataclasses import dataclass

from merge import Run, measure
from shapes import WORK, make

SAVE = """
import sys
from chatvec_lab import Checkpoint, ties
base, chat, other, cp = map(Checkpoint, sys.argv[1:5])
tau, second = chat - base, other - base
({expression}).save(sys.argv[5], progress=False, force=["descent", "cp-is-base"], **{options})
"""


@dataclass
class Expression:
    code: str
    reads: str  # the members that it reads, one letter for each reading: b, c, o, p
    options: str = "{}"
    written: int = 1  # in multiples of the CP


EXPRESSIONS = {
    "one difference": Expression("cp + 0.7 * tau", "bcp"),
    "two differences": Expression("cp + (0.7 * tau + 0.3 * second)", "bcbop"),
    "three differences": Expression("cp + (0.7 * tau + 0.3 * second - 0.2 * (cp - base))", "bcbobpp"),
    "float32 output": Expression("cp + 0.7 * tau", "bcp", "{'dtype': 'float32'}", 2),
    "DARE": Expression("cp + tau.sparsified('dare', density=0.3, seed=0)", "bcp"),
    "magnitude": Expression("cp + tau.sparsified('magnitude', density=0.3)", "bcbcp"),
    "noise": Expression("cp + tau.random_like(0)", "bcp"),
    "TIES of two": Expression("cp + ties([tau, second])", "bcbcbobop"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("expressions", nargs="*", metavar="EXPRESSION", help=f"of {', '.join(EXPRESSIONS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    options = parser.parse_args()
    if unknown := [name for name in options.expressions if name not in EXPRESSIONS]:
        parser.error(f"{unknown[0]!r}: expected some of {', '.join(EXPRESSIONS)}")
    chosen = {name: EXPRESSIONS[name] for name in options.expressions or EXPRESSIONS}

    models = make(WORK / f"shapes-{options.layers}", members=("base", "chat", "cp"), layers=options.layers)
    members = {"b": models["base"], "c": models["chat"], "o": models["cp"], "p": models["cp"]}
    out = WORK / "out"
    commands = {}
    for name, expression in chosen.items():
        files = [f"{members[letter]}/*.safetensors" for letter in expression.reads[:-1]]
        cp = f"{members['p']}/*.safetensors"
        written = f"cat {' '.join([cp] * expression.written)} > {out}/x"
        commands[name, "limit"] = [
            "sh",
            "-c",
            f"cat {' '.join(files)} > /dev/null; mkdir -p {out}; {written}",
        ]
        code = SAVE.format(expression=expression.code, options=expression.options)
        paths = [str(members[letter]) for letter in "bcop"]
        commands[name, "save"] = [sys.executable, "-c", code, *paths, str(out)]

    runs: dict[tuple[str, str], list[Run]] = {key: [] for key in commands}
    for i in range(options.rounds + 1):
        for key, command in commands.items():
            run = measure(command, out, HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
            if i:
                runs[key].append(run)
                print(f"round {i}: {', '.join(key)}: {run.wall:.2f} s", file=sys.stderr)
    shutil.rmtree(out, ignore_errors=True)

    def median(key: tuple[str, str], what: str) -> float:
        return statistics.median(getattr(run, what) for run in runs[key])

    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{options.layers} layers, {options.rounds} rounds, {load}")
    print("| | limit | wall x limit (range) | CPU seconds | peak RSS |\n|---|---|---|---|---|")
    for name in chosen:
        limit, save = (name, "limit"), (name, "save")
        walls = [run.wall / median(limit, "wall") for run in runs[save]]
        print(
            f"| {name} | {median(limit, 'wall'):.2f} s | {median(save, 'wall') / median(limit, 'wall'):.2f} "
            f"({min(walls):.2f}-{max(walls):.2f}) | {median(save, 'cpu'):.1f} | {median(save, 'peak'):.0f} MB |"
        )


if __name__ == "__main__":
    main()
