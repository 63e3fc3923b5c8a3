"""Small Llamas, and the GGUF files that llama.cpp's converter would write for them. Needs the package gguf."""

from __future__ import annotations

import json

import gguf
import torch
from pico import SPECIAL, TEMPLATE, TOKENS, save_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

HEADS, KV_HEADS, WIDTH = 4, 2, 64


def save_llama(folder, *, near=None, step=0.002, dtype=torch.float32, template=None, seed=0, tied=False):
    """A two-layer Llama with widths that block formats can hold (multiples of 32)."""
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=63, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS,
                         num_key_value_heads=KV_HEADS, intermediate_size=96, max_position_embeddings=64,
                         bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied)  # fmt: skip
    model = LlamaForCausalLM(config)
    if near is not None:
        parent = LlamaForCausalLM.from_pretrained(near, dtype=torch.float32).state_dict()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(parent[name] + step * torch.randn(weight.shape))
    model.to(dtype).save_pretrained(folder)
    save_tokenizer(folder, SPECIAL + TOKENS, template=template)
    return folder


def permuted(weights, heads):
    """llama.cpp's order of query and key rows."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def write_gguf(folder, path, kind="F32", *, architecture="llama", extra=(), facts=(), template=TEMPLATE):
    """What convert_hf_to_gguf.py writes for a Llama, with matrices in `kind` and norms in float32."""
    config = json.loads((folder / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("llama")
    tokens = SPECIAL + TOKENS
    writer.add_token_list(tokens)
    writer.add_token_scores([float(-i) for i in range(len(tokens))])
    writer.add_token_types([2, 3, 3] + [1] * len(TOKENS))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if template:
        writer.add_chat_template(template)
    for key, number in facts:
        writer.add_uint32(key, number)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    for layer in range(config["num_hidden_layers"]):
        names |= {f"model.layers.{layer}.{hf}": f"blk.{layer}.{short}" for hf, short in parts.items()}
    for name, weight in model.named_parameters():
        values = weight.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            values = permuted(values, HEADS if "q_proj" in name else KV_HEADS)
        target = names[name.removesuffix(".weight")] + ".weight"
        if values.ndim == 1 or kind == "F32":
            writer.add_tensor(target, values)
        elif kind == "F16":
            writer.add_tensor(target, values.astype("float16"))
        else:
            quantised = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(target, gguf.quantize(values, quantised), raw_dtype=quantised)
    for name, values in extra:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
