"""What is held out, checked on texts: by item, in any order, in any language, for one draw alone."""

import itertools
import re
from random import Random

import pytest

from chatvec_lab.nano import documents, parts, world
from chatvec_lab.nano.lexicon import NOUNS, category_of
from chatvec_lab.nano.parts import draw_for, held_out_prompts, is_kept_out, part, unit
from chatvec_lab.nano.world import HOSTILE, LISTS, ONE_TURN, TWO_TURN, Item

KINDS = ONE_TURN + TWO_TURN + HOSTILE


def test_items_that_ask_one_thing_are_one_unit():
    assert unit(Item("first", (7, 3))) == unit(Item("reverse_again", (3, 7))) == ("list", (3, 7))
    assert unit(Item("sum", (2, 3))) == unit(Item("sum", (3, 2))) != unit(Item("sum", (1, 4)))
    dog, tree = 0, 12
    asked = (Item("category", (dog,)), Item("what_is_it", (dog,)), Item("yesno", (dog, 2)))
    assert {unit(item) for item in (*asked, Item("choose", (category_of(dog), tree, dog)))} == {
        ("category", (dog,))
    }
    assert unit(Item("role_play secret", (1, 2))) == unit(Item("secret", (1, 2)))
    assert unit(Item("colour_again", (1, 2))) == unit(Item("colour", (1, 2)))
    assert unit(Item("opposite", (4, 1))) == unit(Item("opposite", (1, 4)))


@pytest.mark.parametrize("words", ["known", "cp_only"])
def test_every_kind_has_items_for_training_and_for_both_draws(words):
    rng = Random(0)
    for kind in KINDS:
        seen = {}
        for _ in range(900):
            item = world.draw(kind, rng, words)
            seen.setdefault(part(item), set()).add(unit(item))
        assert {"training", "validation", "test"} <= set(seen), kind
        assert not (
            seen["training"] & seen["test"] or seen["validation"] & (seen["test"] | seen["training"])
        ), kind
        assert is_kept_out(draw_for("test", kind, rng, words))
        assert not is_kept_out(draw_for("training", kind, rng, words))


@pytest.mark.parametrize("language", ["en", "ko", "sw"])
def test_the_draws_share_no_item_and_have_300_prompts_a_set(language):
    test = held_out_prompts(language, 300)
    validation = held_out_prompts(language, 130, draw="validation")
    assert len({p.exchange.user for p in test}) == 900 and all(p.item for p in test)
    assert not {p.item for p in test} & {p.item for p in validation}
    for name in world.SETS:
        assert len({p.item for p in test if p.set == name}) >= 150


def test_asking_for_more_than_is_held_out_by_item_says_how_many_there_are():
    with pytest.raises(ValueError, match="only 40 are held out; ask for at most 400"):
        held_out_prompts("zh", 600)


@pytest.fixture(scope="module")
def texts():
    return list(_texts(4000))


def _texts(n):
    mix = {"en": 0.5, "zh": 0.4, "parallel zh": 0.1}
    words = {"en": "any", "zh": "any"}
    yield from itertools.islice(documents.documents("kept", mix, words, forum_in=("en", "zh")), n)
    rng = Random(4)
    for _ in range(n // 4):
        told = documents.dialogue(rng, "en", thinks=True)
        yield "\n".join(turn for pair in zip(told.user, told.replies, strict=True) for turn in pair)


def test_no_text_holds_a_list_that_is_held_out_in_any_order(texts):
    """Every run of nouns with commas between, wherever it stands, in prose, pages, forums and dialogues."""
    found = set()
    for language, separator in (("en", ", "), ("zh", "、")):
        index = {c.word(language).bare: c.index for c in NOUNS}
        noun = "|".join(sorted(index, key=len, reverse=True))
        run = re.compile(rf"(?<![\w、])(?:{noun})(?:{separator}(?:{noun}))+(?![\w、])")
        for text in texts:
            for listed in run.findall(text.replace("=", "")):
                found.add(tuple(index[w] for w in listed.split(separator)))
    assert len(found) > 1000
    assert not [nouns for nouns in found if is_kept_out(Item("repeat", nouns))]
    tests = {tuple(sorted(draw_for("test", kind, Random(i)).content)) for kind in LISTS for i in range(30)}
    assert not tests & {tuple(sorted(nouns)) for nouns in found}


def test_what_kind_a_held_out_noun_is_is_told_but_never_asked(texts):
    asked, told = set(), set()
    for text in texts:
        for noun in NOUNS:
            x = noun.word("en")
            if f"the {x}" not in text:
                continue
            of_its_kind = (
                rf"\b(is the {x} an? \w+|true or not: the {x} is an? \w+|(thing|what) is the {x})[?.]"
            )
            if re.search(of_its_kind, text):  # "what colour is the …?" is no question of a kind
                asked.add(noun.index)
            if f"the {x} is a" in text:
                told.add(noun.index)
    held = {n for n in range(len(NOUNS)) if is_kept_out(Item("category", (n,)))}
    assert len(held) == 16 and held <= told and not held & asked and len(asked) > 20


def test_solved_examples_are_not_held_out():
    from chatvec_lab.nano.evaluation import put

    for prompt in held_out_prompts("zh", 52):
        if prompt.kind == "repeat":
            (text,) = put(prompt, "zh", "qa_examples")
            index = {c.word("zh").bare: c.index for c in NOUNS}
            lists = re.findall(r"A:([^。\n]+)。\n", text)
            assert len(lists) == 3
            assert not any(is_kept_out(Item("repeat", tuple(index[w] for w in x.split("、")))) for x in lists)


def test_units_have_names_that_tell_them_apart():
    assert parts.name_of(Item("first", (7, 3))) == "list 3 7"
    rng = Random(1)
    items = [world.draw(kind, rng) for kind in KINDS for _ in range(100)]
    assert len({parts.name_of(i) for i in items}) == len({unit(i) for i in items})


@pytest.mark.parametrize("words", ["known", "cp_only"])
def test_items_of_kinds_that_have_few_are_counted(words):
    rng, kinds = (
        Random(0),
        ("category", "what_is_it", "yesno", "choose", "sum", "opposite", "capital", "rule", "secret"),
    )
    for kind in kinds:
        drawn = {item for item in (world.draw(kind, rng, words) for _ in range(20_000))}
        for draw in ("validation", "test"):
            there_are = {parts.name_of(item) for item in drawn if part(item) == draw}
            assert len(there_are) == parts._count(kind, words, draw) > 0, (kind, draw)
