"""Where each stored tensor lies in a loaded transformers model.

transformers 5 renames and fuses while it loads (GPT-NeoX's embed_out becomes lm_head, Mixtral's experts one
gate_up_proj). Its own way back, which saving uses, tells where everything went: a stored tensor comes back as a
view of a parameter, or as a copy of one, whose elements are then found by their numbers.
"""

from __future__ import annotations

import torch


def places(model) -> dict[str, torch.Tensor]:
    """Stored name to the view of the model's memory that holds it; what is not found is left out.

    A tied head and its embedding are both listed, as views of the same memory.
    """
    state = model.state_dict()
    memory = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    found = {}
    for name, tensor in _as_stored(model, state).items():
        if tensor.untyped_storage().data_ptr() in memory:
            found[name] = tensor
    for tensor in _copied(model, state, found):
        found |= _by_number(model, *tensor)
    return found


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


def _by_number(model, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Views of one parameter: its elements are numbered, taken the way back, and their steps read off."""
    dtype = torch.int32 if tensor.numel() < 2**31 else torch.int64
    numbers = torch.arange(tensor.numel(), dtype=dtype).view(tensor.shape)
    flat = tensor.view(-1)
    result = {}
    for stored, piece in _as_stored(model, {name: numbers}).items():
        origin = (0,) * piece.dim()
        first = int(piece[origin])
        steps = []
        for axis, length in enumerate(piece.shape):
            one = tuple(int(i == axis) for i in range(piece.dim()))
            steps.append(int(piece[one]) - first if length > 1 else 0)
        expected = first + sum(
            torch.arange(length, dtype=dtype).mul(step).view(-1, *(1,) * (piece.dim() - axis - 1))
            for axis, (length, step) in enumerate(zip(piece.shape, steps, strict=True))
        )
        if torch.equal(piece, expected.expand(piece.shape)):  # else no view of the parameter shows it
            result[stored] = flat.as_strided(piece.shape, steps, flat.storage_offset() + first)
    return result
