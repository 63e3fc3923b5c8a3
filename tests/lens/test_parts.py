"""Parts of a vector on a live model, and inner products that are taken as each gradient comes."""

from types import SimpleNamespace

import numpy as np
import torch
from looked_at import family, live_of, opened

from chatvec_lab.lens import parts
from chatvec_lab.live.places import Pieces


def test_a_tied_table_is_one_part_and_all_that_moves_has_one(tmp_path):
    live = live_of(family(tmp_path, "qwen2", tied=True))
    found = parts.parts_of(live, "layer × module × projection")
    places = {(p.layer, p.module, p.projection) for p in found}
    assert (None, "embedding", "embedding") in places and not any(p[1] == "head" for p in places)
    assert (0, "attention", "q") in places and (1, "mlp", "down") in places and (0, "norm", "norm") in places
    slots = [slot.name for p in found for slot in p.slots]
    assert len(slots) == len(set(slots)) == len(live.slots)
    (one,) = parts.parts_of(live, "component")
    assert one.place == {"component": "text", "layer": None, "module": None, "projection": None}


def test_directions_are_the_vector(tmp_path, monkeypatch):
    folders = family(tmp_path)
    _, tau = opened(folders)
    live = live_of(folders, "float32")
    monkeypatch.setattr(parts, "BLOCK", 100)
    for kept in (0, 1 << 20):
        monkeypatch.setattr(parts, "_KEPT", kept)
        directions = parts.Directions(live, 1)
        for slot in live.slots[:4]:
            blocks = list(directions.blocks(slot))
            assert [b[1] - b[0] for b in blocks[:-1]] == [100] * (len(blocks) - 1)
            whole = torch.cat([values for _, _, values in blocks])
            torch.testing.assert_close(whole, tau.read(slot.published).double().view(-1), rtol=1e-6, atol=0)
        assert bool(directions._kept) == bool(kept)


def test_gradients_of_pieces_and_of_parameters_in_one_memory():
    """Stored tensors that the model splits, and parameters that are views of one piece of memory."""
    memory = torch.arange(1.0, 10.0)
    model = torch.nn.Module()
    model.a, model.b = torch.nn.Parameter(memory[:3]), torch.nn.Parameter(memory[3:])  # b: 4 to 9
    split = SimpleNamespace(name="split", place=Pieces((5,), [(0, memory[3:6]), (3, memory[:2])]))
    table = SimpleNamespace(name="table", place=memory[6:].view(3, 1))
    deltas = {
        "split": torch.tensor([1.0, 2, 3, 10, 20]).double(),
        "table": torch.tensor([5.0, 6, 7]).double(),
    }
    directions = SimpleNamespace(
        blocks=lambda slot: [(i, i + 1, d[None]) for i, d in enumerate(deltas[slot.name])]
    )
    whole = [SimpleNamespace(slots=(split,)), SimpleNamespace(slots=(table,))]
    with parts.Gradients(SimpleNamespace(model=model), whole, directions) as gradients:
        ((model.a**2).sum() + (model.b**2).sum()).backward()
        found = gradients.taken()
        assert model.a.grad is None and model.b.grad is None, "let go as soon as it was used"
        (3 * model.b).sum().backward()
        again = gradients.taken()
    np.testing.assert_allclose(
        found, [2 * (4 + 2 * 5 + 3 * 6 + 10 * 1 + 20 * 2), 2 * (5 * 7 + 6 * 8 + 7 * 9)]
    )
    np.testing.assert_allclose(again, [3 * 6, 3 * 18])
    model.a.sum().backward()
    assert model.a.grad is not None, "no hook is left"


def test_a_gradient_in_other_steps_is_laid_out_as_its_leaf():
    leaf = torch.empty(2, 3)
    gradient = torch.arange(6.0).view(3, 2).T
    laid = parts._laid_out_as(leaf, gradient)
    assert laid.stride() == leaf.stride() and torch.equal(laid, gradient)
    assert parts._laid_out_as(leaf, laid) is laid
