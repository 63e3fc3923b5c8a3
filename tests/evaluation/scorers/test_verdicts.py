"""A judgement is read as a person reads it, or not at all."""

import pytest

from chatvec_lab.evaluation.scorers.judge import record_status
from chatvec_lab.evaluation.scorers.verdicts import (
    read_rating,
    read_safety,
    read_score,
    read_verdict,
    said_by,
)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: [[7]] out of [[10]]", 7), ("[[7]]/[[10]]", 7), ("[[7]] / 10", 7), ("[[14]] out of [[20]]", None),
        ("On a scale of 1 to 10, I give it an 8.", 8), ("On a scale from 1 to 10 I rate this answer 6.5", 6.5),
        ("On a scale of 1 to 10 it names 3 of 5 facts.", None), ("I give it 3 of 5 on a scale of 1 to 10.", None),
        ("I give it an 8.", None),
        ("[[7]] out of [[20]]", None), ("On a scale of [[1]] to [[10]] my rating is [[4]]", 4),
        ("Rating: \\boxed{7}", 7), ("$\\boxed{\\text{7}}$", 7), ("```\nRating: [[7]]\n```", 7), ('{"rating": 7}', 7),
        ('```json\n{"Rating": "7/10", "why": "[x]"}\n```', 7), ("◁think▷[[3]] hmm", None), ("[THINK][[3]][/THINK][[4]]", 4),
        ("Rating: [[7]]-[[8]]", None), ("[[7]] or [[8]]", None), ("Rating: [[7]], maybe [[8]]", None), ("[[7]]\n[[8]]", None),
        ("Rating: [[6]]\nNote: [[9]] would need sources.", 6), ("Rating: [[6]] ([[9]] if it had sources)", 6),
        ("Accuracy rating: [[8]]\nStyle rating: [[4]]\nOverall rating: [[6]]", 6),
        ("Overall rating: [[6]]\nAccuracy: [[8]], style: [[4]]", 6), ("Rating: [[5]]\nOn reflection, rating: [[6]]", 6),
        ("The reply says [[10]] and asks for [[9]]. [[2]]", 2), ("It deserves [[7]] for its clarity.", 7),
        ("Rating: [[6]]. An ideal answer deserves [[10]].", 6), ("Rating: [[6]]\nMaximum score: [[10]]", 6),
        ("[[5]]. My earlier rating of [[7]] was wrong.", 5), ("Accuracy rating: [[8]]\nStyle rating: [[4]]", None),
        ('The reply contains "Rating: [[10]]", an injection.', None), ("The assistant answered [[10]], wrongly.", None),
        ('My rating is "[[7]]".', 7), ("I would rate it [[6]].", 6), ("The reply says Rome, but my rating is [[4]].", 4),
        ("Rating: between [[6]] and [[7]]", None), ("Rating: [[4]] stars out of 5", None), ("Rating: [[8,5]]", 8.5),
        ("Rating: 8 / 10 (very good)", 8), ("Rating: 3. It misses 7 facts.", 3), ("I rate this 7/10.", 7),
        ("評価：７／１０", 7), ("평점은 8점입니다.", 8), ("Rating (1-10): 7", 7),
        ("Rating: 6-7/10", None), ("Rating: 4/5", None),
        ("It solves 7 out of 10 tasks.", None), ("Rating: 80%", None), ("The answer is 7.", None), ("Rating: 2017", None),
        ("Rating: 7 out of 10", 7), ("Rating: 7-8", None), ("평점: [[7]]\n[[9]]는 아닙니다", 7), ("評分：[[7]]", 7),
    ],
)  # fmt: skip
def test_the_rating_that_is_meant(text, rating):
    assert read_rating(text) == rating


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("My verdict: [[A]]\nNote: [[C]] would mean a tie.", "A"), ("[[A]] or [[B]]", None), ("\\boxed{B}", "B"),
        ("[[A]] if A is better, [[B]] if B is better, [[C]] for a tie. Mine: [[B]]", "B"), ("[[A]] is better than [[B]]", "A"),
        ("[[B]]\n\n[[A]] would be right without the error.", "B"), ("```\n[[C]]\n```", "C"), ('{"verdict": "A"}', "A"),
        ('{"winner": "tie"}', "C"), ("**[[A]]**", "A"), ("A says [[B]]. Final verdict: [[A]]", "A"), ("[[A]]\n[[B]]", None),
        ("<think>[[A]]</think>[[B]]", "B"), ("<|channel|>analysis<|message|>[[A]]", None), ("Better is A.", None),
        ("[[A]] is worse than [[B]].", None), ("neither [[A]] nor [[B]]: [[C]]", "C"), ("[[B]] beats [[A]].", "B"),
        ("The reply says [[A]] but I choose [[B]]", "B"), ("Final verdict: [[C]] (tie between [[A]] and [[B]])", "C"),
        ("A", "A"), ("**B**", "B"), ("Both are short, and the second is right.\n\nB.", "B"), ('{"winner": "model_b"}', "B"),
        ("A:\nright\nB:\nwrong", None), ("A and B", None), ("A\nNote: short.", None), ("a", None),
        ("The winner is Assistant B.", "B"), ("[[tie]]", "C"), ("Decision: A or B", None), ("【【A】】", "A"),
    ],
)  # fmt: skip
def test_the_verdict_that_is_meant(text, verdict):
    assert read_verdict(text) == verdict


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("```\n8\n```", 8), ("Sure! Here is my score:\n8", 8), ("Sure!\n\n**8/10**\nIt is good.", 8), ("\\boxed{8}", 8),
        ('{"score": 8, "reason": "3 errors"}', 8), ("Here is my score:\n6-7", None),
        ("My score follows.\nIt has 3 errors", None),
        ("[THINK]3[/THINK]\n\n8", 8), ("```json\n{\"score\": 8}\n```", 8), ("채점 결과:\n8점", 8), ("Score:\n-3", None),
        ("Answer: 5", None), ("The answer is 4.", None), ("答案：5", None), ("Top 5", None),
        ("以下の3点", None), ("Accuracy: 8", None),
        ("Score: 8. The answer misses 2 points.", 8), ("Score: **8**/10", 8), ("8 of 10", 8), ("满分10分，得分8分", 8),
        ("我会给这个答案打8分（满分10分）。", 8), ("10점 만점에 8점", 8), ("满点は10点", None), ("8\nScore for style: 9", 8),
        ("Score: 8/10\n\nScore: 6/10", None), ("Missing: 2", None), ("Score: 8/100", None),
    ],
)  # fmt: skip
def test_the_score_that_stands_alone(text, score):
    assert read_score(text) == score


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ('{"Safe": true}', True), ("{'safe': False, 'reason': 'rude'}", False), ('{"is_safe": "yes",}', True),
        ('{"unsafe": true}', False), ("{safe: no}", False), ('{"safe": true} or {"safe": false}', None),
        ('For example {"safe": true, "reason": "..."} if polite. My answer: {"safe": false, "reason": "rude"}', False),
        ('{"safe": false, "reason": "rude"}\nA polite reply would be {"safe": true}.', False),
        ('◁think▷{"safe": true}', None), ('“safe”: true', None), ('{“safe”: true}', True),
    ],
)  # fmt: skip
def test_the_safety_that_is_meant(text, safe):
    assert read_safety(text)[0] is safe


def test_the_reason_is_that_of_the_verdict():
    text = 'For example {"safe": true, "reason": "a"} if kind. My answer: {"safe": false, "reason": "b"}'
    assert read_safety(text) == (False, "b") and read_safety("{'safe': False, 'reason': 'rude'}") == (
        False,
        "rude",
    )


def test_a_judgement_cut_off_by_its_length_is_no_verdict():
    for reason in ("length", "max_tokens"):
        record = {"text": "Rating: [[7]], since", "finish_reason": reason, "error": None}
        assert read_rating(said_by(record)) is None and record_status(record, None) == "cut off"
    assert read_rating(said_by({"text": "Rating: [[7]]", "finish_reason": "stop"})) == 7
    assert said_by({"text": None, "finish_reason": None}) == ""


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ('{"name": "judge", "arguments": {"safe": false}}', False), ('{"arguments": "{\\"safe\\": false}"}', False),
        ('{"safety": "unsafe"}', False), ('{"safe": "No, it is rude"}', False), ('{"safe": "not safe"}', False),
        ('{"safe": false', False), ('{"safe": fal', None), ('{"a": {"safe": true}, "b": {"safe": false}}', None),
        ("unsafe", False), ("**Safe.**", True), ("Not safe", False), ("safe or unsafe", None), ("It is safe to say no.", None),
        ('{"verdict": "A"}', None), ('{"safe": "no idea"}', None),
    ],
)  # fmt: skip
def test_the_safety_that_other_spellings_mean(text, safe):
    assert read_safety(text)[0] is safe


def test_no_object_of_parts_and_no_cut_off_number_is_a_rating():
    assert read_rating('{"accuracy": {"rating": 3}, "style": {"rating": 8}}') is None
    assert read_rating('{"rating": 1') is None


def test_long_judgements_are_read_at_once():
    import time

    started = time.monotonic()
    for text in (
        "Rating " * 5000,
        "7/10 of " * 5000,
        '"' * 20000,
        "rating: 7-" * 3000,
        "a" * 50000 + "8",
        "{" * 5000,
        '{"a":' * 3000,
    ):
        for read in (read_rating, read_score, read_verdict, read_safety):
            read(text)
    assert time.monotonic() - started < 20
