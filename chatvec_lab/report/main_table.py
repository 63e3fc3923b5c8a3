"""The main results of a study in one table: models × measures, over its seeds, from the notebooks that scored replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chatvec_lab.report.words import measure

if TYPE_CHECKING:
    import pandas

NAME = "main"
KEPT = ["language", "seed", "model", "metric", "estimate", "low", "high", "n"]
# what a table of scores has besides; any other column tells rows of one measure apart ("one turn", "two turns")
KNOWN = {*KEPT, "cell_language", "frame", "unit", "scorer", "coverage"}


def collect(notebooks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The table as `report.tables.write` takes it, or None where no notebook compares models by scores.

    What is taken: tables with the columns model, estimate, low, high and either metric and scorer (`Exam.shares`) or a
    measure of their own (perplexity); in the CP's language and the chat frame; measures of which one way is better.
    A measure that several notebooks have is the first one's.
    """
    import pandas

    found: list[pandas.DataFrame] = []
    measures: dict[str, dict[str, str]] = {}
    models: set[str] = set()
    for notebook in notebooks:
        for table in notebook["tables"]:
            if table["fault"] or not table["show"] or not _compares(table):
                continue
            rows = _scores(table["data"], table["measures"] or {}, measures)
            shared = models & set(rows.model)
            if len(rows) and (not models or len(shared) > 1 or shared == set(rows.model)):
                models = models or set(rows.model)
                found.append(rows[rows.model.isin(models)])
    if not found:
        return None
    data = pandas.concat(found, ignore_index=True)
    keys = [key for key in ("language", "seed", "model", "metric") if key in data]
    data = _without_twins(data.drop_duplicates(keys))
    return {
        "data": data[[c for c in KEPT if c in data]],
        "caption": "Main results.",
        "measures": measures,
        "show": True,
    }


def _without_twins(data: pandas.DataFrame) -> pandas.DataFrame:
    """Without measures that repeat another one's numbers: two notebooks that asked the same prompts."""
    seen: dict[frozenset[Any], str] = {}
    keys = [key for key in ("language", "seed", "model") if key in data]
    for metric, rows in data.groupby("metric", sort=False):
        seen.setdefault(frozenset(rows[[*keys, "estimate"]].itertuples(index=False, name=None)), str(metric))
    return data[data.metric.isin(set(seen.values()))]


def _compares(table: Mapping[str, Any]) -> bool:
    has = set(table["data"].columns)
    is_scored = {"metric", "scorer"} <= has and "scores" in table["file"]
    is_read = "metric" not in has and "estimate" in (table["measures"] or {}) and not has - KNOWN
    return {"model", "estimate", "low", "high"} <= has and (is_scored or is_read)


def _scores(
    data: pandas.DataFrame, told: Mapping[str, Mapping[str, str]], measures: dict[str, dict[str, str]]
) -> pandas.DataFrame:
    """Rows in the CP's language with the measure in words; `measures` learns which way each is better."""
    if "cell_language" in data:
        data = data[data.language == data.cell_language]
    if "frame" in data and (data.frame == "chat").any():
        data = data[data.frame == "chat"]
    data = data.copy()
    if "metric" not in data:
        data["metric"] = "estimate"
    more = [c for c in data if c not in KNOWN and data[c].nunique() > 1 and data[c].dtype.kind not in "ifub"]
    more = [
        c for c in more if not data[c].astype(str).str.startswith(("[", "{")).all()
    ]  # lists of parameters
    words = []
    for row in data.to_dict("records"):
        about = told.get(str(row["metric"]), {})
        name = ", ".join(
            [about.get("words") or measure(str(row["metric"])), *(str(row[column]) for column in more)]
        )
        if about.get("better", "neither") != "neither":
            measures[name] = {"better": about["better"], "words": name}
        words.append(name)
    data["metric"] = words
    return data[data.metric.isin(measures)]
