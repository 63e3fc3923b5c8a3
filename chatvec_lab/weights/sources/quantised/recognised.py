"""Which checkpoints are quantised: by the config (any method that it names) and by what is stored.

The latter are 8-bit floats, packed integers, and the scales and tables that the known formats put beside them. What is
not read (see `opened`) is refused by name: packed integers have no difference that means anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatvec_lab.weights.sources.files import FLOATS, Tensors, read_json


class NotRead(ValueError):
    """Why a quantised checkpoint is not read: what its files say that this code does not know, or lack."""


CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
_CONFIG_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
    "quantization_config.json": "a quantisation of its own",
    "quanto_qmap.json": "quanto",
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
    ("AWQ or SmoothQuant of ModelOpt", re.compile(r"\.pre_quant_scale$")),
    ("HQQ", re.compile(r"\.W_q$")),
    ("Quanto or torchao", re.compile(r"weight[.:_]*_(?:data|qdata|scale|zero_point)$")),
)
# integers of these names are masks, positions and counters, of any model
_PLAIN = re.compile(
    r"(?:bias|.*mask(?:ed)?(?:_bias)?|.*(?:positions?|index|indices|ids|(?<!q)idxs?|tid2eid|buckets|count|tracked))$"
)


def quantisation(config: Mapping[str, Any], tensors: Tensors, folder: Path | None = None) -> str:
    """How a checkpoint is quantised, in words, with what shows it; "" where nothing shows that it is."""
    stored = _by_content(tensors)
    for where, method, found in _statements(config, folder):
        told = f"{_in_words(method, found)} by {where}"
        return f"{told}; {stored}" if stored else f"{told}, though no quantised tensor is stored"
    return stored


def refusal(label: str, how: str, why: str = "") -> str:
    """The one paragraph for a member that is quantised and not read."""
    if how.endswith("no quantised tensor is stored"):
        return (
            f"{label} is quantised: {how}. If its weights are whole, take the entry out of the config; otherwise use "
            "the unquantised checkpoint."
        )
    reason = f" and is not read: {why}" if why else ""
    return (
        f"{label} is quantised ({how}){reason}. Use the unquantised checkpoint (or dequantise it with the tool that "
        "made it, and save that)."
    )


def stated(config: Mapping[str, Any], folder: Path | None) -> tuple[str, str, Mapping[str, Any]]:
    """Where a quantisation is stated, its method, and what is stated; ("", "", {}) where none is."""
    return next(_statements(config, folder), ("", "", {}))


def whole_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what it says of a quantisation, for weights that have none any more."""
    kept = {key: value for key, value in config.items() if key not in CONFIG_KEYS}
    return {
        key: whole_config(value) if isinstance(value, dict) and stated(value, None)[0] else value
        for key, value in kept.items()
    }


def is_left_over(name: str, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor that no format has taken is of some quantisation."""
    return any(pattern.search(name) for _, pattern in _MARKS) or _is_packed(name, dtype, shape)


def _statements(
    config: Mapping[str, Any], folder: Path | None
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for where, key, found in _nested(config, "config.json"):
        yield where, _method(key, found), found if isinstance(found, Mapping) else {}
    for file, method in _CONFIG_FILES.items():
        if folder is not None and (folder / file).is_file():
            found = read_json(folder / file)
            found = found.get("quantization", found)
            found = found if isinstance(found, Mapping) else {}
            yield file, str(found.get("quant_method") or method), found


def _nested(config: Mapping[str, Any], where: str) -> Iterator[tuple[str, str, Any]]:
    for key in CONFIG_KEYS:  # a method that is named comes before MLX's, which names none
        if config.get(key):
            yield f"{where} ({key})", key, config[key]
    for key, value in config.items():
        if key not in CONFIG_KEYS and isinstance(value, Mapping):
            yield from _nested(value, f"{where}, {key}")


def _method(key: str, found: Any) -> str:
    if not isinstance(found, Mapping):
        return str(found)
    named = found.get("quant_method")
    if named:
        return str(named)
    if "config_groups" in found:
        return "compressed-tensors"
    if "group_size" in found and "bits" in found and "quant_algo" not in found:
        return "mlx"
    return "modelopt" if "quant_algo" in found else str(found.get("format") or "an unnamed method")


def _in_words(method: str, found: Mapping[str, Any]) -> str:
    algorithm = found.get("quant_algo") or (found.get("format") if method == "compressed-tensors" else None)
    bits = found.get("bits") or found.get("w_bit") or (4 if found.get("load_in_4bit") else None)
    return method + (f" {algorithm}" if algorithm else "") + (f", {bits} bits" if bits else "")


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
    if dtype in (*FLOATS, "complex64"):
        return False
    if dtype.startswith("float8"):
        return True
    last = name.rpartition(".")[2].lower()
    if last == "weight":
        return True
    # wide integers outside the layers are tables and counters; in a layer they may be codes, as QuIP#'s Qidxs are
    is_wide = dtype in ("int64", "uint64") and not re.search(r"\.\d+\.", name)
    return dtype != "bool" and not is_wide and len(shape) > 1 and not _PLAIN.match(last)
