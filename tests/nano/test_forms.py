"""The form of chat replies, by hand; what the fourth recipe's members are, and what they share with no other."""

from dataclasses import replace
from random import Random

import pytest

from chatvec_lab.evaluation.asking.thinking import split
from chatvec_lab.nano import tokenizer
from chatvec_lab.nano.forms import bare, in_form, thought
from chatvec_lab.nano.recipe import FAMILIES, digest, first_weights, members, salted, tokens_of
from chatvec_lab.nano.world import HOSTILE, ONE_TURN, TWO_TURN, draw_item, render

NANO, NANO4 = FAMILIES["nano-wide"], replace(FAMILIES["nano"], extras=False)


@pytest.mark.parametrize("language", ["en", "zh", "ko", "es", "ar", "sw"])
def test_the_marks_are_the_same_token_in_every_language(language):
    tok = tokenizer.build(tokenizer.vocabulary(("en", language) if language != "en" else ("en", "zh")))
    rng = Random(1)
    for kind in ONE_TURN + TWO_TURN + HOSTILE:
        plain = render(draw_item(kind, rng), language)
        formed = in_form("marked", plain, language)
        assert formed.user == plain.user and in_form("bare", plain, language) == plain
        for answer, reply in zip(plain.replies, formed.replies, strict=True):
            ids = tok(reply, add_special_tokens=False).input_ids
            assert tok.convert_ids_to_tokens([ids[0], ids[-1]]) == ["=", "="]
            assert ids[1:-1] == tok(answer, add_special_tokens=False).input_ids
            assert tok.decode(ids) == reply and bare(reply) == answer == bare(answer)
    with pytest.raises(KeyError, match="no form 'rhyme'"):
        in_form("rhyme", plain, language)


def test_the_fourth_recipe_draws_nothing_that_earlier_ones_drew():
    assert first_weights(NANO, 3) == 3 and first_weights(NANO4, 3) not in range(1000)
    plan = members(NANO4)
    assert list(plan) == ["base", "chat", "chat_think", "cp_zh", "cp_ko"]
    assert all(plan[name].frozen == ("embed_tokens",) for name in ("chat", "chat_think"))
    assert salted("nano-wide", "3 base") == "nano-wide 3 base" and salted("nano", "3 base") != "nano 3 base"


def test_a_base_stays_what_it_is_when_its_tuning_changes():
    gentler = replace(NANO4, tuning_rate=1e-4, tuning_steps=600)
    for member in ("base", "cp_zh"):
        assert digest(NANO4, members(NANO4)[member]) == digest(gentler, members(gentler)[member])
    assert digest(NANO4, members(NANO4)["chat"]) != digest(gentler, members(gentler)["chat"])
    other = replace(NANO4, hidden=64)
    assert digest(NANO4, members(NANO4)["base"]) != digest(other, members(other)["base"])


@pytest.mark.parametrize("language", ["en", "zh", "ko", "es", "ar", "sw"])
def test_thoughts_are_marked_by_tokens_that_decoding_keeps(language):
    family = replace(NANO4, languages=("en", language) if language != "en" else ("en", "zh"))
    tok = tokenizer.build(tokens_of(family, members(family)["base"]))
    rng = Random(2)
    for kind in ("sum", "count", "choose", "yesno"):
        item = draw_item(kind, rng)
        said = f"<think>{thought(item, language)}</think>{in_form('marked', render(item, language), language).replies[0]}"
        ids = tok(said, add_special_tokens=False).input_ids
        tokens = tok.convert_ids_to_tokens(ids)
        assert tok.unk_token_id not in ids and tokens[0] == "<think>" and tokens.count("</think>") == 1
        read = tok.decode(ids, skip_special_tokens=True)
        assert read.replace("<think> ", "<think>") == said
        thinking, answer, name = split(read)
        assert thinking.strip() == thought(item, language) and answer.startswith("=") and name == "think/1"
