"""The audit finds nothing in what `save` wrote, and everything in what was tampered with."""

import pytest
import torch
from pico import CP_TOKENS, save_model
from safetensors.torch import load_file, save_file

from chatvec_lab import Checkpoint
from chatvec_lab.weights.saving.audit import audit, facts

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
