"""A study: notebooks over grids of parameters, run through papermill on this machine or a cluster; resumable.

    python -m chatvec_lab run nano                 # the command line: add_arguments, main

    from chatvec_lab import study                  # the same from Python
    plan = study.load("nano", set={"seed": 0})
    records = study.run(plan, "reports/nano", study.Local(workers=2))
    study.results("reports/nano")                  # one row a cell
    study.load_table("reports/nano", "03_scale_sweep", "scores")     # all cells' tables in one

Inside a notebook: output, save_table, save_figure, save_samples, save_summary, claim, load_summary
(what they write, and what the report reads, is in `chatvec_lab.study.outputs`). Each cell has a folder
`OUT/cells/NOTEBOOK/KEY/` with notebook.ipynb, run.log, its results, and run.json, written last: that file
alone says whether the cell is done. KEY changes with the notebook's code, the package's source, the
parameters, and the content of inputs. Nothing here imports torch, papermill or pandas before it must.
"""

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
from chatvec_lab.study.plan import Cell, Study, chosen, load
from chatvec_lab.study.runner import load_table, results, run

__all__ = [
    "Cell",
    "Dask",
    "Local",
    "Slurm",
    "Study",
    "add_arguments",
    "chosen",
    "claim",
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
