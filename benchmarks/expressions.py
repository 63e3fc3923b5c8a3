"""Every kind of sum measured beside the limit of its own reading and writing.

    python benchmarks/expressions.py [--rounds 3] [--layers 22] [--peers] [--scale 0.7] [--warm] [EXPRESSION ...]

Each expression is saved by a process of its own; its limit reads (`cat`) the checkpoints that it has to read, as often as
it has to read them, and writes one of its size. A round runs all of them once, in turn; the first round only warms the
page cache. Ratios are of medians. The start of Python is in the seconds of an expression, not in those of its limit.
A save ends when its result is on the disk, its limit when it is in the page cache: what waiting for the disk adds to the
limit is measured as well.

With `--peers` others make the same mixtures in the same rounds (peers.py; needs six times the size of a member in memory), and
elements of their last results that are not ours are counted. Recipes of mergekit are run by both from one file.
"""

import argparse
import os
import shutil
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from merge import Run, measure
from peers import METHODS, SCRIPTS, by_mergekit, differing, mergekit, mixture, script
from shapes import WORK, make

SAVE = """
import sys
from chatvec_lab import Checkpoint, ties
{setup}
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
    setup: str = ""
    formula: str = ""  # for the scripts of peers.py
    method: str = ""  # of mergekit


EXPRESSIONS = {
    "one difference": Expression("cp + 0.7 * tau", "bcp", formula="0.7 * (c - b)"),
    "two differences": Expression(
        "cp + (0.7 * tau + 0.3 * second)", "bcbop", formula="0.7 * (c - b) + 0.3 * (o - b)"
    ),
    "three differences": Expression("cp + (0.7 * tau + 0.3 * second - 0.2 * (cp - base))", "bcbobpp"),
    "float32 output": Expression("cp + 0.7 * tau", "bcp", "{'dtype': 'float32'}", 2),
    "DARE": Expression("cp + tau.sparsified('dare', density=0.3, seed=0)", "bcp"),
    "magnitude": Expression("cp + tau.sparsified('magnitude', density=0.3)", "bcbcp"),
    "noise": Expression("cp + tau.random_like(0)", "bcp"),
    "TIES of two": Expression("cp + ties([tau, second])", "bcbcbobop"),
}
RECIPES = {
    f"mergekit's {method}": Expression(
        "load(sys.argv[6]).merged",
        "cob" if method != "ties" else "cobcob",  # once, or once more for its thresholds
        setup="from chatvec_lab.interop.mergekit import load",
        method=method,
    )
    for method in METHODS
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "expressions", nargs="*", metavar="EXPRESSION", help=f"of {', '.join(EXPRESSIONS | RECIPES)}"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument(
        "--peers", action="store_true", help="others beside those expressions that they can make"
    )
    parser.add_argument("--scale", type=float, default=0.7, help="in place of 0.7, where it stands")
    parser.add_argument(
        "--warm", action="store_true", help="no first round: the page cache holds all members already"
    )
    options = parser.parse_args()
    known = {name: at(options.scale, expression) for name, expression in (EXPRESSIONS | RECIPES).items()}
    if unknown := [name for name in options.expressions if name not in known]:
        parser.error(f"{unknown[0]!r}: expected some of {', '.join(known)}")
    peered = [name for name, expression in known.items() if expression.formula or expression.method]
    chosen = options.expressions or (peered if options.peers else list(EXPRESSIONS))

    models = make(WORK / f"shapes-{options.layers}", members=("base", "chat", "cp"), layers=options.layers)
    members = {"b": models["base"], "c": models["chat"], "o": models["cp"], "p": models["cp"]}
    out, exact = WORK / "out", WORK / "out-exact"
    tool = mergekit(WORK / "mergekit") if options.peers else None
    commands = {}
    for name in chosen:
        commands[name, "limit"] = limit(known[name], members, out)
        commands[name, "limit, on the disk"] = limit(known[name], members, out, f"; sync {out}/x")
        commands[name, "chatvec_lab"] = save(known[name], members, out)
        if options.peers:
            commands |= {(name, peer): command for peer, command in others(known[name], members, out, tool)}

    runs: dict[tuple[str, str], list[Run]] = {key: [] for key in commands}
    wrong: dict[tuple[str, str], str] = {}
    for i in range(int(options.warm), options.rounds + 1):
        for (name, who), command in commands.items():
            run = measure(command, out, HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
            if i:
                runs[name, who].append(run)
                print(f"round {i}: {name}, {who}: {run.wall:.2f} s", file=sys.stderr)
            if options.peers and i == options.rounds and who == "chatvec_lab":
                shutil.rmtree(exact, ignore_errors=True)
                out.rename(exact)
            elif options.peers and i == options.rounds and not who.startswith("limit"):
                found, size = differing(out, exact)
                wrong[name, who] = f"{found / size:.3%} ({found:,})"
    for folder in (out, exact):
        shutil.rmtree(folder, ignore_errors=True)

    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{options.layers} layers, {options.rounds} rounds, {load}")
    print(
        "| | seconds | wall x limit (range) | CPU seconds | peak RSS | elements unlike ours |\n|---|---|---|---|---|---|"
    )
    for (name, who), measured in runs.items():
        wall, cpu, peak = (
            statistics.median(getattr(run, k) for run in measured) for k in ("wall", "cpu", "peak")
        )
        shortest = statistics.median(run.wall for run in runs[name, "limit"])
        walls = [run.wall / shortest for run in measured]
        print(
            f"| {name}: {who} | {wall:.2f} | {wall / shortest:.2f} ({min(walls):.2f}-{max(walls):.2f}) | {cpu:.1f} | "
            f"{peak:.0f} MB | {wrong.get((name, who), '')} |"
        )


def at(scale: float, expression: Expression) -> Expression:
    """An expression with another scale of the chat vector; recipes of mergekit keep theirs."""
    code, formula = (text.replace("0.7 *", f"{scale!r} *") for text in (expression.code, expression.formula))
    return replace(expression, code=code, formula=formula)


def limit(expression: Expression, members: dict[str, Path], out: Path, then: str = "") -> list[str]:
    """`cat` of all that an expression reads, of which the last is what it writes."""
    *read, last = (f"{members[letter]}/*.safetensors" for letter in expression.reads)
    written = f"cat {' '.join([last] * expression.written)} > {out}/x"
    return ["sh", "-c", f"cat {' '.join(read)} > /dev/null; mkdir -p {out}; {written}{then}"]


def save(expression: Expression, members: dict[str, Path], out: Path) -> list[str]:
    code = SAVE.format(setup=expression.setup, expression=expression.code, options=expression.options)
    return [
        sys.executable,
        "-c",
        code,
        *(str(members[letter]) for letter in "bcop"),
        str(out),
        *recipe(expression, members),
    ]


def recipe(expression: Expression, members: dict[str, Path]) -> list[str]:
    """The file of an expression that is a recipe of mergekit."""
    if not expression.method:
        return []
    models = {"base": members["b"], "chat": members["c"], "other": members["o"]}
    return [str(mixture(WORK, expression.method, **models))]


def others(
    expression: Expression, members: dict[str, Path], out: Path, tool: Path | None
) -> Iterator[tuple[str, list[str]]]:
    """Who makes this too, and by which command."""
    if expression.formula:
        letters = "pbco" if "o" in expression.formula else "pbc"
        for who, source in SCRIPTS.items():
            yield who, script(source, expression.formula, out, *(members[letter] for letter in letters))
    for file in recipe(expression, members) if tool else ():
        yield "mergekit 0.1.5", by_mergekit(tool, file, out)


if __name__ == "__main__":
    main()
