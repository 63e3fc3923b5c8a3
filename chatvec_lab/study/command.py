"""`python -m chatvec_lab run STUDY`: the arguments, and what happens."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatvec_lab.paths import REPORTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run` to a parser; imports nothing heavy."""
    parser.add_argument("study", help="a study by name (data/studies/NAME.yaml) or by path")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for results (default: reports/STUDY)")
    what = parser.add_argument_group("what to run")
    what.add_argument(
        "--dry-run", action="store_true", help="list the cells and whether they are done; run nothing"
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
        help="hours, gpus, cpus, memory_gb, at_once, partition, account, ... ; may be repeated",
    )
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a running Dask cluster, such as tcp://host:8786"
    )


def main(args: argparse.Namespace) -> int:
    """Run a study as the parsed arguments say, write its report, list what failed.

    Returns the exit status: 0 when every asked cell is done, 1 when one is not, 2 for a wrong argument,
    130 when interrupted.
    """
    from chatvec_lab import report
    from chatvec_lab.study import plan, runner
    from chatvec_lab.study.results import describe

    try:
        study = plan.load(args.study, set=_pairs(args.set, "--set"))
        cells = plan.chosen(study, args.only)
        out = args.out or REPORTS / study.name
        if args.dry_run:
            return _dry_run(cells, out)
        engine = _engine(args, out, len(cells))
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        with _progress() as tell:
            records = runner.run(
                study, out, engine, cells=cells, retries=args.retries, force=args.force, tell=tell
            )
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (BlockingIOError, FileExistsError) as error:  # another run holds the folder, or other files do
        print(error, file=sys.stderr)
        return 2
    finally:
        engine.close()
    page = report.write(out)
    failed = [cell for cell in cells if records[cell.key]["status"] != "done"]
    for cell in failed:
        print(f"{records[cell.key]['status']}: {cell}\n  {describe(records[cell.key]['error'])}")
        if (log := cell.folder(out) / "run.log").exists():
            print(f"  {log}")
    again = "; the same command tries these again" if failed else ""
    print(f"{len(cells) - len(failed)} done, {len(failed)} not{again}")
    print(f"report: {page}")
    return 1 if failed else 0


def _dry_run(cells: list[Any], out: Path) -> int:
    from chatvec_lab.study.results import is_done

    done = [is_done(cell.folder(out)) for cell in cells]
    for cell, has_result in zip(cells, done, strict=True):
        print(f"{'done  ' if has_result else 'to run'}  {cell}")
    print(f"{len(cells)} cells, {sum(done)} done, {len(cells) - sum(done)} to run; results go to {out}")
    return 0


def _engine(args: argparse.Namespace, out: Path, cells: int) -> Any:
    from chatvec_lab.study import engines

    if args.engine == "slurm":
        return engines.Slurm(out.resolve() / "slurm", **_pairs(args.slurm, "--slurm"))
    if args.engine == "dask":
        return engines.Dask(args.scheduler)
    devices = args.devices.split(",") if args.devices else None
    return engines.Local(args.workers, devices=devices)


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    wrong = [text for text in texts if not text.partition("=")[1]]
    if wrong:
        raise ValueError(f"{option} takes NAME=VALUE, got {', '.join(map(repr, wrong))}")
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
