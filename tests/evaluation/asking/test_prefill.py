"""A batch is read as each of its prompts alone: in pieces, and what they begin with once."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPTNeoConfig, LlamaConfig, LlamaForCausalLM
from word_models import CONFIGS, make_model

from chatvec_lab.evaluation.asking import prefill
from chatvec_lab.evaluation.asking.decoding import decode
from chatvec_lab.evaluation.asking.responses import Decoding


@pytest.fixture(scope="module")
def llama():
    return make_model("llama")


def tokens(*lengths, vocabulary=200, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocabulary, (n,), generator=draw).tolist() for n in lengths]


def replies(model, prompts, limit=8):
    return [
        reply.ids
        for reply in decode(model, prompts, Decoding(), limits=[limit] * len(prompts), end_ids=frozenset())
    ]


def passes(model, prompts):
    """Replies to a batch, and the shape of the ids of each forward pass before the first token of a reply."""
    shapes = []

    def look(_, given, named):
        shapes.append(tuple(named["input_ids"].shape))
        assert all(
            value.is_contiguous() for value in named.values() if isinstance(value, torch.Tensor)
        )  # some are viewed

    hook = model.register_forward_pre_hook(look, with_kwargs=True)
    found = replies(model, prompts)
    hook.remove()
    return found, shapes[: shapes.index((len(prompts), 1))]


local = GPTNeoConfig(
    vocab_size=203, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_position_embeddings=64,
    attention_types=[[["global", "local"], 1]], window_size=6, initializer_range=0.3,
)  # fmt: skip


@pytest.mark.parametrize("kind", [*CONFIGS, "gpt_neo"])
def test_what_all_prompts_begin_with_is_read_once(kind, monkeypatch):
    """In the words of each model alone; a model with windows of its own in its cache reads all of each."""
    torch.manual_seed(7)
    model = make_model(kind) if kind in CONFIGS else AutoModelForCausalLM.from_config(local).eval()
    beginning, *own = tokens(20, 15, 9, 9, 3, 2, 1)
    prompts = [beginning + rest for rest in own]
    monkeypatch.setattr(prefill, "SPARED", 100)
    found, read = passes(model, prompts)
    assert found == [replies(model, [prompt])[0] for prompt in prompts]
    shared = [(1, 20), (6, 15)]
    assert read == ([(6, 35)] if kind in ("mistral", "mixtral") and model.config.sliding_window else shared)


@pytest.mark.parametrize("kind", ["roberta", "megatron-bert"])
def test_a_model_whose_tokens_see_later_ones_reads_each_prompt_whole(kind, monkeypatch):
    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model(
        kind, vocab_size=203, max_position_embeddings=64, initializer_range=0.3, **sizes
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    beginning, *own = tokens(20, 9, 9, 3, 1)
    prompts = [beginning + rest for rest in own]
    monkeypatch.setattr(prefill, "SPARED", 1)
    found, read = passes(model, prompts)
    assert read == [(4, 29)] and found == [replies(model, [prompt])[0] for prompt in prompts]


def test_a_beginning_is_read_before_pieces_and_only_where_it_spares_a_pass(llama, monkeypatch):
    beginning, *own = tokens(10, 30, 30, 28, 4, 3, 3, 2, 1)
    prompts = [beginning + rest for rest in own]
    alone = [replies(llama, [prompt])[0] for prompt in prompts]
    monkeypatch.setattr(prefill, "PIECE", 3)
    whole = [(3, 40), (3, 14), (2, 12)]
    for spared, expected in ((70, [(1, 10), (3, 30), (3, 4), (2, 2)]), (71, whole)):
        monkeypatch.setattr(prefill, "SPARED", spared)
        assert passes(llama, prompts) == (alone, expected)


def test_a_prompt_that_is_no_more_than_the_beginning_of_the_others_keeps_a_token(llama, monkeypatch):
    (longest,) = tokens(30)
    prompts = [longest, longest[:12], longest[:12], longest[:20]]
    monkeypatch.setattr(prefill, "SPARED", 1)
    found, read = passes(llama, prompts)
    assert read == [(1, 11), (4, 19)]
    assert found == [replies(llama, [prompt])[0] for prompt in prompts]


def test_a_repetition_penalty_counts_what_was_read_once(llama, monkeypatch):
    beginning, *own = tokens(40, 3, 2, 2, 1, vocabulary=40)
    prompts, decoding = [beginning + rest for rest in own], Decoding(repetition_penalty=1.7)
    settings = {"end_ids": frozenset()}
    monkeypatch.setattr(prefill, "SPARED", 1)
    together = decode(llama, prompts, decoding, limits=[8] * 4, **settings)
    assert together == [decode(llama, [prompt], decoding, limits=[8], **settings)[0] for prompt in prompts]


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
    of_rows = prefill.of_rows
    monkeypatch.setattr(
        prefill,
        "of_rows",
        lambda cache, rows, *given: (pieces.append(rows.start), of_rows(cache, rows, *given))[1],
    )
    for piece, expected in ((4, [0, 4, 8]), (100, [])):
        monkeypatch.setattr(prefill, "PIECE", piece)
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
        monkeypatch.setattr(prefill, "PIECE", piece)
        found.append(decode(model, prompts, Decoding(), limits=[12] * 6, end_ids=frozenset()))
    assert found[0] == found[1]


def test_a_model_that_takes_a_mask_for_that_of_an_image_is_asked_one_prompt_at_a_time():
    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    seen = sizes | {"image_size": 16, "patch_size": 8}
    config = AutoConfig.for_model(
        "git", vocab_size=203, max_position_embeddings=64, initializer_range=0.3, vision_config=seen, **sizes
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = tokens(9, 6, 2)
    assert replies(model, prompts) == [replies(model, [prompt])[0] for prompt in prompts]


def test_a_config_that_trains_its_router_is_asked_as_any_other(monkeypatch):
    """Its loss over the router's logits takes a mask as long as what is read, which a cache makes longer."""
    model = make_model("mixtral")
    beginning, *own = tokens(20, 9, 3, 1)
    prompts = [beginning + rest for rest in own]
    plain = replies(model, prompts)
    monkeypatch.setattr(model.config, "output_router_logits", True)
    for spared in (1, 1000):
        monkeypatch.setattr(prefill, "SPARED", spared)
        assert replies(model, prompts) == plain
