"""One tensor of the CP, its place in the loaded model, and how the host fills that place."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.merged import MergedCheckpoint
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.vector import WeightVector

if TYPE_CHECKING:
    import torch

Held = Literal["all", "cp", "none"]  # what is held in memory beside the model
BLOCK = 1 << 22  # elements that one thread turns at a time


@dataclass
class Slot:
    """A tensor of the CP and the place in the model that holds it."""

    name: str
    published: str  # the vector's name for it
    of: str  # the merged model, for messages
    place: torch.Tensor  # a view into a parameter
    rounded: (
        torch.dtype
    )  # what a save stores; the place may be wider (routers that transformers keeps in float32)
    cp: np.ndarray  # flat, raw, as stored
    parts: list[tuple[int, float, np.ndarray, np.ndarray | None]]  # (term, coefficient, plus, minus)
    rows: dict[int, dict[int, np.ndarray]]  # by the sign of the scale: rows that are the chat model's own

    @property
    def size(self) -> int:
        return self.place.numel()

    @property
    def is_raw(self) -> bool:
        """Whether the model holds what a save stores as one piece of CPU memory, which is then written in place."""
        is_memory = self.place.device.type == "cpu" and self.place.is_contiguous()
        return is_memory and self.rounded == self.place.dtype

    @property
    def block(self) -> int:
        """Elements turned at a time."""
        return BLOCK if self.is_raw else max(1, self.size)

    def scaled_parts(self, scaled: WeightVector, only: Collection[str] | None = None) -> list[exact.Part]:
        """The parts with the coefficients of a scaled vector; those of coefficient zero are left out.

        only: names of the slots that have any; None: all.
        """
        if only is not None and self.name not in only:
            return []
        parts = [
            (scaled.terms[i].coefficient(self.published) * c, plus, minus) for i, c, plus, minus in self.parts
        ]
        return [part for part in parts if part[0]]

    def combine(self, cp, parts: list[exact.Part], out: np.ndarray) -> None:
        """`exact.combine`, with a ValueError that names the tensor when an element is out of range."""
        try:
            exact.combine(cp, parts, out)
        except FloatingPointError as error:
            raise ValueError(f"{self.name} of {self.of}: {error}; the model is the CP again.") from error

    def fill(self, parts: list[exact.Part], start: int, sign: int) -> None:
        """Compute one block in place; the rows that are the chat model's own replace the sum."""
        stop = min(start + self.block, self.size)
        out = raw(self.place)[start:stop] if self.is_raw else np.empty(self.size, raw_dtype(self.rounded))
        if parts or self.cp.dtype != out.dtype:
            span = slice(start, stop)
            spans = [(c, plus[span], None if minus is None else minus[span]) for c, plus, minus in parts]
            self.combine(self.cp[span], spans, out)
        else:
            out[:] = self.cp[start:stop]
        width = prod(self.place.shape[1:])
        for row, values in self.rows.get(sign, {}).items():
            low, high = max(start, row * width), min(stop, (row + 1) * width)
            if low < high:
                own = values[low - row * width : high - row * width]
                self.combine(None, [(1.0, own, None)], out[low - start : high - start])
        if not self.is_raw:
            self.place.detach().copy_(tensor(out, self.rounded).view(self.place.shape))


class Mapped(Workspace):
    """Hands out what lies in a plain file as it lies there, and reads the rest."""

    def read(self, source: Checkpoint, name: str, start: int, stop: int) -> np.ndarray:
        # a merged model's tensors are its CP's, and are computed
        is_plain = type(source) is Checkpoint and isinstance(source.tensors, files.Stored)
        found = source.tensors.mapped(name) if is_plain else None
        return super().read(source, name, start, stop) if found is None else found[start:stop]


def make_slot(
    merged: MergedCheckpoint, name: str, place: torch.Tensor, rounded: torch.dtype, resident: Held = "all"
) -> Slot:
    """`resident`: what is read into memory; the rest is mapped, where it lies in a plain file as it is needed."""
    cp, size = merged.cp, prod(merged.shape(name))
    stored = prod(cp.shape(name))
    if resident == "none" and stored == size:
        elements = Mapped().fill(cp, name, 0, size)
    else:
        elements = np.zeros(size, files.NUMPY_DTYPES[cp.dtype_name(name)])  # rows of added tokens stay zero
        cp.fill(name, 0, stored, elements)
    parts, workspace = [], Workspace() if resident == "all" else Mapped()
    if stored == size:  # a side of tau that is the CP is held once
        workspace.has(cp, name, elements)
    published, is_table = merged.named(name), merged.layout.is_table(name)
    for i, term in enumerate(merged.vector.terms):
        if merged.is_carried(name) or not term.coefficient(published):
            continue
        one = WeightVector((replace(term, factor=1.0, schedules=()),))
        spaces = {"vocabulary": cp.vocabulary, "rows": merged.shape(name)[0]} if is_table else {}
        parts += [(i, *part) for part in one.parts(published, 0, size, work=workspace, **spaces)]
    rows = _rows(merged, name) if is_table else {}
    return Slot(name, published, merged.label, place, rounded, elements, parts, rows)


def _rows(merged: MergedCheckpoint, name: str) -> dict[int, dict[int, np.ndarray]]:
    """The chat model's own rows for scales above (1), below (-1) and at 0: each has the chat side that a save has.

    Rows behind the CP's last, for appended tokens, are always there.
    """
    options = {
        "copy_special": merged.copy_special,
        "add_tokens": merged.add_tokens,
        "vocabulary": merged.policy,
        "allow_mixed": merged.allow_mixed,
    }
    above = merged.special_rows(name)
    behind = {row: values for row, values in above.items() if row >= merged.cp.shape(name)[0]}
    below = merged.cp.add(-merged.vector, **options).special_rows(name)
    return {1: above, -1: below | behind, 0: behind}


def raw_dtype(dtype: torch.dtype) -> np.dtype:
    return np.dtype(exact.RAW[str(dtype).removeprefix("torch.")])


def raw(tensor: torch.Tensor) -> np.ndarray:
    """The flat raw numpy view of a contiguous CPU tensor; shares its memory."""
    import torch

    flat = tensor.detach().view(-1)
    return (flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat).numpy()


def tensor(raw: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    import torch

    return torch.from_numpy(raw).view(dtype)
