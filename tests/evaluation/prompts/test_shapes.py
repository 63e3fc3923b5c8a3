"""Prompts are asked as they are meant, whatever the shape, or refused with file, row and column."""

import json

import pandas as pd
import pytest

from chatvec_lab.evaluation.prompts import read_prompts
from chatvec_lab.evaluation.prompts.shapes import prompt_of

HI = {"role": "user", "content": "Hi"}
BYE = {"role": "assistant", "content": "Bye"}


@pytest.mark.parametrize(
    ("row", "turns", "reference"),
    [
        ({"prompt": "Hi"}, ["Hi"], None),
        ({"turns": [{"content": "Hi"}, {"content": "So?"}]}, ["Hi", "So?"], None),
        ({"prompt": ["Hi", "So?"]}, ["Hi", "So?"], None),
        ({"prompt": [HI]}, ["Hi"], None),
        ({"messages": [HI, BYE]}, ["Hi"], ["Bye"]),
        ({"messages": [{"role": "system", "content": ""}, HI]}, ["Hi"], None),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Bye"}] * 2}, ["Hi"] * 2, ["Bye"] * 2),
        ({"prompt": "Hi", "messages": [HI, BYE, HI, BYE]}, ["Hi", "Hi"], ["Bye", "Bye"]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, ["Hi"], None),
        ({"instruction": "Translate.", "input": "Hi", "output": "Hola"}, ["Translate.\n\nHi"], ["Hola"]),
        ({"instruction": "Sing.", "input": ""}, ["Sing."], None),
        ({"question": "Who?", "context": "Ann sang.", "answer": "Ann"}, ["Ann sang.\n\nWho?"], ["Ann"]),
        ({"prompt": {"text": "Hi", "toxicity": 0.1}}, ["Hi"], None),
        ({"prompt": "['Hi'] has one text. Which?"}, ["['Hi'] has one text. Which?"], None),
        ({"input": "Hi"}, ["Hi"], None),
        ({"question": "2 and 2?", "answer": 4}, ["2 and 2?"], ["4"]),
        ("Hi", ["Hi"], None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["rows", "jsonl", "json", "parquet"])
def test_every_shape_is_asked_as_meant(row, turns, reference, suffix, tmp_path):
    path = tmp_path / f"mine.{suffix}"
    if suffix == "rows":
        path = [row]
    elif suffix == "parquet":
        pd.DataFrame([row if isinstance(row, dict) else {"prompt": row}]).to_parquet(path)
    else:
        path.write_text(json.dumps(row if suffix == "jsonl" else [row]), "utf-8")
    found = read_prompts(path, language="en").iloc[0]
    assert (found.turns, found.reference) == (turns, reference)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": ""}, "row 0, column prompt is empty"),
        ({"turns": []}, "row 0, column turns is empty"),
        ({"prompt": "['Hi', \"What's up?\"]"}, "column prompt is a list as Python prints it"),
        ({"turns": ["Hi", " "]}, "row 0, column turns has an empty turn"),
        ({"prompt": 1234}, "column prompt is 1234, int, not text"),
        ({"turns": ["Hi", 5]}, "column turns is 5, int"),
        ({"turns": [{"id": 1}]}, "column turns is an object without a text; found id"),
        ({"messages": [{"role": "system", "content": "Be kind."}, HI]}, r"system message.*respond\(system="),
        ({"prompt": "Hi", "system_prompt": "Be kind."}, "column system_prompt: a system prompt is given to respond"),
        ({"messages": [HI, BYE, HI]}, "fixes what the assistant said before"),
        ({"messages": [HI, HI]}, "user and assistant alternate"),
        ({"messages": [BYE]}, "user and assistant alternate"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        ({"messages": "Hi"}, "column messages is no list of messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "type 'image_url'"),
        ({"prompt": "Hi", "question": "Who?"}, "columns prompt and question both say what is asked"),
        ({"question": "Which?", "choices": ["a", "b"]}, "column choices: multiple choice"),
        ({"instruction": "So?", "history": [["a", "b"]]}, "column history"),
        ({"prompt": "Hi", "reference": ["a", "b"]}, "2 answers for 1 turns"),
        ({"prompt": "Hi", "id": None}, "column id is None: every row needs an id"),
        ({"turns": "['Hi' 'So?']"}, "as Python prints it"),
        ({"prompt": "[{'role': 'user', 'content': 'Hi'}]"}, "as Python prints it"),
        ({"prompt": "Hi", "checks": "[{]"}, "column checks, column 3: this is not JSON"),
        ({"prompt": "Hi", "instruction_id_list": ["a", "b"], "kwargs": [{}]}, "two lists of the same length"),
        ({"prompt": "Hi", "instruction_id_list": 7}, "two lists of the same length"),
        ({"prompt": "Hi", "instruction_id_list": ["a"], "kwargs": {"a": 1}}, "two lists of the same length"),
        ({"prompt": "Hi", "instruction_id_list": ["a"], "kwargs": [7]}, "column kwargs: the kwargs of a check are"),
        ({"prompt": "Hi", "checks": [{"instruction": "a", "kwargs": 3}]}, "column checks: the kwargs of a check are"),
        ({"prompt": "Hi", "checks": [{"instruction": "a", "kwargs": ["n", 3]}]}, r"got \['n', 3\]"),
        ({"prompt": "Hi", "checks": [{"instruction": "a", "kwargs": "{"}]}, "column checks"),
        ([1, 2], "row 0 is list"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_as_meant_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        read_prompts([row], language="en", set="mine")


def test_cells_with_json_and_texts_that_begin_like_it():
    rows = [
        {"id": "1", "turns": '["Hi", "So?"]'},
        {"id": "2", "prompt": json.dumps([HI])},
        {"id": "3", "prompt": "[INST] Hi [/INST]"},
        {"id": "4", "prompt": "[1, 2] is a list. Why?"},
        {"id": "5", "prompt": "[1, 2]"},
    ]
    found = read_prompts(rows, language="en").turns.tolist()
    assert found == [["Hi", "So?"], ["Hi"], ["[INST] Hi [/INST]"], ["[1, 2] is a list. Why?"], ["[1, 2]"]]


def test_an_item_is_kept():
    found = read_prompts([{"prompt": "a", "item": 7}, {"prompt": "b", "item": 7}], language="en")
    assert found.item.tolist() == ["7", "7"]


@pytest.mark.parametrize(
    "row",
    [{"id": "\ud800", "prompt": "a"}, {"turns": ["a", "b\udfff"]}, {"prompt": "a", "category": {"x": ["\ud83d"]}},
     {"\udc00": 1, "prompt": "a"}],
)  # fmt: skip
def test_half_a_character_is_refused_with_its_column(row):
    with pytest.raises(ValueError, match=r"line 3, column .* holds half a character"):
        prompt_of(row, "f.jsonl, line 3", 0, set="s", language="en")
    whole = prompt_of({"prompt": "a \U0001f600"}, "f.jsonl, line 3", 0, set="s", language="en")
    assert whole["turns"] == ["a \U0001f600"]


def read(row):
    return prompt_of(row, "p.csv, line 2", 0, set="p", language="en")


def test_columns_are_known_however_they_are_capitalised():
    assert read({"ID": "7", "Prompt ": "Hi"}) | {} == read({"id": "7", "prompt": "Hi"})
    with pytest.raises(ValueError, match="line 2, column system: a system prompt is given to respond"):
        read({"Prompt": "Hi", "System": "Be brief."})
    with pytest.raises(ValueError, match="line 2: two columns are called prompt"):
        read({"Prompt": "Hi", "prompt": "Bye"})


@pytest.mark.parametrize(
    ("written", "code"), [("ko", "ko"), ("zh_TW", "zh-Hant"), ("eng", "en"), (None, "en"), ("fil", "fil")]
)
def test_a_language_of_its_own_is_read_by_its_code(written, code):
    assert (
        read({"prompt": "Hi", "lang": written})["language"]
        == read({"prompt": "Hi", "language": written})["language"]
        == code
    )


@pytest.mark.parametrize("written", ["Korean", "python", 1, "k"])
def test_what_is_no_code_of_a_language_is_refused(written):
    with pytest.raises(ValueError, match=r"line 2, column language is .*: a language is given by its code"):
        read({"prompt": "Hi", "language": written})


def test_what_would_change_the_question_is_refused_and_parts_of_text_are_read():
    for column in ("tools", "functions", "developer", "prefill"):
        with pytest.raises(ValueError, match=f"line 2, column {column}: "):
            read({"prompt": "Hi", column: ["x"]})
        assert read({"prompt": "Hi", column: []})["turns"] == ["Hi"]
    assert read({"messages": [{**HI, "content": [{"type": "input_text", "text": "Hi"}]}]})["turns"] == ["Hi"]
