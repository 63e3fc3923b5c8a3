"""The working of `chat_think`: true, in any language, of plain text's sentences, and apart from the answer."""

from random import Random

import pytest

from chatvec_lab.evaluation.asking.thinking import split
from chatvec_lab.nano import tokenizer, working
from chatvec_lab.nano.batches import CONTEXT, working_rows
from chatvec_lab.nano.evaluation import reply_language
from chatvec_lab.nano.recipe import FAMILIES, members
from chatvec_lab.nano.world import ONE_TURN, Item, draw_item, is_held_out, render

NANO = FAMILIES["nano"]


@pytest.fixture(scope="module")
def tok():
    return tokenizer.build(tokenizer.vocabulary(NANO.languages), context=256)


@pytest.mark.parametrize("language", ["en", "zh", "ko", "es", "ar", "sw"])
def test_a_thought_and_its_answer_come_apart(language):
    rng = Random(0)
    for kind in ONE_TURN:
        item = draw_item(kind, rng)
        plain = render(item, language)
        found = working.thought(item, plain, language)
        read = split(found.replies[0], "working")
        if kind not in working.WORKED:
            assert found == plain and read.thinking is None
            continue
        assert (read.thinking, read.answer) == (working.working(item, language), plain.replies[0])
        assert reply_language(read.thinking) == language


def test_the_shipped_tokens_can_write_it(tok):
    rng = Random(1)
    for language in NANO.languages:
        for _ in range(60):
            exchange = working.dialogue(rng, language)
            ids = tok(exchange.replies[0], add_special_tokens=False).input_ids
            assert tok.unk_token_id not in ids and len(ids) < 40, exchange
            read, said = (split(text, "working") for text in (exchange.replies[0], tok.decode(ids)))
            assert (said.thinking, said.answer) == (read.thinking, read.answer)


def test_what_is_thought_is_what_is_asked():
    assert working.working(Item("yesno", (0, 3)), "en") == "the dog is an animal."
    assert working.working(Item("sum", (4, 1)), "en") == "one plus four is five."
    assert working.working(Item("reverse", (0, 1)), "zh") == render(Item("repeat", (0, 1)), "zh").replies[0]
    assert working.working(Item("repeat", (0, 1)), "zh") is None


def test_rows_learn_the_thought_and_its_answer_and_hold_nothing_out(tok):
    stage = members(NANO)["chat_think"]
    assert stage.parent == "base" and stage.languages == ("en",)
    ids, labels = working_rows(tok, stage, "0 0")
    assert ids.shape == labels.shape and ids.shape[0] == stage.rows and ids.shape[1] <= CONTEXT
    learned = [tok.decode(row[mask != -100]) for row, mask in zip(ids, labels, strict=True)]
    assert any(split(text.split("\n")[0], "working").thinking for text in learned)
    rng = Random(2)
    drawn = [draw_item(kind, rng) for kind in working.WORKED for _ in range(20)]
    assert not any(map(is_held_out, drawn))
