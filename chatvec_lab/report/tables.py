"""Tables for people: estimate and interval in one column, as HTML cells, as LaTeX (booktabs) and as CSV."""

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatvec_lab.report.svg import legal
from chatvec_lab.spreadsheet import write_csv

if TYPE_CHECKING:
    import pandas

MISSING = "–"


def number(value: Any, decimals: int | None = None) -> str:
    """A number as people write it; `decimals` as its neighbours have, or None for its own.

    >>> [number(x) for x in (0.12345, 12.345, 1234567, 3, 0.00001234, float("nan"), None)]
    ['0.123', '12.35', '1,234,567', '3', '1.2e-05', '–', '–']
    """
    if _is_missing(value):
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) and decimals is None:
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if 0 < abs(value) < 0.0005:
        return f"{value:.1e}"
    return f"{value:,.{common_decimals([value]) if decimals is None else decimals}f}"


def common_decimals(values: Iterable[Any]) -> int:
    """As few decimals as show all values to three or four digits.

    >>> common_decimals([0.0, 0.25, 1.5]), common_decimals([0.123456, 12.0]), common_decimals([1234.5])
    (2, 2, 0)
    """
    values = [value for value in values if not _is_missing(value) and math.isfinite(value)]
    largest = max(map(abs, values), default=0)
    most = 0 if largest >= 1000 else 1 if largest >= 100 else 2 if largest >= 10 else 3
    return next((n for n in range(most) if all(abs(v - round(v, n)) < 1e-9 for v in values)), most)


def interval(estimate: Any, low: Any, high: Any, decimals: int | None = None) -> str:
    """
    >>> interval(0.5, 0.41, 0.58), interval(0.5, None, None)
    ('0.50 [0.41, 0.58]', '0.5')
    """
    if _is_missing(low) and _is_missing(high):
        return number(estimate, decimals)
    if decimals is None and not _is_missing(estimate):
        decimals = common_decimals([estimate, low, high])
    return f"{number(estimate, decimals)} [{number(low, decimals)}, {number(high, decimals)}]"


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def readable(table: "pandas.DataFrame") -> "pandas.DataFrame":
    """The table as text: `x`, `x_low`, `x_high` become one column, numbers are rounded for the eye."""
    shown: dict[str, list[str]] = {}
    hidden = set()
    for column in table:
        low, high = _bounds(table, column)
        if low:
            hidden |= {low, high}
    for column in table:
        if column in hidden:
            continue
        low, high = _bounds(table, column)
        columns = [table[name].astype(object) for name in (column, low, high) if name]
        group = [values.where(values.notna(), None).tolist() for values in columns]
        decimals = common_decimals(itertools.chain(*group)) if table[column].dtype.kind == "f" else None
        write_one = interval if low else number
        shown[str(column)] = [write_one(*values, decimals=decimals) for values in zip(*group, strict=True)]
    return type(table)(shown)


def _bounds(table: "pandas.DataFrame", column: Any) -> tuple[str | None, str | None]:
    pairs = [(f"{column}_low", f"{column}_high")]
    if column in ("estimate", "mean", "value"):
        pairs.append(("low", "high"))
    return next(((low, high) for low, high in pairs if low in table and high in table), (None, None))


def write(table: dict[str, Any], stem: Path) -> None:
    """Write `stem`.csv with all numbers and, for a table that is shown, `stem`.tex as a paper shows it."""
    from chatvec_lab.report import latex

    data = table["data"]
    write_csv(data, stem.with_suffix(".csv"))
    if not table["show"]:
        return
    latex.write(data, stem, caption=legal(table["caption"]), measures=table.get("measures"))
