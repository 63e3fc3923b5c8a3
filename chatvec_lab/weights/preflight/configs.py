"""What two configs say of the same weights: one table of the settings that change what a sum of weights means.

A tensor's name and shape do not show how many heads it holds, or by which angles positions turn it; config.json does.
`DIFFERENCES` is the whole list: what each setting is called, which keys say it, what another value means, and whether
the merge is refused for it (between chat and base, and between CP and base).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from chatvec_lab.reading import brief


@dataclass(frozen=True)
class Difference:
    """One line of the table. `keys` are alternatives of one setting each, by the names that configs give it."""

    name: str
    settings: tuple[tuple[str, ...], ...]
    meaning: str
    refuses: tuple[Literal["chat", "cp"], ...] = ()  # whose difference from the base refuses the merge


BOTH = ("chat", "cp")
DIFFERENCES = (
    Difference(
        "heads",
        (("num_attention_heads", "n_head", "n_heads", "num_heads"),
         ("num_key_value_heads", "num_kv_heads", "n_head_kv"), ("head_dim", "attention_head_dim"),
         ("qk_rope_head_dim",), ("qk_nope_head_dim",), ("v_head_dim",)),
        "number or width of attention heads: the same rows of q, k, v and o belong to other heads",
        BOTH,
    ),
    Difference(
        "rope",
        (("rope_theta", "rotary_emb_base"), ("rope_scaling",), ("rope_local_base_freq", "local_rope_theta"),
         ("global_rope_theta",), ("rope_ratio",), ("rope_interleave",), ("relative_attention_max_distance",),
         ("partial_rotary_factor", "rotary_pct", "rotary_dim"), ("no_rope_layers",),
         ("position_embedding_type",), ("alibi",)),
        "RoPE: positions turn queries and keys by other angles, which their weights were trained for",
        ("chat",),
    ),
    Difference(
        "activation",
        (("hidden_activation", "hidden_act", "activation_function"), ("feed_forward_proj",),
         ("mlp_hidden_act",), ("activation",), ("swiglu_limit",)),
        "activation: what the MLP multiplies has passed another function",
        BOTH,
    ),
    Difference(
        "scaling",
        (("query_pre_attn_scalar",), ("attn_logit_softcapping",), ("final_logit_softcapping",), ("scale_attn_weights",),
         ("embedding_multiplier", "scale_emb"), ("residual_multiplier", "scale_depth"), ("attention_multiplier",),
         ("logits_scaling", "logit_scale", "dim_model_base"), ("clip_qkv",), ("lm_head_multiplier",), ("key_multiplier",),
         ("attention_in_multiplier",), ("attention_out_multiplier",), ("mlp_multipliers",), ("ssm_multipliers",)),
        "scaling: embedding, attention scores or logits are multiplied by another number",
        BOTH,
    ),
    Difference(
        "experts",
        (("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), ("norm_topk_prob",),
         ("routed_scaling_factor",), ("scoring_func",), ("n_group",), ("topk_group",)),
        "experts: the router sends a token to other experts, or weighs them otherwise",
        BOTH,
    ),
    Difference(
        "structure",
        (("use_parallel_residual", "parallel_attn"), ("new_decoder_architecture",), ("do_layer_norm_before",),
         ("apply_residual_connection_post_layernorm",), ("use_qk_norm", "qk_layernorm")),
        "structure: the same modules are joined in another order",
        BOTH,
    ),
    Difference(
        "epsilon",
        (("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),),
        "epsilon of the norms: a number added before each root; small, but not what the weights were trained with",
    ),
    Difference(
        "window",
        (("sliding_window", "attention_window"), ("layer_types",), ("sliding_window_pattern",), ("max_window_layers",),
         ("attention_chunk_size",)),
        "window: layers look back over another length of text",
    ),
    Difference(
        "context",
        (("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len"),),
        "context: the longest text that the model is made for",
    ),
    Difference(
        "tied",
        (("tie_word_embeddings",),),
        "tied head: input and output embedding are one matrix in one of the two",
    ),
    Difference("model type", (("model_type",),), "model type: transformers runs another class"),
)  # fmt: skip
OTHER = Difference("other settings", (), "other settings: what the weights compute may depend on these too")
FORCIBLE = tuple(entry.name for entry in DIFFERENCES if entry.refuses)

# settings that say nothing of what the weights compute: tokens, training, generation, how a model is stored or run
_NEUTRAL = re.compile(
    r"_name_or_path|architectures|auto_map|\w*version|(?:torch_)?dtype|use_cache|\w*token_(?:id|index|type)s?|\w*vocab_size\w*"
    r"|initiali[sz]er\w*|init_\w*|\w*_init|\w*drop(?:out|path)?(?:_\w+)?|layerdrop|pretraining_tp|output_\w+|return_dict\w*"
    r"|quantization\w*|compression_config|tokenizer_class|model_max_length|finetuning_task|\w*label\w*|num_labels|problem_type"
    r"|task_specific_params|\w*checkpointing\w*|\w*flash\w*|\w*attn_implementation|torchscript|\w*(?:aux|z)_loss\w*|unsloth\w*"
    r"|chunk_size_feed_forward|keys_to_ignore\w*|(?:max|min)_length|temperature|top_[kp]|do_sample|num_beams|\w*penalty"
    r"|early_stopping|no_repeat_ngram_size|is_(?:encoder_)?decoder|prefix|bad_words_ids|time_step_(?:min|max|floor)|rescale_\w+"
    r"|summary_\w+|use_kernels|use_mambapy|num_logits_to_keep|pruned_heads|tie_encoder_decoder|gradient\w*|\w*_config|\w*parameters"
)
_TEXT = ("text_config", "llm_config", "language_config")
_OF_THE_TABLE = frozenset(key for entry in DIFFERENCES for names in entry.settings for key in names) | {
    "use_sliding_window"
}
_ALIKE = {"swish": "silu", "gelu_python": "gelu"}
# Gemma's first configs say gelu and run gelu_pytorch_tanh; these hardly differ
_NEAR = {"gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate"}


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the table, by their first names, out of a config.json; of a larger model its text part's.

    What a config leaves out has the default of its class, as in transformers; what has none is left out here too.
    ValueError for a setting that is of another kind than it should be.

    >>> settings_of({"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4})["head_dim"]
    8
    """
    config = _text(config)
    found: dict[str, Any] = {}
    for entry in DIFFERENCES:
        for names in entry.settings:
            value = next((config[name] for name in names if config.get(name) is not None), None)
            if value is not None:
                found[names[0]] = value
    found |= _rope(config)
    heads = found.get("num_attention_heads")
    if isinstance(heads, int) and heads:
        is_grouped = not (config.get("multi_query") and not config.get("new_decoder_architecture"))
        found.setdefault("num_key_value_heads", heads if is_grouped else 1)
        width = next((config[k] for k in ("hidden_size", "n_embd", "d_model") if config.get(k)), None)
        if isinstance(width, int) and width % heads == 0:
            found.setdefault("head_dim", width // heads)
    if config.get("use_sliding_window") is False:  # a window that is stated but not used
        found.pop("sliding_window", None)
    if isinstance(found.get("hidden_activation"), str):
        found["hidden_activation"] = _ALIKE.get(found["hidden_activation"], found["hidden_activation"])
    return found


def _text(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, **next((_mapping(config, key) for key in _TEXT if config.get(key)), {})}


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's base and scaling, which transformers 5 keeps in `rope_parameters` and older ones in two keys."""
    stored = dict(_mapping(config, "rope_parameters"))
    theta = stored.pop("rope_theta", None) or config.get("rope_theta") or config.get("rotary_emb_base")
    scaling = stored or dict(_mapping(config, "rope_scaling"))
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    result: dict[str, Any] = {}
    if theta is not None:
        if isinstance(theta, bool) or not isinstance(theta, int | float):
            raise ValueError(f"rope_theta is {brief(theta)}, and there should be a number")
        result["rope_theta"] = float(theta)
    if "partial_rotary_factor" in scaling:
        result["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
    if scaling or kind != "default":
        result["rope_scaling"] = {"rope_type": kind, **scaling} if kind != "default" else scaling
    return result


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{key} is {brief(found)}, and there should be a mapping")
    return found


@cache
def _defaults(model_type: str | None) -> dict[str, Any]:
    """The settings of a fresh config of this type; empty for types that transformers does not know."""
    plain = _plain(model_type)
    sized = ("num_attention_heads", "num_key_value_heads", "head_dim", "layer_types", "hidden_size")
    return settings_of({k: v for k, v in plain.items() if k not in sized})


def differences(ours: Mapping[str, Any], base: Mapping[str, Any]) -> list[tuple[Difference, str]]:
    """The lines of the table in which two `settings_of` differ, with a text such as "rope_theta 10000, base 20000".

    A setting that only one of the two states is compared with the default of the other's class.
    """
    result = []
    for entry in DIFFERENCES:
        texts = []
        for name, *_ in entry.settings:
            if name not in ours and name not in base:
                continue
            mine, theirs = (_value(settings, other, name) for settings, other in ((ours, base), (base, ours)))
            if not _is_same(mine, theirs):
                texts.append(f"{name} {_show(mine)}, base {_show(theirs)}")
        if texts:
            result.append((entry, "; ".join(texts)))
    return result


def others(ours: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """The settings beyond the table in which two config.json of one model type differ, with a text as `differences`.

    What only one of them states is compared with the default of the class; in the config of a part both must state it.
    """
    mine, theirs = _text(ours), _text(base)
    if mine.get("model_type") != theirs.get("model_type"):
        return ""
    texts = _others(mine, theirs)
    return "; ".join(texts[:8]) + (f"; and {len(texts) - 8} more" if len(texts) > 8 else "")


def _others(ours: Mapping[str, Any], base: Mapping[str, Any], path: str = "") -> list[str]:
    texts = []
    for key in dict.fromkeys([*ours, *base]):
        values = [side.get(key) for side in (ours, base)]
        if all(isinstance(value, Mapping) for value in values) and key.endswith("_config"):
            texts += _others(*values, f"{path}{key}.") if key not in _TEXT else []
        elif not (_NEUTRAL.fullmatch(key) or (key in _OF_THE_TABLE and not path) or _is_same(*values)):
            if not path:
                values = [s[key] if key in s else _plain(s.get("model_type")).get(key) for s in (ours, base)]
            is_stated = key in ours and key in base
            if (is_stated or not path) and not _is_same(*values):
                texts.append(f"{path}{key} {_show(values[0])}, base {_show(values[1])}")
    return texts


@cache
def _plain(model_type: str | None) -> dict[str, Any]:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]().to_dict() if model_type in CONFIG_MAPPING else {}


def _value(settings: Mapping[str, Any], other: Mapping[str, Any], name: str) -> Any:
    if name in settings:
        return settings[name]
    usual = {"rope_theta": 10000.0, "tie_word_embeddings": False}.get(name)
    if usual is not None and other.get(name) == usual:
        return usual  # so usual a default that no class need be asked
    return _defaults(settings.get("model_type")).get(name)


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, str) and isinstance(b, str) and {a, b} <= _NEAR:
        return True
    return a == b or (not a and not b)


def _show(value: Any) -> str:
    if value is None:
        return "not stated"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e-3 or value != int(value) else f"{int(value)}"
    text = str(value)
    return text if len(text) <= 90 else text[:87] + "…"
