"""A quantised tensor, read by spans as the floats that it stands for; and a checkpoint's tensors, some of them so."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from chatvec_lab.weights.sources.files import NUMPY_DTYPES, Tensors, no_such
from chatvec_lab.weights.sources.quantised.recognised import NotRead
from chatvec_lab.weights.sources.quantised.values import Values, affine, e4m3, powers_of_two, scaled, squares


@dataclass(frozen=True)
class Steps:
    """What belongs to some rows of a tensor: float64 arrays (blocks of rows, groups of columns)."""

    scale: np.ndarray
    zero: np.ndarray | None = None
    bias: np.ndarray | None = None


def by_row(rows: np.ndarray) -> np.ndarray:
    """Each row has scales of its own."""
    return rows - rows[0]


@dataclass(frozen=True)
class Packed:
    """One tensor that is stored as codes and scales.

    `codes(first, last)` gives rows of codes, (rows, width) uint8, the last row of the tensor perhaps short;
    `steps(first, last)` their scales, in whose blocks row r of those rows has the number `blocks(r)`. `groups` is how
    many columns share a scale, or the number of each column's group. `dtype` holds each value of the formula.
    """

    kind: str
    shape: tuple[int, ...]
    width: int  # of a row of codes: the last axis, or a block of a flat tensor
    members: tuple[str, ...]  # stored tensors that it is made of
    values: Values
    dtype: str
    codes: Callable[[int, int], np.ndarray]
    steps: Callable[[int, int], Steps]
    blocks: Callable[[np.ndarray], np.ndarray] = by_row
    groups: int | np.ndarray = 0  # 0: one scale a row
    divisor: float = 1.0
    is_scattered: bool = False  # a row lies in pieces all over the file, which no HTTP range can ask for

    def read(self, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows of codes as values of `dtype`, (rows, width), in the flat `out` where it is given."""
        codes, steps = self.codes(first, last), self.steps(first, last)
        out = np.empty(codes.shape, self.dtype) if out is None else out.reshape(codes.shape)
        rows = np.ascontiguousarray(self.blocks(np.arange(first, last)), dtype=np.int64)
        scale = np.ascontiguousarray(steps.scale, dtype=np.float64)
        if steps.zero is None and steps.bias is None and self.divisor == 1 and isinstance(self.groups, int):
            scaled(codes, self.values.table, scale, rows, self.groups or codes.shape[1], out)
            return out
        nothing = np.zeros_like(scale)
        zero = nothing if steps.zero is None else np.ascontiguousarray(steps.zero, dtype=np.float64)
        bias = nothing if steps.bias is None else np.ascontiguousarray(steps.bias, dtype=np.float64)
        columns = self._columns(codes.shape[1])
        affine(codes, self.values.table, zero, scale, self.divisor, bias, rows, columns, out)
        return out

    def noise(self, first: int, last: int) -> float:
        """The sum of squares that rounding to codes is expected to have taken from these rows: an estimate."""
        codes, scale = self.codes(first, last), self.steps(first, last).scale
        rows = np.ascontiguousarray(self.blocks(np.arange(first, last)), dtype=np.int64)
        scale = np.ascontiguousarray(scale, dtype=np.float64)
        return float(
            squares(codes, self.values.noise, scale, self.divisor, rows, self._columns(codes.shape[1]))
        )

    def _columns(self, width: int) -> np.ndarray:
        if isinstance(self.groups, np.ndarray):
            return self.groups
        return np.arange(width, dtype=np.int64) // (self.groups or width)


def narrowest(values: Values, scale_dtype: str, extra: int = 0) -> str:
    """float32 where each product of a code with such a scale fits it exactly, else float64."""
    bits = {"bfloat16": 8, "float16": 11, "float8_e4m3fn": 4, "float8_e8m0fnu": 1, "uint8": 1}.get(
        scale_dtype, 24
    )
    return "float32" if values.bits + bits + extra <= 24 else "float64"


class Parts:
    """What is stored, for a format to look at: its names as a set, and small tensors read whole or by rows."""

    def __init__(self, stored: Tensors):
        self.stored, self.names, self.slabs = stored, frozenset(stored.names), Slabs()
        self.shape, self.dtype = stored.shape, stored.dtype

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Flat elements as they are stored."""
        stop = prod(self.shape(name)) if stop is None else stop
        return self.stored.fill(name, start, stop, np.empty(stop - start, NUMPY_DTYPES[self.dtype(name)]))

    def floats(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Flat elements of scales in float64; bytes and E8M0 are powers of two."""
        dtype, raw = self.dtype(name), self.raw(name, start, stop)
        if dtype in ("uint8", "float8_e8m0fnu"):
            return powers_of_two(raw)
        if dtype == "float8_e4m3fn":
            return e4m3().table[raw]
        if dtype == "bfloat16":
            return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        return raw.astype(np.float64)

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows of the last axis as bytes, (rows, bytes of a row)."""
        width = self.shape(name)[-1]
        return self.raw(name, first * width, last * width).view(np.uint8).reshape(last - first, -1)

    def columns(self, name: str, first: int, last: int) -> np.ndarray:
        """Columns [first, last) of a matrix, (rows, last - first): one short read a row."""
        height, width = self.shape(name)
        out = np.empty((height, last - first), NUMPY_DTYPES[self.dtype(name)])
        for row in range(height):
            self.stored.fill(name, row * width + first, row * width + last, out[row])
        return out

    def need(self, name: str, of: str) -> None:
        """NotRead when a stored tensor that belongs to another is not there."""
        if name not in self.names:
            raise NotRead(f"{of} is stored without {name}")

    def expect(self, name: str, *shapes: tuple[int, ...]) -> None:
        """NotRead when a stored tensor has none of the shapes that its format gives it."""
        found = tuple(self.shape(name))
        if found not in shapes:
            told = " or ".join(dict.fromkeys(str(shape) for shape in shapes))
            raise NotRead(f"{name} has the shape {found}, expected {told}")

    def stored_as(self, name: str, *dtypes: str) -> None:
        """NotRead when a stored tensor has none of the dtypes that its format gives it."""
        if self.dtype(name) not in dtypes:
            raise NotRead(f"{name} is stored as {self.dtype(name)}, expected {' or '.join(dtypes)}")


class Slabs:
    """The last few pieces that were unpacked of tensors whose rows do not lie together in the file."""

    def __init__(self, limit: int = 6):
        self.limit, self._lock = limit, threading.Lock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:  # the others wait: what they want is most likely this
            if key not in self._kept:
                self._kept[key] = make()
                if len(self._kept) > self.limit:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def rows(self, name: str, total: int, height: int, first: int, last: int, make) -> np.ndarray:
        """Rows [first, last) of an array whose slabs of `height` rows `make(start, stop)` gives."""
        pieces = []
        for number in range(first // height, -(-last // height)):
            start = number * height
            stop = min(start + height, total)
            slab = self.get((name, number), lambda start=start, stop=stop: make(start, stop))
            pieces.append(slab[max(first - start, 0) : last - start])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class Dequantised:
    """The tensors of a quantised checkpoint as the floats that they stand for (see `Tensors`); the rest as stored.

    `packed` maps the names of whole tensors to how they are read; `dropped` are stored tensors that only the quantised
    arithmetic needs (scales of activations).
    """

    def __init__(
        self, stored: Tensors, packed: Mapping[str, Packed], note: str, dropped: tuple[str, ...] = ()
    ):
        self.stored, self.packed, self.note = stored, dict(packed), note
        first = {entry.members[0]: name for name, entry in self.packed.items()}
        taken = {member for entry in self.packed.values() for member in entry.members} | set(dropped)
        self._names = [first.get(name, name) for name in stored.names if name in first or name not in taken]
        self._known = frozenset(self._names)

    @property
    def names(self) -> list[str]:
        return self._names

    @property
    def is_scattered(self) -> bool:
        """Whether some rows lie in pieces all over their file."""
        return any(entry.is_scattered for entry in self.packed.values())

    def _holder(self, name: str) -> str:
        """The stored tensor whose file and place a tensor has."""
        if name not in self._known:
            raise KeyError(no_such(name, self._names))
        return self.packed[name].members[0] if name in self.packed else name

    def dtype(self, name: str) -> str:
        return self.packed[name].dtype if name in self.packed else self.stored.dtype(self._holder(name))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.packed[name].shape if name in self.packed else self.stored.shape(self._holder(name))

    def file(self, name: str) -> str:
        return self.stored.file(self._holder(name))

    def place(self, name: str) -> Hashable:
        return self.stored.place(self._holder(name))

    def quantised(self, name: str) -> str:
        return self.packed[name].kind if name in self.packed else ""

    def stored_dtype(self, name: str) -> str:
        return self.stored.dtype(self._holder(name))

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        if name not in self.packed:
            return self.stored.fill(self._holder(name), start, stop, out)
        entry, view = self.packed[name], out[: stop - start]
        if stop > start:
            first, last = start // entry.width, -(-stop // entry.width)
            if (first * entry.width, last * entry.width) == (start, stop):  # whole rows, as a rule
                entry.read(first, last, view)
                return view
            flat = entry.read(first, last).reshape(-1)
            view[:] = flat[start - first * entry.width : stop - first * entry.width]
        return view

    def noise(self, name: str, start: int, stop: int) -> float:
        if name not in self.packed or stop <= start:
            return 0.0
        entry = self.packed[name]
        first, last = start // entry.width, -(-stop // entry.width)
        return entry.noise(first, last) * (stop - start) / ((last - first) * entry.width)

    def fingerprint(self) -> str:
        return f"{self.stored.fingerprint()} {self.note}"

    def check(self) -> None:
        self.stored.check()
