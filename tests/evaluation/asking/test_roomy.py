"""A cache with room holds what transformers' own holds, whatever rows leave it and whichever pieces it is put together from."""

import pytest
import torch
from transformers import DynamicCache, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM
from word_models import make_model

from chatvec_lab.evaluation.asking import decoding
from chatvec_lab.evaluation.asking.decoding import decode
from chatvec_lab.evaluation.asking.responses import Decoding
from chatvec_lab.evaluation.asking.roomy import ROOM, has_room, of_rows, with_room


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
        part = caches(llama)[1]
        part.layers = of_rows(whole, rows, (5, 5))
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


def test_layers_of_another_kind_stay_as_they_are():
    config = Gemma3TextConfig(num_hidden_layers=6, sliding_window=4)
    cache = with_room(DynamicCache(config=config))
    assert not has_room(cache) and not has_room(None)
    assert {type(layer).__name__ for layer in cache.layers} == {"_RoomyLayer", "DynamicSlidingWindowLayer"}


def test_a_batch_of_unlike_lengths_says_what_each_says_alone(llama, monkeypatch):
    """Read in pieces and in one, with replies that end at different steps."""
    draw = torch.Generator().manual_seed(0)
    lengths = [40, 37, 30, 9, 5, 5, 4, 3, 2, 1, 1]
    vocabulary = llama.config.vocab_size
    prompts = [torch.randint(3, vocabulary, (n,), generator=draw).tolist() for n in lengths]
    limits = [3 + (5 * i) % 11 for i in range(len(prompts))]
    settings = {"end_ids": frozenset({7, 11})}
    alone = [
        decode(llama, [prompt], Decoding(), limits=[limit], **settings)[0]
        for prompt, limit in zip(prompts, limits, strict=True)
    ]
    pieces = []
    monkeypatch.setattr(
        decoding, "of_rows", lambda cache, rows, of: (pieces.append(rows.start), of_rows(cache, rows, of))[1]
    )
    for piece, expected in ((4, [0, 4, 8]), (100, [])):
        monkeypatch.setattr(decoding, "PIECE", piece)
        assert decode(llama, prompts, Decoding(), limits=limits, **settings) == alone
        assert pieces == expected
        pieces.clear()


def test_a_model_whose_angles_the_longest_text_decides_reads_a_batch_in_one(monkeypatch):
    """Else a short prompt's keys are turned by other angles than its reply's."""
    angles = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "original_max_position_embeddings": 8,
        "factor": 4.0,
    }
    angles |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rope_parameters=angles,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data.normal_(0, 0.35)
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 97, (n,), generator=draw).tolist() for n in (20, 18, 7, 6, 5, 4)]
    found = []
    for piece in (2, 100):
        monkeypatch.setattr(decoding, "PIECE", piece)
        found.append(decode(model, prompts, Decoding(), limits=[12] * 6, end_ids=frozenset()))
    assert found[0] == found[1]
