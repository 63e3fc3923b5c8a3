"""YAML is read as it is written, or refused in one paragraph that names file and line, at once."""

import itertools
import math
import time

import pytest

from chatvec_lab.reading import as_text, brief, parse_yaml, read_yaml


def bomb(levels=9, wide=9):
    """Some hundred bytes of lists whose last stands for wide**levels items."""
    names = [f"n{i}" for i in range(levels)]
    lines = [f"- &{names[0]} [{', '.join('x' * wide)}]"]
    lines += [f"- &{new} [{', '.join([f'*{old}'] * wide)}]" for old, new in itertools.pairwise(names)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("y", "y"), ("0123456", "0123456"), ("1_000", "1_000"),
        ("12:30:45", "12:30:45"), ("2024-01-01", "2024-01-01"), ("0x1F", "0x1F"), ("0o17", "0o17"), ("<<", "<<"),
        ("1e5", 1e5), ("1.5e-3", 1.5e-3), ("+0.5", 0.5), (".5", 0.5), ("5.", 5.0), ("-7", -7), ("-.inf", -float("inf")),
        ("true", True), ("FALSE", False), ("~", None), ("", None), ("null", None), ("'null'", "null"), ("!!str 5", "5"),
    ],
)  # fmt: skip
def test_scalars_are_what_was_written(written, read):
    found = parse_yaml(f"a: {written}", "x")["a"]
    assert found == read and isinstance(found, type(read))


def test_numbers_keep_their_text_and_keys_are_text():
    found = parse_yaml("{1e5: +07, no: 1.50, 0123: +7}", "x")
    assert list(found) == ["1e5", "no", "0123"]
    assert (
        as_text(found["no"], "x") == "1.50" and as_text(found["0123"], "x") == "+7" and found["1e5"] == "+07"
    )
    for value, word in ((True, "'true'"), (None, "'null'")):
        with pytest.raises(ValueError, match=f"the name: there should be text.*quotes: {word}"):
            as_text(value, "the name")
    with pytest.raises(ValueError, match=r"there should be text, got \['a'\]"):
        as_text(["a"], "the name")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", "lines 1 and 3"),
        ("x:\n  ko: 1\n  zh: 2\n  'ko': 3\n", "lines 2 and 4"),
        ("x: {a: 1, a: 1}", "both in line 1"),
        ("[{b: 1}, {7: 1,\n'7': 2}]", "lines 1 and 2"),
        ("k: &m {a: 1}\n<<: *m\n<<: *m", "lines 2 and 3"),
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(tmp_path, text, lines):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"study\.yaml: the key .* stands twice in one mapping, .*{lines}"):
        read_yaml(file)


def test_anchors_and_merges_that_people_write_are_read():
    text = "shared: &s {scale: 1, seed: 0}\nfirst: *s\nsecond: {<<: *s, seed: 1}\n"
    found = parse_yaml(text, "x")
    assert found["first"] == {"scale": 1, "seed": 0} and found["second"] == {"scale": 1, "seed": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (bomb(), "with its aliases written out"),
        (bomb(6, 20), "with its aliases written out"),
        ("a: &a {x: *a}", "holds itself"),
        ("[" * 50_000, "nesting depth"),
        ("[[" * 40 + "]]" * 40, "more than 60 levels"),
        ("[" + "x, " * 150_000 + "]", "more than 100,000 items"),
        ("m: &m {" + ", ".join(f"k{i}: x" for i in range(400)) + "}\nall: [" + "{<<: *m}, " * 400 + "]", "aliases"),
    ],
)  # fmt: skip
def test_what_would_eat_memory_is_refused_within_a_second(text, told):
    start = time.process_time()  # of this process, whatever else the machine does
    with pytest.raises(ValueError, match=told) as caught:
        parse_yaml(text, "study.yaml")
    assert time.process_time() - start < 1 and len(str(caught.value)) < 400
    assert "study.yaml, line" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1, 2", r"x, line 2, column 1: .*sequence that begins in line 1: did not find expected"),
        ("a: b: c", "x, line 1, column 5: .*mapping values are not allowed"),
        ("a: 1\nb: \x07", r"x, line 2: the character U\+0007"),
        ("a: !!python/object:os.system ls", "x, line 1: the tag '!!python/object:os.system' does not fit"),
        ("a: !!int many", "the tag '!!int' does not fit"),
        ("? [a]\n: b", "x, line 1: a list or mapping is the key"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: *nobody", "undefined alias"),
        ("a:\n  - 1e400", "x, line 2: '1e400' is beyond what a number here can be"),
        ("a: -1.5e-400", "'-1.5e-400' is beyond"),
        ("b: {<<: 3}", "expected a mapping or list of mappings for merging"),
        ("%FOO\n---\na: 1", "x, line 1, column 5"),
        ("a: !!set {x, y}", "the tag '!!set' does not fit"),
        ("a: !!timestamp 2026-01-01", "the tag '!!timestamp' does not fit"),
        ("a:\n\tb: 1", "x, line 2, column 1"),
    ],
)
def test_other_faults_name_the_place(text, told):
    with pytest.raises(ValueError, match=told):
        parse_yaml(text, "x")


def test_what_yaml_1_1_would_make_something_else_is_text():
    text = "a: off\nb: 2026-01-01\nc: 190:20:30\nd: 0o17\ne: 017\nf: 0x1F\ng: 1_000\nh: y\ni: 1e\nj: inf"
    assert parse_yaml(text, "x") == {
        key: value for key, value in (line.split(": ") for line in text.split("\n"))
    }
    assert parse_yaml("a: .inf\nb: -.INF\nc: 0e-400\nd: 1.e2", "x") == {
        "a": math.inf,
        "b": -math.inf,
        "c": 0,
        "d": 100,
    }
    keys = "{1: a, true: a, ~: a, 1.50: a, no: a}"
    assert parse_yaml(keys, "x") == dict.fromkeys(("1", "true", "~", "1.50", "no"), "a")


def test_files_of_other_encodings_and_sizes(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_bytes("\ufefftitle: é".encode())  # as Windows writes it
    assert read_yaml(file) == {"title": "é"}
    file.write_bytes("title: é".encode("utf-16"))
    with pytest.raises(ValueError, match=r"study\.yaml is not text in UTF-8"):
        read_yaml(file)
    file.write_bytes(b"#" * (5 << 20))
    with pytest.raises(ValueError, match="5,242,880 bytes"):
        read_yaml(file)
    file.write_text("# nothing yet\n")
    assert read_yaml(file) is None
    assert len(brief(list(range(1000)))) == 120
