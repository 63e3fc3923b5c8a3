"""A tidy table as a paper shows it: models × measures, mean ± interval, the best in bold, what is constant in the caption.

    table = pivoted(data, {"correct": {"better": "higher", "words": "right replies"}})
    table.heads, table.rows, table.notes

Seeds are repetitions: a row of each becomes one row, the mean over the seeds with Student's t interval (`report.seeds`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chatvec_lab.languages import language_name
from chatvec_lab.report import seeds, tables
from chatvec_lab.report.words import measure

if TYPE_CHECKING:
    import pandas

Measures = Mapping[
    str, Mapping[str, str]
]  # name of a measure -> {"better": higher | lower | neither, "words": ...}

# numbers that say which row it is; other numbers are what was measured
NUMERIC_KEYS = {"scale", "layer", "tokens", "seed", "turns", "rank", "index", "relative_depth"}
LANGUAGES = ("cell_language", "language")
COMPARED = ("model", "scale", "part", "setup", "dtype", "vector")  # what the best is one of
METRICS = ("metric", "measure")
ESTIMATES = ("estimate", "mean", "value")
# said once in the caption where they are the same in all rows
TOLD = {
    "n": "n = {}", "test": "test: {}", "correction": "corrected by {}", "unit": "", "scorer": "", "coverage": "",
    "prompts": "{} prompts", "seed": "seed {}",
}  # fmt: skip
MOST_COLUMNS = 6  # of a second key that becomes columns
WORDS = {
    "p_adjusted": "p, adjusted", "p": "p", "l2": "L2 norm", "relative_l2": "relative L2", "rms": "RMS", "max_abs": "largest",
    "random_sd": "SD of random pairs", "n": "n", "share_zero": "share unchanged",
    "cell_language": "CP", "here": "this study", "here_low": "lowest", "here_high": "highest",
}  # fmt: skip


@dataclass
class Cell:
    """A value: text, or a number with its interval; `decimals` as its column has, `is_best` for bold."""

    value: Any
    low: float | None = None
    high: float | None = None
    decimals: int | None = None
    is_best: bool = False

    @property
    def is_number(self) -> bool:
        return isinstance(self.value, int | float) and not isinstance(self.value, bool)


@dataclass
class Head:
    """A column's heading; `better` puts an arrow beside it, `is_text` sets the column flush left."""

    text: str
    is_text: bool = False
    better: str = ""


@dataclass
class Table:
    """Headings, rows (one list of cells each; a text alone is a heading across) and sentences for the caption."""

    heads: list[Head]
    rows: list[list[Cell] | str]
    notes: list[str] = field(default_factory=list)


def pivoted(data: pandas.DataFrame, measures: Measures | None = None) -> Table:
    """The table for a paper; every row of `data` is in it, as itself, in a mean over seeds, or as a column."""
    measures, notes = measures or {}, []
    data, values = _prepared(data, notes)
    data, values = _over_seeds(data, values, notes)
    keys = [column for column in data if column not in values and not _is_bound(data, column)]
    metric = next((name for name in METRICS if name in keys), None)
    if metric and data[metric].nunique() == 1 and len(data):
        name = str(data[metric].iloc[0])
        estimates = [value for value in values if value in ESTIMATES]
        measures = {**measures, **{value: measures.get(name, {}) for value in estimates}}
        heading = {value: _words(name, measures) for value in estimates}
        keys, data = [k for k in keys if k != metric], data.drop(columns=metric)
    else:
        heading = {}
    groups = [k for k in LANGUAGES if k in keys and data[k].nunique() > 1][:1]
    across = _across(data, keys, values, metric, groups)
    block = groups[0] if groups and len(keys) > 1 else None
    down = [k for k in keys if k not in (across, block)]
    if across:
        return _wide(data, down, across, values[0], block, measures, notes, heading)
    return _long(data, down, values, block, measures, notes, heading)


def _prepared(data: pandas.DataFrame, notes: list[str]) -> tuple[pandas.DataFrame, list[str]]:
    """Without columns that say one thing, which become notes; and the names of the columns that were measured."""
    data = _plain(data.reset_index(drop=True))
    has_estimate = any(name in data and f"{name}_low" not in data for name in ESTIMATES)
    for column, told in TOLD.items():
        if column not in data or not len(data):
            continue
        found = data[column].dropna().unique()
        is_one = len(found) == 1 and data[column].notna().all()
        if is_one and told and (column != "n" or has_estimate):
            notes.append(told.format(tables.number(found[0])))
        elif column == "n" and has_estimate and len(found) > 1 and data[column].dtype.kind in "if":
            notes.append(f"n = {tables.number(min(found))} to {tables.number(max(found))}")
        is_shared = column == "n" and has_estimate
        is_plain = column in ("scorer", "unit") and any(name in data for name in METRICS)
        if is_one or is_shared or is_plain or (column == "coverage" and is_one):
            data = data.drop(columns=column)
    for column in list(data):
        if column in LANGUAGES or column.endswith(("_low", "_high")) or column in ("low", "high"):
            continue
        is_one = (
            data[column].dtype.kind not in "ifub"
            and data[column].nunique(dropna=False) == 1
            and len(data) > 1
        )
        if is_one and column not in METRICS and data.shape[1] > 2 and len(str(data[column].iloc[0])) < 40:
            notes.append(f"{column.replace('_', ' ')}: {data[column].iloc[0]}")
            data = data.drop(columns=column)
    for column in LANGUAGES:
        if column in data:
            data[column] = [
                language_name(value) if isinstance(value, str) else value for value in data[column]
            ]
            if data[column].nunique() == 1 and len(data) > 1 and data.shape[1] > 2:
                notes.append(f"{WORDS.get(column, column)}: {data[column].iloc[0]}")
                data = data.drop(columns=column)
    for column in list(
        data
    ):  # a list that goes with the seed (further families for the first one) tells no rows apart
        others = [c for c in data if c != column and (data[c].dtype.kind not in "fb" or c in NUMERIC_KEYS)]
        is_list = (
            data[column].dtype.kind not in "ifub"
            and data[column].astype(str).str.startswith(("[", "{")).all()
        )
        if is_list and len(data) and others and not data.duplicated(others).any():
            data = data.drop(columns=column)
    values = [
        column
        for column in data
        if data[column].dtype.kind in "ifub" and column not in NUMERIC_KEYS and not _is_bound(data, column)
    ]
    return data, values


def _plain(data: pandas.DataFrame) -> pandas.DataFrame:
    """Columns of numbers, of truths, or of texts: what a parquet file may hold besides is written as text."""
    found = {}
    for column in data:
        values = data[column]
        if values.dtype.kind in "if":
            found[column] = values.astype(float) if values.isna().any() else values.to_numpy()
        elif values.dtype.kind == "b" and not values.isna().any():
            found[column] = values.to_numpy(dtype=bool)
        else:
            found[column] = [_told(value) for value in values.astype(object)]
    return type(data)({str(column): values for column, values in found.items()}, index=data.index)


def _told(value: Any) -> Any:
    import pandas

    is_missing = pandas.api.types.is_scalar(value) and pandas.isna(value)
    return None if is_missing else value if isinstance(value, str) else str(value)


def _is_bound(data: pandas.DataFrame, column: str) -> bool:
    if column in ("low", "high"):
        return any(name in data for name in ESTIMATES)
    return column.endswith(("_low", "_high")) and column.rpartition("_")[0] in data


def _bounds(data: pandas.DataFrame, value: str) -> tuple[str, str] | None:
    pairs = [(f"{value}_low", f"{value}_high"), *([("low", "high")] if value in ESTIMATES else [])]
    numbers = {column for column in data if data[column].dtype.kind in "if"}
    return next((pair for pair in pairs if {value, *pair} <= numbers), None)


def _over_seeds(
    data: pandas.DataFrame, values: list[str], notes: list[str]
) -> tuple[pandas.DataFrame, list[str]]:
    """One row for the rows of all seeds, where there is one of each; else the table as it is, with its seeds."""
    if "seed" not in data or data.seed.nunique() < 2:
        return (data.drop_duplicates() if not values else data), values
    keys = [c for c in data if c not in values and c != "seed" and not _is_bound(data, c)]
    if not values:
        return data.drop(columns="seed").drop_duplicates() if keys else data, values
    groups = list(data.groupby(keys, sort=False, dropna=False)) if keys else [((), data)]
    sizes = {len(rows) for _, rows in groups}
    if any(rows.seed.duplicated().any() for _, rows in groups) or sizes == {1}:
        return data, values
    rows = []
    for _, part in groups:
        row = {key: part[key].iloc[0] for key in keys}
        for value in values:
            row |= _mean(part, value)
        rows.append(row)
    k = max(sizes)
    few = "; without ±: all seeds equal" + ("" if min(sizes) > 1 else ", or only one")
    notes.insert(0, f"mean over {k} seeds ± 95 % t interval{few}")
    made = type(data)(rows)
    order = [c for c in data if c in keys] + [c for v in values for c in (v, f"{v}_low", f"{v}_high")]
    return made[order], values


def _mean(part: pandas.DataFrame, value: str) -> dict[str, Any]:
    """The mean of one value a seed with its t interval; of p-values the largest, of truths how many hold."""
    none = {f"{value}_low": math.nan, f"{value}_high": math.nan}
    found = [v for v in part[value].tolist() if not tables._is_missing(v)]
    if not found:
        return {value: math.nan, **none}
    if part[value].dtype.kind == "b":
        same = len(set(found)) == 1
        return {value: found[0] if same else f"{sum(found)} of {len(found)}", **none}
    if value.startswith("p_") or value == "p":
        return {value: max(found), **none}
    if len(set(found)) == 1:
        return {value: found[0], **none}
    is_share = all(0 <= v <= 1 for v in found)
    bounds = _bounds(part, value)
    if bounds:  # a change of a share lies in -1 to 1, which its own interval shows
        is_share = is_share and bool((part[bounds[0]].dropna() >= 0).all())
    over = seeds.over([float(v) for v in found], seeds.limits_of(is_share))
    blank = [math.nan if end is None else end for end in (over.low, over.high)]
    return {value: over.mean, f"{value}_low": blank[0], f"{value}_high": blank[1]}


def _across(
    data: pandas.DataFrame,
    keys: Sequence[str],
    values: Sequence[str],
    metric: str | None,
    groups: Sequence[str],
) -> str | None:
    """The key whose values become columns: the metric, else the one of two that has few values."""
    if len(values) != 1 or not len(data) or not keys or data.duplicated(list(keys)).any():
        return None
    if metric in keys:
        return metric if data[metric].notna().all() else None
    free = [k for k in keys if k not in groups]
    if len(free) != 2 or data[free].isna().any().any():
        return None
    few, many = sorted(free, key=lambda k: data[k].nunique())
    counts = data[few].nunique(), data[many].nunique()
    blocks = max((data[k].nunique() for k in groups), default=1)
    is_grid = len(data) > 0.5 * counts[0] * counts[1] * blocks  # a grid, not notes that go with their rows
    return few if counts[0] <= MOST_COLUMNS and counts[1] > 1 and is_grid else None


def _wide(
    data: pandas.DataFrame, down: list[str], across: str, value: str, block: str | None, measures: Measures,
    notes: list[str], heading: dict[str, str],
) -> Table:  # fmt: skip
    columns = list(dict.fromkeys(data[across].dropna()))
    is_metric = across in METRICS
    heads = [Head(_words(k, measures), is_text=data[k].dtype.kind not in "if") for k in down]
    for column in columns:
        better = measures.get(str(column), {}).get("better", "") if is_metric else ""
        text = (
            _words(str(column), measures) if is_metric or isinstance(column, str) else tables.number(column)
        )
        heads.append(Head(text, better=better))
    if heading and not is_metric:
        notes.insert(0, heading.get(value, ""))
    cells = _cells(data, value, by=across)
    rows: list[list[Cell] | str] = []
    for name, part in data.groupby(block, sort=False) if block else [(None, data)]:
        if name is not None:
            rows.append(str(name))
        start, lines = len(rows), list(part.groupby(down, sort=False, dropna=False)) if down else [((), part)]
        for _, line in lines:
            found = {row[across]: cells[i] for i, row in line.iterrows()}
            rows.append([Cell(line[k].iloc[0]) for k in down] + [found.get(c, Cell(None)) for c in columns])
        better = measures.get(value, {}).get("better", "")
        if is_metric and set(down) & set(COMPARED):
            for place, head in enumerate(heads):
                _mark_best([row[place] for row in rows[start:]], head.better)
        elif across in COMPARED:
            for row in rows[start:]:
                _mark_best(row[len(down) :], better)
    return _finished(Table(heads, rows, notes))


def _long(
    data: pandas.DataFrame, down: list[str], values: list[str], block: str | None, measures: Measures, notes: list[str],
    heading: dict[str, str],
) -> Table:  # fmt: skip
    cells = {value: _cells(data, value, by=None) for value in values}
    named = {value: heading.get(value) or _words(value, measures) for value in values}
    order = [c for c in data if c in down or c in values]
    heads = [
        Head(named.get(c) or _words(c, measures), is_text=c not in values and data[c].dtype.kind not in "if",
             better=measures.get(c, {}).get("better", "") if c in values else "")
        for c in order
    ]  # fmt: skip
    rows: list[list[Cell] | str] = []
    for name, part in data.groupby(block, sort=False) if block else [(None, data)]:
        if name is not None:
            rows.append(str(name))
        start = len(rows)
        for i, row in part.iterrows():
            rows.append([cells[c][i] if c in values else Cell(row[c]) for c in order])
        if set(down) & set(COMPARED):
            for place, head in enumerate(heads):
                _mark_best([row[place] for row in rows[start:]], head.better)
    return _finished(Table(heads, rows, notes))


def _cells(data: pandas.DataFrame, value: str, *, by: str | None) -> dict[Any, Cell]:
    """A cell for each row, with as many decimals as its column's intervals are worth."""
    bounds, cells = _bounds(data, value), {}
    for _, part in data.groupby(by, sort=False, dropna=False) if by else [(None, data)]:
        triples = (
            part[[value, *(bounds or ())]].astype(object).where(part[[value, *(bounds or ())]].notna(), None)
        )
        found = [tuple(row) if bounds else (*row, None, None) for row in triples.itertuples(index=False)]
        decimals = _decimals(found) if data[value].dtype.kind == "f" else None
        cells |= {i: Cell(*three, decimals) for i, three in zip(part.index, found, strict=True)}
    return cells


def _decimals(found: Sequence[tuple[Any, Any, Any]]) -> int:
    halves = sorted((high - low) / 2 for _, low, high in found if None not in (low, high) and high > low)
    is_share = all(abs(v) <= 1 for v, _, _ in found if v is not None and not isinstance(v, str))
    if not halves:
        values = [v for v, _, _ in found if v is not None and not isinstance(v, str)]
        least = 2 if any(v != int(v) for v in values if math.isfinite(v)) else 0
        return max(tables.common_decimals(values), least)
    return min(max(2 if is_share else 0, math.ceil(-math.log10(halves[len(halves) // 4] / 2))), 4)


def _mark_best(cells: Sequence[Cell], better: str) -> None:
    """Bold for the best, and for all that look equal to it as they are written."""
    shown = [round(c.value, c.decimals if c.decimals is not None else 9) for c in cells if c.is_number]
    if better not in ("higher", "lower") or len(shown) < 2 or min(shown) == max(shown):
        return
    best = max(shown) if better == "higher" else min(shown)
    for cell in cells:
        if cell.is_number:
            cell.is_best = round(cell.value, cell.decimals if cell.decimals is not None else 9) == best


def _finished(table: Table) -> Table:
    cells = [cell for row in table.rows if not isinstance(row, str) for cell in row]
    has_interval = any(cell.low is not None and cell.high is not None for cell in cells)
    if has_interval and not any("interval" in note for note in table.notes):
        table.notes.insert(0, "± 95 % interval")
    if any(cell.is_best for cell in cells):
        table.notes.append("bold: the best")
    table.notes = [note for note in table.notes if note]
    return table


def _words(name: str, measures: Measures) -> str:
    return measures.get(name, {}).get("words") or WORDS.get(name) or measure(name)
