"""What two configs say of the same weights: named in one table, in the words of old and new transformers alike."""

import pytest

from chatvec_lab.weights.preflight.configs import DIFFERENCES, FORCIBLE, differences, others, settings_of

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 128,
}  # fmt: skip


def names(ours, base=LLAMA):
    return [entry.name for entry, _ in differences(settings_of(ours), settings_of(base))]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"rope_theta": 5e5}, "rope"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope"),
        ({"partial_rotary_factor": 0.5}, "rope"),
        ({"num_attention_heads": 8}, "heads"),
        ({"num_key_value_heads": 4}, "heads"),
        ({"head_dim": 32}, "heads"),
        ({"rms_norm_eps": 1e-6}, "epsilon"),
        ({"sliding_window": 64}, "window"),
        ({"hidden_act": "relu"}, "activation"),
        ({"max_position_embeddings": 4096}, "context"),
        ({"attn_logit_softcapping": 50.0}, "scaling"),
        ({"num_experts_per_tok": 4}, "experts"),
        ({"tie_word_embeddings": True}, "tied"),
        ({"rope_ratio": 500}, "rope"),
        ({"clip_qkv": 8.0}, "scaling"),
        ({"feed_forward_proj": "gated-gelu"}, "activation"),
        ({"qk_rope_head_dim": 8}, "heads"),
        ({"max_window_layers": 3}, "window"),
    ],
)
def test_every_setting_is_named(change, name):
    assert name in names(LLAMA | change)
    assert name in {entry.name for entry in DIFFERENCES}


@pytest.mark.parametrize(
    "same",
    [
        {
            "rope_theta": None,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        },  # transformers 5
        {"rope_theta": None},  # older configs leave the default out
        {"rope_scaling": None, "sliding_window": None, "head_dim": None},
        {"head_dim": 16},
        {"hidden_act": "swish"},
        {"use_sliding_window": False, "sliding_window": 4096},
        {"rope_theta": 10000},
        {"eos_token_id": 7, "vocab_size": 99, "torch_dtype": "float16", "use_cache": False},
    ],
)
def test_the_same_in_other_words_is_no_difference(same):
    assert names(LLAMA | same) == []


def test_scaling_of_rope_in_either_spelling_is_one():
    old = LLAMA | {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    new = LLAMA | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}}
    new.pop("rope_theta")
    assert names(old, new) == names(new, old) == []


def test_what_only_one_states_is_compared_with_the_class_of_the_other():
    """Mixtral's class has a RoPE base of a million, and says so nowhere in its old configs."""
    bare = {"model_type": "mixtral", "hidden_size": 64, "num_attention_heads": 4}
    assert "rope" not in names(bare | {"rope_theta": 1e6}, bare)
    assert "rope" in names(bare | {"rope_theta": 1e5}, bare)


def test_the_text_part_of_a_larger_model_is_what_counts():
    larger = {"model_type": "llava", "vision_config": {"hidden_size": 8}, "text_config": LLAMA}
    assert names(larger) == []
    assert names(larger | {"text_config": LLAMA | {"rope_theta": 7.0}}) == ["rope"]


def test_the_table_says_what_refuses_and_what_it_means():
    assert all(entry.meaning and set(entry.refuses) <= {"chat", "cp"} for entry in DIFFERENCES)
    assert set(FORCIBLE) == {e.name for e in DIFFERENCES if e.refuses} >= {"heads", "rope", "activation"}
    assert not {"epsilon", "window", "context"} & set(FORCIBLE), "told, and no more"


def test_what_the_table_does_not_know_is_told_all_the_same():
    assert (
        others(LLAMA | {"mlp_bias": True}, LLAMA) == "mlp_bias True, base False"
    )  # the default of its class
    assert others(LLAMA, LLAMA | {"mscale": 0.7}) == "mscale not stated, base 0.7"
    vision = [LLAMA | {"vision_config": {"patch_size": size, "dropout": size}} for size in (14, 16)]
    assert others(*vision) == "vision_config.patch_size 14, base 16"


@pytest.mark.parametrize(
    "same",
    [
        {"mlp_bias": False, "attention_bias": None},
        {
            "eos_token_id": 7,
            "image_token_index": 9,
            "vocab_size": 99,
            "dtype": "float16",
            "transformers_version": "5",
        },
        {"attention_dropout": 0.1, "initializer_range": 0.1, "use_cache": False, "pretraining_tp": 2},
        {"rms_norm_eps": 1e-6},  # the table's own
        {"vision_config": {"depth": 3}},  # of a part that the base lacks
        {"model_type": "qwen2", "unlike": 1},
    ],
)
def test_what_says_nothing_of_the_weights_is_not_told(same):
    assert others(LLAMA | same, LLAMA) == ""
