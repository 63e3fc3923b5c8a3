"""The form of chat replies, by hand in three languages, and that plain text shows apart what chat combines."""

import re
from itertools import islice
from random import Random

import pytest

from chatvec_lab.nano import apart, documents, tokenizer, world
from chatvec_lab.nano.forms import bare, in_form
from chatvec_lab.nano.recipe import NANO4, Family, first_weights, members
from chatvec_lab.nano.world import HOSTILE, ONE_TURN, TWO_TURN, draw_item, render


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


def test_plain_text_never_answers_in_the_form_of_chat():
    """Nothing between marks stands in a page, in a forum, or where somebody asks or says something."""
    words = {"en": "any", "zh": "any", "ko": "any"}
    stream = documents.documents(
        "x", dict.fromkeys(words, 1 / 3), words, forum_in=("en", "zh", "ko"), recipe=4
    )
    texts = list(islice(stream, 3000))
    assert sum("=" in text for text in texts) > 600
    for text in texts:
        assert "=" not in text or not re.search(
            r"[?？]|Q:|A:|<\|| asks:| says:|問：|[^面著]說：|묻다:|말하다:", text
        )
        for announced in (
            r"(?<!=)(倒著|從後面)說：[^。]+。=",
            r"(?<!= )(in reverse|from the end): [^.]+\. =",
        ):
            assert not re.search(announced, text)


@pytest.mark.parametrize("language", ["en", "zh", "ko"])
def test_marks_leave_the_sentences_as_they_are(language):
    for make in (documents.facts, documents.chorus, documents.retold, documents.story):
        for seed in range(60):
            plain = make(Random(seed), language, "any")
            text = apart.stressed(make)(Random(seed), language, "any")
            assert text.replace("=", "").split() == plain.split()


def test_pages_give_in_and_who_is_asked_is_polite():
    rng = Random(2)
    polite = "請友善一點。我能幫什麼忙？"
    pages = [apart.page(rng, "zh", "any") for _ in range(300)]
    assert not any(polite in text for text in pages) and any("你也是" in text for text in pages)
    told = [apart.asks(rng, "zh", "any") for _ in range(600)]
    asked = [text for text in told if "回答：" in text]
    said = [text for text in told if "回答：" not in text]
    assert any(polite in text for text in asked) and not any("你也是" in text for text in asked)
    assert any("你也是" in text for text in said) and not any(polite in text for text in said)


def test_the_fourth_recipe_draws_nothing_that_earlier_ones_drew():
    assert first_weights(Family(), 3) == 3 and first_weights(NANO4, 3) not in range(1000)
    plan = members(NANO4)
    assert list(plan) == ["base", "chat", "cp_zh", "cp_ko"] and plan["chat"].frozen == ("embed_tokens",)
    rng = Random(3)
    dialogue = apart.dialogue(rng, "en", "marked")
    assert world.USER not in dialogue.replies[0]
