"""How far CP + scale · τ is from the CP at each token of a text that both read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from chatvec_lab.lens.distributions import (
    chunks,
    entropy,
    kl,
    log_probabilities,
    next_logits,
    shown,
    tokens_of,
)
from chatvec_lab.lens.pairs import Pair, checked, finite

if TYPE_CHECKING:
    import torch
    from pandas import DataFrame

    from chatvec_lab.live import LiveModel

_HELD = 1 << 24  # elements of the CP's logits that are kept while the scale is turned: 64 MB in float32


class Divergence(NamedTuple):
    """tokens: a row a scale, pair and token. changes: the tokens whose probability changed most there. See `divergence`."""

    tokens: DataFrame
    changes: DataFrame


def divergence(
    live: LiveModel, pairs: Iterable[Pair], scales: Iterable[float], *, top: int = 5
) -> Divergence:
    """KL(CP ‖ CP + scale · τ) at each token that is said, in nats, and what the two would rather have said.

    `tokens`, a row a scale, pair and token said: scale, pair, position (from 0), token_id, token (by itself),
    divergence, entropy and cp_entropy (nats), probability and cp_probability of the token said, rank and cp_rank (1:
    the likeliest). `changes`, `top` rows each: scale, pair, position, order (from 1), token_id, token,
    cp_probability, probability; the largest change of probability first.

    The CP is the live model at scale 0, in the same vocabulary. Probabilities are among the vocabulary's tokens, rows
    that only fill up are left out; they are computed in float64 from the model's logits. **Turns the model**, and
    back. Raises what `Pair`s and scales that cannot be read raise.
    """
    import pandas as pd

    found, scales = checked(live, pairs), finite(scales)
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise ValueError(f"top={top!r}: expected a whole number, 1 or more")
    tokens, changes = [], []
    for some in _groups(live, found):
        with live.computing(0.0) as model:
            cp = {name: _said(model, pair) for name, pair in some.items()}
        for scale in scales:
            with live.computing(scale) as model:
                for name, pair in some.items():
                    told = _compared(live.tokenizer, pair, cp[name], _said(model, pair), top)
                    for rows, table in zip(told, (tokens, changes), strict=True):
                        table += [{"scale": scale, "pair": name, **row} for row in rows]
    order = {name: i for i, name in enumerate(found)}
    return Divergence(*(_sorted(pd.DataFrame(rows), order) for rows in (tokens, changes)))


def _sorted(table: DataFrame, order: Mapping[str, int]) -> DataFrame:
    """By scale, then the pairs in their own order: groups of pairs were looked at one after the other."""
    key = table["pair"].map(order)
    table = table.assign(_pair=key).sort_values(["scale", "_pair"], kind="stable").drop(columns="_pair")
    return table.reset_index(drop=True)


def _groups(live: LiveModel, pairs: Mapping[str, Pair]) -> Iterator[dict[str, Pair]]:
    """As many pairs at a time as the CP's logits may take memory."""
    width, names = live.model.get_input_embeddings().weight.shape[0], iter(pairs)
    longest = max(len(pair.said) for pair in pairs.values())
    while some := list(islice(names, max(1, _HELD // (longest * width)))):
        yield {name: pairs[name] for name in some}


def _said(model, pair: Pair) -> torch.Tensor:
    """The logits before each token that is said, on the CPU."""
    return next_logits(model, pair.asked, pair.said)[:-1].cpu()


def _compared(tokenizer, pair: Pair, cp, own, top: int) -> tuple[list[dict], list[dict]]:
    rows = max(tokens_of(tokenizer, own.shape[1]), max(pair.said) + 1)
    tokens, changes = [], []
    for chunk in chunks(len(pair.said)):
        theirs, mine = log_probabilities(cp[chunk], rows), log_probabilities(own[chunk], rows)
        apart, unsure, cp_unsure = kl(theirs, mine), entropy(mine), entropy(theirs)
        for i, token in enumerate(pair.said[chunk]):
            place = {"position": chunk.start + i}
            said = {"token_id": int(token), "token": shown(tokenizer, int(token))}
            numbers = {"divergence": apart[i], "entropy": unsure[i], "cp_entropy": cp_unsure[i],
                       "probability": mine[i, token].exp(), "cp_probability": theirs[i, token].exp()}  # fmt: skip
            ranks = {"rank": _rank(mine[i], token), "cp_rank": _rank(theirs[i], token)}
            tokens.append(place | said | {key: float(value) for key, value in numbers.items()} | ranks)
            before, after = theirs[i].exp(), mine[i].exp()
            most = (after - before).abs().topk(min(top, rows)).indices.tolist()
            changes += [
                place | {"order": k, "token_id": one, "token": shown(tokenizer, one),
                         "cp_probability": float(before[one]), "probability": float(after[one])}
                for k, one in enumerate(most, start=1)
            ]  # fmt: skip
    return tokens, changes


def _rank(row: torch.Tensor, token: int) -> int:
    """1 for the likeliest token; equals share the better rank."""
    return 1 + int((row > row[token]).sum())
