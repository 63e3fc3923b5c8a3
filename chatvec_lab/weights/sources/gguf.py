"""A GGUF file as a source: `Checkpoint("model.gguf")`, with the names, shapes and row order of transformers.

Quantised tensors are dequantised to float32 as they are read, and the label, reports and manifests say so. A Llama is
read with gguf alone; for the other architectures that are known (`gguf_others`) transformers says config and names.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chatvec_lab.weights.sources.files import check_is_no_pointer
from chatvec_lab.weights.sources.gguf_tensors import EMBEDDING, GGUFTensors
from chatvec_lab.weights.tokens.vocabulary import Vocabulary


class GGUF:
    """One GGUF file as a source; needs the package gguf.

    The file is mapped, unlike other sources. A tensor of a block format (Q8_0, Q4_K, ...) reads as float32; rows are
    dequantised on demand. `tensors.note` names the formats, "" for a file without any.

    Config, vocabulary, chat template and tokenizer come from the file's own metadata. As the CP of a merge it can be
    saved; `LiveModel` needs that saved model, since transformers reads weights from files of its own.

    Raises ImportError without gguf, ValueError for another architecture, unknown tensors, damaged files.
    """

    refused = ""  # its blocks are dequantised as they are read; `tensors.note` says so

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
        parts = self.field("split.count", 1, int)
        if parts > 1:
            raise ValueError(
                f"{self.path.name} is one of {parts} parts of a model, each of which lacks what is in the others. Join them "
                "first (llama-gguf-split --merge), or use the model's safetensors."
            )
        return GGUFTensors(self.path, self._reader, self.field)

    @cached_property
    def _reader(self):
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ImportError("GGUF files are read with gguf: pip install 'chatvec_lab[gguf]'") from error
        check_is_no_pointer(self.path)
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
        """transformers' config for the file's metadata."""
        if self.tensors.mapped:
            if self.tensors.scales_rotary:
                self._warn_of_scaling()
            return self.tensors.mapped.config
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
            "vocab_size": self.tensors.shape(EMBEDDING)[0],
            "tie_word_embeddings": "lm_head.weight" not in names,
            "attention_bias": any(n.endswith("q_proj.bias") for n in names),
            "mlp_bias": any(n.endswith("up_proj.bias") for n in names), "dtype": "float32",
        }  # fmt: skip
        if self.tensors.experts:
            del config["attention_bias"], config["mlp_bias"]
            config |= {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
                       "num_local_experts": self.tensors.experts,
                       "num_experts_per_tok": self._count("expert_used_count")}  # fmt: skip
        for key in ("bos", "eos"):
            row = self.field(f"tokenizer.ggml.{key}_token_id", None, int)
            if row is not None:
                config[f"{key}_token_id"] = row
        if self.tensors.scales_rotary or self.field("llama.rope.scaling.type") not in (None, "none"):
            self._warn_of_scaling()
        return config

    def _warn_of_scaling(self) -> None:
        warnings.warn(
            f"{self.path.name} scales its rotary frequencies, which cannot be told from the file in transformers' "
            "terms: copy rope_parameters from the original's config.json into that of a saved merge.",
            UserWarning,
            stacklevel=3,
        )

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
        found = {key: self.config[key] for key in ("bos_token_id", "eos_token_id") if key in self.config}
        # a turn or a message may end with a token of its own, as Llama-3's do
        more = [self.field(f"tokenizer.ggml.{key}_token_id", None, int) for key in ("eot", "eom")]
        ends = list(dict.fromkeys(row for row in (found.get("eos_token_id"), *more) if row is not None))
        return found | ({"eos_token_id": ends} if len(ends) > 1 else {})

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
