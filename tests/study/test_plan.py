"""Cells and their keys: what changes a key, what does not, and how notebooks find each other's results."""

import pytest

from chatvec_lab.study import fingerprint, plan


@pytest.fixture
def keys(lab, monkeypatch):
    """Keys of the study's cells, by notebook, as the files are now."""
    monkeypatch.setattr(fingerprint, "PACKAGE", lab.root / "chatvec_lab")
    lab.notebook(
        "first",
        "seed: int = 0  # seed\nscale: float = 1.0  # scale\nfamily: str = 'x'  # family",
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


@pytest.mark.parametrize("file", ["data.txt", "chatvec_lab/paths.py"])
def test_inputs_and_the_package_change_every_key(lab, keys, file):
    before = keys()
    (lab.root / file).write_text((lab.root / file).read_text() + "\n# changed\n")
    after = keys()
    assert not {*before["first"], *before["last"]} & {*after["first"], *after["last"]}


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
    family.write_text("base: weights\nchat: some/hub-id\n")
    before = keys(set={"family": str(family)})
    (lab.root / "weights" / "model.safetensors").write_bytes(b"1" * 99 + b"2")
    assert keys(set={"family": str(family)}) != before


def test_files_are_found_where_the_loaders_look(lab, keys, monkeypatch):
    monkeypatch.chdir(lab.root)
    prompts = lab.root / "mine.jsonl"
    prompts.write_text('{"prompt": "old"}')
    before = keys(set={"family": "mine.jsonl"})
    prompts.write_text('{"prompt": "another"}')
    assert keys(set={"family": "mine.jsonl"}) != before
    (lab.root / "nano").mkdir()  # a folder of that name is no family: the shipped one is meant
    shipped = fingerprint.family("nano")
    (lab.root / "nano" / "x").write_text("x")
    assert fingerprint.family("nano") == shipped != {}
    (lab.root / "nano" / "base").mkdir()
    assert fingerprint.family("nano") != shipped
    long = "word " * 100 + "and/or"
    assert fingerprint.parameters({"system": long, "folder": str(prompts)}) == {}


def test_a_mapping_is_asked_for_where_one_belongs(lab):
    lab.notebook("first", "seed: int = 0  # seed")
    for text in ("[first.ipynb]", "{first.ipynb: {needs: x}}", "{first.ipynb: {grid: [x]}}"):
        lab.study(f"notebooks: {text}")
        with pytest.raises(ValueError, match="should be a mapping"):
            plan.load(lab.root / "tiny.yaml")
    lab.study("notebooks: {first.ipynb: {}}")
    with pytest.raises(ValueError, match="seed=\\[0: not a list"):
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
