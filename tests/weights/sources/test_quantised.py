"""Quantised members are refused by name, by what the config says and by what is stored; whole ones never are."""

import json
import shutil

import pytest
import torch
from pico import save_model
from reference import state
from safetensors.torch import save_file

from chatvec_lab import Checkpoint
from chatvec_lab.weights.inspect import inspect
from chatvec_lab.weights.sources.quantised.recognised import _is_packed

LINEAR = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("quantised") / "model")


def copy(whole, tmp_path, tensors=None, config=None):
    folder = shutil.copytree(whole, tmp_path / "member")
    if tensors is not None:
        kept = {n: t for n, t in state(whole).items() if n != f"{LINEAR}.weight"}
        save_file(kept | tensors, folder / "model.safetensors")
    if config is not None:
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | config))
    return folder


def integers(*shape, dtype=torch.int32):
    return torch.ones(shape, dtype=dtype)


CONTENTS = {
    "GPTQ": {f"{LINEAR}.qweight": integers(2, 24), f"{LINEAR}.scales": torch.ones(1, 24).half(),
             f"{LINEAR}.qzeros": integers(1, 3)},
    "AWQ": {f"{LINEAR}.qweight": integers(16, 3), f"{LINEAR}.qzeros": integers(1, 3),
            f"{LINEAR}.scales": torch.ones(1, 24).half()},
    "bitsandbytes": {f"{LINEAR}.weight": integers(192, 1, dtype=torch.uint8), f"{LINEAR}.weight.absmax": torch.ones(6),
                     f"{LINEAR}.weight.quant_state.bitsandbytes__nf4": integers(80, dtype=torch.uint8)},
    "bitsandbytes 8": {f"{LINEAR}.weight": integers(24, 16, dtype=torch.int8), f"{LINEAR}.SCB": torch.ones(24)},
    "compressed-tensors": {f"{LINEAR}.weight_packed": integers(24, 2), f"{LINEAR}.weight_scale": torch.ones(24, 1)},
    "MXFP4": {"model.layers.0.mlp.experts.gate_up_proj_blocks": integers(2, 8, 2, 16, dtype=torch.uint8),
              "model.layers.0.mlp.experts.gate_up_proj_scales": integers(2, 8, 2, dtype=torch.uint8)},
    "FP8": {f"{LINEAR}.weight": torch.ones(24, 16).to(torch.float8_e4m3fn), f"{LINEAR}.weight_scale_inv": torch.ones(1, 1)},
    "int8": {f"{LINEAR}.weight": integers(24, 16, dtype=torch.int8), f"{LINEAR}.scale": torch.ones(24)},
    "HQQ": {f"{LINEAR}.W_q": integers(12, 16, dtype=torch.uint8), f"{LINEAR}.meta": torch.ones(2)},
    "Quanto": {f"{LINEAR}.weight._data": integers(24, 16, dtype=torch.int8), f"{LINEAR}.weight._scale": torch.ones(24, 1)},
    "AQLM": {f"{LINEAR}.codes": integers(3, 2, 1, dtype=torch.int16), f"{LINEAR}.codebooks": torch.ones(1, 4, 1, 8)},
}  # fmt: skip


@pytest.mark.parametrize("format", CONTENTS)
def test_a_quantised_member_is_refused_by_its_content(whole, tmp_path, format):
    folder = copy(whole, tmp_path, CONTENTS[format])
    ours, theirs = Checkpoint(folder), Checkpoint(whole)
    for made in (lambda: (ours - theirs).names, lambda: (theirs - ours).names,
                 lambda: (ours + (theirs - theirs)).save(tmp_path / "out", progress=False)):  # fmt: skip
        with pytest.raises(ValueError, match=r"member is quantised \(.*unquantised checkpoint"):
            made()
    assert not (tmp_path / "out").exists()
    page = inspect(str(folder))
    assert "quantised: " in page and "head: not read" in page


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq, 4 bits by config.json"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8 by config.json"),
        ({"compression_config": {"format": "pack-quantized"}}, "pack-quantized by config.json"),
        (
            {"text_config": {"quantization_config": {"quant_method": "awq"}}},
            "awq by config.json, text_config",
        ),
    ],
)
def test_a_quantised_member_is_refused_by_its_config(whole, tmp_path, config, said):
    folder = copy(whole, tmp_path, config=config)
    with pytest.raises(ValueError, match=f"{said}.*no quantised tensor is stored.*take the entry out"):
        _ = Checkpoint(folder).names
    (folder / "config.json").write_text((whole / "config.json").read_text())
    assert Checkpoint(folder).names == Checkpoint(whole).names


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_the_config_files_of_older_tools_count(whole, tmp_path, file):
    folder = copy(whole, tmp_path)
    (folder / file).write_text(json.dumps({"bits": 4, "w_bit": 4, "quantization": {"quant_algo": "FP8"}}))
    with pytest.raises(ValueError, match=rf"is quantised: .* by {file}"):
        _ = Checkpoint(folder).names


def test_buffers_and_empty_entries_do_not_make_a_model_quantised(whole, tmp_path):
    buffers = {
        f"{LINEAR}.weight": state(whole)[f"{LINEAR}.weight"],
        "model.layers.0.self_attn.bias": torch.tril(integers(1, 1, 8, 8, dtype=torch.uint8)),
        "model.layers.0.attn.causal_mask": torch.ones(8, 8, dtype=torch.bool),
        "model.position_ids": torch.arange(8)[None],
        "vision.relative_position_index": integers(4, 4, dtype=torch.int64),
        "vision.bn.num_batches_tracked": torch.tensor(3),
        "model.layers.0.mlp.gate.tid2eid": integers(9, 2),
        "model.layers.0.self_attn.logit_scale": torch.ones(2),
    }
    folder = copy(whole, tmp_path, buffers, {"quantization_config": None, "compression_config": {}})
    assert set(buffers) <= set(Checkpoint(folder).names)


def test_wide_integers_in_a_layer_are_codes_and_elsewhere_tables():
    assert _is_packed("model.layers.0.self_attn.q_proj.Qidxs", "int64", (4, 8))  # QuIP#
    for name in (
        "model.hash_buckets",
        "model.layers.0.attn.relative_position_index",
        "model.layers.0.attn.positions",
    ):
        assert not _is_packed(name, "int64", (4, 8))
