"""What scores a reply: the contract that every scorer keeps, ours and a user's own.

A user's scorer is a Python file with a `SCORER`, an object of these attributes, named in a study as
`scorers: [my_scorer.py]`:

    class Short:
        name, version, languages = "short answers", "1", None
        columns = (Column("short", "higher", words="answers of at most 20 characters"),)

        def score(self, prompts, responses):
            return pd.DataFrame({"short": responses.answer.str.len().le(20).where(responses.answer.notna())})

    SCORER = Short()
"""

from typing import Literal, NamedTuple, Protocol

import pandas as pd


class Column(NamedTuple):
    """One measure: `words` is what it is called in a sentence, `unit` what its numbers are.

    `sets`: the prompt sets on which it means something; None: all. `needs`: columns of the prompts without which a
    prompt cannot be scored ("reference", "checks").
    """

    name: str
    better: Literal["higher", "lower", "neither"] = "neither"
    words: str = ""
    unit: str = "share"  # of replies, 0 to 1; anything else is a scale, such as "1 to 10"
    sets: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()


class Scorer(Protocol):
    """Numbers for replies. `languages`: those that it covers, None any; `version` changes when its numbers may."""

    name: str
    version: str
    languages: frozenset[str] | None
    columns: tuple[Column, ...]

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        """A row a reply, in their order, with the columns (NaN: not covered) and any others that explain them.

        `prompts`: prompt_id, set, category, language, said (turns of the user), checks, reference. `responses`: as
        `respond` gives them, all turns of each conversation, with `answer`; what counts are the last ones (`is_last`).
        """
        ...


class PairScorer(Protocol):
    """Which of two replies to one prompt is better: `column` holds the points of the first, 1, 0 or 0.5."""

    name: str
    version: str
    languages: frozenset[str] | None
    column: Column

    def compare(self, prompts: pd.DataFrame, a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
        """A row a pair, in the order of `a`, both orders asked."""
        ...


class Probe(Protocol):
    """What is read off a model without a reply: a task of lm-eval. `read` gives a tidy table."""

    name: str
    version: str

    def read(self, model, tokenizer) -> pd.DataFrame: ...


def is_last(responses: pd.DataFrame) -> pd.Series:
    """Which replies are the last of their conversation."""
    keys = [c for c in ("prompt_id", "sample") if c in responses]
    return responses.turn.eq(responses.groupby(keys, dropna=False).turn.transform("max"))
