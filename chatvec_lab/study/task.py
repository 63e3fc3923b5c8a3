"""What a cluster's job runs: `python -m chatvec_lab.study.task FOLDER NUMBER` makes the call of FOLDER/NUMBER.json.

Plain JSON, so that nothing is unpickled that lies on a shared disk. FOLDER/NUMBER.result.json appears at the end.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatvec_lab import secrets

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def write_call(folder: Path, number: int, fn: Callable, args: tuple) -> None:
    """Describe a call of a function of a module with plain data; TypeError for other arguments."""
    call = {"module": fn.__module__, "function": fn.__qualname__, "args": args}
    (folder / f"{number}.json").write_text(json.dumps(call, ensure_ascii=False), "utf-8")


def result_file(folder: Path, number: int) -> Path:
    """Where the end of a call is told: {"error": null} or a text."""
    return folder / f"{number}.result.json"


def main(folder: str, number: str) -> int:
    """Make the call and write its end; 1 when it raised."""
    # Of the node's cores a job has those that it was given; libraries would start a thread for each that there is.
    threads = os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_ON_NODE")
    for name in THREAD_VARIABLES if threads else ():
        os.environ.setdefault(name, threads)
    call: dict[str, Any] = json.loads(Path(folder, f"{number}.json").read_text("utf-8"))
    error = None
    with secrets.hidden_in_output():
        try:
            from chatvec_lab.study import cell  # noqa: F401  (what a study calls; no other module is loaded for a file's sake)

            getattr(sys.modules[call["module"]], call["function"])(*call["args"])
        except Exception as problem:  # told to whoever waits for the end
            error = secrets.redacted(f"{type(problem).__name__}: {problem}")
            print(error, file=sys.stderr)
    part = Path(folder, f"{number}.part")
    part.write_text(json.dumps({"error": error}), "utf-8")
    part.replace(result_file(Path(folder), int(number)))
    return int(error is not None)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
