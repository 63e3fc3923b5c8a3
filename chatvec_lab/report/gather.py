"""Read a study's folder into what the page shows: plain data, in the study's order."""

import json
import re
from pathlib import Path
from typing import Any

from chatvec_lab.report import svg, tables
from chatvec_lab.study.results import describe, load_table, read_manifest, read_record

PAGE_ROWS = 30  # a longer table is cut on the page; its file has all


def content(out: Path) -> dict[str, Any]:
    """Everything the template uses; raises FileNotFoundError when no study was run into `out`."""
    manifest = read_manifest(out)
    cells = [_cell(out, entry) for entry in manifest["cells"]]
    undone = {cell["key"]: cell["notebook"] for cell in cells if cell["status"] != "done"}
    for cell in cells:
        bad = sorted({undone[key] for keys in cell["needs"].values() for key in keys if key in undone})
        if bad and cell["status"] == "not run":
            cell |= {"status": "blocked", "error": f"needs {', '.join(bad)}, which has no result"}
    return {
        "study": manifest,
        "notebooks": [
            _notebook(out, name, title, [cell for cell in cells if cell["notebook"] == name])
            for name, title in manifest["titles"]
        ],
        "cells": cells,
        "done": sum(cell["status"] == "done" for cell in cells),
        "unfinished": [cell for cell in cells if cell["status"] != "done"],
        "inputs": _inputs(manifest),
        "versions": _versions(cells),
    }


def _cell(out: Path, entry: dict[str, Any]) -> dict[str, Any]:
    folder = out / "cells" / entry["notebook"] / entry["key"]
    record = read_record(folder) or {"status": "not run"}
    error = describe(record["error"]) if record.get("error") else ""
    label = ", ".join(f"{name} {_text(value)}" for name, value in entry["varying"].items())
    return {
        **entry,
        "folder": folder,
        "link": folder.relative_to(out).as_posix(),
        "status": record["status"],
        # Absolute paths differ between machines; the page should not.
        "error": error.replace(str(out.resolve()), "."),
        "files": [name for name in ("run.log", "notebook.ipynb") if (folder / name).is_file()],
        "versions": record.get("versions", {}),
        "label": label,
        "slug": re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-"),
        "summary": _json(folder / "summary.json") if record["status"] == "done" else None,
    }


def _notebook(out: Path, name: str, title: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    done = [cell for cell in cells if cell["status"] == "done"]
    slugs = [cell["slug"] for cell in cells]
    for cell in cells:
        if len(cell["slug"]) > 60 or slugs.count(cell["slug"]) > 1:
            cell["slug"] = cell["key"]
    summaries = [cell["summary"] for cell in done if cell["summary"]]
    claims = _claims(done)
    return {
        "name": name,
        "title": title,
        "questions": [q for q in dict.fromkeys(s["question"] for s in summaries) if q != title],
        "answers": [(cell["label"], cell["summary"]["answer"]) for cell in done if cell["summary"]],
        "claims": claims,
        "over": _over(claims),
        "tables": _tables(out, name, done),
        "figures": [figure for cell in done for figure in _figures(cell)],
        "samples": [samples for cell in done for samples in _samples(cell)],
        "cells": cells,
    }


def _claims(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Claims by name, one row a cell, each with its place on an axis that they share (in percent)."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        for claim in (cell["summary"] or {}).get("claims", []):
            blank = dict.fromkeys(("low", "high", "n", "seed"))
            groups.setdefault(claim["claim"], []).append(
                {**blank, "unit": "", **claim, "label": cell["label"]}
            )
    return [{"name": name, "rows": _placed(rows)} for name, rows in groups.items()]


def _over(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, lowest and highest cell of each claim that several cells make."""
    found = []
    for claim in claims:
        values = [row["estimate"] for row in claim["rows"] if _is_number(row["estimate"])]
        if len(values) > 1:
            ends = {"mean": sum(values) / len(values), "low": min(values), "high": max(values)}
            decimals = tables.common_decimals(ends.values())
            found.append({"name": claim["name"], **ends, "cells": len(values), "decimals": decimals})
    return found


def _placed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ends = [row[end] for row in rows for end in ("low", "high", "estimate") if _is_number(row[end])]
    start, span = (min(ends), max(ends) - min(ends)) if ends else (0, 0)
    for row in rows:
        is_drawn = span > 0 and all(_is_number(row[end]) for end in ("low", "high", "estimate"))
        place = (
            {end: round(2 + 96 * (row[end] - start) / span, 2) for end in ("low", "high", "estimate")}
            if is_drawn
            else None
        )
        row["place"] = place
    return rows


def _tables(out: Path, name: str, cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each of the notebook's tables once, with the rows of all its cells."""
    about: dict[str, dict[str, Any]] = {}
    captions: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        for stem, item in _described(cell["folder"] / "tables"):
            about.setdefault(stem, item)
            captions.setdefault(stem, {}).setdefault(item["caption"], []).append(cell["label"])
    found = []
    for stem, item in about.items():
        data = load_table(out, name, stem)
        text = tables.readable(data.head(PAGE_ROWS))
        kinds = ["number" if data[column].dtype.kind in "ifu" else "text" for column in text]
        found.append(
            {
                "file": f"{name}-{stem}",
                "caption": _together(captions[stem]),
                "show": item.get("show", True),
                "data": data,
                "columns": list(zip(text, kinds, strict=True)),
                "rows": [list(zip(row, kinds, strict=True)) for row in text.itertuples(index=False)],
                "cut": len(data) > PAGE_ROWS,
            }
        )
    return found


def _together(captions: dict[str, list[str]]) -> str:
    """One caption for the cells' tables in one: theirs, with the words in which they differ ("scale 1 or 0.75").

    Captions that differ in more than words stand one after the other, each with the cells that it is of.
    """
    pieces = [re.split(r"([\s;,]+|\.$)", caption) for caption in captions]
    if len({len(piece) for piece in pieces}) == 1:
        return "".join(_either(list(dict.fromkeys(words))) for words in zip(*pieces, strict=True))
    return " ".join(f"[{'; '.join(labels)}] {caption}" for caption, labels in captions.items())


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _figures(cell: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for stem, item in _described(cell["folder"] / "figures"):
        file = "-".join(filter(None, [cell["notebook"], stem, cell["slug"]]))
        source = cell["folder"] / "figures" / stem
        prefix = f"{re.sub('[^a-zA-Z0-9]+', '-', file)}-"
        drawn, width = svg.inline(source.with_suffix(".svg"), prefix, item["alt"])
        item = {**item, "file": file, "source": source, "svg": drawn, "is_wide": width > 300}
        found.append({**item, "label": cell["label"]})
    return found


def _samples(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Conversations of a cell: for each prompt_id (or prompt) one column a value of `by`, with its turns."""
    found = []
    for _, item in _described(cell["folder"] / "samples"):
        talks: dict[Any, dict[str, list[dict[str, Any]]]] = {}
        for row in item["rows"]:
            columns = talks.setdefault(row.get("prompt_id", row["prompt"]), {})
            columns.setdefault(f"{item['by']} {_text(row[item['by']])}", []).append(row)
        talks = {
            key: {"columns": columns, "shared": _shared_prompt(columns)} for key, columns in talks.items()
        }
        found.append({"caption": item["caption"], "label": cell["label"], "talks": list(talks.values())})
    return found


def _shared_prompt(columns: dict[str, list[dict[str, Any]]]) -> str | None:
    """The prompt, where all columns answer the same single one; None for conversations of several turns."""
    prompts = {tuple(row["prompt"] for row in rows) for rows in columns.values()}
    only = next(iter(prompts))
    return only[0] if len(prompts) == 1 and len(only) == 1 else None


def _described(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    items = [(path.stem, _json(path)) for path in sorted(folder.glob("*.json"))]
    return sorted(items, key=lambda item: item[1]["order"])


def _inputs(manifest: dict[str, Any]) -> dict[str, str]:
    found = {f"modules that {cell['notebook']} imports": cell["imports"] for cell in manifest["cells"]}
    found |= manifest["inputs"]
    for cell in manifest["cells"]:
        found |= cell["inputs"]
    return found


def _versions(cells: list[dict[str, Any]]) -> dict[str, str]:
    """Library versions over all cells; where they differ, each that was used."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        for name, version in cell["versions"].items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
