"""What a tensor is: by heart, from transformers' own classes, from names; and one name whoever saved it."""

import json
import subprocess
import sys

import pytest
import torch
import transformers

from chatvec_lab.weights.layout import (
    Layout,
    Part,
)


def layout_of(config: transformers.PreTrainedConfig, kind: str, names=None) -> Layout:
    """The layout of what a class would store, or of these names."""
    with torch.device("meta"):
        model = getattr(transformers, kind)(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {**json.loads(config.to_json_string()), "architectures": [kind]}
    names = list(shapes) if names is None else names
    return Layout.of(stored, names, {name: shapes.get(name, ()) for name in names})


SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=40)


def llama(**more):
    return layout_of(transformers.LlamaConfig(**SMALL), "LlamaForCausalLM", **more)


def test_families_known_by_heart_do_not_import_torch():
    code = (
        "import sys; from chatvec_lab.weights.layout import Layout\n"
        "names = ['model.embed_tokens.weight', 'model.layers.0.mlp.up_proj.weight', 'lm_head.weight']\n"
        "layout = Layout.of({'model_type': 'qwen2', 'architectures': ['Qwen2ForCausalLM']}, names, {})\n"
        "assert layout.source == 'by heart' and layout.head == 'lm_head.weight'\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "kind, config",
    [
        ("LlamaForCausalLM", transformers.LlamaConfig(**SMALL)),
        ("Qwen3ForCausalLM", transformers.Qwen3Config(**SMALL)),
        ("Phi3ForCausalLM", transformers.Phi3Config(**SMALL, pad_token_id=0)),
        ("Gemma2ForCausalLM", transformers.Gemma2Config(**SMALL)),
        ("Gemma3ForCausalLM", transformers.Gemma3TextConfig(**SMALL)),
        ("GPT2LMHeadModel", transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40)),
        ("GPTNeoXForCausalLM", transformers.GPTNeoXConfig(**SMALL)),
        ("BloomForCausalLM", transformers.BloomConfig(hidden_size=16, n_layer=2, n_head=2, vocab_size=40)),
        ("FalconForCausalLM", transformers.FalconConfig(**{**SMALL, "num_kv_heads": 2})),
        ("OPTForCausalLM", transformers.OPTConfig(**{**SMALL, "word_embed_proj_dim": 8, "ffn_dim": 24})),
    ],
)
def test_what_is_known_by_heart_is_what_the_class_says(kind, config):
    from chatvec_lab.weights.layout import structure

    known = layout_of(config, kind)
    stored = {**json.loads(config.to_json_string()), "architectures": [kind]}
    asked = structure.structure_of(stored).findings(known.parts)
    assert known.source == "by heart" and asked.source == kind
    assert known.parts == asked.parts and set(known.parts) == set(known._published.values())
    assert {n: known.published(n) for n in known.parts} == asked.published
    assert known.tied == asked.tied and not known.ignored and not known.unknown
    assert known.embedding == asked.embedding and known.lacks == []
    kinds = {name.split(".0.", 1)[1] for name in known.parts if ".0." in name}
    assert kinds
    for kind_of in kinds:  # gone from every layer: no other layer tells
        left = [
            name
            for name in known.parts
            if not name.endswith(f".{kind_of}") or (".0." not in name and ".1." not in name)
        ]
        gone = layout_of(config, kind, left).lacks
        assert len(gone) == 2 and sorted(gone) == sorted(
            structure.structure_of(stored).findings(left).lacking
        ), kind_of


def test_one_name_whoever_saved_it():
    gpt2 = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40)
    bare = layout_of(gpt2, "GPT2LMHeadModel", ["wte.weight", "h.0.attn.c_attn.weight", "h.0.attn.bias"])
    assert bare.published("h.0.attn.c_attn.weight") == "transformer.h.0.attn.c_attn.weight"
    assert bare.stored("transformer.wte.weight") == bare.embedding == "wte.weight"
    assert bare.holder("lm_head.weight") == "wte.weight" and bare.is_tied and bare.head is None
    assert list(bare.ignored) == ["h.0.attn.bias"]
    saved_by_automodel = llama(names=["embed_tokens.weight", "layers.1.self_attn.q_proj.weight"])
    assert saved_by_automodel["model.layers.1.self_attn.q_proj.weight"] == Part("text", 1, "attention", "q")
    # LLaVA as older and newer versions of transformers store it
    config = transformers.LlavaConfig(
        text_config=SMALL | {"model_type": "llama"},
        vision_config=dict(model_type="clip_vision_model", hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                           num_attention_heads=2, image_size=8, patch_size=4, projection_dim=16),
    )  # fmt: skip
    old = "language_model.model.layers.0.self_attn.q_proj.weight"
    new = "model.language_model.layers.0.self_attn.q_proj.weight"
    tower = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    layouts = [layout_of(config, "LlavaForConditionalGeneration", [name, tower]) for name in (old, new)]
    assert layouts[0].published(old) == layouts[1].published(new) == new
    assert layouts[0][old] == Part("text", 0, "attention", "q")
    assert layouts[0][tower] == Part("vision", 0, "attention", "q")
    assert layouts[0].lacks_head == "lm_head.weight"


def test_the_head_of_gpt_neox_has_one_name():
    config = transformers.GPTNeoXConfig(**SMALL)
    old = layout_of(config, "GPTNeoXForCausalLM", ["gpt_neox.embed_in.weight", "embed_out.weight"])
    new = layout_of(config, "GPTNeoXForCausalLM")
    assert old.published("embed_out.weight") == new.published("lm_head.weight") == new.head
    assert old.head == "embed_out.weight" and old["lm_head.weight"].module == "head"


def test_fused_and_single_experts_land_in_one_tensor_under_two_names():
    config = transformers.Qwen3MoeConfig(
        **SMALL, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8
    )
    single, fused = "model.layers.0.mlp.experts.1.gate_proj.weight", "model.layers.0.mlp.experts.gate_up_proj"
    layout = layout_of(config, "Qwen3MoeForCausalLM", [single, "model.embed_tokens.weight", "lm_head.weight"])
    assert layout.published(single) == single and layout.lands(single) == fused
    assert layout[single] == Part("text", 0, "mlp", "gate")
    assert layout_of(config, "Qwen3MoeForCausalLM")[fused] == Part("text", 0, "mlp", "gate_up")
    router = layout_of(config, "Qwen3MoeForCausalLM")["model.layers.0.mlp.gate.weight"]
    assert router.module == "router" and router.layer == 0


def test_an_equal_number_of_rows_is_no_vocabulary_where_the_class_tells():
    layout = layout_of(transformers.LlamaConfig(**{**SMALL, "vocab_size": 16}), "LlamaForCausalLM")
    assert layout.tables == ["model.embed_tokens.weight", "lm_head.weight"]
    config = transformers.MambaConfig(hidden_size=20, num_hidden_layers=2, vocab_size=40)
    mamba = layout_of(config, "MambaForCausalLM")  # its in_proj has 2 * 2 * 20 rows, dt_proj has 40
    assert mamba.tables == ["backbone.embeddings.weight", "lm_head.weight"]
    assert mamba["backbone.layers.0.mixer.in_proj.weight"] == Part("text", 0, "ssm", "in")


def test_tables_that_the_code_indexes_by_token():
    config = transformers.Gemma3nTextConfig(
        **{**SMALL, "intermediate_size": [24, 24]}, vocab_size_per_layer_input=38, hidden_size_per_layer_input=4,
        laurel_rank=4, num_kv_shared_layers=0, layer_types=["full_attention"] * 2,
        activation_sparsity_pattern=[0.0, 0.0],
    )  # fmt: skip
    layout = layout_of(config, "Gemma3nForCausalLM")
    assert "model.embed_tokens_per_layer.weight" in layout.tables
    assert layout.embedding == "model.embed_tokens.weight"


def test_draft_layers_and_value_heads_are_left_out_and_said():
    extras = [
        "mtp.layers.0.eh_proj.weight",
        "v_head.summary.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    ]
    layout = llama(names=["model.embed_tokens.weight", "lm_head.weight", *extras])
    assert list(layout.ignored) == extras
    assert layout[extras[0]].component == "draft"
    config = transformers.DeepseekV3Config(
        **SMALL, moe_intermediate_size=8, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2, q_lora_rank=8,
        kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4, first_k_dense_replace=1,
    )  # fmt: skip
    names = ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight",
             "model.layers.2.embed_tokens.weight", "model.layers.2.eh_proj.weight"]  # fmt: skip
    layout = layout_of(config, "DeepseekV3ForCausalLM", names)
    assert list(layout.ignored) == names[-2:]
    assert layout["model.layers.2.eh_proj.weight"].component == "draft"
    assert layout["model.layers.1.input_layernorm.weight"].component == "text"


def test_an_untied_model_without_its_head_lacks_it():
    assert llama(names=["model.embed_tokens.weight"]).lacks_head == "lm_head.weight"
    tied = layout_of(transformers.LlamaConfig(**SMALL, tie_word_embeddings=True), "LlamaForCausalLM",
                     ["model.embed_tokens.weight"])  # fmt: skip
    assert tied.lacks_head is None and tied.holder("lm_head.weight") == "model.embed_tokens.weight"
    without = Layout.of({"model_type": "llama", "architectures": ["LlamaModel"]}, ["embed_tokens.weight"], {})
    assert without.lacks_head is None


def test_encoders_and_decoders_are_two_stacks():
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=40)
    layout = layout_of(config, "T5ForConditionalGeneration")
    assert layout["encoder.block.1.layer.0.SelfAttention.q.weight"] == Part("encoder", 1, "attention", "q")
    assert layout["decoder.block.1.layer.1.EncDecAttention.o.weight"] == Part("text", 1, "attention", "o")
    assert layout["decoder.block.0.layer.2.DenseReluDense.wi.weight"] == Part("text", 0, "mlp", "up")
    assert layout.holder("lm_head.weight") == "lm_head.weight" and layout.embedding == "shared.weight"


def test_what_transformers_does_not_know_is_told_by_names_and_said():
    config = {"model_type": "chatglm", "architectures": ["ChatGLMModel"], "vocab_size": 40}
    shapes = {
        "transformer.embedding.word_embeddings.weight": (40, 8),
        "transformer.encoder.layers.0.self_attention.query_key_value.weight": (24, 8),
        "transformer.output_layer.weight": (40, 8),
        "transformer.strange.weight": (40, 3),
    }
    layout = Layout.of(config, list(shapes), shapes)
    assert layout.source == "names" and "chatglm" in layout.note
    assert layout.tables == [
        "transformer.embedding.word_embeddings.weight",
        "transformer.output_layer.weight",
    ]
    assert layout["transformer.strange.weight"].axis == "candidate"
    assert list(layout.unknown) == ["transformer.strange.weight"]


def test_a_config_with_an_infinite_number_is_read_as_transformers_stores_it():
    config = transformers.Mamba2Config(
        hidden_size=32, num_hidden_layers=1, num_heads=8, head_dim=8, n_groups=1, state_size=16, vocab_size=40
    )
    assert layout_of(config, "Mamba2ForCausalLM").source == "Mamba2ForCausalLM"


def test_norms_and_positions_with_as_many_rows_are_no_candidates():
    shapes = {"wte.weight": (40, 8), "ln_f.weight": (40,), "wpe.weight": (40, 8), "table.weight": (40, 3)}
    layout = Layout.of({"model_type": "unheard of"}, list(shapes), shapes)
    assert [name for name in shapes if layout[name].axis == "candidate"] == ["table.weight"]
    assert layout.source == "names" and "unheard of" in layout.note


def test_parts_that_speak_listen_or_guess_ahead_are_not_the_text():
    known = {
        "thinker.model.layers.0.mlp.up_proj.weight": "text", "thinker.model.layers.1.mlp.up_proj.weight": "text",
        "thinker.visual.blocks.0.mlp.up_proj.weight": "vision", "vpm.encoder.layers.0.mlp.fc1.weight": "vision",
        "talker.model.layers.0.mlp.up_proj.weight": "audio", "talker.model.layers.1.mlp.up_proj.weight": "audio",
        "talker.code_predictor.model.layers.0.mlp.up_proj.weight": "audio", "apm.layers.0.fc1.weight": "audio",
        "code2wav.decoder.blocks.0.conv.weight": "audio", "depth_decoder.model.layers.0.mlp.up_proj.weight": "audio",
        "mtp_layers.0.mlp.up_proj.weight": "draft", "speculator.layers.0.mlp.up_proj.weight": "draft",
    }  # fmt: skip
    layout = Layout.of({}, list(known), dict.fromkeys(known, (8, 8)))
    assert {name: part.component for name, part in layout.parts.items()} == known
