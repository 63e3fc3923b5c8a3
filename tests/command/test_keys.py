"""Every key is documented where it is read: the page of keys, the tables and the loaders say the same."""

import ast
import inspect

import pytest

from chatvec_lab.__main__ import main
from chatvec_lab.command import keys
from chatvec_lab.evaluation.prompts import shapes
from chatvec_lab.families import family
from chatvec_lab.keys import Key, check, markdown
from chatvec_lab.paths import ROOT
from chatvec_lab.reading import read_yaml
from chatvec_lab.study import plan
from chatvec_lab.study.asks import ASKS


def read_from(module, *names: str) -> set[str]:
    """The constant keys by which code of a module reads a mapping of one of these names."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=name), attr="get"),
                args=[ast.Constant(value=str(key)), *_],
            ):
                found |= {key} if name in names else set()
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))):
                found |= {key} if name in names else set()
    return found


def test_the_page_is_what_the_code_says():
    assert (ROOT / "docs" / "keys.md").read_text("utf-8") == keys.page(), "make docs writes it anew"


@pytest.mark.parametrize("kind", keys.KINDS)
def test_each_part_comes_on_the_screen(kind, capsys):
    assert main(["keys", kind]) == 0
    assert capsys.readouterr().out.strip() in keys.page()


@pytest.mark.parametrize(
    ("tables", "module", "mappings"),
    [
        (family.FAMILY_KEYS, family, ["described"]),
        (family.MEMBER_KEYS, family, ["known"]),
        (plan.STUDY_KEYS, plan, ["written"]),
        (plan.NOTEBOOK_KEYS, plan, ["entry"]),
        (shapes.ROW_KEYS | shapes.UNASKED, shapes, ["row"]),
    ],
)
def test_what_a_loader_reads_is_in_its_table(tables, module, mappings):
    read = read_from(module, *mappings)
    assert read and read <= set(tables)


@pytest.mark.parametrize(
    ("tables", "module", "mappings"),
    [
        (family.FAMILY_KEYS, family, ["described"]),
        (plan.STUDY_KEYS, plan, ["written"]),
        (plan.NOTEBOOK_KEYS, plan, ["entry"]),
    ],
)
def test_what_is_in_a_table_is_read(tables, module, mappings):
    read = read_from(module, *mappings)
    assert set(tables) == read | set(ASKS if tables is plan.NOTEBOOK_KEYS else ())  # read by `study.asks`


ROWS = {
    "a list of texts": ["one"],
    "text, or a list of texts": "one",
    "a list of mappings with a role and a content": [{"role": "user", "content": "one"}],
    "text": "another",
    "text or a number": 7,
    "text, or a list with one a turn": "right",
    "a code, such as ko or zh-Hant": "ko",
    "a list of mappings with an instruction and its kwargs": [{"instruction": "x"}],
}


@pytest.mark.parametrize(
    "name", [name for name in shapes.ROW_KEYS if name not in ("instruction_id_list", "kwargs")]
)
def test_each_key_of_a_prompt_changes_what_is_read(name):
    """IFEval's two lists are one thing, tested with the shapes."""
    row = {"prompt": "one"}

    def read(row):
        return shapes.prompt_of(row, "here", 0, set="x", language="en")

    value = ROWS[shapes.ROW_KEYS[name].holds]
    if name in (*shapes._TURNS, *shapes._MESSAGES):
        assert read({name: value})["turns"] == ["one"]
    else:
        assert read(row | {name: value}) != read(row)


def test_every_key_of_the_shipped_files_is_known():
    for file in sorted((ROOT / "data" / "studies").glob("*.yaml")):
        study = read_yaml(file)
        check(study, plan.STUDY_KEYS, file.name)
        for name, entry in study["notebooks"].items():
            check(entry or {}, plan.NOTEBOOK_KEYS, f"{file.name}: {name}")
    for file in sorted((ROOT / "data" / "families").glob("*.yaml")):
        family.load_family(file)


def test_the_table_groups_keys_of_one_meaning_and_marks_the_needed():
    table = markdown(
        {"a": Key("text", "One | two."), "b": Key("text", "One | two."), "c": Key("a list", "x.", True)}
    )
    assert "| `a`, `b` | text | One \\| two. |" in table and "| `c` | a list | X. **Needed.** |" in table


def test_an_unknown_key_is_told_with_the_nearest():
    with pytest.raises(ValueError, match="here: unknown fields: 'gird': did you mean 'grid'"):
        check({"gird": 1}, plan.NOTEBOOK_KEYS, "here")
    with pytest.raises(ValueError, match="here: there should be a mapping with set, grid"):
        check([1], plan.NOTEBOOK_KEYS, "here")
