"""Does the second reply keep the thread? Dialogues with replies whose scores are known."""

import numpy as np
import pandas as pd
import pytest

from chatvec_lab.evaluation.prompts import LANGUAGES, load_prompts, read_prompts
from chatvec_lab.evaluation.prompts.multiturn import multiturn_scores


def dialogue(prompt_id, *replies, language="en", sample=0):
    return pd.DataFrame(
        {"prompt_id": prompt_id, "set": "dialogues", "language": language, "turn": range(1, len(replies) + 1),
         "sample": sample, "response": replies, "scale": 1.0}
    )  # fmt: skip


def score(replies, measure, prompts=None):
    prompts = load_prompts("dialogues", replies.language[0]) if prompts is None else prompts
    found = multiturn_scores(replies, prompts)
    return found[found.measure == measure].score.tolist()


@pytest.mark.parametrize(
    ("prompt_id", "language", "measure", "kept", "lost"),
    [
        (
            "carry-over-1",
            "en",
            "carried_over",
            ["A star. It is hot.", "A rock. It is cold."],
            ["A star. It is hot.", "A rock."],
        ),
        (
            "carry-over-3",
            "ja",
            "carried_over",
            ["光です。ほかに質問はありますか。", "塩です。ほかに質問はありますか。"],
            ["光です。ほかに質問はありますか。", "塩です。"],
        ),
        ("carry-over-3", "sw", "carried_over", ["Anga. Una maswali mengine?"] * 2, ["Anga.", "Chumvi."]),
        (
            "carry-over-4",
            "zh-Hant",
            "carried_over",
            ["- 甲\n- 乙\n- 丙", "- 丁\n- 戊\n- 己"],
            ["- 甲\n- 乙\n- 丙", "專心"],
        ),
        ("reference-1", "ko", "refers_back", ["공놀이요.", "코코예요."], ["공놀이요.", "모르겠어요."]),
        (
            "reference-4",
            "es",
            "refers_back",
            ["La ciruela.", "Manzana\nPera\nCiruela"],
            ["La ciruela.", "Pera"],
        ),
        (
            "revision-1",
            "ar",
            "refers_back",
            ["النحل مهم جدًا لنا.", "النحل مهم."],
            ["النحل مهم.", "النحل مهم جدًا لنا."],
        ),
        ("revision-2", "zh-Hans", "refers_back", ["海很大。", "海很大，也很深。"], ["海很大。", "大海"]),
    ],
)
def test_a_kept_and_a_lost_thread(prompt_id, language, measure, kept, lost):
    assert score(dialogue(prompt_id, *kept, language=language), measure) == [1]
    assert score(dialogue(prompt_id, *lost, language=language), measure) == [0]


def test_saying_the_same_again_is_seen_in_any_set():
    plain = read_prompts([{"id": "q1", "turns": ["Why?", "And then?"]}], language="en", set="mt-bench")
    assert score(dialogue("q1", "Because.", "Because. "), "repeats", plain) == [1]
    found = multiturn_scores(dialogue("q1", "Because.", "Then so."), plain)
    assert found.score.tolist() == [0] and found.measure.tolist() == ["repeats"]
    assert {"prompt_id", "sample", "scale", "turn"} <= set(found) and (found.turn == 2).all()


def test_samples_stay_apart_and_missing_replies_are_missing():
    replies = pd.concat(
        [dialogue("revision-1", "One two three.", "One.", sample=0), dialogue("revision-1", "One.", None, sample=1),
         dialogue("revision-1", None, "One two.", sample=2)], ignore_index=True
    )  # fmt: skip
    found = multiturn_scores(replies, load_prompts("dialogues", "en")).set_index(["sample", "measure"]).score
    assert found[0, "refers_back"] == 1 and found[0, "repeats"] == 0
    assert (
        np.isnan(found[1, "refers_back"])
        and np.isnan(found[2, "refers_back"])
        and np.isnan(found[2, "repeats"])
    )


def test_every_dialogue_has_a_measure_in_every_language():
    for language in LANGUAGES:
        prompts = load_prompts("dialogues", language)
        replies = pd.concat([dialogue(p, "一 two", "一", language=language) for p in prompts.prompt_id])
        found = multiturn_scores(replies.reset_index(drop=True), prompts)
        assert found.groupby("prompt_id").measure.nunique().eq(2).all()
        assert found.score.isin([0, 1]).all()


def test_hostile_texts_do_not_crash():
    for text in ("", " \n", "👩‍👩‍👧", "\u202eabc", "\ud800", "字" * 100_000):
        replies = dialogue("revision-1", "one", "two")
        replies["response"] = pd.Series([text, text], dtype=object)  # str columns refuse \ud800
        assert len(score(replies, "refers_back")) == 1
