"""`python -m chatvec_lab run STUDY`: the arguments, and what happens."""

import argparse
import contextlib
import errno
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chatvec_lab.mistakes import is_mistake


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run` to a parser; imports nothing heavy."""
    parser.add_argument("study", help="a study by name (data/studies/NAME.yaml) or by path")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for results (default: the study's `out`, else reports/STUDY)",
    )
    what = parser.add_argument_group("what to run")
    what.add_argument(
        "--dry-run",
        action="store_true",
        help="list the cells, whether they are done and what each would get; check the engine's options; run nothing",
    )
    what.add_argument(
        "--only",
        action="append",
        metavar="NOTEBOOK",
        help="only this notebook and those it needs; the beginning of its name will do; may be repeated",
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter, for every notebook that has it; wins over the study's grids; may be repeated",
    )
    what.add_argument("--force", action="store_true", help="run done cells too")
    what.add_argument(
        "--retries", type=int, default=1, metavar="N", help="how often to retry a killed cell (default: 1)"
    )
    where = parser.add_argument_group("where to run")
    where.add_argument(
        "--engine", choices=["local", "slurm", "dask"], default="local", help="(default: local)"
    )
    where.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="local processes (default: one a GPU, else one a core, 8 at most)",
    )
    where.add_argument("--devices", metavar="0,1", help="GPUs to hand out (default: all that are visible)")
    where.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="hours, gpus, cpus, memory_gb, at_once (of an array), setup (a line of shell before each cell), python "
        "(how a node starts it), or any option of sbatch by its own name (partition, reservation, ...); repeatable",
    )
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a running Dask cluster, such as tcp://host:8786"
    )


def main(args: argparse.Namespace, *, planned: Callable[[Any], None] = lambda study: None) -> int:
    """Run a study as the parsed arguments say, write its report, list what failed.

    `planned` is called with the study before its first cell runs.
    Returns the exit status: 0 when every asked cell is done, 1 when one is not, 2 for a wrong argument or when a
    cluster or a disk refuses; 128 and the signal's number (130 for Ctrl-C, 143 for SIGTERM) when it was stopped.
    """
    with _stoppable() as stopped:
        try:
            with contextlib.ExitStack() as ends:
                status = _main(args, planned, ends)
        except KeyboardInterrupt:
            status, stopped.came = 1, True
        except Exception:
            if not stopped.came:  # else it is how an import of C code answers to an interrupt
                raise
            status = 1
    if not (status and stopped.came):
        return status
    number = stopped.number
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    more = "; jobs of a cluster go on meanwhile (scancel ends them)" if args.engine == "slurm" else ""
    print(f"\n{how}; the same command goes on from here{more}", file=sys.stderr)
    return 128 + number


def _main(args: argparse.Namespace, planned: Callable[[Any], None], ends: contextlib.ExitStack) -> int:
    from chatvec_lab import report
    from chatvec_lab.study import plan, runner, shipped
    from chatvec_lab.study.results import describe
    from chatvec_lab.study.sbatch import SlurmError

    try:
        _check(args)
        engine = None
        if args.engine == "local" and not args.dry_run:
            engine = _engine(args, None)
            ends.callback(_close, engine)
            engine.begin()
        study = plan.load(args.study, set=_pairs(args.set, "--set"))
        cells = args.cells = plan.chosen(study, args.only)  # kept for what is said after a dry run
        out = args.out or study.out
        if engine is None:
            engine = _engine(args, out)
            ends.callback(_close, engine)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if not is_mistake(error):  # a fault of our own keeps its traceback
            raise
        _show(args)
        print(error, file=sys.stderr)
        return 2
    planned(study)
    for line in shipped.edited((cell.path, cell.source) for cell in cells):
        print(f"note: {line}; its results are of your version")
    try:
        if args.dry_run:
            return _dry_run(cells, out, engine)
        with _progress() as tell:
            options = {"cells": cells, "retries": args.retries, "force": args.force}
            records = runner.run(study, out, engine, **options, tell=tell, ending=report.prepare)
        page = report.write(out)
    except (
        BlockingIOError,
        FileExistsError,
        SlurmError,
        ValueError,
    ) as error:  # another run, other files, or a cluster's or machine's no
        if isinstance(error, ValueError) and not is_mistake(error):
            raise
        _show(args)
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        _show(args)
        print(_disk(error, out), file=sys.stderr)
        return 2
    failed = [cell for cell in cells if records[cell.key]["status"] != "done"]
    for cell in failed:
        print(f"{records[cell.key]['status']}: {cell}\n  {describe(records[cell.key]['error'])}")
        if (log := cell.folder(out) / "run.log").exists():
            print(f"  {log}")
    again = "; the same command tries these again" if failed else ""
    print(f"{len(cells) - len(failed)} done, {len(failed)} not{again}")
    print(f"report: {page}")
    return 1 if failed else 0


class _Stopped:
    """Which signal stopped the command."""

    number = int(signal.SIGINT)
    came = False  # also where the interrupt that it raised was swallowed


@contextlib.contextmanager
def _stoppable() -> Iterator[_Stopped]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does: with its workers and kernels."""
    stopped = _Stopped()

    def stop(number: int, _: Any) -> None:
        stopped.number, stopped.came = number, True
        raise KeyboardInterrupt

    with _handled(stop, keep=signal.SIG_IGN):  # nohup had its reasons
        yield stopped


@contextlib.contextmanager
def _handled(handler: Any, keep: Any = None) -> Iterator[None]:
    """Give the signals that end a command another handler, but for those that have the handler `keep`."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != keep:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _close(engine: Any) -> None:
    """Stop what the engine started; a second Ctrl-C must not keep it from that."""
    with _handled(signal.SIG_IGN):
        engine.close()


def _disk(error: OSError, out: Path) -> str:
    """What to do when the study's folder can no longer be written."""
    where = error.filename or out
    if error.errno in (
        errno.EACCES,
        errno.EPERM,
        errno.EKEYEXPIRED,
        errno.EKEYREVOKED,
        errno.ENOKEY,
        errno.ESTALE,
    ):
        return (
            f"{where} cannot be read or written ({error.strerror}). On a cluster the login has likely run out: log in "
            "again (kinit, aklog), then give the same command. What is done is kept, and jobs of a cluster go on."
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{where} cannot be written: the disk or your quota is full ({error.strerror}). Free some space, or move "
            f"{out} to a larger disk and name it as --out; then give the same command. What is done is kept."
        )
    whose = where if error.filename else "the system"
    return f"{whose}: {error.strerror or error}. What is done is kept; the same command goes on from here."


def _show(args: argparse.Namespace) -> None:
    """With --traceback: where the error comes from that is told next."""
    if getattr(args, "traceback", False):
        traceback.print_exc()


def _dry_run(cells: list[Any], out: Path, engine: Any) -> int:
    from chatvec_lab.study.results import is_done

    done = [is_done(cell.folder(out)) for cell in cells]
    for cell, has_result in zip(cells, done, strict=True):
        print(f"{'done  ' if has_result else 'to run'}  {cell}")
    left = [cell for cell, has_result in zip(cells, done, strict=True) if not has_result]
    print(f"{len(cells)} cells, {sum(done)} done, {len(left)} to run; results go to {out}")
    if hasattr(engine, "fit"):
        engine.fit(left)
    if left:
        print(engine.describe(left), flush=True)
        if hasattr(engine, "check"):
            print(engine.check(left))
    return 0


def _check(args: argparse.Namespace) -> None:
    """ValueError for options of an engine that is not the one asked for."""
    of = {"local": ("workers", "devices"), "slurm": ("slurm",), "dask": ("scheduler",)}
    wrong = [
        f"--{name} is for --engine {engine}, and this is --engine {args.engine}."
        for engine, names in of.items()
        for name in names
        if engine != args.engine and getattr(args, name) not in (None, [])
    ]
    if args.retries < 0:
        wrong.append(f"--retries {args.retries}: there should be 0 or more.")
    if wrong:
        raise ValueError("\n".join(wrong))


def _engine(args: argparse.Namespace, out: Path | None) -> Any:
    from chatvec_lab.study import engines

    if args.engine == "slurm":
        if not args.dry_run and not shutil.which("sbatch"):
            raise FileNotFoundError(
                "--engine slurm needs sbatch on the PATH: start the study on a login node."
            )
        return engines.Slurm(out.resolve() / "slurm", **_slurm(args.slurm))
    if args.engine == "dask":
        return engines.Dask(args.scheduler)
    devices = [device.strip() for device in args.devices.split(",")] if args.devices else None
    numbers = [device for device in engines.visible_devices() if device.isdigit()] if devices else []
    if numbers and (unknown := [device for device in devices if device.isdigit() and device not in numbers]):
        raise ValueError(
            f"--devices {args.devices}: no GPU {', '.join(unknown)} is visible here; there are {', '.join(numbers)}."
        )
    return engines.Local(args.workers, devices=devices)


def _slurm(texts: list[str]) -> dict[str, Any]:
    """--slurm NAME=VALUE, --slurm FLAG; `setup` may be repeated, each a line."""
    is_setup = [text.partition("=")[0].strip() == "setup" for text in texts]
    setup = [text.partition("=")[2] for text, lines in zip(texts, is_setup, strict=True) if lines]
    others = [
        text + "=" * ("=" not in text) for text, lines in zip(texts, is_setup, strict=True) if not lines
    ]
    return _pairs(others, "--slurm") | ({"setup": setup} if setup else {})


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    wrong = [text for text in texts if not text.partition("=")[1]]
    if wrong:
        raise ValueError(f"{option} takes NAME=VALUE, got {', '.join(map(repr, wrong))}")
    names = [text.partition("=")[0].strip() for text in texts]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{option} {', '.join(doubled)} is given twice")
    return {name.strip(): value for name, _, value in (text.partition("=") for text in texts)}


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """Something to call with a line: on a terminal it keeps a bar below the lines."""
    if not sys.stderr.isatty():
        yield lambda line: print(line, flush=True)
        return
    from tqdm import tqdm

    with tqdm(bar_format="{desc} {bar} {n_fmt}/{total_fmt} [{elapsed}]", total=0, leave=False) as bar:

        def tell(line: str) -> None:
            tqdm.write(line)
            if line.startswith("["):
                bar.n, bar.total = map(int, line[1:].partition("]")[0].split("/"))
                bar.refresh()

        yield tell
