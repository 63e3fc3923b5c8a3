"""Files are read as they are written: ids and texts stay strings, and what cannot be read is named with its line."""

import json

import pandas as pd
import pytest

from chatvec_lab.evaluation.prompts import read_prompts
from chatvec_lab.evaluation.prompts.files import rows_of


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text", "ids", "prompts"),
    [
        ("a.csv", "id,prompt\n007,1234\n08,NA\nnull,nan\n", ["007", "08", "null"], ["1234", "NA", "nan"]),
        ("a.csv", '\ufeffid,prompt\r\n1,"a, b\nc"\r\n', ["1"], ["a, b\nc"]),
        ("a.csv", 'prompt\n"say ""hi"""\n\n', ["0"], ['say "hi"']),
        ("a.tsv", "id\tprompt\n1\ta, b\n", ["1"], ["a, b"]),
        ("a.json", '{"prompt": "a"}\n{"prompt": "b"}\n', ["0", "1"], ["a", "b"]),
        (
            "a.yaml",
            "# mine\n- prompt: 1234\n  id: 007\n- {prompt: no, id: 1e3}\n- just a text\n- 12:30\n",
            ["007", "1e3", "2", "3"],
            ["1234", "no", "just a text", "12:30"],
        ),
        ("a.yml", "- turns: [a]\n  checks: [{instruction: 'punctuation:no_comma'}]\n", ["0"], ["a"]),
        ("a.jsonl", '[{"prompt": "a"}, {"prompt": "b"}]', ["0", "1"], ["a", "b"]),
        ("a.jsonl", '[\n {"prompt": "a"},\n {"prompt": "b"}\n]', ["0", "1"], ["a", "b"]),
        ("a.json", '{"version": 1, "data": [{"id": "x", "prompt": "a"}]}', ["x"], ["a"]),
        ("a.json", '{"prompt": ["a", "b"], "id": [3, 4]}', ["3", "4"], ["a", "b"]),
        (
            "a.json",
            '{"prompt": {"0": "a", "1": "b"}, "id": {"0": "03", "1": "04"}}',
            ["03", "04"],
            ["a", "b"],
        ),
        ("a.json", '{"p1": {"prompt": "a"}, "p2": {"prompt": "b"}}', ["p1", "p2"], ["a", "b"]),
        ("a.json", '{"id": "9", "prompt": "a"}', ["9"], ["a"]),
        ("a.json", '["a", "b"]', ["0", "1"], ["a", "b"]),
        ("a.jsonl", '"a\u2028b"\n', ["0"], ["a\u2028b"]),
    ],
)
def test_files_of_every_kind(name, text, ids, prompts, tmp_path):
    found = read_prompts(write(tmp_path, name, text), language="en")
    assert found.prompt_id.tolist() == ids and found.turns.tolist() == [[p] for p in prompts]


def test_parquet_keeps_whole_ids_beside_gaps(tmp_path):
    table = pd.DataFrame({"id": [1, 2, 3], "category": ["a", None, "b"], "turns": [["x"], ["y", "z"], ["w"]]})
    table.to_parquet(tmp_path / "a.parquet")
    found = read_prompts(tmp_path / "a.parquet", language="en")
    assert found.prompt_id.tolist() == ["1", "2", "3"] and found.turns.tolist() == [["x"], ["y", "z"], ["w"]]
    floats = read_prompts([{"id": 1.0, "prompt": "a"}, {"id": 2.5, "prompt": "b"}], language="en")
    assert floats.prompt_id.tolist() == ["1", "2.5"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,prompt\n1,Hello\n2,\n3,Bye\n", "a.csv, line 3, column prompt is empty"),
        ("a.csv", "id,prompt\n1,Hello, you\n", "a.csv, line 2 has 3 cells, the header 2"),
        ("a.csv", "id;prompt\n1;Hello\n", "a.csv, line 2: none of turns, .* among id;prompt"),
        ("a.csv", "prompt,prompt\na,b\n", "a.csv: the header names a column twice"),
        ("a.csv", 'id,prompt\n1,"never closed\n', "a.csv, line .* is no CSV"),
        ("a.csv", "prompt\ncaf\u00e9\n".encode("latin-1"), "a.csv is not UTF-8"),
        ("a.csv", "", "holds no prompts"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": }\n', "a.jsonl, line 2, column 12: this is not JSON"),
        ("a.jsonl", '{"prompt": "a"}\n7\n', "a.jsonl, line 2 is int"),
        ("a.json", '{"prompt": "a"', "a.json, column 15: this is not JSON: .*cut off"),
        ("a.json", "7", "a.json holds int"),
        ("a.json", '{"train": [{"prompt": "a"}], "test": [{"prompt": "b"}]}', "several lists of rows: train, test"),
        ("a.json", '{"data": [{"prompt": "a"}, {"prompt": null}]}', "a.json, data, row 1, column prompt is empty"),
        ("a.yaml", "prompt: a\n", "a.yaml: there should be a list of prompts"),
        ("a.yaml", "- prompt: a\n  answer: true\n", "a.yaml, row 0, column answer is true, a truth value"),
        ("a.yaml", "- prompt: a\n  prompt: b\n", "'prompt' stands twice"),
        ("a.yaml", "- turns: [1, 2]\n", "a.yaml, row 0, column turns is 1.* write it in quotation marks"),
        ("a.yaml", "- prompt:\n", "a.yaml, row 0, column prompt is empty"),
        ("a.yaml", "- [a, b]\n", "a.yaml, row 0 is list"),
        ("a.parquet", "no parquet", "a.parquet is no parquet file"),
        ("a.txt", "a", "a.txt: prompts are read from"),
        ("a.json", "[" * 100_000, "a.json: lists and mappings nest too deep"),
        ("a.json", '[{"prompt": "a", "prompt": "b"}]', "a.json: the key 'prompt' stands twice"),
        ("a.json", '{"prompt": "a"}\n{"id": 1, "prompt": "a", "id": 2}', "a.json, line 2: the key 'id' stands twice"),
        ("a.json", '{"id": 1, "id": 2, "prompt": "a"}\n{"prompt": "a"}', "a.json: the key 'id' stands twice"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": "a", "meta": {"x": 1, "x": 2}}', "line 2: the key 'x' stands twice"),
        ("a.jsonl", '[{"prompt": "a", "prompt": "b"},\n{"prompt": "c"}]', "a.jsonl, line 1: the key 'prompt' stands twice"),
        ("a.csv", 'id,turns\n1,"[{""content"": ""a"", ""content"": ""b""}]"\n', "line 2.*'content' stands twice"),
    ],
)  # fmt: skip
def test_flaws_are_named_with_file_and_place(name, text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_prompts(write(tmp_path, name, text), language="en")


def test_a_csv_with_lists_as_json(tmp_path):
    table = pd.DataFrame({"id": ["1"], "turns": [json.dumps(["a", "b"])]})
    table.to_csv(tmp_path / "a.csv", index=False)
    assert read_prompts(tmp_path / "a.csv", language="en").turns.tolist() == [["a", "b"]]


@pytest.mark.parametrize(
    "text", ["id,prompt\r1,Hi\r2,Bye\r", "\n , \nid,prompt\n1,Hi\n2,Bye\n", "\r\nid,prompt\r\n1,Hi\r\n2,Bye"]
)
def test_old_line_ends_and_an_empty_line_before_the_header(text, tmp_path):
    (tmp_path / "p.csv").write_bytes(text.encode())
    assert [row for _, row in rows_of(tmp_path / "p.csv")] == [
        {"id": "1", "prompt": "Hi"},
        {"id": "2", "prompt": "Bye"},
    ]


def test_what_follows_a_row_is_not_called_cut_off(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}{"prompt": "b"}')
    with pytest.raises(ValueError, match=r"line 1, column 16: this is not JSON: Extra data\."):
        rows_of(tmp_path / "p.jsonl")
