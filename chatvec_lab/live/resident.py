"""Tensors that a GPU turns by itself: the CP's elements and those of tau lie there beside the weights."""

from __future__ import annotations

import gc
import warnings
from bisect import bisect_right
from collections.abc import Collection
from functools import lru_cache

import numpy as np
import torch

from chatvec_lab.live.slots import Slot, raw, raw_dtype, tensor
from chatvec_lab.weights.numerics import exact, gpu
from chatvec_lab.weights.vector import WeightVector

_LEFT = 0.2  # share of the GPU's memory that is left for the replies


class Resident:
    """The slots of a live model that one GPU turns; `start` launches all of them, `finish` waits and settles."""

    def __init__(self, device: torch.device):
        self.device = device
        self.slots: list[Slot] = []  # their arrays are tensors of the device
        self._first: list[int] = []  # tile of each slot in `_doubtful`
        self._tiles = 0
        free, total = memory(device)
        self._room = free - _LEFT * total

    def take(self, slot: Slot) -> bool:
        """Move the slot's arrays to the device, if its kernel can turn it and there is room."""
        arrays = [slot.cp, *(a for part in slot.parts for a in part[2:])]
        fits = (
            slot.place.is_contiguous()
            and slot.size
            and len(slot.parts) <= 1
            and slot.rounded == slot.place.dtype
        )
        if not fits or any(a is None or a.dtype != raw_dtype(slot.place.dtype) for a in arrays):
            return False
        size = sum(a.nbytes for a in arrays)
        if size > self._room or not agrees(self.device, slot.place.dtype):
            return False
        try:
            cp, *sides = (tensor(a, slot.place.dtype).to(self.device) for a in arrays)
        except torch.OutOfMemoryError:
            self._room = 0  # another process was faster, or no piece of free memory is large enough
            return False
        self._room -= size
        slot.cp, slot.parts = cp, [(i, c, *sides) for i, c, _, _ in slot.parts]
        self.slots.append(slot)
        self._first.append(self._tiles)
        # pointers that are multiples of 16 make one kernel
        self._tiles += 16 * -(-slot.size // (16 * gpu.TILE))
        return True

    def start(self, scaled: WeightVector, sign: int, only: Collection[str] | None = None) -> None:
        """Launch the kernels of all slots; they run while the host goes on. only: names of slots that are moved."""
        self._parts, self._sign = [slot.scaled_parts(scaled, only) for slot in self.slots], sign
        coefficients = [
            (parts[0][0] if parts else 1.0, slot.place.dtype)  # without parts no kernel runs
            for slot, parts in zip(self.slots, self._parts, strict=True)
        ]
        known = {key: gpu.numbers(*key) for key in set(coefficients)}
        with _current(self.device):
            numbers = torch.tensor([known[key] for key in coefficients], dtype=torch.float64).to(self.device)
            self._doubtful = torch.zeros(self._tiles, dtype=torch.int8, device=self.device)
            for k, (slot, parts) in enumerate(zip(self.slots, self._parts, strict=True)):
                out = slot.place.detach().view(-1)
                if parts:
                    gpu.fill(slot.cp, *parts[0][1:], out, numbers[k], self._doubtful[self._first[k] :])
                else:
                    out.copy_(slot.cp)

    def finish(self) -> None:
        """Wait; settle the tiles in doubt on the host, then put the chat model's own rows in.

        Raises ValueError naming the tensor when an element is out of range.
        """
        for tile in self._doubtful.nonzero().flatten().tolist():
            k = bisect_right(self._first, tile) - 1
            slot, start = self.slots[k], (tile - self._first[k]) * gpu.TILE
            span = slice(start, min(start + gpu.TILE, slot.size))
            coefficient, *sides = self._parts[k][0]
            cp, plus, minus = (raw(a[span].cpu()) for a in (slot.cp, *sides))
            settled = np.empty_like(cp)
            slot.combine(cp, [(coefficient, plus, minus)], settled)
            slot.place.detach().view(-1)[span].copy_(tensor(settled, slot.place.dtype))
        for slot in self.slots:
            for row, values in slot.rows.get(self._sign, {}).items():
                own = np.empty(len(values), raw_dtype(slot.place.dtype))
                slot.combine(None, [(1.0, values, None)], own)
                slot.place.detach()[row].copy_(tensor(own, slot.place.dtype))


def memory(device: torch.device) -> tuple[int, int]:
    """Free and total bytes of a GPU; what torch keeps of freed tensors, as of the last live model, counts as free."""
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)


def _current(device: torch.device):
    return torch.cuda.device(device)


@lru_cache
def agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel gives the host's bits on this device: tried once, on ordinary and on awkward elements."""
    if dtype not in gpu.FORMATS:
        return False
    rng = np.random.default_rng(0)
    elements = rng.standard_normal((3, 16 * gpu.TILE)) * 0.02
    elements[1] = elements[2] + rng.standard_normal(elements.shape[1]) * 0.0005
    elements[:2, :999] = rng.integers(-500, 500, (2, 999)) * 2.0**-16  # ties and near-ties
    elements[2, :999] = 0.0
    awkward = rng.random(elements.shape) < 0.001
    elements[awkward] = 10.0 ** rng.uniform(-44, 1, awkward.sum())
    try:
        cp, plus, minus = (torch.from_numpy(row).to(dtype) for row in elements)
        wanted = exact.combine(raw(cp), [(0.7, raw(plus), raw(minus))], np.empty_like(raw(cp)))
        with _current(device):
            found = torch.empty_like(cp, device=device)
            doubtful = torch.zeros(16, dtype=torch.int8, device=device)
            numbers = torch.tensor(gpu.numbers(0.7, dtype), dtype=torch.float64).to(device)
            gpu.fill(*(t.to(device) for t in (cp, plus, minus)), found, numbers, doubtful)
        bits = np.dtype(f"u{wanted.itemsize}")  # so that a zero has its sign
        differ, reported = (
            np.count_nonzero(raw(found.cpu()).view(bits) != wanted.view(bits)),
            doubtful.sum().item(),
        )
        problem = f"{differ} of {wanted.size} elements differ, {reported} of 16 tiles in doubt"
        problem = problem if differ or reported else ""
    except Exception as error:  # whatever keeps a kernel from being compiled or run: the host can do it too
        problem = f"{type(error).__name__}: {error}"
    if problem:
        warnings.warn(
            f"The GPU kernel cannot be used for {dtype} on {device} ({problem[:500]}); the host computes instead, "
            "with the same result, more slowly.",
            RuntimeWarning,
            stacklevel=2,
        )
    return not problem
