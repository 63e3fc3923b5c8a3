"""Low-rank vectors as adapters that PEFT loads: logits against the merged model, energy, and replies."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pico import TEMPLATE
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatvec_lab import Checkpoint, load_family
from chatvec_lab.experiment import Exam, at_scale
from chatvec_lab.interop import hub, peft

pytest.importorskip("peft", reason="the extra peft is not installed")
CARRIED = ("attention", "mlp")


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def merged_logits(merged, folder, ids):
    merged.save(folder, dtype="float32", progress=False)
    return logits(AutoModelForCausalLM.from_pretrained(folder), ids)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox", "phi3"])
def test_the_adapter_is_the_low_rank_delta_of_the_linear_layers(families, tmp_path, kind):
    base, chat, cp = map(Checkpoint, families(kind, dtype=torch.float32))
    tau = 20 * (chat - base)  # far above rounding
    report = peft.export_adapter(tau, tmp_path / "a", base=cp, rank=4, scale=0.7)
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    got = logits(peft.load_adapted(cp, tmp_path / "a"), ids)
    matrices = [
        n
        for n in tau.names
        if len(tau.shape(n)) == 2 and any(n.startswith(t) for t in report.table[report.table.carried].tensor)
    ]
    part = tau.low_rank(4).select(modules=[f"^{n}$" for n in matrices])
    expected = merged_logits(cp + 0.7 * part, tmp_path / "m", ids)
    plain = logits(AutoModelForCausalLM.from_pretrained(cp.folder), ids)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert (expected - plain).abs().max() > 100 * (got - expected).abs().max()


def test_energy_is_that_of_the_stored_factors(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama", dtype=torch.float32))
    tau = chat - base
    for dtype, tolerance in (("float32", 1e-6), ("bfloat16", 1e-3)):
        report = peft.export_adapter(tau.low_rank(3), tmp_path / dtype, base=cp, dtype=dtype)
        stored = load_file(tmp_path / dtype / "adapter_model.safetensors")
        assert {t.dtype for t in stored.values()} == {getattr(torch, dtype)}
        table = report.table.set_index("tensor")
        for name in tau.names:
            whole = tau.read(name, dtype=torch.float64)
            row = table.loc[name]
            assert row.l2 == pytest.approx(float(whole.norm()), rel=1e-9)
            if row.carried:
                stem = "base_model.model." + name.removesuffix(".weight")
                kept = stored[f"{stem}.lora_B.weight"].double() @ stored[f"{stem}.lora_A.weight"].double()
                assert row.energy == pytest.approx(
                    1 - float((whole - kept).norm() / whole.norm()) ** 2, abs=1e-9
                )
                best = float((torch.linalg.svdvals(whole)[:3] ** 2).sum() / (whole**2).sum())
                assert row.energy == pytest.approx(best, abs=tolerance)
        total = (table.energy * table.l2**2).sum() / (table.l2**2).sum()
        assert report.energy == pytest.approx(total)


def test_what_lora_cannot_carry_is_stated(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    report = peft.export_adapter(chat - base, tmp_path / "a", base=cp, rank=4)
    left = report.table[~report.table.carried]
    assert set(left.module) == {"norm", "embedding", "head"} and (left.energy == 0).all()
    assert "LoRA adapts matrices; a norm stays the CP's" in str(report)
    assert "rows of tokens; they stay the CP's" in (tmp_path / "a" / "README.md").read_text()
    mixtral = tuple(map(Checkpoint, families("mixtral")))
    stacked = peft.export_adapter(mixtral[1] - mixtral[0], tmp_path / "m", base=mixtral[2], rank=4)
    reasons = stacked.table[~stacked.table.carried].groupby("module").reason.first()
    assert "fused or stacked" in reasons["mlp"]


def test_the_scale_is_the_weight_and_the_config_is_what_servers_read(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    peft.export_adapter(0.5 * (chat - base).low_rank(8), tmp_path / "a", base=cp, scale=0.75)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == 0.75 and config["r"] == 8
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    stored = load_file(tmp_path / "a" / "adapter_model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    delta = (
        stored[f"base_model.model.{name}.lora_B.weight"] @ stored[f"base_model.model.{name}.lora_A.weight"]
    )
    expected = 0.5 * (chat - base).low_rank(8).read(f"{name}.weight")
    torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-7)
    assert AutoTokenizer.from_pretrained(tmp_path / "a").chat_template == TEMPLATE
    some = peft.export_adapter((chat - base).select(layers=1, modules="mlp"), tmp_path / "b", base=cp, rank=2)
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"model.layers.1.mlp.{m}_proj" for m in ("down", "gate", "up")]
    assert some.table.carried.sum() == 3 and some.energy > 0.2  # of the selection
    loaded = peft.load_adapted(cp, tmp_path / "b")
    assert sum("lora_A" in n for n, _ in loaded.named_parameters()) == 3


def test_a_matrix_no_larger_than_the_rank_comes_whole(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    report = peft.export_adapter(chat - base, tmp_path / "a", base=cp, rank=20)
    assert np.allclose(report.table[report.table.carried].energy, 1, atol=1e-9)
    peft.load_adapted(cp, tmp_path / "a")


def test_errors_name_what_is_missing(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    with pytest.raises(TypeError, match=r"has no rank: give rank=, or tau.low_rank\(r\)"):
        peft.export_adapter(chat - base, tmp_path / "a", base=cp)
    with pytest.raises(ValueError, match="has no tensor that is a linear layer's"):
        peft.export_adapter((chat - base).select(modules="norm"), tmp_path / "a", base=cp, rank=2)
    with pytest.raises(ValueError, match="dtype='int8'"):
        peft.export_adapter(chat - base, tmp_path / "a", base=cp, rank=2, dtype="int8")
    assert not (tmp_path / "a").exists()


def test_a_nano_adapter_talks_and_is_pushable(tmp_path):
    """The chat vector of the nano family at rank 32 of 128, in float32: logits of the merge, replies, the card."""
    family = load_family("nano")
    cp, tau = family.cp["zh"], family.chat - family.base
    report = peft.export_adapter(tau, tmp_path / "a", base=cp, rank=32)
    carried = report.table[report.table.carried]
    assert 0.3 < report.energy < 1 and len(carried) == 7 * 4
    ids = torch.randint(8, 600, (2, 12), generator=torch.Generator().manual_seed(0))
    got = logits(peft.load_adapted(cp, tmp_path / "a", dtype="float32"), ids)
    part = tau.low_rank(32).select(modules=list(CARRIED))
    expected = merged_logits(cp + part, tmp_path / "m", ids)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
    adapted = peft.load_adapted(cp, tmp_path / "a", dtype="float32"), (cp + tau).tokenizer
    asked = {"full": at_scale(cp, tau, 1.0), "part": at_scale(cp, part, 1.0), "adapter": adapted}
    replies = Exam(family, "zh").ask(asked, ["one_turn"], 26)
    said = replies.pivot(index="prompt_id", columns="model", values="response")
    assert said.adapter.equals(said.part) and len(said) == 26, "the adapter says what it holds"
    assert said.adapter.str.len().max() > 0 and not said.adapter.equals(said.full)
    pushed = hub.push(tmp_path / "a", "lab/adapter", dry_run=True)
    assert "adapter_model.safetensors" in pushed.files and "library_name: peft" in pushed.card


def test_an_adapter_names_a_base_that_others_can_load_or_says_that_it_cannot(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    config = lambda name: json.loads((tmp_path / name / "adapter_config.json").read_text())  # noqa: E731
    local = peft.export_adapter(chat - base, tmp_path / "a", base=cp, rank=2)
    assert "'cp' is a folder on this machine" in str(local) and config("a")["revision"] is None
    card = (tmp_path / "a" / "README.md").read_text()
    assert "is a folder on this machine" in card and "base_model:" not in card
    named = peft.export_adapter(chat - base, tmp_path / "b", base=cp, base_id="lab/cp-ko", rank=2)
    assert config("b")["base_model_name_or_path"] == "lab/cp-ko" and "folder on this machine" not in str(
        named
    )
    assert "base_model:\n- lab/cp-ko" in (tmp_path / "b" / "README.md").read_text()
    snapshot = tmp_path / "models--lab--cp-ko" / "snapshots" / ("0123456789" * 4)
    shutil.copytree(cp.folder, snapshot)
    cached = peft.export_adapter(chat - base, tmp_path / "c", base=Checkpoint(snapshot), rank=2)
    assert (config("c")["base_model_name_or_path"], config("c")["revision"]) == (
        "lab/cp-ko",
        "0123456789" * 4,
    )
    assert "folder on this machine" not in str(cached)
    with pytest.raises(ValueError, match="Repo id"):
        peft.export_adapter(chat - base, tmp_path / "d", base=cp, base_id="no/such/id", rank=2)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "base_id", ["../x", "..", "a/..", "/etc/x", "a/b\nc", "a/b@main", "~/x", "a//b", "", "a/b c", "模型/x"]
)
def test_an_id_that_no_model_of_the_hub_can_have_is_refused(families, tmp_path, base_id):
    base, chat, cp = map(Checkpoint, families("llama"))
    with pytest.raises(ValueError, match="is no id of the hub") as caught:
        peft.export_adapter(chat - base, tmp_path / "a", base=cp, base_id=base_id, rank=2)
    assert repr(base_id) in str(caught.value) and not list(tmp_path.glob("*a*"))


@pytest.mark.parametrize(
    "folder", ["models--..--x/snapshots/main", "models--a--b--c/snapshots/main", "lab/cp", "..cp"]
)
def test_a_folder_that_only_looks_like_the_hubs_is_named_as_a_folder(families, tmp_path, monkeypatch, folder):
    base, chat, cp = map(Checkpoint, families("llama"))
    shutil.copytree(cp.folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    report = peft.export_adapter(chat - base, "out", base=Checkpoint(folder), rank=2)
    assert "is a folder on this machine" in str(report)
    assert "base_model" not in Path("out/README.md").read_text().split("---")[1]
    assert json.loads(Path("out/adapter_config.json").read_text())["revision"] is None


def test_names_made_to_harm_stay_data(families, tmp_path):
    """The base's folder and the adapter's own, whose names would end a block, a heading or YAML."""
    base, chat, cp = map(Checkpoint, families("llama"))
    name = "```\n---\nlicense: mit\n---\n<script>alert(1)<_script> [x](http:evil) \\ \"\"\" ''' $HOME"
    shutil.copytree(cp.folder, tmp_path / name)
    hostile = Checkpoint(tmp_path / name)
    out = tmp_path / "deep" / "-rf ~ ```` <b>.."
    report = peft.export_adapter(chat - base, out, base=hostile, rank=2)
    assert [p.name for p in out.parent.iterdir()] == [out.name] and report.path == out
    before, inside, after = (out / "README.md").read_text().split("`" * 5)
    assert "license: mit" in inside and "<script>" not in before + after
    head = before.split("\n---\n")[0].removeprefix("---\n")
    assert yaml.safe_load(head).keys() == {"library_name", "tags"}
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == hostile.label


def test_a_folder_by_another_way_there_is_left_alone(families, tmp_path, monkeypatch):
    base, chat, cp = map(Checkpoint, families("llama"))
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/file").write_text("x")
    Path("link").symlink_to("mine")
    for path in (
        ".",
        "mine",
        "mine/../mine",
        "new/../mine",
        "new/..",
        "mine/.",
        "link",
        f"mine/../../{tmp_path.name}",
    ):
        with pytest.raises(FileExistsError, match=r"exists already|is a link"):
            peft.export_adapter(chat - base, path, base=cp, rank=2)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "link", "mine"]


def test_the_command_writes_an_adapter_in_place_of_a_model(families, tmp_path, capsys):
    from chatvec_lab.__main__ import main

    base, chat, cp = map(str, families("llama"))
    models = ["merge", "--base", base, "--chat", chat, "--cp", cp, "--scale", "0.5"]
    assert main([*models, "--export-adapter", str(tmp_path / "a"), "--rank", "2", "--base-id", "lab/cp"]) == 0
    assert "rank 2" in capsys.readouterr().out
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, "lab/cp")
    expected = 0.5 * (Checkpoint(chat) - Checkpoint(base))
    peft.export_adapter(expected, tmp_path / "b", base=Checkpoint(cp), rank=2, base_id="lab/cp")
    a, b = (load_file(tmp_path / n / "adapter_model.safetensors") for n in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    for wrong in (["--export-adapter", str(tmp_path / "c")], ["--rank", "2", "--out", str(tmp_path / "c")]):
        assert main([*models, *wrong]) == 1
        assert "go together" in capsys.readouterr().err
