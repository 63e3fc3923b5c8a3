"""Kills, full disks and existing folders: the result is whole or absent, and a rerun goes on where it stopped."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from campaigns import Kept
from pico import save_tokenizer

from chatvec_lab import Checkpoint, WeightVector

MERGE = """
import sys
from chatvec_lab import Checkpoint
base, chat, cp, out = sys.argv[1:5]
(Checkpoint(cp) + 0.7 * (Checkpoint(chat) - Checkpoint(base))).save(out, progress=False)
"""
VECTOR = """
import sys
from chatvec_lab import Checkpoint
from chatvec_lab.weights.saving.artifact import save_vector
base, chat, cp, out = sys.argv[1:5]
from pathlib import Path
tau = Checkpoint(chat) - Checkpoint(base)
save_vector(tau, Path(out), progress=False, max_shard_size="3MB")
"""
SAVES = {"model": MERGE, "vector": VECTOR}


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """base, chat and CP of some 20 MB in eight shards each: long enough to be killed in the middle."""
    from safetensors.numpy import save_file

    root, rng = tmp_path_factory.mktemp("larger"), np.random.default_rng(0)
    tensors = {
        f"model.layers.{i}.mlp.up_proj.weight": rng.standard_normal((1024, 640)).astype("f4")
        for i in range(8)
    }
    for name in ("base", "chat", "cp"):
        folder = root / name
        folder.mkdir()
        weight_map = {}
        for i, (tensor, values) in enumerate(tensors.items()):
            shard = f"model-{i + 1:05d}-of-00008.safetensors"
            noise = 0.01 * rng.standard_normal(values.shape).astype("f4") if name != "base" else 0
            save_file({tensor: values + noise}, folder / shard)
            weight_map[tensor] = shard
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (folder / "config.json").write_text('{"model_type": "llama"}')
        save_tokenizer(folder, ["<unk>", "<s>", "</s>"])
    return [str(root / name) for name in ("base", "chat", "cp")]


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def start(larger, out, what="model"):
    return subprocess.Popen(
        [sys.executable, "-c", SAVES[what], *larger, str(out)], stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def undisturbed(larger, tmp_path_factory):
    """Of each kind of save that nothing disturbs its files, and the seconds from the first shard to the end."""
    found = {}
    for what in SAVES:
        out = tmp_path_factory.mktemp("undisturbed") / "out"
        process = start(larger, out, what)
        while not any(out.parent.glob(".out.partial/*")) and process.poll() is None:
            time.sleep(0.001)
        began = time.perf_counter()
        assert process.wait() == 0, process.stderr.read()
        found[what] = contents(out), time.perf_counter() - began
        assert len(list(out.glob("*.safetensors"))) == 8
    return found


def kill_once(larger, out, after, what):
    """Start a save and kill it `after` seconds after it began to write; the seconds it took if it ended before."""
    process = start(larger, out, what)
    while not out.with_name(f".{out.name}.partial").exists() and process.poll() is None:
        time.sleep(0.001)
    began = time.perf_counter()
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return None if process.wait() == -signal.SIGKILL else time.perf_counter() - began


def campaign(larger, undisturbed, root, kills, seed, what):
    """So many saves that were really killed, at random instants; a save that ends before its kill is checked too."""
    print(f"{what}: {kills} kills, seed {seed}")
    expected, seconds = undisturbed[what]
    rng, hits, tries = random.Random(seed), 0, 0
    while hits < kills:
        tries += 1
        assert tries <= 10 * (kills + 1), f"only {hits} of {tries} kills came in time"
        out = root / f"{tries}" / "out"
        out.parent.mkdir(parents=True)
        ended = kill_once(larger, out, rng.uniform(0, seconds), what)
        if ended is None:
            hits += 1
        else:
            seconds = ended  # the machine is faster now than it was in the undisturbed run
        assert not out.exists() or contents(out) == expected, (
            "a half-written folder is visible under the final name"
        )
        if not out.exists():
            rerun = start(larger, out, what)
            assert rerun.wait() == 0, rerun.stderr.read()
        assert contents(out) == expected
        assert [p.name for p in out.parent.iterdir()] == ["out"], "an orphan is left"
        shutil.rmtree(out.parent)


def test_three_kills_leave_no_trace(larger, undisturbed, tmp_path):
    campaign(larger, undisturbed, tmp_path / "model", kills=2, seed=0, what="model")
    campaign(larger, undisturbed, tmp_path / "vector", kills=1, seed=0, what="vector")


@pytest.mark.slow
@pytest.mark.parametrize("what", SAVES)
def test_forty_kills_leave_no_trace(larger, undisturbed, tmp_path, what):
    campaign(larger, undisturbed, tmp_path, kills=40, seed=1, what=what)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("what", SAVES)
def test_two_hundred_kills_leave_no_trace(larger, undisturbed, tmp_path, what, seed):
    """200 of each kind of save, in ten parts of 20 with seeds of their own; what has passed with this code is kept."""
    kept, part = Kept("kills-of-saves", "weights"), f"{what}, seed {100 + seed}"
    if part not in kept:
        campaign(larger, undisturbed, tmp_path, kills=20, seed=100 + seed, what=what)
        kept.add(part, kills=20)


STEPS = [
    (call, what)
    for call in ("os.replace", "os.fsync", "os.mkdir", "os.unlink", "os.rename", "os.rmdir")
    for what in SAVES
]


@pytest.mark.parametrize(
    ("call", "what"),
    [pytest.param(*step, marks=() if step == ("os.rename", "model") else pytest.mark.slow) for step in STEPS],
)
def test_a_kill_at_each_step_of_the_disk_leaves_no_trace(larger, undisturbed, tmp_path, call, what):
    """The process ends just before each call of this kind in turn, where a random instant seldom falls."""
    stop = """
import os
real, left = {call}, {count}
def {name}(*a, **k):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return real(*a, **k)
{call} = {name}
"""
    expected, _ = undisturbed[what]
    for count in (*range(4), 9, 14, 19, 24):
        out = tmp_path / f"{count}" / "out"
        out.parent.mkdir()
        code = stop.format(call=call, name=call.replace(".", "_"), count=count) + SAVES[what]
        status = subprocess.run(
            [sys.executable, "-c", code, *larger, str(out)], capture_output=True
        ).returncode
        assert status in (0, 9) and (not out.exists() or contents(out) == expected)
        if status:
            rerun = start(larger, out, what)
            assert rerun.wait() == 0, rerun.stderr.read()
        assert contents(out) == expected and [p.name for p in out.parent.iterdir()] == ["out"], count
        if not status:
            break


def test_a_rerun_keeps_whole_shards_and_checks_them(larger, tmp_path, monkeypatch):
    from chatvec_lab.weights.saving.stream import Streamer

    write, written = Streamer.write, []

    def stops_after_three(self, path, tensors, whole):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        return write(self, path, tensors, whole)

    base, chat, cp = map(Checkpoint, larger)
    merged, partial = cp + 0.7 * (chat - base), tmp_path / ".out.partial"
    monkeypatch.setattr(Streamer, "write", stops_after_three)
    with pytest.raises(KeyboardInterrupt):
        merged.save(tmp_path / "out", progress=False)
    assert len(list(partial.glob("*.safetensors"))) == 3 and not (tmp_path / "out").exists()
    with open(partial / written[1], "r+b") as file:  # the disk lost a byte meanwhile
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    monkeypatch.setattr(Streamer, "write", write)
    report = merged.save(tmp_path / "out", progress=False, verify=True)
    assert report.resumed == 2 and report.shards == 8


def test_another_recipe_does_not_resume(larger, tmp_path, monkeypatch):
    from chatvec_lab.weights.saving.stream import Streamer

    base, chat, cp = map(Checkpoint, larger)
    write = Streamer.write

    def fails_at_the_third(self, path, tensors, whole):
        if "00003" in path.name:
            raise OSError(5, "Input/output error")
        return write(self, path, tensors, whole)

    monkeypatch.setattr(Streamer, "write", fails_at_the_third)
    with pytest.raises(OSError, match="Input/output"):
        (cp + 0.7 * (chat - base)).save(tmp_path / "out", progress=False)
    monkeypatch.setattr(Streamer, "write", write)
    assert (cp + 0.5 * (chat - base)).save(tmp_path / "out", progress=False).resumed == 0


def test_an_existing_folder_is_left_alone(larger, tmp_path):
    base, chat, cp = map(Checkpoint, larger)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious.txt").write_text("mine")
    for save in ((cp + (chat - base)).save, (chat - base).save):
        with pytest.raises(FileExistsError, match="exists already"):
            save(tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {"precious.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    (cp + (chat - base)).save(tmp_path / "empty", progress=False)
    assert (tmp_path / "empty/manifest.json").exists()


def test_two_saves_to_one_folder_do_not_mix(larger, tmp_path):
    import fcntl

    base, chat, cp = map(Checkpoint, larger)
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(FileExistsError, match="being saved by another process"):
        (cp + (chat - base)).save(tmp_path / "out", progress=False)
    os.close(handle)


def test_a_disk_too_small_is_seen_before_writing(larger, tmp_path, monkeypatch):
    base, chat, cp = map(Checkpoint, larger)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    )
    with pytest.raises(OSError, match=r"needs 20,971,520 bytes but .* has 1,000 free"):
        (cp + (chat - base)).save(tmp_path / "out", progress=False)
    assert not list(tmp_path.glob("*out*")), "nor is an empty folder left"


def test_a_disk_that_fills_up_keeps_whole_shards(larger, tmp_path):
    """The kernel refuses to grow a file beyond a limit, as a full disk does; the rerun without it completes."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
    limit += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    command = [sys.executable, "-c", limit + MERGE, *larger, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and "no room for model-00001-of-00008.safetensors" in done.stderr
    assert not (tmp_path / "out").exists()
    assert start(larger, tmp_path / "out").wait() == 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2_000_000


def test_a_vector_is_exact_after_a_round_trip(families, tmp_path):
    import torch

    cases = [
        families("llama", dtype=torch.float16),
        families("llama"),
        families("llama", dtype=torch.float32),
    ]
    for i, (base, chat, cp) in enumerate(cases):
        base, chat, cp = Checkpoint(base), Checkpoint(chat), Checkpoint(cp)
        for j, tau in enumerate(
            (chat - base, 0.7 * (chat - base) + -0.3 * (cp - base).select(modules="mlp"))
        ):
            folder = tau.save(tmp_path / f"{i}{j}", progress=False)
            loaded = WeightVector.load(folder)
            assert loaded.names == tau.names
            for name in tau.names:
                assert torch.equal(
                    loaded.read(name, dtype=torch.float64), tau.read(name, dtype=torch.float64)
                )
                assert torch.equal((cp + 0.7 * loaded).read(name), (cp + 0.7 * tau).read(name)), name
            again = loaded.save(tmp_path / f"{i}{j}-again", progress=False)
            assert (again / "vector.safetensors").read_bytes() == (folder / "vector.safetensors").read_bytes()


def test_a_loaded_vector_knows_its_chat_side(families, tmp_path):
    from pico import CP_TOKENS

    base, chat, cp = map(Checkpoint, families("llama", cp_tokens=CP_TOKENS))
    tau = chat - base
    tau.save(tmp_path / "tau", progress=False)
    loaded = WeightVector.load(tmp_path / "tau")
    for vector, out in ((tau, "direct"), (loaded, "loaded")):
        cp.add(vector, copy_special=True).save(tmp_path / out, progress=False)
    direct, later = contents(tmp_path / "direct"), contents(tmp_path / "loaded")
    for name in direct.keys() - {"manifest.json", "README.md"}:
        assert direct[name] == later[name], name


def test_exponents_too_far_apart_for_float64_are_kept_in_two(tmp_path):
    import torch
    from safetensors.torch import save_file

    for name, value in (("chat", 2.0**100), ("base", 2.0**-100)):
        (tmp_path / name).mkdir()
        tensor = {"model.layers.0.mlp.up_proj.weight": torch.full((2, 3), value, dtype=torch.bfloat16)}
        save_file(tensor, tmp_path / name / "model.safetensors")
    base, chat = Checkpoint(tmp_path / "base"), Checkpoint(tmp_path / "chat")
    (chat - base).save(tmp_path / "tau", progress=False)
    name = "model.layers.0.mlp.up_proj.weight"
    loaded = WeightVector.load(tmp_path / "tau")
    assert torch.equal((base + loaded).read(name), chat.read(name))
    assert torch.equal(
        (loaded - chat_only(chat, tmp_path)).read(name, dtype=torch.float64), -base.read(name).double()
    )


def chat_only(chat, root):
    """chat - 0, so that the huge halves cancel and the small one shows."""
    import torch
    from safetensors.torch import save_file

    (root / "zero").mkdir()
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({name: torch.zeros(2, 3, dtype=torch.bfloat16)}, root / "zero/model.safetensors")
    return chat - Checkpoint(root / "zero")
