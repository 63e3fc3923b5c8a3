"""What a notebook leaves in its folder for the report and for other notebooks.

    out = study.output(out_dir, "03_scale_sweep")
    study.save_table(out, "scores", table, caption="Score by scale, 95 % intervals.")
    study.save_figure(out, "scores", figure, caption="...", alt="...")
    study.save_samples(out, responses, by="scale", caption="...")
    best = study.claim("best scale", 0.5, low=0.4, high=0.6, n=200, seed=0)
    study.save_summary(out, question="...", answer=f"A scale of {best['estimate']} is best.", claims=[best])

The files (all that the report reads; a notebook may write them by any other means):

    summary.json             question, answer (texts), claims: [{claim, estimate, low, high, n, seed, unit}]
    tables/NAME.parquet      the exact table, for other notebooks;  tables/NAME.csv  for people, see `write_csv`
    tables/NAME.json         {order, caption, show, measures}: `show` false keeps a table of raw rows off the page
    figures/NAME.svg|pdf|png the figure;  figures/NAME.json  {order, caption, alt, drawn, n}; drawn: see `figures.recipe`;
                             n: least and most prompts behind what is drawn, which the page writes after the caption
    samples/NAME.json        {order, caption, by, rows}: rows with prompt, response and the column `by`

In tables, a column `x` with `x_low` and `x_high` beside it (or `estimate`, `mean` or `value` with `low` and
`high`) is shown as one: estimate and interval.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatvec_lab import secrets
from chatvec_lab.paths import REPORTS
from chatvec_lab.reading import read_json
from chatvec_lab.spreadsheet import write_csv

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


def output(out_dir: str | Path = "", notebook: str = "") -> Path:
    """The folder for a notebook's results, made if need be; '' is one a notebook below reports/interactive, and said.

    `notebook` is the name that the notebook gives itself; in JupyterLab a copy under another name has a folder of its own.
    """
    opened = Path(os.environ.get("JPY_SESSION_NAME", ""))  # set by Jupyter for its kernels
    name = opened.stem if opened.suffix == ".ipynb" else notebook
    folder = Path(out_dir) if str(out_dir) else REPORTS / "interactive" / name
    folder.mkdir(parents=True, exist_ok=True)
    if not str(out_dir):
        print(f"Results go to {folder}")
    return folder


def save_table(
    out: Path, name: str, table: "pandas.DataFrame", *, caption: str, show: bool = True
) -> "pandas.DataFrame":
    """Save a tidy table as parquet and CSV and return it; `show=False` keeps raw rows off the page.

    `table.attrs["measures"]`, where there is one, says of each measure which way is better and what it is called:
    {"correct": {"better": "higher", "words": "right replies"}}; `Exam.shares` gives it.
    """
    about = {"measures": table.attrs["measures"]} if table.attrs.get("measures") else {}
    file = _file(out, "tables", name, {"caption": caption, "show": show, **about})
    table = secrets.redacted_table(table.reset_index(drop=True))
    table.to_parquet(file.with_suffix(".parquet"), index=False)
    write_csv(table, file.with_suffix(".csv"))
    return table


def save_figure(out: Path, name: str, figure: "Figure", *, caption: str, alt: str) -> None:
    """Save a matplotlib figure as SVG, PDF and PNG, with the same bytes each time.

    `alt` says in words what the figure shows, for those who cannot see it. With a figure of `figures.subplots`, what
    drew it is kept: the functions' names and options, and their tables as NAME.0.parquet ...; `redraw` reads them.
    """
    import matplotlib.text

    from chatvec_lab.figures.recipe import of
    from chatvec_lab.figures.style import write

    if not alt.strip():
        raise ValueError(f"figure {name!r}: alt is empty; say in a sentence what the figure shows")
    recipe = of(figure)
    drawn = {"drawn": recipe.data(figure), "n": asked(*recipe.tables)} if recipe else {}
    file = _file(out, "figures", name, {"caption": caption, "alt": alt, **drawn})
    for place, table in enumerate(recipe.tables if recipe else []):
        _storable(secrets.redacted_table(table)).to_parquet(
            file.with_name(f"{name}.{place}.parquet"), index=False
        )
    for text in figure.findobj(matplotlib.text.Text):
        if (clean := secrets.redacted(text.get_text())) != text.get_text():
            text.set_text(clean)
    write(figure, file, dpi=200, level=2)


def asked(*tables: "pandas.DataFrame") -> list[int]:
    """The least and the most prompts (column n) that a number of these tables is of; [] where none says."""
    counts = [n for table in tables if "n" in table for n in table.n.dropna()]
    return [int(min(counts)), int(max(counts))] if counts else []


def _storable(table: "pandas.DataFrame") -> "pandas.DataFrame":
    """The table with columns of several types as texts, as a parquet file has one type a column."""
    mixed = [c for c in table if table[c].dtype == object and table[c].dropna().map(type).nunique() > 1]
    return (
        table.assign(**{c: table[c].astype(str).where(table[c].notna()) for c in mixed}) if mixed else table
    )


def save_samples(
    out: Path, rows: "pandas.DataFrame", *, by: str, caption: str, name: str = "samples"
) -> "pandas.DataFrame":
    """Save a few replies to be read side by side, and return them.

    rows: columns prompt, response and the one named by `by` (scale, model, ...); rows with one prompt stand
    side by side in the table's order. Columns prompt_id and turn, where there are, keep conversations apart:
    turns of one prompt_id follow each other.
    """
    missing = [column for column in ("prompt", "response", by) if column not in rows]
    if missing:
        raise KeyError(
            f"samples need the columns {', '.join(missing)}; the table has {', '.join(rows.columns)}"
        )
    kept = [
        column for column in ("prompt_id", "language", "turn", "prompt", by, "response") if column in rows
    ]
    _file(out, "samples", name, {"caption": caption, "by": by, "rows": rows[kept].to_dict("records")})
    return rows


def claim(
    name: str,
    estimate: float | None,
    *,
    low: float | None = None,
    high: float | None = None,
    n: int | None = None,
    seed: int | None = None,
    unit: str = "",
) -> dict[str, Any]:
    """One number of an answer with its 95 % interval, number of prompts and seed; None means not known.

    unit: "share" for shares of 0 to 1, which the report writes in percent; others stand behind the number ("nats").
    """
    return {"claim": name, "estimate": estimate, "low": low, "high": high, "n": n, "seed": seed, "unit": unit}


class Summary(dict):
    """What `save_summary` saved; a notebook shows it as the question and its answer in words."""

    def _repr_markdown_(self) -> str:
        return f"**{self['question']}**\n\n{self['answer']}"


def save_summary(
    out: Path, *, question: str, answer: str, claims: Sequence[Mapping[str, Any]] = (), **more: Any
) -> Summary:
    """Save and return the notebook's answer. `answer` is a sentence computed from the numbers, never typed.

    `more` are further results for other notebooks to read (plain data); NaN and numpy numbers become JSON.
    """
    incomplete = [dict(c) for c in claims if "claim" not in c or "estimate" not in c]
    if incomplete:
        raise ValueError(f"a claim needs `claim` and `estimate`; see study.claim. Got {incomplete}")
    summary = _plain({"question": question, "answer": answer, "claims": [dict(c) for c in claims], **more})
    _write(Path(out) / "summary.json", summary)
    return Summary(summary)


def load_summary(folder: str | Path) -> dict[str, Any]:
    """What `save_summary` saved, from the folder of another cell (a parameter that `needs` filled in)."""
    return read_json(Path(folder) / "summary.json", {"question": str, "answer": str, "claims": [dict]})


def _file(out: Path, kind: str, name: str, about: dict[str, Any]) -> Path:
    """Make room for an item and write its description; `order` is the order of saving."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(
            f"{kind}: the name {name!r} should be of a-z, 0-9, _ and -, since it becomes a file's name"
        )
    folder = Path(out) / kind
    folder.mkdir(parents=True, exist_ok=True)
    others = [path for path in folder.glob("*.json") if path.stem != name]
    orders = [read_json(path, {"order": int})["order"] for path in others]
    _write(folder / f"{name}.json", {"order": max(orders, default=-1) + 1, **_plain(about)})
    return folder / name


def _write(file: Path, content: dict[str, Any]) -> None:
    content = secrets.redacted(content)
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _plain(value: Any) -> Any:
    """numpy numbers and arrays as Python's, NaN and infinity as None, tuples as lists, keys as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
