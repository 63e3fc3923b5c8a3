"""What is measured of thoughts: by hand on made replies, and on the shipped member that thinks."""

import re

import pandas as pd
import pytest
import torch

from chatvec_lab import load_family
from chatvec_lab.experiment import Exam, limits, reasoning
from chatvec_lab.nano.documents import WORKED

NAN = float("nan")


@pytest.fixture(scope="module")
def nano():
    return load_family("nano")


@pytest.fixture(scope="module")
def exam(nano):
    return reasoning.exam(nano, "zh")


def made() -> pd.DataFrame:
    """Two scales, two prompts, two samples; a third prompt that the scorer does not cover."""
    rows = [
        # scale, prompt, thinks, tokens, in language, correct
        (0.0, "a", 0.0, 0.0, NAN, 0.0), (0.0, "a", 0.0, 0.0, NAN, 0.0), (0.0, "b", 0.0, 0.0, NAN, 1.0),
        (0.0, "b", 0.0, 0.0, NAN, 0.0),
        (1.0, "a", 1.0, 6.0, 1.0, 1.0), (1.0, "a", 1.0, 8.0, 0.0, 0.0), (1.0, "b", 1.0, 4.0, 1.0, 1.0),
        (1.0, "b", 1.0, 2.0, 1.0, NAN), (1.0, "c", 0.0, 0.0, NAN, NAN), (1.0, "c", 1.0, 2.0, NAN, NAN),
    ]  # fmt: skip
    columns = ["scale", "prompt_id", "thinks", "thinking_tokens", "thought_in_language", "correct"]
    answered = ["so"] * 7 + [None, "so", None]
    return pd.DataFrame(rows, columns=columns).assign(answer=answered)


def test_the_measures_are_those_by_hand(exam):
    table = reasoning.measured(exam, made())
    found = table.set_index(["scale", "metric"]).estimate
    assert found[1.0, "thinks"] == pytest.approx((1 + 1 + 0.5) / 3) and found[0.0, "thinks"] == 0
    assert found[1.0, "thinking_tokens"] == pytest.approx((7 + 3 + 2) / 3), "a prompt's mean first"
    assert (0.0, "thinking_tokens") not in found.index and (0.0, "thought_in_language") not in found.index
    assert found[1.0, "tokens_spent"] == pytest.approx((7 + 3 + 1) / 3) and found[0.0, "tokens_spent"] == 0
    assert found[1.0, "thought_in_language"] == 0.75
    assert found[0.0, "mean@k"] == 0.25 and found[0.0, "pass@k"] == 0.5
    assert found[1.0, "mean@k"] == 0.5, "no answer is not right, and what no scorer covers is missing"
    assert found[1.0, "pass@k"] == 1.0
    known = table.dropna()
    assert len(known) > 6 and known.low.le(known.estimate).all() and known.estimate.le(known.high).all()
    shares = known[known.unit == "share"]
    assert shares.low.min() >= 0 and shares.high.max() <= 1
    assert set(reasoning.shares(table).metric) == {*reasoning.NAMES.values()}


def test_the_jump_is_the_largest_step_and_the_front_has_no_one_better():
    thinks = pd.DataFrame(
        {"scale": [1.0, 0.0, 0.4, 0.6], "estimate": [1.0, 0.0, 0.05, 0.9], "metric": "thinks"}
    )
    assert reasoning.jump(thinks) == (0.4, 0.6, 0.05, 0.9)
    rows = [(s, m, e) for s, t, r in ((0.0, 0, 0.2), (0.5, 5, 0.8), (1.0, 9, 0.7))
            for m, e in (("tokens_spent", t), ("mean@k", r))]  # fmt: skip
    table = pd.DataFrame(rows, columns=["scale", "metric", "estimate"]).assign(low=0.0, high=9.0)
    assert reasoning.front(table).is_on_front.tolist() == [True, True, False]


def test_the_path_begins_at_the_chat_vector_and_ends_at_the_reasoning_vector(nano):
    path = reasoning.between(nano, "zh", [0.0, 0.25, 1.0])
    name = "model.layers.2.mlp.down_proj.weight"
    cp, tau, think = nano.cp["zh"], nano.chat - nano.base, reasoning.vector(nano)
    for step, expected in ((0.0, cp + tau), (1.0, cp + think), (0.25, cp + (0.75 * tau + 0.25 * think))):
        assert torch.equal(path[step].checkpoint.read(name), expected.read(name)), step


def test_a_family_without_a_member_that_thinks_says_what_is_missing(nano):
    bare = type(nano)("bare", nano.base, nano.chat, nano.cp)
    with pytest.raises(ValueError, match=r"family 'bare' has no member chat_think.*grow it"):
        reasoning.exam(bare, "zh")


def test_the_shipped_member_thinks_in_the_cps_language_and_tau_does_not(exam, nano):
    asked = reasoning.ask(exam, reasoning.between(nano, "zh", [0.0, 1.0]), 26, samples=2, temperature=0.7)
    assert set(asked["sample"]) == {0, 1} and set(asked.kind) <= {*WORKED}
    found = reasoning.measured(exam, asked).set_index(["scale", "metric"]).estimate
    assert found[0.0, "thinks"] == 0 and found[1.0, "thinks"] > 0.5
    assert found[1.0, "thought_in_language"] > 0.5


def test_noise_of_its_size_does_not_make_the_cp_think(exam, nano):
    (label, noisy), *rest = reasoning.controls(nano, "zh", 1.0).items()
    assert label == "CP + random vector" and not rest
    name = "model.layers.2.mlp.down_proj.weight"
    noise = (noisy.read(name) - nano.cp["zh"].read(name)).double()
    tau = reasoning.vector(nano).read(name).double()
    assert noise.norm().item() == pytest.approx(tau.norm().item(), rel=1e-2)
    assert abs((noise * tau).sum() / noise.norm() / tau.norm()) < 0.1, "and another direction"
    asked = reasoning.ask(exam, {label: noisy}, 39, samples=1, temperature=0.7)
    assert asked.thinks.eq(0).all() and len(asked) >= 6


def test_the_answer_is_in_sentences(exam):
    table = reasoning.measured(exam, made())
    others = table[table.scale == 0].assign(scale=reasoning.RANDOM)
    compared = reasoning.beside(table, others, 1.0)
    assert set(compared.model) == {"CP + τ_think", "CP + random vector"}
    found = reasoning.answer(exam, table, table, reasoning.front(table), compared, at=1.0, samples=2, seed=0)
    assert found["answer"].startswith("CP + 1 · τ_think: 83.3% [")
    assert "mean@2 50.0% [" in found["answer"] and "pass@2 100.0% [" in found["answer"]
    assert re.search(
        r"thinking sets in between 0 and 1 \(from 0\.0% \[[^]]+\] to 83\.3% \[[^]]+\] of", found["answer"]
    )
    assert "arXiv 2510.10977" in found["answer"]
    claims = {c["claim"]: c["estimate"] for c in found["claims"]}
    assert "without τ_think, at that scale: CP + random vector 0.0% [" in found["answer"]
    assert claims["thinks, CP + random vector"] == 0
    assert claims["thinks at scale 1"] == pytest.approx(2.5 / 3) and claims["thinks at λ = 0"] == 0


def test_every_exam_takes_thoughts_apart_and_chats_marks_for_none(nano):
    plain = Exam(nano, "zh").ask({m: nano[m] for m in ("chat_think", "chat")}, ["one_turn"], 13)
    thoughts = plain.set_index("model").thinking
    assert thoughts["chat_think"].notna().any() and thoughts["chat"].isna().all()
    assert plain.response.str.startswith("=").sum() >= 13
    assert "τ of think" not in limits.vectors(nano)
