"""Prompt sets load by name, published formats as they are; faults are named. Our own: test_our_prompts."""

import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from chatvec_lab.evaluation.prompts import load_prompts, read_prompts

IFEVAL = {
    "key": 1000,
    "prompt": "Write 300 words without commas.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{"num_words": None}, {"num_words": 300.0, "relation": "at least", "keywords": None}],
}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_ifeval_files_load_with_their_padding(tmp_path, suffix):
    path = tmp_path / f"ifeval.{suffix}"
    if suffix == "parquet":
        pd.DataFrame([IFEVAL]).to_parquet(path)
    else:
        path.write_text(json.dumps(IFEVAL) if suffix == "jsonl" else json.dumps([IFEVAL]), encoding="utf-8")
    row = read_prompts(path, language="en").iloc[0]
    assert (row.prompt_id, row.turns) == ("1000", ["Write 300 words without commas."])
    assert row.checks == [
        {"instruction": "punctuation:no_comma", "kwargs": {}},
        {
            "instruction": "length_constraints:number_words",
            "kwargs": {"num_words": 300, "relation": "at least"},
        },
    ]


def test_fastchat_rows_load_with_turns_and_references():
    rows = [
        {"question_id": 81, "category": "math", "turns": ["What is x?", "And y?"], "reference": ["1", "2"]}
    ]
    row = read_prompts(rows, language="zh-TW", set="mt-bench").iloc[0]
    assert (row.prompt_id, row.set, row.category, row.language) == ("81", "mt-bench", "math", "zh-Hant")
    assert (row.turns, row.reference) == (["What is x?", "And y?"], ["1", "2"])


def test_plain_tables_load(tmp_path):
    (tmp_path / "mine.csv").write_text("id,question\na,Why?\nb,How?\n", encoding="utf-8")
    assert read_prompts(tmp_path / "mine.csv", language="en", limit=1).turns.tolist() == [["Why?"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no prompts"),
        ([{"id": 1, "frage": "Warum?"}], "row 0: none of turns, .* among id, frage"),
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "1 ids occur twice, such as '1'"),
        (
            [{**IFEVAL, "kwargs": [{}, {"num_words": 3}]}],
            "1000: length_constraints:number_words .* 'relation'",
        ),
    ],
)
def test_faults_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(rows, language="en", set="mine")


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"id": 1, "text": "a\u2028b"}\n{"id": 2,\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2, column .*: this is not JSON"):
        read_prompts(path, language="en")
    with pytest.raises(FileNotFoundError, match=re.escape("no prompt file nowhere.jsonl")):
        read_prompts("nowhere.jsonl", language="en")


def test_unknown_sets_and_languages_are_named():
    with pytest.raises(KeyError, match="our own: general, dialogues"):
        load_prompts("generel")
    with pytest.raises(ValueError, match="has no prompts in 'fr'; it has en, zh-Hant"):
        load_prompts("general", "fr")
    with pytest.raises(ValueError, match="has no prompts in 'sw'"):
        load_prompts("Qwen/P-MMEval", "sw")
    assert load_prompts("general", "zh_TW").language.unique() == ["zh-Hant"]


def test_without_a_network_the_error_says_what_to_do(tmp_path):
    code = """if True:
        from chatvec_lab.evaluation.prompts import PUBLISHED, load_prompts
        for name in ("google/IFEval", "vicuna", "karakuri-ai/corrected-mt-bench-ja"):
            try:
                load_prompts(name, PUBLISHED[name][2][0])
            except ConnectionError as error:
                print(str(error).replace("\\n", " "))
    """
    dead = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | dead, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout
    assert all("cannot download" in line and "read_prompts(path, language=...)" in line for line in lines)
