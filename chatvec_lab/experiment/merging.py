"""What notebook 01 says in words: the audit's verdict on a merged model, and what holds of base + τ = chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from chatvec_lab.languages import language_name
from chatvec_lab.weights.saving.audit import verdict

if TYPE_CHECKING:
    import pandas as pd


def back_to_chat_in_words(table: pd.DataFrame) -> str:
    """What `audit.back_to_chat` found, as one sentence: what holds of base + τ = chat, and why the rest does not.

    >>> import pandas as pd
    >>> back_to_chat_in_words(pd.DataFrame({"cause": ["equal bits"], "elements": [5]}))
    'base + τ is chat, bit for bit, in all 5 elements.'
    """
    count = {cause: int(elements) for cause, elements in zip(table.cause, table.elements, strict=True)}
    equal, other = count.pop("equal bits", 0), {cause: n for cause, n in count.items() if n}
    total = equal + sum(other.values())
    if not other:
        return f"base + τ is chat, bit for bit, in all {total:,} elements."
    why = "; ".join(f"{n:,} {_WHY.get(cause, cause)}" for cause, n in other.items())
    return f"base + τ is chat, bit for bit, in {equal:,} of {total:,} elements; not an identity of stored numbers in: {why}."


_WHY = {
    "equal numbers, other sign of zero": "that are -0.0 in chat and come back as 0.0, the same number",
    "rounded to the base's dtype": "that the base's dtype cannot hold as chat's does",
    "rows of tokens that the base lacks": "in rows of tokens that the base lacks",
    "rows of the base that chat lacks": "in rows of the base that chat lacks",
    "other": "of other numbers, which this project cannot explain",
}


def chat_vector_answer(
    *,
    parameters: int,
    relative: float,
    cp_relative: float,
    language: str,
    audited: pd.DataFrame,
    identities: Mapping[str, bool],
    back: pd.DataFrame,
) -> str:
    """The answer of notebook 01. The verdict on the merged model is the audit's and the identities'; `back` is told beside.

    `relative` and `cp_relative` are the lengths of the chat and CP vector over the base's; `identities` maps what should
    hold to whether it does.
    """
    failed = [name for name, holds in identities.items() if not holds]
    sentences = [
        f"The chat vector has {parameters:,} elements and {relative:.1%} of the base's length (the CP vector for "
        f"{language_name(language)}: {cp_relative:.1%}).",
        f"The merged model {verdict(audited)[1]}; {len(identities) - len(failed)} of {len(identities)} identities hold "
        f"bit by bit" + (f", not: {'; '.join(failed)}." if failed else "."),
        back_to_chat_in_words(back),
    ]
    return " ".join(sentences)
