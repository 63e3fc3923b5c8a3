"""Sums of sums: over vocabularies of other tokens, tied and untied heads, merges of merges, damaged sources."""

import json

import pytest
import torch
from pico import SPECIAL, TOKENS, save_model

from chatvec_lab import Checkpoint, WeightVector
from chatvec_lab.weights.saving.audit import audit

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Base and chat tied; a CP with a head of its own and two new tokens in front of the others."""
    root = tmp_path_factory.mktemp("sums")
    base = save_model(root / "base", seed=1, tied=True)
    chat = save_model(root / "chat", seed=2, near=base, tied=True, template="{{ messages }}")
    cp = save_model(root / "cp", seed=3, near=base, tokens=["new", "newer", *SPECIAL, *TOKENS])
    return Checkpoint(base), Checkpoint(chat), Checkpoint(cp)


def same(a, b):
    return all(torch.equal(a.read(name), b.read(name)) for name in (EMBEDDING, HEAD))


def test_a_sum_over_two_vocabularies_is_saved_as_it_is_read(family, tmp_path):
    base, chat, cp = family
    for i, total in enumerate(((cp - base) + (chat - base), (chat - base) + (cp - base))):
        stored = WeightVector.load(total.save(tmp_path / str(i), progress=False))
        assert same(total, stored) and same(cp + total, cp + stored)
        assert HEAD in total.names, "the head that only the CP has"
    changed = ((cp - base) + (chat - base)).sparsified("magnitude", density=0.5)
    assert (cp + changed).read(EMBEDDING).shape == cp.shape(EMBEDDING)
    noise = cp + (chat - base).random_like(0)
    assert torch.equal(noise.read(EMBEDDING, slice(0, 2)), cp.read(EMBEDDING, slice(0, 2)))


def test_a_saved_selection_can_be_added(family, tmp_path):
    base, chat, cp = family
    part = (chat - base).select(layers="0")
    stored = WeightVector.load(part.save(tmp_path / "part", progress=False))
    assert same(cp + stored, cp) and stored.shape(EMBEDDING) == base.shape(EMBEDDING)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal((cp + stored).read(name), (cp + (chat - base)).read(name))


def test_a_journal_is_of_one_recipe(family, tmp_path):
    """Row pairing is decided by tokenizers, and a tied vector's names do not tell what a head of the CP's gets."""
    base, chat, cp = family
    tau = chat - base
    heads = [cp + tau.select(modules=kinds) for kinds in (["embedding"], ["embedding", "head"])]
    assert heads[0].fingerprint() != heads[1].fingerprint()
    copy = tmp_path / "cp"
    copy.mkdir()
    for file in cp.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    before = Checkpoint(copy).fingerprint()
    assert before != cp.fingerprint() and before == Checkpoint(copy).fingerprint()
    stored = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = stored["model"]["vocab"]
    vocabulary["new"], vocabulary["newer"] = vocabulary["newer"], vocabulary["new"]
    (copy / "tokenizer.json").write_text(json.dumps(stored))
    assert Checkpoint(copy).fingerprint() != before


def test_the_template_of_an_inner_sum_is_not_lost(family, tmp_path):
    base, chat, cp = family
    plain = cp - base
    for i, total in enumerate(((cp + (chat - base)) + plain, (cp + plain) + (chat - base))):
        total.save(tmp_path / str(i), progress=False)
        found = Checkpoint(tmp_path / str(i))
        assert found.chat_template == total.chat_template == chat.chat_template
        assert found.tokenizer.chat_template == total.tokenizer.chat_template == chat.chat_template
        assert same(found, total)


def test_a_link_is_refused_before_the_work(family, tmp_path):
    base, chat, cp = family
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with pytest.raises(FileExistsError, match="Choose a folder inside it"):
        (cp + (chat - base)).save(tmp_path / "out", progress=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["disk", "out"]


def test_nan_is_named_under_a_transform(family, tmp_path):
    base, _, cp = family

    def spoil(state):
        state["model.norm.weight"][:] = float("nan")

    bad = Checkpoint(save_model(tmp_path / "bad", seed=2, near=base.folder, tied=True, change=spoil))
    for vector in ((bad - base).sparsified("magnitude", density=0.5), (bad - base).random_like(0)):
        with pytest.raises(ValueError, match=r"model\.norm\.weight of bad - base"):
            (cp + vector).read("model.norm.weight")


def test_audit_reads_a_tied_head(family, tmp_path):
    base, chat, cp = family
    (cp + (chat - base)).save(tmp_path / "out", progress=False)
    found = audit(Checkpoint(tmp_path / "out"), cp, chat, base, 1.0).set_index("tensor")
    assert found.wrong[HEAD] == 0 and found.moved[HEAD] > 0
