"""The sentences of notebook 01: the verdict on the merged model is the audit's, -0.0 is no failure of it."""

import pandas as pd

from chatvec_lab.experiment.merging import back_to_chat_in_words, chat_vector_answer
from chatvec_lab.weights.saving.audit import CAUSES

SOUND = pd.DataFrame({"tensor": ["a", "b"], "checked": [10, 10], "wrong": [0, 0], "reason": ["", ""]})


def back(**elements):
    named = dict(zip(("bits", "zero", "dtype", "more", "less", "other"), CAUSES, strict=True))
    return pd.DataFrame([{"cause": cause, "elements": elements.get(key, 0)} for key, cause in named.items()])


def answer(audited=SOUND, identities=None, told=None):
    return chat_vector_answer(
        parameters=1000, relative=0.05, cp_relative=0.2, language="ko", audited=audited,
        identities=identities or {"live = saved": True}, back=back(bits=5) if told is None else told,
    )  # fmt: skip


def test_minus_zero_is_told_and_no_failure():
    text = answer(told=back(bits=90, zero=10))
    assert "The merged model is what the formula says: none of 20 elements" in text and "NOT" not in text
    assert (
        "bit for bit, in 90 of 100 elements" in text
        and "10 that are -0.0 in chat and come back as 0.0" in text
    )


def test_a_wrong_element_is_the_verdict_whatever_else_holds():
    text = answer(audited=SOUND.assign(wrong=[0, 3]))
    assert (
        "The merged model is NOT what the formula says: 3 of 20 elements" in text
        and "most of them in b" in text
    )


def test_what_is_not_vouched_for_is_not_called_right():
    text = answer(audited=SOUND.assign(reason=["", "no tokens"], checked=[10, 0]))
    assert "cannot be vouched for in 1 of 2 tensors (b: no tokens)" in text


def test_an_identity_that_fails_is_named():
    text = answer(identities={"live = saved": False, "scale 0 = CP": True})
    assert "1 of 2 identities hold bit by bit, not: live = saved." in text


def test_every_cause_has_its_words():
    for key in ("zero", "dtype", "more", "less", "other"):
        assert "7 " in back_to_chat_in_words(back(bits=1, **{key: 7}))
    assert back_to_chat_in_words(back(bits=3)) == "base + τ is chat, bit for bit, in all 3 elements."
