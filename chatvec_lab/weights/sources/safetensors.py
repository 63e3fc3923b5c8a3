"""Where each tensor lies in a safetensors file, by its header, which must be as strict as the library's own."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

from chatvec_lab.weights.sources.files import NUMPY_DTYPES, SAFETENSORS_DTYPES, Entry

_LARGEST_HEADER = 100_000_000  # bytes, as in the library


def safetensors_entries(path: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file in file order.

    The tensors must fill the file behind its header without a gap or an overlap, as the format demands.
    Raises ValueError naming the file when the header or a tensor does not fit (a truncated or damaged file).
    """
    header, start = _header(path)
    found = sorted(
        (_entry(path, name, info, start) for name, info in header.items() if name != "__metadata__"),
        key=lambda item: (item[1].offset, item[1].nbytes),
    )
    length, position, before = path.stat().st_size, start, None
    for name, entry in found:
        if entry.offset != position:
            kind = "overlaps" if entry.offset < position else "leaves a gap behind"
            raise ValueError(
                f"{path}: damaged header: {name!r} begins at byte {entry.offset - start} of the data, expected "
                f"{position - start}: it {kind} {before!r}. Download or copy it again."
                if before
                else f"{path}: damaged header: the first tensor, {name!r}, begins at byte {entry.offset - start} of "
                "the data, expected 0. Download or copy it again."
            )
        position, before = entry.offset + entry.nbytes, name
    if position > length:
        raise ValueError(
            f"{path} is truncated: {before!r} ends at byte {position} but the file has {length}. "
            "Download or copy it again."
        )
    if position < length:
        raise ValueError(
            f"{path} has {length - position} bytes behind its last tensor, which its header does not name. "
            "Download or copy it again."
        )
    return dict(found)


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The free-text metadata of a safetensors header."""
    return _header(path)[0].get("__metadata__", {})


def header_bytes(path: Path) -> bytes:
    """The header as it is stored, with the eight bytes of its length. ValueError for a file that has none."""
    with open(path, "rb") as file:
        prefix = file.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= size <= min(_LARGEST_HEADER, path.stat().st_size - 8):
            raise ValueError(
                f"{path} is not a whole safetensors file (its header cannot be read). Download it again."
            )
        return prefix + file.read(size)


def _entry(path: Path, name: str, info: dict, start: int) -> tuple[str, Entry]:
    code, shape, (begin, end) = info["dtype"], info["shape"], info["data_offsets"]
    if code not in SAFETENSORS_DTYPES:
        raise ValueError(
            f"{path}: tensor {name!r} is stored as {code}; this reads {', '.join(SAFETENSORS_DTYPES)}. "
            "Quantised weights have no exact difference: use the unquantised checkpoint."
        )
    dtype = SAFETENSORS_DTYPES[code]
    needed = prod(shape) * NUMPY_DTYPES[dtype].itemsize
    if end - begin != needed:
        raise ValueError(
            f"{path}: damaged header: {name!r} needs {needed} bytes but spans {end - begin}. "
            "Download or copy it again."
        )
    return name, Entry(path, start + begin, dtype, tuple(shape))


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header, each field of the right kind, and the byte at which the data begin."""
    raw = header_bytes(path)[8:]
    try:
        if raw[:1] != b"{":
            raise ValueError("it does not begin with '{'")
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
        for name, info in header.items():
            _check_fields(name, info)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: damaged safetensors header ({error}). Download or copy it again."
        ) from error
    return header, 8 + len(raw)


def _check_fields(name: str, info: Any) -> None:
    if not isinstance(info, dict):
        raise ValueError(f"{name!r} is described by {type(info).__name__}, expected an object")
    if name == "__metadata__":
        if not all(isinstance(value, str) for value in info.values()):
            raise ValueError("its metadata hold something else than texts")
        return
    if set(info) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} has the fields {sorted(info)}, expected dtype, shape and data_offsets")
    if not isinstance(info["dtype"], str):
        raise ValueError(f"{name!r} has the dtype {info['dtype']!r}")
    for key in ("shape", "data_offsets"):
        numbers = info[key]
        # True is an int in Python, and none in the library
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise ValueError(f"{name!r} has the {key} {numbers!r}, expected whole numbers from 0")
    if len(info["data_offsets"]) != 2:
        raise ValueError(f"{name!r} has the data_offsets {info['data_offsets']!r}, expected two")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands in it twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")
