"""GGUF files of other architectures read as transformers reads them; those that are rearranged are refused by name."""

import gguf
import numpy as np
import pytest
import torch
from pico import SPECIAL, TOKENS
from transformers import AutoConfig, AutoModelForCausalLM

from chatvec_lab import Checkpoint
from chatvec_lab.weights.sources import gguf_tensors
from chatvec_lab.weights.sources.gguf_others import ARCHITECTURES

HEADS, KV_HEADS, WIDTH, INNER = 4, 2, 64, 96
OWN = {"qwen3": {"head_dim": 128}, "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
       "gemma3": {"head_dim": 16}, "phi3": {"pad_token_id": 0, "original_max_position_embeddings": 64}}  # fmt: skip


def small(architecture):
    torch.manual_seed(0)
    kind = {"gemma3": "gemma3_text"}.get(architecture, architecture)
    config = AutoConfig.for_model(
        kind, vocab_size=63, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, intermediate_size=INNER, max_position_embeddings=64, bos_token_id=1,
        eos_token_id=2, **OWN.get(architecture, {}),
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def write(model, path, architecture, kind="F32"):
    """What llama.cpp's converter writes of a dense model: its own names, norms plus 1 for some."""
    writer, size = gguf.GGUFWriter(path, architecture), OWN.get(architecture, {}).get("head_dim", 16)
    for add, value in ((writer.add_context_length, 64), (writer.add_embedding_length, WIDTH), (writer.add_block_count, 2),
                       (writer.add_feed_forward_length, INNER), (writer.add_head_count, HEADS),
                       (writer.add_head_count_kv, KV_HEADS), (writer.add_rope_freq_base, 10000.0),
                       (writer.add_layer_norm_rms_eps, 1e-6), (writer.add_layer_norm_eps, 1e-5),
                       (writer.add_rope_dimension_count, size), (writer.add_key_length, size),
                       (writer.add_value_length, size), (writer.add_sliding_window, 64)):  # fmt: skip
        add(value)
    writer.add_pad_token_id(0)
    writer.add_tokenizer_model("llama")
    tokens = SPECIAL + TOKENS
    writer.add_token_list(tokens)
    writer.add_token_scores([float(-i) for i in range(len(tokens))])
    writer.add_token_types([2, 3, 3] + [1] * len(TOKENS))
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, 2)
    for name, weight in model.named_parameters():
        values = weight.detach().numpy()
        if ARCHITECTURES[architecture] and name.endswith("norm.weight"):
            values = values + 1
        stem, kind_of = name.rsplit(".", 1)
        target = f"{names.get_name(stem)}.{kind_of}"
        if values.ndim == 1 or kind == "F32":
            writer.add_tensor(target, values)
        else:
            quantised = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(target, gguf.quantize(values, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_tensor_is_the_one_that_transformers_loads(tmp_path, architecture, kind):
    path = write(small(architecture), tmp_path / "model.gguf", architecture, kind)
    ours = Checkpoint(path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    stored = dict(theirs.named_parameters())
    assert sorted(ours.names) == sorted(stored)
    for name in ours.names:
        assert torch.equal(ours.read(name), stored[name]), name
    assert ours.config["architectures"] == [type(theirs).__name__]
    rebuilt = AutoConfig.for_model(**ours.config)
    for key in (
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
    ):
        assert getattr(rebuilt, key) == getattr(theirs.config, key), key
    assert (
        ours.note == ("" if kind == "F32" else "dequantised from Q8_0") and ours.vocabulary.tokens["w3"] == 6
    )


def test_a_vector_of_two_files_is_saved_as_a_model(tmp_path):
    base = small("qwen3")
    chat = small("qwen3")
    with torch.no_grad():
        for parameter in chat.parameters():
            parameter.add_(0.01)
    members = [
        Checkpoint(write(m, tmp_path / f"{n}.gguf", "qwen3")) for n, m in (("base", base), ("chat", chat))
    ]
    tau = members[1] - members[0]
    (members[0] + tau).save(tmp_path / "out", progress=False, force=["cp-is-base"])
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, weight in chat.state_dict().items():
        assert torch.allclose(saved[name], weight, atol=1e-6), name


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_the_expected_noise_is_near_the_true_error(tmp_path, kind):
    model = small("qwen2")
    member = Checkpoint(write(model, tmp_path / "model.gguf", "qwen2", kind))
    name = "model.layers.0.mlp.up_proj.weight"
    error = (member.read(name).double() - dict(model.named_parameters())[name].detach().double()).norm()
    assert 0.8 < member.noise(name, 0, WIDTH * INNER) ** 0.5 / error < 1.25
    assert member.noise("model.norm.weight", 0, WIDTH) == 0


SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}  # fmt: skip


@pytest.mark.parametrize("name", SCALES)
def test_the_noise_of_a_block_format_is_that_of_its_own_step(name):
    """One code more moves every element by one step, wherever it starts: so gguf's own dequantisation says."""
    kind = gguf.GGMLQuantizationType[name]
    first, last, one = gguf_tensors._CODES[name]
    blocks = np.random.default_rng(0).integers(0, 255, (20, gguf.GGML_QUANT_SIZES[kind][1])).astype(np.uint8)
    for place in SCALES[name]:
        blocks[:, place : place + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    values = []
    for code in (0, 1, 2):
        blocks[:, first:last] = one * code
        values.append(gguf.dequantize(blocks, kind).astype(np.float64))
    steps = np.diff(values, axis=0)
    assert np.array_equal(*steps) and steps.any()
    assert gguf_tensors.noise_of(blocks, kind) == pytest.approx(np.square(steps[0]).sum() / 12)
    assert np.isnan(gguf_tensors.noise_of(blocks, gguf.GGMLQuantizationType.IQ4_NL))
