"""A notebook that another writer left is completed to one that any reader takes, and its code stays the same."""

import json
import warnings

import pytest

from chatvec_lab.study.cell import _complete

CELLS = [
    {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# A title"},
    {"cell_type": "code", "id": "b", "metadata": {"tags": ["parameters"]}, "source": ["x: int = 1\n", "y: int = 2"],
     "outputs": [], "execution_count": None},
    {"cell_type": "raw", "id": "c", "metadata": {}, "source": "raw"},
]  # fmt: skip


def every(**change):
    return {"cells": [cell | change for cell in CELLS]}


def without(*names):
    return {"cells": [{key: value for key, value in cell.items() if key not in names} for cell in CELLS]}


@pytest.mark.parametrize(
    "change",
    [
        {},
        without("id"),
        without("metadata", "outputs", "execution_count"),
        every(id="twice"),
        every(id="a b/c"),
        every(id=7),
        every(metadata=None, foo=1, outputs=[{"output_type": "nonsense"}], execution_count="many"),
        {"nbformat_minor": 0},
        {"nbformat_minor": "5"},
        {"nbformat_minor": None, "foo": 1},
        {"metadata": None},
        {"metadata": {"kernelspec": None, "language_info": {}}},
        {"metadata": {"kernelspec": {"name": "conda-env", "language": "Python"}}},
        {
            "cells": [
                *CELLS,
                {"cell_type": "markdown", "source": "![](attachment:a.png)", "attachments": {"a.png": {}}},
            ]
        },
    ],
)
def test_what_other_writers_leave_out_or_add(change):
    import nbformat  # compiles a grammar: a second of every process's start

    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": CELLS} | change
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nbformat warns of what it mends
        made = nbformat.reads(_complete(json.dumps(notebook)), as_version=4)
        nbformat.validate(made)
    assert [cell.source for cell in made.cells[:3]] == ["# A title", "x: int = 1\ny: int = 2", "raw"]
    assert made.metadata.kernelspec.name == "python3"
    assert all("attachments" in cell for cell in made.cells[3:])


def test_tags_and_good_ids_stay():
    made = json.loads(_complete(json.dumps({"nbformat": 4, "metadata": {}, "cells": CELLS})))
    assert [cell["id"] for cell in made["cells"]] == ["a", "b", "c"]
    assert made["cells"][1]["metadata"] == {"tags": ["parameters"]}
