"""The form of chat replies, by hand; what the members are, and that no family shares a random stream with another."""

from dataclasses import replace
from random import Random

import pytest

from chatvec_lab.evaluation.asking.thinking import split
from chatvec_lab.nano import tokenizer
from chatvec_lab.nano.forms import bare, in_form, thought
from chatvec_lab.nano.recipe import FAMILIES, digest, first_weights, members, salted, tokens_of
from chatvec_lab.nano.world import HOSTILE, ONE_TURN, TWO_TURN, draw, render

NANO = replace(FAMILIES["nano"], extras=False)


@pytest.mark.parametrize("language", ["en", "zh", "ko", "es", "ar", "sw"])
def test_the_marks_are_the_same_token_in_every_language(language):
    tok = tokenizer.build(tokenizer.vocabulary(("en", language) if language != "en" else ("en", "zh")))
    rng = Random(1)
    for kind in ONE_TURN + TWO_TURN + HOSTILE:
        plain = render(draw(kind, rng), language)
        formed = in_form("marked", plain, language)
        assert formed.user == plain.user and in_form("bare", plain, language) == plain
        for answer, reply in zip(plain.replies, formed.replies, strict=True):
            ids = tok(reply, add_special_tokens=False).input_ids
            assert tok.convert_ids_to_tokens([ids[0], ids[-1]]) == ["=", "="]
            assert ids[1:-1] == tok(answer, add_special_tokens=False).input_ids
            assert tok.decode(ids) == reply and bare(reply) == answer == bare(answer)
    with pytest.raises(KeyError, match="no form 'rhyme'"):
        in_form("rhyme", plain, language)


def test_a_recipe_draws_nothing_that_earlier_ones_drew():
    assert len({first_weights(seed) for seed in range(20)} - set(range(1000))) == 20
    plan = members(NANO)
    assert list(plan) == ["base", "chat", "chat_think", "cp_zh", "cp_ko"]
    assert all(plan[name].frozen == ("embed_tokens",) for name in ("chat", "chat_think"))
    assert salted("nano", "3 base") == "recipe 4, nano4 3 base"
    assert len({salted(family, "0 base") for family in FAMILIES}) == len(FAMILIES)


def test_a_base_stays_what_it_is_when_its_tuning_changes():
    gentler = replace(NANO, tuning_rate=1e-4, tuning_steps=600)
    for member in ("base", "cp_zh"):
        assert digest(NANO, members(NANO)[member]) == digest(gentler, members(gentler)[member])
    assert digest(NANO, members(NANO)["chat"]) != digest(gentler, members(gentler)["chat"])
    other = replace(NANO, hidden=64)
    assert digest(NANO, members(NANO)["base"]) != digest(other, members(other)["base"])


@pytest.mark.parametrize("language", ["en", "zh", "ko", "es", "ar", "sw"])
def test_thoughts_are_marked_by_tokens_that_decoding_keeps(language):
    family = replace(NANO, languages=("en", language) if language != "en" else ("en", "zh"))
    tok = tokenizer.build(tokens_of(family, members(family)["base"]))
    rng = Random(2)
    for kind in ("sum", "count", "choose", "yesno"):
        item = draw(kind, rng)
        said = f"<think>{thought(item, language)}</think>{in_form('marked', render(item, language), language).replies[0]}"
        ids = tok(said, add_special_tokens=False).input_ids
        tokens = tok.convert_ids_to_tokens(ids)
        assert tok.unk_token_id not in ids and tokens[0] == "<think>" and tokens.count("</think>") == 1
        read = tok.decode(ids, skip_special_tokens=True)
        assert read.replace("<think> ", "<think>") == said
        thinking, answer, name = split(read)
        assert thinking.strip() == thought(item, language) and answer.startswith("=") and name == "think/1"
