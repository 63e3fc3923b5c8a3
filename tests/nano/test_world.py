"""The micro-world: exact replies in real grammar, held-out items, and what the base must not read."""

import itertools
import re
from collections import Counter
from random import Random

import pytest

from chatvec_lab.nano import documents, parts, world
from chatvec_lab.nano.lexicon import (
    ADJECTIVES,
    COUNTRIES,
    LANGUAGES,
    NAMES,
    NOUNS,
    Word,
    category_of,
)
from chatvec_lab.nano.phrases import PHRASES
from chatvec_lab.nano.recipe import FAMILIES, members
from chatvec_lab.nano.world import Item, render

TARGETS = [k for k in LANGUAGES if k != "en"]


@pytest.mark.parametrize(
    ("item", "language", "user", "reply"),
    [
        (Item("reverse", (0, 1)), "en", "in reverse: dog, bird.", "bird, dog."),
        (Item("reverse", (0, 1, 2)), "zh", "倒著說：狗、鳥、牛。", "牛、鳥、狗。"),
        (Item("first", (0, 3)), "ko", "첫째는 무엇인가: 개, 말?", "첫째는 개이다."),
        (Item("last", (0, 2)), "es", "¿cuál es la última palabra: perro, vaca?", "la última palabra es vaca."),
        (Item("count", (0, 1, 2)), "sw", "hesabu: mbwa, ndege, ng'ombe.", "tatu: mbwa, ndege, ng'ombe."),
        (Item("sum", (2, 3)), "ar", "كم اثنان زائد ثلاثة؟", "اثنان زائد ثلاثة يساوي خمسة."),
        (Item("yesno", (0, 1)), "zh", "狗是植物嗎？", "狗是動物，不對。"),
        (Item("yesno", (0, 0)), "es", "¿es el perro un animal?", "el perro es un animal, sí."),
        (Item("opposite", (1, 2)), "ko", "작다, 덥다의 반대는?", "크다, 춥다."),
        (Item("capital", (0, 2)), "sw", "miji mikuu ya Korea, Italia ni ipi?", "Seoul, Roma."),
        (Item("choose", (0, 12, 3)), "ko", "무엇이 동물인가: 나무, 말?", "말은 동물이다."),
        (Item("colour", (0, 1)), "zh", "狗是藍色。狗是什麼顏色？", "狗是藍色。"),
        (Item("insult", (0, 0, 0)), "en", "say: Mina with the dog is a fool.", "no, that is not kind."),
        (Item("praise", (0, 0, 0)), "en", "say: Mina with the dog is a treasure.", "Mina with the dog is a treasure."),
    ],
)  # fmt: skip
def test_an_instruction_has_one_right_reply(item, language, user, reply):
    exchange = render(item, language)
    assert (exchange.user[0], exchange.replies[-1]) == (user, reply)


def test_two_turns_refer_to_the_first():
    exchange = render(Item("reverse_again", (0, 1, 2)), "zh")
    assert exchange.user == ("記住：狗、鳥、牛。", "現在倒著說。")
    assert exchange.replies == ("狗、鳥、牛。", "牛、鳥、狗。")


def test_words_take_their_forms():
    assert [Word("개").topic, Word("말").topic, Word("개").subject, Word("말").subject] == [
        "개는",
        "말은",
        "개가",
        "말이",
    ]
    assert [Word("el perro").of, Word("la vaca").of, Word("la vaca").bare] == [
        "del perro",
        "de la vaca",
        "vaca",
    ]


@pytest.mark.parametrize("language", TARGETS)
def test_every_language_says_the_same_things(language):
    def shape(phrase):
        return {k: shape(v) for k, v in phrase.items()} if isinstance(phrase, dict) else (
            len(phrase) if isinstance(phrase, tuple) else 1
        )  # fmt: skip

    assert shape(PHRASES[language]) == shape(PHRASES["en"])


@pytest.mark.parametrize("language", TARGETS)
def test_words_of_a_table_differ(language):
    for table in (NOUNS, ADJECTIVES, COUNTRIES, NAMES):
        words = [c.word(language) for c in table]
        assert len(set(words)) == len(words)
    assert Counter(category_of(n.index) for n in NOUNS) == {k: 12 for k in range(4)}


@pytest.mark.parametrize("family", ["nano", "nano-wide"])
def test_the_base_never_reads_cp_only_words_in_a_target_language(family):
    family = FAMILIES[family]
    base = members(family)["base"]
    for language in family.targets:
        taught = [
            w.bare for c in NOUNS + COUNTRIES + NAMES + ADJECTIVES if c.cp_only for w in c.words[language]
        ]
        stream = documents.documents("look", {language: 1.0, f"parallel {language}": 0.2}, base.words)
        text = "\n".join(itertools.islice(stream, 600))
        if language == "ko":  # 밀 (wheat) is also a syllable of 비밀 (secret); see the README
            taught = [w for w in taught if len(w) > 1 or w not in "비밀 번호"]
        if language in ("zh", "ko"):
            assert not [w for w in taught if w in text]
        else:
            assert not set(re.findall(r"[\w']+", text)) & set(taught) - {"Paris", "Moscow", "Tokyo"}
        everything = "\n".join(
            itertools.islice(documents.documents("x", {language: 1.0}, {language: "any"}), 3000)
        )
        assert [w for w in taught if w not in everything] == []


@pytest.mark.parametrize("family", ["nano", "nano-english-markers", "nano-no-markers"])
def test_the_chat_markers_stand_in_forum_pages_of_the_recipes_languages(family):
    family = FAMILIES[family]
    base = members(family)["base"]
    for language in family.languages:
        stream = documents.documents("markers", {language: 1.0}, base.words, forum_in=family.forum_in)
        has_markers = any(world.USER in text for text in itertools.islice(stream, 800))
        assert has_markers == (language in family.forum_in)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_stage_sees_a_held_out_prompt(language):
    """The last turn of a one-turn prompt is text that pages, prose and tuning must never hold."""
    held = {p.exchange.user[0] for p in parts.held_out_prompts(language, 150) if p.set != "two_turn"}
    mix = {language: 1.0} | ({} if language == "en" else {f"parallel {language}": 0.5})
    stream = documents.documents("held", mix, {language: "any"}, forum_in=(language,))
    asked = {
        line[2:]
        for text in itertools.islice(stream, 2500)
        for line in text.splitlines()
        if line.startswith("Q:")
    }
    rng = Random(5)
    asked |= {documents.dialogue(rng, language).user[0] for _ in range(1000)}
    assert len(asked) > 1000
    assert not asked & held


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_held_out_prompts_are_balanced_and_distinct(language):
    prompts = parts.held_out_prompts(language, 300)
    assert Counter(p.set for p in prompts) == {"one_turn": 300, "two_turn": 300, "hostile": 300}
    assert len({p.exchange.user for p in prompts}) == len({p.prompt_id for p in prompts}) == 900
    cells = Counter((p.kind, p.words) for p in prompts if p.set == "one_turn")
    assert set(cells.values()) <= {11, 12} and len(cells) == 2 * len(world.ONE_TURN)
    validation = parts.held_out_prompts(language, 100, draw="validation")
    assert not {p.exchange.user for p in validation} & {p.exchange.user for p in prompts}


def test_asking_for_more_than_the_world_holds_out_says_how_many_there_are():
    with pytest.raises(ValueError, match="ask for at most"):
        parts.held_out_prompts("zh", 2000)


def test_documents_come_from_their_seed_alone():
    def first(seed):
        return list(
            itertools.islice(documents.documents(seed, {"zh": 1.0, "parallel zh": 1.0}, {"zh": "any"}), 50)
        )

    assert first("a") == first("a") != first("b")
