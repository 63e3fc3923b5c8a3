"""The parts of a vector add up, what a family lacks is left out, and costs are ratios by hand."""

import numpy as np
import pandas as pd
import pytest

from chatvec_lab import experiment, load_family
from chatvec_lab.experiment import limits


@pytest.fixture(scope="module")
def nano():
    return load_family("nano")


def test_parts_add_up_to_the_vector(nano):
    parts = limits.parts(nano)
    kinds = [parts[f"{label} only"] for label in ("attention", "MLP", "norms", "embeddings")]
    halves = [vector for label, vector in parts.items() if label.startswith("layers")]
    for name in nano.base.names:
        whole = parts[limits.ALL].read(name).double()
        assert np.allclose(sum(part.read(name).double() for part in kinds), whole)
        assert np.allclose((parts["attention only"] + parts["all but attention"]).read(name).double(), whole)
        if ".layers." in name:
            assert np.allclose(sum(half.read(name).double() for half in halves), whole)
    sizes = limits.sizes(parts)
    assert sizes[limits.ALL] == 1 and sizes["random vector"] == pytest.approx(1, rel=1e-3)
    assert sum(
        sizes[f"{label} only"] for label in ("attention", "MLP", "norms", "embeddings")
    ) == pytest.approx(1)


def test_what_a_family_lacks_is_left_out(nano):
    found, absent = limits.present(["nano", "no-such-family"])
    assert list(found) == ["nano"] and absent == ["no-such-family"]
    other = load_family("nano", seed=1)
    assert "τ" in limits.vectors(nano) and "τ of another base" in limits.vectors(nano, other)
    bare = type(nano)("bare", nano.base, nano.chat, nano.cp)
    assert list(limits.vectors(bare)) == ["τ"] and limits.ladder(bare, "zh") == {}
    assert list(limits.vocabularies(bare, "zh", 1.0)) == ["τ, match", "τ, skip"]
    assert limits.another("no-such-family", 0) is None


def test_what_a_member_is_comes_from_its_role(nano):
    """Whatever the language code: no name is taken apart here."""
    zh = nano.cp["zh"]
    others = {
        "chat_cp_zh-Hant": nano.chat,
        "chat_dpo": nano.chat,
        "cp_zh-Hant_40": zh,
        "cp_zh-Hant_extended": zh,
    }
    family = type(nano)("coded", nano.base, nano.chat, {"zh-Hant": zh, "zh": nano.cp["ko"]}, others)
    assert list(limits.vectors(family)) == ["τ", "τ of dpo"]
    assert limits.ladder(family, "zh") == {} and list(limits.ladder(family, "zh-Hant").values()) == [zh]
    assert (
        len(limits.vocabularies(family, "zh-Hant", 1.0)) == 4
        and len(limits.vocabularies(family, "zh", 1.0)) == 2
    )


def test_another_repetition_has_another_base(nano):
    other = limits.another("nano", 0)
    assert other is not None and other.base.folder != nano.base.folder


def test_rungs_are_ordered_by_what_they_read(nano):
    rungs = limits.ladder(nano, "zh")
    assert list(rungs) == sorted(rungs)
    assert not rungs or nano.cp["zh"] in rungs.values()


def test_relatives_are_asked_in_their_own_languages(nano):
    replies = limits.ask_relatives({"nano": nano}, "ko", 1.0, n=26)
    assert set(replies.model) == {"CP", "CP + τ", "chat", limits.PLAINLY} and set(replies.language) == {"ko"}
    assert replies.parameters.gt(1e5).all() and set(replies.architecture) == {"llama"}
    elsewhere = type(nano)("elsewhere", nano.base, nano.chat, {"ko": nano.cp["ko"]})
    assert set(limits.ask_relatives({"x": elsewhere}, "zh", 1.0, n=26).language) == {"ko"}


def test_a_reading_cost_is_a_ratio_of_perplexities():
    costs = pd.DataFrame(
        {"text_id": ["a", "b"] * 2, "model": ["CP"] * 2 + ["CP + τ"] * 2, "language": "zh",
         "tokens": [10, 30] * 2, "nats": [20.0, 60.0, 22.0, 66.0]}
    )  # fmt: skip
    (row,) = limits.reading_cost(costs, baseline="CP").itertuples()
    assert row.model == "CP + τ" and row.n == 2
    assert row.estimate == pytest.approx(np.exp((88 - 80) / 40)) and row.low <= row.estimate <= row.high


def test_trade_offs_without_a_toxicity_scorer():
    scores = pd.DataFrame(
        {
            "scale": [0.0, 1.0],
            "metric": "correct",
            "estimate": [0.1, 0.6],
            "low": [0.0, 0.5],
            "high": [0.2, 0.7],
            "n": 9,
        }
    )
    reading = pd.DataFrame({"scale": [0.0, 1.0], "estimate": [2.0, 1.9], "low": 1.8, "high": 2.1, "n": 9})
    table = experiment.trade_offs(scores, reading)
    assert table.is_on_front.tolist() == [False, True] and table.toxic.isna().all()
