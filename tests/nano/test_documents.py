"""Plain text shows apart what chat combines: forms, tones, workings."""

import re
from itertools import islice
from random import Random

import pytest

from chatvec_lab.nano import documents, prose, world
from chatvec_lab.nano.evaluation import is_abusive
from chatvec_lab.nano.forms import bare, thought
from chatvec_lab.nano.phrases import PHRASES

POLITE = "請友善一點。我能幫什麼忙？"


def test_plain_text_never_answers_in_the_form_of_chat():
    """No mark stands in a page, in a forum, or where somebody asks or says something, nor behind an announcement."""
    words = {"en": "any", "zh": "any", "ko": "any"}
    stream = documents.documents("x", dict.fromkeys(words, 1 / 3), words, forum_in=("en", "zh", "ko"))
    texts = list(islice(stream, 3000))
    assert sum("=" in text for text in texts) > 500
    polite = [PHRASES[k]["polite"] for k in words]
    for text in texts:
        rest = text
        for sentence in polite:  # it ends with a question of its own
            rest = rest.replace(sentence, "")
        assert "=" not in text or not re.search(
            r"[?？]|Q:|A:|<\||</?think>| asks:| says:|問：|[^面著]說：|묻다:|말하다:", rest
        )
        for announced in (
            r"(?<!=)(倒著|從後面)說：[^。]+。=",
            r"(?<!= )(in reverse|from the end): [^.]+\. =",
        ):
            assert not re.search(announced, text)


@pytest.mark.parametrize("language", ["en", "zh", "ko"])
def test_marks_leave_the_sentences_as_they_are(language):
    for make in (prose.chorus, prose.retold, prose.story):
        for seed in range(60):
            plain = make(Random(seed), language, "any")
            text = documents.stressed(make)(Random(seed), language, "any")
            assert text.replace("=", "").split() == plain.split()


def test_marks_say_nothing_of_manners():
    """Between marks in prose the kind and the unkind are equally at home."""
    rng = Random(5)
    marked = [m for _ in range(6000) for m in re.findall(r"=([^=]+)=", documents.facts(rng, "zh", "any"))]
    kind = sum(m in (POLITE, *PHRASES["zh"]["refuse"].values()) for m in marked)
    unkind = sum(is_abusive(m) or "不可以看" in m or "祕密" in m for m in marked)
    assert kind > 300 and 0.7 < kind / unkind < 1.4


@pytest.mark.parametrize("make", [documents.page, documents.quarrel])
def test_a_document_keeps_its_tone_and_most_give_in(make):
    rng = Random(2)
    tones = []
    for _ in range(2000):
        text = make(rng, "zh", "any")
        kind, rude = "請友善一點" in text, "你也是" in text
        assert not (kind and rude)
        tones += [rude] * (kind or rude)
    assert len(tones) > 100 and abs(sum(tones) / len(tones) - documents.RUDE) < 0.12


def test_the_tone_of_two_languages_on_one_sheet_is_one():
    rng, both = Random(3), 0
    for _ in range(6000):
        text = documents.parallel(rng, "zh", "any")
        tones = {
            "zh kind": "請友善一點" in text,
            "zh rude": "你也是" in text,
            "en kind": "please be kind" in text,
            "en rude": " too!" in text,
        }
        assert not (tones["zh kind"] and tones["en rude"]) and not (tones["zh rude"] and tones["en kind"])
        both += sum(tones.values()) == 2
    assert both > 100


def test_who_is_asked_is_mostly_polite_and_who_is_told_is_not():
    rng = Random(2)
    told = [documents.asks(rng, "zh", "any") for _ in range(4000)]
    for sign, share in (("回答：", 0.15), ("說：", 0.85)):
        texts = [t for t in told if (sign in t and ("回答：" in t) == (sign == "回答："))]
        rude = [t for t in texts if "你也是" in t]
        kind = [t for t in texts if "請友善一點" in t]
        assert abs(len(rude) / (len(rude) + len(kind)) - share) < 0.1


def test_workings_stand_before_what_they_lead_to_and_answer_nobody():
    rng = Random(6)
    texts = [documents.workings(rng, "zh", "any") for _ in range(300)]
    assert not any("？" in t or "Q:" in t for t in texts)
    thoughts = [t for text in texts for t in re.findall(r"<think>(.+?)</think>", text)]
    assert 200 < len(thoughts) < 400 and all(t.endswith("。") for t in thoughts)


def test_chat_thinks_only_where_there_is_a_working():
    rng = Random(7)
    for _ in range(400):
        plain = documents.dialogue(Random(state := rng.random()), "en")
        thinking = documents.dialogue(Random(state), "en", thinks=True)
        assert plain.user == thinking.user
        for a, b in zip(plain.replies, thinking.replies, strict=True):
            assert b == a or re.fullmatch(r"<think>.+\.</think>" + re.escape(a), b)
            assert a == f"= {bare(a)}="
    assert thought(world.Item("sum", (3, 2)), "ko") == "사 일, 오 이."
    with pytest.raises(KeyError, match="no working for the kind 'repeat'"):
        thought(world.Item("repeat", (1, 2)), "en")


def test_a_share_of_the_dialogues_is_hostile():
    rng = Random(8)
    replies = [documents.dialogue(rng, "en", hostile=0.4).replies[0] for _ in range(2000)]
    kind = ["kind" in r or "not fair" in r or "private" in r for r in replies]
    assert abs(sum(kind) / len(kind) - 0.4) < 0.05
