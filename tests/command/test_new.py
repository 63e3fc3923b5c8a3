"""`new`: a folder that runs at once, wherever it stands, and what it refuses."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml

from chatvec_lab.__main__ import main
from chatvec_lab.evaluation.prompts import read_prompts
from chatvec_lab.experiment import Exam
from chatvec_lab.families import load_family
from chatvec_lab.paths import ROOT
from chatvec_lab.study import plan


def test_without_models_the_tiny_ones_stand_in_and_the_dry_run_works_from_anywhere(tmp_path, capsys):
    assert main(["new", str(tmp_path / "my study")]) == 0
    told = capsys.readouterr().out
    assert "run '" in told and "my study/results/index.html" in told
    commands = [line.split("#")[0].strip() for line in told.splitlines() if line.startswith("  python")]
    assert len(commands) == 3
    dry = next(command for command in commands if "--dry-run" in command)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        dry.replace("python", sys.executable, 1),
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "10 cells, 0 done, 10 to run" in done.stdout and "my study/results" in done.stdout
    assert load_family(tmp_path / "my study" / "family.yaml").is_nano


def test_ids_of_ones_own_make_a_family_prompts_and_a_study(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    models = ["--base", "lab/base", "--chat", "lab/chat@v1.0", "--cp", "ko=lab/ko", "--cp", "vi=lab/vi"]
    assert main(["new", "mine", *models]) == 0
    assert "write prompts in vi into mine/prompts.yaml, since we have none" in capsys.readouterr().out
    family = load_family("mine/family.yaml")
    assert family.languages == ("ko", "vi") and family.facts["chat"] == {
        "source": "lab/chat",
        "revision": "v1.0",
    }
    prompts = read_prompts("mine/prompts.yaml", language="und")
    assert (
        prompts.language.value_counts().to_dict() == {"ko": 12, "en": 12}
        and prompts.checks.map(len).min() == 1
    )
    study = plan.load("mine/study.yaml")
    assert study.out == (tmp_path / "mine" / "results").resolve()
    given = {cell.notebook: cell for cell in study.cells}
    assert [c.parameters["language"] for c in study.cells if c.notebook == "06_multi_turn"] == [
        "ko"
    ]  # none in vi
    asked = given["03_scale_sweep"].places["prompts"]["one_turn"]
    assert asked == f"{(tmp_path / 'mine' / 'prompts.yaml').resolve()}, Qwen/P-MMEval"
    exam = Exam(family, "ko", prompts={"one_turn": asked, "max_tokens": "256"})
    assert len(exam.questions.draw("ko", "one_turn", n=99, draw="test", frame="chat")) in range(4, 12)


def test_chinese_alone_says_its_script_and_all_its_sets_are_found(tmp_path):
    assert main(["new", str(tmp_path / "zh"), "--base", "a/b", "--chat", "a/c", "--cp", "zh=a/d"]) == 0
    written = yaml.safe_load((tmp_path / "zh" / "study.yaml").read_text())
    prompts = written["set"]["prompts"] | {"one_turn": str(tmp_path / "zh" / "prompts.yaml")}
    exam = Exam(load_family(tmp_path / "zh" / "family.yaml"), "zh", prompts=prompts)
    for name in ("one_turn", "two_turn", "hostile", "harmless"):
        assert len(exam.questions.draw("zh", name, n=5, draw="test", frame="chat")), name
    assert len(exam.questions.draw("en", "one_turn", n=99, draw="test", frame="chat"))


def test_folders_are_named_from_the_new_one_and_the_folder_may_move(tmp_path, families, monkeypatch):
    base, chat, cp = families()
    for name, source in {"base": base, "chat": chat, "cp": cp}.items():
        shutil.copytree(source, tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path)
    assert (
        main(["new", "mine", "--base", "models/base", "--chat", "models/chat", "--cp", "ko=models/cp"]) == 0
    )
    assert "base: ../models/base\n" in (tmp_path / "mine" / "family.yaml").read_text()
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "mine", tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["families", str(tmp_path / "moved" / "family.yaml")]) == 0
    assert load_family("../moved/family.yaml").base.config["model_type"] == "llama"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--base", "a/b"],
            "--chat and --cp CODE=MODEL: a family has a base, a chat model and a CP model, or name none",
        ),
        (["--base", "a/b", "--chat", "a/c", "--cp", "a/d"], "--cp a/d: a language code, = and a model"),
        (
            ["--base", "a/b", "--chat", "a/c", "--cp", "ko=a/d", "--cp", "ko=a/e"],
            "--cp ko=... is given twice",
        ),
        (
            ["--base", "./none", "--chat", "a/c", "--cp", "ko=a/d"],
            "./none is neither a folder that is there nor a hub id",
        ),
        (["--base", "a/b", "--chat", "a/c", "--cp", "zh=a/d", "--cp", "ko=a/e"], "say the script: zh-Hans="),
    ],
)
def test_what_makes_no_family_is_refused_and_nothing_is_written(tmp_path, capsys, arguments, told):
    assert main(["new", str(tmp_path / "mine"), *arguments]) == 1
    assert told in capsys.readouterr().err and not (tmp_path / "mine").exists()


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert main(["new", str(tmp_path / "mine")]) == 0
    before = {file: file.read_bytes() for file in (tmp_path / "mine").iterdir()}
    assert main(["new", str(tmp_path / "mine")]) == 1
    assert "is there already, and is no empty folder" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in (tmp_path / "mine").iterdir()} == before
    (tmp_path / "file").write_text("x")
    assert main(["new", str(tmp_path / "file")]) == 1
