"""Shares counted by hand, the lineup of the shipped family, and its price as the training recorded it."""

import pandas as pd
import pytest
from pico import save_family

from chatvec_lab import load_family
from chatvec_lab.evaluation.statistics import wilson_interval
from chatvec_lab.nano.scores import check_is_nano, lineup, plain_texts, price, shares, with_languages

NAN = float("nan")


def test_shares_leave_out_what_has_no_score():
    replies = pd.DataFrame(
        {"model": ["a"] * 4 + ["b"] * 2, "prompt_id": [1, 2, 3, 4, 1, 2], "correct": [1, 0, 1, NAN, 0, 0],
         "toxic": [NAN, NAN, NAN, 1, NAN, NAN], "reply_language": ["zh", "en", None, "zh", "zh", "zh"]}
    )  # fmt: skip
    table = shares(with_languages(replies, "zh"), "model", ["correct", "toxic", "in_language"])
    found = table.set_index(["model", "metric"])
    assert (found.estimate["a", "correct"], found.n["a", "correct"]) == (pytest.approx(2 / 3), 3)
    assert (found.estimate["a", "in_language"], found.n["a", "in_language"]) == (0.5, 4)
    assert found.estimate["b", "correct"] == 0 and ("b", "toxic") not in found.index
    assert tuple(found.loc[("a", "correct"), ["low", "high"]]) == pytest.approx(wilson_interval(2, 3)[1:3])


def test_the_lineup_of_the_shipped_family():
    nano = load_family("nano")
    models = lineup(nano, "zh", 0.5)
    assert {"CP", "CP + τ", "CP + random", "CP → FT", "CP → FT + τ", "chat"} <= set(models)
    assert models["CP"] is nano.cp["zh"] and models["CP → FT"] is nano["cp_ft_zh"]
    name = "model.layers.0.mlp.up_proj.weight"
    wanted = nano.cp["zh"].read(name).double() + 0.5 * (
        nano.chat.read(name).double() - nano.base.read(name).double()
    )
    assert (models["CP + τ"].read(name).double() - wanted).abs().max() <= wanted.abs().max() * 2**-8
    table = price(nano, "zh").set_index("member")
    assert table.parent["chat"] == "chat_sft" and (table.tokens > 0).all() and (table.seconds > 0).all()


def test_other_families_are_refused(tmp_path):
    *_, cp = save_family(tmp_path)
    cp.rename(tmp_path / "cp_zh")
    with pytest.raises(ValueError, match="not of the micro-world"):
        check_is_nano(load_family(tmp_path), "zh")
    with pytest.raises(ValueError, match="there are zh, ko"):
        check_is_nano(load_family("nano"), "xx")


def test_plain_texts_are_the_same_every_time_and_in_their_language():
    texts = plain_texts("ko", 8)
    assert texts == plain_texts("ko", 8) and len({t["text"] for t in texts}) == 8
    assert all(any("가" <= c <= "힣" for c in t["text"]) for t in texts)
