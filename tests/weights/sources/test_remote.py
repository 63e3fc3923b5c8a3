"""Few rows of hub models by HTTP ranges, against a real server on loopback: right bits, and no download."""

import numpy as np
import pytest
import torch
from pico import CP_TOKENS, save_family, save_model
from test_hub import COMMIT, hub, run  # noqa: F401  (hub is a fixture)

from chatvec_lab import Checkpoint, anatomy

CHECK = """
from chatvec_lab.families import load_family
table = load_family('mine.yaml').check(rows=16)
print(len(table), float(table.cosine.min()), sorted(set(table.member)))
"""


@pytest.fixture
def served(hub, tmp_path, monkeypatch):  # noqa: F811
    """(address, home, requests, folders) of a family of hub ids, described by mine.yaml in the current folder."""
    address, repos, asked = hub
    folders = dict(
        zip(("base", "chat", "cp"), save_family(tmp_path, cp_tokens=CP_TOKENS, shard="6KB"), strict=True)
    )
    folders["other"] = save_model(tmp_path / "other", seed=9)
    repos.update({f"lab/{name}": folder for name, folder in folders.items()})
    (tmp_path / "mine.yaml").write_text("base: lab/base\nchat: lab/chat\ncp: {zh: lab/cp}\n")
    monkeypatch.chdir(tmp_path)
    return address, tmp_path / "home", asked, folders


def test_a_family_of_hub_ids_is_checked_without_its_weights(served):
    address, home, asked, _ = served
    done = run(address, home, CHECK)
    assert done.returncode == 0, done.stderr
    count, lowest, members = done.stdout.split(maxsplit=2)
    assert (int(count), members.strip()) == (32, "['chat', 'cp_zh']") and float(lowest) > 0.9
    assert not list(home.rglob("*.safetensors")), "no weight file was downloaded"
    assert any(path.endswith(".safetensors") for _, path in asked)


def test_an_unrelated_hub_model_is_refused(served, tmp_path):
    (tmp_path / "mine.yaml").write_text("base: lab/base\nchat: lab/chat\ncp: {zh: lab/other}\n")
    done = run(*served[:2], CHECK)
    assert "cp_zh (lab/other)" in done.stderr and "do not descend" in done.stderr


def test_ranges_have_the_bits_of_the_file(served):
    address, home, _, folders = served
    code = (
        "from chatvec_lab.weights.checkpoint import Checkpoint, sparsely\n"
        "from chatvec_lab.weights.sources.hub import Remote\n"
        "c = sparsely(Checkpoint('lab/base')); assert isinstance(c.origin, Remote)\n"
        "print({n: c.raw(n, 5, 40).tolist() for n in c.names if len(c.shape(n)) == 2})\n"
        "print(len(c.vocabulary.tokens), c.is_tied)"
    )
    done = run(address, home, code)
    assert done.returncode == 0, done.stderr
    here = Checkpoint(folders["base"])
    lines = done.stdout.splitlines()
    assert eval(lines[0]) == {n: here.raw(n, 5, 40).tolist() for n in here.names if len(here.shape(n)) == 2}
    assert lines[1] == "63 False"


def test_a_network_that_goes_away_is_an_oserror(served):
    code = (
        "import huggingface_hub; from chatvec_lab.weights.checkpoint import Checkpoint, sparsely\n"
        "c = sparsely(Checkpoint('lab/base')); n = c.names[0]\n"
        "huggingface_hub.hf_hub_url = lambda *_, **__: 'http://127.0.0.1:9'\n"
        "try: c.raw(n, 5, 40)\n"
        "except OSError as error: print(error)"
    )
    assert "lab/base: model" in run(*served[:2], code).stdout


def test_a_whole_survey_needs_no_weights_on_disk_and_outlasts_dropped_connections(served):
    address, home, _, folders = served
    code = (
        "from huggingface_hub.errors import HTTPError; from huggingface_hub.utils import get_session\n"
        "from chatvec_lab import Checkpoint, anatomy; from chatvec_lab.weights.checkpoint import sparsely\n"
        "chat, base = (sparsely(Checkpoint(f'lab/{n}')) for n in ('chat', 'base')); tau = chat - base; tau.names\n"
        "session, asked = get_session(), []; real = session.get\n"
        "def flaky(*given, **options):\n"
        "    asked.append(given)\n"
        "    if len(asked) % 7 == 0: raise HTTPError('dropped')\n"
        "    return real(*given, **options)\n"
        "session.get = flaky\n"
        "found = anatomy.norms({'chat': tau}, progress=False).set_index('tensor').l2\n"
        "print(len(asked) >= 7, dict(found))"
    )
    done = run(address, home, code)
    assert done.returncode == 0, done.stderr
    tau = Checkpoint(folders["chat"]) - Checkpoint(folders["base"])
    wanted = dict(anatomy.norms({"chat": tau}, progress=False).set_index("tensor").l2)
    dropped, found = done.stdout.split(maxsplit=1)
    assert dropped == "True" and eval(found, {"np": np}) == wanted
    assert not list(home.rglob("*.safetensors"))


def test_a_model_in_the_cache_is_read_from_there(served):
    address, home, asked, _ = served
    assert (
        run(address, home, "from chatvec_lab import Checkpoint; Checkpoint('lab/base').names").returncode == 0
    )
    asked.clear()
    code = (
        "from chatvec_lab import Checkpoint; from chatvec_lab.weights.checkpoint import sparsely\n"
        "print(type(sparsely(Checkpoint('lab/base')).origin).__name__)"
    )
    assert run(address, home, code).stdout.strip() == "Hub"
    assert not asked


@pytest.mark.parametrize(("format", "is_remote"), [("fp8 blocks", True), ("ct w4a16", True), ("gptq", False)])
def test_rows_of_a_quantised_hub_model_are_asked_for(hub, tmp_path, format, is_remote):  # noqa: F811
    """GPTQ's rows are scattered over the file, so that such a model is downloaded instead."""
    from gguf_files import save_llama
    from quantised_files import quantise

    address, repos, _ = hub
    values = quantise(save_llama(tmp_path / "whole"), tmp_path / "packed", format)
    repos["lab/packed"] = tmp_path / "packed"
    name = "model.layers.0.mlp.up_proj.weight"
    done = run(
        address,
        tmp_path / "home",
        "from chatvec_lab.weights.checkpoint import Checkpoint, sparsely\n"
        "c = sparsely(Checkpoint('lab/packed'))\n"
        f"r = c.read('{name}', slice(3, 7)).double()\n"
        "print(type(c.origin).__name__, c.note.split(',')[0], float(r.sum()), float(r.abs().sum()), sep='|')",
    )
    assert done.returncode == 0, done.stderr
    kind, note, *sums = done.stdout.strip().split("|")
    rows = values[name][3:7]
    assert kind == ("Remote" if is_remote else "Hub") and note.startswith("dequantised from")
    assert [float(s) for s in sums] == [float(rows.sum()), float(rows.abs().sum())]


def _adapter_of(served, tmp_path, base):
    """A LoRA by PEFT on the served base, in a repository of its own; PEFT's merge of it."""
    from test_adapter import adapted, changed_settings

    _, _, _, folders = served
    wanted = adapted(folders["base"], tmp_path / "lora", modules_to_save=["lm_head"])
    changed_settings(tmp_path / "lora", base_model_name_or_path=base)
    return wanted


def test_an_adapter_of_the_hub_is_a_member(served, tmp_path, hub):  # noqa: F811
    pytest.importorskip("peft")
    address, home, asked, folders = served
    wanted = _adapter_of(served, tmp_path, "lab/base")
    hub[1]["lab/lora"] = tmp_path / "lora"
    (tmp_path / "lora" / "checkpoint-9").mkdir()
    code = (
        "from chatvec_lab import Checkpoint; import json\n"
        "chat, base, cp = (Checkpoint(f'lab/{n}') for n in ('lora', 'base', 'cp'))\n"
        "print(chat.label)\n"
        "report = (cp + 0.5 * (chat - base)).save('out', progress=False)\n"
        "print(chat.label); print(json.load(open('out/manifest.json'))['sources'][1])"
    )
    done = run(address, home, code)
    assert done.returncode == 0, done.stderr
    before, after, entry = done.stdout.splitlines()
    assert (before, after) == ("lab/lora", "lab/lora (adapter on lab/base)")
    entry = eval(entry)
    assert entry["revision"] == COMMIT and entry["on"] == {"name": "lab/base", "revision": COMMIT}
    saved, cp, base = Checkpoint(tmp_path / "out"), Checkpoint(folders["cp"]), Checkpoint(folders["base"])
    row = {token: (saved.vocabulary.tokens[token], i) for token, i in base.vocabulary.tokens.items()}
    for name in ("model.layers.1.mlp.up_proj.weight", "lm_head.weight"):
        ours, theirs, plain = saved.read(name), wanted[name], base.read(name).double()
        own, tau = cp.read(name).double(), theirs - plain
        if name == "lm_head.weight":
            rows, own_rows = (list(x) for x in zip(*row.values(), strict=True))
            ours, own, tau = ours[rows], own[rows], tau[own_rows]
        assert torch.equal(ours, (own + 0.5 * tau).bfloat16()), name
    asked.clear()
    offline = "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n" + code.replace("'out'", "'again'")
    again = run("http://127.0.0.1:9", home, offline.replace("out/manifest", "again/manifest"))
    assert again.returncode == 0, again.stderr
    assert not asked and again.stdout.splitlines()[0] == "lab/lora (adapter on lab/base)"


def test_an_adapter_of_the_hub_is_described_by_headers_of_its_base(served, tmp_path, hub):  # noqa: F811
    pytest.importorskip("peft")
    address, home, _, _ = served
    _adapter_of(served, tmp_path, "lab/base")
    hub[1]["lab/lora"] = tmp_path / "lora"
    done = run(address, home, "from chatvec_lab.weights.inspect import inspect; print(inspect('lab/lora'))")
    assert done.returncode == 0 and "lab/lora (adapter on lab/base)" in done.stdout, done.stderr
    assert [p.name for p in home.rglob("*.safetensors")] == ["adapter_model.safetensors"]


def test_an_adapter_whose_base_the_hub_lacks_names_it(served, tmp_path, hub):  # noqa: F811
    pytest.importorskip("peft")
    address, home, _, _ = served
    _adapter_of(served, tmp_path, "lab/gone")
    hub[1]["lab/lora"] = tmp_path / "lora"
    done = run(address, home, "from chatvec_lab import Checkpoint; Checkpoint('lab/lora').names")
    assert "holds an adapter (LORA) for lab/gone, which is not to be had" in done.stderr
