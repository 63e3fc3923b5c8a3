"""Numbers of a table in words, for answers that are computed: a value that was not measured says so."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def interval(table: "pd.DataFrame", **where: object) -> dict[str, float | int | None]:
    """estimate, low, high and n of the one row where these columns have these values; None where there is none.

    Made for `study.claim(name, **interval(scores, model="CP", metric="correct"))`.
    Raises ValueError when several rows fit.
    """
    rows = table
    for column, value in where.items():
        rows = rows[rows[column] == value]
    if len(rows) > 1:
        raise ValueError(
            f"{len(rows)} rows have {where}; name more columns of {', '.join(map(str, table.columns))}"
        )
    if rows.empty:
        return {"estimate": None, "low": None, "high": None, "n": None}
    row = rows.iloc[0]
    return {name: float(row[name]) for name in ("estimate", "low", "high")} | {"n": int(row["n"])}


def told(table: "pd.DataFrame", form: str = ".1%", **where: object) -> str:
    """That row as text, "59.0% [52.1%, 65.6%]", or "not measured"."""
    found = interval(table, **where)
    if found["estimate"] is None or found["estimate"] != found["estimate"]:
        return "not measured"
    low, high = (format(found[end], form) for end in ("low", "high"))
    return f"{found['estimate']:{form}} [{low}, {high}]"


def is_better(gains: "pd.DataFrame", *, level: float = 0.05, **where: object) -> bool:
    """Whether the one row of `statistics.compare` that fits shows a gain, after its correction."""
    rows = gains
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return bool(len(rows) and rows.estimate.iloc[0] > 0 and rows.p_adjusted.iloc[0] < level)
