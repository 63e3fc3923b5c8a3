"""What a tensor's name says: its layer, its kind of module, and whether its first axis is the vocabulary.

The names are those of transformers checkpoints (Llama, Qwen, Mistral, Gemma, Phi, GPT-NeoX, GPT-2, Falcon, OPT,
BLOOM, Mixtral and other mixtures of experts); a name that fits none of the patterns is of kind "other".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

KINDS = ("embedding", "attention", "mlp", "router", "norm", "head", "buffer", "other")

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
_VOCABULARY = re.compile(
    r"(?:^|\.)(?:embed_tokens|word_embeddings|wte|embed_in|tok_embeddings|lm_head|embed_out)\.(?:weight|bias)$"
    r"|^output\.weight$"
)
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.(?:weight|bias)$|^output\.weight$")
_BUFFER = re.compile(r"rotary_emb\.inv_freq$|\.masked_bias$|position_ids$|\.attn\.bias$")
# the last component that fits decides: self_attn.q_norm is a norm, post_attention_layernorm is not attention
_COMPONENTS = (
    ("norm", re.compile(r"layer_?norm|(?:^|_)norm(?:$|_|\d)|^ln_|_ln$|rmsnorm")),
    (
        "embedding",
        re.compile(r"^(?:embed_tokens|word_embeddings|wte|wpe|embed_in|tok_embeddings|embed_positions)$"),
    ),
    ("head", re.compile(r"^(?:lm_head|embed_out)$")),
    ("router", re.compile(r"^(?:router|gate|shared_expert_gate)$")),
    ("mlp", re.compile(r"mlp|feed_forward|ffn|experts?$|block_sparse_moe|^fc\d$")),
    ("attention", re.compile(r"attn|attention")),
)


@dataclass(frozen=True)
class Part:
    """What a tensor is.

    `component`: "text", "vision", "audio", "projector", "draft" or "other"; `layer`: its number within the component,
    None outside the layers; `module`: one of `KINDS`; `projection`: "q", "k", "v", "o", "gate", "up", "down" …, or
    None; `axis`: "vocabulary" where the first axis has a row a token of the model's own tokenizer, "candidate" where
    it only has as many rows and nothing else is known of it, else None.
    """

    component: str
    layer: int | None
    module: str
    projection: str | None = None
    axis: str | None = None


class Layout:
    """What each stored tensor of a checkpoint is, and the one name that it has whoever saved it.

    Made by `Layout.of`. `layout[name]` takes a stored or a published name.
    """

    def __init__(
        self, parts: Mapping[str, Part], published: Mapping[str, str] | None = None, *, is_tied: bool = False
    ):
        self.parts = dict(parts)
        self._published = dict(published or {})
        self._stored = {canonical: name for name, canonical in self._published.items()}
        self.is_tied = is_tied  # the model class shares its head with its embedding

    @staticmethod
    def of(config: Mapping[str, Any], names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """The layout of tensors with these names and shapes, in a model with this config.json."""
        parts = {
            name: Part(
                "text",
                layer_of(name),
                "buffer" if is_buffer(name) else module_of(name),
                None,
                "vocabulary" if has_vocabulary_axis(name) else None,
            )
            for name in names
        }
        has_head = any(is_head(name) and name.endswith("weight") for name in parts)
        return Layout(parts, is_tied=bool(config.get("tie_word_embeddings", not has_head)))

    def __getitem__(self, name: str) -> Part:
        """What a tensor is, by its stored or published name; a tied head that is not stored is still a head."""
        stored = self.stored(name)
        if stored is None:
            raise KeyError(f"no tensor {name!r} in this layout")
        part = self.parts[stored]
        is_tied_head = part.module == "embedding" and name != stored and is_head(name)
        return replace(part, module="head") if is_tied_head else part

    def knows(self, name: str) -> bool:
        """Whether a tensor is stored under this stored or published name (a tied head by its own name only)."""
        return self._stored.get(name, name) in self.parts

    def published(self, name: str) -> str:
        """The name under which hubs know a stored tensor (of a published name: itself)."""
        return self._published.get(name, name)

    def stored(self, published: str) -> str | None:
        """The stored tensor with this published name, or None; a tied head that is not stored is the embedding."""
        name = self._stored.get(published, published)
        if name not in self.parts and self.is_tied and is_head(published) and published.endswith("weight"):
            return self.embedding
        return name if name in self.parts else None

    def is_table(self, name: str) -> bool:
        """True when the tensor has one row a token: input and output embedding, and other tables indexed by token."""
        return self[name].axis == "vocabulary"

    @cached_property
    def tables(self) -> list[str]:
        """Stored names of the tensors with one row a token, in file order."""
        return [name for name, part in self.parts.items() if part.axis == "vocabulary"]

    @cached_property
    def embedding(self) -> str | None:
        """Stored name of the text's input embedding."""
        return next((n for n in self.tables if self.parts[n].module == "embedding"), None)

    @cached_property
    def head(self) -> str | None:
        """Stored name of the text's own head (its weight); None where it is not stored, tied or lacking."""
        heads = (n for n in self.tables if self.parts[n].module == "head" and n.endswith("weight"))
        return next(heads, None)

    @cached_property
    def ignored(self) -> dict[str, str]:
        """Stored tensors that transformers leaves out when it loads the model, and what they are."""
        return {}


def layer_of(name: str) -> int | None:
    """The layer's number, or None for tensors outside the layers.

    >>> layer_of("model.layers.10.mlp.up_proj.weight"), layer_of("lm_head.weight")
    (10, None)
    """
    match = _LAYER.search(name)
    return int(match.group(1)) if match else None


def module_of(name: str) -> str:
    """The kind of module, one of `KINDS`.

    >>> [module_of(n) for n in ("model.layers.0.post_attention_layernorm.weight", "gpt_neox.embed_in.weight")]
    ['norm', 'embedding']
    """
    for component in reversed(name.split(".")[:-1] or [name]):
        for kind, pattern in _COMPONENTS:
            if pattern.search(component):
                return kind
    return "head" if name == "output.weight" else "other"


def has_vocabulary_axis(name: str) -> bool:
    """True when the tensor has one row a token: the input embedding and the head."""
    return bool(_VOCABULARY.search(name))


def is_head(name: str) -> bool:
    return bool(_HEAD.search(name))


def is_buffer(name: str) -> bool:
    """True for stored constants (rotary frequencies, attention masks) that no training moves."""
    return bool(_BUFFER.search(name))


def stored_name(name: str, names: Iterable[str]) -> str | None:
    """Which of these tensors plays the part of `name`: itself, or for a head that is not there the (tied) embedding.

    >>> stored_name("lm_head.weight", ["model.embed_tokens.weight"])
    'model.embed_tokens.weight'
    """
    if name in names:
        return name
    if is_head(name) and name.endswith("weight"):
        return next((n for n in names if has_vocabulary_axis(n) and not is_head(n)), None)
    return None
