"""The tensors of a GGUF file: transformers' names, row order and dtypes, checked against the file.

Query and key rows of a Llama are permuted in the file, and come back in order here; norms that are stored with 1 added
come back without; blocks are dequantised to float32 as they are read. A stack of experts comes back as one tensor an
expert, as the model's own files have them. Other architectures are in `gguf_others`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from chatvec_lab.weights.sources.files import NUMPY_DTYPES, Entry, Stored
from chatvec_lab.weights.sources.gguf_others import ARCHITECTURES, Mapped, mapped

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "block_sparse_moe.gate",
}  # fmt: skip
# widths of the experts, by whose rows they are
_INNER = {"moe_intermediate_size": "exps", "shared_expert_intermediate_size": "shexp"}
_STACK = re.compile(r"blk\.(\d+)\.ffn_(gate|up|down)_exps\.weight")
# what an expert of Mixtral (a Llama with experts) calls its three matrices
_MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}
_NATIVE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
EMBEDDING = "model.embed_tokens.weight"
# constants that llama.cpp derives from the rope settings
_IGNORED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True)
class Heads:
    """The attention geometry by which query and key rows are permuted in the file."""

    hidden: int
    query: int
    key: int
    size: int


@dataclass(frozen=True)
class Held:
    """Where a tensor is in the file: in one of the reader's, whole, or as one of the experts stacked there."""

    tensor: Any
    expert: int | None = None

    @property
    def kind(self):
        return self.tensor.tensor_type

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(int(n) for n in reversed(self.tensor.shape))
        if self.tensor.name.endswith("ffn_gate_inp_shexp.weight"):  # stored without its one row
            return (1, *shape)
        return shape if self.expert is None else shape[1:]

    @property
    def offset(self) -> int:
        stack = int(self.tensor.shape[-1]) if self.expert is not None else 1
        return int(self.tensor.data_offset) + int(self.tensor.n_bytes) // stack * (self.expert or 0)

    def rows(self) -> np.ndarray:
        """All its rows as bytes of the file, (rows, bytes); mapped, not read."""
        data, shape = self.tensor.data, self.shape
        if self.expert is not None:
            data = data[self.expert]
        return data.reshape(prod(shape) // (shape[-1] if len(shape) > 1 else 1), -1)


class GGUFTensors:
    """The tensors of one GGUF file under transformers' names (see `Tensors`)."""

    def __init__(self, path: Path, reader, field):
        self.path = path
        self.mapped = _mapped(path, reader, field)  # None: a Llama
        self.experts = field(f"{field('general.architecture')}.expert_count", 0, int)
        self._tensors, self.scales_rotary = _named(path, reader, self.mapped, self.experts)
        _check_kinds(path, self._tensors)
        self._stored = Stored(
            {
                name: Entry(path, held.offset, _NATIVE.get(held.kind.name, "float32"), held.shape)
                for name, held in self._tensors.items()
            }
        )  # fmt: skip
        _check_places(path, reader)
        self.heads = None if self.mapped else _heads(path, field, self._stored)
        self.formats = ", ".join(sorted({held.kind.name for held in self._tensors.values()} - set(_NATIVE)))
        self.note = f"dequantised from {self.formats}" if self.formats else ""

    @property
    def names(self) -> list[str]:
        return self._stored.names

    def dtype(self, name: str) -> str:
        return self._stored.dtype(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored.shape(name)

    def file(self, name: str) -> str:
        return self._stored.file(name)

    def place(self, name: str) -> Hashable:
        return self._stored.place(name)

    def quantised(self, name: str) -> str:
        self._stored.entry(name)
        kind = self._tensors[name].kind.name
        return "" if kind in _NATIVE else kind

    def stored_dtype(self, name: str) -> str:
        return self.quantised(name) or self.dtype(name)

    def noise(self, name: str, start: int, stop: int) -> float:
        """See `Tensors`; from the steps of each block, NaN for formats whose values are not evenly spaced."""
        kind = self.quantised(name)
        if not kind:
            return 0.0
        width = self.shape(name)[-1]
        first, last = start // width, max(start // width + 1, -(-stop // width))
        rows = np.arange(first, last)
        return (
            noise_of(self._rows(name, rows), self._tensors[name].kind) * (stop - start) / (rows.size * width)
        )

    def fingerprint(self) -> str:
        return self._stored.fingerprint()

    def check(self) -> None:
        self._stored.check()

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        entry = self._stored.entry(name)
        kind = self._tensors[name].kind
        heads = self._permuted_heads(name)
        if self._has_one_added(name):
            if kind.name != "F32":
                raise ValueError(f"{self.path.name}: {name} is stored as {kind.name}, expected F32.")
            view = self._stored.fill(name, start, stop, out)
            view -= np.float32(1)
            return view
        if heads is None and kind.name in _NATIVE:
            return self._stored.fill(name, start, stop, out)
        width = entry.shape[-1] if len(entry.shape) > 1 else 1
        first, last = start // width, -(-stop // width)
        stored = self._rows(name, np.arange(first, last))
        view = out[: stop - start]
        view[:] = _values(stored, kind).reshape(-1)[start - first * width : stop - first * width]
        return view

    def _has_one_added(self, name: str) -> bool:
        """Whether the file holds a tensor plus 1, as llama.cpp stores the norms of some architectures."""
        return bool(self.mapped and self.mapped.adds_one and name.endswith("norm.weight"))

    def _rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Rows of a tensor as the file's bytes, (rows, bytes)."""
        entry, heads = self._stored.entry(name), self._permuted_heads(name)
        stored = self._tensors[name].rows()
        return stored[rows if heads is None else _row_in_file(rows, entry, heads)]

    def _permuted_heads(self, name: str) -> int | None:
        """The number of heads by which a tensor's rows are permuted in the file; None where they are in order."""
        if self.heads is None:
            return None
        if ".self_attn.q_proj." in name:
            return self.heads.query
        return self.heads.key if ".self_attn.k_proj." in name else None


def _mapped(path: Path, reader, field) -> Mapped | None:
    """transformers' word on a file that is no Llama; ValueError for an architecture that is not known."""
    architecture = field("general.architecture")
    if architecture != "llama" and architecture not in ARCHITECTURES:
        raise ValueError(
            f"{path.name} is of the architecture {architecture!r}; only 'llama' (Llama, Mistral), "
            f"{', '.join(map(repr, sorted(ARCHITECTURES)))} are mapped to transformers' names. Use the model's "
            "safetensors."
        )
    if field(f"{architecture}.expert_count", 0) and architecture not in ("llama", "qwen2moe", "qwen3moe"):
        raise ValueError(
            f"{path.name} has experts, which are mapped for Mixtral, Qwen2-MoE and Qwen3-MoE alone. Use its safetensors."
        )
    if architecture == "llama":
        return None
    rows = {t.name: int(t.shape[1]) for t in reader.tensors if len(t.shape) > 1}
    size = field(f"{architecture}.attention.key_length", None, int)
    own = {"vocab_size": rows.get("token_embd.weight", 0), "head_dim": size}
    if architecture.endswith("moe"):
        own |= {key: rows.get(f"blk.0.ffn_gate_{part}.weight") for key, part in _INNER.items()}
        own["norm_topk_prob"] = architecture == "qwen3moe"  # as llama.cpp computes; the file does not say
    return mapped(path, architecture, {key: value for key, value in own.items() if value is not None})


def _named(path: Path, reader, known: Mapped | None, experts: int) -> tuple[dict[str, Held], bool]:
    """transformers' name to what holds it, and whether the file scales its rotary frequencies."""
    found, unknown, scales = {}, [], False
    for tensor in reader.tensors:
        stack = _STACK.fullmatch(tensor.name)
        if stack:
            if len(tensor.shape) != 3 or int(tensor.shape[-1]) != experts:
                raise ValueError(
                    f"{path} is damaged: {tensor.name} has the shape {tuple(int(n) for n in reversed(tensor.shape))}, and "
                    f"the file's metadata say {experts} experts. Download it again."
                )
            held = {_expert(known, *stack.groups(), e): Held(tensor, e) for e in range(experts)}
        else:
            name = known.names.get(tensor.name) if known else _hf_name(tensor.name)
            held = {name: Held(tensor)} if name is not None else {}
        if set(held) & set(found):
            raise ValueError(f"{path} is damaged: it names {tensor.name} twice. Download it again.")
        found |= held
        if tensor.name in _IGNORED:
            scales = True
        elif not held:
            unknown.append(tensor.name)
    if unknown:
        raise ValueError(
            f"{path.name}: {len(unknown)} tensors have no name in transformers: {', '.join(unknown[:8])}."
        )
    if EMBEDDING not in found:
        raise ValueError(f"{path} holds no token_embd.weight: it is damaged or no model. Download it again.")
    return found, scales


def _check_kinds(path: Path, tensors: dict[str, Held]) -> None:
    """Refuse formats that gguf has no dequantising of, and whole numbers where weights stand."""
    from gguf import GGML_QUANT_SIZES

    for name, held in tensors.items():
        try:
            _values(np.zeros((1, GGML_QUANT_SIZES[held.kind][1]), np.uint8), held.kind)
        except NotImplementedError as error:
            raise ValueError(
                f"{path.name}: {name} is stored as {held.kind.name}, of which the package gguf reads no values. Use a file "
                "of another format, or the model's safetensors."
            ) from error


def _expert(known: Mapped | None, layer: str, part: str, expert: int) -> str:
    """The name of one expert's matrix in the model's own files."""
    if known is None:
        return f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{_MIXTRAL[part]}.weight"
    return f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"


def _check_places(path: Path, reader) -> None:
    """Each tensor begins where the one before it ends, but for padding, as llama.cpp demands."""
    end, step = int(reader.data_offset), int(reader.alignment)
    for tensor in sorted(reader.tensors, key=lambda t: int(t.data_offset)):
        if int(tensor.data_offset) != end:
            raise ValueError(
                f"{path} is damaged: {tensor.name} begins at byte {int(tensor.data_offset)}, expected {end}. "
                "Download it again."
            )
        last = end + int(tensor.n_bytes)
        end = -(-last // step) * step
    size = path.stat().st_size
    if not last <= size <= max(last, end):
        raise ValueError(
            f"{path} is damaged: its tensors end at byte {last}, the file at {size}. Download it again."
        )


def _heads(path: Path, field, stored: Stored) -> Heads:
    """The number of heads, checked against the rows of every query and key projection."""
    get = lambda key, default=None: field(f"llama.{key}", default, int)  # noqa: E731
    hidden, query = get("embedding_length"), get("attention.head_count")
    if not hidden or not query or hidden < 0 or query < 0:
        raise ValueError(
            f"{path}: embedding_length is {hidden} and head_count {query}, expected positive. Download it again."
        )
    key = get("attention.head_count_kv", query)
    size = get("attention.key_length", get("rope.dimension_count", hidden // query))
    for name in stored.names:
        heads = query if ".q_proj." in name else key if ".k_proj." in name else None
        rows = stored.shape(name)[0] if stored.shape(name) else 0
        if heads is not None and (rows != heads * size or size % 2 or size <= 0):
            raise ValueError(
                f"{path}: {name} has {rows} rows, which are not {heads} heads of {size}, as its metadata say; they "
                "cannot be put in order. Download it again, or use the model's safetensors."
            )
    if stored.shape(EMBEDDING)[-1] != hidden:
        raise ValueError(
            f"{path}: embedding_length is {hidden}, but the embedding has the shape {stored.shape(EMBEDDING)}. "
            "Download it again."
        )
    return Heads(hidden, query, key, size)


def _hf_name(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{kind}"
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if match and match[2] in _LAYER:
        return f"model.layers.{match[1]}.{_LAYER[match[2]]}.{kind}"
    return None


def _row_in_file(rows: np.ndarray, entry: Entry, heads: int) -> np.ndarray:
    """llama.cpp interleaves the two halves of each head: row t * half + j of a head lies at 2 * j + t."""
    size = entry.shape[0] // heads
    head, inside = np.divmod(rows, size)
    half, j = np.divmod(inside, size // 2)
    return head * size + 2 * j + half


def _values(stored: np.ndarray, kind) -> np.ndarray:
    """Raw elements of a native type, float32 of a block format."""
    if kind.name in _NATIVE:
        return np.ascontiguousarray(stored).view(NUMPY_DTYPES[_NATIVE[kind.name]])
    from gguf import dequantize

    return dequantize(stored, kind)


# where in a block the codes lie, and the byte that makes each of them 1: with zeros there instead, the difference of
# the two is one step
_CODES = {
    "Q8_0": (2, 34, 0x01), "Q4_0": (2, 18, 0x11), "Q4_1": (4, 20, 0x11), "Q5_0": (6, 22, 0x11),
    "Q5_1": (8, 24, 0x11), "Q2_K": (16, 80, 0x55), "Q3_K": (32, 96, 0x55), "Q4_K": (16, 144, 0x11),
    "Q5_K": (48, 176, 0x11), "Q6_K": (0, 128, 0x11),
}  # fmt: skip


def noise_of(stored: np.ndarray, kind) -> float:
    """The sum of squares that rounding to evenly spaced values is expected to take: a twelfth of each squared step."""
    from gguf import GGML_QUANT_SIZES, dequantize

    if kind.name not in _CODES:
        return float("nan")
    first, last, one = _CODES[kind.name]
    blocks = np.ascontiguousarray(stored).view(np.uint8).reshape(-1, GGML_QUANT_SIZES[kind][1])
    values = []
    for byte in (one, 0):
        changed = blocks.copy()
        changed[:, first:last] = byte
        values.append(dequantize(changed, kind).astype(np.float64))
    return float(np.square(values[0] - values[1]).sum()) / 12
