"""A part alone, and all but a part, are what saves of such vectors would say."""

import numpy as np
import pytest
import torch
from looked_at import PAIRS, family, live_of, opened
from test_attribution import f

from chatvec_lab import lens
from chatvec_lab.live import load


@pytest.mark.parametrize("scale", [0.7, -0.4])
def test_alone_and_lost_are_those_of_selected_vectors(scale, tmp_path):
    folders = family(tmp_path, "qwen2", tied=True)
    cp, tau = opened(folders)
    live = live_of(folders, "float32")
    live.scale = 0.2
    table = lens.ablation(live, PAIRS, scale, by="module").groupby("module")[["alone", "lost"]].mean()
    assert live.scale == 0.2 and set(table.index) == {"embedding", "attention", "mlp", "norm"}
    start, end = f(load(cp)), f(load(cp + scale * tau, dtype="float32"))
    for module in table.index:
        others = "|".join(m for m in table.index if m != module)
        alone = f(load(cp + scale * tau.select(modules=module), dtype="float32"))
        without = f(load(cp + scale * tau.select(modules=others), dtype="float32"))
        np.testing.assert_allclose(table.alone[module], alone - start, atol=1e-6)
        np.testing.assert_allclose(table.lost[module], end - without, atol=1e-6)


def test_a_layer_alone_is_that_layer_selected(tmp_path):
    folders = family(tmp_path, "llama")
    cp, tau = opened(folders)
    table = (
        lens.ablation(live_of(folders, "float32"), PAIRS, 1.0, by="layer")
        .groupby("layer", dropna=False)
        .alone.mean()
    )
    assert len(table) == 3, "two layers, and what lies outside"
    for layer in (0, 1):
        alone = f(load(cp + tau.select(layers=layer), dtype="float32")) - f(load(cp))
        np.testing.assert_allclose(table[layer], alone, atol=1e-6)


def test_of_16_bits_the_sums_are_those_of_float32(tmp_path):
    """The weights are the stored ones; the log probabilities that are told apart are not rounded to 16 bits."""
    folders = family(tmp_path, "llama")
    cp, tau = opened(folders)
    live = live_of(folders)
    assert live.model.dtype == torch.bfloat16
    table = lens.ablation(live, PAIRS, 0.7, by="module").groupby("module")[["alone", "lost"]].mean()
    start, end = (f(load(model).float()) for model in (cp, cp + 0.7 * tau))
    for module in table.index:
        others = "|".join(m for m in table.index if m != module)
        alone, without = (f(load(cp + 0.7 * tau.select(modules=m)).float()) for m in (module, others))
        np.testing.assert_allclose(table.alone[module], alone - start, atol=1e-6)
        np.testing.assert_allclose(table.lost[module], end - without, atol=1e-6)
    told = lens.effects(live, PAIRS, [0.0, 0.7]).groupby("scale").value.mean()
    np.testing.assert_allclose(told[0.7] - told[0.0], end - start, atol=1e-6)


def test_scale_0_gives_zeros(tmp_path):
    table = lens.ablation(live_of(family(tmp_path), "float32"), PAIRS, 0.0)
    assert table.alone.eq(0).all() and table.lost.eq(0).all()
