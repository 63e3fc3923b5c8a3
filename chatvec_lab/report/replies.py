"""Every scored reply of a study as one small block of bytes, which the page unpacks when a reader asks for it.

The tables of replies of all notebooks stand below each other, a column at a time: the distinct texts of a column once,
and for each reply the number of its text. Replies are data: the page's script puts them into text nodes.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from chatvec_lab import secrets
from chatvec_lab.languages import language_name
from chatvec_lab.report.seeds import by_cells
from chatvec_lab.report.svg import legal
from chatvec_lab.report.words import ASIDE, VERDICTS, measure

if TYPE_CHECKING:
    import numpy
    import pandas

TEXTS = ("prompt", "response", "gloss", "prompt_gloss")
FILTERS = ("model", "scale", "language", "cell_language", "seed", "set", "kind", "frame", "words", "length", "source",
           "reply_language", "finish_reason")  # fmt: skip
# numbers of a table of replies that are no score of the reply
_NO_MEASURE = {"sample", "turn", "turns", "seed", "scale", "n", "perplexity", "cell_seed", "cell_scale"}
LARGEST = (
    1_500_000  # bytes that the replies may take in a page; beyond, every second prompt stays, or every fourth
)


class Replies:
    """The replies of a study: `table` has the notebook and the columns of TEXTS and FILTERS as text, and measures."""

    def __init__(self, table: "pandas.DataFrame", measures: list[str], files: list[str], scored: int):
        self.table, self.measures, self.files, self.scored = table, measures, files, scored
        self._known: dict[tuple, set[tuple]] = {}

    def where(self, notebook: str, keys: Mapping[str, str], metric: str = "") -> dict[str, str] | None:
        """The filters under which a reader finds the replies with these values, or None where the page has none."""
        columns = tuple(["notebook", *sorted(keys)])
        if not set(columns) <= set(self.table) or (metric and metric not in self.measures):
            return None
        if (*columns, metric) not in self._known:
            rows = self.table[self.table[metric].notna()] if metric else self.table
            found = rows[list(columns)].drop_duplicates().itertuples(index=False, name=None)
            self._known[*columns, metric] = set(found)
        wanted = (notebook, *(keys[name] for name in sorted(keys)))
        if wanted not in self._known[*columns, metric]:
            return None
        return {"notebook": notebook, **keys} | ({"measure": metric} if metric else {})


def gathered(notebooks: list[dict[str, Any]]) -> Replies | None:
    """The tables of all notebooks that have the columns prompt and response, or None where there is none."""
    import pandas

    tables, files, measures = [], [], {}
    for notebook in notebooks:
        for item in notebook["tables"]:
            if item["fault"] or not {"prompt", "response"} <= set(item["data"]) or not len(item["data"]):
                continue
            rows = secrets.redacted_table(by_cells(item["data"]))
            found = _measures(rows)
            measures |= dict.fromkeys(found)
            kept = pandas.DataFrame(
                {c: _as_text(rows[c]) for c in (*TEXTS, *FILTERS) if c in rows}, rows.index
            )
            if "scale" not in kept:
                kept["scale"] = _scales(rows, notebook["cells"])
            elif "model" not in kept:  # a sweep
                kept["model"] = "CP + " + kept.scale + " τ"
            tables.append(
                pandas.concat([kept, rows[found].astype(float)], axis=1).assign(notebook=notebook["name"])
            )
            files += [f"cells/{notebook['name']}/*/tables/{item['stem']}.parquet"]
    if not tables:
        return None
    whole = pandas.concat(tables, ignore_index=True)
    names = [name for name in ("notebook", *TEXTS, *FILTERS) if name in whole]
    whole[names] = whole[names].fillna("")
    return Replies(whole, list(measures), files, len(whole))


def _scales(rows: "pandas.DataFrame", cells: list[dict[str, Any]]) -> "numpy.ndarray":
    """The scale of replies of models with τ, from the summary of the cell that they are of; "" for the others."""
    import numpy

    scales = numpy.full(len(rows), "", dtype=object)
    has_tau = (
        rows.model.astype(str).str.contains("τ").to_numpy()
        if "model" in rows
        else numpy.zeros(len(rows), bool)
    )
    for cell in cells:
        if (scale := (cell["summary"] or {}).get("scale")) is None:
            continue
        mine = has_tau.copy()
        for name, value in cell["varying"].items():
            column = f"cell_{name}" if f"cell_{name}" in rows else name
            shown = value if isinstance(value, str | int | float | bool) else json.dumps(value)
            mine &= rows[column].eq(shown).to_numpy()
        scales[mine] = f"{scale:g}"
    return scales


def _measures(rows: "pandas.DataFrame") -> list[str]:
    return [
        column
        for column in rows
        if rows[column].dtype.kind in "fiub" and column not in _NO_MEASURE and rows[column].notna().any()
    ]


def _as_text(column: "pandas.Series") -> "numpy.ndarray":
    """A column as texts, "" where it is missing; each distinct value is written once."""
    import numpy
    import pandas

    codes, values = pandas.factorize(column, use_na_sentinel=True)
    return numpy.array([*map(_written, values), ""], dtype=object)[codes]


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else legal(str(value))


def packed(replies: Replies, *, largest: int = LARGEST) -> dict[str, Any]:
    """The replies as base64 of gzip for the page, what the page says of them, and which it leaves out.

    Keys: data, rows, step (1: all; else every step-th prompt), columns by name with their values.
    """
    table, step = replies.table, 1
    while True:
        kept = table if step == 1 else table[table.prompt.isin(table.prompt.drop_duplicates().iloc[::step])]
        data = base64.b64encode(gzip.compress(_block(kept, replies.measures), 9, mtime=0)).decode()
        if len(data) <= largest or len(kept) < 50:
            return {
                "data": data,
                "rows": len(kept),
                "step": step,
                "scored": replies.scored,
                "files": replies.files,
            }
        step *= 2


def _block(table: "pandas.DataFrame", measures: list[str]) -> bytes:
    """A line of JSON with the columns' values, then for each column the numbers of its values, low bytes first."""
    import pandas

    header: dict[str, Any] = {"rows": len(table), "columns": [], "measures": []}
    body = b""
    for name in (c for c in ("notebook", *TEXTS, *FILTERS, *measures) if c in table):
        codes, values = pandas.factorize(table[name], use_na_sentinel=True)
        width = 1 if len(values) < 255 else 2 if len(values) < 65535 else 4
        header["columns"].append(
            {"name": name, "width": width, "values": [_plain(value) for value in values]}
        )
        # number 0 is a missing value
        body += b"".join(_planes((codes + 1).astype(f"<u{width}")))
    for name in measures:
        values = set(table[name].dropna())
        yes, no, good = VERDICTS.get(name, (measure(name), f"not: {measure(name)}", ""))
        about = {"name": name, "words": measure(name), "yes": yes, "no": no, "good": good}
        header["measures"].append(about | {"verdict": values <= {0.0, 1.0}, "aside": name in ASIDE})
    spoken = {v for c in header["columns"] if c["name"].endswith("language") for v in c["values"]}
    header["languages"] = {code: language_name(code) for code in sorted(map(str, spoken))}
    return json.dumps(header, ensure_ascii=False).encode("utf-8", "replace") + b"\n" + body


def _plain(value: Any) -> Any:
    return round(float(value), 4) if isinstance(value, float) else value


def _planes(numbers: "numpy.ndarray") -> Iterator[bytes]:
    """All first bytes, then all second ones: what changes seldom stands together and takes no room."""
    bytes_of = numbers.view("u1").reshape(len(numbers), -1)
    return (bytes_of[:, place].tobytes() for place in range(bytes_of.shape[1]))


def gzipped(text: str) -> str:
    """Text for the page's script to unpack: base64 of gzip, the same each time."""
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 9, mtime=0)).decode()


def pairs(replies: Replies, notebook: str, metric: str, before: str, after: str) -> "pandas.DataFrame":
    """Prompts with the replies of two models and whether each is right: prompt, kind, language, seed, before, after ..."""
    rows = replies.table
    rows = rows[(rows.notebook == notebook) & rows[metric].isin([0.0, 1.0])]
    keys = [
        c
        for c in ("language", "cell_language", "seed", "frame", "set", "kind", "prompt", "prompt_gloss")
        if c in rows
    ]
    rows = rows.drop_duplicates([*keys, "model"])
    kept = [*keys, "response", metric, *(c for c in ("gloss",) if c in rows)]
    one, two = (rows[rows.model == model][kept] for model in (before, after))
    return one.merge(two, on=keys, suffixes=("_before", "_after"), sort=False)
