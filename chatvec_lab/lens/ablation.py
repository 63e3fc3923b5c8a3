"""What a part of the vector does alone, and what the rest does without it: another quantity than its attribution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatvec_lab.lens.measures import Measure, check, values
from chatvec_lab.lens.pairs import Pair, checked, finite
from chatvec_lab.lens.parts import parts_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from chatvec_lab.live import LiveModel


def ablation(
    live: LiveModel,
    pairs: Iterable[Pair],
    scale: float,
    *,
    by: str = "layer × projection",
    measure: Measure = "reply",
) -> DataFrame:
    """f with each part alone and with all but it, a row a pair and part; arguments as in `attribution`.

    Columns: pair, component, layer, module, projection, alone (f with the part alone, less f at the start) and lost (f
    with all of τ, less f without the part), in nats. Neither sums up to what the vector does where parts work together.
    The weights are what a save of such a vector would store. **Turns the model**, and back.
    """
    import pandas as pd

    found, (scale,) = checked(live, pairs), finite([scale])
    check(measure)
    parts, names = parts_of(live, by), list(found)
    every = {slot.name for part in parts for slot in part.slots}

    def at(only: Iterable[str]):
        with live.computing(scale, only=frozenset(only)) as model:
            return values(model, found.values(), measure)

    start, end, rows = at(()), at(every), []
    for part in parts:
        own = {slot.name for slot in part.slots}
        alone, lost = at(own) - start, end - at(every - own)
        rows += [{"pair": name, **part.place, "alone": float(a), "lost": float(b)}
                 for name, a, b in zip(names, alone, lost, strict=True)]  # fmt: skip
    return pd.DataFrame(rows).astype({"layer": "Int64"})
