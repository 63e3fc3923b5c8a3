"""Where each stored tensor lies in a loaded transformers model.

transformers 5 renames and fuses while it loads (GPT-NeoX's embed_out becomes lm_head, Mixtral's experts one
gate_up_proj). Its own way back, which saving uses, tells where everything went: a stored tensor comes back as a
view of a parameter, or as a copy of one, whose elements are then found by their numbers.
"""

from __future__ import annotations

import torch


class Pieces:
    """A stored tensor whose elements lie in several places of the model, run by run; as much of a tensor as slots ask.

    transformers splits it when it loads (a fused qkv into three), or has its rows in another order.
    """

    def __init__(self, shape: tuple[int, ...], runs: list[tuple[int, torch.Tensor]]):
        self.shape, self.runs = torch.Size(shape), runs  # (first element of the stored tensor, flat view)
        self.dtype, self.device = runs[0][1].dtype, runs[0][1].device

    def numel(self) -> int:
        return self.shape.numel()

    def data_ptr(self) -> int:
        return self.runs[0][1].data_ptr()

    def is_contiguous(self) -> bool:
        return False  # so that it is filled by `copy_`

    def detach(self) -> Pieces:
        return self

    def copy_(self, values: torch.Tensor) -> None:
        flat = values.reshape(-1)
        for start, view in self.runs:
            view.copy_(flat[start : start + view.numel()])

    def __getitem__(self, rows) -> torch.Tensor:
        return torch.cat([view for _, view in self.runs]).view(self.shape)[rows]


def places(model) -> dict[str, torch.Tensor | Pieces]:
    """Stored name to the view of the model's memory that holds it; what is not found is left out.

    A tied head and its embedding are both listed, as views of the same memory.
    """
    state = model.state_dict()
    memory = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    found = {}
    for name, tensor in _as_stored(model, state).items():
        if tensor.untyped_storage().data_ptr() in memory:
            found[name] = tensor
    split: dict[str, list[str]] = {}  # a stored tensor and the parameters that it becomes
    for name, tensor in _copied(model, state, found):
        for stored, numbers in _as_stored(model, {name: _numbers(tensor)}).items():
            split.setdefault(stored, []).append(name)
            found[stored] = _view(tensor, numbers)
    for stored, names in split.items():
        if len(names) > 1 or found[stored] is None:
            found[stored] = _pieces(model, stored, {name: state[name] for name in names})
    return {name: place for name, place in found.items() if place is not None}


def _as_stored(model, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, dict(state))


def _copied(model, state, found) -> list[tuple[str, torch.Tensor]]:
    """Parameters none of whose memory has been found under a stored name, or not all of it."""
    covered: dict[int, int] = {}
    for view in {(v.data_ptr(), v.numel()): v for v in found.values()}.values():
        key = view.untyped_storage().data_ptr()
        covered[key] = covered.get(key, 0) + view.numel()
    return [
        (name, tensor)
        for name, tensor in state.items()
        if covered.get(tensor.untyped_storage().data_ptr(), 0) < tensor.numel()
    ]


def _numbers(tensor: torch.Tensor, first: int = 0) -> torch.Tensor:
    dtype = torch.int32 if first + tensor.numel() < 2**31 else torch.int64
    return torch.arange(first, first + tensor.numel(), dtype=dtype).view(tensor.shape)


def _view(tensor: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor | None:
    """The view of one parameter whose elements have these numbers; None where no view shows them.

    The elements were numbered and taken the way back, so that the steps can be read off.
    """
    flat, origin = tensor.view(-1), (0,) * numbers.dim()
    first, steps = int(numbers[origin]), []
    for axis, length in enumerate(numbers.shape):
        one = tuple(int(i == axis) for i in range(numbers.dim()))
        steps.append(int(numbers[one]) - first if length > 1 else 0)
    expected = first + sum(
        torch.arange(length, dtype=numbers.dtype).mul(step).view(-1, *(1,) * (numbers.dim() - axis - 1))
        for axis, (length, step) in enumerate(zip(numbers.shape, steps, strict=True))
    )
    if not torch.equal(numbers, expected.expand(numbers.shape)):
        return None
    return flat.as_strided(numbers.shape, steps, flat.storage_offset() + first)


def _pieces(model, stored: str, state: dict[str, torch.Tensor]) -> Pieces | None:
    """The runs of consecutive elements of some parameters that one stored tensor holds."""
    firsts, first = {}, 0
    for name, tensor in state.items():
        firsts[name], first = first, first + tensor.numel() + 1  # a gap, so that no run crosses a border
    numbers = {name: _numbers(tensor, firsts[name]) for name, tensor in state.items()}
    kept = _as_stored(model, numbers).get(stored)
    if kept is None:
        return None
    flat = kept.reshape(-1).to(torch.int64)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (flat.diff() != 1).nonzero().view(-1) + 1])
    if len(starts) > 4096 and len(starts) > flat.numel() // 4:
        return None  # element by element would be too slow to turn
    runs, stops = [], [*starts[1:].tolist(), flat.numel()]
    for start, stop in zip(starts.tolist(), stops, strict=True):
        at = int(flat[start])
        name = max((n for n in firsts if firsts[n] <= at), key=firsts.get)
        low = at - firsts[name]
        runs.append((start, state[name].view(-1)[low : low + stop - start]))
    return Pieces(tuple(kept.shape), runs)
