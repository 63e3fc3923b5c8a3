"""Every notebook's parameters: a value outside its range is told in one sentence, while planning and in the first cell."""

import math

import pytest

from chatvec_lab import study
from chatvec_lab.paths import NOTEBOOKS
from chatvec_lab.study import parameters, plan, ranges

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
DECLARED = {path.stem: parameters.read(path) for path in PATHS}
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
nan = math.nan
# parameter: values that are wrong, and what the sentence must say beside the parameter's name
WRONG = {
    "n": [(-3, "1 or more, got -3"), (0, "1 or more"), (2.5, "whole number"), ("many", "got 'many'"), (True, "got True")],
    "has_controls": [("yes", "true or false"), (1, "true or false")],
    "has_checkpointing": [("yes", "true or false")],
    "by": [("layers", "joined by ' × '"), ("layer × layer", "each once"), ("", "some of component"), (1, "got 1")],
    "measure": [("loss", "reply or first token")],
    "validation_n": [(0, "1 or more")],
    "texts": [(-1, "1 or more")],
    "elements": [(0, "1 or more")],
    "rank": [(0, "1 or more")],
    "max_tokens": [(0, "1 or more")],
    "seed": [(-1, "0 or more"), (99, "seed99 holds no family; shipped are seed0"), ("a", "whole number")],
    "seeds": [([-1], "0 or more"), ([1, 1], "each once"), (1, "a list of whole numbers")],
    "scale": [(nan, "a finite number, got nan"), (math.inf, "got inf"), ("a", "got 'a'"), ([1.0], "a finite number")],
    "scales": [(["a"], "finite numbers"), (0.5, "a list of finite numbers"), ([], "got []"), ([0.0, nan], "nan"),
               ([0.0, 1.0, 1.0], "each once")],
    "family": [("nanoo", "did you mean 'nano'?"), ("", "a family's name"), ("not/there.yaml", "is not there")],
    "families": [(["nano-qwen3"], "did you mean 'nano-qwen2'?"), ([""], "families' names")],
    "language": [("fr", "has no CP model for it; it has zh, ko"), ("", "the language"), (None, "got None")],
    "dtype": [("float8", "auto or one of bfloat16")],
    "dtypes": [([], "got []"), (["int8"], "bfloat16, float16, float32")],
    "vector": [("chatt", "has chat, chat_")],
    "compare": [(["cp"], "base and chat")],
    "prompts": [({"one_turns": "general"}, "did you mean 'one_turn'?"), ({"one_turn": "generall"}, "did you mean 'general'?"),
                ({"hostile": "vicuna, mine/none.jsonl"}, "no file or folder 'mine/none.jsonl'"),
                ({"max_tokens": "0"}, "1 or more, got '0'"), ({"temperature": "hot"}, "0 or more, got 'hot'")],
    "scorers": [(["instruction"], "did you mean 'instructions'?"), (["toxicity:perspectve"], "'toxicity:perspective'"),
                (["none.py"], "no file 'none.py'"), (["language", "language"], "each once")],
    "services": [({"judge": "x"}, "no key 'judge'"), ({"judge_price": "cheap"}, "two numbers"),
                 ({"safety_price": "1"}, "safety_price must be two"),
                 ({"judge_url": "/v1"}, "judge_url must be an address"), ({"toxicity_url": "localhost:9"}, "an address"),
                 ({"timeout": "soon"}, "timeout must be a whole number"), ({"judge_max_tokens": "0"}, "1 or more"),
                 ({"tasks_limit": "0"}, "1 or more")],
    "tasks": [([""], "lm-eval's tasks")],
    "speaker": [("server", "memory, or served:URL"), ("served:", "memory, or served:URL")],
    "served": [({"CP": "x"}, "say which server"), ({"CP": ""}, "a mapping")],
    "sweep": [("no/folder", "no summary.json")],
    "instructions": [(["no/folder"], "no summary.json")],
    "toxicity": [(["no/folder"], "no summary.json")],
    "pairs": [(["no/folder"], "no summary.json")],
    "transfer": [(["no/folder"], "no summary.json")],
    "at_scales": [([], "a list of finite numbers above 0"), ([0.0], "above 0"), ([1.0, 1.0], "each once")],
    "steps": [([0.5], "two at least"), ([0.0, nan], "finite numbers"), ([1.0, 1.0], "each once")],
    "samples": [(0, "1 or more")],
    "temperature": [(0.0, "above 0"), (math.inf, "a finite number")],
    "trials": [(0, "1 or more")],
    "guard": [(0.9, "1 or more"), (float("inf"), "a finite number")],
    "knowledge": [(["no/folder"], "no summary.json")],
}  # fmt: skip
FREE = {"prompt", "system", "folder", "out_dir"}  # any text


def namespace(path, **values):
    """What a kernel holds after the parameters cell and papermill's own."""
    found = {}
    exec(parameters.notebook_cells(path)[1]["source"], found)
    return found | values


@each_notebook
def test_every_parameter_is_in_the_table_with_its_type(path):
    for name, parameter in DECLARED[path.stem].items():
        assert name in ranges.KNOWN and ranges.KNOWN[name].kind == parameter.annotation, name
        assert name in FREE or name in WRONG, f"{name} is not tested"


@each_notebook
def test_its_first_cell_checks_and_names_the_notebook(path):
    code = [cell["source"] for cell in parameters.notebook_cells(path) if cell["cell_type"] == "code"]
    assert "study.check(globals())" in code[1]
    assert f'out = study.output(out_dir, "{path.stem}")' in code[1]
    assert code[1].index("study.check") < code[1].index("study.output")


@each_notebook
def test_the_defaults_are_allowed(path):
    study.check(namespace(path))


@each_notebook
def test_what_is_not_allowed_is_told_in_a_sentence(path):
    for name in DECLARED[path.stem]:
        for value, told in WRONG.get(name, []):
            given = {name: value}
            if name in ("prompts", "scorers") and "family" in DECLARED[path.stem]:
                given |= {"family": "llama-2-7b-ko", "language": "ko"}  # nano takes no prompts
            with pytest.raises((TypeError, ValueError)) as caught:
                study.check(namespace(path, **given))
            (line,) = str(caught.value).splitlines()
            assert (
                line.startswith(f"parameters: {'family' if 'holds no family' in told else name}")
                and told in line
            )


@pytest.mark.parametrize("scales", [[0.5, 1.0], [0.0]])
def test_a_sweep_has_the_cp_and_another(scales):
    with pytest.raises(ValueError, match="scales must have 0, which is the CP itself, and another"):
        study.check(namespace(NOTEBOOKS / "03_scale_sweep.ipynb", scales=scales))
    study.check(namespace(NOTEBOOKS / "02_anatomy.ipynb", scales=[0.5]))


def test_a_cell_that_its_run_calls_done_is_a_folder_of_results(tmp_path):
    paper, sweep = NOTEBOOKS / "08_paper.ipynb", NOTEBOOKS / "04_instruction_following.ipynb"
    record = tmp_path / "run.json"
    for status, is_whole in (("running", False), ("failed", False), ("done", True)):
        record.write_text(f'{{"status": "{status}"}}')
        if is_whole:
            study.check(namespace(paper, instructions=[str(tmp_path)]))
        else:
            with pytest.raises(ValueError, match="no folder of results"):
                study.check(namespace(paper, instructions=[str(tmp_path)]))
    with pytest.raises(ValueError, match=r"no summary\.json"):  # a sweep's is read
        study.check(namespace(sweep, sweep=str(tmp_path)))


def test_prompts_and_scorers_must_fit_the_family():
    sweep = NOTEBOOKS / "03_scale_sweep.ipynb"
    with pytest.raises(ValueError, match="is asked the micro-world's prompts"):
        study.check(namespace(sweep, prompts={"one_turn": "general"}))
    with pytest.raises(ValueError, match="'world' knows the micro-world alone"):
        study.check(namespace(sweep, family="llama-2-7b-ko", language="ko", scorers=["world"]))
    named = [
        "judge:paper",
        "toxicity:unitary/toxic-bert",
        "safety:guard:Qwen/Qwen3Guard-Gen-0.6B",
        "language",
    ]
    sets = {
        "one_turn": "Qwen/P-MMEval, general",
        "hostile": "safety-prompts",
        "validation": "https://example.org/v.jsonl",
    }
    study.check(namespace(sweep, family="llama-2-7b-ko", language="ko", scorers=named, prompts=sets))


def test_without_annotations_the_known_names_are_checked():
    """Python 3.14 keeps annotations otherwise."""
    space = namespace(NOTEBOOKS / "03_scale_sweep.ipynb", n=-3)
    del space["__annotations__"]
    with pytest.raises(ValueError, match="n must be a whole number, 1 or more, got -3"):
        study.check(space)


def test_a_parameter_of_ones_own_is_held_to_its_type_alone():
    space = {"__annotations__": {"n": str, "depth": int}, "n": "many", "depth": -1}
    study.check(space)
    with pytest.raises(TypeError, match="depth must be int, got 'a'"):
        study.check(space | {"depth": "a"})


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("03_scale_sweep: {set: {n: -3}}", "03_scale_sweep: n must be a whole number, 1 or more, got -3"),
        ("03_scale_sweep: {set: {scales: [a]}}", "scales must be a list of finite numbers"),
        ("03_scale_sweep: {set: {scales: 0.5}}", "got 0.5"),
        ("03_scale_sweep: {set: {scales: [0.5, 1]}}", "scales must have 0"),
        ("04_instruction_following: {grid: {language: [zh, fr]}}", "language='fr'"),
        ("05_toxicity: {set: {family: llama-2-7b-ko, language: ko, scorers: [toxic]}}", "no scorer 'toxic'"),
        ("06_multi_turn: {set: {family: llama-2-7b-ko, language: ko, prompts: {two_turn: mt_bench}}}", "'mt-bench'"),
        ("07a_parts: {grid: {seed: [0, -1]}}", "seed must be a whole number, 0 or more, got -1"),
    ],
)  # fmt: skip
def test_a_study_tells_it_while_it_plans(tmp_path, written, told):
    file = tmp_path / "mine.yaml"
    file.write_text(f"notebooks:\n  {written}\n")
    with pytest.raises((ValueError, TypeError)) as caught:
        plan.load(file)
    assert told in str(caught.value) and str(file) in str(caught.value)


def test_a_prompt_file_among_others_is_found_beside_the_study(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "zh.jsonl").write_text('{"prompt": "one"}\n')
    file = tmp_path / "mine.yaml"
    file.write_text(
        "family: llama-2-7b-ko\nset: {language: ko, prompts: {one_turn: 'mine/zh.jsonl, vicuna, safety-prompts:mine', "
        "hostile: 'safety-prompts:mine'}}\n"
        "notebooks: {04_instruction_following: }\n"
    )
    monkeypatch.chdir(NOTEBOOKS)
    (cell,) = plan.load(file).cells
    there = tmp_path / "mine"
    assert cell.places["prompts"] == {
        "one_turn": f"{there}/zh.jsonl, vicuna, safety-prompts:{there}",
        "hostile": f"safety-prompts:{there}",
    }
    (there / "zh.jsonl").write_text('{"prompt": "two"}\n')
    assert plan.load(file).cells[0].key != cell.key


def test_papermill_ends_in_the_sentence(tmp_path):
    import papermill

    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(
            NOTEBOOKS / "02_anatomy.ipynb", tmp_path / "done.ipynb", parameters={"rank": 0, "out_dir": str(tmp_path)},
            progress_bar=False, kernel_name="python3",
        )  # fmt: skip
    assert caught.value.ename == "ValueError"
    assert caught.value.evalue == "parameters: rank must be a whole number, 1 or more, got 0"
