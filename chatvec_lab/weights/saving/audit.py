"""Is a saved model what the formula says? Asked in rational numbers, with nothing of the code that wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import isfinite, prod
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.saving.provenance import weights_digest

if TYPE_CHECKING:
    import torch
    from pandas import DataFrame

LEAST = 16  # elements looked at in every tensor, however small its share


def facts(checkpoints: Mapping[str, Checkpoint]) -> DataFrame:
    """One row a checkpoint: parameters, tensors, dtype, megabytes, tokens, has_template and the weights' digest.

    Reads every weight once, for the digest; it is the one that manifests record.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "model": name,
            "parameters": sum(prod(c.shape(t)) for t in c.names),
            "tensors": len(c.names),
            "dtype": ", ".join(sorted({c.dtype_name(t) for t in c.names})),
            "megabytes": sum(c.nbytes(t) for t in c.names) / 1e6,
            "tokens": len(c.vocabulary.tokens) if c.vocabulary else 0,
            "has_template": c.chat_template is not None,
            "digest": weights_digest(c),
        }
        for name, c in checkpoints.items()
    )


def audit(
    saved: Checkpoint,
    cp: Checkpoint,
    chat: Checkpoint,
    base: Checkpoint,
    scale: float,
    *,
    elements: int = 20_000,
    seed: int = 0,
) -> DataFrame:
    """Whether `saved` holds cp + scale * (chat - base), rounded once to nearest, ties to even; a row a tensor.

    Looks at about `elements` random elements in all, 16 or more of each tensor, in exact rational arithmetic, and
    compares each with its two neighbours in its own format. Rows of embedding and head are paired by token; where
    chat or base lacks the token, the CP's own element is the right one. Columns: tensor, layer, module, parameters,
    checked, moved (of those checked, other than the CP's element), wrong. One tensor at a time is in memory.

    Raises ValueError listing the tensors that only one of `saved` and `cp` has, or whose shapes differ.
    """
    import pandas as pd

    unlike = sorted(set(saved.names) ^ set(cp.names))
    unlike += [n for n in cp.names if n not in unlike and saved.shape(n) != cp.shape(n)]
    if unlike:
        raise ValueError(
            f"{saved.label} and {cp.label} differ in {len(unlike)} tensors: {', '.join(unlike)}."
        )
    rng = np.random.default_rng(seed)
    total = sum(prod(cp.shape(name)) for name in cp.names)
    rows = []
    for name in cp.names:
        size = prod(cp.shape(name))
        picked = rng.integers(size, size=min(size, max(LEAST, round(elements * size / total))))
        result, own = (c.read(name).reshape(-1)[picked] for c in (saved, cp))
        wanted = _formula(own, name, picked, cp, chat, base, scale)
        rows.append(
            {"tensor": name, "layer": cp.layout[name].layer, "module": cp.layout[name].module, "parameters": size,
             "checked": len(picked), "moved": int((result != own).sum()),
             "wrong": sum(not is_nearest for is_nearest in _nearest(result, wanted))}
        )  # fmt: skip
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def _formula(own: torch.Tensor, name: str, picked: np.ndarray, cp, chat, base, scale) -> list[Fraction]:
    """cp + scale * (chat - base) at the flat positions `picked` of the CP's tensor, without any rounding."""
    result = [Fraction(x) for x in own.double().tolist()]
    both = [
        (c.read(c.resolve(cp.layout.published(name)) or name).reshape(-1), _positions(picked, name, cp, c))
        for c in (chat, base)
    ]
    has = (both[0][1] >= 0) & (both[1][1] >= 0)
    plus, minus = (values[np.where(has, places, 0)].double().tolist() for values, places in both)
    return [
        x + Fraction(scale) * (Fraction(p) - Fraction(m)) if is_known else x
        for x, p, m, is_known in zip(result, plus, minus, has, strict=True)
    ]


def _positions(picked: np.ndarray, name: str, cp: Checkpoint, other: Checkpoint) -> np.ndarray:
    """The same elements in `other`, where rows with a token may stand elsewhere; -1 where it lacks the token."""
    if not cp.layout.is_table(name) or cp.vocabulary is None or other.vocabulary is None:
        return picked
    width = prod(cp.shape(name)[1:])
    rows, columns = np.divmod(picked, width)
    tokens = [cp.vocabulary.by_row.get(int(row)) for row in rows]
    found = np.array([other.vocabulary.tokens.get(token, -1) for token in tokens])
    return np.where(found >= 0, found * width + columns, -1)


def _nearest(result: torch.Tensor, wanted: list[Fraction]):
    """For each element whether no neighbour in its format is nearer to the wanted value, or as near and even."""
    import torch

    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[result.element_size()]
    bits = result.contiguous().view(kind)
    neighbours = [(bits + step).view(result.dtype).double().tolist() for step in (1, -1)]
    rows = zip(result.double().tolist(), *neighbours, (bits % 2 == 0).tolist(), wanted, strict=True)
    for value, above, below, is_even, target in rows:
        error = abs(Fraction(value) - target)
        others = [abs(Fraction(x) - target) for x in (above, below) if isfinite(x) and x != value]
        yield error == 0 or all(error < other or (error == other and is_even) for other in others)
