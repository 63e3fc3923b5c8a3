"""What a study's folder holds: its manifest, each cell's record, and the tables of all cells in one.

Whoever shows results, the report or a later notebook, reads them here; what runs cells is elsewhere.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatvec_lab.reading import read_json

if TYPE_CHECKING:
    import pandas

MANIFEST = "study.json"


def read_record(folder: Path) -> dict[str, Any] | None:
    """The cell's `run.json`, or None where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        record = json.loads((Path(folder) / "run.json").read_text("utf-8"))
        if isinstance(record, dict) and isinstance(record.get("status"), str):
            return record
    return None


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write `run.json` in one step: a reader sees the old one, none, or the whole new one."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"run.json.{os.getpid()}.part"
    part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    part.replace(folder / "run.json")


def is_done(folder: Path) -> bool:
    """Whether the cell in this folder is done: its `run.json` says so, and nothing else counts."""
    return (read_record(folder) or {}).get("status") == "done"


def describe(error: dict[str, Any]) -> str:
    """One line of what went wrong: 'ValueError: scale must be ... (code cell 3: merged.save(out))'."""
    name, value = (str(error.get(part) or "") for part in ("name", "value"))
    text = ": ".join(filter(None, [name, (value.strip().splitlines() or [""])[0]]))
    where = f"code cell {error['cell']}" if error.get("cell") else ""
    where = ": ".join(filter(None, [where, error.get("line")]))
    return f"{text} ({where})" if where else text


def read_manifest(out: Path) -> dict[str, Any]:
    """What `write_manifest` wrote; FileNotFoundError says how to get one."""
    file = Path(out) / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there: no study has been run into {out} (chatvec_lab run STUDY)"
        )
    cell = {"notebook": str, "key": str, "parameters": dict, "varying": dict, "inputs": dict, "needs": dict}
    try:
        found = read_json(file, {"cells": [cell], "titles": [list]})
        json.dumps(found, ensure_ascii=False).encode()  # half a character fits into no table
        return found
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); chatvec_lab run STUDY writes it anew") from error


def results(out: Path) -> "pandas.DataFrame":
    """One row a cell of the study in `out`: notebook, key, status, seconds, error, folder, parameters."""
    import pandas

    rows = []
    for cell in read_manifest(out)["cells"]:
        folder = Path(out) / "cells" / cell["notebook"] / cell["key"]
        record = read_record(folder) or {"status": "not run"}
        error = describe(record["error"]) if record.get("error") else None
        row = {"notebook": cell["notebook"], "key": cell["key"], "status": record["status"]}
        row |= {"seconds": record.get("seconds"), "error": error, "folder": str(folder)}
        rows.append(row | {name: value for name, value in cell["parameters"].items() if name not in row})
    return pandas.DataFrame(rows)


def load_table(out: Path, notebook: str, name: str, *, faults: list[str] | None = None) -> "pandas.DataFrame":
    """The table `name` of all done cells of a notebook, one below the other, with what varies as columns.

    A column that the table has already is kept as it is; where it says something else (the language of a prompt,
    not of the cell), the cell's own stands beside it as `cell_...`. FileNotFoundError when no done cell has the table,
    ValueError for a damaged file; with a list as `faults` it is left out and named there.
    """
    import pandas

    frames: list[tuple[pandas.DataFrame, dict[str, Any]]] = []
    for cell in read_manifest(out)["cells"]:
        folder = Path(out) / "cells" / cell["notebook"] / cell["key"]
        file = folder / "tables" / f"{name}.parquet"
        if cell["notebook"] == notebook and is_done(folder) and file.is_file():
            varying = {
                column: value if isinstance(value, str | int | float | bool) else json.dumps(value)
                for column, value in cell["varying"].items()
            }
            try:
                frames.append((pandas.read_parquet(file), varying))
            except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
                told = f"{file} is not a table that can be read ({error})"
                if faults is None:
                    raise ValueError(f"{told}; remove {folder} and run the study again") from error
                faults.append(told)
    if not frames:
        raise FileNotFoundError(f"no done cell of {notebook} in {out} has a table {name!r}")
    differing = {
        column
        for table, varying in frames
        for column, value in varying.items()
        if column in table and not table[column].eq(value).all()
    }
    for table, varying in frames:
        for position, (column, value) in enumerate(varying.items()):
            if column in differing or column not in table:
                own = f"cell_{column}" if column in differing else column
                table.insert(min(position, table.shape[1]), own, value)
    return pandas.concat([table for table, _ in frames], ignore_index=True)
