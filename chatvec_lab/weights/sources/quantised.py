"""Which checkpoints are quantised: packed integers have no difference that means anything, so they are refused by name.

Recognised by the config (any method that it names) and by what is stored (8-bit floats, packed integers, and the scales
and tables that the known formats put beside them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatvec_lab.weights.sources.files import FLOATS, Tensors, read_json

_CONFIG_KEYS = ("quantization_config", "compression_config")
_CONFIG_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
    "quantization_config.json": "a quantisation of its own",
    "quanto_qmap.json": "Quanto",
}
# what only a quantised tensor has beside it, by format; the first that is found names the format
_MARKS = (
    ("bitsandbytes", re.compile(r"\.(?:absmax|nested_absmax|quant_map|nested_quant_map|SCB|weight_format)$")),
    ("bitsandbytes", re.compile(r"\.quant_state\.")),
    ("GPTQ", re.compile(r"\.g_idx$")),
    ("GPTQ or AWQ", re.compile(r"\.(?:qweight|qzeros|wf)$")),
    ("compressed-tensors", re.compile(r"(?:^|\.)\w*weight_(?:packed|global_scale|zero_point|shape|g_idx)$")),
    ("FP8 with a scale a block", re.compile(r"_scale_inv$")),
    ("MXFP4", re.compile(r"(?:^|[._])\w*(?:proj|weight)_blocks$")),
    ("integers or FP8 with a scale", re.compile(r"weight_scales?(?:_2)?$")),
    ("HQQ", re.compile(r"\.W_q$")),
    ("Quanto or torchao", re.compile(r"weight[.:_]*_(?:data|qdata|scale|zero_point)$")),
)
# integers of these names are masks, positions and counters, of any model
_PLAIN = re.compile(
    r"(?:bias|.*mask(?:ed)?(?:_bias)?|.*(?:position|index|indices|ids|idx|tid2eid|buckets|count|tracked))$"
)


def quantisation(config: Mapping[str, Any], tensors: Tensors, folder: Path | None = None) -> str:
    """How a checkpoint is quantised, in words, with what shows it; "" where nothing shows that it is."""
    stored = _by_content(tensors)
    for where, found in _by_config(config, folder):
        if found and not stored:
            return f"{found} by {where}, though no quantised tensor is stored"
        if found:
            return f"{found} by {where}; {stored}"
    return stored


def refusal(label: str, how: str) -> str:
    """The one paragraph for a member that is quantised."""
    if how.endswith("no quantised tensor is stored"):
        return (
            f"{label} is quantised: {how}. If its weights are whole, take the entry out of the config; otherwise use "
            "the unquantised checkpoint."
        )
    return (
        f"{label} is quantised ({how}). Packed weights and their scales have no difference that could be added: use "
        "the unquantised checkpoint (or dequantise it with the tool that made it, and save that)."
    )


def _by_config(config: Mapping[str, Any], folder: Path | None) -> Iterator[tuple[str, str]]:
    for where, found in _nested(config, "config.json"):
        yield where, _method(found)
    for file, method in _CONFIG_FILES.items():
        if folder is not None and (folder / file).is_file():
            found = read_json(folder / file)
            yield file, _method(found.get("quantization", found), method)


def _nested(config: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key in _CONFIG_KEYS and value:
            yield f"{where} ({key})", value
        elif isinstance(value, Mapping):
            yield from _nested(value, f"{where}, {key}")


def _method(found: Any, otherwise: str = "an unnamed method") -> str:
    if not isinstance(found, Mapping):
        return str(found)
    method = found.get("quant_method") or found.get("quant_algo") or found.get("format") or otherwise
    bits = found.get("bits") or found.get("w_bit") or (4 if found.get("load_in_4bit") else None)
    return f"{method}{f', {bits} bits' if bits else ''}"


def _by_content(tensors: Tensors) -> str:
    names = tensors.names
    for format, pattern in _MARKS:
        found = [name for name in names if pattern.search(name)]
        if found:
            return f"{format}: {len(found)} tensors such as {found[0]!r}"
    packed = [name for name in names if _is_packed(name, tensors.dtype(name), tensors.shape(name))]
    if packed:
        return f"{len(packed)} tensors of packed numbers such as {packed[0]!r} ({tensors.dtype(packed[0])})"
    return ""


def _is_packed(name: str, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor that is not of an ordinary float type stands where weights stand."""
    if dtype in FLOATS:
        return False
    if dtype.startswith("float8"):
        return True
    last = name.rpartition(".")[2]
    if last == "weight":
        return True
    return dtype not in ("bool", "int64", "uint64") and len(shape) > 1 and not _PLAIN.match(last)
