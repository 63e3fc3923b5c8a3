"""A GGUF file as a source: `Checkpoint("model.gguf")`, with the names, shapes and row order of transformers.

Quantised tensors are dequantised to float32 as they are read, and the label, reports and manifests say so. Of the
architectures only llama is known (its query and key rows are permuted in the file, and come back in order here).
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chatvec_lab.weights.sources.files import NUMPY_DTYPES, Entry, Stored
from chatvec_lab.weights.vocabulary import Vocabulary

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_NATIVE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_EMBEDDING = "model.embed_tokens.weight"
_IGNORED = "rope_freqs.weight"  # a constant that llama.cpp derives from the rope settings


class GGUF:
    """One GGUF file (llama architecture) as a source; needs the package gguf.

    The file is mapped, unlike other sources. A tensor of a block format (Q8_0, Q4_K, ...) reads as float32; rows are
    dequantised on demand. `tensors.note` names the formats, "" for a file without any.

    Config, vocabulary, chat template and tokenizer come from the file's own metadata. As the CP of a merge it can be
    saved; `LiveModel` needs that saved model, since transformers reads weights from files of its own.

    Raises ImportError without gguf, ValueError for another architecture, experts, unknown tensors, damaged files.
    """

    quantisation = ""  # its blocks are dequantised as they are read; `tensors.note` says so

    def __init__(self, path: Path):
        self.path = path.resolve()

    def __reduce__(self):
        return GGUF, (self.path,)

    @property
    def label(self) -> str:
        formats = self.tensors.formats
        return self.path.name + (f" ({formats}, dequantised)" if formats else "")

    @cached_property
    def tensors(self) -> GGUFTensors:
        return GGUFTensors(self.path, self._reader, self.field)

    @cached_property
    def _reader(self):
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ImportError("GGUF files are read with gguf: pip install 'chatvec_lab[gguf]'") from error
        try:
            return GGUFReader(self.path)
        except Exception as error:  # the reader raises almost any kind for damaged bytes
            raise ValueError(
                f"{self.path} is damaged or no GGUF file ({error}). Download it again."
            ) from error

    def field(self, key: str, default: Any = None, kind: type | tuple[type, ...] = object) -> Any:
        """A value of the metadata; ValueError naming the file where it is of another kind or cannot be read."""
        field = self._reader.get_field(key)
        if field is None:
            return default
        try:
            value = field.contents()
        except Exception as error:  # as above
            raise ValueError(f"{self.path} is damaged: {key} cannot be read ({error}).") from error
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object):
            raise ValueError(f"{self.path} is damaged: {key} is {str(value)[:40]!r}. Download it again.")
        return value

    def _count(self, key: str, default: int | None = None) -> int:
        """A positive whole number of the llama metadata."""
        value = self.field(f"llama.{key}", default, int)
        if value is None or value <= 0:
            raise ValueError(
                f"{self.path}: llama.{key} is {value}, expected a positive number. Download it again."
            )
        return value

    @cached_property
    def config(self) -> dict[str, Any]:
        """transformers' config for the file's metadata (LlamaForCausalLM)."""
        names, heads = self.tensors.names, self.tensors.heads
        real = (int, float)
        epsilon = self.field("llama.attention.layer_norm_rms_epsilon", None, real)
        if epsilon is None:
            raise ValueError(f"{self.path} has no llama.attention.layer_norm_rms_epsilon. Download it again.")
        config = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": heads.hidden,
            "num_hidden_layers": self._count("block_count"),
            "intermediate_size": self._count("feed_forward_length"),
            "num_attention_heads": heads.query, "num_key_value_heads": heads.key, "head_dim": heads.size,
            "rms_norm_eps": float(str(np.float32(epsilon))),
            "rope_parameters": {"rope_type": "default",
                                "rope_theta": float(self.field("llama.rope.freq_base", 10000.0, real))},
            "max_position_embeddings": self._count("context_length"),
            "vocab_size": self.tensors.shape(_EMBEDDING)[0],
            "tie_word_embeddings": "lm_head.weight" not in names,
            "attention_bias": any(n.endswith("q_proj.bias") for n in names),
            "mlp_bias": any(n.endswith("up_proj.bias") for n in names), "dtype": "float32",
        }  # fmt: skip
        for key in ("bos", "eos"):
            row = self.field(f"tokenizer.ggml.{key}_token_id", None, int)
            if row is not None:
                config[f"{key}_token_id"] = row
        if self.tensors.scales_rotary or self.field("llama.rope.scaling.type") not in (None, "none"):
            warnings.warn(
                f"{self.path.name} scales its rotary frequencies, which cannot be told from the file in transformers' "
                "terms: copy rope_parameters from the original's config.json into that of a saved merge.",
                UserWarning,
                stacklevel=2,
            )
        return config

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        tokens = self.field("tokenizer.ggml.tokens", None, list)
        if not tokens:
            return None
        if not all(isinstance(token, str) for token in tokens):
            raise ValueError(f"{self.path} is damaged: a token of tokenizer.ggml.tokens is no text.")
        kinds = self.field("tokenizer.ggml.token_type", None, list) or [1] * len(tokens)
        if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
            raise ValueError(
                f"{self.path} is damaged: {len(tokens)} tokens, {len(set(tokens))} of them different, with "
                f"{len(kinds)} types. Download it again."
            )
        special = (
            t for t, kind in zip(tokens, kinds, strict=True) if kind in (2, 3, 4)
        )  # unknown, control, added
        return Vocabulary({token: row for row, token in enumerate(tokens)}, frozenset(special))

    @cached_property
    def chat_template(self) -> str | None:
        return self.field("tokenizer.chat_template", None, str)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        by_row = self.vocabulary.by_row if self.vocabulary else {}
        rows = {key: self.field(f"tokenizer.ggml.{key}_token_id", None, int) for key in ("bos", "eos")}
        return {f"{key}_token": by_row[row] for key, row in rows.items() if row in by_row}

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        return {key: self.config[key] for key in ("bos_token_id", "eos_token_id") if key in self.config}

    def open_tokenizer(self):
        """The tokenizer as transformers rebuilds it from the file. Raises ValueError where it cannot."""
        from chatvec_lab.opening import open_tokenizer

        try:
            return open_tokenizer(self.path.parent, gguf_file=self.path.name)
        except Exception as error:  # transformers raises many kinds for tokenizers that it does not know
            raise ValueError(
                f"transformers cannot rebuild the tokenizer of {self.path.name} ({error}); "
                "use that of the original model."
            ) from error

    @cached_property
    def folder(self) -> Path:
        """A temporary folder with config and tokenizer in transformers' files; it lives as long as this object."""
        self._temporary = tempfile.TemporaryDirectory(prefix="chatvec_lab-gguf-")
        folder = Path(self._temporary.name)
        if self.vocabulary is not None:
            try:
                self.open_tokenizer().save_pretrained(folder)
            except ValueError as error:
                warnings.warn(f"{error} A saved merge will have none.", UserWarning, stacklevel=2)
        (folder / "config.json").write_text(json.dumps(self.config, indent=2), "utf-8")
        return folder


@dataclass(frozen=True)
class Heads:
    """The attention geometry by which query and key rows are permuted in the file."""

    hidden: int
    query: int
    key: int
    size: int


class GGUFTensors:
    """The tensors of one GGUF file under transformers' names (see `Tensors`)."""

    def __init__(self, path: Path, reader, field):
        self.path = path
        self._tensors, self.scales_rotary = _named(path, reader, field)
        self._stored = Stored(
            {
                name: Entry(
                    path, int(t.data_offset), _NATIVE.get(t.tensor_type.name, "float32"),
                    tuple(int(n) for n in reversed(t.shape)),
                )
                for name, t in self._tensors.items()
            }
        )  # fmt: skip
        _check_places(path, reader)
        self.heads = _heads(path, field, self._stored)
        self.formats = ", ".join(sorted({t.tensor_type.name for t in self._tensors.values()} - set(_NATIVE)))
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

    def fingerprint(self) -> str:
        return self._stored.fingerprint()

    def check(self) -> None:
        self._stored.check()

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        entry = self._stored.entry(name)
        tensor = self._tensors[name]
        heads = self._permuted_heads(name)
        if heads is None and tensor.tensor_type.name in _NATIVE:
            return self._stored.fill(name, start, stop, out)
        width = entry.shape[-1] if len(entry.shape) > 1 else 1
        first, last = start // width, -(-stop // width)
        rows = np.arange(first, last)
        stored = tensor.data.reshape(entry.size // width, -1)[
            rows if heads is None else _row_in_file(rows, entry, heads)
        ]
        view = out[: stop - start]
        view[:] = _values(stored, tensor.tensor_type).reshape(-1)[
            start - first * width : stop - first * width
        ]
        return view

    def _permuted_heads(self, name: str) -> int | None:
        """The number of heads by which a tensor's rows are permuted in the file; None where they are in order."""
        if ".self_attn.q_proj." in name:
            return self.heads.query
        return self.heads.key if ".self_attn.k_proj." in name else None


def _named(path: Path, reader, field) -> tuple[dict[str, Any], bool]:
    """transformers' name to the reader's tensor, and whether the file scales its rotary frequencies."""
    architecture = field("general.architecture")
    if architecture != "llama":
        raise ValueError(
            f"{path.name} is of the architecture {architecture!r}; only 'llama' (Llama, Mistral) is mapped to "
            "transformers' names. Use the model's safetensors."
        )
    if field("llama.expert_count", 0):
        raise ValueError(
            f"{path.name} has experts, whose stacked tensors are not mapped. Use its safetensors."
        )
    found, unknown, scales = {}, [], False
    for tensor in reader.tensors:
        name = _hf_name(tensor.name)
        if name in found:
            raise ValueError(f"{path} is damaged: it names {tensor.name} twice. Download it again.")
        if name is not None:
            found[name] = tensor
        elif tensor.name == _IGNORED:
            scales = True
        else:
            unknown.append(tensor.name)
    if unknown:
        raise ValueError(
            f"{path.name}: {len(unknown)} tensors have no name in transformers: {', '.join(unknown[:8])}."
        )
    if _EMBEDDING not in found:
        raise ValueError(f"{path} holds no token_embd.weight: it is damaged or no model. Download it again.")
    return found, scales


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
    if stored.shape(_EMBEDDING)[-1] != hidden:
        raise ValueError(
            f"{path}: embedding_length is {hidden}, but the embedding has the shape {stored.shape(_EMBEDDING)}. "
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
