"""What each format's own library packs is read as it unpacks it, element for element.

transformers is always here; the others come with the extra `formats`, and are compared among the slow tests.
"""

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from chatvec_lab import Checkpoint

UP = "model.layers.0.mlp.up_proj"
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"


def member(folder, stored, entry, key="quantization_config"):
    """A checkpoint that holds these tensors and a norm."""
    folder.mkdir()
    whole = {name: tensor.contiguous() for name, tensor in stored.items()} | {
        "model.norm.weight": torch.ones(4)
    }
    save_file(whole, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({key: entry}))
    return Checkpoint(folder)


def of(module, parts):
    return {f"{module}.{part}": tensor for part, tensor in parts.items()}


def scales(shape, dtype, generator):
    if dtype in (torch.uint8, torch.float8_e8m0fnu):
        return torch.randint(110, 130, shape, dtype=torch.uint8, generator=generator).view(dtype)
    return (torch.rand(shape, generator=generator) * 0.01 + 0.001).to(dtype)


FP8 = {  # shape of the weight, of the scales, the block, dtype of the scales
    "blocks": ((256, 384), (2, 3), [128, 128], torch.float32),
    "odd blocks": ((96, 80), (3, 2), [32, 40], torch.float32),
    "one, a number": ((64, 96), (), None, torch.float32),
    "one, a list": ((64, 96), (1,), None, torch.bfloat16),
    "rows": ((64, 96), (64, 1), None, torch.float32),
    "mx": ((64, 96), (64, 3), [1, 32], torch.uint8),
    "powers of two": ((64, 96), (2, 3), [32, 32], torch.float8_e8m0fnu),
    "stack": ((3, 64, 96), (3, 2, 3), [32, 32], torch.float32),
    "stack, one each": ((3, 64, 96), (3, 1, 1), None, torch.float32),
    "stack, one a half": ((3, 64, 96), (3, 2, 1), None, torch.bfloat16),
}


@pytest.mark.parametrize("kind", FP8)
def test_fp8_is_what_transformers_dequantises(tmp_path, kind):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    shape, grid, block, dtype = FP8[kind]
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(*shape, generator=generator).to(torch.float8_e4m3fn)
    scale = scales(grid, dtype, generator)
    name = f"{UP}.weight" if len(shape) == 2 else EXPERTS
    entry = {"quant_method": "fp8", "weight_block_size": block}
    ours = member(tmp_path / "m", {name: codes, f"{name}_scale_inv": scale}, entry).read(name)
    wide = scale if len(grid) > 1 else scale.reshape(1, 1)
    wanted = Fp8Dequantize(None)._dequantize_one(codes, wide, torch.float32)
    assert torch.equal(ours.float(), wanted)


def test_llama_4s_experts_of_fbgemm_have_a_scale_a_column(tmp_path):
    """As transformers' FbgemmFp8Llama4TextExperts has them: (experts, in, out), scales (experts, 1, out) or (…, out, 1)."""
    name = "model.layers.0.feed_forward.experts"
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(2, 24, width, generator=generator).to(torch.float8_e4m3fn) for width in (48, 24))
    of_up, of_down = torch.rand(2, 1, 48, generator=generator), torch.rand(2, 24, 1, generator=generator)
    stored = {f"{name}.gate_up_proj": up, f"{name}.gate_up_proj_scale": of_up,
              f"{name}.down_proj": down, f"{name}.down_proj_scale": of_down}  # fmt: skip
    ours = member(tmp_path / "m", stored, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0})
    assert torch.equal(ours.read(f"{name}.gate_up_proj").double(), up.double() * of_up.double())
    assert torch.equal(ours.read(f"{name}.down_proj").double(), down.double() * of_down.double().mT)
    cut = ours.raw(f"{name}.down_proj", 100, 700)
    assert np.array_equal(cut, (down.double() * of_down.double().mT).reshape(-1)[100:700].numpy())


def test_scales_of_what_flows_through_experts_are_no_weights(tmp_path):
    stored = {EXPERTS: torch.randn(2, 32, 32).to(torch.float8_e4m3fn), f"{EXPERTS}_scale_inv": torch.ones(2, 1, 1),
              f"{EXPERTS}_activation_scale": torch.ones(2), "model.layers.0.self_attn.kv_scale": torch.ones(())}  # fmt: skip
    ours = member(tmp_path / "m", stored, {"quant_method": "fp8", "activation_scheme": "static"})
    assert sorted(ours.names) == [EXPERTS, "model.norm.weight"]


COMPRESSED = [
    *(("int-quantized", (64, 96), dict(num_bits=8, type="int", symmetric=symmetric, strategy=strategy, group_size=size))
      for symmetric, (strategy, size) in itertools.product(
          (True, False), (("tensor", None), ("channel", None), ("group", 32)))),
    *(("pack-quantized", (24, 256), dict(num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=size,
                                         actorder=order))
      for symmetric, size, order in itertools.product((True, False), (32, 64, 128), (None, "weight"))),
    *(("pack-quantized", (37, 96), dict(num_bits=bits, type="int", symmetric=symmetric, strategy="channel"))
      for bits, symmetric in itertools.product(range(1, 9), (True, False))),
    ("float-quantized", (64, 96), dict(num_bits=8, type="float", symmetric=True, strategy="tensor")),
    ("float-quantized", (64, 96), dict(num_bits=8, type="float", symmetric=True, strategy="channel")),
    ("float-quantized", (70, 100), dict(num_bits=8, type="float", symmetric=True, strategy="block",
                                        block_structure=[32, 48])),
    ("nvfp4-pack-quantized", (64, 96), dict(num_bits=4, type="float", symmetric=True, strategy="tensor_group",
                                            group_size=16)),
    ("mxfp4-pack-quantized", (64, 96), dict(num_bits=4, type="float", symmetric=True, strategy="group", group_size=32)),
    ("mxfp8-quantized", (64, 96), dict(num_bits=8, type="float", symmetric=True, strategy="group", group_size=32)),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("format", "shape", "settings"), COMPRESSED, ids=lambda value: str(value)[:60])
def test_compressed_tensors_packs_what_is_read(tmp_path, format, shape, settings):
    pytest.importorskip("compressed_tensors", reason="the extra formats is not installed")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    arguments = QuantizationArgs(**settings)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments, format=format)
    weight = (0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).bfloat16()
    whole = generate_gparam(weight.min(), weight.max()) if arguments.strategy == "tensor_group" else None
    scale, zero = calculate_qparams(*_extremes(weight, arguments), arguments, global_scale=whole)
    parts = {"weight": weight, "weight_scale": scale if scale.dtype.itemsize == 1 else scale.bfloat16()}
    parts |= {} if arguments.symmetric else {"weight_zero_point": zero}
    parts |= {} if whole is None else {"weight_global_scale": whole.reshape(1)}
    compressor = BaseCompressor.get_value_from_registry(format)
    stored = compressor.compress(parts, scheme)
    entry = {"quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"],
             "config_groups": {"group_0": json.loads(scheme.model_dump_json())}}  # fmt: skip
    ours = member(tmp_path / "m", of(UP, stored), entry).read(f"{UP}.weight")
    as_stored = compressor.decompress(dict(stored), scheme)["weight"]
    assert torch.equal(ours.to(as_stored.dtype), as_stored)
    if format.startswith(("int", "pack", "float")):  # with wide scales it computes in float64 as well
        wide = stored | {"weight_scale": stored["weight_scale"].double()}
        assert torch.equal(ours.double(), compressor.decompress(wide, scheme)["weight"])


def _extremes(weight, arguments):
    """The least and the largest of what shares a scale."""
    rows, columns = weight.shape
    if arguments.strategy == "tensor":
        pieces = weight.reshape(1, -1)
    elif arguments.strategy == "channel":
        pieces = weight.reshape(rows, 1, columns)
    elif arguments.strategy == "block":
        down, across = arguments.block_structure
        padded = torch.nn.functional.pad(weight, (0, -columns % across, 0, -rows % down))
        pieces = padded.unfold(0, down, down).unfold(1, across, across).flatten(2)
    else:
        pieces = weight.reshape(rows, -1, arguments.group_size)
    return pieces.amin(-1), pieces.amax(-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(24, 512), (33, 7)]
)  # its kernel for CPUs takes blocks that span no two rows, or odd rows
@pytest.mark.parametrize(
    ("kind", "nested", "size"), [*itertools.product(("nf4", "fp4"), (False, True), (64, 512))]
)
def test_bitsandbytes_packs_what_is_read(tmp_path, kind, nested, size, shape):
    functional = pytest.importorskip("bitsandbytes.functional", reason="the extra formats is not installed")
    weight = (0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).bfloat16()
    codes, state = functional.quantize_4bit(
        weight, blocksize=size, compress_statistics=nested, quant_type=kind
    )
    stored = {"weight": codes} | {
        f"weight.{part}": value for part, value in state.as_dict(packed=True).items()
    }
    state.dtype = torch.float32
    wanted = functional.dequantize_4bit(codes, state)
    entry = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    ours = member(tmp_path / "m", of(UP, stored), entry).read(f"{UP}.weight")
    assert ours.shape == wanted.shape
    if nested:  # its own absmax is computed in float32: the formula in float64 may lie a unit beside
        torch.testing.assert_close(ours.float(), wanted, rtol=3e-7, atol=0)
    else:
        assert torch.equal(ours.float(), wanted)


@pytest.mark.slow
def test_eight_bits_of_bitsandbytes(tmp_path):
    functional = pytest.importorskip("bitsandbytes.functional", reason="the extra formats is not installed")
    weight = (0.05 * torch.randn(64, 96, generator=torch.Generator().manual_seed(0))).half()
    codes, scale, _ = functional.int8_vectorwise_quant(weight)
    stored = of(UP, {"weight": codes, "SCB": scale})
    ours = member(tmp_path / "m", stored, {"quant_method": "bitsandbytes"}).read(f"{UP}.weight")
    assert torch.equal(ours, codes.double() * scale.double()[:, None] / 127)
    wanted = functional.int8_vectorwise_dequant(codes, scale)  # by 1/127 in float32
    torch.testing.assert_close(ours.float(), wanted.float(), rtol=3e-7, atol=0)


MLX = [*itertools.product(("affine",), (2, 3, 4, 5, 6, 8), (32, 64, 128)), ("mxfp4", 4, 32), ("mxfp8", 8, 32),
       ("nvfp4", 4, 16)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "bits", "size"), MLX)
def test_mlx_packs_what_is_read(tmp_path, mode, bits, size):
    mx = pytest.importorskip("mlx.core", reason="the extra formats is not installed")
    drawn = (0.05 * torch.randn(24, 256, generator=torch.Generator().manual_seed(0))).numpy()
    packed = mx.quantize(mx.array(drawn).astype(mx.bfloat16), group_size=size, bits=bits, mode=mode)
    parts = dict(zip(("weight", "scales", "biases"), map(_torch, packed), strict=False))
    if mode == "affine":  # its codes, and the formula in float64: its own float32 rounds product and sum
        alone = [mx.ones_like(packed[1]).astype(mx.float32), mx.zeros_like(packed[1]).astype(mx.float32)]
        codes = _torch(mx.dequantize(packed[0], *alone, group_size=size, bits=bits)).double()
        scale, bias = (parts[part].double().repeat_interleave(size, 1) for part in ("scales", "biases"))
        wanted = codes * scale + bias
    else:
        wanted = _torch(
            mx.dequantize(*packed, group_size=size, bits=bits, mode=mode, dtype=mx.float32)
        ).double()
    entry = {"bits": bits, "group_size": size} | ({} if mode == "affine" else {"mode": mode})
    ours = member(tmp_path / "m", of(UP, parts), entry, "quantization").read(f"{UP}.weight")
    assert torch.equal(ours.double(), wanted)


def _torch(array):
    import mlx.core as mx

    if array.dtype == mx.bfloat16:
        return torch.from_numpy(np.array(array.astype(mx.float32))).bfloat16()
    return torch.from_numpy(np.array(array))
