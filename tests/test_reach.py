"""Nothing is there for the tests alone: every module, and every public function of the evaluation, has a user's way in.

From a notebook, the command line, `-m`, or a page of documentation that names it.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from chatvec_lab.paths import NOTEBOOKS, ROOT
from chatvec_lab.study import modules, parameters

PACKAGE = ROOT / "chatvec_lab"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("data/*/README.md"),
             *ROOT.glob("benchmarks/*.md")]  # fmt: skip


@cache
def every_module() -> set[str]:
    return modules.closure(["import_module(any)"])  # what cannot be followed counts as everything


def notebook_code() -> list[str]:
    return [cell["source"] for path in NOTEBOOKS.glob("*.ipynb") for cell in parameters.notebook_cells(path)
            if cell["cell_type"] == "code"]  # fmt: skip


def entries() -> list[str]:
    """Where a user comes in, as code: the package, `-m`, notebooks, and what the Makefile and the documents name."""
    found = ["import chatvec_lab.__main__", *notebook_code()]
    for text in map(Path.read_text, [ROOT / "Makefile", *DOCUMENTS]):
        names = re.findall(r"chatvec_lab(?:\.\w+)+", text)
        found += [f"import {name}" for name in names if name in every_module()]
    return found


def test_every_module_is_reached_by_a_user():
    assert len(every_module()) > 100
    assert not sorted(every_module() - modules.closure(entries())), "only tests reach these"


def public_functions(room: str) -> Iterator[tuple[Path, str]]:
    """(file, name) of the functions of a room that another module may call."""
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield path, node.name


def names_used(code: str) -> set[str]:
    """What a piece of code takes from modules of ours and uses: names that it imports, and module.name."""
    tree, ours, used = ast.parse(code), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            place = getattr(node, "module", None) or ""
            names = [a for a in node.names if (place or a.name).startswith("chatvec_lab")]
            ours |= {(a.asname or a.name).split(".")[0]: a.name for a in names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ours:
            used.add(ours[node.id])
        elif isinstance(node, ast.Attribute):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            used |= {node.attr} if isinstance(root, ast.Name) and root.id in ours else set()
    return used


def called_beside(path: Path) -> set[str]:
    """The functions of a module that its own code calls, other than from within themselves."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        found |= names - {getattr(node, "name", None)}
    return found


def test_every_public_function_of_the_evaluation_is_reached_by_a_user():
    codes = [*(path.read_text("utf-8") for path in PACKAGE.rglob("*.py")), "\n".join(notebook_code())]
    taken = set().union(*map(names_used, codes))
    documents = "\n".join(map(Path.read_text, DOCUMENTS))
    written = set(re.findall(r"`(?:[\w.]+\.)?(\w+)(?:\(.*?\))?`|\b(?:[\w.]+\.)?(\w+)\(", documents))
    taken |= {name for pair in written for name in pair}
    functions = [
        (path, name) for room in ("evaluation", "experiment") for path, name in public_functions(room)
    ]
    assert len(functions) > 100
    lost = [f"{path.relative_to(ROOT)}: {name}" for path, name in functions
            if name not in taken and name not in called_beside(path)]  # fmt: skip
    assert not lost, "only tests reach these"


def test_what_only_a_test_calls_would_be_found():
    code = "from chatvec_lab.evaluation import statistics as s, prompts\nfrom chatvec_lab.study import run\ns.sweep(1)\n"
    assert names_used(code + "run\nx.other(2)") == {"statistics", "sweep", "run"}, "prompts is only passed on"
