"""Hygiene of the notebooks in notebooks/: stripped, one question, one documented parameters cell, short code."""

import json
import re

import pytest

from chatvec_lab.paths import NOTEBOOKS
from chatvec_lab.study import parameters

LONGEST = 25  # lines of a code cell; more belongs in the package
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
NUMBERED = [path for path in PATHS if path.stem != "playground"]  # the others are read in order
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@each_notebook
def test_is_valid_and_stripped(path):
    import nbformat

    notebook = json.loads(path.read_text("utf-8"))
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5), "cell ids need format 4.5"
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"]["language_info"]["name"] == "python"
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    for number, cell in enumerate(notebook["cells"]):
        assert cell["id"], f"cell {number} has no id"
        assert set(cell["metadata"]) <= {"tags", "editable", "slideshow"}, (
            f"cell {number}: {cell['metadata']}"
        )
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None, f"cell {number} has outputs"


@each_notebook
def test_name_and_title(path):
    assert path not in NUMBERED or re.fullmatch(r"\d\d[a-z]?_[a-z0-9_]+", path.stem)
    first = parameters.notebook_cells(path)[0]
    assert first["cell_type"] == "markdown" and first["source"].startswith("# ")
    prose = [cell["source"] for cell in parameters.notebook_cells(path) if cell["cell_type"] == "markdown"]
    assert len(re.findall(r"^# ", "\n".join(prose), re.MULTILINE)) == 1, "exactly one title"


@each_notebook
def test_parameters_are_typed_and_explained(path):
    declared = parameters.read(path)
    assert declared["out_dir"].annotation == "str" and declared["out_dir"].default == ""
    without = [parameter.name for parameter in declared.values() if not parameter.help]
    assert not without, f"no help: {without}"


@each_notebook
def test_code_is_short_and_finds_files_anywhere(path):
    for number, cell in enumerate(parameters.notebook_cells(path)):
        source, where = cell["source"], f"cell {number}: {cell['source'][:80]!r}"
        assert source.strip(), f"cell {number} is empty"
        assert not re.search(r"(?<![\w.:/])/(home|root|work|tmp|Users|mnt|data|usr)/|[A-Z]:\\\\", source), (
            where
        )
        if cell["cell_type"] == "code":
            assert len(source.splitlines()) <= LONGEST or "parameters" in cell["metadata"].get("tags", []), (
                where
            )
            assert not re.search(r"^\s*[!%]", source, re.MULTILINE), f"shell or magic in {where}"
            assert "../" not in source, f"JupyterLab and papermill start in different folders; {where}"


def test_the_numbers_of_notebooks_are_their_order():
    numbers = [path.stem.partition("_")[0] for path in NUMBERED]
    assert len(numbers) == len(set(numbers))
