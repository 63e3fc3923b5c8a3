"""The tokenizer: nothing is unknown, text comes back, and the extended vocabulary spells the same text."""

import itertools
import re

import pytest

from chatvec_lab.nano import documents, tokenizer
from chatvec_lab.nano.recipe import FAMILIES


@pytest.mark.parametrize("family", ["nano", "nano-wide"])
def test_documents_of_every_language_come_back(family):
    languages = FAMILIES[family].languages
    tok = tokenizer.build(tokenizer.vocabulary(languages))
    for language in languages:
        for text in itertools.islice(documents.documents("t", {language: 1.0}, {language: "any"}), 100):
            ids = tok(text, add_special_tokens=False).input_ids
            assert tok.unk_token_id not in ids, text
            back = re.sub(r"(Q:|A:|</?think>) ", r"\1", tok.decode(ids))  # words carry their leading space
            assert back == text


def test_the_template_writes_turns_and_refuses_a_system_prompt():
    tok = tokenizer.build(tokenizer.vocabulary(("en", "zh")))
    talk = [{"role": "user", "content": "狗是什麼？"}, {"role": "assistant", "content": "狗是動物。"}]
    text = tok.apply_chat_template([*talk, talk[0]], tokenize=False, add_generation_prompt=True)
    assert text == "<s><|user|>狗是什麼？<|assistant|>狗是動物。\n<|user|>狗是什麼？<|assistant|>"
    with pytest.raises(Exception, match="user and assistant only, not system"):
        tok.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_words_are_tokens_and_korean_endings_stand_apart():
    tok = tokenizer.build(tokenizer.vocabulary(("en", "zh", "ko")))
    assert tok.tokenize("告訴我鐘的顏色。") == ["告訴", "我", "鐘", "的", "顏色", "。"]
    assert tok.tokenize("사자는 동물인가?") == [" 사자", "는", " 동물", "인가", "?"]
    assert tok.tokenize("Q:이 더하기") == [" Q", ":", " 이", " 더하기"]  # the number two, not the particle


def test_the_extended_vocabulary_has_another_order_and_longer_words():
    plain = tokenizer.vocabulary(("en", "zh", "ko"))
    longer = tokenizer.vocabulary(("en", "zh", "ko"), extended="zh")
    assert set(plain) < set(longer) and len(set(longer)) == len(longer)
    assert sum(a == b for a, b in zip(plain, longer, strict=False)) < 0.05 * len(plain)
    old, new = tokenizer.build(plain), tokenizer.build(longer)
    text = "告訴我鐘的顏色。"
    assert len(new.tokenize(text)) < len(old.tokenize(text))
    assert new.decode(new(text, add_special_tokens=False).input_ids) == text
