"""What an attribution explains: a number of a model and a pair that can be differentiated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from chatvec_lab.lens.pairs import Pair, checked, finite

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from pandas import DataFrame

    from chatvec_lab.live import LiveModel

Measure = Literal["reply", "first token"]


def check(measure: str) -> None:
    """ValueError for what is no measure."""
    if measure not in get_args(Measure):
        raise ValueError(f"measure={measure!r}: expected one of {', '.join(map(repr, get_args(Measure)))}")


def value(model, pair: Pair, measure: Measure) -> torch.Tensor:
    """Mean log probability of the tokens that are said, or that of the first of them, in nats; it has a gradient."""
    import torch

    said = list(pair.said[:1]) if measure == "first token" else list(pair.said)
    ids = torch.tensor([[*pair.asked, *said]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(pair.asked) - 1 : -1]
    # 16 bits are too few for a difference of log probabilities
    nats = (logits if logits.dtype.itemsize > 4 else logits.float()).log_softmax(-1)
    return nats[torch.arange(len(said)), torch.tensor(said, device=nats.device)].mean()


def values(model, pairs: Iterable[Pair], measure: Measure) -> np.ndarray:
    """The measure of every pair, float64."""
    import torch

    with torch.inference_mode():
        return np.array([float(value(model, pair, measure)) for pair in pairs])


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
