"""Our own prompts (data/prompts): counts, ids, checks, lengths and language, in every language alike."""

import itertools
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from chatvec_lab.evaluation.instructions import CHECKS, check, instruction_scores
from chatvec_lab.evaluation.language import read_language
from chatvec_lab.evaluation.prompts import COLUMNS, LANGUAGES, SETS, load_prompts
from chatvec_lab.evaluation.scorers.checks import COMPARISONS, count_words
from chatvec_lab.paths import DATA

VICUNA = [
    "generic", "knowledge", "roleplay", "common-sense", "fermi", "counterfactual", "coding", "math", "writing",
]  # fmt: skip
HOSTILE = ["insults", "unfairness", "private-facts", "rude-role-play"]
CATEGORIES = {
    "general": dict.fromkeys(VICUNA, 10),
    "dialogues": dict.fromkeys(["carry-over", "reference", "revision"], 20),
    "instructions": {
        "length": 23, "format": 25, "keywords": 17, "content": 8, "combination": 8, "ending": 8, "language": 4,
        "case": 4, "punctuation": 3,
    },
    "hostile": dict.fromkeys(HOSTILE, 30),
    "harmless": dict.fromkeys(HOSTILE, 30),
    "continuations": dict.fromkeys(["harmless", "neutral", "tense", "hostile"], 15),
}  # fmt: skip
SIZES = {name: sum(counts.values()) for name, counts in CATEGORIES.items()}

# Not carried over from English yet: a language listed here may lack new prompts; none may once this is empty.
WAITING = ()

REFERENCE_WORDS = {
    "en": (40, 120), "es": (40, 140), "sw": (30, 120), "ar": (28, 115), "ko": (22, 110),
    "zh-Hant": (55, 270), "zh-Hans": (55, 270), "ja": (70, 400),
}  # fmt: skip
PROMPT_LETTERS = {"en": (15, 400), "es": (15, 450), "sw": (15, 450), "ar": (10, 400)}
UNSPACED = ("zh-Hant", "zh-Hans", "ja")
CASELESS = (*UNSPACED, "ko", "ar")
SAMPLES = Path(__file__).parent / "good_replies"
REFUSAL = "I'm sorry, as an assistant I would rather talk about something else, if you do not mind."
EVERY = [(name, language) for name in SETS for language in LANGUAGES]


def file_of(name, language):
    return DATA / "prompts" / name / f"{language}.jsonl"


def is_complete(name, language):
    return file_of(name, language).is_file() and len(load_prompts(name, language)) == SIZES[name]


COMPLETE = [which for which in EVERY if is_complete(*which)]
of_complete_sets = pytest.mark.parametrize(("name", "language"), COMPLETE)


def complete_languages(name):
    return [language for other, language in COMPLETE if other == name]


@pytest.fixture(scope="module")
def everything():
    there = [load_prompts(*which) for which in EVERY if file_of(*which).is_file()]
    return pd.concat(there, ignore_index=True)


def shape(checks):
    return [(one["instruction"], one.get("turn"), one.get("measure"), *one["kwargs"]) for one in checks]


def test_every_file_is_a_set_of_ours_and_only_languages_that_wait_are_short():
    files = {f"{path.parent.name}/{path.stem}" for path in (DATA / "prompts").glob("*/*.jsonl")}
    assert files <= {f"{name}/{language}" for name, language in EVERY}
    assert set(CATEGORIES) == set(SETS)
    short = {language for name, language in EVERY if (name, language) not in COMPLETE}
    assert "en" not in WAITING and short <= set(WAITING), short


@of_complete_sets
def test_sets_are_complete_and_parallel(name, language):
    english, other = load_prompts(name, "en"), load_prompts(name, language)
    assert list(other) == COLUMNS
    assert other.prompt_id.tolist() == english.prompt_id.tolist()
    assert other.category.tolist() == english.category.tolist()
    assert other.category.value_counts().to_dict() == CATEGORIES[name]
    assert other.turns.map(len).tolist() == english.turns.map(len).tolist()
    assert other.turns.map(len).unique().tolist() == [2 if name == "dialogues" else 1]
    assert other.checks.map(shape).tolist() == english.checks.map(shape).tolist()
    assert other.checks.map(bool).all() == (name in ("dialogues", "instructions"))
    assert other.reference.notna().all() == (name == "general")
    for line in file_of(name, language).read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["language"] == language


def test_a_language_that_waits_has_a_part_of_the_english_ids_in_the_same_order(everything):
    for (name, _), group in everything.groupby(["set", "language"]):
        english = load_prompts(name, "en")
        known = dict(zip(english.prompt_id, english.category, strict=True))
        assert [known[i] for i in group.prompt_id] == group.category.tolist()
        assert group.prompt_id.tolist() == [i for i in known if i in set(group.prompt_id)]


def test_ids_tell_prompts_apart_across_sets_too():
    english = pd.concat([load_prompts(name, "en") for name in SETS])
    assert english.prompt_id.is_unique and english.prompt_id.str.fullmatch(r"[a-z][a-z0-9-]*").all()


@pytest.mark.parametrize("language", complete_languages("harmless"))
def test_each_hostile_prompt_has_a_harmless_look_alike(language):
    hostile, harmless = load_prompts("hostile", language), load_prompts("harmless", language)
    assert harmless.prompt_id.tolist() == (hostile.prompt_id + "-harmless").tolist()
    alike = [
        similarity(units(bad[0], language), units(good[0], language))
        for bad, good in zip(hostile.turns, harmless.turns, strict=True)
    ]
    assert pd.Series(alike).between(0.1, 0.95).all() and pd.Series(alike).median() > 0.3, sorted(alike)[:5]


def units(text, language):
    """Words, or pairs of neighbouring characters where words are not spaced: what a text is compared by."""
    words = re.findall(r"\w+", text.casefold())
    if language not in UNSPACED:
        return frozenset(words)
    return frozenset(word[i : i + 2] for word in words for i in range(max(1, len(word) - 1)))


def similarity(one, other):
    return len(one & other) / len(one | other)


@of_complete_sets
def test_no_near_duplicates(name, language):
    prompts = load_prompts(name, language).explode("turns")
    texts = [(row.prompt_id, units(row.turns, language)) for row in prompts.itertuples()]
    near = [
        (one, other) for (one, a), (other, b) in itertools.combinations(texts, 2) if similarity(a, b) > 0.65
    ]
    assert not near


def test_no_text_occurs_twice(everything):
    texts = everything.explode("turns")
    twice = texts[texts.duplicated(["language", "turns"], keep=False)]
    assert twice.empty, twice.turns.tolist()
    between = texts[texts.duplicated("turns", keep=False)]
    assert set(between.language) <= {"zh-Hant", "zh-Hans"}, between.turns.tolist()


def test_texts_are_clean(everything):
    for text in everything.turns.explode():
        lines = text.split("\n") if "range(" in text else [text]  # one prompt shows indented code
        assert text == text.strip() and "\ufffd" not in text
        assert all("  " not in line.strip() for line in lines), text
    for text in everything.reference.dropna().explode():
        assert text == text.strip() and "\ufffd" not in text


@of_complete_sets
def test_prompts_have_a_sane_length(name, language):
    least, most = PROMPT_LETTERS.get(language, (5, 250))
    wrong = {
        text: len(text)
        for text in load_prompts(name, language).turns.explode()
        if not least <= len(text) <= most and not (name == "dialogues" and 4 <= len(text) < least)
    }
    assert not wrong


@pytest.mark.parametrize("language", complete_languages("general"))
def test_every_general_question_has_a_reference_answer_of_some_length_in_its_language(language):
    least, most = REFERENCE_WORDS[language]
    for row in load_prompts("general", language).itertuples():
        (reference,) = row.reference
        assert least <= count_words(reference, language) <= most, (row.prompt_id, reference)
        if row.category != "coding":
            assert read_language(reference).share_of(language) > 0.5, row.prompt_id


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


def test_every_kind_of_check_is_asked_for():
    asked = {one["instruction"] for checks in load_prompts("instructions", "en").checks for one in checks}
    assert asked == set(CHECKS)
    compared = {one["instruction"] for checks in load_prompts("dialogues", "en").checks for one in checks}
    assert set(COMPARISONS) <= compared


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


def follows(reply, checks, language):
    return all(check(reply, one["instruction"], one["kwargs"], language=language) for one in checks)


@pytest.mark.parametrize("language", complete_languages("instructions"))
@pytest.mark.parametrize("reply", ["nothing", "the prompt", "a refusal"])
def test_an_empty_or_echoing_reply_and_a_refusal_follow_no_instruction(reply, language):
    for row in load_prompts("instructions", language).itertuples():
        text = {"nothing": "", "the prompt": row.turns[0], "a refusal": REFUSAL}[reply]
        assert not follows(text, row.checks, language), row.prompt_id


@pytest.mark.parametrize("language", complete_languages("dialogues"))
def test_an_echoing_second_reply_and_a_refusal_do_not_keep_the_thread(language):
    for row in load_prompts("dialogues", language).itertuples():
        second = [one for one in row.checks if one["turn"] == 2]
        alone = [one for one in second if one["instruction"] not in COMPARISONS]
        assert second, row.prompt_id
        for text in ("", row.turns[1], REFUSAL):
            assert not alone or not follows(text, alone, language), (row.prompt_id, text)


GOOD = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(SAMPLES.glob("*.json"))}


@pytest.mark.parametrize(("language", "prompt_id"), [(lang, p) for lang, good in GOOD.items() for p in good])
def test_a_good_reply_follows(language, prompt_id):
    prompts = load_prompts("instructions", language).set_index("prompt_id")
    for one in prompts.checks[prompt_id]:
        assert check(GOOD[language][prompt_id], one["instruction"], one["kwargs"], language=language), one


@pytest.mark.parametrize("language", complete_languages("instructions"))
def test_a_third_of_the_instructions_have_a_good_reply_of_every_kind_of_check(language):
    prompts = load_prompts("instructions", language)
    shown = prompts[prompts.prompt_id.isin(GOOD.get(language, {}))]
    assert len(shown) >= len(prompts) / 3
    shown_kinds = {one["instruction"] for checks in shown.checks for one in checks}
    without = {kind for kind in CHECKS if language in CASELESS and kind.startswith("change_case")}
    assert shown_kinds >= set(CHECKS) - without


def test_replies_to_our_prompts_are_scored():
    prompts = load_prompts("instructions", "ko")
    replies = prompts[["prompt_id", "language"]].assign(response="네, 알겠습니다.", sample=0, turn=1)
    scores = instruction_scores(replies, prompts)
    has_case = scores.instruction.str.startswith("change_case")
    assert len(scores) == prompts.checks.map(len).sum() and (scores.strict.isna() == has_case).all()
    assert 0 < scores.strict.mean() < 0.5
