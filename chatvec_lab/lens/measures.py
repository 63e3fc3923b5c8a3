"""What an attribution explains: a number of a model and a pair that can be differentiated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from chatvec_lab.lens.pairs import Pair, checked, finite

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch
    from pandas import DataFrame

    from chatvec_lab.live import LiveModel

_HELD = 1 << 24  # elements that are computed together: 64 MB in float32
_STATES = 20  # elements that a token keeps for its gradient in a layer, in hidden sizes: about as in a Llama
Measure = Literal["reply", "first token"]


def check(measure: str) -> None:
    """ValueError for what is no measure."""
    if measure not in get_args(Measure):
        raise ValueError(f"measure={measure!r}: expected one of {', '.join(map(repr, get_args(Measure)))}")


def batches(model, pairs: Iterable[Pair], has_gradients: bool = False) -> Iterator[list[Pair]]:
    """The pairs in their order, as many together as their logits, and what gradients need, may take memory."""
    width, batch, longest = model.get_input_embeddings().weight.shape[0], [], 0
    if has_gradients:
        config = model.config.get_text_config(decoder=True)
        width += _STATES * getattr(config, "hidden_size", 0) * getattr(config, "num_hidden_layers", 0)
    for pair in pairs:
        longest = max(longest, len(pair.asked) + len(pair.said))
        if batch and (len(batch) + 1) * longest * width > _HELD:
            yield batch
            batch, longest = [], len(pair.asked) + len(pair.said)
        batch.append(pair)
    if batch:
        yield batch


def values_of(model, pairs: Sequence[Pair], measure: Measure) -> torch.Tensor:
    """Each pair's mean log probability of the tokens that are said, or that of the first, in nats; they have gradients.

    Shorter texts are filled up behind, where no token of theirs looks.
    """
    import torch

    said = [list(pair.said[:1]) if measure == "first token" else list(pair.said) for pair in pairs]
    texts = [[*pair.asked, *own] for pair, own in zip(pairs, said, strict=True)]
    width = max(map(len, texts))
    ids = torch.tensor([ids + ids[-1:] * (width - len(ids)) for ids in texts], device=model.device)
    logits, found = model(input_ids=ids, use_cache=False).logits, []
    for row, pair, own in zip(logits, pairs, said, strict=True):
        row = row[len(pair.asked) - 1 : len(pair.asked) - 1 + len(own)]
        # 16 bits are too few for a difference of log probabilities
        nats = (row if row.dtype.itemsize > 4 else row.float()).log_softmax(-1)
        found.append(nats[torch.arange(len(own)), torch.tensor(own, device=nats.device)].mean())
    return torch.stack(found)


def values(model, pairs: Iterable[Pair], measure: Measure) -> np.ndarray:
    """The measure of every pair, float64."""
    import torch

    with torch.inference_mode():
        return np.concatenate(
            [values_of(model, some, measure).double().cpu() for some in batches(model, pairs)]
        )


def effects(
    live: LiveModel, pairs: Iterable[Pair], scales: Iterable[float], *, measure: Measure = "reply"
) -> DataFrame:
    """The measure of every pair over the scale, a row a scale and pair: scale, pair, value (nats).

    **Turns the model**, and back.
    """
    import pandas as pd

    found, scales, tables = checked(live, pairs), finite(scales), []
    check(measure)
    for scale in scales:
        with live.computing(scale) as model:
            told = {"pair": list(found), "value": values(model, found.values(), measure)}
        tables.append(pd.DataFrame({"scale": scale, **told}))
    return pd.concat(tables, ignore_index=True)
