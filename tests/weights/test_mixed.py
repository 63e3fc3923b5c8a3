"""Quantised members: mixtures need a word, and what is made of them says so everywhere, with its noise."""

import json
import warnings

import pytest
import torch
from pico import TEMPLATE
from quantised_files import quantise
from reference import formula, state, wrongly_rounded

from chatvec_lab import Checkpoint, WeightVector
from chatvec_lab.__main__ import main
from chatvec_lab.weights.mixed import expected_noise
from chatvec_lab.weights.preflight import preflight

MATRIX = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """base, chat and CP, whole and in two formats."""
    from gguf_files import save_llama

    root = tmp_path_factory.mktemp("mixed")
    base = save_llama(root / "base", dtype=torch.bfloat16)
    save_llama(root / "chat", near=base, dtype=torch.bfloat16, template=TEMPLATE, seed=1)
    save_llama(root / "cp", near=base, dtype=torch.bfloat16, step=0.004, seed=2)
    for name in ("base", "chat", "cp"):
        quantise(root / name, root / f"{name}-fp8", "fp8 blocks")
        quantise(root / name, root / f"{name}-int4", "gptq")
    return root


def members(root, kind=""):
    return [Checkpoint(root / f"{name}{kind}") for name in ("base", "chat", "cp")]


def test_a_mixture_is_refused_with_what_each_is(family):
    base, chat, cp = members(family)
    base8, chat8, cp8 = members(family, "-fp8")
    _, chat4, _ = members(family, "-int4")
    for plus, minus in ((chat8, base), (chat, base8), (chat4, base8)):
        with pytest.raises(
            ValueError, match=r"is dequantised from .*pass for a part of the vector.*--allow-mixed"
        ):
            _ = (plus - minus).names
        with pytest.raises(ValueError, match="pass for a part of the vector"):
            (plus - minus).read(MATRIX)
    for target, vector in ((cp8, chat - base), (cp, chat8 - base8)):
        with (
            warnings.catch_warnings(),
            pytest.raises(ValueError, match="hold the rounding of some and not of others"),
        ):
            warnings.simplefilter("ignore")
            (target + vector).check()
    report = preflight(cp8, chat - base)
    assert [f.name for f in report.refusals] == ["mixed quantisation"]


def test_an_allowed_mixture_is_exact_and_says_its_noise(family, tmp_path):
    base, chat, _ = members(family)
    cp8 = members(family, "-fp8")[2]
    merged = cp8.add(0.5 * (chat - base), allow_mixed=True)
    report = merged.save(tmp_path / "out", verify=True, progress=False)
    assert report.dtypes == ("bfloat16",)
    saved = state(tmp_path / "out")
    exact = formula(cp8.read(MATRIX), [(0.5, chat.read(MATRIX), base.read(MATRIX))])
    assert saved[MATRIX].dtype == torch.bfloat16 and wrongly_rounded(saved[MATRIX], exact) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["recipe"]["allow_mixed"] is True
    assert manifest["sources"][0]["note"] == "dequantised from FP8 (e4m3fn), blocks of 16 x 32"
    assert "quantised" in [f["name"] for f in manifest["preflight"]["findings"]]
    assert "written as bfloat16" in " ".join(manifest["preflight"]["sections"]["quantisation"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "was dequantised from FP8" in card and "members are quantised differently" in card
    from transformers import AutoModelForCausalLM

    assert torch.equal(
        AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()[MATRIX], saved[MATRIX]
    )


@pytest.mark.parametrize("kind", ["-fp8", "-int4"])
@pytest.mark.filterwarnings("ignore:.*rounding noise of both")
def test_a_merge_of_quantised_members_is_the_formula_of_their_values_rounded_once(family, tmp_path, kind):
    base, chat, cp = members(family, kind)
    (cp + 0.7 * (chat - base)).save(tmp_path / "out", verify=True, progress=False)
    saved = state(tmp_path / "out")
    for name in (MATRIX, "model.layers.1.self_attn.k_proj.weight", "lm_head.weight"):
        exact = formula(cp.read(name), [(0.7, chat.read(name), base.read(name))])
        assert saved[name].dtype == torch.bfloat16 and wrongly_rounded(saved[name], exact) == 0


def test_members_quantised_alike_are_labelled_with_their_noise(family, tmp_path):
    base, chat, cp = members(family, "-int4")
    with pytest.warns(
        UserWarning, match="both are dequantised from GPTQ, 4 bits, groups of 32.*rounding noise of both"
    ):
        tau = chat - base
        report = preflight(cp, tau)
    finding = next(f for f in report.findings if f.name == "quantised")
    assert (
        "all members are quantised alike" in finding.text
        and "(an estimate; by part in the report)" in finding.text
    )
    assert "quantised" not in [f.name for f in report.refusals]
    whole = Checkpoint(family / "chat") - Checkpoint(family / "base")
    error = (tau.read(MATRIX).double() - whole.read(MATRIX).double()).norm()
    assert 0.8 < expected_noise(tau, MATRIX) / error < 1.25
    assert expected_noise(0.5 * tau, MATRIX) == pytest.approx(expected_noise(tau, MATRIX) / 2)
    assert expected_noise(whole, MATRIX) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tau.save(tmp_path / "vector", progress=False)
    stored = WeightVector.load(tmp_path / "vector")
    with pytest.raises(ValueError, match="is not quantised"):  # a vector of quantised members stays one
        (Checkpoint(family / "cp") + stored).check()
    (cp + stored).check()
    assert torch.equal(stored.read(MATRIX), tau.read(MATRIX))


def test_the_command_line_takes_the_word(family, tmp_path, capsys):
    common = ["--base", str(family / "base"), "--chat", str(family / "chat"), "--cp", str(family / "cp-int4")]
    assert main(["merge", *common, "--out", str(tmp_path / "out")]) != 0
    assert "--allow-mixed" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["check", *common]) == 1
    assert "REFUSED mixed quantisation" in capsys.readouterr().out
    assert main(["check", "--allow-mixed", *common]) == 0
    assert main(["merge", "--allow-mixed", *common, "--out", str(tmp_path / "out")]) == 0
    assert "note quantised" in capsys.readouterr().out and (tmp_path / "out" / "model.safetensors").is_file()
