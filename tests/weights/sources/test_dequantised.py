"""Each quantised format is read as its formula says, element for element; what is not known is refused by name."""

import json

import numpy as np
import pytest
import torch
from quantised_files import FORMATS, quantise
from reference import state

from chatvec_lab import Checkpoint
from chatvec_lab.weights.inspect import inspect

WIDTH, INNER = 64, 96
UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    from gguf_files import save_llama

    return save_llama(tmp_path_factory.mktemp("whole") / "model", dtype=torch.bfloat16)


@pytest.mark.parametrize("format", FORMATS)
def test_every_element_is_the_value_of_the_formula(whole, tmp_path, format):
    values = quantise(whole, tmp_path / "member", format)
    member, plain = Checkpoint(tmp_path / "member"), Checkpoint(whole)
    assert member.note.startswith("dequantised from ") and sorted(member.names) == sorted(plain.names)
    assert values
    for name in member.names:
        found = member.read(name)
        assert tuple(found.shape) == plain.shape(name) == member.shape(name)
        if name not in values:
            assert torch.equal(found, plain.read(name))
            continue
        # what float32 is read of is exact in float32; float64 is the formula in float64
        assert (found.double() != values[name]).sum() == 0
        cut = member.raw(name, 70, 203)  # in the middle of rows, groups and blocks
        assert np.array_equal(cut.astype(np.float64), values[name].reshape(-1)[70:203].numpy())


def test_one_tensor_is_labelled_and_the_page_says_so(whole, tmp_path):
    quantise(whole, tmp_path / "member", "gptq")
    member = Checkpoint(tmp_path / "member")
    assert member.tensors.quantised(f"{UP}.weight") == "GPTQ, 4 bits, groups of 32"
    assert member.tensors.quantised("lm_head.weight") == ""
    assert "dequantised from GPTQ, 4 bits, groups of 32" in inspect(str(tmp_path / "member"))
    assert "quantization_config" not in member.config


@pytest.mark.parametrize(
    "format", ["fp8 blocks", "ct int8", "gptq", "awq", "bnb nf4", "mlx 4 bits", "ct nvfp4"]
)
def test_the_expected_noise_is_near_the_true_error(whole, tmp_path, format):
    """An estimate from the steps alone, within a fifth of what rounding to nearest has done."""
    quantise(whole, tmp_path / "member", format)
    member, plain = Checkpoint(tmp_path / "member"), state(whole)
    error = expected = 0.0
    for name in member.names:
        size = plain[name].numel()
        expected += member.tensors.noise(name, 0, size)
        error += float((member.read(name).double() - plain[name].double()).square().sum())
    assert member.tensors.noise("lm_head.weight", 0, 8) == 0
    assert 0.8 < (expected / error) ** 0.5 < 1.25


def gone(part):
    return lambda stored: [stored.pop(name) for name in list(stored) if name.endswith(f"up_proj.{part}")]


def cut(part, *, axis=0):
    def change(stored):
        for name in stored:
            if name.endswith(f"up_proj.{part}"):
                stored[name] = stored[name].narrow(axis, 0, stored[name].shape[axis] - 1).contiguous()

    return change


def as_dtype(part, dtype):
    def change(stored):
        for name in stored:
            if name.endswith(f"up_proj.{part}"):
                stored[name] = stored[name].to(dtype)

    return change


NEIGHBOURS = [
    ("fp8 blocks", {"weight_block_size": [16, 16]}, None, r"weight_scale_inv has the shape \(4, 3\), expected \(4, 6\)"),
    ("fp8 blocks", {"weight_block_size": 16}, None, "weight_block_size is 16"),
    ("fp8 blocks", {}, gone("weight_scale_inv"), r"stored without .*up_proj\.weight_scale_inv"),
    ("fp8 blocks", {}, as_dtype("weight_scale_inv", torch.int32), "is stored as int32, expected float32"),
    ("fp8 tensor", {}, gone("weight_scale"), "is stored without"),
    ("fp8 rows", {}, cut("weight_scale"), r"weight_scale has the shape \(95, 1\)"),
    ("fp8 rows", {"weight_scale_semantics": "inverse"}, None, "weights are divided by their scales"),
    ("modelopt nvfp4", {}, lambda stored: stored.update({f"{UP}.pre_quant_scale": torch.ones(64)}),
     r"not of the method modelopt, such as .*pre_quant_scale"),
    ("modelopt nvfp4", {"quant_algo": "INT4_AWQ"}, None, "quant_algo 'INT4_AWQ' is not FP8 or NVFP4"),
    ("modelopt nvfp4", {}, gone("weight_scale_2"), "of its tensors are not of the method modelopt"),
    ("ct int8", {"format": "marlin-24"}, None, "its format 'marlin-24' is not one of"),
    ("ct int8", {"sparsity_config": {"format": "sparse-24-bitmask"}}, None, r"also sparse \(sparse-24-bitmask\)"),
    ("ct int8", {"config_groups": {}}, None, "no config_groups"),
    ("ct int8 asymmetric", {}, gone("weight_zero_point"), "is stored without .*weight_zero_point"),
    ("ct int8 asymmetric", {"config_groups": {"g": {"targets": ["Linear"], "weights": {
        "num_bits": 8, "strategy": "channel", "symmetric": True}}}}, None, "symmetric, but .*weight_zero_point is not zero"),
    ("ct w4a16", {"config_groups": {"g": {"targets": ["Linear"], "weights": {
        "num_bits": 4, "strategy": "group", "group_size": 32, "actorder": "group"}}}}, None,
     "actorder is 'group', but .*weight_g_idx, which says the order"),
    ("ct w4a16", {}, gone("weight_shape"), "stored without .*weight_shape"),
    ("ct w4a16", {}, cut("weight_packed", axis=1), "has 7 words a row, expected 8"),
    ("ct w4a16", {"config_groups": {"g": {"targets": ["Linear"], "weights": {
        "num_bits": 4, "strategy": "group", "group_size": 48}}}}, None, r"has the shape \(64, 3\), expected \(64, 2\)"),
    ("ct w4a16", {"config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 11}}}}, None, "num_bits 11"),
    ("ct w4a16 reordered", {}, cut("weight_g_idx"), r"weight_g_idx has the shape \(63,\), expected \(64,\)"),
    ("ct nvfp4", {}, gone("weight_global_scale"), "is stored without .*weight_global_scale"),
    ("gptq", {"bits": 5}, None, "its bits are 5, expected one of 2, 3, 4, 8"),
    ("gptq", {"bits": 8}, None, r"scales has the shape \(3, 64\), expected \(2, 64\)"),
    ("gptq", {"group_size": 16}, None, r"scales has the shape \(3, 64\), expected \(6, 64\)"),
    ("gptq", {"group_size": 128}, None, "groups of 128 are larger than .*qweight, which has 96 columns"),
    ("gptq", {"group_size": 0}, None, "group_size is 0"),
    ("gptq", {"checkpoint_format": "marlin"}, None, "checkpoint_format 'marlin' is not one of gptq, gptq_v2"),
    ("gptq", {"is_marlin_format": True}, None, "checkpoint_format 'marlin' is not one of"),
    ("gptq", {"format": "gptq_p"}, None, "checkpoint_format 'gptq_p' is not one of"),
    ("gptq", {"dynamic": {"+:.*": {"bits": 8}}}, None, r"rules of their own \(dynamic\)"),
    ("gptq", {"desc_act": True}, gone("g_idx"), "desc_act is set, but .*g_idx"),
    ("gptq", {}, gone("qzeros"), "stored without .*qzeros"),
    ("awq", {"version": "gemv"}, None, "version 'gemv' is not gemm"),
    ("awq", {"version": None, "checkpoint_format": "gemv"}, None, "checkpoint_format 'gemv' is not gemm"),
    ("awq", {"version": None, "format": "gemv_fast"}, None, "format 'gemv_fast' is not gemm"),
    ("awq", {"backend": "llm-awq"}, None, "backend 'llm-awq' packs codes in another order"),
    ("awq", {"bits": 8}, None, "bits are 8, expected 4"),
    ("awq", {"group_size": 64}, None, r"scales has the shape|do not divide"),
    ("bnb nf4", {}, gone("weight.absmax"), "stored without .*absmax"),
    ("bnb nf4", {}, cut("weight.absmax"), "absmax has the shape"),
    ("bnb nf4 nested", {}, gone("weight.nested_absmax"), "stored without .*nested_absmax"),
    ("bnb 8 bits", {}, lambda stored: stored.update({f"{UP}.weight_format": torch.tensor(2, dtype=torch.uint8)}),
     "laid out for a GPU"),
    ("mlx 4 bits", {"bits": 7}, None, "7 bits in groups of 32 are not of the mode affine"),
    ("mlx 4 bits", {"mode": "ternary"}, None, "mode 'ternary' is not one of"),
    ("mlx 4 bits", {"group_size": 64}, None, r"scales has the shape|do not divide"),
    ("mlx 4 bits", {}, gone("biases"), "stored without .*biases"),
    ("gptq", {"quant_method": "aqlm"}, None, "aqlm is none of the methods that are read here"),
    ("ct int8", {"quant_method": "quark"}, None, "quark is none of the methods"),
]  # fmt: skip


@pytest.mark.parametrize(("format", "config", "change", "said"), NEIGHBOURS)
def test_what_is_not_known_is_refused_by_name(whole, tmp_path, format, config, change, said):
    quantise(whole, tmp_path / "member", format, config=config, change=change)
    with pytest.raises(ValueError, match=rf"(?s)member is quantised .* is not read: .*(?:{said})"):
        _ = Checkpoint(tmp_path / "member").names
    assert "no vector can be made of it" in inspect(str(tmp_path / "member"))


def test_a_zero_point_that_programs_read_differently_is_refused(whole, tmp_path):
    def change(stored):
        stored[f"{UP}.qzeros"][0, 0] |= 15

    quantise(whole, tmp_path / "member", "gptq", change=change)
    with pytest.raises(
        ValueError, match=r"up_proj\.qzeros: a zero point is stored as 15.*some programs read it as 0"
    ):
        Checkpoint(tmp_path / "member").read(f"{UP}.weight")


def test_modules_of_their_own_are_read_by_their_own_sizes(whole, tmp_path):
    """MLX gives a module bits of its own, compressed-tensors a group; both by name."""
    values = quantise(
        whole, tmp_path / "mlx", "mlx 4 bits", config={UP: {"bits": 4, "group_size": 32}, "bits": 8}
    )
    with pytest.raises(
        ValueError, match=r"has the shape|do not divide"
    ):  # the others are no longer of 8 bits
        _ = Checkpoint(tmp_path / "mlx").names
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    groups = {"a": {"targets": ["re:.*(mlp|attn).*"], "weights": weights},
              "b": {"targets": ["Linear"], "weights": weights | {"num_bits": 8}}}  # fmt: skip
    values = quantise(whole, tmp_path / "ct", "ct w4a16", config={"config_groups": groups})
    assert torch.equal(Checkpoint(tmp_path / "ct").read(f"{UP}.weight").double(), values[f"{UP}.weight"])
    named = [f"model.layers.{layer}.{part}_proj" for layer in (0, 1) for part in (
        "mlp.up", "mlp.gate", "mlp.down", "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o")]  # fmt: skip
    groups = {"a": {"targets": ["re:.*"], "weights": weights | {"num_bits": 8}},
              "b": {"targets": named, "weights": weights}}  # fmt: skip
    values = quantise(
        whole, tmp_path / "name", "ct w4a16", config={"config_groups": groups}
    )  # a name comes first
    assert torch.equal(Checkpoint(tmp_path / "name").read(f"{UP}.weight").double(), values[f"{UP}.weight"])


def test_a_stack_of_experts_in_mxfp4_is_read_as_transformers_does(whole, tmp_path):
    """gpt-oss: (experts, out, blocks, 16) bytes become (experts, in, out)."""
    from safetensors.torch import save_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 10, 2, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(110, 130, (3, 10, 2), generator=generator, dtype=torch.uint8)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    folder = tmp_path / "oss"
    folder.mkdir()
    save_file({f"{name}_blocks": blocks, f"{name}_scales": scales, "model.norm.weight": torch.ones(4)},
              folder / "model.safetensors")  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "mxfp4"}}))
    member, wanted = Checkpoint(folder), convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert sorted(member.names) == [name, "model.norm.weight"] and member.note == "dequantised from MXFP4"
    assert torch.equal(member.read(name), wanted)
    flat = wanted.reshape(-1).numpy()
    for start, stop in ((0, 10), (5, 333), (630, 700), (1500, 1920)):  # across blocks of 32 and experts
        assert np.array_equal(member.raw(name, start, stop), flat[start:stop])
    save_file(
        {f"{name}_blocks": blocks, f"{name}_scales": scales[:, :, :1].contiguous()},
        folder / "model.safetensors",
    )
    with pytest.raises(ValueError, match=r"_scales has the shape \(3, 10, 1\), expected \(3, 10, 2\)"):
        _ = Checkpoint(folder).names


def test_blocks_begin_anew_in_each_expert_of_a_stack(tmp_path):
    """A stack (experts, out, in) in FP8 whose heights are no multiples of the block's."""
    from quantised_files import fp8
    from safetensors.torch import save_file

    w = torch.randn(3, 20, 24, generator=torch.Generator().manual_seed(1))
    pairs = [fp8(part, (16, 16)) for part in w]
    name, folder = "model.layers.0.mlp.experts.down_proj", tmp_path / "moe"
    folder.mkdir()
    stored = {name: torch.stack([p["weight"] for p, _ in pairs]),
              f"{name}_scale_inv": torch.stack([p["weight_scale_inv"] for p, _ in pairs])}  # fmt: skip
    save_file(stored, folder / "model.safetensors")
    entry = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (folder / "config.json").write_text(json.dumps({"quantization_config": entry}))
    assert torch.equal(Checkpoint(folder).read(name).double(), torch.stack([value for _, value in pairs]))
