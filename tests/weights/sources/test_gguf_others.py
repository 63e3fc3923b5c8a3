"""GGUF files of other architectures read as transformers reads them; those that are rearranged are refused by name."""

import gguf
import numpy as np
import pytest
import torch
from gguf_files import permuted
from pico import SPECIAL, TOKENS
from transformers import AutoConfig, AutoModelForCausalLM

from chatvec_lab import Checkpoint
from chatvec_lab.weights.sources import gguf_tensors
from chatvec_lab.weights.sources.gguf_others import ARCHITECTURES

HEADS, KV_HEADS, WIDTH, INNER, EXPERTS = 4, 2, 64, 96, 3
DENSE = sorted(kind for kind in ARCHITECTURES if not kind.endswith("moe"))
OWN = {"qwen3": {"head_dim": 128}, "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
       "qwen2moe": {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                    "shared_expert_intermediate_size": 64},
       "qwen3moe": {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16},
       "llama": {"num_local_experts": EXPERTS, "num_experts_per_tok": 2},
       "gemma3": {"head_dim": 16}, "phi3": {"pad_token_id": 0, "original_max_position_embeddings": 64}}  # fmt: skip


def small(architecture, **more):
    torch.manual_seed(0)
    named = {"gemma3": "gemma3_text", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "llama": "mixtral"}
    kind = named.get(architecture, architecture)
    config = AutoConfig.for_model(
        kind, vocab_size=63, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, intermediate_size=INNER, max_position_embeddings=64, bos_token_id=1,
        eos_token_id=2, **OWN.get(architecture, {}) | more,
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
    if architecture.endswith("moe") or architecture == "llama":
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(32)
    writer.add_pad_token_id(0)
    writer.add_tokenizer_model("llama")
    tokens = SPECIAL + TOKENS
    writer.add_token_list(tokens)
    writer.add_token_scores([float(-i) for i in range(len(tokens))])
    writer.add_token_types([2, 3, 3] + [1] * len(TOKENS))
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, 2)
    for target, values in converted(model, architecture, names):
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


def converted(model, architecture, names):
    """llama.cpp's name and values of each tensor: experts one upon the other, a Llama's queries and keys permuted."""
    for name, weight in model.named_parameters():
        values = weight.detach().numpy()
        layer = next((piece for piece in name.split(".") if piece.isdigit()), None)
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(values, 2, axis=1)
            yield f"blk.{layer}.ffn_gate_exps.weight", np.ascontiguousarray(gate)
            yield f"blk.{layer}.ffn_up_exps.weight", np.ascontiguousarray(up)
        elif name.endswith("experts.down_proj"):
            yield f"blk.{layer}.ffn_down_exps.weight", values
        elif name.endswith("shared_expert_gate.weight"):
            yield f"blk.{layer}.ffn_gate_inp_shexp.weight", values[0]
        else:
            if ARCHITECTURES.get(architecture) and name.endswith("norm.weight"):
                values = values + 1
            if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
                values = permuted(values, HEADS if ".q_proj." in name else KV_HEADS)
            stem, kind_of = name.rsplit(".", 1)
            stem = stem.replace("mlp.gate", "block_sparse_moe.gate") if architecture == "llama" else stem
            yield f"{names.get_name(stem)}.{kind_of}", values


MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2moe", "qwen3moe"])
def test_each_expert_is_a_tensor_of_its_own(tmp_path, architecture, kind):
    """By value: gguf's own quantising of each expert's matrix, alone, and read by its own dequantising."""
    model = small(architecture)
    ours = Checkpoint(write(model, tmp_path / "model.gguf", architecture, kind))
    inside = "block_sparse_moe" if architecture == "llama" else "mlp"
    wanted = {}
    for name, weight in model.named_parameters():
        values = weight.detach().numpy()
        if ".experts." not in name:
            wanted[name.replace("mlp.gate.", f"{inside}.gate.")] = values
            continue
        parts = {"down_proj": values} if "down" in name else dict(
            zip(("gate_proj", "up_proj"), np.split(values, 2, axis=1), strict=True)
        )  # fmt: skip
        layer = name.split(".")[2]
        for part, stack in parts.items():
            part = MIXTRAL[part] if architecture == "llama" else part
            wanted |= {
                f"model.layers.{layer}.{inside}.experts.{e}.{part}.weight": stack[e] for e in range(EXPERTS)
            }
    assert sorted(ours.names) == sorted(wanted)
    for name, values in wanted.items():
        expected = values
        if values.ndim > 1 and kind != "F32" and not name.endswith("shared_expert_gate.weight"):
            quantised = gguf.GGMLQuantizationType[kind]
            expected = gguf.dequantize(gguf.quantize(values, quantised), quantised)
        found = ours.read(name)
        assert found.shape == expected.shape and np.array_equal(found.float().numpy(), expected), name
    told = AutoConfig.for_model(**ours.config)
    sizes = (
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "num_experts_per_tok",
        "num_local_experts",
    )
    for key in ("hidden_size", "num_key_value_heads", *(key for key in sizes if hasattr(model.config, key))):
        assert getattr(told, key) == getattr(model.config, key), key
    assert getattr(told, "norm_topk_prob", False) == (architecture == "qwen3moe")
    up = next(n for n in ours.names if ".experts.2." in n)
    assert torch.equal(ours.read(up, slice(3, 9)), ours.read(up)[3:9]) and len(
        {*map(ours.tensors.place, ours.names)}
    ) == len(wanted)
    assert ours.layout[up].module == "mlp" and not ours.layout.ignored and not ours.layout.unknown


@pytest.mark.parametrize("architecture", ["qwen2moe", "qwen3moe"])
def test_experts_are_those_that_transformers_loads(tmp_path, architecture):
    kind = AutoConfig.for_model({"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}[architecture])
    sizes = (
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
    )  # it knows these by their defaults alone
    own = {key: getattr(kind, key) for key in sizes if hasattr(kind, key)}
    path = write(small(architecture, **own), tmp_path / "model.gguf", architecture, "Q8_0")
    ours = Checkpoint(path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    for name, weight in theirs.named_parameters():
        if ".experts." not in name:
            assert torch.equal(ours.read(name), weight), name
        else:
            stem, parts = (
                name.rsplit(".", 1)[0],
                ["down_proj"] if "down" in name else ["gate_proj", "up_proj"],
            )
            for e, expert in enumerate(weight):
                assert torch.equal(
                    torch.cat([ours.read(f"{stem}.{e}.{part}.weight") for part in parts]), expert
                )


def test_a_vector_of_mixtral_files_is_saved_as_a_model(tmp_path):
    """And transformers loads it with every expert in its place."""
    members = {}
    for number, name in enumerate(("base", "chat", "cp")):
        members[name] = small("llama")
        with torch.no_grad():
            for parameter in members[name].parameters():
                parameter.add_(
                    0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                )
        write(members[name], tmp_path / f"{name}.gguf", "llama")
    base, chat, cp = (Checkpoint(tmp_path / f"{name}.gguf") for name in members)
    (cp + 0.5 * (chat - base)).save(tmp_path / "out", progress=False)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    states = {name: model.state_dict() for name, model in members.items()}
    for name, weight in loaded.state_dict().items():
        exact = states["cp"][name].double() + 0.5 * (
            states["chat"][name].double() - states["base"][name].double()
        )
        assert torch.equal(weight, exact.float()), name


def test_another_number_of_experts_than_the_file_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_expert_count", lambda self, n: self.add_uint32("llama.expert_count", n + 1)
    )
    path = write(small("llama"), tmp_path / "model.gguf", "llama")
    with pytest.raises(
        ValueError, match=r"ffn_\w+_exps.weight has the shape \(3, .*and the file's metadata say 4 experts"
    ):
        _ = Checkpoint(path).names


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("architecture", DENSE)
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
