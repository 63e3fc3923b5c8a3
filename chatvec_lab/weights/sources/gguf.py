"""A GGUF file as a checkpoint: `Checkpoint("model.gguf")`, with the names, shapes and row order of transformers.

Quantised tensors are dequantised to float32 as they are read, and the label, reports and manifests say so. Of the
architectures only llama is known (its query and key rows are permuted in the file, and come back in order here).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.vocabulary import Vocabulary

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_NATIVE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_IGNORED = "rope_freqs.weight"  # a constant that llama.cpp derives from the rope settings


class GGUF(Checkpoint):
    """The tensors of one GGUF file (llama architecture). Made by `Checkpoint("model.gguf")`; needs the package gguf.

    The file is mapped, unlike other sources. A tensor of a block format (Q8_0, Q4_K, ...) reads as float32; rows are
    dequantised on demand. `quantisation` names the formats, "" for a file without any.

    Config, vocabulary, chat template and tokenizer come from the file's own metadata. As the CP of a merge it can be
    saved; `LiveModel` needs that saved model, since transformers reads weights from files of its own.

    Raises ImportError without gguf, ValueError for another architecture, experts, or unknown tensors.
    """

    def __init__(self, source: str | os.PathLike, *, revision: str | None = None):
        self.source, self.revision = os.fspath(source), revision
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()
        if not Path(self.source).is_file():
            raise FileNotFoundError(
                f"no file {self.source!r}. A GGUF of the hub is downloaded first: hf download."
            )
        if revision is not None:
            raise ValueError(f"{self.source} is a file; it has no revision {revision!r}.")

    @property
    def path(self) -> Path:
        return Path(self.source).resolve()

    @property
    def label(self) -> str:
        return self.path.name + (f" ({self.quantisation}, dequantised)" if self.quantisation else "")

    @cached_property
    def _reader(self):
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ImportError("GGUF files are read with gguf: pip install 'chatvec_lab[gguf]'") from error
        try:
            return GGUFReader(self.path)
        except (ValueError, IndexError, KeyError) as error:
            raise ValueError(
                f"{self.path} is damaged or no GGUF file ({error}). Download it again."
            ) from error

    def _field(self, key: str, default: Any = None) -> Any:
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        """Name in transformers to the reader's tensor."""
        architecture = self._field("general.architecture")
        if architecture != "llama":
            raise ValueError(
                f"{self.path.name} is of the architecture {architecture!r}; only 'llama' (Llama, Mistral) is mapped to "
                "transformers' names. Use the model's safetensors."
            )
        if self._field("llama.expert_count", 0):
            raise ValueError(
                f"{self.path.name} has experts, whose stacked tensors are not mapped. Use its safetensors."
            )
        found, unknown = {}, []
        for tensor in self._reader.tensors:
            name = _hf_name(tensor.name)
            if name is not None:
                found[name] = tensor
            elif tensor.name != _IGNORED:
                unknown.append(tensor.name)
        if unknown:
            raise ValueError(
                f"{self.path.name}: {len(unknown)} tensors have no name in transformers: {', '.join(unknown[:8])}."
            )
        return found

    @cached_property
    def quantisation(self) -> str:
        """The block formats of the file, such as "Q4_K, Q6_K"; "" when every tensor is stored as it is."""
        return ", ".join(sorted({t.tensor_type.name for t in self._tensors.values()} - set(_NATIVE)))

    @cached_property
    def entries(self) -> dict[str, files.Entry]:
        return {
            name: files.Entry(
                self.path, int(t.data_offset), _NATIVE.get(t.tensor_type.name, "float32"),
                tuple(int(n) for n in reversed(t.shape)),
            )
            for name, t in self._tensors.items()
        }  # fmt: skip

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        entry, tensor = self._entry(name), self._tensors[name]
        heads = self._heads(name)
        if heads is None and tensor.tensor_type.name in _NATIVE:
            return super().fill(name, start, stop, out)
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

    def _heads(self, name: str) -> int | None:
        """The number of heads by which a tensor's rows are permuted in the file; None where they are in order."""
        if ".self_attn.q_proj." in name:
            return self.config["num_attention_heads"]
        return self.config["num_key_value_heads"] if ".self_attn.k_proj." in name else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """transformers' config for the file's metadata (LlamaForCausalLM)."""
        get = lambda key, default=None: self._field(f"llama.{key}", default)  # noqa: E731
        heads, hidden = int(get("attention.head_count")), int(get("embedding_length"))
        config = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
            "num_hidden_layers": int(get("block_count")), "intermediate_size": int(get("feed_forward_length")),
            "num_attention_heads": heads, "num_key_value_heads": int(get("attention.head_count_kv", heads)),
            "head_dim": int(get("attention.key_length", get("rope.dimension_count", hidden // heads))),
            "rms_norm_eps": float(str(np.float32(get("attention.layer_norm_rms_epsilon")))),
            "rope_parameters": {"rope_type": "default", "rope_theta": float(get("rope.freq_base", 10000.0))},
            "max_position_embeddings": int(get("context_length")), "vocab_size": self._rows,
            "tie_word_embeddings": "lm_head.weight" not in self._tensors,
            "attention_bias": any(n.endswith("q_proj.bias") for n in self._tensors),
            "mlp_bias": any(n.endswith("up_proj.bias") for n in self._tensors), "dtype": "float32",
        }  # fmt: skip
        for key in ("bos", "eos"):
            row = self._field(f"tokenizer.ggml.{key}_token_id")
            if row is not None:
                config[f"{key}_token_id"] = int(row)
        if any(t.name == _IGNORED for t in self._reader.tensors) or get("rope.scaling.type") not in (
            None,
            "none",
        ):
            warnings.warn(
                f"{self.path.name} scales its rotary frequencies, which cannot be told from the file in transformers' "
                "terms: copy rope_parameters from the original's config.json into that of a saved merge.",
                UserWarning,
                stacklevel=2,
            )
        return config

    @property
    def _rows(self) -> int:
        return int(self._tensors["model.embed_tokens.weight"].shape[-1])

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        tokens = self._field("tokenizer.ggml.tokens")
        if not tokens:
            return None
        kinds = self._field("tokenizer.ggml.token_type") or [1] * len(tokens)
        special = (
            t for t, kind in zip(tokens, kinds, strict=True) if kind in (2, 3, 4)
        )  # unknown, control, added
        return Vocabulary({token: row for row, token in enumerate(tokens)}, frozenset(special))

    @cached_property
    def chat_template(self) -> str | None:
        return self._field("tokenizer.chat_template")

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        by_row = self.vocabulary.by_row if self.vocabulary else {}
        rows = {key: self._field(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos")}
        return {
            f"{key}_token": by_row[int(row)]
            for key, row in rows.items()
            if row is not None and int(row) in by_row
        }

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        return {key: self.config[key] for key in ("bos_token_id", "eos_token_id") if key in self.config}

    @cached_property
    def tokenizer(self):
        """The tokenizer as transformers rebuilds it from the file. Raises ValueError where it cannot."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.path.parent, gguf_file=self.path.name)
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
                self.tokenizer.save_pretrained(folder)
            except ValueError as error:
                warnings.warn(f"{error} A saved merge will have none.", UserWarning, stacklevel=2)
        (folder / "config.json").write_text(json.dumps(self.config, indent=2), "utf-8")
        return folder


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


def _row_in_file(rows: np.ndarray, entry: files.Entry, heads: int) -> np.ndarray:
    """llama.cpp interleaves the two halves of each head: row t * half + j of a head lies at 2 * j + t."""
    size = entry.shape[0] // heads
    head, inside = np.divmod(rows, size)
    half, j = np.divmod(inside, size // 2)
    return head * size + 2 * j + half


def _values(stored: np.ndarray, kind) -> np.ndarray:
    """Raw elements of a native type, float32 of a block format."""
    if kind.name in _NATIVE:
        return np.ascontiguousarray(stored).view(files.NUMPY_DTYPES[_NATIVE[kind.name]])
    from gguf import dequantize

    return dequantize(stored, kind)


def check_difference(plus: Checkpoint, minus: Checkpoint) -> None:
    """Refuse or warn before quantisation noise passes for a vector; called by `plus - minus`."""
    ours, theirs = plus.quantisation, minus.quantisation
    if ours != theirs:
        what = [f"{m.label} is {'' if m.quantisation else 'not '}quantised" for m in (plus, minus)]
        raise ValueError(
            f"{plus.label} - {minus.label}: {' and '.join(what)}. The rounding would pass for a part of the vector: "
            "it is as large as what a fine-tune changes. Use unquantised weights of both."
        )
    if ours:
        warnings.warn(
            f"{plus.label} - {minus.label}: both are dequantised, so the vector holds the rounding noise of both. "
            "Use the unquantised models where they can be had.",
            UserWarning,
            stacklevel=3,
        )
