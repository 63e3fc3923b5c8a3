"""The parameters cell of a notebook: what it declares, and values checked against it before a kernel starts.

Read with `ast` and `tokenize`, never executed. One line a parameter: `scale: float = 0.5  # help`.
(papermill's own reader works by regex, loses `X | None`, and only warns about an unknown name.)
"""

import ast
import inspect
import io
import math
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatvec_lab.keys import nearest
from chatvec_lab.reading import WrittenFloat, WrittenInt, brief, demand, parse_json, parse_yaml
from chatvec_lab.study import ranges

TYPES = "str, int, float, bool, None, list[...], dict[...], Literal[...], Optional[...] and X | Y"
# A secret would end in the executed notebook: a notebook takes the name of an environment variable instead.
SECRET_NAME = re.compile(r"(?i)(^|_)(api_?key|token|secret|password|passwd)$")
SECRET_VALUE = re.compile(r"^(hf_|sk-|ghp_|github_pat_|xox[a-z]-|AKIA)[\w-]{16,}$")


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell; `annotation` is the type as written, `help` the comment behind it."""

    name: str
    annotation: str
    default: Any
    help: str


def notebook_cells(path: Path) -> list[dict]:
    """The cells of a notebook file as dicts, each `source` joined to one string (without nbformat: 1 ms)."""
    return cells_of(notebook_text(path), str(path))


def notebook_text(path: Path) -> str:
    """The text of a notebook file, without the byte order mark that some editors put before it."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a notebook: it is not text in UTF-8 (byte {error.start})."
        ) from error


def cells_of(text: str, where: str) -> list[dict]:
    """As `notebook_cells`, for the text of a notebook in Python; `where` names it in errors."""
    content = demand(parse_json(text, where), {"nbformat": int}, where)
    if content["nbformat"] != 4:
        raise ValueError(
            f"{where} has nbformat {content['nbformat']}, and format 4 runs here: jupyter nbconvert --to notebook mends it."
        )
    demand(content, {"cells": [{"cell_type": str, "source": (str, list)}]}, where)
    metadata = demand(content.get("metadata") or {}, dict, f"{where}, metadata")
    kernel, info = (
        demand(metadata.get(name) or {}, dict, f"{where}, {name}") for name in ("kernelspec", "language_info")
    )
    language = kernel.get("language") or info.get("name") or "python"
    if not re.fullmatch("i?python3?", str(language).lower()):
        raise ValueError(f"{where} is written in {language}, and chatvec_lab runs Python.")
    cells = [_cell(found, f"{where}, cell {n}") for n, found in enumerate(content["cells"], start=1)]
    try:
        "".join(cell["source"] for cell in cells).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"{where}: {half!r} is half a character, which no program can hold.") from None
    return cells


def _cell(found: dict, where: str) -> dict:
    """A cell with its source as one string and its metadata as a mapping with a list of tags."""
    if found["cell_type"] not in ("code", "markdown", "raw"):
        raise ValueError(f"{where}: expected code, markdown or raw, found {brief(found['cell_type'])}.")
    lines = found["source"] if isinstance(found["source"], list) else [found["source"]]
    metadata = demand(found.get("metadata") or {}, dict, f"{where}, metadata")
    tags = demand(metadata.get("tags") or [], [str], f"{where}, tags")
    source = "".join(demand(lines, [str], f"{where}, source"))
    return {**found, "source": source, "metadata": {**metadata, "tags": tags}}


def title(path: Path) -> str:
    """The first `# ` heading in a notebook's prose, or its file's name."""
    prose = [cell["source"] for cell in notebook_cells(path) if cell["cell_type"] == "markdown"]
    found = re.search(r"^# +(.+)", "\n".join(prose), re.MULTILINE)
    return found[1].strip() if found else Path(path).stem


def read(path: Path) -> dict[str, Parameter]:
    """What the notebook's parameters cell declares, in its order.

    Raises ValueError when there is not exactly one code cell with the tag `parameters`, when it is not the
    first code cell, or when it holds anything but lines of the form `name: type = literal  # help`.
    """
    path = Path(path)
    code = [cell for cell in notebook_cells(path) if cell["cell_type"] == "code"]
    tagged = [i for i, cell in enumerate(code) if "parameters" in cell["metadata"]["tags"]]
    if tagged != [0]:
        found = f"code cells {[i + 1 for i in tagged]} have it" if tagged else "no code cell has it"
        raise ValueError(
            f"{path.name}: the first code cell, and no other, needs the tag 'parameters'; {found}."
        )
    try:
        return _declarations(code[0]["source"])
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path.name}: parameters cell: {error}") from error


def _declarations(source: str) -> dict[str, Parameter]:
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    declared = {}
    for statement in ast.parse(source).body:
        line = source.splitlines()[statement.lineno - 1].strip()
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            raise ValueError(f"line {statement.lineno} is {line!r}; write `name: type = literal  # help`")
        name, annotation = statement.target.id, ast.unparse(statement.annotation)
        try:
            if statement.value is None:
                raise ValueError("it has no default")
            default = _fit(ast.literal_eval(statement.value), statement.annotation)
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {statement.lineno} is {line!r}: {error}") from error
        declared[name] = Parameter(name, annotation, default, comments.get(statement.end_lineno, ""))
    return declared


def _fit(value: Any, kind: ast.expr) -> Any:
    """`value` as the annotation wants it (an int becomes a float, a tuple a list); TypeError if it is not."""
    kinds = {WrittenInt: "int", WrittenFloat: "float"}
    misfit = TypeError(
        f"must be {ast.unparse(kind)}, got {brief(value)} ({kinds.get(type(value), type(value).__name__)})"
    )
    match kind:
        case ast.Constant(value=None):
            if value is None:
                return None
        case ast.Constant(value=str(text)):  # a quoted annotation
            return _fit(value, ast.parse(text, mode="eval").body)
        case ast.Name(id="Any"):
            return value
        case ast.Name(id="str"):
            if isinstance(value, WrittenInt | WrittenFloat):  # 0.50 in YAML, where text is wanted
                return value.written
            if isinstance(value, str | Path):
                return str(value)
        case ast.Name(id="bool"):
            if isinstance(value, bool):
                return value
        case ast.Name(id="int" | "float" as name):
            # JSON, in which parameters are kept, has no infinity and no NaN
            number = isinstance(value, int) or (
                name == "float" and isinstance(value, float) and math.isfinite(value)
            )
            if number and not isinstance(value, bool):  # to Python a bool is an int; to a reader it is not
                return {"int": int, "float": float}[name](value)
        case ast.Name(id="list"):
            if isinstance(value, list | tuple):
                return list(value)
        case ast.Name(id="dict"):
            if isinstance(value, dict):
                return value
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _first_fit(value, [left, right], misfit)
        case ast.Attribute(attr=name):  # typing.Literal
            return _fit(value, ast.Name(name))
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            arguments = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name == "Literal":
                allowed = [ast.literal_eval(item) for item in arguments]
                for item in allowed:
                    same = value == item and isinstance(value, type(item)) and not isinstance(value, bool)
                    if (
                        same
                        or value is item
                        or (isinstance(item, str) and getattr(value, "written", None) == item)
                    ):
                        return item
            elif name in ("Optional", "Union"):
                return _first_fit(
                    value, [*arguments, ast.Constant(None)][: len(arguments) + (name == "Optional")], misfit
                )
            elif name == "list" and len(arguments) == 1:
                if isinstance(value, list | tuple):
                    return _fit_all(value, arguments[0], misfit)
            elif name == "dict" and len(arguments) == 2:
                if isinstance(value, dict):
                    keys = _fit_all(value, arguments[0], misfit)
                    return dict(zip(keys, _fit_all(value.values(), arguments[1], misfit), strict=True))
            else:
                raise ValueError(f"the type {ast.unparse(kind)} is not known; there are {TYPES}")
        case _:
            raise ValueError(f"the type {ast.unparse(kind)} is not known; there are {TYPES}")
    raise misfit


def _fit_all(values: Iterable, kind: ast.expr, misfit: TypeError) -> list:
    try:
        return [_fit(value, kind) for value in values]
    except TypeError:
        raise misfit from None


def _first_fit(value: Any, kinds: list[ast.expr], misfit: TypeError) -> Any:
    for kind in kinds:
        try:
            return _fit(value, kind)
        except TypeError:
            continue
    raise misfit


def merge(declared: Mapping[str, Parameter], values: Mapping[str, Any], *, notebook: str) -> dict[str, Any]:
    """Defaults overlaid with `values`, each as its declared type; every offender is named in one error.

    Raises ValueError for an unknown name or a secret, TypeError when only types are wrong.
    """
    merged = {name: parameter.default for name, parameter in declared.items()}
    unknown, wrong = [], []
    for name, value in values.items():
        if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a numpy scalar is not JSON
            value = value.item()
        if name not in declared:
            unknown.append(f"{notebook} has no parameter {name!r}; {nearest(name, declared)}")
        elif SECRET_NAME.search(name) or (isinstance(value, str) and SECRET_VALUE.match(value)):
            unknown.append(
                f"{notebook}: {name} looks like a secret, and parameters are kept in notebooks and logs; "
                "pass the name of an environment variable that holds it (a parameter such as `key_variable`)"
            )
        else:
            try:
                merged[name] = _fit(value, ast.parse(declared[name].annotation, mode="eval").body)
            except TypeError as error:
                wrong.append(f"{notebook}: {name} {_in_words(error, declared[name])}{_hint(value)}")
    if unknown:
        raise ValueError("\n".join(unknown + wrong))
    if wrong:
        raise TypeError("\n".join(wrong))
    return merged


def _in_words(error: TypeError, parameter: Parameter) -> str:
    """What a known parameter must be, in the words of `ranges`; of another the type as its notebook writes it."""
    known = ranges.KNOWN.get(parameter.name)
    if known is None or known.kind != parameter.annotation:
        return str(error)
    return str(error).replace(f"must be {parameter.annotation}, got ", f"must be {known.allowed}, got ", 1)


def check(namespace: Mapping[str, Any]) -> None:
    """Hold the parameters of a notebook to their types and ranges: `study.check(globals())`, in its first cell.

    Reads the names and types that the parameters cell has declared in `namespace`. Raises TypeError or ValueError with a
    sentence for each that does not fit: the parameter, what was given, what is allowed. Loads nothing.
    """
    told = namespace.get("__annotations__") or {
        name: known.kind  # Python 3.14 keeps the annotations of the last line alone
        for name, known in ranges.KNOWN.items()
        if isinstance(namespace.get(name), str | int | float | list | dict)
    }
    kinds = {
        name: kind if isinstance(kind, str) else inspect.formatannotation(kind)
        for name, kind in told.items()
        if name in namespace
    }
    declared = {name: Parameter(name, kind, None, "") for name, kind in kinds.items()}
    values = merge(declared, {name: namespace[name] for name in kinds}, notebook="parameters")
    if found := ranges.problems(values, kinds):
        raise ValueError("\n".join(f"parameters: {line}" for line in found))


def _hint(value: Any) -> str:
    """What to write where YAML read something else than was meant."""
    if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        return "; a truth value is written true or false"
    if value is None or isinstance(value, bool):
        word = {True: "true", False: "false", None: "null"}[value]
        return f"; if text is meant, put it in quotes: '{word}'"
    return ""


def from_text(text: str, parameter: Parameter) -> Any:
    """The value that `--set name=text` means for this parameter: a literal, a YAML list, or the text itself.

    >>> from_text("1e-3", Parameter("scale", "float", 0.5, ""))
    0.001
    >>> from_text("7", Parameter("revision", "str", "main", ""))
    '7'
    """
    kind = ast.parse(parameter.annotation, mode="eval").body
    try:
        literal = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return parse_yaml(text, f"{parameter.name}={brief(text)[1:-1]}") if text[:1] in ("[", "{") else text
    try:
        _fit(text, kind)
    except TypeError:
        return literal
    # Text would do as well. A union such as `str | None` still means None by "None".
    return None if literal is None and "None" in parameter.annotation else text
