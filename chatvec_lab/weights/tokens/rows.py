"""Which row of a table stands for the same token in another table: written once for differences, sums and merges."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from chatvec_lab.weights.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from chatvec_lab.weights.difference import Leaf
    from chatvec_lab.weights.layout import Part


_SIZE = re.compile(r"\w*vocab_size\w*")
_OTHERS = re.compile(r"vision|visual|image|audio|speech|codec|qformer")  # parts with tokens of their own


def with_rows(config: Mapping[str, Any], grown: Mapping[int, int]) -> dict[str, Any]:
    """A config.json whose tables of tokens have other numbers of rows: what it had them told is told anew, in parts too.

    `grown`: rows before and after. Where a table grew and the config tells no number (its class has one), it does then.

    >>> with_rows({"text_config": {"vocab_size": 9, "vocab_size_per_layer_input": 8}}, {9: 10, 8: 10})
    {'text_config': {'vocab_size': 10, 'vocab_size_per_layer_input': 10}}
    """
    found, more = _with_rows(config, grown), {old: new for old, new in grown.items() if old != new}
    if more and found == config:
        inner = found.get("text_config")
        (inner if isinstance(inner, dict) else found)["vocab_size"] = max(more.values())
    return found


def _with_rows(config: Mapping[str, Any], grown: Mapping[int, int]) -> dict[str, Any]:
    found = dict(config)
    for key, value in config.items():
        if isinstance(value, dict) and not _OTHERS.search(key):
            found[key] = _with_rows(value, grown)
        elif type(value) is int and _SIZE.fullmatch(key) and not _OTHERS.search(key):
            found[key] = grown.get(value, value)
    return found


class Table(NamedTuple):
    """One side of a pairing: who it is, its tokens (None without a tokenizer) and its number of rows."""

    label: str
    vocabulary: Vocabulary | None
    rows: int


def is_same(ours: Table, theirs: Table) -> bool:
    """Whether row i of both is the same token (or padding) for every i; without any tokenizer, as many rows will do."""
    if ours.rows != theirs.rows:
        return False
    if ours.vocabulary is None or theirs.vocabulary is None:
        return ours.vocabulary is theirs.vocabulary
    return ours.vocabulary.has_the_rows_of(theirs.vocabulary)


def paired(name: str, ours: Table, theirs: Table) -> np.ndarray:
    """For each of our rows the row of the same token among theirs, or -1. Shape (ours.rows,), int64.

    Raises ValueError where a tokenizer is lacking on one side, or on both while the rows are not as many.
    """
    lacking = [side.label for side in (ours, theirs) if side.vocabulary is None]
    if len(lacking) == 2 and ours.rows == theirs.rows:
        return np.arange(ours.rows)
    if lacking:
        raise ValueError(
            f"{name}: {ours.label} has {ours.rows} rows, {theirs.label} has {theirs.rows}, and "
            f"{' and '.join(lacking)} has no tokenizer to pair them by token. Put its tokenizer.json beside the "
            "weights, or use vocabulary='skip'."
        )
    rows = ours.vocabulary.rows_in(theirs.vocabulary, ours.rows)
    rows[rows >= theirs.rows] = -1
    return rows


def check_candidate(name: str, ours: Table, theirs: Table) -> None:
    """Refuse a tensor of which only the number of rows speaks for one row a token, where tokens differ."""
    if not is_same(ours, theirs):
        raise ValueError(
            f"{name} has as many rows as the vocabulary of {ours.label} ({ours.rows}), whose tokens are not those of "
            f"{theirs.label}. Nothing tells whether its rows belong to tokens, so it is not paired. Leave it out "
            "(tau.select(...), --select), or report the model type."
        )


def pairs_in_shape(part: Part, ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """Whether two shapes pair: the same, or the same but for the number of rows where there is one a token."""
    return ours == theirs or (part.axis == "vocabulary" and ours[1:] == theirs[1:])


_maps: WeakKeyDictionary[Leaf, dict] = WeakKeyDictionary()
_lock = threading.Lock()


def leaf_rows(leaf: Leaf, name: str, vocabulary: Vocabulary | None, rows: int, label="the CP") -> np.ndarray:
    """For each of `rows` rows of `vocabulary` the leaf's own row, or -1; computed once for each pair."""
    own = leaf.shape(name)[0]
    key = (id(vocabulary), rows, own)
    with _lock:
        known = _maps.setdefault(leaf, {})
        if key not in known:
            ids = paired(name, Table(label, vocabulary, rows), Table(leaf.label, leaf.vocabulary, own))
            known[key] = (ids, vocabulary)  # keeps the vocabulary alive, so that its id stays its own
    return known[key][0]
