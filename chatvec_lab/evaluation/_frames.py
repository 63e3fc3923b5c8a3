"""What every scorer does with a responses table: check it, keep what identifies a reply, read its text.

What is scored is the answer (`thinking.answers`), not the response with its thought.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from chatvec_lab.reading import read_yaml

DATA = Path(__file__).parent / "data"
_TEXT = {"prompt", "response", "thinking", "thinking_tokens", "answer", "tokens", "finish_reason"}
_TEXT |= {"thinking_format", "template_date"}


@functools.cache
def stored(name: str) -> Any:
    """What a table of `evaluation/data` says: patterns, wordings, names."""
    return read_yaml(DATA / f"{name}.yaml")


def identity(responses: pd.DataFrame, *, needs: Sequence[str] = ()) -> pd.DataFrame:
    """The columns that say which reply it is (prompt, language, sample, scale …), without its text."""
    require(responses, ["prompt_id", "response", *needs])
    return responses.drop(columns=[c for c in _TEXT if c in responses.columns])


def require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """KeyError that names the columns that a table lacks."""
    if absent := [c for c in columns if c not in table.columns]:
        raise KeyError(f"no column {', '.join(absent)}; the table has {', '.join(map(str, table.columns))}")


def text_of(response: object) -> str | None:
    """The reply as a string that every library takes: None if missing, lone surrogates replaced."""
    if not isinstance(response, str):
        return None
    return response.encode("utf-8", "replace").decode("utf-8")


def text_column(values: Iterable[str | None]) -> Any:
    """A column of strings, also when all are missing."""
    return pd.array(list(values), dtype="str")
