"""Cells and their keys: what changes a key, what does not, and how notebooks find each other's results."""

import json

import pytest

from chatvec_lab.study import fingerprint, plan


@pytest.fixture
def keys(lab, monkeypatch):
    """Keys of the study's cells, by notebook, as the files are now."""
    monkeypatch.setattr(fingerprint, "PACKAGE", lab.root / "chatvec_lab")
    lab.notebook(
        "first",
        "seed: int = 0  # seed\nscale: float = 1.0  # scale\nfamily: str = 'llama-2-7b-ko'  # family"
        "\nextra: str = ''  # a file",
        "print(seed)",
    )
    lab.notebook("last", "seed: int = 0  # seed\nfirst: list[str] = []  # folders", "print(first)")
    lab.study("""
        inputs: [data.txt]
        notebooks:
          first.ipynb:
            grid: {seed: [0, 1]}
          last.ipynb:
            needs: {first: first}
    """)
    (lab.root / "data.txt").write_text("one")

    def now(**options):
        found: dict[str, list[str]] = {}
        for cell in plan.load(lab.root / "tiny.yaml", **options).cells:
            found.setdefault(cell.notebook, []).append(cell.key)
        return found

    return now


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_prose_outputs_and_metadata_do_not_change_keys(lab, keys):
    before = keys()
    edit(lab.root / "first.ipynb", "A tiny notebook", "Another title")
    edit(lab.root / "first.ipynb", '"outputs": []', '"outputs": [{"output_type": "stream"}]')
    assert keys() == before


def test_code_changes_the_notebook_and_what_needs_it(lab, keys):
    before = keys()
    edit(lab.root / "last.ipynb", "print(first)", "print(len(first))")
    assert keys()["first"] == before["first"] and keys()["last"] != before["last"]
    edit(lab.root / "first.ipynb", "print(seed)", "print(seed + 1)")
    assert not set(keys()["first"]) & set(before["first"])


def test_inputs_change_every_key(lab, keys):
    before = keys()
    (lab.root / "data.txt").write_text("two")
    after = keys()
    assert not {*before["first"], *before["last"]} & {*after["first"], *after["last"]}


def test_what_a_notebook_imports_changes_its_keys_and_nothing_else_does(lab, keys):
    edit(lab.root / "last.ipynb", "print(first)", "from chatvec_lab import study; study.output(out_dir)")
    before = keys()
    edit(
        lab.root / "chatvec_lab/study/outputs.py", "numpy numbers and arrays", "Numbers and arrays"
    )  # a docstring
    edit(lab.root / "chatvec_lab/study/outputs.py", "import math\n", "import math  # a comment\n\n")
    edit(
        lab.root / "chatvec_lab/study/slurm.py", "SQUEUE_SECONDS = 5", "SQUEUE_SECONDS = 6"
    )  # not imported there
    assert keys() == before
    edit(lab.root / "chatvec_lab/paths.py", "reports", "results")  # imported by outputs
    assert keys()["first"] == before["first"] and keys()["last"] != before["last"]


def test_the_template_of_the_report_changes_no_key(lab, keys):
    before = keys()
    (lab.root / "chatvec_lab/report/page.html.j2").write_text("other")
    assert keys() == before


def test_a_default_given_or_not_and_an_int_for_a_float_are_one_cell(lab, keys):
    assert keys() == keys(set={"scale": 1}) == keys(set={"scale": "1.0"})
    assert keys() != keys(set={"scale": 2})


def test_set_wins_over_a_grid_and_equal_cells_run_once(keys):
    assert len(keys(set={"seed": "5"})["first"]) == 1


def test_files_that_a_family_and_parameters_name_change_keys(lab, keys):
    family = lab.root / "family.yaml"
    (lab.root / "weights").mkdir()
    (lab.root / "weights" / "model.safetensors").write_bytes(b"1" * 100)
    family.write_text("base: weights\nchat: some/hub-id\ncp: {ko: another/hub-id}\n")
    before = keys(set={"family": str(family)})
    (lab.root / "weights" / "model.safetensors").write_bytes(b"1" * 99 + b"2")
    assert keys(set={"family": str(family)}) != before


def test_files_are_found_where_the_loaders_look(lab, keys, monkeypatch):
    monkeypatch.chdir(lab.root)
    prompts = lab.root / "mine.jsonl"
    prompts.write_text('{"prompt": "old"}')
    before = keys(set={"extra": "mine.jsonl"})
    prompts.write_text('{"prompt": "another"}')
    assert keys(set={"extra": "mine.jsonl"}) != before
    (lab.root / "nano").mkdir()  # a folder of that name is no family: the shipped one is meant
    shipped = fingerprint.family("nano")
    (lab.root / "nano" / "x").write_text("x")
    assert fingerprint.family("nano") == shipped != {}
    (lab.root / "nano" / "base").mkdir()
    assert fingerprint.family("nano") != shipped
    long = "word " * 100 + "and/or"
    assert fingerprint.parameters({"system": long, "folder": str(prompts)}) == {}


def test_a_judge_of_the_environment_and_scorers_of_ones_own_change_keys(lab, monkeypatch):
    monkeypatch.chdir(lab.root)
    lab.notebook(
        "first",
        "scorers: list[str] = []  # names\nservices: dict[str, str] = {}  # addresses",
        "print(scorers)",
    )
    for name in ("clf", "guard", "tasks"):
        (lab.root / name).mkdir()
        (lab.root / name / "weights").write_text("old")

    def key(scorers, services="{}"):
        lab.study(f"notebooks: {{first.ipynb: {{set: {{scorers: {scorers}, services: {services}}}}}}}")
        return plan.load(lab.root / "tiny.yaml").cells[0].key

    asks = [("[judge:mt-bench]", "{}"), ("[safety:judge]", "{}"), ("[judge:pair]", "{judge_model: m}")]
    others = [("[language]", "{}"), ("[judge:pair]", "{judge_model: m, judge_url: 'http://127.0.0.1:1/v1'}")]
    own = [
        ("['toxicity:./clf', 'safety:guard:./guard']", "{toxicity_languages: en}"),
        ("[language]", "{tasks: tasks}"),
    ]
    before = {one: key(*one) for one in (*asks, *others, *own)}
    monkeypatch.setenv("CHATVEC_JUDGE_URL", "http://127.0.0.1:2/v1")
    monkeypatch.setenv("CHATVEC_JUDGE_MODEL", "another")
    assert all(key(*one) != before[one] for one in asks)
    assert all(key(*one) == before[one] for one in (*others, *own))
    for name, one in (("clf", own[0]), ("tasks", own[1])):
        (lab.root / name / "weights").write_text("another")
        assert key(*one) != before[one]


def test_a_mapping_is_asked_for_where_one_belongs(lab):
    lab.notebook("first", "seed: int = 0  # seed")
    for text in ("[first.ipynb]", "{first.ipynb: {needs: x}}", "{first.ipynb: {grid: [x]}}"):
        lab.study(f"notebooks: {text}")
        with pytest.raises(ValueError, match="should be a mapping"):
            plan.load(lab.root / "tiny.yaml")
    lab.study("notebooks: {first.ipynb: {}}")
    with pytest.raises(ValueError, match=r"seed=\[0, line 2.*not YAML"):
        plan.load(lab.root / "tiny.yaml", set={"seed": "[0"})


def test_a_large_file_is_sampled_and_a_change_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE", 1 << 20)
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(20 << 20))
    before = fingerprint.path(file)
    fingerprint._file.cache_clear()
    assert fingerprint.path(file) == before
    file.write_bytes(b"\1" * (20 << 20))
    assert fingerprint.path(file) != before


def test_needs_match_on_what_both_vary(lab):
    lab.notebook("first", "seed: int = 0  # seed\nlanguage: str = 'ko'  # language")
    lab.notebook(
        "last", "language: str = 'ko'  # language\nfirst: list[str] = []  # folders\none: str = ''  # folder"
    )
    study = lab.study("""
        notebooks:
          first.ipynb: {grid: {language: [ko, zh], seed: [0, 1]}}
          last.ipynb: {grid: {language: [ko, zh]}, needs: {first: first}}
    """)
    cells = plan.load(study).cells
    for cell in cells[4:]:
        needed = [(need.parameters["language"], need.parameters["seed"]) for need in cell.needs["first"]]
        assert needed == [(cell.parameters["language"], 0), (cell.parameters["language"], 1)]
    edit(study, "needs: {first: first}", "needs: {one: first}")
    with pytest.raises(
        ValueError, match=r"last needs one cell of first for one, and 2 agree(?s:.*)declare `one: list"
    ):
        plan.load(study)


def test_only_takes_beginnings_and_brings_what_is_needed(lab, keys):
    keys()
    study = plan.load(lab.root / "tiny.yaml")
    assert [cell.notebook for cell in plan.chosen(study, ["fir"])] == ["first", "first"]
    assert [cell.notebook for cell in plan.chosen(study, ["last"])] == ["first", "first", "last"]
    with pytest.raises(ValueError, match="--only lats: did you mean 'last'"):
        plan.chosen(study, ["lats"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("notebooks: {first.ipynb: {gird: {seed: [0]}}}", "unknown fields: 'gird': did you mean 'grid'?"),
        ("notebooks: {first.ipynb: {grid: {seed: 0}}}", "grid: seed must be a list of values, got 0"),
        ("notebooks: {first.ipynb: {set: {sede: 0}}}", "first has no parameter 'sede'; did you mean 'seed'?"),
        ("notebooks: {first.ipynb: {set: {out_dir: x}}}", "out_dir is filled in by the runner"),
        ("notebooks: {frist.ipynb: {}}", "frist.ipynb is not there"),
        (
            "set: {sede: 1}\nnotebooks: {first.ipynb: {}}",
            "no notebook of this study has these parameters: 'sede'",
        ),
        (
            "inputs: [nothing.txt]\nnotebooks: {first.ipynb: {}}",
            "'nothing.txt' is neither beside the study nor in",
        ),
        (
            "notebooks: {last.ipynb: {needs: {first: first}}}",
            "last needs 'first', which is not listed before it",
        ),
        ("title: nothing", "there are no `notebooks`"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_runs(lab, keys, text, message):
    keys()
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        plan.load(lab.study(text, name="wrong"))
    assert message in str(caught.value)


def test_an_unknown_study_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match="there is no study"):
        plan.load("no-such-study")


def test_a_notebook_listed_twice_is_refused_with_both_lines(lab, keys):
    keys()
    twice = "notebooks:\n  first.ipynb:\n    set: {seed: 1}\n  first.ipynb:\n    set: {seed: 2}\n"
    with pytest.raises(ValueError, match=r"wrong\.yaml: the key 'first\.ipynb' .*lines 2 and 4"):
        plan.load(lab.study(twice, name="wrong"))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("0123456", "0123456"),
        ("1e5", "1e5"),
        ("0.50", "0.50"),
        ("12345", "12345"),
        ("2024-01-01", "2024-01-01"),
        ("'x'", "x"),
    ],
)
def test_a_parameter_of_text_is_what_was_written(lab, written, value):
    lab.notebook("first", "revision: str = 'main'  # of the model\nnames: list[str] = []  # more")
    lab.study(f"notebooks: {{first.ipynb: {{grid: {{revision: [{written}]}}, set: {{names: [{written}]}}}}}}")
    (cell,) = plan.load(lab.root / "tiny.yaml").cells
    assert cell.parameters["revision"] == value and cell.parameters["names"] == [value]


@pytest.mark.parametrize("written", [".inf", "-.INF", ".nan", "'0.5'", "1_000", "0x10", "yes", "~"])
def test_a_number_is_one_that_a_record_can_hold(lab, written):
    lab.notebook("first", "share: float = 0.5  # of it")
    lab.study(f"notebooks: {{first.ipynb: {{grid: {{share: [{written}]}}}}}}")
    with pytest.raises(TypeError, match="first: share must be float, got"):
        plan.load(lab.root / "tiny.yaml")


def test_a_word_of_yaml_where_text_belongs_is_refused_with_the_quotes(lab):
    lab.notebook("first", "label: str = ''  # text\nis_on: bool = False  # switch")
    lab.study("notebooks: {first.ipynb: {set: {label: true}}}")
    with pytest.raises(TypeError, match=r"label must be str, got True.*put it in quotes: 'true'"):
        plan.load(lab.root / "tiny.yaml")
    lab.study("notebooks: {first.ipynb: {set: {is_on: yes}}}")
    with pytest.raises(TypeError, match=r"is_on must be bool, got 'yes'.*written true or false"):
        plan.load(lab.root / "tiny.yaml")


def test_a_grid_that_makes_too_many_cells_is_refused_at_once(lab):
    axes = [f"a{i}" for i in range(9)]
    lab.notebook("first", "\n".join(f"{axis}: int = 0  # axis" for axis in axes))
    grid = ", ".join(f"{axis}: {list(range(10))}" for axis in axes)
    lab.study(f"notebooks: {{first.ipynb: {{grid: {{{grid}}}}}}}")
    with pytest.raises(ValueError, match=r"first: its grid makes 1,000,000,000 cells"):
        plan.load(lab.root / "tiny.yaml")


def test_relative_paths_follow_the_study_file(lab, monkeypatch, tmp_path_factory):
    """A study in a folder of its own is the same from wherever it is run."""
    lab.notebook(
        "first",
        "family: str = 'nano'  # family\nprompts: dict[str, str] = {}  # sets\nword: str = 'ko'  # a word",
    )
    (lab.root / "mine.yaml").write_text("base: a/b\nchat: a/c\ncp: {ko: a/d}\n")
    (lab.root / "my.jsonl").write_text('{"prompt": "one"}')
    (lab.root / "ko").mkdir()
    lab.study("family: mine.yaml\nnotebooks: {first.ipynb: {set: {prompts: {one_turn: my.jsonl}}}}")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "my.jsonl").write_text('{"prompt": "another"}')
    found = []
    for folder in (lab.root, elsewhere):
        monkeypatch.chdir(folder)
        found += plan.load(lab.root / "tiny.yaml").cells
    assert found[0].key == found[1].key and found[0].inputs == found[1].inputs
    assert set(found[1].inputs) == {"family mine.yaml", "mine.yaml", "my.jsonl"}
    assert found[1].parameters["family"] == "mine.yaml", "what is shown is what was written"
    assert found[1].places == {
        "family": str(lab.root / "mine.yaml"),
        "prompts": {"one_turn": str(lab.root / "my.jsonl")},
    }
    (lab.root / "my.jsonl").write_text('{"prompt": "two"}')
    assert plan.load(lab.root / "tiny.yaml").cells[0].key != found[0].key
    typed = plan.load(lab.root / "tiny.yaml", set={"prompts": "{one_turn: my.jsonl}"}).cells[0]
    assert "prompts" not in typed.places, "what is typed is meant from where it is typed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"nbformat": 3, "worksheets": []}, "first.ipynb has nbformat 3, and format 4 runs here"),
        (lambda c: {k: v for k, v in c.items() if k != "cells"}, "first.ipynb: expected cells in the mapping"),
        (lambda c: c | {"metadata": {"kernelspec": {"language": "R"}}}, "written in R, and chatvec_lab runs Python"),
        (lambda c: [c], "first.ipynb: expected a mapping, found a list"),
        (lambda c: c | {"cells": [{"source": "x = 1"}]}, "item 0: expected cell_type in the mapping"),
        (lambda c: c | {"metadata": {"language_info": {"name": "julia"}}}, "written in julia"),
        (lambda c: c | {"cells": [{"cell_type": "heading", "source": "x"}]}, "cell 1: expected code, markdown or raw"),
        (lambda c: c | {"cells": [{"cell_type": "code", "source": None}]}, "source: expected text or a list, found null"),
        (lambda c: c | {"cells": [{"cell_type": "code", "source": "x", "metadata": {"tags": "a"}}]}, "tags: expected a list"),
        (lambda c: c | {"cells": [{"cell_type": "code", "source": "x='\ud800'"}]}, "half a character"),
        (lambda c: c | {"nbformat": "4"}, "nbformat: expected a whole number"),
    ],
)  # fmt: skip
def test_what_is_no_notebook_of_ours_is_refused_by_the_plan(lab, keys, change, message):
    keys()
    file = lab.root / "first.ipynb"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=message):
        plan.load(lab.root / "tiny.yaml")
    file.write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"first.ipynb is not a notebook: it is not text in UTF-8"):
        plan.load(lab.root / "tiny.yaml")


def test_what_is_wrong_with_several_notebooks_is_said_once(lab):
    with pytest.raises(ValueError) as caught:
        plan.load("nano", set={"family": "nanoo"})
    (line,) = str(caught.value).splitlines()
    assert "nano.yaml: 00_nano_family, 01_chat_vector, " in line and line.count("did you mean 'nano'") == 1
