"""Numbers over seeds: seeds are repetitions, so each gives one value, and the interval is Student's t over those."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas

Limits = tuple[float, float]


class Over(NamedTuple):
    """A mean over seeds with its 95 % interval; where there is none, `note` says why."""

    mean: float
    low: float | None
    high: float | None
    seeds: int
    note: str


def over(values: Sequence[float], limits: Limits = (-math.inf, math.inf)) -> Over:
    """The mean of one value a seed and its t interval with k − 1 degrees of freedom, clipped to what is possible.

    >>> over([0.25, 0.5, 1.0], (0, 1))._replace(mean=0.58, low=0.0)
    Over(mean=0.58, low=0.0, high=1, seeds=3, note='')
    >>> over([0.0, 0.0]).note, over([0.5]).note
    ('all equal, no interval', 'one seed, no interval')
    """
    from scipy.special import stdtrit

    k = len(values)
    mean = math.fsum(values) / k
    if k == 1:
        return Over(mean, None, None, 1, "one seed, no interval")
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (k - 1))
    if max(values) == min(values):
        return Over(values[0], None, None, k, "all equal, no interval")
    half = float(stdtrit(k - 1, 0.975)) * spread / math.sqrt(k)
    low, high = limits
    return Over(mean, max(mean - half, low), min(mean + half, high), k, "")


def by_seed(values: Iterable[tuple[Any, float]]) -> list[float]:
    """(seed, value) pairs as one value a seed: what one seed has several of (languages) is averaged."""
    found: dict[Any, list[float]] = {}
    for seed, value in values:
        found.setdefault(seed, []).append(value)
    return [math.fsum(several) / len(several) for several in found.values()]


def grouping(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """The varying parameters that tell groups of repetitions apart: all but the seed, and lists and n that go with it alone.

    A list that is longer for the first seed (of further families, say) asks for more in one cell, of the same models; so
    does a larger n.

    >>> grouping([{"seed": 0, "language": "ko", "more": [1]}, {"seed": 0, "language": "zh", "more": [1]},
    ...           {"seed": 1, "language": "ko", "more": []}])
    ['language']
    >>> grouping([{"seed": 0, "n": 200}, {"seed": 1, "n": 120}]), grouping([{"seed": 0, "n": 200}, {"seed": 0, "n": 120}])
    ([], ['n'])
    """
    values: dict[str, dict[Any, set[str]]] = {}
    more: set[str] = set()
    for cell in cells:
        for name, value in cell.items():
            if name != "seed":
                values.setdefault(name, {}).setdefault(repr(cell.get("seed")), set()).add(repr(value))
                more |= {name} if isinstance(value, list) or name == "n" else set()
    return [
        name
        for name, by in values.items()
        if name not in more or any(len(several) > 1 for several in by.values())
    ]


def by_cells(data: "pandas.DataFrame") -> "pandas.DataFrame":
    """The table with its cells' seeds as `seed`, also where it has such a column of its own (of a bootstrap, say)."""
    if "cell_seed" not in data:
        return data
    return data.drop(columns="seed", errors="ignore").rename(columns={"cell_seed": "seed"})


def limits_of(is_share: bool, is_change: bool = False) -> Limits:
    """Where a mean can lie: a share in 0 to 1, a change of one in −1 to 1, anything else anywhere."""
    return (-math.inf, math.inf) if not is_share else (-1.0, 1.0) if is_change else (0.0, 1.0)
