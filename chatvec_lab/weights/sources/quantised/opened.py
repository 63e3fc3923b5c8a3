"""Which format a quantised checkpoint has, and its tensors as the floats that they stand for; or why it is not read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from chatvec_lab.weights.sources.files import Tensors
from chatvec_lab.weights.sources.quantised.packed import Dequantised, Packed, Parts
from chatvec_lab.weights.sources.quantised.recognised import NotRead, is_left_over, stated

# quant_method, as configs call it, and the file here that reads it
METHODS = {
    "awq": "awq", "bitsandbytes": "bitsandbytes", "compressed-tensors": "compressed", "fbgemm_fp8": "fp8",
    "fp8": "fp8", "gptq": "gptq", "mlx": "mlx", "modelopt": "modelopt", "mxfp4": "mxfp4",
}  # fmt: skip
# what only the arithmetic of a quantised model needs: scales of what flows through it
_OF_ACTIVATIONS = re.compile(
    r"(?:^|\.|proj_)(?:input|output|activation|prob|[kqv]|kv)_(?:scale(?:_inv|_ub)?|zero_point|global_scale)$"
)
Read = Callable[[Parts, Mapping[str, Any]], dict[str, Packed]]


def dequantised(stored: Tensors, config: Mapping[str, Any], folder: Path | None) -> Dequantised:
    """The tensors of a checkpoint that is quantised; NotRead says what of it is not known here."""
    where, method, facts = stated(config, folder)
    if not where:
        raise NotRead("nothing in its config says how its numbers are to be read")
    if method not in METHODS:
        raise NotRead(f"{method} is none of the methods that are read here ({', '.join(sorted(METHODS))})")
    read: Read = import_module(f"chatvec_lab.weights.sources.quantised.{METHODS[method]}").read
    parts = Parts(stored)
    packed = read(parts, facts)
    taken = {member for entry in packed.values() for member in entry.members}
    twice = sorted(name for name in packed if name in parts.names - taken)
    if twice:
        raise NotRead(f"{twice[0]} is stored both whole and quantised")
    rest = [name for name in stored.names if name not in taken]
    dropped = tuple(name for name in rest if _OF_ACTIVATIONS.search(name))
    unknown = [n for n in rest if n not in dropped and is_left_over(n, stored.dtype(n), stored.shape(n))]
    if unknown:
        raise NotRead(
            f"{len(unknown)} of its tensors are not of the method {method}, such as {unknown[0]} "
            f"({stored.dtype(unknown[0])}, {stored.shape(unknown[0])})"
        )
    kinds = sorted({entry.kind for entry in packed.values()})
    return Dequantised(stored, packed, f"dequantised from {'; '.join(kinds)}", dropped)
