"""The parameters cell is read without running it, and values are checked before a kernel starts."""

import numpy
import pytest

from chatvec_lab.study import parameters

CELL = """
scale: float = 0.5  # coefficient of the chat vector, x = 1 is the paper's
layers: list[int] | None = None  # which layers; None is all
mode: Literal["add", "skip"] = "add"  # what to do
seed: int = 0
names: dict[str, float] = {"a#b": 1}  # by name
long: list[str] = [
    "ko",
    "zh",
]  # languages
is_greedy: bool = True  # decoding
revision: str | None = None  # of the model
"""


@pytest.fixture
def declared():
    return parameters._declarations(CELL)


def test_reads_names_types_defaults_and_help(declared):
    assert {name: (p.annotation, p.default) for name, p in declared.items()} == {
        "scale": ("float", 0.5),
        "layers": ("list[int] | None", None),
        "mode": ("Literal['add', 'skip']", "add"),
        "seed": ("int", 0),
        "names": ("dict[str, float]", {"a#b": 1.0}),
        "long": ("list[str]", ["ko", "zh"]),
        "is_greedy": ("bool", True),
        "revision": ("str | None", None),
    }
    assert declared["scale"].help == "coefficient of the chat vector, x = 1 is the paper's"
    assert declared["long"].help == "languages"
    assert declared["seed"].help == ""


def test_defaults_are_merged_and_an_int_becomes_a_float(declared):
    merged = parameters.merge(declared, {"scale": 1, "layers": (1, 2)}, notebook="p")
    assert merged["scale"] == 1.0 and isinstance(merged["scale"], float)
    assert merged["layers"] == [1, 2] and merged["seed"] == 0
    assert parameters.merge(declared, {}, notebook="p") == parameters.merge(
        declared, {"scale": 0.5}, notebook="p"
    )


def test_numpy_numbers_become_plain_ones(declared):
    merged = parameters.merge(declared, {"scale": numpy.float32(0.25), "seed": numpy.int64(3)}, notebook="p")
    assert type(merged["scale"]) is float and type(merged["seed"]) is int


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"sclae": 1.0}, ValueError, "p has no parameter 'sclae'; did you mean 'scale'?"),
        ({"zzz": 1}, ValueError, "there are: scale, layers, mode"),
        (
            {"scale": "1e-3"},
            TypeError,
            r"p: scale must be a finite number, got '1e-3' (str)",
        ),
        ({"scale": True}, TypeError, "scale must be a finite number, got True (bool)"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number, 0 or more, got 0.5 (float)"),
        ({"layers": ["a"]}, TypeError, "layers must be list[int] | None, got ['a'] (list)"),
        ({"mode": "ad"}, TypeError, "mode must be Literal['add', 'skip'], got 'ad' (str)"),
        ({"names": {"a": "b"}}, TypeError, "names must be dict[str, float], got {'a': 'b'} (dict)"),
        ({"revision": "hf_" + "a" * 30}, ValueError, "revision looks like a secret"),
    ],
)
def test_what_does_not_fit_is_named(declared, values, kind, message):
    with pytest.raises(kind) as caught:
        parameters.merge(declared, values, notebook="p")
    assert message in str(caught.value)


def test_all_offenders_are_in_one_error(declared):
    with pytest.raises(ValueError) as caught:
        parameters.merge(declared, {"sclae": 1, "seed": "x", "moed": "add"}, notebook="p")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("scale = 0.5  # help", "write `name: type = literal  # help`"),
        ("import os", "line 1 is 'import os'"),
        ("scale: float = 1 / 2", "line 1"),
        ("scale: float", "it has no default"),
        ("scale: int = 0.5", "must be int, got 0.5 (float)"),
        ("where: Path = '.'", "the type Path is not known"),
        ("pair: tuple[int, int] = (1, 2)", "the type tuple[int, int] is not known"),
    ],
)
def test_a_cell_that_cannot_be_read_says_where(line, message):
    with pytest.raises(ValueError) as caught:
        parameters._declarations(line)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("scale", "1e-3", 0.001),
        ("seed", "7", 7),
        ("revision", "7", "7"),
        ("revision", "None", None),
        ("long", "[ko, zh]", ["ko", "zh"]),
        ("mode", "skip", "skip"),
        ("is_greedy", "False", False),
    ],
)
def test_text_from_the_command_line_is_read_by_type(declared, name, text, value):
    read = parameters.from_text(text, declared[name])
    assert parameters.merge(declared, {name: read}, notebook="p")[name] == value


def test_the_parameters_cell_must_be_the_first_code_cell(lab):
    path = lab.notebook("late", "scale: float = 0.5  # scale")
    path.write_text(path.read_text().replace('"parameters"', '"other"'))
    with pytest.raises(
        ValueError, match=r"late.ipynb: the first code cell.*'parameters'; no code cell has it"
    ):
        parameters.read(path)
