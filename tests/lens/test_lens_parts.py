"""Parts of a vector on a live model, and how fast each weight moves."""

import torch
from looked_at import family, live_of, opened

from chatvec_lab.lens import parts


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
            some = torch.cat([values for _, _, values in directions.blocks(slot, 7, 240)])
            assert torch.equal(some, whole[7:240]), "any span of it"
        assert bool(directions._kept) == bool(kept)
