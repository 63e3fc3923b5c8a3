"""Inner products of gradients with directions, taken as each gradient comes, so that no two are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.lens.layers import forwards

if TYPE_CHECKING:
    import torch

    from chatvec_lab.lens.parts import Directions, PartOf
    from chatvec_lab.live import LiveModel
    from chatvec_lab.live.slots import Slot

LARGE = 1 << 24  # elements from which on a matrix has its gradient in pieces: 64 MB in float32
PIECE = 1 << 22  # elements of such a piece

# a slot, the number of the first element, and where these lie in the model
Run = tuple["Slot", int, "torch.Tensor"]


class Gradients:
    """The inner product of a gradient with the direction, slot by slot, as each gradient comes; then it is let go.

    One parameter's gradient is in memory at a time, of a large one (a head, a table) a piece. Use it in a `with` block,
    call `backward` on what is to be differentiated, then `taken()`.
    """

    def __init__(self, live: LiveModel, parts: Sequence[PartOf], directions: Directions):
        self._model, self._directions = live.model, directions
        self._number = {slot.name: i for i, part in enumerate(parts) for slot in part.slots}
        self._sums = np.zeros(len(parts))
        self._of = _by_leaf(live.model, [slot for part in parts for slot in part.slots])

    def __enter__(self) -> Gradients:
        self._before = [(leaf, leaf.requires_grad) for leaf in _leaves(self._model)]
        for leaf, _ in self._before:
            leaf.requires_grad_(False)
        self._undo = ExitStack()
        self._undo.enter_context(_embeddings(self._model, _modules(self._model, "Embedding", self._of)))
        linears = _modules(self._model, "Linear", self._of)
        pieces = {module: _pieces(leaf) for module, leaf in linears.items()}
        self._undo.enter_context(_in_pieces(pieces))
        for leaf, runs in self._of:
            self._watch(leaf, runs)
        for module, leaf in linears.items():
            (slot, first, _), *_ = next(runs for one, runs in self._of if one is leaf)
            for piece in pieces[module]:
                self._watch(piece, [(slot, first, piece)])
                first += piece.numel()
        return self

    def _watch(self, leaf: torch.Tensor, runs: list[Run]) -> None:
        leaf.requires_grad_(True)
        hook = leaf.register_post_accumulate_grad_hook(lambda leaf: self._take(leaf, runs))
        self._undo.callback(hook.remove)

    def __exit__(self, *problem) -> None:
        self._undo.close()
        for leaf, needs in self._before:
            leaf.requires_grad_(needs)
            leaf.grad = None

    def taken(self) -> np.ndarray:
        """The sums by part since the last call."""
        found, self._sums = self._sums, np.zeros_like(self._sums)
        return found

    def _take(self, leaf: torch.Tensor, runs: list[Run]) -> None:
        gradient, leaf.grad = leaf.grad, None
        if gradient.is_sparse:
            ((slot, first, _),), rows = runs, gradient.coalesce()
            for row, values in zip(rows.indices()[0].tolist(), rows.values(), strict=True):
                self._add(slot, first + row * len(values), values)
            return
        gradient = _laid_out_as(leaf, gradient)
        for slot, first, view in runs:
            offset = gradient.storage_offset() + view.storage_offset() - leaf.storage_offset()
            self._add(slot, first, gradient.as_strided(view.shape, view.stride(), offset).reshape(-1))

    def _add(self, slot: Slot, first: int, values: torch.Tensor) -> None:
        """A gradient's values from the slot's element `first` on, times the direction there."""
        for start, stop, direction in self._directions.blocks(slot, first, first + len(values)):
            here = values[start - first : stop - first].double()
            self._sums[self._number[slot.name]] += float(here @ direction)


def _modules(model, kind: str, of: list[tuple[torch.Tensor, list[Run]]]) -> dict:
    """The large modules of just this class of torch.nn, each with its weight, of which all is one run of a slot."""
    from torch import nn

    whole = {
        id(leaf): leaf
        for leaf, runs in of
        if leaf.dim() == 2 and leaf.is_contiguous() and leaf.numel() >= LARGE
        and [view.numel() for _, _, view in runs] == [leaf.numel()] and runs[0][2].is_contiguous()
    }  # fmt: skip
    is_kind = (
        (lambda m: type(m) is nn.Linear) if kind == "Linear" else (lambda m: isinstance(m, nn.Embedding))
    )
    # one with a forward of its own, as accelerate gives it, stays as it is
    return {m: whole[id(m.weight)] for m in model.modules()
            if is_kind(m) and id(m.weight) in whole and "forward" not in m.__dict__}  # fmt: skip


@contextmanager
def _embeddings(model, large: dict) -> Iterator[None]:
    """Embeddings with the gradient of every row, the padding's too, and of large ones of the rows that a text has alone."""
    from torch.nn import Embedding

    before = [(m, m.padding_idx, m.sparse) for m in model.modules() if isinstance(m, Embedding)]
    try:
        for module, _, is_sparse in before:
            # a model that pads with a token of its texts, as with the one that ends a reply, gets no gradient of it
            module.padding_idx, module.sparse = None, is_sparse or module in large
        yield
    finally:
        for module, padding, is_sparse in before:
            module.padding_idx, module.sparse = padding, is_sparse


def _pieces(weight: torch.Tensor) -> list[torch.Tensor]:
    """Leaves of their own over the rows of a weight, in its memory."""
    rows = max(1, PIECE // weight.shape[1])
    return [piece.requires_grad_() for piece in weight.detach().split(rows)]


@contextmanager
def _in_pieces(pieces: dict) -> Iterator[None]:
    """Linear modules that multiply piece by piece, so that each piece has its own gradient."""
    import torch
    from torch.nn.functional import linear

    modules = list(pieces)

    def made(number, _):
        module, own = modules[number], pieces[modules[number]]
        sizes = [len(piece) for piece in own]

        def forward(x: torch.Tensor) -> torch.Tensor:
            biases = [None] * len(own) if module.bias is None else module.bias.split(sizes)
            return torch.cat([linear(x, p, b) for p, b in zip(own, biases, strict=True)], -1)

        return forward

    with forwards(modules, made):
        yield


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
