"""One self-contained HTML page for a study, with its figures and LaTeX tables beside it.

    python -m chatvec_lab run nano        # ends with it
    report.write("reports/nano")          # -> reports/nano/index.html, figures/, tables/

A notebook hands things over by files in its cell's folder: summary.json, tables/, figures/ and samples/, as
described in `chatvec_lab.study.outputs`, whose functions write them. The page begins with what the whole study says
(`overview`), then has each notebook's numbers over seeds, figures, tables and samples, every reply, what failed, and
provenance. The same results give the same bytes: dates, durations and machine names stay in the cells' run.json.

Replies of a model are untrusted text: the template escapes everything, the page's own script (page.js, the only one
that the page allows, by its digest) puts them into text nodes, and the page forbids itself to load anything.
"""

import base64
import functools
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from markupsafe import Markup

from chatvec_lab import secrets
from chatvec_lab.languages import language_name
from chatvec_lab.report import charts, gather, main_table, replies, svg, tables, words
from chatvec_lab.secrets.files import redact_files


def write(out: Path | str) -> Path:
    """Write (anew) the report of the study that was run into `out`; returns the page's path.

    What a notebook left in a form that cannot be shown costs its own place only, which says what is wrong.
    Raises FileNotFoundError when no study was run into `out`.
    """
    out = Path(out)
    here = Path(__file__).parent
    content = gather.content(out)
    for kind in ("figures", "tables"):
        shutil.rmtree(out / kind, ignore_errors=True)
        (out / kind).mkdir()
    for notebook in content["notebooks"]:
        for place, table in enumerate(notebook["tables"]):
            if not table["fault"]:
                notebook["tables"][place] = gather.shown(
                    out, f"the table {table['file']}", _written, table, out / "tables" / table["file"]
                )
        for item in notebook["figures"]:
            if not item["fault"]:
                _copy_figure(item["source"], out / "figures" / item["file"])
                # before it is packed, when nobody can see into it
                item["svg"] = secrets.redacted(item["svg"])
    main = main_table.collect(content["notebooks"])
    content["main"] = main and gather.shown(
        out, "the main table", _main, main, out / "tables" / main_table.NAME
    )
    content["faults"] = (
        sum(
            bool(item["fault"])
            for notebook in content["notebooks"]
            for item in [*notebook["tables"], *notebook["plots"], *notebook["figures"], *notebook["samples"]]
        )
        + sum(len(notebook["faults"]) for notebook in content["notebooks"])
        + len(content["odd"])
        + bool(content["main"] and content["main"]["fault"])
    )
    script, style = ((here / name).read_text("utf-8") for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    content |= {
        "script": Markup(script),
        "style": Markup(style),
        "script_digest": digest,
        "terms": words.TERMS,
    }
    folded = [item for notebook in content["notebooks"] for item in notebook["figures"] if item["is_folded"]]
    for place, item in enumerate(folded):
        item["place"] = place
    content["folded"] = folded and replies.gzipped(json.dumps([item["svg"] for item in folded]))
    content["packed"] = content["replies"] and replies.packed(content["replies"])
    page = _replace(out / "index.html", svg.legal(_template().render(content)))
    redact_files(page, out / "tables", out / "figures")  # what cells left that ran before the secret was one
    return page


def prepare() -> None:
    """Load what `write` needs, a second's work, while the last cells run."""
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    from chatvec_lab.report import latex, pivot  # noqa: F401

    _template()


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = {"number": tables.number, "interval": tables.interval, "explained": words.explained}
    environment.filters |= {**numbers, "marker": _marker, "cell": _cell}
    return environment.get_template("page.html.j2")


def _marker(kind: int) -> Markup:
    shape = charts.tag("path", class_=f"mean h{kind}", d=charts.marker(kind, 6, 6))
    return Markup(charts.tag("svg", shape, viewBox="0 0 12 12", aria_hidden="true"))


def _written(table: dict, stem: Path) -> dict:
    tables.write(table, stem)
    return table


def _main(table: dict, stem: Path) -> dict:
    """The main table as files and, pivoted as in its LaTeX, for the page."""
    from chatvec_lab.report import pivot

    return {
        **_written(table, stem),
        "file": stem.name,
        "pivot": pivot.pivoted(table["data"], table["measures"]),
    }


def _cell(cell: Any) -> str:
    if not cell.is_number:
        return "" if cell.value is None else language_name(str(cell.value))
    return tables.interval(cell.value, cell.low, cell.high, cell.decimals)


def _copy_figure(source: Path, target: Path) -> None:
    for suffix in (".pdf", ".png"):
        if source.with_suffix(suffix).is_file():
            shutil.copyfile(source.with_suffix(suffix), f"{target}{suffix}")
    drawn = source.with_suffix(".svg").read_text("utf-8")
    Path(f"{target}.svg").write_text(svg.legal(drawn), "utf-8")


def _replace(file: Path, text: str) -> Path:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(text, "utf-8")
    part.replace(file)
    return file
