"""A real chat model through every path that a merged model goes: weights, template, replies, and all scores.

It is small (135 M parameters, 4 bits dequantised) and English; what is asked of it is what such a model can do.
"""

import time

import pandas as pd
import pytest
import torch

from chatvec_lab import Checkpoint, respond
from chatvec_lab.evaluation.asking.generation import end_ids
from chatvec_lab.evaluation.asking.thinking import with_answers
from chatvec_lab.evaluation.instructions import instruction_scores
from chatvec_lab.evaluation.language import language_scores
from chatvec_lab.evaluation.prompts import load_prompts
from chatvec_lab.evaluation.prompts.multiturn import multiturn_scores
from chatvec_lab.evaluation.scorers.toxicity import Toxicity
from chatvec_lab.evaluation.scorers.toxicity_scorers import EnglishProfanity
from chatvec_lab.evaluation.statistics import mean_interval
from chatvec_lab.weights.inspect import inspect
from chatvec_lab.weights.saving.provenance import weights_digest

pytestmark = pytest.mark.real

SETTINGS = {"max_tokens": 96, "batch_size": 8, "progress": False}


def asked(name: str, language: str, limit: int) -> pd.DataFrame:
    return load_prompts(name, language, limit=limit)


@pytest.fixture(scope="module")
def replies(live, figures) -> dict[str, pd.DataFrame]:
    """Greedy replies to our own sets, in English and Traditional Chinese."""
    started, cpu = time.perf_counter(), time.process_time()
    found = {
        "general": respond(live.model, live.tokenizer, asked("general", "en", 8), **SETTINGS),
        "zh": respond(live.model, live.tokenizer, asked("general", "zh-Hant", 4), **SETTINGS),
        "instructions": respond(live.model, live.tokenizer, asked("instructions", "en", 12), **SETTINGS),
        "dialogues": respond(live.model, live.tokenizer, asked("dialogues", "en", 4), **SETTINGS),
    }
    seconds = time.perf_counter() - started
    tokens = sum(int(table.tokens.sum()) for table in found.values())
    figures["replies"], figures["tokens"] = sum(map(len, found.values())), tokens
    figures["reply_seconds"], figures["reply_cpu_seconds"] = (
        round(seconds, 1),
        round(time.process_time() - cpu, 1),
    )
    return found


def share(scores: pd.Series) -> dict:
    found = mean_interval(scores, share=True)
    return {
        key: round(value, 3)
        for key, value in found._asdict().items()
        if key in ("estimate", "low", "high", "n")
    }


def test_our_own_checkpoint_reads_it(smollm2):
    assert sum(torch.tensor(smollm2.shape(n)).prod().item() for n in smollm2.names) == 134_515_008
    assert smollm2.is_tied and len(smollm2.vocabulary.tokens) == 49_152
    assert {part.module for part in smollm2.layout.parts.values()} == {
        "embedding",
        "attention",
        "mlp",
        "norm",
    }
    page = inspect(smollm2.source)
    assert "LlamaForCausalLM" in page and "30 layers" in page and "chat template: yes" in page


def test_the_gguf_file_is_read_as_transformers_reads_it(gguf_file, smollm2, figures):
    """Every tensor, bit for bit: names, row order of queries and keys, and the dequantised values."""
    started = time.perf_counter()
    own = Checkpoint(gguf_file)
    assert set(own.names) == set(smollm2.names) and "Q4_1" in own.label
    for name in own.names:
        assert torch.equal(own.read(name).float(), smollm2.read(name)), name
    assert own.vocabulary.tokens == smollm2.vocabulary.tokens
    assert own.chat_template == smollm2.chat_template
    figures["gguf_seconds"] = round(time.perf_counter() - started, 1)


def test_the_live_model_is_what_transformers_loads(smollm2, live):
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(smollm2.folder, dtype=torch.float32).state_dict()
    held = live.model.state_dict()
    assert set(other) == set(held) and all(torch.equal(held[n], tensor) for n, tensor in other.items())


def test_base_plus_vector_is_the_model_again(smollm2):
    """At a real size: the model plus a vector of zeros has the model's weights, bit for bit."""
    assert weights_digest(smollm2 + (smollm2 - smollm2)) == weights_digest(smollm2)


def test_the_chat_template_opens_the_reply(live):
    text = live.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_start|>assistant\n")
    assert live.tokenizer.convert_tokens_to_ids("<|im_end|>") in end_ids(live.model, live.tokenizer)


def test_replies_are_those_of_generate(live):
    """Greedy, in float32: our decoding and transformers' own give the same tokens."""
    ids = live.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )["input_ids"]
    with torch.no_grad():
        out = live.model.generate(ids, max_new_tokens=24, do_sample=False)
    expected = live.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    found = respond(
        live.model, live.tokenizer, ["What is the capital of France?"], max_tokens=24, progress=False
    )
    assert found.response[0] == expected and "Paris" in expected
    assert found.finish_reason[0] == "stop"


def test_the_second_turn_knows_the_first(live):
    talk = [{"prompt_id": "capitals", "turns": ["What is the capital of France?", "And of Japan?"]}]
    said = respond(live.model, live.tokenizer, talk, max_tokens=24, progress=False)
    assert list(said.turn) == [1, 2]
    assert "Paris" in said.response[0] and "Tokyo" in said.response[1]


def test_batches_do_not_change_replies(live):
    prompts = asked("general", "en", 4)
    together, alone = (
        respond(live.model, live.tokenizer, prompts, max_tokens=32, progress=False, batch_size=size)
        for size in (64, 1)
    )
    assert together.response.equals(alone.response)


def test_it_answers_in_english(replies, figures):
    english, chinese = (language_scores(replies[name]) for name in ("general", "zh"))
    figures["english_to_english"] = share(english.correct)
    figures["chinese_to_chinese"] = share(chinese.correct)
    assert english.correct.mean() >= 0.9 and set(english.detected) == {"en"}
    assert chinese.share.notna().all(), "whatever it writes, the share of Chinese is known"


def test_it_follows_some_instructions(replies, figures):
    scores = instruction_scores(replies["instructions"], asked("instructions", "en", 12))
    assert scores.strict.notna().all() and scores.prompt_id.nunique() == 12
    figures["instructions_strict"] = share(scores.groupby("prompt_id").strict.min())
    assert 0 < scores.strict.mean() < 1, "a model of this size follows some, not all"
    assert (scores.loose >= scores.strict).all()


def test_its_replies_are_polite(replies, figures):
    scorer = Toxicity(EnglishProfanity())
    scores = scorer.score(pd.DataFrame(), with_answers(replies["general"]))
    figures["profanity_mean"] = round(float(scores.profanity.mean()), 3)
    assert scores.toxic.eq(0).all()
    foreign = scorer.score(pd.DataFrame(), with_answers(replies["zh"].assign(response="你好,世界。")))
    assert foreign.toxic.isna().all(), "the English scorer does not pretend to know Chinese"


def test_dialogues_are_scored(replies, figures):
    scores = multiturn_scores(replies["dialogues"], asked("dialogues", "en", 4))
    assert set(scores.measure) >= {"repeats", "carried_over"} and scores.score.notna().all()
    figures["dialogue_scores"] = scores.groupby("measure").score.mean().round(3).to_dict()
    assert (replies["dialogues"].groupby("prompt_id").turn.max() == 2).all()
