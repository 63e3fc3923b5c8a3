"""The one reader of the text files that people write or that others send: YAML here, JSON and JSON lines beside it.

Each demands a shape and refuses the rest in one paragraph: the file, the place, what was expected, what was found.
Nothing is dropped in silence, and no file can keep a command busy.
"""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path
from typing import Any

MOST_BYTES = 4 << 20  # of a YAML file; a study has some kilobytes
MOST_ITEMS = 100_000  # keys and values of a YAML file, those that aliases stand for counted each time
DEEPEST = 60  # how far lists and mappings of a YAML file may nest

_TAG = "tag:yaml.org,2002:"
# YAML 1.2 without its octal and hexadecimal numbers. 1.1, the older rule, would make `no` (Norwegian) False, `1e5`
# text, `0123456` and `12:30` other numbers, and a day a date.
_PLAIN = {  # kind: what an unquoted value of it looks like, and the characters that it may begin with
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9]{0,300})", list("-+0123456789")),
    "float": (
        r"[-+]?(?:0|[1-9][0-9]{0,300})(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,4})?|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]{1,4})?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


class WrittenInt(int):
    """A number that still knows its text in the file (`written`), for where text is wanted."""

    written: str


class WrittenFloat(float):
    """As `WrittenInt`: 1e5 is 100000.0, and was written 1e5."""

    written: str


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says, as dicts, lists, text, numbers, bools and None.

    Keys are text as written. Unquoted values are read by YAML 1.2: `no`, `on`, `0123`, `12:30` and days are text;
    numbers keep their text as `.written` (see `as_text`).

    Raises ValueError naming file and line for what is not YAML in UTF-8, a key that stands twice in one mapping (with
    both lines), and for more than 100,000 items or 60 levels, aliases counted as often as they are used.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"{path} has {size:,} bytes; a YAML file for chatvec_lab has {MOST_BYTES:,} at most."
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 (byte {error.start}); save it with the encoding UTF-8."
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """As `read_yaml`, for YAML that stands in another file or a command; `where` names that place in errors.

    >>> parse_yaml("{no: 1e5, revision: 0123456}", "an example")
    {'no': 100000.0, 'revision': '0123456'}
    """
    import yaml

    if odd := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise ValueError(
            f"{where}, line {line}: the character U+{ord(odd[0]):04X}, which YAML does not allow. Take it out, or "
            'write it in double quotes as an escape, such as "\\x08".'
        )
    try:
        _refuse_size(text, where)
        loader = _loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _checked(node, where, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark, context = error.problem_mark or error.context_mark, error.context or ""
        if error.context_mark and mark.line != error.context_mark.line:
            context += f" that begins in line {error.context_mark.line + 1}:"
        told = " ".join(filter(None, [context, error.problem]))
        place = f"line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"{where}, {place}: this is not YAML as chatvec_lab reads it: {told}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {error}") from error


def as_text(value: Any, where: str) -> str:
    """`value` as text: a number of `read_yaml` as it was written; ValueError for anything else, with the quotes to add.

    >>> as_text(parse_yaml("1e5", "an example"), "revision")
    '1e5'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, WrittenInt | WrittenFloat):
        return value.written
    if isinstance(value, bool) or value is None:
        word = {True: "true", False: "false", None: "null"}[value]
        raise ValueError(
            f"{where}: there should be text, got {word}; if it is text, put it in quotes: '{word}'."
        )
    raise ValueError(f"{where}: there should be text, got {brief(value)}.")


def brief(value: Any, most: int = 120) -> str:
    """A value as Python writes it, cut to a line that fits a message."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _refuse_size(text: str, where: str) -> None:
    """Count items and levels before anything is built: what follows may recurse."""
    import yaml

    count = depth = 0
    for event in yaml.parse(text, Loader=_loader()):
        if isinstance(event, yaml.NodeEvent):
            count += 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if count > MOST_ITEMS or depth > DEEPEST:
            much = f"more than {MOST_ITEMS:,} items" if count > MOST_ITEMS else f"more than {DEEPEST} levels"
            raise ValueError(
                f"{where}, line {event.start_mark.line + 1}: {much}; no file for chatvec_lab has so many."
            )


def _checked(node: Any, where: str, sizes: dict[int, int | None]) -> int:
    """How many items a node stands for, each alias written out. Keys become text; doubled ones and tags are refused."""
    import yaml

    line = node.start_mark.line + 1
    if id(node) in sizes:
        if sizes[id(node)] is None:
            raise ValueError(f"{where}, line {line}: this part holds itself, by an alias.")
        return sizes[id(node)]
    sizes[id(node)] = None  # at work: whoever meets it again stands inside it
    size = 1
    if isinstance(node, yaml.MappingNode):
        _refuse_tag(node, "map", where)
        _make_keys_text(node, where)
        size += sum(1 + _checked(value, where, sizes) for _, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        _refuse_tag(node, "seq", where)
        size += sum(_checked(item, where, sizes) for item in node.value)
    elif node.tag == f"{_TAG}merge":  # `<<` as a value
        node.tag = f"{_TAG}str"
    elif node.tag != f"{_TAG}str":
        kind = node.tag.removeprefix(_TAG)
        _refuse_tag(node, kind if re.fullmatch(_PLAIN.get(kind, ("(?!)",))[0], node.value) else "str", where)
        if kind == "float" and not _fits_a_float(node.value):
            raise ValueError(
                f"{where}, line {line}: {brief(node.value)} is beyond what a number here can be; if it is text, put it in "
                "quotes."
            )
    if size > MOST_ITEMS:
        raise ValueError(
            f"{where}, line {line}: with its aliases written out, this part has more than {MOST_ITEMS:,} items; no "
            "file for chatvec_lab has so many."
        )
    sizes[id(node)] = size
    return size


def _fits_a_float(text: str) -> bool:
    """Whether a number is not read as infinity or 0 when it says something else."""
    if "n" in text.lower():  # .inf and .nan are meant
        return True
    number = float(text)
    return math.isfinite(number) and (number != 0 or not re.search("[1-9]", re.split("[eE]", text)[0]))


def _refuse_tag(node: Any, kind: str, where: str) -> None:
    if node.tag != f"{_TAG}{kind}":
        tag = node.tag.replace(_TAG, "!!")
        raise ValueError(
            f"{where}, line {node.start_mark.line + 1}: the tag {brief(tag)} does not fit here; leave it out."
        )


def _make_keys_text(node: Any, where: str) -> None:
    import yaml

    lines: dict[str, int] = {}
    for place, (key, value) in enumerate(node.value):
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{where}, line {line}: a list or mapping is the key of a value; keys are text.")
        if (first := lines.get(key.value)) is not None:
            both = f"both in line {line}" if first == line else f"in lines {first} and {line}"
            raise ValueError(
                f"{where}: the key {brief(key.value)} stands twice in one mapping, {both}, and one would be lost. Join "
                "the two, or take one out."
            )
        lines[key.value] = line
        if key.tag != f"{_TAG}merge":
            node.value[place] = (
                yaml.ScalarNode(f"{_TAG}str", key.value, key.start_mark, key.end_mark),
                value,
            )


@functools.cache
def _loader() -> type:
    """PyYAML's safe loader (the one in C where there is one) with our reading of unquoted values."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        yaml_implicit_resolvers = {}  # noqa: RUF012

    def number(kind: type) -> Any:
        def construct(_: Any, node: Any) -> Any:
            made = kind(re.sub(r"\.(?=inf|nan)", "", node.value.lower()))
            made.written = node.value
            return made

        return construct

    for name, (pattern, first) in _PLAIN.items():
        Loader.add_implicit_resolver(f"{_TAG}{name}", re.compile(rf"(?:{pattern})$"), first)
    Loader.add_constructor(f"{_TAG}int", number(WrittenInt))
    Loader.add_constructor(f"{_TAG}float", number(WrittenFloat))
    return Loader


class DoubledKey(ValueError):
    """A key that stands twice in one mapping of JSON: the text is JSON, and something in it would be lost."""


MOST_JSON = 512 << 20  # bytes of a JSON file; the largest tokenizers have some 40 MB
_KINDS = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", float: "a number",
          bool: "true or false", type(None): "null"}  # fmt: skip


def read_json(path: str | Path, expected: Any = dict) -> Any:
    """What a JSON file says, in the shape that is `expected` (see `demand`).

    Raises FileNotFoundError, and ValueError naming the file, the place and what was expected for what is not JSON in
    UTF-8, nests too deep, gives one key twice in a mapping, or has another shape.
    """
    return demand(parse_json(_json_text(path), str(path)), expected, str(path))


def read_jsonl(path: str | Path, expected: Any = dict) -> list[Any]:
    """The values of a file with a line of JSON each, in the shape that is `expected`; empty lines are left out.

    Errors as `read_json`, with the number of the line.
    """
    lines = _json_text(path).split("\n")  # not splitlines: U+2028 may stand in a text
    numbered = [(f"{path}, line {n}", line) for n, line in enumerate(lines, start=1) if line.strip()]
    return [demand(parse_json(line, where), expected, where) for where, line in numbered]


def parse_json(text: str, where: str) -> Any:
    """As `read_json`, for a text that stands elsewhere; `where` names that place in errors.

    >>> parse_json('{"scale": 0.5}', "an example")
    {'scale': 0.5}
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DoubledKey(
                f"{where}: the key {brief(twice)} stands twice in one mapping; one would be lost."
            )
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        one_line = text.count("\n", 0, len(text.rstrip())) == 0
        place = f"column {error.colno}" if one_line else f"line {error.lineno}, column {error.colno}"
        ends = (
            " (the text ends there: was it cut off?)"
            if error.pos >= len(text.rstrip()) and error.msg != "Extra data"
            else ""
        )
        raise ValueError(f"{where}, {place}: this is not JSON: {error.msg}{ends}.") from error
    except DoubledKey:
        raise
    except RecursionError:
        raise ValueError(f"{where}: lists and mappings nest too deep to be read.") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{where}: this is not JSON that can be read: {error}.") from error


def demand(value: Any, expected: Any, where: str) -> Any:
    """`value`, when it has the shape: a type (or several in a tuple), `{"key": shape}` for the keys that a mapping
    must have among others, `[shape]` for a list of such; ValueError names the place and the difference.

    >>> demand({"name": "nano", "seeds": [0, 1]}, {"seeds": [int]}, "an example")
    {'name': 'nano', 'seeds': [0, 1]}
    """
    if isinstance(expected, dict):
        demand(value, dict, where)
        if lacking := [key for key in expected if key not in value]:
            has = ", ".join(map(str, value))[:120] or "nothing"
            raise ValueError(f"{where}: expected {', '.join(lacking)} in the mapping, found {has}.")
        for key, shape in expected.items():
            demand(value[key], shape, f"{where}, {key}")
    elif isinstance(expected, list):
        demand(value, list, where)
        for place, item in enumerate(value):
            demand(item, expected[0], f"{where}, item {place}")
    else:
        kinds = expected if isinstance(expected, tuple) else (expected,)
        fits = any(
            isinstance(value, int | float if kind is float else kind)
            and (kind is bool or not isinstance(value, bool))
            for kind in kinds
        )
        if not fits:
            wanted = " or ".join(_KINDS.get(kind, kind.__name__) for kind in kinds)
            # a bool is an int too, and a number of YAML a subclass of one
            found = next(
                (told for kind, told in _KINDS.items() if isinstance(value, kind)), type(value).__name__
            )
            found = _KINDS[bool] if isinstance(value, bool) else found
            raise ValueError(f"{where}: expected {wanted}, found {found}: {brief(value)}")
    return value


def _json_text(path: str | Path) -> str:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file of JSON.")
    if (size := path.stat().st_size) > MOST_JSON:
        raise ValueError(f"{path} has {size:,} bytes; a JSON file here has {MOST_JSON:,} at most.")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 (byte {error.start}); save it with the encoding UTF-8."
        ) from error
