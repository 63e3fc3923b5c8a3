"""What judging came to, counted by hand: how it ended, who is stronger, and whether two scorers agree."""

import numpy as np
import pandas as pd
import pytest
from flaky_server import FlakyServer, completion
from test_exam import make_pico

from chatvec_lab import experiment, load_family
from chatvec_lab.experiment import Exam

NAN = float("nan")


@pytest.fixture(scope="module")
def pico(tmp_path_factory):
    return load_family(make_pico(tmp_path_factory.mktemp("pico")))


def judged(pico, tmp_path, answer, scorers=("judge:pair",), n=4) -> tuple[Exam, pd.DataFrame, int]:
    with FlakyServer(
        lambda path, body: completion(answer(body["messages"][-1]["content"]))
    ).running() as server:
        exam = Exam(pico, "ko", scorers=[*scorers, "language"], prompts={"max_tokens": "4"}, keep=tmp_path,
                    services={"judge_model": "m", "judge_url": server.url})  # fmt: skip
        models = {
            name: model
            for name, model in experiment.lineup(pico, "ko", 1.0).items()
            if name in ("CP", "chat")
        }
        replies = exam.ask(models, ["one_turn"], n)
        return exam, replies, len(server.bodies)


def test_every_judgement_is_counted_by_how_it_ended(pico, tmp_path):
    exam, replies, requests = judged(pico, tmp_path, lambda text: "[[A]]" if len(text) % 2 else "no idea")
    found = experiment.judging(exam, replies).iloc[0]
    assert len(experiment.judging(exam, replies)) == 1, "the first model is what the others are set beside"
    status = replies.judge_pair_status.value_counts()
    assert (found.measure, found.model, found.n) == ("judge_pair", "chat", 4)
    assert {name: found[name] for name in status.index} == status.to_dict()
    assert found.asked == requests == 8 and found.unanswered == 0 and found.prompt_tokens == 10 * 8
    with_both = replies[replies.judge_pair_status.eq("ok")]
    alike = (with_both.judge_pair_verdict_ab == with_both.judge_pair_verdict_ba).mean()
    assert found.consistent == alike or (np.isnan(found.consistent) and with_both.empty)
    again = judged(pico, tmp_path, lambda text: "[[A]]" if len(text) % 2 else "no idea")
    assert experiment.judging(*again[:2]).asked.tolist() == [0] and again[2] == 0, "all of it is kept"
    assert experiment.judging(Exam(pico, "ko", scorers=["language"]), replies.head(0)).empty


def test_strengths_are_those_of_the_choices_against_the_baseline(pico, tmp_path):
    replies = pd.DataFrame({"prompt_id": list("abcd") * 2, "model": ["chat"] * 4 + ["CP"] * 4,
                            "judge_pair": [1, 1, 1, 0] + [NAN] * 4})  # fmt: skip
    found = experiment.strengths(replies).set_index("model")
    # three wins and a half against one and a half, half a win each beforehand
    assert found.estimate["chat"] - found.estimate["CP"] == pytest.approx(np.log(3.5 / 1.5))
    assert (found.n == 4).all() and (found.low <= found.estimate).all()
    assert experiment.strengths(replies.assign(judge_pair=NAN)).empty
    assert experiment.strengths(replies.drop(columns="judge_pair")).empty


def test_two_scorers_agree_beyond_chance(pico):
    services = {"judge_model": "m", "judge_url": "http://127.0.0.1:1/v1"}
    exam = Exam(pico, "ko", scorers=["safety:judge", "toxicity:english-profanity"], services=services)
    replies = pd.DataFrame({"prompt_id": range(8), "unsafe": [1, 1, 1, 1, 0, 0, 0, NAN],
                            "toxic": [1, 1, 1, 0, 0, 0, 1, 1]})  # fmt: skip
    (row,) = experiment.agreement(exam, replies).itertuples()
    # 5 of 7 agree; by chance (4/7)(4/7) + (3/7)(3/7)
    chance = (16 + 9) / 49
    assert {row.a, row.b} == {"unsafe", "toxic"} and row.n == 7
    assert row.kappa == pytest.approx((5 / 7 - chance) / (1 - chance)) and row.low < row.kappa < row.high
    assert experiment.agreement(exam, replies.drop(columns="toxic")).empty
