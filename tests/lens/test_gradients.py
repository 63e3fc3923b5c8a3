"""Inner products that are taken as each gradient comes."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from looked_at import PAIRS, family, live_of

from chatvec_lab import lens
from chatvec_lab.lens import gradients
from chatvec_lab.live.places import Pieces


@pytest.mark.parametrize(
    ("kind", "options"),
    [("llama", {}), ("qwen2", {"tied": True}), ("gpt_neox", {}), ("gemma", {"tied": True})],
    ids=["head apart", "tied", "biases", "tied, scaled"],
)
@pytest.mark.parametrize("has_checkpointing", [False, True])
def test_large_matrices_have_their_gradients_in_pieces(
    kind, options, has_checkpointing, tmp_path, monkeypatch
):
    live = live_of(family(tmp_path, kind, **options), "float64")
    asked = {"nodes": 2, "most_nodes": 2, "by": "layer × module × projection", "by_pair": False}
    whole = lens.attribution(live, PAIRS, 0.8, **asked)
    monkeypatch.setattr(gradients, "LARGE", 200)
    monkeypatch.setattr(gradients, "PIECE", 100)
    sizes, take = [], gradients.Gradients._take

    def seen(self, leaf, runs):
        if (leaf.dim() == 2 and leaf.numel() >= 200) or leaf.grad.is_sparse:
            sizes.append(len(leaf.grad.coalesce().values()) if leaf.grad.is_sparse else leaf.grad.numel())
        return take(self, leaf, runs)

    monkeypatch.setattr(gradients.Gradients, "_take", seen)
    found = lens.attribution(live, PAIRS, 0.8, checkpointing=has_checkpointing, **asked)
    pd.testing.assert_frame_equal(found.parts, whole.parts, rtol=1e-9)
    table = live.model.get_input_embeddings()
    assert not table.sparse and not any("forward" in m.__dict__ for m in live.model.modules()), (
        "all is put back"
    )
    tokens = {token for pair in PAIRS for token in (*pair.asked, *pair.said)}
    assert sizes and max(sizes) <= len(tokens), (
        "of tables the rows that were read, of matrices no large gradient"
    )


@pytest.mark.parametrize("large", [200, 1 << 24])
def test_the_token_that_pads_has_its_gradient_too(large, tmp_path, monkeypatch):
    """transformers gives the row of pad_token_id no gradient; a text may have it, as the token that ends a reply."""
    live = live_of(family(tmp_path), "float64")
    monkeypatch.setattr(gradients, "LARGE", large)
    table = live.model.get_input_embeddings()
    assert table.padding_idx == 0
    found = lens.attribution(live, [lens.Pair([1, 0, 9, 0], [0, 4, 0], "pads")], 1.0, nodes=16, by="module")
    assert found.is_complete and found.error < 1e-6, found
    assert table.padding_idx == 0


def test_a_forward_that_others_replaced_stays(tmp_path, monkeypatch):
    live = live_of(family(tmp_path), "float64")
    asked = {"nodes": 1, "most_nodes": 1, "by": "module", "by_pair": False}
    whole = lens.attribution(live, PAIRS, 0.8, **asked)
    monkeypatch.setattr(gradients, "LARGE", 200)
    head, calls = live.model.get_output_embeddings(), []
    plain = head.forward
    head.forward = lambda x: calls.append(len(x)) or plain(x)  # as accelerate does, to carry x to the weights
    found = lens.attribution(live, PAIRS, 0.8, **asked)
    pd.testing.assert_frame_equal(found.parts, whole.parts, rtol=1e-9)
    assert len(calls) >= 4, "three values and a gradient went through it"


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
        blocks=lambda slot, first, stop: [
            (i, i + 1, deltas[slot.name][i : i + 1]) for i in range(first, stop)
        ]
    )
    whole = [SimpleNamespace(slots=(split,)), SimpleNamespace(slots=(table,))]
    with gradients.Gradients(SimpleNamespace(model=model), whole, directions) as taken:
        ((model.a**2).sum() + (model.b**2).sum()).backward()
        found = taken.taken()
        assert model.a.grad is None and model.b.grad is None, "let go as soon as it was used"
        (3 * model.b).sum().backward()
        again = taken.taken()
    np.testing.assert_allclose(
        found, [2 * (4 + 2 * 5 + 3 * 6 + 10 * 1 + 20 * 2), 2 * (5 * 7 + 6 * 8 + 7 * 9)]
    )
    np.testing.assert_allclose(again, [3 * 6, 3 * 18])
    model.a.sum().backward()
    assert model.a.grad is not None, "no hook is left"


def test_a_gradient_in_other_steps_is_laid_out_as_its_leaf():
    leaf = torch.empty(2, 3)
    gradient = torch.arange(6.0).view(3, 2).T
    laid = gradients._laid_out_as(leaf, gradient)
    assert laid.stride() == leaf.stride() and torch.equal(laid, gradient)
    assert gradients._laid_out_as(leaf, laid) is laid
