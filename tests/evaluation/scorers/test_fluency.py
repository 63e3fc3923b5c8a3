"""Perplexity against its definition, and lm-eval on a model in memory."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from word_models import CONFIGS, make_model, make_prompts, make_tokenizer

from chatvec_lab.evaluation.scorers.fluency import fluency, lm_eval_tasks, perplexity


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def make_texts(n):
    return [
        {"text": " ".join(turns), "language": "en" if i % 2 else "zh"}
        for i, turns in enumerate(make_prompts(n, turns=3, seed="texts").turns)
    ]


def cost_by_definition(model, tokenizer, text, context, stride):
    """Each token alone, from the same window of earlier tokens, in float64."""
    ids = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    total, scored = 0.0, 0
    while scored < len(ids) - 1:
        end = min(len(ids) - 1, scored + stride if scored else context)
        for target in range(scored + 1, end + 1):
            window = torch.tensor([ids[max(0, end - context) : target]])
            logits = model(window).logits[0, -1].double()
            total -= torch.log_softmax(logits, -1)[ids[target]].item()
        scored = end
    return total


@pytest.mark.parametrize("name", CONFIGS)
def test_nats_are_the_sum_over_tokens(name, tokenizer):
    model, texts = make_model(name), make_texts(4)
    found = perplexity(model, tokenizer, texts, context=8, stride=3, progress=False)
    with torch.no_grad():
        expected = [cost_by_definition(model, tokenizer, row["text"], 8, 3) for row in texts]
    np.testing.assert_allclose(found.nats, expected, rtol=2e-6)
    assert found.tokens.max() > 8 + 2 * 3  # three windows at least


def test_nats_do_not_depend_on_batches(tokenizer):
    model, texts = make_model("llama"), make_texts(40)
    first = perplexity(model, tokenizer, texts, progress=False)
    for batch_tokens in (1, 100, 100_000):
        other = perplexity(model, tokenizer, texts, batch_tokens=batch_tokens, progress=False)
        pd.testing.assert_frame_equal(first, other, rtol=1e-6)


def test_lengths_count_tokens_characters_and_bytes(tokenizer):
    texts = pd.DataFrame({"text_id": ["a", "b"], "text": ["w1 字", "w1"], "language": ["zh", None]})
    found = perplexity(make_model("llama"), tokenizer, texts, progress=False)
    assert found[["text_id", "tokens", "characters", "bytes"]].values.tolist() == [
        ["a", 2, 4, 6],
        ["b", 1, 2, 2],
    ]
    assert found.language.isna().tolist() == [False, True]


def test_fluency_is_sums_over_sums_with_an_interval_over_texts():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 50, 60)
    costs = pd.DataFrame(
        {
            "language": ["en"] * 60,
            "tokens": tokens,
            "characters": tokens * 4,
            "bytes": tokens * 8,
            "nats": tokens * rng.normal(2, 0.3, 60),
        }
    )
    found = fluency(costs).set_index("measure")
    mean = costs.nats.sum() / tokens.sum()
    assert found.estimate["perplexity"] == pytest.approx(np.exp(mean))
    assert found.estimate["bits_per_character"] == pytest.approx(mean / 4 / np.log(2))
    assert found.estimate["bits_per_byte"] == pytest.approx(mean / 8 / np.log(2))
    assert (
        (found.low < found.estimate).all() and (found.estimate < found.high).all() and (found.n == 60).all()
    )
    # the standard error of the ratio, by the delta method
    residuals = costs.nats - mean * tokens
    half = 1.96 * residuals.std() / tokens.mean() / 60**0.5 * found.estimate["perplexity"]
    assert found.high["perplexity"] - found.low["perplexity"] == pytest.approx(2 * half, rel=0.15)


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity(tokenizer):
    model = make_model("llama")
    with torch.no_grad():
        model.model.norm.weight.zero_()
    found = fluency(perplexity(model, tokenizer, make_texts(8), progress=False))
    perplexities = found[found.measure == "perplexity"]
    assert perplexities.language.tolist() == ["zh", "en"]
    np.testing.assert_allclose(perplexities.estimate, 203, rtol=1e-6)


def test_wrong_texts_are_named(tokenizer):
    model = make_model("llama")
    with pytest.raises(
        ValueError, match="3 of 4 texts are missing, empty or no valid Unicode: '1', '2', '3'"
    ):
        perplexity(model, tokenizer, ["w1", "", {"text": None}, "\ud800"])
    with pytest.raises(ValueError, match="1 text_id occur more than once: 'a'"):
        perplexity(model, tokenizer, [{"text_id": "a", "text": "w1"}] * 2)
    with pytest.raises(ValueError, match=r"stride=9: .* context of 8"):
        perplexity(model, tokenizer, ["w1"], context=8, stride=9)
    assert perplexity(model, tokenizer, []).empty


def test_lm_eval_is_asked_for_by_its_extra(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'chatvec_lab\[lmeval\]'"):
        lm_eval_tasks(make_model("llama"), tokenizer, ["kobest"])


def test_lm_eval_scores_a_task_on_the_model_in_memory(tokenizer, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra lmeval is not installed")
    model = make_model("llama")
    questions = [{"question": f"w{i} w{i + 1}", "choices": ["w7", "w8"], "answer": i % 2} for i in range(8)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "words.yaml").write_text(
        "task: words\ndataset_path: json\noutput_type: multiple_choice\ntest_split: train\n"
        f"dataset_kwargs:\n  data_files: {tmp_path}/questions.jsonl\n"
        "doc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\ndoc_to_choice: '{{choices}}'\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    found = lm_eval_tasks(model, tokenizer, ["words"], include_path=tmp_path, limit=6)
    assert found.task.tolist() == ["words"] and found.metric.tolist() == ["acc"] and found.n.tolist() == [6]
    expected = []
    for row in questions[:6]:
        with torch.no_grad():
            logits = model(tokenizer(row["question"], return_tensors="pt")["input_ids"]).logits[0, -1]
        chosen = int(
            logits[tokenizer.convert_tokens_to_ids("w8")] > logits[tokenizer.convert_tokens_to_ids("w7")]
        )
        expected.append(chosen == row["answer"])
    assert found.estimate[0] == pytest.approx(np.mean(expected))
    assert found.low[0] < found.estimate[0] < found.high[0]
