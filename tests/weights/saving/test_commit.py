"""What is not ours is never touched: the folder to work in is proven ours, no link is followed, foreign files stay."""

import json
import os
import shutil

import pytest

from chatvec_lab import Checkpoint
from chatvec_lab.interop import peft
from chatvec_lab.weights.saving import commit


def stranger(place, how):
    """Something of a user's in the place where a save would work; returns where their file lies."""
    if how == "a folder":
        place.mkdir()
        (place / "chapter1.tex").write_text("years of work")
        return place / "chapter1.tex"
    if how == "a folder with a journal of its own":
        place.mkdir()
        (place / "journal.json").write_text('{"key": "k", "shards": {}}')
        (place / "model.safetensors").write_text("theirs")
        return place / "model.safetensors"
    if how == "a file":
        place.write_text("notes")
        return place
    mine = place.with_name("thesis")
    mine.mkdir()
    (mine / "chapter1.tex").write_text("years of work")
    place.symlink_to(mine if how == "a link" else place.with_name("nowhere"))
    return mine / "chapter1.tex"


HOW = ["a folder", "a folder with a journal of its own", "a file", "a link", "a link to nothing"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("what", ["model", "vector", "adapter"])
def test_a_users_folder_with_the_name_of_ours_is_left_alone(families, tmp_path, how, what):
    base, chat, cp = map(Checkpoint, families())
    kept = stranger(tmp_path / ".out.partial", how)
    content = kept.read_text()
    save = {
        "model": lambda: (cp + (chat - base)).save(tmp_path / "out", progress=False),
        "vector": lambda: (chat - base).save(tmp_path / "out", progress=False),
        "adapter": lambda: peft.export_adapter(chat - base, tmp_path / "out", base=cp, rank=2),
    }[what]
    with pytest.raises(FileExistsError, match=r"\.out\.partial.*left as it is"):
        save()
    assert kept.read_text() == content and not (tmp_path / "out").exists()
    assert os.path.lexists(tmp_path / ".out.partial")


def interrupted(families, out, monkeypatch):
    """A partial folder of ours, as a save leaves it that was stopped behind its only shard."""
    base, chat, cp = map(Checkpoint, families())
    merged = cp + (chat - base)
    with monkeypatch.context() as patched:
        patched.setattr("chatvec_lab.weights.saving.writer.write_companions", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merged.save(out, progress=False)
    return merged


def test_a_users_file_in_our_partial_folder_is_named_and_stays(families, tmp_path, monkeypatch):
    merged = interrupted(families, tmp_path / "out", monkeypatch)
    (tmp_path / ".out.partial/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"did not put there \(notes\.txt\)"):
        merged.save(tmp_path / "out", progress=False)
    assert (tmp_path / ".out.partial/notes.txt").read_text() == "mine"
    (tmp_path / ".out.partial/notes.txt").unlink()
    assert merged.save(tmp_path / "out", progress=False).resumed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_in_our_partial_folder_is_not_followed(families, tmp_path, monkeypatch):
    merged = interrupted(families, tmp_path / "out", monkeypatch)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("mine")
    (tmp_path / ".out.partial" / commit.STAGE).exists() and shutil.rmtree(
        tmp_path / ".out.partial" / commit.STAGE
    )
    (tmp_path / ".out.partial" / commit.STAGE).symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError, match="did not put there"):
        merged.save(tmp_path / "out", progress=False)
    assert (tmp_path / "precious/file").read_text() == "mine"


def test_the_last_instant_before_the_rename_is_ours_by_its_manifest(families, tmp_path):
    """The journal is gone, the rename has not happened: a rerun makes the same folder and leaves nothing behind."""
    base, chat, cp = map(Checkpoint, families())
    (cp + (chat - base)).save(tmp_path / "out", progress=False)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out").rename(tmp_path / ".out.partial")
    (cp + (chat - base)).save(tmp_path / "out", progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_recipe_clears_what_the_first_one_left(families, tmp_path, monkeypatch):
    interrupted(families, tmp_path / "out", monkeypatch)
    base, chat, cp = map(Checkpoint, families())
    report = (cp + 0.5 * (chat - base)).save(tmp_path / "out", progress=False, max_shard_size=4000)
    assert report.resumed == 0 and report.shards > 1
    names = set(json.loads((tmp_path / "out/manifest.json").read_text())["weights"]["files"])
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == names


def test_discard_takes_what_was_saved_and_nothing_else(families, tmp_path):
    base, chat, cp = map(Checkpoint, families())
    (cp + (chat - base)).save(tmp_path / "out", progress=False)
    commit.discard(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    commit.discard(tmp_path / "out")  # nothing there: nothing to do
    (cp + (chat - base)).save(tmp_path / "out", progress=False)
    (tmp_path / "out/notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/drawn.png").write_text("mine")
    for name in ("out", "link", "figures"):
        with pytest.raises(FileExistsError, match="left as it is"):
            commit.discard(tmp_path / name)
    assert (tmp_path / "out/notes.txt").exists() and (tmp_path / "out/model.safetensors").exists()
    assert (tmp_path / "figures/drawn.png").exists()


def test_a_manifest_names_every_file(families, tmp_path):
    base, chat, cp = map(Checkpoint, families())
    (cp + (chat - base)).save(tmp_path / "out", progress=False)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    listed = {*manifest["weights"]["files"], *manifest["companions"]}
    assert listed == {path.name for path in (tmp_path / "out").iterdir()}
