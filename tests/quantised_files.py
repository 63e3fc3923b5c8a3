"""Quantised checkpoints, written by plain code of our own: each linear weight as its format stores it, with its value.

Every encoder takes a weight (out, in) and gives what is stored (by the name that follows the module's) and what the
codes stand for in float64, computed from the unpacked codes by the format's formula. Nothing of the package is used.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import torch
from reference import state
from safetensors.torch import save_file

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
NF4 = torch.tensor([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                    0.7229568362236023, 1.0])  # fmt: skip


def dense(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of each row one behind the other, lowest bit first, as rows of int32 (the last perhaps not full)."""
    rows, count = codes.shape
    flat = (codes[:, :, None].astype(np.int64) >> np.arange(bits)) & 1
    flat = np.pad(flat.reshape(rows, -1), ((0, 0), (0, -count * bits % 32)))
    return np.packbits(flat.astype(np.uint8), axis=1, bitorder="little").view(np.int32)


def spread(grid: torch.Tensor, shape, block) -> torch.Tensor:
    """A grid of scales at the size of the weight."""
    full = grid.double().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return full[: shape[0], : shape[1]]


def largest(w: torch.Tensor, block) -> torch.Tensor:
    """The largest magnitude of each block, (rows of blocks, columns of blocks)."""
    rows, columns = -(-w.shape[0] // block[0]), -(-w.shape[1] // block[1])
    padded = torch.nn.functional.pad(w, (0, columns * block[1] - w.shape[1], 0, rows * block[0] - w.shape[0]))
    return padded.reshape(rows, block[0], columns, block[1]).abs().amax((1, 3)).clamp_min(1e-12)


def fp8(w, block, scale_dtype=torch.float32, suffix="_scale_inv", kind=torch.float8_e4m3fn):
    scale = (largest(w, block) / torch.finfo(kind).max).to(scale_dtype)
    codes = (w.double() / spread(scale, w.shape, block)).float().to(kind)
    stored = {"weight": codes, f"weight{suffix}": scale}
    return stored, codes.double() * spread(scale, w.shape, block)


def fp8_blocks(w):
    return fp8(w, (16, 32))


def fp8_blocks_bfloat16(w):
    return fp8(w, (32, 40), torch.bfloat16)


def fp8_tensor(w):
    stored, value = fp8(w, tuple(w.shape), suffix="_scale")
    return stored | {"weight_scale": stored["weight_scale"].reshape(()), "input_scale": torch.ones(())}, value


def fp8_rows(w):
    return fp8(w, (1, w.shape[1]), suffix="_scale")


def fp8_e5m2(w):
    return fp8(w, (16, 32), kind=torch.float8_e5m2)


def integers(w, bits, group, *, symmetric, scale_dtype=torch.float16):
    """codes, scales and zero points, codes from 0 on; groups along each row."""
    pieces = w.double().reshape(w.shape[0], -1, group)
    top = (1 << bits) - 1
    if symmetric:
        scale = (pieces.abs().amax(2) / (1 << (bits - 1))).clamp_min(1e-8).to(scale_dtype)
        zero = torch.full_like(scale, 1 << (bits - 1), dtype=torch.int64)
    else:
        scale = ((pieces.amax(2) - pieces.amin(2)) / top).clamp_min(1e-8).to(scale_dtype)
        zero = (-pieces.amin(2) / scale.double()).round().clamp(1, top).long()
    codes = (pieces / scale.double()[..., None]).round() + zero[..., None]
    codes = codes.clamp(0, top).long()
    value = (codes - zero[..., None]).double() * scale.double()[..., None]
    return codes.reshape(w.shape), scale, zero, value.reshape(w.shape)


def int8_channel(w, symmetric=True):
    codes, scale, zero, value = integers(w, 8, w.shape[1], symmetric=symmetric, scale_dtype=torch.bfloat16)
    stored = {"weight": (codes - 128).to(torch.int8), "weight_scale": scale}
    return stored if symmetric else stored | {"weight_zero_point": (zero - 128).to(torch.int8)}, value


def int8_asymmetric(w):
    return int8_channel(w, symmetric=False)


def packed_integers(w, bits, group, *, symmetric=True, order=None):
    ordered = w if order is None else w[:, torch.argsort(order, stable=True)]
    codes, scale, zero, value = integers(ordered, bits, group, symmetric=symmetric)
    stored = {}
    if order is not None:
        back = torch.argsort(torch.argsort(order, stable=True))
        codes, value = codes[:, back], value[:, back]
        stored["weight_g_idx"] = order.int()
    stored |= {"weight_packed": torch.from_numpy(dense(codes.numpy(), bits)), "weight_scale": scale,
               "weight_shape": torch.tensor(w.shape)}  # fmt: skip
    if not symmetric:
        stored["weight_zero_point"] = torch.from_numpy(np.ascontiguousarray(dense(zero.numpy().T, bits).T))
    return stored, value


def order_of(width, group, seed=0):
    """A group for each column, in another order than that of the columns."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.arange(width) // group)[torch.randperm(width, generator=generator)]


def w4a16(w):
    return packed_integers(w, 4, 32)


def w4a16_asymmetric(w):
    return packed_integers(w, 4, 32, symmetric=False)


def w4a16_reordered(w):
    return packed_integers(w, 4, 32, order=order_of(w.shape[1], 32))


def w3a16(w):
    return packed_integers(w, 3, 32, symmetric=False)


def w8a16(w):
    return packed_integers(w, 8, w.shape[1])


def fours(w, group, scale):
    """4-bit floats, two a byte (the first in the lower half), for scales (rows, groups) in float64."""
    scaled = w.double().reshape(w.shape[0], -1, group) / scale[..., None]
    code = (scaled.abs()[..., None] - E2M1).abs().argmin(-1)
    value = E2M1[code] * torch.where(scaled < 0, -1.0, 1.0) * scale[..., None]
    code = (code + 8 * (scaled < 0)).reshape(w.shape).to(torch.uint8)
    return code[:, 0::2] | (code[:, 1::2] << 4), value.reshape(w.shape)


def nvfp4(w):
    groups = w.double().reshape(w.shape[0], -1, 16).abs().amax(2)
    factor = (448 * 6 / groups.amax()).float()
    scale = (groups / 6 * factor.double()).float().to(torch.float8_e4m3fn)
    packed, _ = fours(w, 16, scale.double() / factor.double())
    codes = torch.stack([packed & 15, packed >> 4], -1).reshape(w.shape).long()
    value = E2M1[codes & 7] * torch.where(codes > 7, -1.0, 1.0) * scale.double().repeat_interleave(16, 1)
    stored = {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": factor.reshape(1)}
    return stored, value / factor.double()


def modelopt_nvfp4(w):
    groups = w.double().reshape(w.shape[0], -1, 16).abs().amax(2)
    factor = (groups.amax() / (448 * 6)).float()
    scale = (groups / 6 / factor.double()).float().to(torch.float8_e4m3fn)
    packed, _ = fours(w, 16, scale.double() * factor.double())
    codes = torch.stack([packed & 15, packed >> 4], -1).reshape(w.shape).long()
    value = E2M1[codes & 7] * torch.where(codes > 7, -1.0, 1.0) * scale.double().repeat_interleave(16, 1)
    return {"weight": packed, "weight_scale": scale, "weight_scale_2": factor}, value * factor.double()


def powers(w, group=32):
    """Scales of MX formats: the power of two below the largest magnitude, by the largest value of the 4-bit float."""
    top = w.double().reshape(w.shape[0], -1, group).abs().amax(2).clamp_min(1e-30)
    return torch.exp2(torch.floor(torch.log2(top)) - 2)


def e8m0(scale):
    return (torch.log2(scale) + 127).to(torch.uint8)


def mxfp4_packed(w):
    scale = powers(w)
    packed, value = fours(w, 32, scale)
    return {"weight_packed": packed, "weight_scale": e8m0(scale)}, value


def mxfp8(w):
    scale = powers(w) / 64
    codes = (w.double() / scale.repeat_interleave(32, 1)).float().to(torch.float8_e4m3fn)
    value = codes.double() * scale.repeat_interleave(32, 1)
    return {"weight": codes, "weight_scale": e8m0(scale)}, value


def gptq(w, bits=4, group=32, *, symmetric=True, order=None, one=1):
    ordered = w if order is None else w[:, torch.argsort(order, stable=True)]
    codes, scale, zero, value = integers(ordered, bits, group, symmetric=symmetric)
    index = torch.arange(w.shape[1]) // group if order is None else order
    if order is not None:
        back = torch.argsort(torch.argsort(order, stable=True))
        codes, value = codes[:, back], value[:, back]
    stored = {
        "qweight": torch.from_numpy(np.ascontiguousarray(dense(codes.numpy(), bits).T)),
        "qzeros": torch.from_numpy(dense((zero - one).numpy().T, bits)),
        "scales": scale.T.contiguous(), "g_idx": index.int(),
    }  # fmt: skip
    return stored, value


def awq(w, group=32):
    codes, scale, zero, value = integers(w, 4, group, symmetric=False)

    def words(columns):  # (rows, columns): eight of a row in one word, in AWQ's order
        by_eight = columns.numpy().reshape(columns.shape[0], -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
        return torch.from_numpy(dense(by_eight.reshape(columns.shape), 4))

    return {"qweight": words(codes.T), "qzeros": words(zero.T), "scales": scale.T.contiguous()}, value


def nf4(w, nested=False, size=64):
    flat = w.double().reshape(-1)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % size)).reshape(-1, size)
    absmax = blocks.abs().amax(1).float().clamp_min(1e-12)
    facts = {"quant_type": "nf4", "blocksize": size, "dtype": "bfloat16", "shape": list(w.shape)}
    stored, used = {"weight.absmax": absmax, "weight.quant_map": NF4.clone()}, absmax.double()
    if nested:
        offset = float(absmax.mean())
        code = torch.linspace(-1, 1, 256)
        outer = (absmax - offset).abs().reshape(1, -1).amax(1).float()
        small = ((absmax - offset) / outer + 1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        used = code.double()[small.long()] * outer.double() + np.float64(np.float32(offset))
        facts |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        stored |= {"weight.absmax": small, "weight.nested_absmax": outer, "weight.nested_quant_map": code}
    codes = (blocks[..., None] / used[:, None, None] - NF4.double()).abs().argmin(-1)
    value = (NF4.double()[codes] * used[:, None]).reshape(-1)[: flat.numel()].reshape(w.shape)
    flat_codes = codes.reshape(-1)[: flat.numel()].to(torch.uint8)
    stored["weight"] = (flat_codes[0::2] << 4 | flat_codes[1::2])[:, None]
    state = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
    return stored | {"weight.quant_state.bitsandbytes__nf4": state}, value


def nf4_nested(w):
    return nf4(w, nested=True)


def bnb8(w):
    scale = w.abs().amax(1).float()
    codes = (w.double() * 127 / scale.double()[:, None]).round().to(torch.int8)
    return {"weight": codes, "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}, (
        codes.double() * scale.double()[:, None] / 127
    )


def mlx(w, bits=4, group=32):
    pieces = w.double().reshape(w.shape[0], -1, group)
    bias = pieces.amin(2).bfloat16()
    scale = ((pieces.amax(2) - pieces.amin(2)) / ((1 << bits) - 1)).clamp_min(1e-8).bfloat16()
    codes = ((pieces - bias.double()[..., None]) / scale.double()[..., None]).round()
    codes = codes.clamp(0, (1 << bits) - 1).long()
    value = codes.double() * scale.double()[..., None] + bias.double()[..., None]
    packed = torch.from_numpy(dense(codes.reshape(w.shape).numpy(), bits)).view(torch.uint32)
    return {"weight": packed, "scales": scale, "biases": bias}, value.reshape(w.shape)


def weights_of(**weights):
    """A config of compressed-tensors with one group."""
    format = weights.pop("format")
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "symmetric": True} | weights}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group},
            "ignore": ["lm_head"]}  # fmt: skip


def gptq_config(bits=4, **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": 32, "sym": True, "desc_act": False} | more


# name: (encoder, what the config says)
FORMATS = {
    "fp8 blocks": (fp8_blocks, {"quant_method": "fp8", "weight_block_size": [16, 32]}),
    "fp8 blocks of bfloat16": (fp8_blocks_bfloat16, {"quant_method": "fp8", "weight_block_size": [32, 40]}),
    "fp8 tensor": (fp8_tensor, {"quant_method": "fp8", "activation_scheme": "static"}),
    "fp8 rows": (fp8_rows, {"quant_method": "fbgemm_fp8"}),
    "fp8 e5m2": (fp8_e5m2, {"quant_method": "fp8", "weight_block_size": [16, 32]}),
    "modelopt fp8": (fp8_tensor, {"quant_method": "modelopt", "quant_algo": "FP8"}),
    "modelopt nvfp4": (modelopt_nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
    "ct int8": (int8_channel, weights_of(format="int-quantized", strategy="channel")),
    "ct int8 asymmetric": (int8_asymmetric, weights_of(format="int-quantized", strategy="channel", symmetric=False)),
    "ct fp8 rows": (fp8_rows, weights_of(format="float-quantized", type="float", strategy="channel")),
    "ct fp8 blocks": (lambda w: fp8(w, (16, 32), suffix="_scale"), weights_of(
        format="float-quantized", type="float", strategy="block", block_structure=[16, 32])),
    "ct w4a16": (w4a16, weights_of(format="pack-quantized", num_bits=4, strategy="group", group_size=32)),
    "ct w4a16 asymmetric": (w4a16_asymmetric, weights_of(
        format="pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=False)),
    "ct w4a16 reordered": (w4a16_reordered, weights_of(
        format="pack-quantized", num_bits=4, strategy="group", group_size=32, actorder="group")),
    "ct w3a16": (w3a16, weights_of(
        format="pack-quantized", num_bits=3, strategy="group", group_size=32, symmetric=False)),
    "ct w8a16": (w8a16, weights_of(format="pack-quantized", strategy="channel")),
    "ct nvfp4": (nvfp4, weights_of(
        format="nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16)),
    "ct mxfp4": (mxfp4_packed, weights_of(
        format="mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32)),
    "ct mxfp8": (mxfp8, weights_of(format="mxfp8-quantized", type="float", strategy="group", group_size=32)),
    "gptq": (gptq, gptq_config()),
    "gptq v2": (lambda w: gptq(w, one=0), gptq_config(checkpoint_format="gptq_v2")),
    "gptq asymmetric": (lambda w: gptq(w, symmetric=False), gptq_config(sym=False)),
    "gptq reordered": (lambda w: gptq(w, order=order_of(w.shape[1], 32)), gptq_config(desc_act=True)),
    "gptq whole": (lambda w: gptq(w, group=w.shape[1]), gptq_config(group_size=-1)),
    **{f"gptq {bits} bits": (lambda w, bits=bits: gptq(w, bits, symmetric=False), gptq_config(bits))
       for bits in (2, 3, 8)},
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}),
    "bnb nf4": (nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "bnb nf4 nested": (nf4_nested, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "bnb 8 bits": (bnb8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    **{f"mlx {bits} bits": (lambda w, bits=bits: mlx(w, bits), {"bits": bits, "group_size": 32})
       for bits in (2, 3, 4, 5, 6, 8)},
}  # fmt: skip


def is_linear(name: str) -> bool:
    return name.endswith("proj.weight")


def quantise(
    whole, folder, format: str, *, config: dict | None = None, change=None
) -> dict[str, torch.Tensor]:
    """Write the model of the folder `whole` in a format, and give the values of its linear weights in float64.

    `config` replaces keys of the config's entry; `change(stored)` may alter what is stored.
    """
    encode, entry = FORMATS[format]
    shutil.copytree(whole, folder)
    stored, values = {}, {}
    for name, tensor in state(whole).items():
        if is_linear(name):
            parts, values[name] = encode(tensor.float())
            stored |= {
                name.removesuffix("weight") + part: value.contiguous() for part, value in parts.items()
            }
        else:
            stored[name] = tensor
    if change:
        change(stored)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    known = json.loads((folder / "config.json").read_text())
    key = "quantization" if format.startswith("mlx") else "quantization_config"
    (folder / "config.json").write_text(json.dumps(known | {key: entry | (config or {})}))
    return values
