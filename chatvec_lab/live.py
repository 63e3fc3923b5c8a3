"""One loaded model and a coefficient to turn: every weight is `round(cp + scale * tau)`, exact to the bit.

The weights are those that `(cp + scale * tau).save(...)` would store, whatever was set before, since each turn
starts from the CP's own elements. A turn costs a few copies of the weights; a reload costs a disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from chatvec_lab.weights import exact, files
from chatvec_lab.weights.arithmetic import WeightVector
from chatvec_lab.weights.blocks import Workspace
from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.merged import MergedCheckpoint
from chatvec_lab.weights.names import has_vocabulary_axis, is_head
from chatvec_lab.weights.places import places
from chatvec_lab.weights.vocabulary import Policy

if TYPE_CHECKING:
    import torch

__all__ = ["LiveModel"]

_BLOCK = 1 << 22  # elements that one thread turns at a time
_FEW = 1 << 18  # below so many elements in all, threads cost more than they save


class LiveModel:
    """The CP as a transformers model whose weights follow `.scale`; starts at 0, where it is the CP bit for bit.

        live = LiveModel(cp, tau)
        live.scale = 0.5
        with live.at(1.0):
            respond(live.model, live.tokenizer, prompts)

    cp, tau: a checkpoint and a vector (also selected, scheduled, or a sum of vectors).
    device: "auto" is the GPU if there is one, else the CPU; a torch device; or a device map for several
      ("balanced" or a dict, which needs accelerate). No weight may be offloaded.
    dtype: "auto" is the dtype stored on disk, also on a CPU; or "bfloat16", "float16", "float32". All weights take
      it, as with `save(dtype=...)`; if several are stored, "auto" is that of most elements.
    vocabulary, copy_special, add_tokens: as in `Checkpoint.add`.
    Memory: the model, and beside it the CP's elements and 4 bytes an element for tau, both in host memory (more
    for sums of vectors, which are also turned more slowly). On a GPU the host computes and the weights are copied.

    `.model` and `.tokenizer` are the transformers objects, with the chat model's template and end-of-turn ids.
    Raises ValueError when cp and tau do not pair, and when a tensor of the vector has no place in the model or
    the model does not hold the CP's bits, with the list of all such tensors.
    """

    def __init__(
        self,
        cp: Checkpoint,
        tau: WeightVector,
        device: str | dict | torch.device = "auto",
        dtype: Literal["auto", "bfloat16", "float16", "float32"] | torch.dtype = "auto",
        *,
        vocabulary: Policy = "match",
        copy_special: bool = False,
        add_tokens: bool = False,
    ):
        self.cp, self.tau = cp, tau
        self._merged = cp.add(tau, vocabulary=vocabulary, copy_special=copy_special, add_tokens=add_tokens)
        self._merged.check()
        self.model = _loaded(self._merged, device, dtype)
        self._slots = [
            _slot(self._merged, name, place) for name, place in _checked_places(self._merged, self.model)
        ]
        self._local = threading.local()
        self._pool = _pool(self._slots)
        self._scale = 0.0
        self.scale = 0.0

    def __repr__(self) -> str:
        return f"LiveModel({self.cp!r} + {self._scale:g} * ({self.tau.label}))"

    @cached_property
    def tokenizer(self):
        """The CP's tokenizer with the chat model's template."""
        return self._merged.tokenizer

    @property
    def scale(self) -> float:
        return self._scale

    @scale.setter
    def scale(self, scale: float) -> None:
        """**Changes the model's weights** to round(cp + scale * tau).

        Raises TypeError or ValueError for what is no finite number, and ValueError naming the tensor when a weight
        would overflow its dtype; the model is then the CP again.
        """
        if isinstance(scale, bool) or not isinstance(scale, int | float | np.integer | np.floating):
            raise TypeError(f"the scale must be a number, got {scale!r}.")
        scaled = float(scale) * self.tau  # the same factors as in `cp + scale * tau`
        try:
            self._turn(scaled, int(np.sign(scale)))
        except BaseException:
            self._turn(0.0 * self.tau, 0)
            self._scale = 0.0
            raise
        self._scale = float(scale)

    @contextmanager
    def at(self, scale: float) -> Iterator[LiveModel]:
        """This scale inside a `with` block and the one before it afterwards, also when the body raises."""
        before = self._scale
        self.scale = scale
        try:
            yield self
        finally:
            self.scale = before

    def _turn(self, scaled: WeightVector, sign: int) -> None:
        jobs = []
        for slot in self._slots:
            parts = [
                (scaled.terms[i].coefficient(slot.name) * c, plus, minus) for i, c, plus, minus in slot.parts
            ]
            parts = [part for part in parts if part[0]]
            jobs += [(slot, parts, start, sign) for start in range(0, slot.size, slot.block)]
        if self._pool is None:
            for job in jobs:
                self._turn_block(*job)
            return
        futures = [self._pool.submit(self._turn_block, *job) for job in jobs]
        try:
            for future in futures:
                future.result()
        finally:  # when one fails, none may still be writing
            for future in futures:
                future.cancel()
            wait(futures)

    def _turn_block(self, slot: _Slot, parts: list, start: int, sign: int) -> None:
        if not hasattr(self._local, "scratch"):
            self._local.scratch = exact.Scratch()
        try:
            slot.fill(parts, start, sign, self._local.scratch)
        except FloatingPointError as error:
            raise ValueError(
                f"{slot.name} of {self._merged.label}: {error}; the model is the CP again."
            ) from error


@dataclass
class _Slot:
    """A tensor of the CP and the place in the model that holds it."""

    name: str
    place: torch.Tensor  # a view into a parameter
    cp: np.ndarray  # flat, raw, as stored
    parts: list[tuple[int, float, np.ndarray | None, np.ndarray | None]]  # (term, coefficient, plus, minus)
    rows: dict[int, dict[int, np.ndarray]]  # by the sign of the scale: rows that are the chat model's own

    @property
    def size(self) -> int:
        return self.place.numel()

    @property
    def is_raw(self) -> bool:
        """Whether the model holds the tensor as one piece of CPU memory, which is then written in place."""
        return self.place.device.type == "cpu" and self.place.is_contiguous()

    @property
    def block(self) -> int:
        """Elements turned at a time."""
        return _BLOCK if self.is_raw else max(1, self.size)

    def fill(self, parts: list, start: int, sign: int, scratch: exact.Scratch) -> None:
        """Compute one block in place; the rows that are the chat model's own replace the sum."""
        stop = min(start + self.block, self.size)
        out = (
            _raw(self.place)[start:stop] if self.is_raw else np.empty(self.size, _raw_dtype(self.place.dtype))
        )
        if parts or self.cp.dtype != out.dtype:
            span = slice(start, stop)
            spans = [(c, plus[span], None if minus is None else minus[span]) for c, plus, minus in parts]
            exact.combine(self.cp[span], spans, out, scratch=scratch)
        else:
            out[:] = self.cp[start:stop]
        width = prod(self.place.shape[1:])
        for row, values in self.rows.get(sign, {}).items():
            low, high = max(start, row * width), min(stop, (row + 1) * width)
            if low < high:
                own = values[low - row * width : high - row * width]
                exact.combine(None, [(1.0, own, None)], out[low - start : high - start], scratch=scratch)
        if not self.is_raw:
            self.place.detach().copy_(_tensor(out, self.place.dtype).view(self.place.shape))


def _slot(merged: MergedCheckpoint, name: str, place: torch.Tensor) -> _Slot:
    cp, size = merged.cp, prod(merged.shape(name))
    stored = prod(cp.shape(name))
    elements = np.zeros(size, files.NUMPY_DTYPES[cp.dtype_name(name)])  # rows of added tokens stay zero
    cp.fill(name, 0, stored, elements)
    parts = []
    for i, term in enumerate(merged.vector.terms):
        if merged.is_carried(name) or not term.coefficient(name):
            continue
        one = WeightVector((replace(term, factor=1.0, schedules=()),))
        spaces = (
            {"vocabulary": cp.vocabulary, "rows": merged.shape(name)[0]} if has_vocabulary_axis(name) else {}
        )
        parts += [(i, *part) for part in one.parts(name, 0, size, work=Workspace(), **spaces)]
    rows = _rows(merged, name) if has_vocabulary_axis(name) else {}
    return _Slot(name, place, elements, parts, rows)


def _rows(merged: MergedCheckpoint, name: str) -> dict[int, dict[int, np.ndarray]]:
    """The chat model's own rows for scales above (1), below (-1) and at 0: each has the chat side that a save has.

    Rows behind the CP's last, for appended tokens, are always there.
    """
    options = {
        "copy_special": merged.copy_special,
        "add_tokens": merged.add_tokens,
        "vocabulary": merged.policy,
    }
    above = merged.special_rows(name)
    behind = {row: values for row, values in above.items() if row >= merged.cp.shape(name)[0]}
    below = merged.cp.add(-merged.vector, **options).special_rows(name)
    return {1: above, -1: below | behind, 0: behind}


def _loaded(merged: MergedCheckpoint, device, dtype):
    """The CP through transformers, on its device, with rows for added tokens and the chat's generation config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig

    if isinstance(device, str) and device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    is_map = isinstance(device, dict) or device in ("balanced", "balanced_low_0", "sequential")
    options = {"device_map": device} if is_map else {}
    # transformers does not count vision-language models among causal language models
    is_text = type(AutoConfig.from_pretrained(merged.folder)) in AutoModelForCausalLM._model_mapping
    kind = AutoModelForCausalLM if is_text else AutoModelForImageTextToText
    model = kind.from_pretrained(merged.folder, dtype=_dtype(merged, dtype), **options)
    model = model if is_map else model.to(device)
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        raise ValueError(
            f"{len(away)} weights of {merged.cp.label} are offloaded ({', '.join(away[:5])}, ...), where no scale "
            "can reach them. Give a device map that keeps all weights in memory."
        )
    rows = max((row + 1 for row in merged.added_tokens.values()), default=0)
    if rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)
    if merged.generation_config:
        model.generation_config = GenerationConfig.from_dict(merged.generation_config)
    return model.eval()


def _dtype(merged: MergedCheckpoint, dtype) -> torch.dtype:
    import torch

    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        sizes: dict[str, int] = {}
        for tensor in merged.cp.names:
            stored = merged.cp.dtype_name(tensor)
            sizes[stored] = sizes.get(stored, 0) + prod(merged.cp.shape(tensor))
        name = max((n for n in sizes if n in files.FLOATS), key=sizes.get)
    if name not in files.FLOATS:
        raise ValueError(f"dtype={dtype!r}: expected 'auto' or one of {', '.join(files.FLOATS)}.")
    return getattr(torch, name)


def _checked_places(merged: MergedCheckpoint, model) -> list[tuple[str, torch.Tensor]]:
    """The places of all of the CP's float tensors, each memory once; ValueError lists what has none.

    The model must hold the CP's bits there, which proves that transformers put everything where it says.
    """
    found, lines, result, seen = places(model), [], [], set()
    root = merged.cp
    while isinstance(root, MergedCheckpoint):
        root = root.cp
    names = [n for n in merged.names if merged.dtype_name(n) in files.FLOATS]
    for name in sorted(names, key=is_head):  # stable: the embedding before the head that is tied to it
        place = found.get(name)
        if place is None:
            if not merged.is_carried(name):
                lines.append(f"{name}   has no place in {type(model).__name__}")
        elif tuple(place.shape) != merged.shape(name):
            lines.append(f"{name}   stored {merged.shape(name)}, in the model {tuple(place.shape)}")
        elif not _holds(place, root, name):
            lines.append(f"{name}   is not what the model holds in its place")
        elif (place.data_ptr(), place.shape) not in seen:
            seen.add((place.data_ptr(), place.shape))
            result.append((name, place))
    if lines:
        raise ValueError(
            f"{len(lines)} of {len(names)} tensors of {merged.cp.label} did not reach the model:\n  "
            + "\n  ".join(lines)
            + "\nSave the merged model instead, or report this architecture."
        )
    return result


def _holds(place: torch.Tensor, cp: Checkpoint, name: str) -> bool:
    """Whether a place holds the CP's elements, rounded to its dtype, bit for bit."""
    stored = cp.read(name).to(place.dtype)
    here = place.detach()[: stored.shape[0]] if stored.dim() else place.detach()
    return np.array_equal(_raw(here.cpu().contiguous()).view(np.uint8), _raw(stored).view(np.uint8))


def _pool(slots: list[_Slot]) -> ThreadPoolExecutor | None:
    import torch

    threads = torch.get_num_threads()
    if threads == 1 or sum(slot.size for slot in slots) < _FEW:
        return None
    return ThreadPoolExecutor(threads, thread_name_prefix="chatvec-live")


def _raw_dtype(dtype: torch.dtype) -> np.dtype:
    return np.dtype(exact.RAW[str(dtype).removeprefix("torch.")])


def _raw(tensor: torch.Tensor) -> np.ndarray:
    """The flat raw numpy view of a contiguous CPU tensor; shares its memory."""
    import torch

    flat = tensor.detach().view(-1)
    return (flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat).numpy()


def _tensor(raw: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    import torch

    return torch.from_numpy(raw).view(dtype)
