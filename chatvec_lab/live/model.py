"""One loaded model and a coefficient to turn: every weight is `round(cp + scale * tau)`, exact to the bit.

The weights are those that `(cp + scale * tau).save(...)` would store, whatever was set before, since each turn
starts from the CP's own elements. A turn costs a few copies of the weights; a reload costs a disk.
"""

from __future__ import annotations

import copy
import math
import os
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from chatvec_lab.live import loading
from chatvec_lab.live.slots import Held, Slot, make_slot
from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.tokens.vocabulary import Policy
from chatvec_lab.weights.vector import WeightVector

if TYPE_CHECKING:
    import torch

    from chatvec_lab.live.resident import Resident
    from chatvec_lab.weights.layout import Part

__all__ = ["LiveModel"]

_FEW = 1 << 18  # below so many elements in all, threads cost more than they save


class _State(NamedTuple):
    """What a live model is turned to: a vector, the sign of its scale, and that scale (NaN: there is no one scale).

    `only`: the slots to which it is added, by name; None: all.
    """

    vector: WeightVector
    sign: int
    scale: float
    only: Collection[str] | None = None


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
    tau_device: "auto" keeps the CP's elements and tau beside the weights, on a GPU as far as it has room (a fifth of
      its memory is left for the replies); "cpu" keeps them in host memory.
    resident: what is held in memory beside the model. "cp": the CP's elements, so that two models' worth is needed; tau's
      sides are mapped where they lie in plain safetensors files of the right rows: read at each turn, from the page cache
      if there is room. "none": the CP's are mapped too. "all": nothing is mapped, four models' worth (more for sums of
      vectors). What is quantised, transformed or of other rows is always held, and so is what a GPU takes.
    On a GPU a kernel turns what lies there whole, one difference whose three tensors have the model's dtype; the
    rest is computed by the host and copied, which is slower. `.gpu_share` is the share that the GPU turns itself.

    `.model` and `.tokenizer` are the transformers objects, with the chat model's template and end-of-turn ids.
    Raises ValueError when cp and tau do not pair, and when a tensor of the vector has no place in the model or
    the model does not hold the CP's bits, with the list of all such tensors; OSError when a mapped file was changed.
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
        tau_device: Literal["auto", "cpu"] = "auto",
        resident: Held = "cp",
    ):
        if resident not in get_args(Held):
            raise ValueError(f"resident={resident!r}: expected 'cp', 'all' or 'none'.")
        if tau_device not in ("auto", "cpu"):
            raise ValueError(f"tau_device={tau_device!r}: expected 'auto' or 'cpu'.")
        self.cp, self.tau = cp, tau
        self._merged = cp.add(tau, vocabulary=vocabulary, copy_special=copy_special, add_tokens=add_tokens)
        self._dtype = loading.chosen_dtype(self._merged, dtype)
        self.model, places = loading.opened(self._merged, device, self._dtype)
        self._gpus: dict[torch.device, Resident] = {}
        made = (
            make_slot(self._merged, name, place, self._rounded(name, place, dtype), resident)
            for name, place in places
        )
        self._mapped = [] if resident == "all" else [cp, *tau.sources()]
        self._is_cp_mapped = resident == "none"
        self._slots = [slot for slot in made if tau_device == "cpu" or not self._taken(slot)]
        self._threads = _Threads(sum(slot.size for slot in self._slots))
        self.scale = 0.0
        loading.give_back_memory()

    def _rounded(self, name: str, place: torch.Tensor, dtype) -> torch.dtype:
        """What a save would store: the chosen dtype, also where transformers keeps a weight in another one."""
        if place.dtype == self._dtype or str(dtype) != "auto":
            return self._dtype
        return self._merged.cp.dtype(name)

    def __repr__(self) -> str:
        return f"LiveModel({self.cp!r} + {self.scale:g} * ({self.tau.label}))"

    @cached_property
    def tokenizer(self):
        """The CP's tokenizer with the chat model's template."""
        return self._merged.tokenizer

    @property
    def scale(self) -> float:
        return self._state.scale if self._state.only is None else math.nan

    @scale.setter
    def scale(self, scale: float) -> None:
        """**Changes the model's weights** to round(cp + scale * tau).

        Raises TypeError or ValueError for what is no finite number, and ValueError naming the tensor when a weight
        would overflow its dtype; the model is then the CP again. Until all weights are turned, should even the
        way back be interrupted, and where the vector is added in some tensors only (`at`), the scale reads NaN.
        """
        with self._threads.lock:
            self._turn_or_be_the_cp(self._scaled(scale))

    def _scaled(self, scale: float, only: Collection[str] | None = None) -> _State:
        if isinstance(scale, bool) or not isinstance(scale, int | float | np.integer | np.floating):
            raise TypeError(f"the scale must be a number, got {scale!r}.")
        vector = float(scale) * self.tau  # the same factors as in `cp + scale * tau`
        return _State(vector, int(np.sign(scale)), float(scale), only)

    @contextmanager
    def at(self, scale: float, *, only: Collection[str] | None = None) -> Iterator[LiveModel]:
        """This scale inside a `with` block and the one before it afterwards, also when the body raises.

        only: names of `slots` to which the vector is added; the others are the CP's, but for the rows that are the chat
        model's own at this scale. None: all. Other threads that turn the model wait until the block is left, so that
        all its replies are of this scale.
        """
        with self._inside(self._scaled(scale, only)):
            yield self

    @contextmanager
    def turned(self, vector: WeightVector) -> Iterator[LiveModel]:
        """The weights of `cp + vector` inside a `with` block, and those before it afterwards.

        `vector`: the terms of this model's own tau with other factors and schedules, as `weights.combinations.weighted` makes
        them of the same vectors. There is no one scale: it reads NaN inside. Raises ValueError for other terms, and
        naming the tensor when a weight would overflow; the model is then the CP again.
        """
        if [term.leaf for term in vector.terms] != [term.leaf for term in self.tau.terms]:
            raise ValueError(
                f"{vector.label} is not made of the terms that this model holds ({self.tau.label}): weigh the same "
                "vectors, in the same order."
            )
        with self._inside(_State(vector, 1, math.nan)):
            yield self

    @contextmanager
    def computing(
        self, what: float | WeightVector, *, only: Collection[str] | None = None
    ) -> Iterator[torch.nn.Module]:
        """The model at a scale (`only`: as in `at`) or with a mixture (`turned`) to compute with; of 16 bits on a CPU a copy
        in float32.

        A CPU has no speed to gain from 16 bits, and its sums would lose by them; the weights are the same.
        """
        with self.turned(what) if isinstance(what, WeightVector) else self.at(what, only=only):
            is_exact = self.model.device.type == "cpu" and self.model.dtype.itemsize < 4
            yield _widened(self.model) if is_exact else self.model

    @contextmanager
    def _inside(self, state: _State) -> Iterator[None]:
        with self._threads.lock:
            before = self._state
            self._turn_or_be_the_cp(state)
            try:
                yield
            finally:
                self._turn_or_be_the_cp(before)

    def _turn_or_be_the_cp(self, state: _State) -> None:
        self._check()
        try:
            self._turn_to(state)
            self._check()  # what was read meanwhile is what was opened
        except BaseException:
            self._turn_to(_State(0.0 * self.tau, 0, 0.0))
            if self._is_cp_mapped:  # and may be another one now
                self._state = self._state._replace(scale=math.nan)
                self._check()
                self._state = self._state._replace(scale=0.0)
            raise

    def _check(self) -> None:
        for source in self._mapped:
            source.tensors.check()

    def _turn_to(self, state: _State) -> None:
        self._state = state._replace(scale=math.nan)  # until all weights are turned
        self._turn(state)
        self._state = state

    @property
    def slots(self) -> list[Slot]:
        """Every tensor that has a place in the model, with the CP's elements and the vector's; a tied pair is one."""
        return [*self._slots, *(slot for gpu in self._gpus.values() for slot in gpu.slots)]

    def part(self, slot: Slot) -> Part:
        """What the tensor of a slot is."""
        return self._merged.layout[slot.name]

    @property
    def gpu_share(self) -> float:
        """Share of the elements that a GPU turns by itself; 0 on a CPU."""
        there = sum(slot.size for gpu in self._gpus.values() for slot in gpu.slots)
        return there / (there + sum(slot.size for slot in self._slots))

    def _taken(self, slot: Slot) -> bool:
        """Whether the GPU that holds the slot's place has taken the slot over."""
        device = slot.place.device
        if not _can_reside(device):
            return False
        from chatvec_lab.live.resident import Resident

        if device not in self._gpus:
            self._gpus[device] = Resident(device)
        return self._gpus[device].take(slot)

    def _turn(self, state: _State) -> None:
        for gpu in self._gpus.values():
            gpu.start(state.vector, state.sign, state.only)
        jobs = []
        for slot in self._slots:
            parts = slot.scaled_parts(state.vector, state.only)
            jobs += [(slot, parts, start, state.sign) for start in range(0, slot.size, slot.block)]
        self._threads.run(_turn_block, jobs)
        for gpu in self._gpus.values():
            gpu.finish()


class _Threads:
    """The lock and the threads of one live model. A forked process, in which neither would answer, gets its own."""

    def __init__(self, elements: int):
        import torch

        self._count = 1 if elements < _FEW else torch.get_num_threads()
        self._process = 0
        self._renew()

    def _renew(self) -> None:
        if self._process != os.getpid():
            self._lock = threading.RLock()
            self._pool = None
            self._process = os.getpid()

    @property
    def lock(self) -> threading.RLock:
        """Held for a turn, and for a `with live.at(…)` block, by one thread at a time."""
        self._renew()
        return self._lock

    def run(self, work, jobs: list[tuple]) -> None:
        """`work(*job)` for every job; when one fails, none is still at work afterwards."""
        if self._count == 1:
            for job in jobs:
                work(*job)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="chatvec-live")
        futures = [self._pool.submit(work, *job) for job in jobs]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
            wait(futures)


def _widened(model: torch.nn.Module) -> torch.nn.Module:
    """A copy in float32, tensor by tensor: no copy in 16 bits is made on the way."""
    import torch

    narrow = [
        t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() and t.dtype.itemsize < 4
    ]
    wide = {id(t): torch.nn.Parameter(t.detach().float(), False) if isinstance(t, torch.nn.Parameter) else t.float()
            for t in narrow}  # fmt: skip
    return copy.deepcopy(model, wide)


def _turn_block(slot: Slot, parts: list, start: int, sign: int) -> None:
    slot.fill(parts, start, sign)


def _can_reside(device: torch.device) -> bool:
    """Whether a device may turn tensors by itself: a GPU, and torch came with Triton (not so on Windows)."""
    if device.type != "cuda":
        return False
    try:
        import triton.language  # noqa: F401  (a folder of that name may lie in the way, hence not find_spec)
    except ImportError:
        return False
    return True
