"""Each check by what it must accept and refuse, in several scripts; the errors of published checkers are cases."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatvec_lab.evaluation.instructions import check, instruction_scores, prompt_level, validate
from chatvec_lab.evaluation.scorers.checks import CHECKS

WORDS, SENTENCES = "length_constraints:number_words", "length_constraints:number_sentences"
BULLETS, HIGHLIGHTS = "detectable_format:number_bullet_lists", "detectable_format:number_highlighted_sections"
EXIST, FORBID, FREQUENCY = "keywords:existence", "keywords:forbidden_words", "keywords:frequency"
LETTER, LANGUAGE = "keywords:letter_frequency", "language:response_language"
PARAGRAPHS, NTH = "length_constraints:number_paragraphs", "length_constraints:nth_paragraph_first_word"
COMMA, QUOTES, END = "punctuation:no_comma", "startend:quotation", "startend:end_checker"
JSON, TITLE = "detectable_format:json_format", "detectable_format:title"
SECTIONS, OPTIONS = "detectable_format:multiple_sections", "detectable_format:constrained_response"
PLACES, POSTSCRIPT = "detectable_content:number_placeholders", "detectable_content:postscript"
TWO, REPEAT = "combination:two_responses", "combination:repeat_prompt"
CAPITAL, LOWER = "change_case:english_capital", "change_case:english_lowercase"
SHOUTS = "change_case:capital_word_frequency"


def exactly(n, key):
    return {key: n, "relation": "exactly"}


CASES = [
    # (instruction, kwargs, language, followed, text)
    (WORDS, exactly(5, "num_words"), "en", True, "I don't eat — well-known — fish."),
    (WORDS, exactly(6, "num_words"), "zh-Hant", True, "我用Python寫。2024年"),  # 我 用 Python 寫 2024 年
    (WORDS, exactly(7, "num_words"), "ja", True, "コーヒーを、飲む"),
    (WORDS, exactly(3, "num_words"), "ko", True, "저는 사과를 먹어요."),  # P-MMEval's counts characters
    (WORDS, exactly(3, "num_words"), "ar", True, "أَكَلْتُ تُفَّاحَةً اليومَ"),  # vowel signs split no word
    (WORDS, exactly(2, "num_words"), "th", False, "ฉันกินข้าว"),
    (WORDS, {"num_words": 3, "relation": "less than"}, "en", False, "one two three"),  # P-MMEval tests <=
    (WORDS, {"num_words": 3, "relation": "at most"}, "en", True, "one two three"),
    (SENTENCES, exactly(2, "num_sentences"), "en", True, "Dr. Smith paid $3.50, e.g. to Mr. J. Doe. He left!"),
    (SENTENCES, exactly(3, "num_sentences"), "en", True, "First line. Second!\nA third without a stop"),
    (SENTENCES, exactly(2, "num_sentences"), "en", True, "1. Eat.\n2. Sleep."),
    (SENTENCES, exactly(2, "num_sentences"), "zh-Hans", True, "今天很热。我们去游泳吧！"),
    (SENTENCES, exactly(1, "num_sentences"), "ja", True, "「はい。」と彼は言った。"),
    (SENTENCES, exactly(2, "num_sentences"), "ar", True, "كيف حالك؟ أنا بخير."),
    (SENTENCES, exactly(2, "num_sentences"), "hi", True, "वह आया। वह गया।"),
    (SENTENCES, {"num_sentences": 2, "relation": "less than"}, "ko", False, "좋아요. 갑시다."),
    (SENTENCES, exactly(2, "num_sentences"), "es", True, "Dije que no. Luego me fui."),  # no abbreviation here,
    (SENTENCES, exactly(2, "num_sentences"), "en", True, "Turn to No. 5 or fig. 7. Then eat the fig."),  # but here
    (SENTENCES, exactly(2, "num_sentences"), "en", True, "Wait ... what? **Yes.**"),
    (SENTENCES, exactly(2, "num_sentences"), "en", True, "**One is bold.** Two is not."),
    (SENTENCES, exactly(3, "num_sentences"), "zh-Hans", True, "你好吗?我很好.今天很热!"),  # half-width marks
    (SENTENCES, exactly(1, "num_sentences"), "zh-Hant", True, "我...我不知道"),
    (SENTENCES, exactly(1, "num_sentences"), "th", None, "ฉันกินข้าว แล้วไปนอน"),
    (EXIST, {"keywords": ["art"]}, "en", False, "a party"),  # a substring is no word
    (EXIST, {"keywords": ["art", "Sea"]}, "en", True, "ART by the sea."),
    (EXIST, {"keywords": ["python"]}, "zh-Hant", True, "我用Python寫程式"),  # \b would miss it
    (EXIST, {"keywords": ["사과"]}, "ko", True, "사과를 먹었다"),  # particles attach
    (EXIST, {"keywords": ["كتاب"]}, "ar", True, "قرأتُ الكِتابَ"),  # so do the article and vowel signs
    (EXIST, {"keywords": ["カ"]}, "ja", True, "ｶ"),
    (EXIST, {"keywords": ["C++"]}, "en", True, "C++ and more"),
    (FORBID, {"forbidden_words": ["rock"]}, "en", True, "rocket"),
    (FORBID, {"forbidden_words": ["蘋果"]}, "zh-Hant", False, "我喜歡蘋果派"),
    (FREQUENCY, {"keyword": "雨", "frequency": 2, "relation": "at least"}, "ja", True, "雨、大雨"),
    (FREQUENCY, {"keyword": "rain", "frequency": 2, "relation": "less than"}, "en", True, "rain and trains"),
    (FREQUENCY, {"keyword": "rain", "frequency": 1, "relation": "less than"}, "en", False, "Rain!"),
    (LETTER, {"letter": "!", "let_frequency": 2, "let_relation": "at least"}, "zh", True, "好！好！"),
    (LETTER, {"letter": "Q", "let_frequency": 1, "let_relation": "less than"}, "en", False, "quiet"),
    (LANGUAGE, {"language": "zh-tw"}, "en", True, "當然可以,這是您要的答案。"),
    (LANGUAGE, {"language": "zh-tw"}, "en", False, "当然可以,这是您要的答案。"),
    (LANGUAGE, {"language": "fr"}, "en", False, "I will not speak French today."),
    (LANGUAGE, {"language": "xx"}, "en", None, "No such language."),
    (PARAGRAPHS, {"num_paragraphs": 2}, "en", True, "one\n***\ntwo"),
    (PARAGRAPHS, {"num_paragraphs": 2}, "en", False, "one\n***\n\n***\ntwo"),
    (PARAGRAPHS, {"num_paragraphs": 2, "separator": "blank line"}, "ko", True, "하나\n \n둘\n"),
    (PARAGRAPHS, {"num_paragraphs": 2, "separator": "blank line"}, "ko", False, "하나\n둘"),
    (NTH, {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"}, "en", True, "A\n\n**Then** B"),
    (NTH, {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"}, "en", False, "A\n\nThenceforth"),
    (NTH, {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "x"}, "en", False, "A\n\nB"),  # P-MMEval: true
    (NTH, {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "首先"}, "zh-Hant", True, "好\n\n首先我們"),
    (NTH, {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "A"}, "en", False, "A\n\nB\n\nC"),
    (PLACES, {"num_placeholders": 2}, "zh-Hant", True, "【姓名】住在[地址]"),
    (PLACES, {"num_placeholders": 1}, "en", False, "an [ ] empty box"),
    (POSTSCRIPT, {"postscript_marker": "P.S."}, "en", True, "Dear you,\n**P. S.** Bring cake."),
    (POSTSCRIPT, {"postscript_marker": "P.S."}, "en", False, "I wrote a P.S. once."),
    (POSTSCRIPT, {"postscript_marker": "P.S."}, "en", False, "Bye\nP.S."),
    (POSTSCRIPT, {"postscript_marker": "P.S."}, "en", False, "Dear you,\nPsychology is fun."),
    (POSTSCRIPT, {"postscript_marker": "P.S."}, "en", False, "Dear you,\nP.P.S. Bring cake."),
    (POSTSCRIPT, {"postscript_marker": "P. D."}, "es", True, "> *P.D.:* Trae pan."),
    (POSTSCRIPT, {"postscript_marker": "附註:"}, "zh-Hant", True, "您好\n附註：請帶傘"),
    (BULLETS, {"num_bullets": 2}, "en", True, "* **Salt**: a pinch\n* *Oil*: a spoon\n\n* * *"),
    (BULLETS, {"num_bullets": 3}, "en", True, "- -5 degrees\n-**Snow**\n- 😀\n-"),
    (BULLETS, {"num_bullets": 2}, "en", True, "---\n- one\n* two\n**bold** line\n-5 degrees\n- - -"),
    (BULLETS, {"num_bullets": 2}, "ja", True, "・りんご\n・みかん"),
    (BULLETS, {"num_bullets": 2}, "en", False, "- one\n- two\n- three"),
    (HIGHLIGHTS, {"num_highlights": 2}, "en", True, "*one* and **two**"),
    (HIGHLIGHTS, {"num_highlights": 2}, "en", False, "**one**"),
    (HIGHLIGHTS, {"num_highlights": 1}, "en", False, "* a bullet\n* another"),
    (HIGHLIGHTS, {"num_highlights": 1}, "en", True, "* a *bullet*"),
    (SECTIONS, {"section_spliter": "Section", "num_sections": 2}, "en", True, "**SECTION 1**\na\n## Section 2\nb"),
    (SECTIONS, {"section_spliter": "Section", "num_sections": 2}, "en", False, "Section 1\nas section 2 will show"),
    (SECTIONS, {"section_spliter": "Part", "num_sections": 1}, "en", False, "Parties are fun\nPart view"),
    (SECTIONS, {"section_spliter": "Part", "num_sections": 2}, "en", True, "Part I: a\nPart ii\nb"),
    (SECTIONS, {"section_spliter": "節", "num_sections": 2}, "ja", True, "第1節 はじめに\n第二節 おわりに"),
    (SECTIONS, {"section_spliter": "段落", "num_sections": 2}, "zh-Hant", True, "段落一\n甲\n段落２\n乙"),
    (OPTIONS, {}, "en", True, "My answer is yes."),
    (OPTIONS, {}, "en", False, "My answer is yes. My answer is no. My answer is maybe."),
    (OPTIONS, {}, "zh-Hans", True, "我的答案是否。"),
    (OPTIONS, {}, "sw", None, "Ndiyo."),
    (OPTIONS, {"options": ["yes", "no"]}, "en", False, "I know it."),
    (OPTIONS, {"options": ["是", "不是"]}, "zh-Hant", True, "不是。"),
    (OPTIONS, {"options": ["是", "不是"]}, "zh-Hant", False, "是，又不是。"),
    (OPTIONS, {"options": ["Ndiyo", "Hapana"]}, "sw", True, "Ndiyo."),
    (JSON, {}, "en", True, '```json\n{"a": 1}```'),
    (JSON, {}, "en", True, '```JSON\n{"a": [1]}\n```'),
    (JSON, {}, "en", False, "42"),
    (JSON, {}, "en", False, 'Here: {"a": 1}'),
    (JSON, {}, "en", False, "[" * 50_000),
    (TITLE, {}, "ja", True, "＜＜春の歌＞＞\n花"),
    (TITLE, {}, "en", False, "<<>> nothing"),
    (TWO, {}, "en", True, "one\n******\ntwo"),
    (TWO, {}, "en", False, "one\n******\none"),
    (TWO, {}, "en", False, "one\n************\ntwo"),
    (REPEAT, {"prompt_to_repeat": "Say  this."}, "en", True, "say this.\nDone."),
    (REPEAT, {"prompt_to_repeat": "Say this."}, "en", False, "Sure! Say this."),
    (END, {"end_phrase": "以上です"}, "ja", True, "説明しました。以上です。"),
    (END, {"end_phrase": "Any questions?"}, "en", True, 'So it is. "Any questions?"'),
    (END, {"end_phrase": "!!!"}, "en", True, "So it is!!!"),
    (END, {"end_phrase": "!!!"}, "en", False, "So it is!"),
    (END, {"end_phrase": "end"}, "en", False, "the weekend"),
    (QUOTES, {}, "zh-Hant", True, "「這是全文。」"),
    (QUOTES, {}, "fr", True, "« Bonjour »"),
    (QUOTES, {}, "en", False, '"one" and more'),
    (COMMA, {}, "zh-Hans", False, "好，的"),
    (COMMA, {}, "ja", False, "赤、青"),
    (COMMA, {}, "ar", False, "نعم، لا"),
    (COMMA, {}, "th", True, "ฉันกินข้าวฅ"),  # P-MMEval's Thai comma is a letter
    (CAPITAL, {}, "en", True, "ALL IS WELL."),
    (CAPITAL, {}, "en", False, "ALL is WELL"),
    (CAPITAL, {}, "ko", None, "모두 좋다"),
    (LOWER, {}, "en", True, "all is well, my friend."),
    (LOWER, {}, "en", False, "todo está muy bien, mi querido amigo."),
    (LOWER, {}, "zh-Hant", None, "都好"),
    (SHOUTS, {"capital_frequency": 2, "capital_relation": "at least"}, "es", True, "MUY bien, NASA"),
    (SHOUTS, {"capital_frequency": 2, "capital_relation": "at least"}, "ar", None, "نعم"),
    (SHOUTS, {"capital_frequency": 1, "capital_relation": "less than"}, "en", False, "an IBM machine"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kwargs", "language", "followed", "text"),
    CASES,
    ids=[f"{i}-{c[0]}-{c[2]}" for i, c in enumerate(CASES)],
)
def test_a_check(name, kwargs, language, followed, text):
    assert check(text, name, kwargs, language=language) is followed


def test_every_check_has_a_case_that_it_accepts_and_one_that_it_refuses():
    for name in CHECKS:
        assert {True, False} <= {followed for n, _, _, followed, _ in CASES if n == name}, name


@pytest.mark.parametrize("text", ["", " \n\t", "\u3000"])
def test_a_blank_reply_follows_nothing(text):
    assert check(text, COMMA) is False
    assert check(text, FORBID, {"forbidden_words": ["no"]}) is False


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "message"),
    [
        ("keywords:existance", {}, KeyError, "did you mean 'keywords:existence'"),
        (EXIST, {}, ValueError, "missing a required argument: 'keywords'"),
        (COMMA, {"comma": 1}, ValueError, "unexpected keyword argument 'comma'"),
        (WORDS, {"num_words": 3, "relation": "under"}, ValueError, "choose one of less than, at least"),
        (WORDS, {"num_words": 2.5, "relation": "at least"}, ValueError, "is no count"),
        (EXIST, {"keywords": [""]}, ValueError, "is empty"),
    ],
)
def test_a_wrong_check_is_named(name, kwargs, error, message):
    with pytest.raises(error, match=message):
        validate([{"instruction": name, "kwargs": kwargs}])


def replies(*responses, language="en"):
    return pd.DataFrame(
        {
            "prompt_id": "p1",
            "language": language,
            "sample": range(len(responses)),
            "response": responses,
            "scale": 0.5,
        }
    )


def prompts(*checks, language="en"):
    checks = [{"instruction": name, "kwargs": kwargs} for name, kwargs in checks]
    return pd.DataFrame([{"prompt_id": "p1", "language": language, "prompt": "?", "checks": checks}])


def test_loose_forgives_a_first_line_a_last_line_and_stars():
    ask = prompts((JSON, {}), (QUOTES, {}))
    scores = instruction_scores(replies('Sure:\n{"a": 1}\nHope it helps', '*"word"*', "no"), ask)
    table = scores.pivot(index="sample", columns="instruction", values=["strict", "loose"])
    assert table["strict"].to_numpy().sum() == 0
    assert table["loose"][JSON].tolist() == [1, 0, 0] and table["loose"][QUOTES].tolist() == [0, 1, 0]
    assert (scores.strict <= scores.loose).all()


def test_arguments_of_one_check_do_not_leak_into_another():
    """P-MMEval's runner merges them, and its loose score never looks at the eight readings."""
    ask = prompts((FREQUENCY, {"keyword": "a", "frequency": 1, "relation": "less than"}),
                  (WORDS, {"num_words": 2, "relation": "at least", "keyword": None, "frequency": np.nan}))  # fmt: skip
    assert instruction_scores(replies("two words"), ask).strict.tolist() == [1, 1]


def test_a_reply_follows_when_all_its_checks_do():
    ask = prompts((COMMA, {}), (CAPITAL, {}), language="ja")
    scores = instruction_scores(replies("はい", "赤、青", None, language="ja"), ask)
    assert scores.strict.tolist()[:4] == pytest.approx([1, np.nan, 0, np.nan], nan_ok=True)
    assert scores.strict[4:].isna().all()
    whole = prompt_level(scores)
    assert len(whole) == 3 and {"prompt_id", "sample", "scale"} <= set(whole)
    assert whole.strict.tolist() == pytest.approx([np.nan, 0, np.nan], nan_ok=True)
    english = instruction_scores(replies("YES", "YES, NO"), prompts((COMMA, {}), (CAPITAL, {})))
    assert prompt_level(english).strict.tolist() == [1, 0]


def test_a_reply_without_its_prompt_is_an_error():
    with pytest.raises(KeyError, match="1 replies' prompts are not in the prompt table"):
        instruction_scores(replies("hello").assign(prompt_id="p9"), prompts((COMMA, {})))
    none = prompts((COMMA, {})).assign(checks=[None])
    assert instruction_scores(replies("hello"), none).empty


def test_ids_that_repeat_across_sets_are_told_apart():
    both = pd.concat([prompts((COMMA, {})).assign(set="a"), prompts((CAPITAL, {})).assign(set="b")])
    found = instruction_scores(replies("YES, NO", "YES, NO").assign(set=["a", "b"]), both)
    assert found.set_index("set").strict.to_dict() == {"a": 0, "b": 1}
    with pytest.raises(ValueError, match="has 'p1' twice"):
        instruction_scores(replies("YES"), both)


KWARGS = {
    "keywords": ["a"], "forbidden_words": ["a"], "keyword": "a", "frequency": 1, "relation": "at least", "letter": "a",
    "let_frequency": 1, "let_relation": "at least", "language": "ko", "num_words": 3, "num_sentences": 3,
    "num_paragraphs": 2, "nth_paragraph": 1, "first_word": "a", "num_placeholders": 1, "postscript_marker": "P.S.",
    "num_bullets": 2, "num_highlights": 1, "section_spliter": "Section", "num_sections": 2, "prompt_to_repeat": "a",
    "end_phrase": "a", "capital_frequency": 1, "capital_relation": "at least",
}  # fmt: skip


def run_all(text, language):
    for name, function in CHECKS.items():
        wanted = function.__code__.co_varnames[2 : function.__code__.co_argcount]
        yield check(text, name, {k: KWARGS[k] for k in wanted if k in KWARGS}, language=language)


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(), max_size=80), st.sampled_from(["en", "zh-Hant", "ja", "ko", "ar", "th", "sw"])
)
def test_no_text_breaks_a_check(text, language):
    assert set(run_all(text, language)) <= {True, False, None}


@pytest.mark.parametrize(
    "unit",
    [
        "a ",
        "字",
        "*",
        "* ",
        "[a",
        "<<a",
        "*a",
        "\n",
        "\n \n",
        "a.\n",
        "「。」",
        "\ud800",
        "👩‍👩‍👧",
        "\u202eab",
        "{",
        "『",
    ],
)
def test_long_texts_take_little_time(unit):
    start = time.perf_counter()
    list(run_all(unit * (100_000 // len(unit)), "en"))
    assert time.perf_counter() - start < 60  # quadratic time would take minutes
