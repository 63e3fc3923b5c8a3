"""A cache with room holds what transformers' own holds, whatever rows leave it and whichever pieces it is put together from."""

import pytest
import torch
from transformers import DynamicCache, Gemma3TextConfig
from word_models import make_model

from chatvec_lab.evaluation.asking.roomy import ROOM, has_room, of_one, of_rows, with_room


@pytest.fixture(scope="module")
def llama():
    return make_model("llama")


def caches(model):
    return DynamicCache(config=model.config), with_room(DynamicCache(config=model.config))


def test_keys_are_those_of_a_copied_cache_beyond_its_room_and_after_rows_have_left(llama):
    theirs, ours = caches(llama)
    draw = torch.Generator().manual_seed(0)
    rows = 6
    for step in range(2 * ROOM + 5):
        keys, values = torch.randn(2, rows, 2, 5 if step == 0 else 1, 8, generator=draw)
        for layer in range(len(ours.layers)):
            expected, found = theirs.update(keys, values, layer), ours.update(keys, values, layer)
            assert all(map(torch.equal, found, expected))
        if leave := {3: [0, 5, 2, 3], 7: [0, 3, 2], 9: [2, 0, 1], ROOM + 2: [1]}.get(
            step
        ):  # gaps filled, shuffled
            for cache in (theirs, ours):
                cache.batch_select_indices(torch.tensor(leave))
            rows = len(leave)
    assert ours.get_seq_length() == theirs.get_seq_length()


def test_rows_read_in_pieces_stand_below_each_other_padded_on_the_left(llama):
    whole, draw, read = caches(llama)[1], torch.Generator().manual_seed(0), []
    for rows, tokens in ((slice(0, 2), 5), (slice(2, 5), 2)):
        part = of_rows(whole, rows, (5, 5))
        for layer in range(len(part.layers)):
            given = torch.randn(2, rows.stop - rows.start, 2, tokens, 8, generator=draw)
            assert part.get_seq_length(layer) == 0
            assert all(map(torch.equal, part.update(*given, layer), given))
            read.append(given)
    first, second = read[0], read[len(whole.layers)]
    assert torch.equal(whole.layers[0].keys[:2], first[0]) and torch.equal(
        whole.layers[0].values[:2], first[1]
    )
    assert torch.equal(whole.layers[0].keys[2:, :, 3:], second[0])
    assert not whole.layers[0].keys[2:, :, :3].any() and not whole.layers[0].values[2:, :, :3].any()
    keys = torch.ones(5, 2, 1, 8)
    assert whole.update(keys, keys, 0)[0].shape == (5, 2, 6, 8), "and it goes on from there"


def test_what_rows_begin_with_stands_before_their_own_tokens(llama):
    """Rows of three, three and one tokens of their own after two that all begin with, in a whole of six."""
    whole, draw = caches(llama)[1], torch.Generator().manual_seed(0)
    beginning = of_one(whole)
    first = torch.randn(2, 1, 2, 2, 8, generator=draw)
    own = torch.randn(2, 3, 2, 3, 8, generator=draw)
    for layer in range(len(whole.layers)):
        assert all(map(torch.equal, beginning.update(*first, layer), first))
    part = of_rows(whole, slice(0, 3), (3, 6), beginning, [3, 3, 1])
    for layer in range(len(whole.layers)):
        assert part.get_seq_length(layer) == 2
        seen = part.update(*own, layer)
        for found, head, tail in zip(seen, first, own, strict=True):
            assert found.shape == (3, 2, 5, 8)
            for row, count in enumerate((3, 3, 1)):
                wanted = torch.cat([head[0], tail[row, :, -count:]], dim=1)
                assert torch.equal(found[row, :, -count - 2 :], wanted)
    keys = whole.layers[0].keys
    assert keys.shape == (3, 2, 6, 8) and torch.equal(keys[:, :, 1:], part.layers[0].keys)
    assert not keys[:, :, 0].any() and keys.isfinite().all()


def test_layers_of_another_kind_stay_as_they_are():
    config = Gemma3TextConfig(num_hidden_layers=6, sliding_window=4)
    cache = with_room(DynamicCache(config=config))
    assert not has_room(cache) and not has_room(None)
    assert {type(layer).__name__ for layer in cache.layers} == {"_RoomyLayer", "DynamicSlidingWindowLayer"}
