"""What is looked at: what a model is asked and what it is held to have said, as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from chatvec_lab.live import LiveModel


class Pair(NamedTuple):
    """The ids of the tokens that a model reads, and of those that are held against it; a name for the tables.

    What was said may be its own reply, another model's or a reference: it is read, never generated.

    >>> Pair([1, 3, 8], [9, 6], "greeting").said
    [9, 6]
    """

    asked: Sequence[int]
    said: Sequence[int]
    name: str = ""


def checked(live: LiveModel, pairs: Iterable[Pair]) -> dict[str, Pair]:
    """The pairs by name (that of a nameless one is its number), once they are what the model can read.

    Raises TypeError for what is no `Pair`, ValueError for an empty side, a name that occurs twice, an id that the model
    has no row for and a text that is longer than its context (config.max_position_embeddings).
    """
    rows, found = live.model.get_input_embeddings().weight.shape[0], {}
    most = getattr(live.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    for number, pair in enumerate(pairs):
        if not isinstance(pair, Pair):
            raise TypeError(f"pair {number}: expected a lens.Pair of token ids, got {type(pair).__name__}")
        name = pair.name or str(number)
        if not len(pair.asked) or not len(pair.said):
            lacking = "asked" if not len(pair.asked) else "said"
            raise ValueError(f"pair {name!r} has no token in `{lacking}`; give one at least")
        outside = [i for i in (*pair.asked, *pair.said) if not 0 <= i < rows]
        if outside:
            raise ValueError(
                f"pair {name!r} has the token {outside[0]}; the model has rows for 0 to {rows - 1}"
            )
        length = len(pair.asked) + len(pair.said)
        if most and 0 < most < length:  # XLNet says -1 for no limit
            raise ValueError(
                f"pair {name!r} has {length} tokens, more than the model's context of {most}; shorten it"
            )
        if name in found:
            raise ValueError(f"two pairs are called {name!r}; a table could not tell them apart")
        found[name] = pair
    if not found:
        raise ValueError("there are no pairs to look at")
    return found


def finite(scales: Iterable[float]) -> list[float]:
    """The scales as floats; TypeError or ValueError for what is no finite number, ValueError for none or one twice."""
    from math import isfinite

    found = []
    for scale in scales:
        if isinstance(scale, bool) or (
            not isinstance(scale, int | float) and not hasattr(scale, "__float__")
        ):
            raise TypeError(f"scales: expected numbers, got {scale!r}")
        if not isfinite(scale):
            raise ValueError(f"scales: expected finite numbers, got {scale!r}")
        found.append(float(scale))
    if not found or len(set(found)) < len(found):
        raise ValueError(f"scales={found}: give one at least, and each once")
    return found
