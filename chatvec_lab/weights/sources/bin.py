"""Where each tensor lies in a torch `.bin` file, found without running its pickle."""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import struct
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from chatvec_lab.weights.sources.files import CODES, NUMPY_DTYPES, Entry

_LARGEST_PICKLE = 256_000_000  # bytes; that of a model with 100,000 tensors has some 20 MB

_TORCH_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
}  # fmt: skip


class _Refused(ValueError):
    """A refusal that already names its file."""


def bin_entries(path: Path, inner: str | None = None) -> dict[str, Entry]:
    """The tensors of one `pytorch_model*.bin`, found without executing any code of its pickle.

    The pickle is walked by an unpickler that knows tensors and nothing else; anything else in it is an error.
    Two names of one storage (tied weights) become two entries with the same offset. `inner` names a dict within
    the file's dict, whose tensors are then the ones. Nothing is unpacked: torch stores its members as they are.

    Raises ValueError for pickles with foreign code, old (pre-1.6) files, tensors that are not contiguous or longer
    than their storage, and damaged files.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a zip-based torch file (it is damaged, or written by torch < 1.6). "
            "Re-save it with a current torch, or use the safetensors version of the model."
        )
    try:
        return _entries(path, inner)
    except _Refused:
        raise
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile and pickle raise almost any kind for damaged bytes
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}). Download or copy it again."
        ) from error


def _entries(path: Path, inner: str | None) -> dict[str, Entry]:
    with zipfile.ZipFile(path) as archive:
        listed = archive.infolist()
        infos = {info.filename: info for info in listed}
        if len(infos) < len(listed):
            raise _Refused(f"{path} is damaged: its archive names a member twice. Download or copy it again.")
        starts = _data_starts(path, infos)
        pickles = [name for name in infos if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise _Refused(f"{path}: expected one data.pkl in the archive, found {len(pickles)}.")
        if infos[pickles[0]].file_size > _LARGEST_PICKLE:
            raise _Refused(
                f"{path}: its data.pkl has {infos[pickles[0]].file_size:,} bytes, more than any list of tensors needs "
                f"({_LARGEST_PICKLE:,}). Use a safetensors version of the model."
            )
        root = pickles[0].removesuffix("data.pkl")
        order = archive.read(root + "byteorder").strip() if root + "byteorder" in infos else b"little"
        if order != b"little":
            raise _Refused(f"{path} was written on a big-endian machine; convert it to safetensors first.")
        content = archive.read(pickles[0])
    _check_opcodes(content, path)
    state = _TensorUnpickler(io.BytesIO(content), path).load()
    if isinstance(state, dict) and inner is not None:
        state = state.get(inner)
    if not isinstance(state, dict):
        raise _Refused(f"{path} holds a {type(state).__name__}, expected a dict of tensors (a state dict).")
    inside = [key for key, value in state.items() if _is_state(value)]
    if inside and not _is_state(state):
        raise _Refused(
            f"{path} holds its tensors one level down, in {inside[0]!r}, as the checkpoint of a training does; transformers "
            "finds none of them. Save that dict alone, or the model with save_pretrained."
        )
    entries = {}
    for name, tensor in state.items():
        if not isinstance(tensor, _StoredTensor):
            continue  # metadata such as _metadata or version numbers
        if not isinstance(name, str):
            raise _Refused(f"{path}: a tensor is named {name!r}, expected a text. Download or copy it again.")
        member = f"{root}data/{tensor.key}"
        entries[name] = _entry(path, name, tensor, starts[member], infos[member].file_size)
    return dict(sorted(entries.items(), key=lambda item: item[1].offset))


def _is_state(value: Any) -> bool:
    """Whether something is a dict with tensors in it."""
    return isinstance(value, dict) and any(isinstance(entry, _StoredTensor) for entry in value.values())


def _entry(path: Path, name: str, tensor: _StoredTensor, start: int, size: int) -> Entry:
    """The place of one tensor, which must lie within its own storage of `size` bytes."""
    item = NUMPY_DTYPES[tensor.dtype].itemsize
    entry = Entry(path, start + tensor.offset * item, tensor.dtype, tensor.shape)
    if tensor.elements * item != size:
        raise _Refused(
            f"{path}: the storage of {name!r} should have {tensor.elements * item} bytes and has {size}. "
            "Download or copy it again."
        )
    if entry.nbytes and tensor.offset * item + entry.nbytes > size:
        raise _Refused(
            f"{path}: {name!r} is longer than its storage ({tensor.offset * item + entry.nbytes} bytes of {size}). "
            "Download or copy it again."
        )
    return entry


def _data_starts(path: Path, infos: dict[str, zipfile.ZipInfo]) -> dict[str, int]:
    """Byte at which each member's data begin: its local header has a length of its own."""
    starts, length = {}, path.stat().st_size
    with open(path, "rb") as file:
        for name, info in infos.items():
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise _Refused(f"{path}: {name} is compressed; re-save the file with torch.save.")
            file.seek(info.header_offset)
            local = file.read(30)
            signature, name_length, extra_length = struct.unpack("<4s22xHH", local)
            starts[name] = info.header_offset + 30 + name_length + extra_length
            if signature != b"PK\x03\x04" or file.read(name_length) != info.orig_filename.encode("utf-8"):
                raise _Refused(
                    f"{path} is damaged: {name} does not begin where the archive says. Download or copy it again."
                )
            if starts[name] + info.file_size > length:
                raise _Refused(
                    f"{path} is truncated: {name} ends beyond the file. Download or copy it again."
                )
    return starts


def _check_opcodes(content: bytes, path: Path) -> None:
    """Refuse memo numbers for which the unpickler would reserve more memory than the pickle can use."""
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and isinstance(argument, int) and not 0 <= argument <= len(content):
            raise _Refused(f"{path} is damaged (a memo number of {argument}). Download or copy it again.")


@dataclass(frozen=True)
class _StoredTensor:
    key: str
    dtype: str
    elements: int  # of the whole storage
    offset: int  # in elements
    shape: tuple[int, ...]


class _TensorUnpickler(pickle.Unpickler):
    """Builds `_StoredTensor` records; every name outside a short list is refused before it is looked up."""

    def __init__(self, file, path: Path):
        super().__init__(file, encoding="utf-8")
        self.path = path

    def persistent_load(self, pid):
        kind, storage, key, _, elements = pid
        if kind != "storage" or storage not in CODES or type(elements) is not int or elements < 0:
            raise _Refused(f"{self.path}: storage of unknown type {storage!r}.")
        return storage, str(key), elements

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
        if module == "torch._utils" and name.startswith("_rebuild_"):
            raise _Refused(
                f"{self.path} holds a tensor of a kind that is not read from this format ({name}: 8-bit floats, sparse or "
                "quantised ones). Save the model as safetensors."
            )
        raise _Refused(
            f"{self.path} asks to import {module}.{name}, which a file of tensors has no need for; "
            "it was not run. Use a safetensors version of the model from a source you trust."
        )

    def _tensor(self, storage, offset, shape, stride, *_: Any):
        dtype, key, elements = storage
        numbers = [offset, *shape, *stride]
        if len(shape) != len(stride) or any(type(n) is not int or not 0 <= n < 1 << 63 for n in numbers):
            raise _Refused(
                f"{self.path} is damaged: a tensor has the shape {shape!r} and the strides {stride!r}. "
                "Download or copy it again."
            )
        expected = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
        contiguous = all(
            size == 1 or have == want for size, have, want in zip(shape, stride, expected, strict=True)
        )
        if not contiguous and prod(shape):
            raise _Refused(f"{self.path} holds a transposed tensor; re-save it with contiguous tensors.")
        return _StoredTensor(key, dtype, elements, offset, tuple(shape))
