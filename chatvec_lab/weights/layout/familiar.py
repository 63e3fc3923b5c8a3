"""The families that we know by heart, so that a merge of Llama need not ask torch and transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chatvec_lab.weights.layout.naming import Part, parts_of


@dataclass
class Findings:
    """What was found out about stored tensors: all dicts go by stored name, `tied` by published names."""

    parts: dict[str, Part]
    published: dict[str, str]
    source: str  # whose word it is: "by heart", a class of transformers, or "names"
    lands: dict[str, str] = field(default_factory=dict)  # where a stored tensor that is converted ends
    # of a stored tensor that is one of a plain stack: the stack's name, which expert, which of the expert's in it
    stacks: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    embedding: str | None = None  # published
    head: str | None = None  # published; None where the class has none
    lacking: list[str] = field(
        default_factory=list
    )  # published: what the class needs beside its head, not stored
    note: str = ""


@dataclass(frozen=True)
class _Family:
    """Its class, its body's prefix and names, its embedding, whether the head is tied unless the config says."""

    kind: str
    prefix: str
    embedding: str
    tied: bool
    body: str
    always: tuple[str, ...]  # what every model has outside its layers, beside the embedding
    layers: str  # where its layers lie, behind the prefix
    each: tuple[str, ...]  # what every layer has; "a|b": one of them
    # what each has too where the config says so: its key, what holds without it, and the names
    if_set: tuple[tuple[str, bool, tuple[str, ...]], ...] = ()
    older_head: str = "lm_head"  # as the hub's files call it


_LLAMA = (
    r"layers\.\d+\.(?:self_attn\.(?:(?:q|k|v|o|qkv)_proj\.(?:weight|bias)|[qk]_norm\.weight)"
    r"|mlp\.(?:gate|up|down|gate_up)_proj\.(?:weight|bias)"
    r"|(?:input|post_attention|pre_feedforward|post_feedforward)_layernorm\.weight)|norm\.weight"
)
_EITHER = r"(?:weight|bias)"
_GPT2 = rf"wpe\.weight|h\.\d+\.(?:ln_[12]|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.{_EITHER}|ln_f\.{_EITHER}"
_NEOX = (
    rf"layers\.\d+\.(?:input_layernorm|post_attention_layernorm|attention\.(?:query_key_value|dense)"
    rf"|mlp\.dense_(?:h_to_4h|4h_to_h))\.{_EITHER}|final_layer_norm\.{_EITHER}"
)
_BLOOM = (
    rf"(?:word_embeddings_layernorm|ln_f)\.{_EITHER}|h\.\d+\.(?:input_layernorm|post_attention_layernorm|ln_attn|ln_mlp"
    rf"|self_attention\.(?:query_key_value|dense)|mlp\.dense_(?:h_to_4h|4h_to_h))\.{_EITHER}"
)
_OPT = (
    rf"decoder\.(?:embed_positions\.weight|project_(?:in|out)\.weight|final_layer_norm\.{_EITHER}|layers\.\d+\."
    rf"(?:self_attn\.(?:[qkv]|out)_proj|self_attn_layer_norm|fc[12]|final_layer_norm)\.{_EITHER})"
)


_ATTENTION = ("self_attn.q_proj|self_attn.qkv_proj", "self_attn.k_proj|self_attn.qkv_proj",
              "self_attn.v_proj|self_attn.qkv_proj")  # fmt: skip
_MLP = ("mlp.gate_proj|mlp.gate_up_proj", "mlp.up_proj|mlp.gate_up_proj", "mlp.down_proj")
_BIASES = {"attention_bias": (*_ATTENTION, "self_attn.o_proj"), "mlp_bias": _MLP}
_QK_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
_TWO_NORMS = ("pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight")


def _with(kind: str, modules: Iterable[str]) -> tuple[str, ...]:
    """The weights, or biases, of modules."""
    return tuple("|".join(f"{module}.{kind}" for module in group.split("|")) for group in modules)


def _llama(kind: str, *more: str, tied: bool = False, fused: bool = False) -> _Family:
    linear = _with("weight", (*_ATTENTION, "self_attn.o_proj", *_MLP))
    if fused:  # what is named where it lacks: the fused one
        linear = tuple("|".join(reversed(group.split("|"))) for group in linear)
    norms = ("input_layernorm.weight", "post_attention_layernorm.weight")
    if_set = tuple((key, False, _with("bias", modules)) for key, modules in _BIASES.items())
    return _Family(kind, "model", "embed_tokens.weight", tied, _LLAMA, ("norm.weight",), "layers.",
                   (*linear, *norms, *more), if_set)  # fmt: skip


def _both(*modules: str) -> tuple[str, ...]:
    return (*_with("weight", modules), *_with("bias", modules))


_OF_NEOX = ("attention.query_key_value", "attention.dense")
_OF_OPT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2")
_OF_BLOOM = (
    "self_attention.query_key_value",
    "self_attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
)
FAMILIES = {
    "llama": _llama("LlamaForCausalLM"),
    "mistral": _llama("MistralForCausalLM"),
    "qwen2": _llama("Qwen2ForCausalLM", *_with("bias", _ATTENTION)),
    "qwen3": _llama("Qwen3ForCausalLM", *_QK_NORMS),
    "phi3": _llama("Phi3ForCausalLM", fused=True),
    "gemma": _llama("GemmaForCausalLM", tied=True),
    "gemma2": _llama("Gemma2ForCausalLM", *_TWO_NORMS, tied=True),
    "gemma3_text": _llama("Gemma3ForCausalLM", *_QK_NORMS, *_TWO_NORMS, tied=True),
    "gpt2": _Family("GPT2LMHeadModel", "transformer", "wte.weight", True, _GPT2, ("wpe.weight", "ln_f.weight", "ln_f.bias"),
                    "h.", _both("ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
    "gpt_neox": _Family("GPTNeoXForCausalLM", "gpt_neox", "embed_in.weight", False, _NEOX,
                        ("final_layer_norm.weight", "final_layer_norm.bias"), "layers.",
                        (*_both("input_layernorm", "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
                         *_with("weight", _OF_NEOX)), (("attention_bias", True, _with("bias", _OF_NEOX)),), "embed_out"),
    "bloom": _Family("BloomForCausalLM", "transformer", "word_embeddings.weight", True, _BLOOM,
                     ("word_embeddings_layernorm.weight", "word_embeddings_layernorm.bias", "ln_f.weight", "ln_f.bias"),
                     "h.", _both("input_layernorm", "post_attention_layernorm", *_OF_BLOOM)),
    "falcon": _Family("FalconForCausalLM", "transformer", "word_embeddings.weight", True, _BLOOM, ("ln_f.weight", "ln_f.bias"),
                      "h.", (*_with("weight", _OF_BLOOM), *_both("input_layernorm|ln_attn")),
                      (("bias", False, _with("bias", _OF_BLOOM)),)),
    "opt": _Family("OPTForCausalLM", "model", "decoder.embed_tokens.weight", True, _OPT,
                   ("decoder.embed_positions.weight",), "decoder.layers.", _with("weight", _OF_OPT),
                   (("enable_bias", True, _with("bias", _OF_OPT)),
                    ("layer_norm_elementwise_affine", True, _both("self_attn_layer_norm", "final_layer_norm")))),
}  # fmt: skip
_IN_A_LAYER = re.compile(r"(.*?\.(?:layers|h)\.)(\d+)(\..*)")
_COMPUTED = r"inv_freq$|freqs_cis$|\.(?:attn|attention)\.(?:bias|masked_bias)$|rope\.freqs$|position_ids$"
_LEFT_OUT = (
    (re.compile(_COMPUTED), "a constant that the model computes"),
    (re.compile(r"(?:^|\.)mtp\."), "a draft layer (mtp)"),
    (re.compile(r"^v_head\."), "a value head"),
)


def left_out(name: str) -> str | None:
    """What a stored tensor is that no causal language model loads, or None."""
    return next((what for pattern, what in _LEFT_OUT if pattern.search(name)), None)


def findings(config: Mapping[str, Any], names: Iterable[str]) -> Findings | None:
    """What is known by heart, or None where the family is not, or one of the names is not of it."""
    family = FAMILIES.get(config.get("model_type"))
    kind = (config.get("architectures") or [family.kind if family else ""])[0]
    if family is None or (kind != family.kind and kind != family.kind.removesuffix("ForCausalLM") + "Model"):
        return None
    own = re.compile(rf"(?:{re.escape(family.embedding)}|{family.body})")
    head = re.compile(rf"(?:lm_head|{family.older_head})\.{_EITHER}")
    published, ignored = {}, {}
    for name in names:
        inner = name.removeprefix(family.prefix + ".")
        if own.fullmatch(inner):
            published[name] = f"{family.prefix}.{inner}"
        elif head.fullmatch(name):
            published[name] = f"lm_head.{name.rsplit('.', 1)[1]}"
        elif reason := left_out(name):
            published[name], ignored[name] = name, reason
        else:
            return None
    parts = parts_of(published.values())
    depth = next((config[k] for k in ("num_hidden_layers", "n_layer", "n_layers") if k in config), None)
    if depth and any(p.layer is not None and p.layer >= depth for n, p in parts.items() if n not in ignored):
        return None
    embedding, weight = f"{family.prefix}.{family.embedding}", "lm_head.weight"
    tables = {embedding, weight, "lm_head.bias"}
    has_head = kind == family.kind
    tied = bool(config.get("tie_word_embeddings", family.tied)) and has_head
    found = {
        stored: Part(p.component, p.layer, p.module, p.projection, "vocabulary" if name in tables else None)
        for stored, name in published.items()
        for p in (parts[name],)
    }
    return Findings(
        found, published, "by heart", ignored=ignored, tied={weight: embedding} if tied else {},
        embedding=embedding, head=weight if has_head else None,
        lacking=_lacking(family, set(published.values()), config, depth),
    )  # fmt: skip


def _lacking(family: _Family, names: set[str], config: Mapping[str, Any], depth: int | None) -> list[str]:
    """What a model of this family needs and these published names lack: its layers are alike, and have what each has."""
    wanted = [f"{family.prefix}.{name}" for name in (family.embedding, *family.always)]
    split = [match.groups() for match in map(_IN_A_LAYER.fullmatch, sorted(names)) if match]
    last = depth or max((int(number) + 1 for _, number, _ in split), default=0)
    kinds = dict.fromkeys((before, behind) for before, _, behind in split)
    layers = f"{family.prefix}.{family.layers}"
    stated = (part for key, default, parts in family.if_set if config.get(key, default) for part in parts)
    for group in (*family.each, *stated):
        options = [(layers, f".{name}") for name in group.split("|")]
        if not any(option in kinds for option in options):
            kinds[options[0]] = None
    wanted += [f"{before}{number}{behind}" for number in range(last) for before, behind in kinds]
    return [name for name in wanted if name not in names]
