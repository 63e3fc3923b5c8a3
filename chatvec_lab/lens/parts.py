"""The parts of a vector on a live model, and how fast each weight moves with the scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chatvec_lab.weights.numerics import exact

if TYPE_CHECKING:
    import torch

    from chatvec_lab.live import LiveModel
    from chatvec_lab.live.slots import Slot

COLUMNS = ("component", "layer", "module", "projection")
BLOCK = 1 << 22  # elements of a direction that are computed at a time
_KEPT = 1 << 24  # elements of directions that are kept on a CPU, 64 MB in float32
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

    def blocks(self, slot: Slot) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(start, stop, float64 values) over the slot's flat elements."""
        if slot.name not in self._kept and slot.size <= self._room:
            import torch

            whole = torch.cat([self._computed(slot, *span) for span in _spans(slot.size)])
            self._kept[slot.name] = whole.to(slot.place.dtype)
            self._room -= slot.size
        for start, stop in _spans(slot.size):
            kept = self._kept.get(slot.name)
            yield (
                start,
                stop,
                self._computed(slot, start, stop) if kept is None else kept[start:stop].double(),
            )

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


def _spans(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, BLOCK):
        yield start, min(start + BLOCK, size)


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


Run = tuple[
    "Slot", int, "torch.Tensor"
]  # a slot, the number of the first element, and where these lie in the model


class Gradients:
    """The inner product of a gradient with the direction, slot by slot, as each gradient comes; then it is let go.

    One parameter's gradient is in memory at a time. Use it in a `with` block, call `backward` on what is to be
    differentiated, then `taken()`.
    """

    def __init__(self, live: LiveModel, parts: Sequence[PartOf], directions: Directions):
        self._model, self._directions = live.model, directions
        self._number = {slot.name: i for i, part in enumerate(parts) for slot in part.slots}
        self._sums = np.zeros(len(parts))
        slots = [slot for part in parts for slot in part.slots]
        self._of = _by_leaf(live.model, slots)

    def __enter__(self) -> Gradients:
        self._before = [(leaf, leaf.requires_grad) for leaf in _leaves(self._model)]
        for leaf, _ in self._before:
            leaf.requires_grad_(False)
        self._hooks = []
        for leaf, runs in self._of:
            leaf.requires_grad_(True)
            self._hooks.append(
                leaf.register_post_accumulate_grad_hook(lambda leaf, runs=runs: self._take(leaf, runs))
            )
        return self

    def __exit__(self, *problem) -> None:
        for hook in self._hooks:
            hook.remove()
        for leaf, needs in self._before:
            leaf.requires_grad_(needs)
            leaf.grad = None

    def taken(self) -> np.ndarray:
        """The sums by part since the last call."""
        found, self._sums = self._sums, np.zeros_like(self._sums)
        return found

    def _take(self, leaf: torch.Tensor, runs: list[Run]) -> None:
        gradient, leaf.grad = _laid_out_as(leaf, leaf.grad), None
        for slot, first, view in runs:
            offset = gradient.storage_offset() + view.storage_offset() - leaf.storage_offset()
            seen = gradient.as_strided(view.shape, view.stride(), offset).reshape(-1)
            for start, stop, direction in self._directions.blocks(slot):
                low, high = max(start, first), min(stop, first + len(seen))
                if low < high:
                    here = seen[low - first : high - first].double()
                    self._sums[self._number[slot.name]] += float(here @ direction[low - start : high - start])


def _leaves(model) -> list[torch.Tensor]:
    """The model's tensors of floats: parameters, and buffers, of which training moves some."""
    found = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
    return list(found.values())


def _by_leaf(model, slots: Sequence[Slot]) -> list[tuple[torch.Tensor, list[Run]]]:
    """Each leaf that holds a run of some slot, with these runs."""
    found: dict[int, tuple[torch.Tensor, list[Run]]] = {}
    by_storage: dict[int, list[torch.Tensor]] = {}
    for leaf in _leaves(model):
        by_storage.setdefault(leaf.untyped_storage().data_ptr(), []).append(leaf)
    for slot in slots:
        for first, view in getattr(slot.place, "runs", None) or [(0, slot.place)]:
            # several leaves may be views of one piece of memory
            there = [
                leaf for leaf in by_storage.get(view.untyped_storage().data_ptr(), []) if _holds(leaf, view)
            ]
            if not there:
                raise AssertionError(f"{slot.name} lies in no parameter of {type(model).__name__}")
            found.setdefault(id(there[0]), (there[0], []))[1].append((slot, first, view))
    return list(found.values())


def _holds(leaf: torch.Tensor, view: torch.Tensor) -> bool:
    """Whether a view of the same memory begins inside the leaf."""
    return 0 <= view.storage_offset() - leaf.storage_offset() < max(1, leaf.numel())


def _laid_out_as(leaf: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A gradient in memory as its leaf is, so that the steps of views of the one are right in the other."""
    import torch

    if gradient.stride() == leaf.stride():
        return gradient
    laid = torch.empty_strided(leaf.shape, leaf.stride(), dtype=gradient.dtype, device=gradient.device)
    return laid.copy_(gradient)
