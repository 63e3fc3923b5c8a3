"""Where each tensor lies in a weight file: safetensors headers, and torch `.bin` files without running pickles.

Both formats end as the same thing, a list of `Entry` (file, offset, dtype, shape), so that every later reader
is one `pread` into its own buffer and no file is ever mapped or loaded whole.
"""

from __future__ import annotations

import collections
import io
import json
import pickle
import struct
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

# dtype names are torch's; bfloat16 travels as uint16 and bool as uint8
SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
CODES = {name: code for code, name in SAFETENSORS_DTYPES.items()}
NUMPY_DTYPES = {name: np.dtype(name) for name in CODES if name not in ("bfloat16", "bool")}
NUMPY_DTYPES |= {"bfloat16": np.dtype(np.uint16), "bool": np.dtype(np.uint8)}
FLOATS = ("float16", "bfloat16", "float32", "float64")

_TORCH_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One stored tensor: `offset` in bytes from the start of `file`, contiguous in row-major order."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * NUMPY_DTYPES[self.dtype].itemsize


def safetensors_entries(path: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file in file order; every offset is checked against the file's length.

    Raises ValueError naming the file when the header or a tensor does not fit (a truncated or damaged file).
    """
    header, start = _safetensors_header(path)
    header.pop("__metadata__", None)
    length = path.stat().st_size
    entries = {}
    for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        if info["dtype"] not in SAFETENSORS_DTYPES:
            raise ValueError(
                f"{path}: tensor {name!r} is stored as {info['dtype']}; this reads {', '.join(SAFETENSORS_DTYPES)}. "
                "Quantised weights have no exact difference: use the unquantised checkpoint."
            )
        begin, end = info["data_offsets"]
        entry = Entry(path, start + begin, SAFETENSORS_DTYPES[info["dtype"]], tuple(info["shape"]))
        if end - begin != entry.nbytes or begin < 0:
            raise ValueError(
                f"{path}: damaged header: {name!r} needs {entry.nbytes} bytes but spans {end - begin}."
            )
        if start + end > length:
            raise ValueError(
                f"{path} is truncated: {name!r} ends at byte {start + end} but the file has {length}. "
                "Download or copy it again."
            )
        entries[name] = entry
    return entries


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The free-text metadata of a safetensors header."""
    return _safetensors_header(path)[0].get("__metadata__", {})


def _safetensors_header(path: Path) -> tuple[dict, int]:
    with open(path, "rb") as file:
        prefix = file.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= size <= min(100_000_000, path.stat().st_size - 8):
            raise ValueError(
                f"{path} is not a whole safetensors file (its header cannot be read). Download it again."
            )
        try:
            header = json.loads(file.read(size))
            for name, info in header.items():
                if name != "__metadata__":
                    info["dtype"], info["shape"], info["data_offsets"][1]  # the three fields that are used
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"{path}: damaged safetensors header ({error}). Download or copy it again."
            ) from error
    return header, 8 + size


def bin_entries(path: Path, inner: str | None = None) -> dict[str, Entry]:
    """The tensors of one `pytorch_model*.bin`, found without executing any code of its pickle.

    The pickle is walked by an unpickler that knows tensors and nothing else; anything else in it is an error.
    Two names of one storage (tied weights) become two entries with the same offset. `inner` names a dict within
    the file's dict, whose tensors are then the ones.

    Raises ValueError for pickles with foreign code, old (pre-1.6) files and tensors that are not contiguous.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a zip-based torch file (it is damaged, or written by torch < 1.6). "
            "Re-save it with a current torch, or use the safetensors version of the model."
        )
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in infos if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"{path}: expected one data.pkl in the archive, found {len(pickles)}.")
        root = pickles[0].removesuffix("data.pkl")
        order = archive.read(root + "byteorder").strip() if root + "byteorder" in infos else b"little"
        if order != b"little":
            raise ValueError(f"{path} was written on a big-endian machine; convert it to safetensors first.")
        state = _TensorUnpickler(io.BytesIO(archive.read(pickles[0])), path).load()
    if isinstance(state, dict) and inner is not None:
        state = state.get(inner)
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, expected a dict of tensors (a state dict).")
    starts = _data_starts(path, infos)
    length = path.stat().st_size
    entries = {}
    for name, tensor in state.items():
        if not isinstance(tensor, _StoredTensor):
            continue  # metadata such as _metadata or version numbers
        item = NUMPY_DTYPES[tensor.dtype].itemsize
        offset = starts[f"{root}data/{tensor.key}"] + tensor.offset * item
        entry = Entry(path, offset, tensor.dtype, tensor.shape)
        if offset + entry.nbytes > length:
            raise ValueError(
                f"{path} is truncated: {name!r} ends beyond the file. Download or copy it again."
            )
        entries[name] = entry
    return dict(sorted(entries.items(), key=lambda item: item[1].offset))


def _data_starts(path: Path, infos: dict[str, zipfile.ZipInfo]) -> dict[str, int]:
    """Byte at which each member's data begin: its local header has a length of its own."""
    starts = {}
    with open(path, "rb") as file:
        for name, info in infos.items():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{path}: {name} is compressed; re-save the file with torch.save.")
            file.seek(info.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
            starts[name] = info.header_offset + 30 + name_length + extra_length
    return starts


@dataclass(frozen=True)
class _StoredTensor:
    key: str
    dtype: str
    offset: int  # in elements
    shape: tuple[int, ...]


class _TensorUnpickler(pickle.Unpickler):
    """Builds `_StoredTensor` records; every name outside a short list is refused before it is looked up."""

    def __init__(self, file, path: Path):
        super().__init__(file, encoding="utf-8")
        self.path = path

    def persistent_load(self, pid):
        kind, storage, key, *_ = pid
        if kind != "storage" or storage not in CODES:
            raise ValueError(f"{self.path}: storage of unknown type {storage!r}.")
        return storage, str(key)

    def find_class(self, module: str, name: str):
        if module in ("torch", "torch.storage") and name in _TORCH_STORAGES:
            return _TORCH_STORAGES[name]
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        raise ValueError(
            f"{self.path} asks to import {module}.{name}, which a file of tensors has no need for; "
            "it was not run. Use a safetensors version of the model from a source you trust."
        )

    def _tensor(self, storage, offset, shape, stride, *_):
        dtype, key = storage
        expected = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
        contiguous = all(
            size == 1 or have == want for size, have, want in zip(shape, stride, expected, strict=True)
        )
        if not contiguous and prod(shape):
            raise ValueError(f"{self.path} holds a transposed tensor; re-save it with contiguous tensors.")
        return _StoredTensor(key, dtype, offset, tuple(shape))
