"""The modules that decide a result: none is missed that a notebook loads, few are counted that it does not."""

import ast
import contextlib
import json
import os
import subprocess
import sys

import pytest

from chatvec_lab.paths import NOTEBOOKS
from chatvec_lab.study import modules
from chatvec_lab.study.parameters import notebook_cells

FILES = {
    "__init__.py": "def __getattr__(n): return getattr(import_module(T[n]), n)\nT = {'Thing': 'chatvec_lab.a.thing'}",
    "a/__init__.py": "",
    "a/thing.py": "from ..b import help_me\nimport torch",
    "a/other.py": "'''Doc.'''\nfrom chatvec_lab import b as bee\ndef f():\n    return bee.deep.x",
    "b/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from chatvec_lab.a import other",
    "b/help_me.py": "def f():\n    from chatvec_lab.c import lazy\n    import_module('chatvec_lab.literal')",
    "b/deep.py": "x = 1",
    "c.py": "lazy = 1",
    "d/__init__.py": "def __getattr__(name): return load(name)",
    "d/one.py": "",
    "d/two.py": "",
    "literal.py": "",
    "a/data/words.txt": "one two",
}


@pytest.fixture
def package(tmp_path):
    for name, text in FILES.items():
        file = tmp_path / "chatvec_lab" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "chatvec_lab"


ALL = {"a", "a.thing", "a.other", "b", "b.help_me", "b.deep", "c", "d", "d.one", "d.two", "literal"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os, numpy", None),
        ("from chatvec_lab.c import lazy", {"c"}),
        ("if True:\n    import chatvec_lab.b.deep as d", {"b", "b.deep"}),
        ("from chatvec_lab import Thing", {"a", "a.thing", "b", "b.help_me", "c", "literal"}),
        (
            "import chatvec_lab\nx = chatvec_lab.Thing",
            {"a", "a.thing", "b", "b.help_me", "c", "literal"},
        ),
        ("import chatvec_lab as lab\ngetattr(lab, name)", {"a", "a.thing", "b", "b.help_me", "c", "literal"}),
        ("from chatvec_lab import *", {"a", "a.thing", "b", "b.help_me", "c", "literal"}),
        ("from chatvec_lab.a import other", {"a", "a.other", "b", "b.deep"}),
        ("import chatvec_lab.c\nchatvec_lab.b.deep.x", {"c", "b", "b.deep"}),
        ("from chatvec_lab.d import anything", {"d", "d.one", "d.two"}),
        ("%matplotlib inline\nfrom chatvec_lab.c import lazy", {"c"}),
        ("x = !python -m chatvec_lab inspect", ALL),
        ("from importlib import import_module\nimport_module('chatvec_lab.c')", {"c"}),
        ("import_module(f'chatvec_lab.b.{name}')", {"b", "b.deep", "b.help_me", "c", "literal"}),
        ("import_module(name)", ALL),
        ("%%bash\npython -m chatvec_lab merge", ALL),
        ("%run other.py", ALL),
        ("def broken(:", ALL),
    ],
)
def test_the_closure_of_a_notebooks_imports(package, code, expected):
    found = modules.closure([code], package)
    wanted = set() if expected is None else {"chatvec_lab", *(f"chatvec_lab.{name}" for name in expected)}
    assert found == wanted


def test_a_module_that_comes_goes_or_changes_is_seen_at_once(package):
    code = ["from chatvec_lab.d import anything"]
    before, digest = modules.closure(code, package), modules.digest(code, package)
    (package / "d/three.py").write_text("from chatvec_lab import c")
    assert modules.closure(code, package) - before == {"chatvec_lab.d.three", "chatvec_lab.c"}
    (package / "c.py").write_text("import chatvec_lab.literal\nlazy = 2")
    assert "chatvec_lab.literal" in modules.closure(code, package)
    (package / "d/three.py").unlink()
    assert modules.closure(code, package) == before
    assert modules.digest(code, package) == digest


def test_a_package_hides_a_module_of_its_name(package):
    (package / "a.py").write_text("import chatvec_lab.literal")
    assert modules.closure(["import chatvec_lab.a"], package) == {"chatvec_lab", "chatvec_lab.a"}


def test_data_and_libraries_count_where_they_are_used(package, monkeypatch):
    code = ["from chatvec_lab import Thing"]
    before, other = modules.digest(code, package), modules.digest(["from chatvec_lab.c import lazy"], package)
    (package / "a/data/words.txt").write_text("one two three")
    changed = modules.digest(code, package)
    assert changed != before
    monkeypatch.setattr(modules, "_version", lambda library: f"{library} of tomorrow")
    assert modules.digest(code, package) != changed
    assert modules.digest(["from chatvec_lab.c import lazy"], package) == other
    assert modules.digest(["import transformers"], package) != modules.digest(["import math"], package)


def test_only_what_code_does_has_a_meaning():
    one = modules.meaning(
        "'''A module.'''\nclass A:\n    '''A class.'''\n\n    def f(self):\n        return (1)  # one"
    )
    assert one == modules.meaning("class A:\n    def f(self): return 1")
    assert one != modules.meaning("class A:\n    def f(self): return 2")
    assert modules.meaning("x = 'text'") != modules.meaning("x = 'other text'")
    assert modules.meaning("not python (") == "not python ("


@pytest.mark.parametrize("notebook", ["01_chat_vector", "03_scale_sweep"])
def test_no_module_is_missed_that_a_notebook_loads(notebook):
    """An independent witness: the imports of the notebook are executed, and what is then loaded is counted."""
    cells = notebook_cells(NOTEBOOKS / f"{notebook}.ipynb")
    sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    kept = [
        ast.unparse(node)
        for source in sources
        for node in ast.parse(source).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    code = "\n".join(
        [*kept, "import json, sys", "print(json.dumps([m for m in sys.modules if m[:11] == 'chatvec_lab']))"]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    found = modules.closure(sources)
    assert loaded <= found and len(loaded) > 10
    machinery = {
        f"chatvec_lab.{name}" for name in ("study.engines", "study.runner", "study.command", "report")
    }
    assert not machinery & found, "what runs a study does not decide its results"


def test_no_import_in_the_package_escapes():
    """A module whose name is known only when it runs would be missed, or count as everything."""
    for file in sorted(modules.PACKAGE.rglob("*.py")):
        facts = modules._facts_of(file.read_text("utf-8"))
        assert not facts.is_open, file
        assert not facts.is_lazy or facts.table, file


def test_the_stamp_changes_with_any_file_of_the_package_and_with_nothing_else(package):
    first = modules.stamp(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__/c.pyc").write_text("compiled")
    assert modules.stamp(package) == first
    for name in ("c.py", "a/data/words.txt", "a/data/new.txt"):
        before = modules.stamp(package)
        (package / name).write_text((package / name).read_text() + " " if (package / name).exists() else "")
        assert modules.stamp(package) != before, name


def test_the_stamp_changes_with_an_edit_that_keeps_size_and_date(package):
    """As of two versions from archives whose files have one date."""
    file, before = package / "c.py", modules.stamp(package)
    about = file.stat()
    file.write_text("lazy = 2")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (about.st_size, about.st_mtime_ns)
    assert modules.stamp(package) != before


def test_a_file_that_goes_while_the_stamp_is_made_is_none(package, monkeypatch):
    class Gone:
        path = str(package / "c.py~")

        def is_dir(self):
            return False

        def is_file(self):
            return True

        def stat(self):
            raise FileNotFoundError(self.path)

    scan, first = os.scandir, modules.stamp(package)
    monkeypatch.setattr(os, "scandir", lambda folder: contextlib.nullcontext([*scan(folder), Gone()]))
    assert modules.stamp(package) == first


def test_a_digest_is_kept_until_a_file_changes(package, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    code, kept = ["from chatvec_lab.a import other"], package / "__pycache__/digests.json"
    kept.parent.mkdir()
    first = modules.digest(code, package)
    work = modules._digest
    monkeypatch.setattr(modules, "_digest", lambda *_: pytest.fail("read again"))
    assert modules.digest(code, package) == first
    monkeypatch.setattr(modules, "_digest", work)
    kept.write_text("{torn")
    assert modules.digest(code, package) == first
    (package / "a/other.py").write_text(FILES["a/other.py"] + "\nx = 2")
    second = modules.digest(code, package)
    assert second != first
    (package / "a/other.py").write_text("# a comment\n" + FILES["a/other.py"] + "\nx = 2")
    assert modules.digest(code, package) == second


def test_a_digest_of_files_that_change_meanwhile_is_not_kept(package, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (package / "__pycache__").mkdir()
    work = modules._digest

    def edited(sources, outside, folder):
        found = work(sources, outside, folder)
        (package / "c.py").write_text("lazy = 2")
        return found

    monkeypatch.setattr(modules, "_digest", edited)
    modules.digest(["from chatvec_lab.c import lazy"], package)
    assert not (package / "__pycache__/digests.json").exists()
