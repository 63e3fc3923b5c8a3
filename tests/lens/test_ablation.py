"""A part alone, and all but a part, are what saves of such vectors would say."""

import numpy as np
import pytest
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


def test_scale_0_gives_zeros(tmp_path):
    table = lens.ablation(live_of(family(tmp_path), "float32"), PAIRS, 0.0)
    assert table.alone.eq(0).all() and table.lost.eq(0).all()
