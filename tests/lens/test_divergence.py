"""The divergence at each token is that of the two saved models, read by a plain forward pass."""

import sys

import numpy as np
import pytest
import torch
from looked_at import PAIRS, family, live_of, logits_of, saved
from pico import CP_TOKENS
from transformers import AutoModelForCausalLM

from chatvec_lab import lens
from chatvec_lab.lens import distributions


def by_hand(cp, model, pair):
    """KL, entropies, ranks and probabilities of one pair, in numpy."""
    p, q = (np.exp(x - x.max(-1, keepdims=True)) for x in (logits_of(m, pair).numpy() for m in (cp, model)))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    at = np.arange(len(pair.said)), list(pair.said)
    return {
        "divergence": (p * np.log(p / q)).sum(-1),
        "entropy": -(q * np.log(q)).sum(-1),
        "cp_entropy": -(p * np.log(p)).sum(-1),
        "probability": q[at],
        "cp_probability": p[at],
        "rank": 1 + (q > q[at][:, None]).sum(-1),
        "cp_rank": 1 + (p > p[at][:, None]).sum(-1),
    }, (p, q)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"dtype": torch.float32}),
        ("llama", {}),
        ("gemma", {"tied": True, "dtype": torch.float32}),
        ("gpt_neox", {"dtype": torch.float16}),
        ("mixtral", {}),
        ("qwen2", {"tied": True, "cp_tokens": CP_TOKENS}),
    ],
    ids=["float32", "bfloat16", "tied", "float16", "experts", "other tokens"],
)
def test_it_is_that_of_the_saved_models(kind, options, tmp_path):
    folders = family(tmp_path, kind, **options)
    live = live_of(folders)
    live.scale = 0.3
    found = lens.divergence(live, PAIRS, [0.0, 0.7, -0.5], top=3)
    assert live.scale == 0.3
    cp = AutoModelForCausalLM.from_pretrained(folders[2], dtype=torch.float32).eval()
    for scale in (0.0, 0.7, -0.5):
        model = saved(folders, scale, tmp_path / f"{scale}")
        for pair in PAIRS:
            told = found.tokens.query("scale == @scale and pair == @pair.name")
            wanted, (p, q) = by_hand(cp, model, pair)
            assert told.token_id.tolist() == list(pair.said) and told.position.tolist() == [
                *range(len(pair.said))
            ]
            for column, values in wanted.items():
                np.testing.assert_allclose(told[column], values, atol=1e-5, err_msg=column)
            changes = found.changes.query("scale == @scale and pair == @pair.name and position == 1")
            moved = np.sort(np.abs(q[1] - p[1]))[::-1][:3]
            np.testing.assert_allclose((changes.probability - changes.cp_probability).abs(), moved, atol=1e-5)
            np.testing.assert_allclose(changes.probability, q[1][changes.token_id], atol=1e-5)
    zero = found.tokens[found.tokens.scale == 0]
    assert zero.divergence.eq(0).all() and zero.probability.eq(zero.cp_probability).all()
    assert found.tokens[found.tokens.scale == 0.7].divergence.gt(1e-3).any(), "the vector does something here"


def test_groups_of_pairs_change_nothing(tmp_path, monkeypatch):
    live = live_of(family(tmp_path))
    whole = lens.divergence(live, PAIRS, [0.5, 1.0])
    monkeypatch.setattr(sys.modules["chatvec_lab.lens.divergence"], "_HELD", 1)
    single = lens.divergence(live, PAIRS, [0.5, 1.0])
    assert whole.tokens.equals(single.tokens) and whole.changes.equals(single.changes)


def test_what_a_model_rules_out_adds_nothing():
    one = torch.tensor([[0.0, -np.inf], [np.log(0.5), np.log(0.5)]], dtype=torch.float64)
    other = torch.tensor([[np.log(0.25), np.log(0.75)]] * 2, dtype=torch.float64)
    np.testing.assert_allclose(
        distributions.kl(one, other), [np.log(4), 0.5 * np.log(2) + 0.5 * np.log(2 / 3)]
    )
    np.testing.assert_allclose(distributions.entropy(one), [0, np.log(2)])
    assert distributions.kl(one, one).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("pairs", "scales", "error", "told"),
    [
        ([("a", "b")], [1.0], TypeError, "expected a lens.Pair of token ids, got tuple"),
        ([], [1.0], ValueError, "no pairs"),
        ([lens.Pair([], [1])], [1.0], ValueError, "pair '0' has no token in `asked`"),
        ([lens.Pair([1], [], "x")], [1.0], ValueError, "pair 'x' has no token in `said`"),
        ([lens.Pair([1], [99])], [1.0], ValueError, "the token 99; the model has rows for 0 to 62"),
        ([lens.Pair([1], [2], "x")] * 2, [1.0], ValueError, "two pairs are called 'x'"),
        (
            [lens.Pair([1] * 63, [2, 3], "x")],
            [1.0],
            ValueError,
            "'x' has 65 tokens, more than .* context of 64",
        ),
        (PAIRS, [], ValueError, "give one at least"),
        (PAIRS, [1, 1.0], ValueError, "each once"),
        (PAIRS, [float("nan")], ValueError, "finite"),
        (PAIRS, ["a"], TypeError, "expected numbers, got 'a'"),
        (PAIRS, [True], TypeError, "expected numbers"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path_factory, pairs, scales, error, told, one_live):
    with pytest.raises(error, match=told):
        lens.divergence(one_live, pairs, scales)
    with pytest.raises(error, match=told):
        lens.readings(one_live, pairs, scales)


def test_top_is_a_count(one_live):
    with pytest.raises(ValueError, match="top=0"):
        lens.divergence(one_live, PAIRS, [1.0], top=0)


@pytest.fixture(scope="module")
def one_live(tmp_path_factory):
    return live_of(family(tmp_path_factory.mktemp("one")))
