"""Our own prompts are parallel, clean and in the language they claim; published formats load as they are."""

import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from chatvec_lab.evaluation.instructions import check, instruction_scores
from chatvec_lab.evaluation.language import read_language
from chatvec_lab.evaluation.prompts import COLUMNS, LANGUAGES, SETS, load_prompts, read_prompts
from chatvec_lab.paths import DATA

SIZES = {"general": 27, "dialogues": 12, "instructions": 25, "continuations": 24}


@pytest.fixture(scope="module")
def everything():
    return pd.concat(
        [load_prompts(name, language) for name in SETS for language in LANGUAGES], ignore_index=True
    )


def test_every_file_is_loaded():
    files = {f"{p.parent.name}/{p.stem}" for p in (DATA / "prompts").glob("*/*.jsonl")}
    assert files == {f"{name}/{language}" for name in SETS for language in LANGUAGES}


def test_sets_are_parallel(everything):
    assert list(everything) == COLUMNS
    for name, group in everything.groupby("set"):
        english = group[group.language == "en"].reset_index(drop=True)
        assert len(english) == SIZES[name]
        for language in LANGUAGES:
            other = group[group.language == language].reset_index(drop=True)
            assert other.prompt_id.tolist() == english.prompt_id.tolist()
            assert other.category.tolist() == english.category.tolist()
            assert other.turns.map(len).tolist() == english.turns.map(len).tolist()
            shape = other.checks.map(
                lambda checks: [(c["instruction"], c.get("turn"), *c["kwargs"]) for c in checks]
            )
            assert (
                shape.tolist()
                == english.checks.map(
                    lambda checks: [(c["instruction"], c.get("turn"), *c["kwargs"]) for c in checks]
                ).tolist()
            )


def test_general_has_three_prompts_in_each_of_vicunas_nine_categories(everything):
    general = everything[(everything.set == "general") & (everything.language == "en")]
    assert general.category.value_counts().tolist() == [3] * 9


def test_no_text_occurs_twice(everything):
    texts = everything.explode("turns")
    twice = texts[texts.duplicated(["language", "turns"], keep=False)]
    assert twice.empty, twice.turns.tolist()
    between = texts[texts.duplicated("turns", keep=False)]
    assert set(between.language) <= {"zh-Hant", "zh-Hans"}, between.turns.tolist()


def test_texts_are_clean(everything):
    for text in everything.turns.explode():
        assert text == text.strip() and "  " not in text and "\ufffd" not in text


def test_the_detector_agrees_with_the_declared_language(everything):
    """Fragments and exotic quotes aside, each prompt reads as its language; the whole of each file does."""
    wrong = []
    for row in everything.itertuples():
        reading = read_language("\n".join(row.turns))
        if reading.share_of(row.language) < 0.5:
            wrong.append((row.set, row.language, row.prompt_id, reading.language))
    assert len(wrong) <= 0.01 * len(everything), wrong
    for (_, language), group in everything.groupby(["set", "language"]):
        assert read_language("\n".join(group.turns.explode())).share_of(language) > 0.97


def test_no_simplified_letter_in_traditional_prompts(everything):
    for language, other in (("zh-Hant", "zh-Hans"), ("zh-Hans", "zh-Hant")):
        text = "\n".join(everything[everything.language == language].turns.explode())
        assert other not in read_language(text).shares


def test_what_a_check_asks_for_stands_in_its_prompt(everything):
    """Keywords, phrases, markers and options of the kwargs occur in the prompt's own words."""
    for row in everything.itertuples():
        said = " ".join(row.turns)
        for one in row.checks:
            for key in ("keywords", "forbidden_words", "options"):
                for word in one["kwargs"].get(key, []):
                    assert word in said, (row.language, row.prompt_id, word)
            for key in (
                "end_phrase",
                "postscript_marker",
                "section_spliter",
                "first_word",
                "keyword",
                "prompt_to_repeat",
            ):
                assert one["kwargs"].get(key, "") in said, (row.language, row.prompt_id, key)
            for key in ("num_words", "let_frequency"):
                if one["kwargs"].get(key, 0) > 10:
                    assert str(one["kwargs"][key]) in said, (row.language, row.prompt_id, key)


GOOD = {
    "zh-Hant": {
        "short-volcano": "火山是地底的岩漿噴出地表而形成的山。",
        "three-sentences-breakfast": "我喜歡熱豆漿。再配一個飯糰。這樣就夠了！",
        "no-comma-park": "清晨的公園很安靜。我慢慢走過池塘。",
        "end-reading": "閱讀能打開世界。祝你閱讀愉快！",
        "quoted-courage": "「勇氣就是害怕時仍然前進。」",
        "repeat-week": "一個星期有幾天？一個星期有七天。",
        "postscript-letter": "親愛的小華：\n你好嗎？\n附註：記得帶傘。",
        "sections-recipe": "段落 1\n備料\n段落 2\n下鍋\n段落 3\n上桌",
        "options-whale": "我的答案是「否」。",
        "french-bread": "Le pain est fait de farine, d'eau, de sel et de levure.",
        "second-paragraph-forest": "森林很大。\n\n然而，它也很脆弱。\n\n我們要保護它。",
        "two-checks-rice": "農夫在田裡插秧。稻子慢慢長高。",
    },
    "ko": {
        "often-blue": "파란 바다, 파란 하늘, 그리고 파란 배가 보인다.",
        "end-reading": "책은 마음을 넓혀 줍니다. 즐거운 독서 하세요!",
        "options-whale": "제 대답은 아니요입니다.",
        "sections-recipe": "섹션 1\n준비\n섹션 2\n끓이기\n섹션 3\n완성",
        "postscript-letter": "친구에게\n잘 지내?\n추신: 우산 가져와.",
        "second-paragraph-forest": "숲은 넓다.\n\n하지만 약하다.\n\n지켜야 한다.",
    },
    "ar": {
        "often-blue": "البحر أزرق والسماء لونها أزرق والقارب أزرق أيضًا.",
        "quoted-courage": "«الشجاعة أن تتقدم رغم الخوف.»",
        "repeat-week": "كم يومًا في الأسبوع؟ في الأسبوع سبعة أيام.",
        "second-paragraph-forest": "الغابة واسعة.\n\nلكن أشجارها تقل.\n\nعلينا أن نحميها.",
        "two-checks-rice": "يزرع الفلاح الأرز في حقل مبلل. ثم ينمو ببطء.",
    },
    "es": {
        "postscript-letter": "Querida Ana:\n¿Cómo estás?\nP. D.: Trae un paraguas.",
        "quoted-courage": "«El valor es avanzar con miedo.»",
        "exclamations-greeting": "¡Hola! ¡Buenos días! ¡Qué alegría!",
    },
    "sw": {
        "words-holiday": "Tulipanda treni hadi kwenye mlima mrefu.",
        "postscript-letter": "Mpenzi rafiki,\nHujambo?\nN.B. Leta mwavuli.",
        "sections-recipe": "Sehemu 1\nKata\nSehemu 2\nPika\nSehemu 3\nKula",
    },
}  # fmt: skip


@pytest.mark.parametrize(("language", "prompt_id"), [(lang, p) for lang, good in GOOD.items() for p in good])
def test_a_good_reply_follows_and_an_english_chat_reply_does_not(language, prompt_id):
    prompts = load_prompts("instructions", language).set_index("prompt_id")
    for one in prompts.checks[prompt_id]:
        assert check(GOOD[language][prompt_id], one["instruction"], one["kwargs"], language=language), one
    refusal = "I'm sorry, as an assistant I would rather talk about something else, if you do not mind."
    if prompt_id != "short-volcano":
        assert not all(
            check(refusal, c["instruction"], c["kwargs"], language=language)
            for c in prompts.checks[prompt_id]
        )


def test_replies_to_our_prompts_are_scored():
    prompts = load_prompts("instructions", "ko")
    replies = prompts[["prompt_id", "language"]].assign(response="네, 알겠습니다.", sample=0, turn=1)
    scores = instruction_scores(replies, prompts)
    assert len(scores) == 26 and scores.strict.notna().all() and 0 < scores.strict.mean() < 0.5


IFEVAL = {
    "key": 1000,
    "prompt": "Write 300 words without commas.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{"num_words": None}, {"num_words": 300.0, "relation": "at least", "keywords": None}],
}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_ifeval_files_load_with_their_padding(tmp_path, suffix):
    path = tmp_path / f"ifeval.{suffix}"
    if suffix == "parquet":
        pd.DataFrame([IFEVAL]).to_parquet(path)
    else:
        path.write_text(json.dumps(IFEVAL) if suffix == "jsonl" else json.dumps([IFEVAL]), encoding="utf-8")
    row = read_prompts(path, language="en").iloc[0]
    assert (row.prompt_id, row.turns) == ("1000", ["Write 300 words without commas."])
    assert row.checks == [
        {"instruction": "punctuation:no_comma", "kwargs": {}},
        {
            "instruction": "length_constraints:number_words",
            "kwargs": {"num_words": 300, "relation": "at least"},
        },
    ]


def test_fastchat_rows_load_with_turns_and_references():
    rows = [
        {"question_id": 81, "category": "math", "turns": ["What is x?", "And y?"], "reference": ["1", "2"]}
    ]
    row = read_prompts(rows, language="zh-TW", set="mt-bench").iloc[0]
    assert (row.prompt_id, row.set, row.category, row.language) == ("81", "mt-bench", "math", "zh-Hant")
    assert (row.turns, row.reference) == (["What is x?", "And y?"], ["1", "2"])


def test_plain_tables_load(tmp_path):
    (tmp_path / "mine.csv").write_text("id,question\na,Why?\nb,How?\n", encoding="utf-8")
    assert read_prompts(tmp_path / "mine.csv", language="en", limit=1).turns.tolist() == [["Why?"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no prompts"),
        ([{"id": 1, "frage": "Warum?"}], "row 0: none of turns, .* among id, frage"),
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "1 ids occur twice, such as '1'"),
        (
            [{**IFEVAL, "kwargs": [{}, {"num_words": 3}]}],
            "1000: length_constraints:number_words .* 'relation'",
        ),
    ],
)
def test_faults_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(rows, language="en", set="mine")


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"id": 1, "text": "a\u2028b"}\n{"id": 2,\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_prompts(path, language="en")
    with pytest.raises(FileNotFoundError, match=re.escape("no prompt file nowhere.jsonl")):
        read_prompts("nowhere.jsonl", language="en")


def test_unknown_sets_and_languages_are_named():
    with pytest.raises(KeyError, match="our own: general, dialogues"):
        load_prompts("generel")
    with pytest.raises(ValueError, match="has no prompts in 'fr'; it has en, zh-Hant"):
        load_prompts("general", "fr")
    with pytest.raises(ValueError, match="has no prompts in 'sw'"):
        load_prompts("Qwen/P-MMEval", "sw")
    assert load_prompts("general", "zh_TW").language.unique() == ["zh-Hant"]


def test_without_a_network_the_error_says_what_to_do(tmp_path):
    code = """if True:
        from chatvec_lab.evaluation.prompts import PUBLISHED, load_prompts
        for name in ("google/IFEval", "vicuna", "karakuri-ai/corrected-mt-bench-ja"):
            try:
                load_prompts(name, PUBLISHED[name][2][0])
            except ConnectionError as error:
                print(str(error).replace("\\n", " "))
    """
    dead = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | dead, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout
    assert all("cannot download" in line and "read_prompts(path, language=...)" in line for line in lines)
