"""Imports run one way: each room of the package stands on the rooms below it, and knows nothing of those above."""

import ast
from pathlib import Path

import pytest

import chatvec_lab

ROOT = Path(chatvec_lab.__file__).parent
TOOLS = {
    "cores",
    "languages",
    "keys",
    "mistakes",
    "opening",
    "paths",
    "reading",
    "sandbox",
    "secrets",
    "spreadsheet",
}  # small, and stand on nothing of ours
# What each room may stand on, besides the tools. `weights` on nothing; `evaluation` knows nothing of weights.
STANDS_ON = {
    "weights": set(),
    "families": {"weights"},
    "anatomy": {"weights"},
    "live": {"weights"},
    "lens": {"weights", "live"},
    "evaluation": set(),
    "interop": {"weights", "live", "evaluation"},
    "nano": {"weights"},
    "figures": set(),
    "study.results": set(),  # of the room study the part that the report stands on
    "report": {"study.results"},
    "study": {"study.results", "report", "figures", "families", "evaluation", "nano"},  # the names that parameters may give
    "experiment": {
        "weights", "families", "anatomy", "live", "lens", "interop", "evaluation", "nano", "figures", "study",
        "study.results",
    },
    "playground": {
        "weights", "families", "anatomy", "live", "lens", "evaluation", "nano", "figures", "study",
        "study.results", "experiment",
    },
}  # fmt: skip
ON_TOP = {"command", "__main__", "__init__"}  # may import everything
FILES = sorted(ROOT.rglob("*.py"))


def room_of(file: Path) -> str:
    return of(".".join(["chatvec_lab", *file.relative_to(ROOT).with_suffix("").parts]))


def of(module: str) -> str:
    """The room of a module: its first part, but for the parts of study that have an entry of their own."""
    first, second, *_ = [*module.removeprefix("chatvec_lab.").split("."), ""]
    return f"{first}.{second}" if f"{first}.{second}" in STANDS_ON else first


def imports(file: Path) -> list[tuple[int, str]]:
    """(line, module of ours) of every import in a file, those inside functions too, but for what only types need."""
    tree = ast.parse(file.read_text("utf-8"))
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    package = ["chatvec_lab", *file.relative_to(ROOT).parent.parts]
    found = []
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            names = [alias.name for alias in node.names]
            # of the package itself the public names stand for their modules
            of_root = [chatvec_lab._PUBLIC.get(n, f"chatvec_lab.{n}") for n in names]
            found += [(node.lineno, m) for m in (of_root if module == "chatvec_lab" else [module])]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            text = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
            found.append((node.lineno, str(text)))
    return [(line, module) for line, module in found if module.startswith("chatvec_lab.")]


def test_every_room_has_its_place():
    assert {room_of(file) for file in FILES} <= {*STANDS_ON, *TOOLS, *ON_TOP}


def test_no_room_stands_on_itself_by_a_detour():
    below = dict(STANDS_ON)
    while below:
        ground = {room for room, on in below.items() if not on & below.keys()}
        assert ground, f"a circle among {sorted(below)}"
        below = {room: on for room, on in below.items() if room not in ground}


@pytest.mark.parametrize("room", [*STANDS_ON, *sorted(TOOLS)])
def test_a_room_imports_only_what_it_stands_on(room):
    allowed = {room, *TOOLS, *STANDS_ON.get(room, set())}
    lines = [
        f"{file.relative_to(ROOT)}:{line} imports {module}"
        for file in FILES
        if room_of(file) == room
        for line, module in imports(file)
        if of(module) not in allowed
    ]
    assert not lines, "\n".join(lines)


def test_imports_inside_functions_and_of_public_names_are_seen(tmp_path, monkeypatch):
    """The test itself sees what it should: an import in a function, a public name, a relative one; no annotation's."""
    monkeypatch.setattr("test_imports.ROOT", tmp_path)
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "some.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from chatvec_lab.families import Family\n"
        "def f():\n    from chatvec_lab import LiveModel\n    import chatvec_lab.study.plan\n    from ..live import model\n"
    )
    assert [module for _, module in imports(file)] == [
        "chatvec_lab.live", "chatvec_lab.study.plan", "chatvec_lab.live"
    ]  # fmt: skip
