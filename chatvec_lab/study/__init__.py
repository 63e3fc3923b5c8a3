"""A study: notebooks over grids of parameters, run through papermill on this machine or a cluster; resumable.

    python -m chatvec_lab run nano                 # the command line: add_arguments, main

    from chatvec_lab import study                  # the same from Python
    plan = study.load("nano", set={"seed": 0})
    records = study.run(plan, "reports/nano", study.Local(workers=2))
    study.results("reports/nano")                  # one row a cell
    study.load_table("reports/nano", "03_scale_sweep", "scores")     # all cells' tables in one

Inside a notebook: check, output, save_table, save_figure, save_samples, save_summary, claim, load_summary
(what they write, and what the report reads, is in `chatvec_lab.study.outputs`). Each cell has a folder
`OUT/cells/NOTEBOOK/KEY/` with notebook.ipynb, run.log, its results, and run.json, written last: that file
alone says whether the cell is done. KEY changes with the notebook's code, the modules that it imports, the
parameters, and the content of inputs. Nothing here imports torch, papermill or pandas before it must.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from chatvec_lab.study.results import (  # at once: `study.results` is the function, not its module
    load_table,
    results,
)

if TYPE_CHECKING:
    from chatvec_lab.study import engines
    from chatvec_lab.study.command import add_arguments, main
    from chatvec_lab.study.engines import Dask, Local, Slurm
    from chatvec_lab.study.outputs import (
        claim,
        load_summary,
        output,
        save_figure,
        save_samples,
        save_summary,
        save_table,
    )
    from chatvec_lab.study.parameters import check
    from chatvec_lab.study.plan import Cell, Study, chosen, load
    from chatvec_lab.study.runner import run

# name -> module; imported at first use, so that a notebook's results do not depend on what runs it
_PUBLIC = {
    "Cell": "chatvec_lab.study.plan",
    "Dask": "chatvec_lab.study.engines",
    "Local": "chatvec_lab.study.engines",
    "Slurm": "chatvec_lab.study.engines",
    "Study": "chatvec_lab.study.plan",
    "add_arguments": "chatvec_lab.study.command",
    "check": "chatvec_lab.study.parameters",
    "chosen": "chatvec_lab.study.plan",
    "claim": "chatvec_lab.study.outputs",
    "engines": "chatvec_lab.study.engines",
    "load": "chatvec_lab.study.plan",
    "load_summary": "chatvec_lab.study.outputs",
    "main": "chatvec_lab.study.command",
    "output": "chatvec_lab.study.outputs",
    "run": "chatvec_lab.study.runner",
    "save_figure": "chatvec_lab.study.outputs",
    "save_samples": "chatvec_lab.study.outputs",
    "save_summary": "chatvec_lab.study.outputs",
    "save_table": "chatvec_lab.study.outputs",
}
__all__ = [
    "Cell",
    "Dask",
    "Local",
    "Slurm",
    "Study",
    "add_arguments",
    "check",
    "chosen",
    "claim",
    "engines",
    "load",
    "load_summary",
    "load_table",
    "main",
    "output",
    "results",
    "run",
    "save_figure",
    "save_samples",
    "save_summary",
    "save_table",
]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_PUBLIC[name])
    return getattr(module, name, module)


def __dir__():
    return [*globals(), *_PUBLIC]
