"""The audit finds nothing in what `save` wrote, and everything in what was tampered with."""

import json
import shutil

import pytest
import torch
from pico import CP_TOKENS, SPECIAL, TOKENS, save_model
from safetensors.torch import load_file, save_file

from chatvec_lab import Checkpoint
from chatvec_lab.weights.saving.audit import CAUSES, audit, back_to_chat, facts, verdict

ALL = 10**9  # every element, drawn with replacement


@pytest.fixture(params=["bfloat16", "float16", "float32"])
def saved(request, families, tmp_path):
    dtype = getattr(torch, request.param)
    base, chat, cp = map(Checkpoint, families("llama", cp_tokens=CP_TOKENS, dtype=dtype))
    (cp + 0.7 * (chat - base)).save(tmp_path / "saved", progress=False)
    return Checkpoint(tmp_path / "saved"), cp, chat, base


def test_a_save_is_what_the_formula_says(saved):
    table = audit(*saved, 0.7, elements=3000)
    assert table.wrong.sum() == 0 and table.moved.sum() > 0.5 * table.checked.sum()
    assert list(table.tensor) == saved[1].names and table.checked.min() >= 16
    assert audit(*saved, 0.70001, elements=ALL).wrong.sum() > 0, "another scale is another model"


def test_one_step_aside_is_found(saved):
    model, *others = saved
    file = model.folder / "model.safetensors"
    state, name = load_file(file), "model.norm.weight"
    kind = torch.int32 if state[name].element_size() == 4 else torch.int16
    state[name].view(kind)[:] += 1  # every element to its neighbour
    save_file(state, file, metadata={"format": "pt"})
    table = audit(Checkpoint(model.folder), *others, 0.7, elements=2000).set_index("tensor")
    assert table.wrong[name] == table.checked[name]
    assert table.wrong.drop(name).sum() == 0


def test_a_model_with_other_tensors_is_refused(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    other = Checkpoint(save_model(tmp_path / "tied", tied=True))
    with pytest.raises(ValueError, match=r"1 tensors: lm_head\.weight"):
        audit(other, cp, chat, base, 1.0)


def test_facts_count_what_is_stored(families):
    base, chat, _ = map(Checkpoint, families("llama"))
    table = facts({"base": base, "chat": chat, "again": base}).set_index("model")
    assert table.parameters["base"] == sum(base.read(name).numel() for name in base.names)
    assert table["dtype"]["base"] == "bfloat16" and table.megabytes["base"] == 2e-6 * table.parameters["base"]
    assert table.digest["base"] == table.digest["again"] != table.digest["chat"]
    assert table.has_template.tolist() == [False, True, False]


def other(folder, to, change, **config):
    """A copy of a checkpoint folder with `change(tensors)` and other entries of its config."""
    shutil.copytree(folder, to)
    tensors = {name: tensor.clone() for name, tensor in load_file(to / "model.safetensors").items()}
    save_file(change(tensors) or tensors, to / "model.safetensors", metadata={"format": "pt"})
    stored = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(stored | config))
    return Checkpoint(to)


def test_the_verdict_is_the_audits(saved):
    good, sentence = verdict(audit(*saved, 0.7, elements=2000))
    assert good and sentence.startswith("is what the formula says: none of ")
    bad, sentence = verdict(audit(*saved, 0.9, elements=2000))
    assert not bad and sentence.startswith("is NOT what the formula says: ")


def test_rows_whose_tokens_are_not_known_are_not_vouched_for(families, tmp_path):
    """As many rows, and no tokenizer.json that says whose: nothing is checked there, and nothing counts as right."""
    base, chat, cp = families("llama")
    (Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / "saved", progress=False)
    shutil.copytree(cp, tmp_path / "cp")
    (tmp_path / "cp/tokenizer.json").unlink()
    table = audit(*map(Checkpoint, (tmp_path / "saved", tmp_path / "cp", chat, base)), 1.0).set_index(
        "tensor"
    )
    tables = ["model.embed_tokens.weight", "lm_head.weight"]
    assert (table.loc[tables, "checked"] == 0).all() and table.loc[tables, "reason"].str.contains(
        "tokens"
    ).all()
    assert (table.drop(index=tables).reason == "").all() and table.drop(index=tables).checked.min() >= 16
    good, sentence = verdict(table.reset_index())
    assert not good and sentence.startswith("cannot be vouched for in 2 of 21 tensors")


def test_pairing_by_index_is_found_wrong(families, tmp_path):
    """Whoever adds rows by index where the tokens stand in another order is told so."""
    base, chat, _ = families("llama")
    cp = save_model(tmp_path / "cp", seed=3, near=base, tokens=SPECIAL + TOKENS[::-1])
    by_index = load_file(cp / "model.safetensors")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (base, chat))
    made = {n: (t.double() + theirs[n].double() - ours[n].double()).to(t.dtype) for n, t in by_index.items()}
    shutil.copytree(cp, tmp_path / "saved")
    save_file(made, tmp_path / "saved/model.safetensors", metadata={"format": "pt"})
    table = audit(*map(Checkpoint, (tmp_path / "saved", cp, chat, base)), 1.0, elements=4000).set_index(
        "tensor"
    )
    assert table.wrong["model.embed_tokens.weight"] > 100 and table.wrong["lm_head.weight"] > 100
    assert table.wrong.drop(["model.embed_tokens.weight", "lm_head.weight"]).sum() == 0


@pytest.mark.parametrize("who", ["chat", "saved"])
def test_what_is_not_finite_is_not_certified(families, tmp_path, who):
    base, chat, cp = families("llama")
    (Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / "saved", progress=False)
    members = {"saved": tmp_path / "saved", "cp": cp, "chat": chat, "base": base}

    def spoil(tensors):
        tensors["model.norm.weight"][:] = float("nan")

    members[who] = other(members[who], tmp_path / "spoilt", spoil).folder
    table = audit(*map(Checkpoint, members.values()), 1.0).set_index("tensor")
    row = table.loc["model.norm.weight"]
    assert (
        row.wrong == row.checked > 0 if who == "saved" else "chat" not in row.reason and "NaN" in row.reason
    )
    assert not verdict(table.reset_index())[0]


def test_what_it_cannot_open_itself_is_refused(families):
    base, chat, cp = map(Checkpoint, families("llama"))
    with pytest.raises(ValueError, match="an expression without files"):
        audit(cp + (chat - base), cp, chat, base, 1.0)


def test_bins_are_opened_by_torch(families, tmp_path):
    base, chat, cp = families("llama")
    (Checkpoint(cp) + 0.3 * (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / "saved", progress=False)
    shutil.copytree(base, tmp_path / "base")
    torch.save(load_file(base / "model.safetensors"), tmp_path / "base/pytorch_model.bin")
    (tmp_path / "base/model.safetensors").unlink()
    table = audit(*map(Checkpoint, (tmp_path / "saved", cp, chat, tmp_path / "base")), 0.3)
    assert verdict(table)[0] and (table.reason == "").all()


def test_what_comes_back_of_chat_has_a_cause_each(families, tmp_path):
    base, chat, _ = families("llama")
    size = sum(Checkpoint(base).read(name).numel() for name in Checkpoint(base).names)
    count = back_to_chat(Checkpoint(base), Checkpoint(chat)).set_index("cause").elements
    assert list(count.index) == list(CAUSES) and count["equal bits"] == size == count.sum()

    def zeros(tensors):
        for tensor in tensors.values():
            tensor.view(-1)[::7] = -0.0

    minus = other(chat, tmp_path / "minus", zeros)
    wanted = sum(-(-Checkpoint(chat).read(name).numel() // 7) for name in Checkpoint(chat).names)
    count = back_to_chat(Checkpoint(base), minus).set_index("cause").elements
    assert count["equal numbers, other sign of zero"] == wanted and count["other"] == 0
    assert count["equal bits"] == size - wanted

    wide = other(
        chat, tmp_path / "wide", lambda t: {n: x.float() + 1e-6 for n, x in t.items()}, dtype="float32"
    )
    count = back_to_chat(Checkpoint(base), wide).set_index("cause").elements
    assert count["rounded to the base's dtype"] > 0.9 * size and count["other"] == 0


def test_rows_of_one_side_alone_have_a_cause_too(families, tmp_path):
    base, _, _ = families("llama")
    more = save_model(tmp_path / "more", seed=2, near=base, tokens=[*SPECIAL, *TOKENS[:-2], "new"])
    count = back_to_chat(Checkpoint(base), Checkpoint(more)).set_index("cause").elements
    assert (
        count["rows of tokens that the base lacks"] == 2 * 16
        and count["rows of the base that chat lacks"] == 4 * 16
    )
    assert count["other"] == 0 and count.sum() > 6000
