"""Tables for spreadsheets, in which a text that looks like a formula stays a text."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

# marks that are not seen (a byte order mark, a space of no width) may stand before it
_FORMULA = re.compile(
    r"(?!-?[\d.,]+(?:[eE][-+]?\d+)?\s*$)[\s\x00-\x1f\ufeff\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
)


def write_csv(table: "pandas.DataFrame", file: Path) -> None:
    """Write a table for people. A text that a spreadsheet would run as a formula gets an apostrophe before it.

    Such a text begins with =, +, -, @, a tab or a line end and is no number; parquet has it as it is.
    """

    def shown(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        value = re.sub(r"\r\n?", "\n", value)  # pandas leaves a lone \r unquoted, and it would end the row
        return f"'{value}" if _FORMULA.match(value) else value

    safe = table.rename(columns=shown)
    for place, (_, column) in enumerate(table.items()):
        if column.dtype.kind not in "biufcmM":
            safe.isetitem(place, column.astype(object).map(shown))
    safe.to_csv(file, index=False)
