"""Replies are the same however they are batched, ordered, interrupted and resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    BertForSequenceClassification,
    Blip2Config,
    Blip2ForConditionalGeneration,
    CpmAntConfig,
    IdeficsConfig,
    IdeficsForVisionText2Text,
    Llama4Config,
    Llama4ForConditionalGeneration,
    MambaConfig,
    MiniMaxConfig,
    MusicgenDecoderConfig,
    MusicgenForCausalLM,
    OpenAIGPTConfig,
    RecurrentGemmaConfig,
    ReformerConfig,
    RwkvConfig,
    T5Config,
    T5ForConditionalGeneration,
    XLMConfig,
    XLNetConfig,
)
from word_models import CONFIGS, SIZES, make_model, make_prompts, make_tokenizer

from chatvec_lab.evaluation.asking.generation import end_ids, respond
from chatvec_lab.evaluation.asking.responses import COLUMNS


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def llama():
    return make_model("llama")


def generated_one_by_one(model, tokenizer, texts, max_tokens, **options):
    """What transformers' own `generate` says, without batch, padding or our loop."""
    replies = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=sorted(end_ids(model, tokenizer)),
            pad_token_id=0,
            **options,
        )
        replies.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    return replies


def rendered(prompt, *, system=None):
    head = f"<|system|> {system} <|end|> " if system else ""
    return f"{head}<|user|> {prompt} <|end|> <|assistant|> "


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_replies_equal_transformers_generate(name, tokenizer):
    model = make_model(name)
    prompts = make_prompts(24)
    found = respond(model, tokenizer, prompts, max_tokens=12, batch_size=7, progress=False)
    texts = [rendered(turns[0]) for turns in prompts.turns]
    assert found.response.tolist() == generated_one_by_one(model, tokenizer, texts, 12)
    assert found.response.nunique() > 12
    assert set(found.finish_reason) <= {"stop", "length"}


ALONE = {
    "mamba": lambda: MambaConfig(vocab_size=203, hidden_size=16, num_hidden_layers=2, state_size=4),
    "bart": lambda: BartConfig(vocab_size=203, d_model=16, decoder_layers=2, decoder_attention_heads=2,
                               decoder_ffn_dim=24, max_position_embeddings=128, forced_eos_token_id=None),
    "rwkv": lambda: RwkvConfig(vocab_size=203, hidden_size=16, num_hidden_layers=2, intermediate_size=24),
    # given the whole text for each token
    "openai-gpt": lambda: OpenAIGPTConfig(vocab_size=203, n_positions=64, n_embd=16, n_layer=2, n_head=2),
    "xlnet": lambda: XLNetConfig(vocab_size=203, d_model=16, n_layer=2, n_head=2, d_inner=24),
    "xlm": lambda: XLMConfig(vocab_size=203, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=64,
                             mask_token_id=2, pad_index=0),
    "cpmant": lambda: CpmAntConfig(vocab_size=203, hidden_size=16, num_attention_heads=2, dim_head=8, dim_ff=24,
                                   num_hidden_layers=2, prompt_length=4),
    "reformer": lambda: ReformerConfig(vocab_size=203, hidden_size=16, is_decoder=True, axial_pos_embds=False,
                                       attn_layers=["local", "local"], num_attention_heads=2, attention_head_size=8,
                                       feed_forward_size=24, max_position_embeddings=64),
    "recurrent_gemma": lambda: RecurrentGemmaConfig(vocab_size=203, hidden_size=16, num_hidden_layers=3,
                                                    num_attention_heads=2, intermediate_size=24, lru_width=16),
    "minimax": lambda: MiniMaxConfig(vocab_size=203, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                     num_key_value_heads=1, head_dim=8, intermediate_size=24, num_local_experts=2,
                                     layer_types=["linear_attention", "full_attention"]),
}  # fmt: skip


_VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
           "image_size": 28}  # fmt: skip
IMAGE_CONFIGS = {
    Blip2ForConditionalGeneration: lambda: Blip2Config(
        vision_config=_VISION,
        qformer_config={k: v for k, v in _VISION.items() if k != "image_size"} | {"encoder_hidden_size": 16},
        text_config={"model_type": "opt", "vocab_size": 203, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24,
                     "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, "init_std": 0.3},
    ),
    Llama4ForConditionalGeneration: lambda: Llama4Config(
        vision_config=_VISION | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
        text_config=SIZES | {"head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2, "pad_token_id": 0},
        boi_token_index=3, eoi_token_index=4, image_token_index=5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_models_that_padding_would_change_reply_as_one_by_one(name, tokenizer):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(ALONE[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    prompts = make_prompts(8)
    found = respond(model, tokenizer, prompts, max_tokens=8, batch_size=5, progress=False)
    texts = [rendered(turns[0]) for turns in prompts.turns]
    # XLM's mask would be taken for text by a cache
    options = {"use_cache": False} if name == "xlm" else {}
    assert found.response.tolist() == generated_one_by_one(model, tokenizer, texts, 8, **options)
    assert found.response.nunique() > 1


def test_what_text_alone_cannot_ask_is_refused(tokenizer):
    config = T5Config(vocab_size=203, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="T5ForConditionalGeneration reads the prompt with an encoder"):
        respond(T5ForConditionalGeneration(config), tokenizer, make_prompts(2), max_tokens=4, progress=False)


def test_models_of_sound_and_of_movement_are_refused(tokenizer):
    sizes = {
        "vocab_size": 203,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 24,
    }
    sound = MusicgenForCausalLM(MusicgenDecoderConfig(**sizes, num_codebooks=2))
    movement = BertForSequenceClassification(
        BertConfig(**SIZES)
    )  # writes no tokens, and has no generation_config
    with pytest.raises(ValueError, match="MusicgenForCausalLM reads and writes several codebooks"):
        respond(sound, tokenizer, make_prompts(2), max_tokens=4, progress=False)
    with pytest.raises(ValueError, match="BertForSequenceClassification writes no text"):
        respond(movement, tokenizer, make_prompts(2), max_tokens=4, progress=False)


def test_a_model_that_asks_for_an_image_says_so(tokenizer):
    vision = {
        "embed_dim": 16,
        "image_size": 28,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 24,
    }
    sizes = {
        "vocab_size": 203,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    config = IdeficsConfig(**sizes, vision_config=vision, cross_layer_interval=1, additional_vocab_size=0)
    with pytest.raises(
        ValueError, match=r"IdeficsForVisionText2Text cannot continue a text alone: .* pixel_values"
    ):
        respond(IdeficsForVisionText2Text(config), tokenizer, make_prompts(2), max_tokens=4, progress=False)


@pytest.mark.parametrize("kind", [Blip2ForConditionalGeneration, Llama4ForConditionalGeneration])
def test_an_image_model_around_a_causal_lm_replies_as_that_one(kind, tokenizer):
    torch.manual_seed(3)
    model = kind(IMAGE_CONFIGS[kind]()).eval()
    prompts = make_prompts(8)
    found = respond(model, tokenizer, prompts, max_tokens=8, batch_size=5, progress=False)
    texts = [rendered(turns[0]) for turns in prompts.turns]
    assert found.response.tolist() == generated_one_by_one(model.language_model, tokenizer, texts, 8)
    assert found.response.nunique() > 1


def test_repetition_penalty_equals_transformers(llama, tokenizer):
    prompts = make_prompts(16)
    options = {"repetition_penalty": 1.15}
    found = respond(llama, tokenizer, prompts, max_tokens=12, progress=False, **options)
    texts = [rendered(turns[0]) for turns in prompts.turns]
    assert found.response.tolist() == generated_one_by_one(llama, tokenizer, texts, 12, **options)
    without = respond(llama, tokenizer, prompts, max_tokens=12, progress=False)
    assert (found.response != without.response).any()


def test_500_greedy_replies_do_not_depend_on_batches_or_order(llama, tokenizer):
    prompts = make_prompts(500)
    settings = {"max_tokens": 8, "progress": False}
    first = respond(llama, tokenizer, prompts, batch_size=64, **settings)
    assert list(first.columns) == COLUMNS
    assert first.prompt_id.tolist() == prompts.prompt_id.tolist()
    for batch_size in (1, 37, 500):
        other = respond(llama, tokenizer, prompts, batch_size=batch_size, **settings)
        pd.testing.assert_frame_equal(first, other)
    shuffled = respond(llama, tokenizer, prompts.sample(frac=1, random_state=1), **settings)
    pd.testing.assert_frame_equal(first, shuffled.set_index("prompt_id").loc[first.prompt_id].reset_index())


def test_sampled_replies_depend_on_seed_prompt_sample_and_turn_alone(llama, tokenizer):
    prompts = make_prompts(30, turns=2)
    settings = {"max_tokens": 6, "temperature": 1.0, "top_p": 0.9, "samples": 3, "progress": False}
    first = respond(llama, tokenizer, prompts, seed=1, **settings)
    assert len(first) == 3 * (15 + 30) and first.seed.eq(1).all()
    pd.testing.assert_frame_equal(first, respond(llama, tokenizer, prompts, seed=1, batch_size=5, **settings))
    few = respond(llama, tokenizer, prompts[10:14], seed=1, **settings)
    same = first[first.prompt_id.isin(prompts.prompt_id[10:14])].reset_index(drop=True)
    pd.testing.assert_frame_equal(few, same)
    assert (respond(llama, tokenizer, prompts, seed=2, **settings).response != first.response).mean() > 0.5
    assert first.groupby(["prompt_id", "turn"]).response.nunique().mean() > 2


def test_samples_follow_the_probabilities_of_the_model(llama, tokenizer):
    settings = {"max_tokens": 1, "samples": 4000, "batch_size": 500, "template": "plain", "progress": False}
    ids = tokenizer("w5 w9", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = llama(ids).logits[0, -1].double()
    words = [tokenizer.decode([i], skip_special_tokens=True) for i in range(len(logits))]
    for options in (
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.5},
    ):
        expected = torch.softmax(logits / options["temperature"], -1)
        order = expected.argsort(descending=True)
        if "top_k" in options:
            expected[order[5:]] = 0
        if "top_p" in options:
            before = expected[order].cumsum(-1) - expected[order]
            expected[order[before >= 0.5]] = 0
        expected /= expected.sum()
        found = respond(llama, tokenizer, ["w5 w9"], **options, **settings).response.value_counts(
            normalize=True
        )
        by_word = pd.Series(expected.numpy(), index=words).groupby(level=0).sum()
        assert set(found.index) <= set(by_word[by_word > 0].index)
        assert (by_word - found.reindex(by_word.index, fill_value=0)).abs().max() < 4 * (0.25 / 4000) ** 0.5


def test_later_turns_see_the_models_own_replies(llama, tokenizer):
    found = respond(
        llama, tokenizer, make_prompts(9, turns=3), max_tokens=5, system="w1 w2", progress=False, batch_size=4
    )
    for _, talk in found.groupby("prompt_id"):
        assert talk.turn.tolist() == list(range(1, len(talk) + 1))
        text = "<|system|> w1 w2 <|end|> "
        for row in talk.itertuples():
            text += f"<|user|> {row.prompt} <|end|> <|assistant|> "
            assert [row.response] == generated_one_by_one(llama, tokenizer, [text], 5)
            text += f"{row.response} <|end|> "


def test_plain_continues_the_bare_text(llama, tokenizer):
    found = respond(llama, tokenizer, ["w3 w4", "w9"], template="plain", max_tokens=6, progress=False)
    expected = generated_one_by_one(llama, tokenizer, ["w3 w4", "w9"], 6, bos_token_id=None)
    assert found.response.tolist() == expected
    assert found.prompt_id.tolist() == ["0", "1"] and found.language.isna().all()


def test_a_reply_ends_at_a_stop_string_which_is_cut_off(llama, tokenizer):
    prompts = make_prompts(20)
    free = respond(llama, tokenizer, prompts, max_tokens=8, progress=False)
    word = free[free.tokens == 8].response.iloc[0].split()[4]
    found = respond(llama, tokenizer, prompts, max_tokens=8, stop=[f" {word}"], progress=False)
    expected = [text.split(f" {word}")[0] for text in free.response]
    assert found.response.tolist() == expected
    cut = found.response != free.response
    assert cut.any() and (found.finish_reason[cut] == "stop").all()


def test_the_template_tells_what_ends_a_turn(llama, tokenizer):
    assert end_ids(llama, tokenizer) == {1, tokenizer.convert_tokens_to_ids("<|end|>")}
    assert end_ids(llama, tokenizer, "plain") == {1}


def test_the_context_bounds_a_reply_and_names_what_does_not_fit(llama, tokenizer):
    settings = {"max_tokens": 50, "progress": False}
    found = respond(llama, tokenizer, [{"prompt_id": "a", "turns": ["w1 w2", "w3"]}], context=16, **settings)
    assert found.tokens.tolist() == [16 - 5, 0]
    assert found.finish_reason.tolist() == ["length", "context"]
    assert found.response.tolist()[1] == ""
    with pytest.raises(ValueError, match=r"1 of 2 prompts fill the context \(64 tokens\): 'long \(73\)'"):
        long = {"prompt_id": "long", "prompt": "w1 " * 70}
        respond(llama, tokenizer, [{"prompt_id": "a", "prompt": "w1"}, long], **settings)


def test_parallel_prompts_share_their_id_across_languages(llama, tokenizer):
    prompts = [
        {"prompt_id": i, "language": k, "prompt": f"w{n}"}
        for n, (i, k) in enumerate([("a", "ko"), ("b", "ko"), ("a", "zh"), ("b", "zh")], start=1)
    ]
    found = respond(llama, tokenizer, prompts, max_tokens=4, progress=False)
    assert list(zip(found.prompt_id, found.language, found.prompt, strict=True)) == [
        (p["prompt_id"], p["language"], p["prompt"]) for p in prompts
    ]
    for prompt, response in zip(prompts, found.response, strict=True):
        alone = respond(llama, tokenizer, [prompt], max_tokens=4, progress=False)
        assert alone.response.tolist() == [response]


def test_every_wrong_prompt_is_named(llama, tokenizer):
    for prompts, message in (
        (
            [{"prompt_id": "a", "text": "w1"}],
            "need prompt_id and prompt or turns; found: prompt_id, text. Lacking: row 0",
        ),
        ([{"prompt_id": "a", "prompt": None}, {"prompt_id": "b", "turns": []}], "2 of 2 .* 'a', 'b'"),
        (
            [{"prompt_id": i, "prompt": "w1"} for i in (1, 2, 1)],
            "1 prompt_id occur more than once in a language: '1'",
        ),
        (["w1", "\ud800"], "half a character: '1'"),
    ):
        with pytest.raises(ValueError, match=message):
            respond(llama, tokenizer, prompts)
    with pytest.raises(ValueError, match="greedy does not vary"):
        respond(llama, tokenizer, ["w1"], samples=2)
    with pytest.raises(ValueError, match=r"top_p=0: .*; stop='w1'|top_p=0: .*"):
        respond(llama, tokenizer, ["w1"], top_p=0)
    with pytest.raises(ValueError, match="no tokens"):
        respond(llama, tokenizer, ["w1", " "], template="plain")
    assert len(respond(llama, tokenizer, [])) == 0


def test_a_tokenizer_without_template_says_what_to_do(llama, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match=r"no chat template.*template='plain'"):
        respond(llama, tokenizer, ["w1"])


def test_dropout_stays_off_and_training_mode_comes_back(llama, tokenizer):
    llama.train()
    try:
        respond(llama, tokenizer, ["w1"], max_tokens=2, progress=False)
        assert llama.training
    finally:
        llama.eval()


def test_a_run_resumes_from_its_finished_batches(llama, tokenizer, tmp_path):
    prompts = make_prompts(20, turns=2)
    settings = {"max_tokens": 5, "batch_size": 6, "progress": False}
    whole = respond(llama, tokenizer, prompts, out=tmp_path, **settings)
    parts = sorted(tmp_path.glob("*.parquet"))
    assert len(parts) == 4
    kept = parts[0].stat()
    parts[2].unlink()
    pd.testing.assert_frame_equal(whole, respond(llama, tokenizer, prompts, out=tmp_path, **settings))
    assert parts[2].exists() and parts[0].stat().st_mtime_ns == kept.st_mtime_ns
    pd.testing.assert_frame_equal(whole, respond(llama, tokenizer, prompts, **settings))


def test_the_tokens_of_each_reply_are_told_on_request(llama, tokenizer, tmp_path):
    """They decode to the response, stand in the order of the prompts, and survive being kept."""
    prompts = make_prompts(7)
    plain = respond(llama, tokenizer, prompts, max_tokens=9, batch_size=3)
    told = respond(llama, tokenizer, prompts, max_tokens=9, batch_size=3, token_ids=True, out=tmp_path)
    pd.testing.assert_frame_equal(told.drop(columns="token_ids"), plain)
    assert told.token_ids.map(len).tolist() == told.tokens.tolist() and told.tokens.max() > 1
    shown = [tokenizer.decode(ids, skip_special_tokens=True) for ids in told.token_ids]
    assert shown == told.response.tolist()
    again = respond(llama, tokenizer, prompts, max_tokens=9, batch_size=3, token_ids=True, out=tmp_path)
    assert again.token_ids.tolist() == told.token_ids.tolist()
    with pytest.raises(ValueError, match="token_ids"):
        respond(llama, tokenizer, prompts, max_tokens=9, batch_size=3, out=tmp_path)


def test_a_folder_of_another_run_is_refused(tokenizer, tmp_path):
    model = make_model("llama")
    settings = {"max_tokens": 3, "progress": False, "out": tmp_path}
    respond(model, tokenizer, ["w1"], **settings)
    with pytest.raises(ValueError, match=r"max_tokens: 3 there, 4 now"):
        respond(model, tokenizer, ["w1"], **{**settings, "max_tokens": 4})
    with pytest.raises(ValueError, match=r"prompts: '\w+' there"):
        respond(model, tokenizer, ["w2"], **settings)
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nextafter(model.model.norm.weight[3], torch.tensor(9.0))
    with pytest.raises(ValueError, match=r"another run.\n  weights: "):
        respond(model, tokenizer, ["w1"], **settings)


def test_a_damaged_part_is_named(llama, tokenizer, tmp_path):
    respond(llama, tokenizer, ["w1"], max_tokens=3, out=tmp_path)
    (tmp_path / "batch-00000.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match=r"batch-00000.parquet is damaged .* Delete it"):
        respond(llama, tokenizer, ["w1"], max_tokens=3, out=tmp_path)


KILLED = """
from chatvec_lab.evaluation.asking.generation import respond
from word_models import make_model, make_prompts, make_tokenizer
respond(make_model("llama"), make_tokenizer(), make_prompts(200), max_tokens=12, batch_size=4, out={out!r})
"""


def test_a_killed_run_loses_and_doubles_nothing(llama, tokenizer, tmp_path):
    out = tmp_path / "run"
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(out=str(out))],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 300
    while len(list(out.glob("*.parquet"))) < 5:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = len(list(out.glob("*.parquet")))
    assert 5 <= finished < 50
    settings = {"max_tokens": 12, "batch_size": 4, "progress": False}
    found = respond(llama, tokenizer, make_prompts(200), out=out, **settings)
    pd.testing.assert_frame_equal(found, respond(llama, tokenizer, make_prompts(200), **settings))
    assert json.loads((out / "run.json").read_text())["max_tokens"] == 12
