"""A source that changes while it is read is an error before anything appears, and says which."""

import os

import pytest
from safetensors.torch import load_file, save_file

from chatvec_lab import Checkpoint
from chatvec_lab.weights.saving.stream import Streamer


@pytest.fixture
def copies(families, tmp_path):
    """base, chat and CP in folders of their own, which a test may spoil."""
    import shutil

    made = {}
    for name, folder in zip(("base", "chat", "cp"), families(), strict=True):
        made[name] = tmp_path / name
        shutil.copytree(folder, made[name])
    return made


def next_step(folder, *, keeps_time=False, in_place=False):
    """What a training does: other weights of the same shapes under the same name."""
    file = folder / "model.safetensors"
    before, tensors = file.stat(), {n: t + 1 for n, t in load_file(file).items()}
    if in_place:
        save_file(tensors, folder / "next", metadata={"format": "pt"})
        content = (folder / "next").read_bytes()
        (folder / "next").unlink()
        with open(file, "r+b") as opened:
            opened.write(content)
    else:
        save_file(tensors, folder / "next.safetensors", metadata={"format": "pt"})
        (folder / "next.safetensors").replace(file)
    if keeps_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_config(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"use_cache": true', '"use_cache": false') + "\n")


CHANGES = {
    "replaced": next_step,
    "written in place": lambda folder: next_step(folder, in_place=True),
    "replaced, with its old time": lambda folder: next_step(folder, keeps_time=True),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("who", ["base", "chat", "cp"])
def test_a_next_step_during_a_save_is_an_error(copies, tmp_path, monkeypatch, how, who):
    write = Streamer.write

    def and_then(self, path, tensors, whole):
        written = write(self, path, tensors, whole)
        CHANGES[how](copies[who])
        return written

    monkeypatch.setattr(Streamer, "write", and_then)
    base, chat, cp = (Checkpoint(copies[name]) for name in ("base", "chat", "cp"))
    with pytest.raises(OSError, match=rf"{who}.*change"):
        (cp + (chat - base)).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_config_that_changes_is_an_error_too(copies, tmp_path, monkeypatch):
    write = Streamer.write
    monkeypatch.setattr(
        Streamer, "write", lambda self, p, t, w: (write(self, p, t, w), other_config(copies["cp"]))[0]
    )
    base, chat, cp = (Checkpoint(copies[name]) for name in ("base", "chat", "cp"))
    with pytest.raises(OSError, match=r"cp changed while it was being read: config\.json"):
        (cp + (chat - base)).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_vector_reads_twice_and_must_find_the_same(copies, tmp_path, monkeypatch):
    """Even a change that leaves size, time and identity of the file: the second reading has another digest."""
    from chatvec_lab.weights.saving import artifact

    storage, chat_file = artifact._storage, copies["chat"] / "model.safetensors"

    def and_then(vector, name, digests):
        found = storage(vector, name, digests)
        if name == vector.names[-1]:
            before = chat_file.stat()
            next_step(copies["chat"], in_place=True)
            os.utime(chat_file, ns=(before.st_atime_ns, before.st_mtime_ns))
        return found

    monkeypatch.setattr(artifact, "_storage", and_then)
    with pytest.raises(OSError, match=r"chat changed while it was being read.*read twice"):
        (Checkpoint(copies["chat"]) - Checkpoint(copies["base"])).save(tmp_path / "tau", progress=False)
    assert not (tmp_path / "tau").exists()


def test_after_the_change_a_save_starts_afresh(copies, tmp_path, monkeypatch):
    write = Streamer.write
    monkeypatch.setattr(
        Streamer, "write", lambda self, p, t, w: (write(self, p, t, w), next_step(copies["chat"]))[0]
    )
    with pytest.raises(OSError, match="change"):
        make(copies).save(tmp_path / "out", progress=False)
    monkeypatch.setattr(Streamer, "write", write)
    assert make(copies).save(tmp_path / "out", progress=False, verify=True).resumed == 0


def make(copies):
    base, chat, cp = (Checkpoint(copies[name]) for name in ("base", "chat", "cp"))
    return cp + (chat - base)
