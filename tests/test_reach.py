"""No module of the package is there for the tests alone: each is reached from a notebook, the command line or `-m`."""

import ast
import re
from pathlib import Path

from chatvec_lab.paths import NOTEBOOKS, ROOT
from chatvec_lab.study import parameters

PACKAGE = ROOT / "chatvec_lab"
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def imported(source: str, package: str = "") -> set[str]:
    """The modules of this package that a source imports anywhere, also inside functions, and what contains them."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            if node.level:
                parent = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [parent])]
                )
            names |= {parent} | {f"{parent}.{alias.name}" for alias in node.names}
    found = {name for name in names if name in MODULES}
    return found | {".".join(name.split(".")[:i]) for name in found for i in range(1, name.count(".") + 1)}


def entries() -> set[str]:
    """Where a user comes in: the package, `-m`, notebooks, and what the Makefile and the documents name."""
    found = {"chatvec_lab", "chatvec_lab.__main__"}
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in parameters.notebook_cells(path):
            if cell["cell_type"] == "code":
                found |= imported(cell["source"])
    texts = [ROOT / "Makefile", ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("data/*/README.md")]
    for text in map(Path.read_text, texts):
        found |= {name for name in re.findall(r"chatvec_lab(?:\.\w+)+", text) if name in MODULES}
    return found


def test_every_module_is_reached_by_a_user():
    reached, todo = set(), entries()
    while todo:
        name = todo.pop()
        reached.add(name)
        file = MODULES[name]
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        todo |= imported(file.read_text("utf-8"), package) - reached
    assert not sorted(set(MODULES) - reached), "only tests reach these"
