"""No module of the package is there for the tests alone: each is reached from a notebook, the command line or `-m`."""

import re
from pathlib import Path

from chatvec_lab.paths import NOTEBOOKS, ROOT
from chatvec_lab.study import modules, parameters

MODULES = modules.closure(["import_module(any)"])  # what cannot be followed counts as everything


def entries() -> list[str]:
    """Where a user comes in, as code: the package, `-m`, notebooks, and what the Makefile and the documents name."""
    found = ["import chatvec_lab.__main__"]
    for path in NOTEBOOKS.glob("*.ipynb"):
        found += [cell["source"] for cell in parameters.notebook_cells(path) if cell["cell_type"] == "code"]
    texts = [ROOT / "Makefile", ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("data/*/README.md")]
    for text in map(Path.read_text, texts):
        found += [f"import {name}" for name in re.findall(r"chatvec_lab(?:\.\w+)+", text) if name in MODULES]
    return found


def test_every_module_is_reached_by_a_user():
    assert len(MODULES) > 100
    assert not sorted(MODULES - modules.closure(entries())), "only tests reach these"
