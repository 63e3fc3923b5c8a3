"""The rows of a file that somebody keeps prompts in: JSON lines, JSON, YAML, CSV, TSV or parquet, each with its place.

Texts and ids stay as they are written: "007" is no number, "NA" no gap. What cannot be read is a ValueError that
names the file and the line or row.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatvec_lab.reading import DoubledKey, brief, parse_json, read_yaml

SUFFIXES = (".jsonl", ".json", ".yaml", ".yml", ".csv", ".tsv", ".parquet")
Row = tuple[str, Any]  # its place, for messages, and what stands there


def rows_of(path: Path) -> list[Row]:
    """("FILE, line 3", row) of each row."""
    match path.suffix.lower():
        case ".jsonl":
            return _lines(path, _text(path))
        case ".json":
            return _json(path, _text(path))
        case ".yaml" | ".yml":
            return _yaml(path)
        case ".csv" | ".tsv" as suffix:
            return _table(path, _text(path), "," if suffix == ".csv" else "\t")
        case ".parquet":
            try:
                return _placed(path, pq.read_table(path).to_pylist())
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{path} is no parquet file that can be read: {error}") from error
    raise ValueError(f"{path}: prompts are read from {', '.join(SUFFIXES)}")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # as bytes: a line end inside a cell stays as it is
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error


def _placed(path: Path, rows: Iterable) -> list[Row]:
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows)]


def _lines(path: Path, text: str) -> list[Row]:
    """One row a line; a line that is a list, as where JSON was named .jsonl, holds several."""
    found: list[Row] = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: it cuts at U+2028
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = parse_json(line, place)
        except DoubledKey:
            raise
        except ValueError:
            if not found and text.lstrip().startswith("["):
                return _json(path, text)
            raise
        found += [(place, one) for one in row] if isinstance(row, list) else [(place, row)]
    return found


def _json(path: Path, text: str) -> list[Row]:
    try:
        content = parse_json(text, str(path))
    except DoubledKey:
        raise
    except ValueError:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and _is_json(lines[0]):  # JSON lines, whatever the file is called
            return _lines(path, text)
        raise
    if isinstance(content, list):
        return _placed(path, content)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds {type(content).__name__}; prompts are a list of rows, or an object with one"
        )
    columns = list(content.values())
    if columns and all(isinstance(v, dict) for v in columns):
        return _of_objects(path, content)
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    if len(lists) == 1 and not _is_row(content):
        name, rows = lists.popitem()
        return [(f"{path}, {name}, row {i}", row) for i, row in enumerate(rows)]
    if len(lists) == len(content) > 1 and len({len(v) for v in columns}) == 1 and not _is_row(content):
        if any(isinstance(value, dict) for column in columns for value in column):
            raise ValueError(f"{path} holds several lists of rows: {', '.join(content)}. Keep one in a file.")
        return _placed(path, (dict(zip(content, row, strict=True)) for row in zip(*columns, strict=True)))
    if len(lists) > 1 and not _is_row(content):
        raise ValueError(f"{path} holds several lists: {', '.join(lists)}. Keep one in a file.")
    return [(f"{path}, row 0", content)]


def _yaml(path: Path) -> list[Row]:
    """A list of rows; a number in a cell is the text that was written."""
    content = read_yaml(path)
    if not isinstance(content, list):
        raise ValueError(
            f"{path}: there should be a list of prompts, `- prompt: ...` each, got {brief(content)}"
        )
    rows: list[Row] = []
    for place, row in _placed(path, content):
        row = getattr(row, "written", row)
        if isinstance(row, dict):
            if odd := [name for name, cell in row.items() if isinstance(cell, bool)]:
                raise ValueError(
                    f"{place}, column {odd[0]} is {str(row[odd[0]]).lower()}, a truth value; if text is meant, put it in "
                    "quotation marks"
                )
            row = {name: getattr(cell, "written", cell) for name, cell in row.items()}
        rows.append((place, row))
    return rows


def _is_row(content: dict) -> bool:
    """Whether an object is one row rather than a table: its texts or its one list are what is asked."""
    return any(
        isinstance(content.get(key), str) for key in ("id", "question_id", "prompt_id", "prompt", "question")
    ) or (set(content) & {"turns", "messages", "conversations", "conversation"} and len(content) <= 3)


def _of_objects(path: Path, content: dict[str, dict]) -> list[Row]:
    """Rows of {"p1": {"prompt": …}, …}, or of pandas' {"prompt": {"0": …}, …}."""
    values = list(content.values())
    keys = list(values[0])
    if all(list(v) == keys for v in values) and keys == [str(i) for i in range(len(keys))]:
        return _placed(path, ({name: column[key] for name, column in content.items()} for key in keys))
    return [(f"{path}, {key!r}", {"prompt_id": key, **row}) for key, row in content.items()]


def _is_json(line: str) -> bool:
    try:
        parse_json(line, "")
    except DoubledKey:
        return True
    except ValueError:
        return False
    return True


def _table(path: Path, text: str, delimiter: str) -> list[Row]:
    """Cells as they are written; an empty one is missing. A row longer than the header has an unquoted delimiter."""
    csv.field_size_limit(1 << 30)
    if "\n" not in text:  # the line ends of an old Macintosh, which Excel still offers
        text = text.replace("\r", "\n")
    # split at \n alone: a cell may hold U+2028, and Excel's \r\n is the csv module's to read
    reader = csv.reader((line + "\n" for line in text.split("\n")), delimiter=delimiter, strict=True)
    found: list[Row] = []
    try:
        header = next((row for row in reader if any(map(str.strip, row))), [])  # an empty line may come first
        header = [name.strip() for name in header]
        if len(set(header)) < len(header):
            raise ValueError(f"{path}: the header names a column twice: {', '.join(header)}")
        for cells in reader:
            place = f"{path}, line {reader.line_num}"
            if not any(cells):
                continue
            if len(cells) > len(header):
                raise ValueError(
                    f"{place} has {len(cells)} cells, the header {len(header)}: a text with a {delimiter!r} in it needs"
                    " quotation marks around it"
                )
            found.append((place, {k: v or None for k, v in zip(header, cells, strict=False)}))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num} is no CSV: {error}") from error
    return found
