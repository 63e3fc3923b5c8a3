"""Numbers of a table in words, for answers that are computed: a value that was not measured says so."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from chatvec_lab.study.outputs import claim

if TYPE_CHECKING:
    import pandas as pd


def interval(table: "pd.DataFrame", **where: object) -> dict[str, float | int | str | None]:
    """estimate, low, high and n of the one row where these columns have these values; None where there is none.

    Values that are all equal, and no share, have an estimate and no interval: low and high are None.

    A table that says what its numbers are (the column unit: "share", or a scale) gives its unit too.

    Made for `study.claim(name, **interval(scores, model="CP", metric="correct"))`.
    Raises ValueError when several rows fit.
    """
    rows = _rows(table, where)
    if len(rows) > 1:
        raise ValueError(
            f"{len(rows)} rows have {where}; name more columns of {', '.join(map(str, table.columns))}"
        )
    if rows.empty:
        return {"estimate": None, "low": None, "high": None, "n": None}
    row = rows.iloc[0]
    unit = {"unit": str(row["unit"])} if "unit" in table else {}
    ends = {end: None if row[end] != row[end] else float(row[end]) for end in ("low", "high")}
    return {"estimate": float(row["estimate"])} | ends | {"n": int(row["n"])} | unit


def _rows(table: "pd.DataFrame", where: dict[str, object]) -> "pd.DataFrame":
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def row_of(table: "pd.DataFrame", **where: object) -> Any:
    """The first row where these columns have these values, or None: without one, or without such a column."""
    return next(_rows(table, where).itertuples(), None) if {*where} <= {*table} else None


def ends(row: Any) -> dict[str, float | int | str | None]:
    """estimate, low, high, n and unit of a row, for `study.claim`; of None an estimate that was not measured."""
    if row is None:
        return {"estimate": None}
    unit = str(getattr(row, "unit", ""))
    return {"estimate": row.estimate, "low": row.low, "high": row.high, "n": int(row.n), "unit": unit}


def claims_of(
    table: "pd.DataFrame", name: str, values: Iterable, seed: int, *, by: str = "model", **where: object
) -> list[dict]:
    """A claim for each value of the column `by`, whose name is put into that of the claim."""
    return [claim(name.format(v), **interval(table, **where, **{by: v}), seed=seed) for v in values]


def told(table: "pd.DataFrame", form: str | None = None, **where: object) -> str:
    """That row as text, "59.0% [52.1%, 65.6%]", or "not measured"; by the column unit also "7.03 [6.81, 7.24]"."""
    found = interval(table, **where)
    if form is None:
        form = ".1%" if "unit" not in table or _rows(table, where).unit.eq("share").all() else ".2f"
    if found["estimate"] is None or found["estimate"] != found["estimate"]:
        return "not measured"
    if found["low"] is None or found["high"] is None:
        why = "one prompt" if found["n"] == 1 else "all equal"
        return f"{found['estimate']:{form}} ({why})"
    low, high = (format(found[end], form) for end in ("low", "high"))
    return f"{found['estimate']:{form}} [{low}, {high}]"


def drawn(table: "pd.DataFrame", seed: int) -> str:
    """What the intervals of an answer are over: "In brackets: 95 % intervals over 16 prompts; seed 0."."""
    counts = sorted({int(n) for n in table.n})
    over = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else "no"
    return f"In brackets: 95 % intervals over {over} {'prompt' if over == '1' else 'prompts'}; seed {seed}."


def is_better(gains: "pd.DataFrame", *, level: float = 0.05, **where: object) -> bool:
    """Whether the one row of `statistics.compare` that fits shows a gain, after its correction."""
    rows = _rows(gains, where)
    return bool(len(rows) and rows.estimate.iloc[0] > 0 and rows.p_adjusted.iloc[0] < level)


def signed(row: object, value: str = "estimate") -> str:
    """A difference in words: "+12.5%" of a share, "+0.71" on a scale (by the column unit)."""
    return format(getattr(row, value), "+.1%" if getattr(row, "unit", "share") == "share" else "+.2f")


def chosen_scale(sweep: str, default: float) -> tuple[float, str]:
    """The scale to take, and the same in words, from the folder of a cell of 03_scale_sweep; `default` without one.

    A sweep that recommends none gives 1, the paper's, and says so: its best guess may be 0, the CP itself.
    """
    from chatvec_lab.study import load_summary

    if not sweep:
        return default, f"{default:g}"
    found = load_summary(sweep)
    if found["is_recommended"]:
        return found["scale"], f"{found['scale']:g}"
    return 1.0, "1 (the paper's: the sweep recommends none)"
