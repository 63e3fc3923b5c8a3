"""What may be added, told before a byte is written: refusals and their names, estimates beside exact figures."""

import importlib
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from pico import CP_TOKENS, SPECIAL, TOKENS, save_model
from safetensors.torch import load_file, save_file

from chatvec_lab import Checkpoint, load_family
from chatvec_lab.command.main import main
from chatvec_lab.nano.multimodal import llava_around
from chatvec_lab.weights.preflight import FORCIBLE, examine, preflight
from chatvec_lab.weights.saving.provenance import Digests
from chatvec_lab.weights.sources.files import Stored


def flat(checkpoint):
    return torch.cat([checkpoint.read(name).double().reshape(-1) for name in checkpoint.names])


def options(base, chat, cp, *more):
    return ["--base", str(base), "--chat", str(chat), "--cp", str(cp), *map(str, more)]


def with_config(folder, to, **changes):
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | changes))
    return to


def moved(folder, to, change):
    """A copy whose tensors are `change(name, tensor)`."""
    shutil.copytree(folder, to)
    tensors = load_file(folder / "model.safetensors")
    found = {name: change(name, tensor).to(tensor.dtype).contiguous() for name, tensor in tensors.items()}
    save_file(found, to / "model.safetensors", metadata={"format": "pt"})
    return to


def test_the_share_held_is_the_projection():
    """On the nano family, against the whole tensors; the estimate's interval covers it for 18 of 20 seeds or more."""
    nano = load_family("nano")
    base, chat, cp = (flat(nano[name]) for name in ("base", "chat", "chat_cp_zh"))
    share = float((cp - base) @ (chat - base) / ((chat - base) @ (chat - base)))
    tau = nano.chat - nano.base
    exact = preflight(nano["chat_cp_zh"], tau, full=True).holdings[tau.label]
    assert exact.is_exact and exact.share == pytest.approx(share, rel=1e-9) and exact.low == exact.high
    assert exact.distance == pytest.approx(float((cp - base).norm() / (chat - base).norm()), rel=1e-9)
    covered = 0
    for seed in range(20):
        held = preflight(nano["chat_cp_zh"], tau, seed=seed).holdings[tau.label]
        assert held.elements < held.of and held.share != exact.share
        covered += held.low <= share <= held.high
    assert covered >= 18


@pytest.mark.parametrize(("share", "told"), [(0.0, False), (0.5, True), (1.0, True)])
def test_a_cp_that_holds_the_vector_is_told(families, tmp_path, share, told):
    base, chat, cp = families(dtype=torch.float32)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (base, chat))
    mixed = moved(cp, tmp_path / "cp", lambda name, own: own + share * (theirs[name] - ours[name]))
    tau = Checkpoint(chat) - Checkpoint(base)
    before = preflight(Checkpoint(cp), tau, full=True).holdings[tau.label].share
    report = preflight(Checkpoint(mixed), tau, full=True)
    assert report.holdings[tau.label].share == pytest.approx(before + share, abs=1e-5)
    assert ("held" in [finding.name for finding in report.findings]) == told and not report.refusals


def test_random_signs_bound_an_unrelated_vector(families, tmp_path):
    base, chat, _ = families(dtype=torch.float32)
    tau, outside = Checkpoint(chat) - Checkpoint(base), 0
    for seed in range(20):
        noise = torch.Generator().manual_seed(seed)
        cp = moved(
            base,
            tmp_path / str(seed),
            lambda _, own, noise=noise: own + 0.004 * torch.randn(own.shape, generator=noise),
        )
        held = preflight(Checkpoint(cp), tau, full=True).holdings[tau.label]
        outside += abs(held.share) > held.band
    assert outside <= 4  # 1 of 20 expected


def test_rows_of_another_order_are_compared_by_token(families):
    """The CP's own rows of new tokens do not count, and the others are not taken by index."""
    base, chat, cp = map(Checkpoint, families(cp_tokens=CP_TOKENS, dtype=torch.float32))
    tau = chat - base
    held = preflight(cp, tau, full=True).holdings[tau.label]
    num = den = 0.0
    for name in cp.names:
        b, c, p = (side.read(name).double() for side in (base, chat, cp))
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            rows = [
                (i, (SPECIAL + TOKENS).index(t)) for i, t in enumerate(CP_TOKENS) if t in SPECIAL + TOKENS
            ]
            ours, theirs = (list(r) for r in zip(*rows, strict=True))
            b, c, p = b[theirs], c[theirs], p[ours]
        num, den = num + float(((p - b) * (c - b)).sum()), den + float(((c - b) ** 2).sum())
    assert held.share == pytest.approx(num / den, rel=1e-9)


REFUSED = {
    "heads": {"num_attention_heads": 4},
    "rope": {"rope_parameters": {"rope_theta": 2e7, "rope_type": "default"}},
    "activation": {"hidden_act": "relu"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_config_that_means_something_else_refuses_and_can_be_forced(families, tmp_path, name, capsys):
    base, chat, cp = families()
    other = with_config(chat, tmp_path / "chat", **REFUSED[name])
    with pytest.raises(ValueError, match=rf"(?s)is refused:.*{name}: chat: .*--force {name}"):
        (Checkpoint(cp) + (Checkpoint(other) - Checkpoint(base))).save(tmp_path / "out", progress=False)
    command = options(base, other, cp)
    assert main(["check", *command]) == 1 and f"REFUSED {name}: chat: " in capsys.readouterr().out
    assert main(["merge", *command, "--out", str(tmp_path / "out")]) == 1 and not (tmp_path / "out").exists()
    assert main(["check", *command, "--force", name]) == 0
    assert main(["merge", *command, "--out", str(tmp_path / "out"), "--force", name]) == 0
    kept = json.loads((tmp_path / "out/manifest.json").read_text())["preflight"]
    assert kept["forced"] == [name] and [f["name"] for f in kept["findings"] if f["refuses"]] == [name]
    assert f"- {name} (overridden): chat: " in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    "change", [{"rms_norm_eps": 1e-3}, {"sliding_window": 8}, {"max_position_embeddings": 9}]
)
def test_other_differences_are_told_and_kept(families, tmp_path, change, capsys):
    base, chat, cp = families()
    other = with_config(cp, tmp_path / "cp", **change)
    assert main(["merge", *options(base, chat, other, "--out", tmp_path / "out")]) == 0
    (told,) = json.loads((tmp_path / "out/manifest.json").read_text())["preflight"]["findings"]
    assert next(iter(change)) in told["text"] and not told["refuses"]
    assert (
        told["text"] in capsys.readouterr().out and told["name"] in (tmp_path / "out/README.md").read_text()
    )


def test_a_longer_rope_of_the_cps_own_is_told_and_not_refused(families, tmp_path):
    base, chat, cp = families()
    longer = {"rope_theta": 5e5, "rope_type": "default"}
    other = with_config(cp, tmp_path / "cp", rope_parameters=longer)
    report = preflight(Checkpoint(other), Checkpoint(chat) - Checkpoint(base))
    assert [f.name for f in report.findings] == ["rope"] and not report.refusals


@pytest.mark.parametrize("who", ["chat", "cp"])
def test_another_models_child_is_refused_by_the_command_and_told_in_python(families, tmp_path, who, capsys):
    members = dict(zip(("base", "chat", "cp"), families(), strict=True))
    template = "{{ messages }}</s>" if who == "chat" else None
    members[who] = save_model(tmp_path / "foreign", seed=9, template=template)
    base, chat, cp = members.values()
    assert main(["merge", *options(base, chat, cp, "--out", tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists() and "does not descend from base" in capsys.readouterr().err
    merged = Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))
    with pytest.warns(UserWarning, match="does not descend from base"):
        merged.save(tmp_path / "out", progress=False)
    findings = json.loads((tmp_path / "out/manifest.json").read_text())["preflight"]["findings"]
    assert [f["name"] for f in findings] == ["descent"] and findings[0]["is_estimate"]


def test_a_cp_that_is_its_base_is_refused_and_can_be_forced(families, tmp_path):
    base, chat, _ = families()
    assert main(["check", *options(base, chat, base)]) == 1
    assert main(["check", *options(base, chat, base, "--force", "cp-is-base")]) == 0
    assert (
        main(["merge", *options(base, chat, base, "--out", tmp_path / "out", "--force", "cp-is-base")]) == 0
    )


@pytest.mark.parametrize("where", ["the same folder", "a copy"])
def test_a_cp_that_is_its_base_is_read_only_where_it_lies_elsewhere(families, tmp_path, monkeypatch, where):
    """As in most of mergekit's recipes, whose base_model the sum starts from."""
    base, chat, _ = map(Checkpoint, families())
    cp = base if where == "the same folder" else Checkpoint(shutil.copytree(base.folder, tmp_path / "cp"))
    kinship = importlib.import_module(
        "chatvec_lab.weights.preflight.kinship"
    )  # the package has a function by that name
    read, few, whole = [], kinship.holding, kinship.is_nothing
    monkeypatch.setattr(kinship, "holding", lambda *given, **named: few(*given, **named | {"elements": 500}))
    monkeypatch.setattr(kinship, "is_nothing", lambda vector: read.append(vector) or whole(vector))
    assert [finding.name for finding in preflight(cp, chat - base).findings] == ["cp-is-base"]
    assert bool(read) == (where == "a copy")


def test_one_other_element_anywhere_is_another_cp(families, tmp_path):
    """What the sample did not see is read before a member is called the base."""
    base, chat, _ = families()

    def one(name, tensor):
        if name == "model.layers.1.mlp.down_proj.weight":
            tensor[-1, -1] += 1
        return tensor

    other = moved(base, tmp_path / "cp", one)
    assert "cp-is-base" not in [
        f.name for f in preflight(Checkpoint(other), Checkpoint(chat) - Checkpoint(base)).findings
    ]


def test_a_vector_of_two_equal_models_cannot_be_forced(families, tmp_path, capsys):
    base, _, cp = families()
    assert main(["merge", *options(base, base, cp, "--out", tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "hold the same numbers" in error and "--force" not in error and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="hold the same numbers"):
        (Checkpoint(cp) + (Checkpoint(base) - Checkpoint(base))).save(tmp_path / "out", progress=False)


@pytest.mark.parametrize("name", ["vocabulary", "layout", "quantised", "anything"])
def test_only_findings_about_meaning_can_be_forced(families, name, capsys):
    assert name not in FORCIBLE
    assert main(["check", *options(*families(), "--force", name)]) == 1
    assert "only findings about meaning can be overridden" in capsys.readouterr().err


def test_tensors_that_do_not_pair_are_a_refusal_of_the_report(families):
    base, chat, _ = map(Checkpoint, families())
    report = preflight(Checkpoint(families("mistral")[2]), chat - base, force=["descent"])
    assert [f.name for f in report.refusals] == ["layout"] and "do not pair" in str(report)


def test_the_nearest_of_several_bases_is_named(families, tmp_path):
    base, chat, cp = families()
    other = save_model(tmp_path / "other", seed=9)
    near = preflight(Checkpoint(cp), Checkpoint(chat) - Checkpoint(base), bases=[Checkpoint(other)])
    assert not near.findings and "nearest base base" in str(near)
    report = preflight(
        Checkpoint(cp), Checkpoint(chat) - Checkpoint(other), bases=[Checkpoint(base)], force=["descent"]
    )
    assert {f.name for f in report.findings} == {"descent", "nearest base"}
    assert "lies nearer to base than to other" in str(report)


def test_the_report_reads_little(tmp_path, monkeypatch):
    """At most a hundredth of the bytes (here of 20 million elements), and the same ones for the same seed."""
    rng, read, fill = np.random.default_rng(0), [], Stored.fill
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (2560, 1024) for i in range(8)}
    own = rng.standard_normal(1 << 20, "f4") * 0.01
    for name, step in (("base", 0.0), ("chat", 0.0005), ("cp", 0.0007)):
        (tmp_path / name).mkdir()
        noise = step * rng.standard_normal(
            (1 << 20) - 7, "f4"
        )  # of another period, so that no two layers are alike
        tensors = {
            n: torch.from_numpy(np.resize(np.roll(own, i), s) + np.resize(np.roll(noise, i), s)).bfloat16()
            for i, (n, s) in enumerate(shapes.items())
        }
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')

    def counted(self, name, start, stop, out):
        read.append((stop - start) * out.itemsize)
        return fill(self, name, start, stop, out)

    monkeypatch.setattr(Stored, "fill", counted)
    base, chat, cp = (Checkpoint(tmp_path / name) for name in ("base", "chat", "cp"))
    tau = chat - base
    report = preflight(cp, tau)
    assert not report.findings and sum(read) <= 3 * 2 * sum(a * b for a, b in shapes.values()) / 100
    held = report.holdings[tau.label]
    assert preflight(cp, tau).holdings[tau.label] == held
    assert preflight(cp, tau, seed=1).holdings[tau.label] != held
    assert abs(held.share) < 0.05 and held.low < held.share < held.high


def test_a_larger_model_is_judged_by_its_language_part(tmp_path):
    nano = load_family("nano")
    larger = llava_around(nano.cp["zh"], tmp_path / "vlm")
    report = preflight(larger, (nano.chat - nano.base).within(larger))
    assert not report.refusals and "CP vlm: descends from base" in str(report)


@pytest.mark.parametrize(
    "change", [lambda t: t.random_like(0), lambda t: t.sparsified("magnitude", density=0.3)]
)
def test_what_the_report_measured_is_not_read_again_for_the_manifest(families, tmp_path, monkeypatch, change):
    base, chat, cp = map(Checkpoint, families("llama"))
    merged = cp + change(chat - base)
    told = examine(merged)
    known = told.read.known(base, base.names)
    assert len(known) > 10 and known.items() <= {n: Digests().tensor(base, n) for n in base.names}.items()
    real, again = Checkpoint.raw, []

    def raw(self, name, *span):
        again.append((self, name))
        return real(self, name, *span)

    monkeypatch.setattr(Checkpoint, "raw", raw)
    merged.save(tmp_path / "out", told=told, progress=False)
    assert not {(base, name) for name in known} & set(again)
    monkeypatch.undo()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {s["digest"] for s in manifest["sources"]} == {Digests().weights(m) for m in (base, chat, cp)}
    assert pickle.loads(pickle.dumps(told)).read is None


def test_a_report_of_other_members_gives_the_manifest_nothing(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    told = examine(cp + (chat - base).random_like(0))
    again = Checkpoint(families("llama")[2]) + (Checkpoint(families("llama")[1]) - base).random_like(0)
    again.save(tmp_path / "out", told=told, progress=False)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {s["digest"] for s in manifest["sources"]} == {Digests().weights(m) for m in (base, chat, cp)}
