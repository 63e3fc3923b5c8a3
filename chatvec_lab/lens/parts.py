"""The parts of a vector on a live model, and how fast each weight moves with the scale."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chatvec_lab.weights.numerics import exact

if TYPE_CHECKING:
    import torch

    from chatvec_lab.live import LiveModel
    from chatvec_lab.live.slots import Slot

COLUMNS = ("component", "layer", "module", "projection")
BLOCK = 1 << 20  # elements of a direction that are computed at a time, some 40 MB with what they are made of
_KEPT = 1 << 22  # elements of directions that are kept on a CPU, 16 MB in float32
_LEFT = 0.25  # share of a GPU's memory that is left free


class PartOf(NamedTuple):
    """One part: where it is, by the columns that were asked for (the others None), and its slots."""

    component: str
    layer: int | None
    module: str | None
    projection: str | None
    slots: tuple[Slot, ...]

    @property
    def place(self) -> dict[str, object]:
        return dict(zip(COLUMNS, self[:4], strict=True))


def parts_of(live: LiveModel, by: str) -> list[PartOf]:
    """What the vector moves, by `by`: names of `COLUMNS` joined by " × ", such as "layer × projection".

    What has no projection (norms, embedding, head) goes by its kind of module there. A table that is tied is one part,
    the embedding. Raises ValueError for another `by`, and for a vector that moves nothing.
    """
    wanted = [word.strip() for word in by.split("×")]
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(COLUMNS):
        raise ValueError(f"by={by!r}: expected some of {', '.join(COLUMNS)}, joined by ' × '")
    groups: dict[tuple, list[Slot]] = {}
    for slot in live.slots:
        if not slot.scaled_parts(live.tau):
            continue
        part = live.part(slot)
        told = {"component": part.component, "layer": part.layer, "module": part.module,
                "projection": part.projection or part.module}  # fmt: skip
        # layers of different components share their numbers
        key = tuple(told[c] if c in wanted or c == "component" else None for c in COLUMNS)
        groups.setdefault(key, []).append(slot)
    if not groups:
        raise ValueError(
            f"{live.tau.label} moves no weight of {live.cp.label}: there is nothing to attribute to."
        )
    found = [PartOf(*key, tuple(slots)) for key, slots in groups.items()]
    return sorted(found, key=lambda p: (p.component, -1 if p.layer is None else p.layer))


class Directions:
    """d weight / d scale of each slot, from the vector's own elements: zero in rows that are the chat model's own.

    Small ones are kept, on a GPU as many as it has room for; the others are computed again, block by block.
    """

    def __init__(self, live: LiveModel, sign: int):
        self._live, self._sign = live, sign
        self._kept: dict[str, torch.Tensor] = {}
        self._room = _room(live.model.device, live.model.dtype.itemsize)

    def blocks(
        self, slot: Slot, first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(start, stop, float64 values) over the slot's flat elements, or over those from `first` to `stop`."""
        if slot.name not in self._kept and slot.size <= self._room:
            import torch

            whole = torch.cat([self._computed(slot, *span) for span in _spans(0, slot.size)])
            self._kept[slot.name] = whole.to(slot.place.dtype)
            self._room -= slot.size
        kept = self._kept.get(slot.name)
        for low, high in _spans(first, slot.size if stop is None else min(stop, slot.size)):
            yield low, high, self._computed(slot, low, high) if kept is None else kept[low:high].double()

    def _computed(self, slot: Slot, start: int, stop: int) -> torch.Tensor:
        import torch

        device = slot.place.device
        found = torch.zeros(stop - start, dtype=torch.float64, device=device)
        for coefficient, plus, minus in slot.scaled_parts(self._live.tau):
            delta = _wide(plus[start:stop], device)
            found += coefficient * (delta if minus is None else delta - _wide(minus[start:stop], device))
        width = prod(slot.place.shape[1:])
        for row in slot.rows.get(self._sign, {}):
            low, high = max(start, row * width), min(stop, (row + 1) * width)
            if low < high:
                found[low - start : high - start] = 0.0
        return found


def _spans(first: int, stop: int) -> Iterator[tuple[int, int]]:
    for start in range(first, stop, BLOCK):
        yield start, min(start + BLOCK, stop)


def _wide(raw: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Stored elements as float64: an array of the host's, or of a GPU that turns the slot itself."""
    import torch

    if isinstance(raw, np.ndarray):
        raw = torch.from_numpy(np.array(exact.widen(raw)))
    return raw.to(device, torch.float64)


def _room(device: torch.device, itemsize: int) -> int:
    if device.type != "cuda":
        return _KEPT
    from chatvec_lab.live.resident import memory

    free, total = memory(device)
    return max(0, int(free - _LEFT * total)) // itemsize
