"""What every scorer does with a responses table: check it, keep what identifies a reply, read its text.

What is scored is the answer (`thinking.answers`), not the response with its thought.
"""

from collections.abc import Sequence

import pandas as pd

_TEXT = (
    "prompt",
    "response",
    "thinking",
    "thinking_tokens",
    "answer",
    "tokens",
    "finish_reason",
    "thinking_format",
    "template_date",
)


def identity(responses: pd.DataFrame, *, needs: Sequence[str] = ()) -> pd.DataFrame:
    """The columns that say which reply it is (prompt, language, sample, scale …), without its text."""
    absent = [c for c in ("prompt_id", "response", *needs) if c not in responses.columns]
    if absent:
        raise KeyError(
            f"no column {', '.join(absent)}; responses have {', '.join(map(str, responses.columns))}"
        )
    return responses.drop(columns=[c for c in _TEXT if c in responses.columns])


def text_of(response: object) -> str | None:
    """The reply as a string that every library takes: None if missing, lone surrogates replaced."""
    if not isinstance(response, str):
        return None
    return response.encode("utf-8", "replace").decode("utf-8")
