"""Read a study's folder into what the page shows: plain data, in the study's order."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatvec_lab.reading import brief
from chatvec_lab.report import claims, overview, plots, replies, svg, tables
from chatvec_lab.report.claims import is_number
from chatvec_lab.report.seeds import grouping
from chatvec_lab.study.results import describe, load_table, read_manifest, read_record

PAGE_ROWS = 30  # a longer table is cut on the page; its file has all


def content(out: Path) -> dict[str, Any]:
    """Everything the template uses; raises FileNotFoundError when no study was run into `out`.

    What a notebook left in a form that cannot be shown stands in its place as {"fault": what is wrong with it}.
    """
    manifest, shapes = read_manifest(out), svg.Shapes()
    cells = [_cell(out, entry) for entry in manifest["cells"]]
    undone = {cell["key"]: cell["notebook"] for cell in cells if cell["status"] != "done"}
    for cell in cells:
        bad = sorted({undone[key] for keys in cell["needs"].values() for key in keys if key in undone})
        if bad and cell["status"] == "not run":
            cell |= {"status": "blocked", "error": f"needs {', '.join(bad)}, which has no result"}
    notebooks = [
        _notebook(out, name, title, [cell for cell in cells if cell["notebook"] == name], shapes)
        for name, title in manifest["titles"]
    ]
    asked = shown(out, "the replies", lambda: {"replies": replies.gathered(notebooks)})
    for notebook in notebooks:
        _plot(out, notebook, asked.get("replies"))
    first = shown(out, "the first screen", overview.overview, notebooks, asked.get("replies"))
    return {
        "study": manifest,
        "notebooks": notebooks,
        "shapes": shapes.listed(),
        "replies": asked.get("replies"),
        "first": {**overview.NOTHING, **first},
        "odd": [item["fault"] for item in (asked, first) if item["fault"]],
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
    label = _label(entry["varying"])
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
        "summary": _summary(out, folder / "summary.json") if record["status"] == "done" else None,
    }


def _label(varying: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in varying.items())


def shown(out: Path, what: str, make: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """What `make` makes, or its fault: the files are a notebook's, and none may cost the page."""
    try:
        return {"fault": "", **make(*given)}
    except Exception as error:  # whatever a file of another's hand may bring about, and it is told
        told = f"no {error}" if isinstance(error, KeyError) else str(error) or repr(error)
        told = told.replace(str(out.resolve()), ".").replace(str(out), ".")
        return {"fault": f"{what} cannot be shown: {told[:600]}", "caption": "", "label": "", "show": False}


def _summary(out: Path, file: Path) -> dict[str, Any] | None:
    def read() -> dict[str, Any]:
        summary = _json(file)
        blank = {**dict.fromkeys(("low", "high", "n", "seed")), "unit": ""}
        found = [{**blank, **claim} for claim in summary.get("claims", [])]
        if lacking := [claim for claim in found if "claim" not in claim or "estimate" not in claim]:
            raise ValueError(f"a claim without its name or estimate: {brief(lacking[0])}")
        ends = [(claim, claim[end]) for claim in found for end in ("estimate", "low", "high")]
        if odd := [claim for claim, value in ends if not (value is None or is_number(value))]:
            raise ValueError(f"a claim whose estimate or interval is no number: {brief(odd[0])}")
        told = {"question": str(summary["question"]), "answer": str(summary["answer"]), "claims": found}
        return told | {"scale": summary["scale"] if is_number(summary.get("scale")) else None}

    return shown(out, file.relative_to(out).as_posix(), read) if file.is_file() else None


def _notebook(
    out: Path, name: str, title: str, cells: list[dict[str, Any]], shapes: svg.Shapes
) -> dict[str, Any]:
    done = [cell for cell in cells if cell["status"] == "done"]
    slugs = [cell["slug"] for cell in cells]
    for cell in cells:
        if len(cell["slug"]) > 60 or slugs.count(cell["slug"]) > 1:
            cell["slug"] = cell["key"]
    summaries = [cell["summary"] for cell in done if cell["summary"]]
    kept = grouping([{"seed": cell["parameters"].get("seed"), **cell["varying"]} for cell in cells])
    for cell in cells:  # what goes with the seed alone need not be said
        cell["label"] = (
            _label({k: v for k, v in cell["varying"].items() if k in kept or k == "seed"}) or cell["label"]
        )
    said = claims.gathered(done, kept)
    figures = [figure for cell in done for figure in _figures(out, cell, shapes)]
    answers = [(cell["label"], cell["summary"]) for cell in done if cell["summary"]]
    return {
        "name": name,
        "title": title,
        "questions": [q for q in dict.fromkeys(s.get("question") for s in summaries) if q and q != title],
        "answers": [(label, summary["answer"]) for label, summary in answers if not summary["fault"]],
        "faults": [summary["fault"] for _, summary in answers if summary["fault"]],
        "claims": said,
        "numbers": claims.table(said),
        "lead": claims.lead(said),
        "is_one_seed": len({cell["parameters"].get("seed") for cell in done}) == 1,
        "kept": kept,
        "dropped": {name for cell in cells for name in cell["varying"]} - {"seed", *kept},
        "tables": _tables(out, name, done),
        "figures": figures,
        "samples": [samples for cell in done for samples in _samples(out, cell)],
        "cells": cells,
    }


def _plot(out: Path, notebook: dict[str, Any], asked: "replies.Replies | None") -> None:
    """Give a notebook of several cells the figures of its tables; figures of single cells fold away behind them."""
    notebook["plots"], is_several = [], sum(cell["status"] == "done" for cell in notebook["cells"]) > 1
    for item in notebook["tables"] if is_several else []:
        if not item["fault"] and item["show"]:
            how = (notebook["kept"], notebook["dropped"], asked)
            made = shown(out, f"the figure of {item['file']}", _plots, item, notebook["name"], *how)
            notebook["plots"] += [made] if made["fault"] else made["plots"]
    for place, plot in enumerate(notebook["plots"]):
        plot["is_main"], plot["id"] = place == 0, f"{notebook['name']}-plot-{place}"
    stems = [figure.get("stem") for figure in notebook["figures"]]
    for figure in notebook["figures"]:
        figure["is_folded"] = not figure["fault"] and stems.count(figure["stem"]) > 1


def _plots(*given: Any) -> dict[str, Any]:
    return {"plots": [{"fault": "", **plot} for plot in plots.plotted(*given)]}


def _tables(out: Path, name: str, cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each of the notebook's tables once, with the rows of all its cells."""
    about: dict[str, dict[str, Any]] = {}
    captions: dict[str, dict[str, list[str]]] = {}
    found = []
    for cell in cells:
        for stem, item in _described(out, cell["folder"] / "tables"):
            if item["fault"]:
                found.append(item)
            else:
                about[stem] = {**item, **about.get(stem, {}), "measures": _called(about.get(stem), item)}
                captions.setdefault(stem, {}).setdefault(item["caption"], []).append(cell["label"])
    for stem, item in about.items():
        faults: list[str] = []
        made = shown(out, f"the table {name}: {stem}", _table, out, name, stem, faults)
        if not made["fault"]:
            made |= {"caption": _together(captions[stem]), "show": bool(item.get("show", True))}
            made["measures"] = item.get("measures")
        found.append(made)
        found += [shown(out, f"a table of {name}", _raise, told) for told in faults]
    return found


def _called(before: dict[str, Any] | None, item: dict[str, Any]) -> dict[str, dict[str, str]] | None:
    """What measures are called in the tables of all cells; words in which cells differ ("replies in zh") are none."""
    found = dict(item.get("measures") or {})
    for name, told in ((before or {}).get("measures") or {}).items():
        new = found.setdefault(name, told)
        if new.get("words") != told.get("words"):
            found[name] = {**told, "words": ""}
    return found or None


def _table(out: Path, name: str, stem: str, faults: list[str]) -> dict[str, Any]:
    data = load_table(out, name, stem, faults=faults)
    text = tables.readable(data.head(PAGE_ROWS))
    kinds = ["number" if data[column].dtype.kind in "ifu" else "text" for column in text]
    return {
        "file": f"{name}-{stem}",
        "stem": stem,
        "data": data,
        "columns": list(zip(text, kinds, strict=True)),
        "rows": [list(zip(row, kinds, strict=True)) for row in text.itertuples(index=False)],
        "cut": len(data) > PAGE_ROWS,
    }


def _raise(told: str) -> dict[str, Any]:
    raise ValueError(told)


def _together(captions: dict[str, list[str]]) -> str:
    """One caption for the cells' tables in one: theirs, with the words in which they differ ("scale 1 or 0.75").

    Captions that differ in more than words stand one after the other, each with the cells that it is of.
    """
    pieces = [re.split(r"([\s;,]+|\.(?=\s|$))", caption) for caption in captions]
    if len({len(piece) for piece in pieces}) == 1:
        return "".join(_either(list(dict.fromkeys(words))) for words in zip(*pieces, strict=True))
    return " ".join(f"[{'; '.join(labels)}] {caption}" for caption, labels in captions.items())


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _figures(out: Path, cell: dict[str, Any], shapes: svg.Shapes) -> list[dict[str, Any]]:
    found = []
    for stem, item in _described(out, cell["folder"] / "figures"):
        what = f"the figure {cell['notebook']}: {stem}"
        found.append(item if item["fault"] else shown(out, what, _figure, cell, stem, item, shapes))
    return found


def _figure(cell: dict[str, Any], stem: str, item: dict[str, Any], shapes: svg.Shapes) -> dict[str, Any]:
    file = "-".join(filter(None, [cell["notebook"], stem, cell["slug"]]))
    source = cell["folder"] / "figures" / stem
    prefix = f"{re.sub('[^a-zA-Z0-9]+', '-', file)}-"
    drawn, width = svg.inline(source.with_suffix(".svg"), prefix, str(item["alt"]), shapes)
    more = {
        "file": file,
        "stem": stem,
        "alt": str(item["alt"]),
        "source": source,
        "svg": drawn,
        "is_wide": width > 300,
        "label": cell["label"],
        "asked": plots.of_prompts(item.get("n", ())),
    }
    return {"caption": item["caption"], **more}


def _samples(out: Path, cell: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for stem, item in _described(out, cell["folder"] / "samples"):
        what = f"the samples {cell['notebook']}: {stem}"
        found.append(item if item["fault"] else shown(out, what, _talks, cell, item))
    return found


def _talks(cell: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """Conversations of a cell: for each prompt_id (or prompt) one column a value of `by`, with its turns."""
    talks: dict[Any, dict[str, list[dict[str, Any]]]] = {}
    for row in item["rows"]:
        columns = talks.setdefault(row.get("prompt_id", row["prompt"]), {})
        said = {"prompt": row["prompt"], "response": row["response"]}
        columns.setdefault(f"{item['by']} {_text(row[item['by']])}", []).append(said)
    shown = [{"columns": columns, "shared": _shared_prompt(columns)} for columns in talks.values()]
    return {"caption": item["caption"], "label": cell["label"], "talks": shown}


def _shared_prompt(columns: dict[str, list[dict[str, Any]]]) -> str | None:
    """The prompt, where all columns answer the same single one; None for conversations of several turns."""
    prompts = {tuple(row["prompt"] for row in rows) for rows in columns.values()}
    only = next(iter(prompts))
    return only[0] if len(prompts) == 1 and len(only) == 1 else None


def _described(out: Path, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """The descriptions in a folder by name, in their order; one that cannot be read is a fault, at the end."""

    def read(path: Path) -> dict[str, Any]:
        item = _json(path)
        return {**item, "caption": str(item["caption"]), "order": float(item["order"])}

    items = [
        (path.stem, shown(out, path.relative_to(out).as_posix(), read, path))
        for path in sorted(folder.glob("*.json"))
    ]
    return sorted(items, key=lambda item: item[1].get("order", float("inf")))


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
        for name, version in dict(cell["versions"] or {}).items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"there should be an object, got {brief(content)}")
    return content


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
