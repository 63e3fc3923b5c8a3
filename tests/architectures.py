"""Every causal LM and image-text-to-text class of the installed transformers, built small from its default config."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import re
import warnings
from typing import Any

import torch
import transformers

WIDTH, HEADS, INNER, LAYERS, EXPERTS = 32, 4, 48, 2, 4
LAYER_KEYS = r"(?:num_|n_|encoder_|decoder_|resampler_)?(?:hidden_|decoder_|encoder_|global_|num_)?(?:layers?|depth|blocks)"
# sizes by key, the first pattern that fits; what no pattern names stays as it is
SIZES: tuple[tuple[str, int], ...] = (
    (r"moe\w*intermediate_size|shared\w*intermediate_size|expert\w*(?:_dim|ffn_hidden_size)", 16),
    (r"\w*intermediate(?:_multiple)?_size(?:_mlp)?|\w*ffn_dim|d_ff|dff|dim_ff|n_inner", INNER),
    (r"ffn_hidden_size|mlp_dim|feed_forward_size", INNER),
    (r"mamba_n_heads|mamba_num_heads|linear_num_value_heads", 8),
    (r"\w*(?:key_value_heads|kv_heads|kv_n_heads|linear_num_key_heads|attention_num_groups|query_groups)", 2),
    (
        r"(?:\w*_)?(?:n|num|encoder|decoder|attention|index_n|resampler)_(?:attention_)?heads?|\w*attention_heads",
        HEADS,
    ),
    (r"n_heads?", HEADS),
    (
        r"mamba_d_head|\w*head_dim|head_size|attention_head_size|dim_head|d_head|d_kv|kv_channels|rotary_dim",
        8,
    ),
    (r"\w*lora_rank|qk_\w+_dim|linear_\w+_head_dim|hidden_size_per_layer_input", 8),
    (r"hc_lowrank|gated_norm_rank|loop_gate_rank|laurel_rank|adapter_rank|mamba_dt_rank|time_step_rank", 4),
    (
        r"\w*hidden_size\w*|\w*hidden_dim|d_model|n_embd|dim|\w*embed_dim|embed(?:ding)?_(?:size|dim)|emb_dim",
        WIDTH,
    ),
    (
        r"word_embed_proj_dim|\w*projection_dim|\w*output_dim|lru_width|adapter_(?:in|out)_dim|adapter_input_size",
        WIDTH,
    ),
    (r"output_size|projector_(?:in|out)put_dim|output_channels|vision_dim|input_embedding_size|d_rel", WIDTH),
    (r"prompt_mid_dim|projection_hidden_size|base_channels|num_filters|latent_channels|codebook_dim", WIDTH),
    (r"vector_quantization_hidden_dimension|post_conv_\w+_channels", WIDTH),
    (
        rf"{LAYER_KEYS}|conf_num_hidden_layers|n_(?:in|out)put_layers|aligner_num_add_layers|num_layers_per_stack",
        LAYERS,
    ),
    (r"num_local_experts|num_experts|n_routed_experts|moe_num_experts|num_routed_experts", EXPERTS),
    (r"num_experts_per_tok(?:en)?|moe_top_?k|top_k_experts|moe_k", 2),
    (r"n_group|topk_group|num_expert_group", 1),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length|rel_extent", 256),
    (r"position_embedding_size", 256),
    (r"mamba_d_state|state_size|ssm_state_size|mamba_d_ssm", 16),
    (r"codebook_size|num_embeddings|encoder_hash_byte_group_vocab|ngram_vocab_size_base", 64),
    (r"\w*(?:audio|mel|shape|pronunciation)_vocab_size", 64),
    (r"zero_expert_num|num_query_tokens|latent_query_num|resampler_n(?:um)?_latents", 4),
    (r"num_position_embeddings", 16),
)
# lists of widths
DIVISORS = {"embed_dim": 8, "hidden_sizes": 32, "downsample_channels": 16}
# lists of layers' numbers
PLACES = (
    r"\w*layer_indexes|fullatt_block_indexes|global_attn_indexes|cross_attention_layers|\w*layers_indices|deepstack\w*"
    r"|spatial_target_layers|hybrid_layer_ids|moe_layers|full_attn_idxs|mlp_only_layers|summary_idxs"
)
# what a model type needs beyond its sizes; applied last, to the config of this type wherever it stands
_ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
FURTHER: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 64},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "layers_block_type": ["mamba", "attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 16},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "mamba", "hybrid", "hybrid"],
        "attention_head_dim": 16,
        "attn_layer_period": 2,
        "attn_layer_offset": 0,
        "attention_hidden_size": 64,
    },
    "zamba2": {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "hybrid_layer_ids": [1, 2],
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
        "mamba_ngroups": 1,
    },
    "xmod": {"default_language": "en_XX"},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "nemotron": {"num_key_value_heads": 2},
    "step3p5": {"sliding_window": 64},
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds": False,
        "attn_layers": ["local", "local"],
        "num_hidden_layers": 2,
    },
    "ministral": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "hunyuan_vl_text": {"head_dim": 8},
    "hunyuan_vl": {"head_dim": 8},
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
    },
    "moshi": {"codebook_size": 64, "audio_vocab_size": 64},
    "dory": {
        "num_hidden_layers": 4,
        "n_input_layers": 1,
        "n_recurrent_layers": 2,
        "n_output_layers": 1,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    },
    "chameleon": {"vocabulary_map": {"IMGIMGA<BZ>": 5, "<image>": 6}},
    "emu3": {"vocabulary_map": {"<|visual token 000000|>": 5, "<image>": 6, "<|extra_200|>": 7}},
    "step3p7_text": {"sliding_window": 32},
    "apertus1p5": {
        "image_token_offset": 4,
        "audio_token_offset": 12,
        "vision_config": {"codebook_size": 8},
        "audio_config": {"codebook_size": 8},
    },
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": _ROPE | {"mrope_section": [2, 1, 1]},
            "sliding_attention": _ROPE | {"mrope_section": [2, 1, 1]},
        }
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
    "deepseek_v3": {"first_k_dense_replace": 1},
    "deepseek_v2": {"n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
    "gemma4_assistant at first": {
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": False,
            "use_double_wide_mlp": False,
            "vocab_size_per_layer_input": 0,
        }
    },
    "granite4_vision": {"deepstack_layer_map": [[0, 0], [1, 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 32,
        "indexer_compress_ratio": 4,
    },
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [16, 8],
        "rope_parameters": _ROPE | {"mrope_section": [1, 1, 2]},
    },
    "glm4v_moe_text": {"head_dim": 16},
    "hrm_text": {"num_hidden_layers": 16, "num_layers_per_stack": 2},
    "mistral4": {"head_dim": 16},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 7, "vision_end_token_id": 8, "audio_start_token_id": 9},
    "qwen3_omni_moe_thinker": {
        "vision_start_token_id": 7,
        "vision_end_token_id": 8,
        "audio_start_token_id": 9,
    },
    "muse_spark_audio": {"hidden_sizes": [16, 16, 32, 32]},
    "udop": {"decoder_start_token_id": 1, "bos_token_id": 1},
    "vision-encoder-decoder": {"decoder_start_token_id": 1, "bos_token_id": 1},
}


def class_names() -> list[str]:
    """The classes that the Auto mappings of causal language models and of image-text-to-text models name."""
    from transformers.models.auto import modeling_auto as auto

    mappings = (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    named = [kind for mapping in mappings for kind in mapping.values()]
    return sorted({k for kind in named for k in ([kind] if isinstance(kind, str) else kind)})


@contextlib.contextmanager
def quietly():
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def small_config(kind: str, vocabulary: int):
    """A config of this class with small sizes; raises whatever the config's own checks raise."""
    own = getattr(transformers, kind)
    sizes = default_config(own.config_class)
    shrink(sizes, vocabulary)
    sizes["architectures"] = [kind]
    return own.config_class.from_dict(own.config_class._decode_special_floats(sizes))


def default_config(config_class) -> dict[str, Any]:
    first = FURTHER.get(f"{config_class.model_type} at first", {})
    return json.loads(json.dumps(config_class(**copy.deepcopy(first)).to_dict(), default=str))


def shrink(sizes: dict[str, Any], vocabulary: int, path: str = "") -> None:
    """Small sizes in place, in a config's dict and the dicts in it."""
    layers = next(
        (sizes[k] for k in ("num_hidden_layers", "n_layer", "num_layers") if isinstance(sizes.get(k), int)),
        None,
    )
    keep = _kept_layers(sizes, layers)
    is_other = bool(re.search(r"vision|audio|qformer|protein|speech|vq|depth|codec|codebook", path))
    for key, value in list(sizes.items()):
        if key == "per_layer_config" and isinstance(value, dict) and keep:
            sizes[key] = {str(new): value[str(old)] for new, old in enumerate(keep) if str(old) in value}
            value = sizes[key]
        if isinstance(value, dict):
            shrink(value, vocabulary, f"{path}.{key}")
        elif isinstance(value, list):
            if layers and keep and len(value) == layers and layers > 1:
                sizes[key] = [INNER if key == "intermediate_size" else value[i] for i in keep]
            elif re.fullmatch(PLACES, key):
                sizes[key] = [0, 1][: len(value)] if not keep else [min(1, len(keep) - 1)]
            elif value and all(isinstance(v, int) and v >= 128 for v in value) and key in DIVISORS:
                sizes[key] = [v // DIVISORS[key] for v in value]
            elif key == "vision_feature_layer":
                sizes[key] = [-1, -2][: len(value)]
            elif key.endswith("mrope_section"):
                sizes[key] = [2, 1, 1]
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if key in (
            "vocab_size",
            "decoder_vocab_size",
            "vocab_size_per_layer_input",
            "unpadded_vocab_size",
            "n_words",
        ):
            sizes[key] = 41 if is_other else vocabulary
        elif keep and value == layers and re.fullmatch(LAYER_KEYS, key):
            sizes[key] = len(keep)
        elif key.endswith(("_token_id", "_index")) and value >= vocabulary:
            sizes[key] = 3 + len(key) % 5
        else:
            size = next((size for pattern, size in SIZES if re.fullmatch(pattern, key)), None)
            if size is not None and value > size:
                sizes[key] = size
    if "kv_lora_rank" in sizes:  # latent attention has a key and a value for each head
        sizes |= {"num_key_value_heads": HEADS} if "num_key_value_heads" in sizes else {}
        sizes |= {"qk_head_dim": 16} if "qk_head_dim" in sizes else {}
    if isinstance(sizes.get("rope_parameters"), dict) and re.search(
        r"vl|glm4v|glm_ocr|glm46v|omni", sizes.get("model_type", "")
    ):
        sizes["rope_parameters"]["mrope_section"] = [2, 1, 1]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes.update({key: number for key, number in ids.items() if key in sizes and not is_other})
    _update(sizes, FURTHER.get(sizes.get("model_type"), {}))
    if "per_layer_config" in path and "head_dim" in sizes and "qk_nope_head_dim" in sizes:
        sizes["head_dim"] = 16


def _update(sizes: dict, more: dict) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(sizes.get(key), dict):
            _update(sizes[key], value)
        else:
            sizes[key] = copy.deepcopy(value)


def _kept_layers(sizes: dict, layers: int | None) -> list[int]:
    """The numbers of the layers that stay: at least two, and one of each type that lists of layers name."""
    if not layers or layers < 2:
        return []
    lists = [v for v in sizes.values() if isinstance(v, list) and len(v) == layers]
    seen, keep = set(), []
    for i in range(layers):
        types = tuple(str(v[i]) for v in lists)
        if types not in seen and len(keep) < 4:
            seen.add(types)
            keep.append(i)
    if len(keep) < LAYERS:
        keep = sorted({*keep, *range(LAYERS)})[: max(LAYERS, len(keep))]
    return keep


@functools.cache
def token_axes(kind: str, vocabulary: int) -> dict[str, int]:
    """Which tensors of the class grow with its vocabulary, and along which axis: the sweep's own reference."""
    shapes = []
    for rows in (vocabulary, vocabulary + 24):
        with quietly(), torch.device("meta"):
            model = getattr(transformers, kind)(small_config(kind, rows))
        shapes.append({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    small, large = shapes
    return {
        name: next(i for i, (a, b) in enumerate(zip(shape, large[name], strict=True)) if a != b)
        for name, shape in small.items()
        if large[name] != shape
    }


def build(kind: str, vocabulary: int, seed: int = 0):
    """A model of this class on the CPU in bfloat16, with seeded weights that are all of one size."""
    torch.manual_seed(seed)
    with quietly():
        return getattr(transformers, kind)(small_config(kind, vocabulary)).to(torch.bfloat16).eval()
