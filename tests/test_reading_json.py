"""JSON and JSON lines are read in the shape that is expected, or refused with file, place and expectation."""

import re

import pytest

from chatvec_lab.reading import read_json, read_jsonl


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1,\n "b": }', "line 2, column 7: this is not JSON: Expecting value"),
        ('{"a": [1, 2', "cut off?"),
        ("", "cut off?"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"x": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
        ("[1, 2]", "expected a mapping, found a list: [1, 2]"),
        ('"text"', "expected a mapping, found text"),
        ("null", "expected a mapping, found null"),
        ("[" * 100_000, "nest too deep"),
        ('{"n": ' + "9" * 5000 + "}", "not JSON that can be read"),
        ('{"a": 1} {"b": 2}', "Extra data"),
        (b'{"a": "\xff"}', "not text in UTF-8 (byte 7)"),
        (b"\xff\xfe{\x00}\x00", "not text in UTF-8"),
        (b"\x00\x01\x02", "not JSON"),
    ],
)
def test_json_that_is_damaged_or_of_another_shape_names_file_and_place(tmp_path, text, told):
    file = tmp_path / "facts.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as caught:
        read_json(file)
    assert str(caught.value).startswith(str(file)) and told in str(caught.value)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ({"name": str}, "name: expected text, found a list: [1]"),
        ({"n": int}, "n: expected a whole number, found true or false: True"),
        ({"lacks": str, "name": list}, "expected lacks in the mapping, found name, n, items"),
        ({"items": [{"key": str}]}, "items, item 1, key: expected text, found null: None"),
        ({"items": dict}, "items: expected a mapping, found a list"),
    ],
)
def test_shapes_are_demanded_by_place(tmp_path, expected, told):
    file = tmp_path / "facts.json"
    file.write_text('{"name": [1], "n": true, "items": [{"key": "a"}, {"key": null}]}')
    with pytest.raises(ValueError, match=re.escape(told)):
        read_json(file, expected)


def test_json_that_is_whole_is_read(tmp_path):
    file = tmp_path / "facts.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, "\xe2\x80\xa8"], "b": null}')
    assert read_json(file, {"a": [(int, float, str)], "b": (str, type(None))}) == {
        "a": [1, 2.5, "\u2028"],
        "b": None,
    }
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_json_lines_name_the_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n{"a": "x\u2028y"}\n', "utf-8")
    assert read_jsonl(file) == [{"a": 1}, {"a": "x\u2028y"}]
    for line, told in (
        ("{", "line 4, column 2: this is not JSON"),
        ("[1]", "line 4: expected a mapping, found a list"),
    ):
        file.write_text(f'{{"a": 1}}\n\n{{"a": 2}}\n{line}\n', "utf-8")
        with pytest.raises(ValueError, match=re.escape(f"{file}, {told}")):
            read_jsonl(file)
