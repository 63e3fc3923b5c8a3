"""Tables for spreadsheets, in which a text that looks like a formula stays a text."""

import re
from collections.abc import Iterable
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
    import pandas

    def shown(value: str) -> str:
        value = re.sub(r"\r\n?", "\n", value)  # pandas leaves a lone \r unquoted, and it would end the row
        return f"'{value}" if _FORMULA.match(value) else value

    def changed(values: Iterable[Any]) -> dict[str, str]:
        """The texts among these that may not stand as they are, each once, and what stands in their place."""
        texts = {value for value in values if isinstance(value, str)}
        return {text: safe for text in texts if (safe := shown(text)) != text}

    safe = table.rename(columns=changed(table.columns))
    for place, (_, column) in enumerate(table.items()):
        if column.dtype.kind not in "biufcmM" and (other := changed(column.astype(object))):
            replaced = [other.get(v, v) if isinstance(v, str) else v for v in column.astype(object)]
            safe.isetitem(place, pandas.Series(replaced, column.index, dtype=object))
    safe.to_csv(file, index=False)
