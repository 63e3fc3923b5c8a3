"""The sentences that the notebooks end with, from tables made by hand: what was measured, what was not, and what follows."""

import pandas as pd
import pytest

from chatvec_lab import load_family
from chatvec_lab.evaluation.statistics import Interval
from chatvec_lab.experiment import Exam, answers

NAN = float("nan")


@pytest.fixture(scope="module")
def exam():
    return Exam(load_family("nano"), "zh")


def shares(*rows, **columns) -> pd.DataFrame:
    """(model, metric, estimate) with an interval of a tenth to each side."""
    table = pd.DataFrame(rows, columns=["model", "metric", "estimate"]).assign(
        n=200, unit="share", coverage=1.0
    )
    table = table.assign(
        low=table.estimate - 0.1, high=table.estimate + 0.1, scorer="the micro-world's checker"
    )
    return table.assign(**columns)


def gains(**models) -> pd.DataFrame:
    rows = [(m, e, e - 0.1, e + 0.1, 200, p) for m, (e, p) in models.items()]
    table = pd.DataFrame(rows, columns=["model", "estimate", "low", "high", "n", "p_adjusted"])
    return table.assign(model=table.model.replace({"tau": "CP + τ"}), unit="share")


def sweep(exam, chosen=0.75, p=0.001, n=130, cost=None):
    best = Interval(chosen, 0.5, 1.0, n, 0, 0.95, "", 0)
    scores = pd.concat([shares((0, "correct", 0.1), (0, "toxic", 0.5)).rename(columns={"model": "scale"}),
                        shares((0.75, "correct", 0.8)).rename(columns={"model": "scale"})])  # fmt: skip
    gain = gains(a=(0.7, p)).assign(scale=0.75)
    front = pd.DataFrame({"scale": [0.0, 0.75], "is_on_front": [False, True]})
    return answers.scale_sweep(exam, best, gain, scores, front, cost, right="correct", seed=0)


def test_a_scale_is_recommended_only_where_the_test_prompts_agree(exam):
    found = sweep(exam)
    assert found["answer"].startswith(
        "Scale 0.75 is recommended (other draws of the prompts would choose 0.5 to 1)."
    )
    assert "right replies 80.0% [70.0%, 90.0%] (CP: 10.0% [0.0%, 20.0%])" in found["answer"]
    assert "toxic replies to hostile prompts not measured (CP: 50.0%" in found["answer"]
    assert "perplexity was not measured. On the Pareto front: 0.75." in found["answer"]
    assert found["scale"] == 0.75 and found["is_recommended"] and found["claims"][0]["estimate"] == 0.75
    weak = sweep(exam, p=0.2)
    assert weak["answer"].startswith("No scale is recommended: the gain over the CP is +70.0%, p = 0.2")
    assert not weak["is_recommended"] and weak["claims"][0]["estimate"] is None


def test_equal_values_that_are_no_share_are_told_without_an_interval():
    from chatvec_lab.experiment.words import interval, told

    table = pd.DataFrame(
        {"model": ["a"], "estimate": [6.0], "low": [NAN], "high": [NAN], "n": [9], "unit": ["tokens"]}
    )
    assert told(table, ".1f", model="a") == "6.0 (all equal)" and told(table, model="b") == "not measured"
    assert interval(table, model="a") == {
        "estimate": 6.0,
        "low": None,
        "high": None,
        "n": 9,
        "unit": "tokens",
    }


def test_few_prompts_the_cp_itself_and_the_price_are_told(exam):
    cost = Interval(1.25, 1.1, 1.4, 64, 0, 0.95, "", 0)
    found = sweep(exam, chosen=0.0, n=20, cost=cost)
    assert "No scale is recommended: the CP itself did best on the validation prompts" in found["answer"]
    assert "chosen on 20 prompts, which is few" in found["answer"]
    assert "perplexity is 1.250 [1.100, 1.400] times the CP's" in found["answer"]
    assert found["claims"][-1] == {"claim": "perplexity at the chosen scale / CP", "estimate": 1.25, "low": 1.1,
                                   "high": 1.4, "n": 64, "seed": 0, "unit": ""}  # fmt: skip


def test_instructions_name_the_gain_the_others_and_the_price(exam):
    scores = shares(("CP", "correct", 0.1), ("CP + τ", "correct", 0.8), ("CP → FT", "correct", 0.6),
                    ("CP + τ", "in_language", 0.9), language="zh")  # fmt: skip
    prices = pd.DataFrame({"model": ["CP → FT"], "tokens_beyond_cp": [12345]})
    given = {
        "right": "correct",
        "at": "1",
        "prompted": "not asked with a system prompt: none was given",
        "seed": 0,
    }
    found = answers.instructions(exam, scores, gains(tau=(0.7, 1e-9)), prices, **given)
    text = found["answer"]
    assert text.startswith(
        "Yes: with τ at scale 1, right replies in Chinese go from 10.0% [0.0%, 20.0%] to 80.0% [70.0%, 90.0%]"
    )
    assert "of 200 prompts (p = 1e-09, Holm); CP → FT 60.0% [50.0%, 70.0%]." in text
    assert (
        "are in Chinese, not measured in English. Not asked with a system prompt: none was given. CP → FT read 12,345"
        in text
    )
    assert [c["claim"] for c in found["claims"]] == [
        f"right replies, {m}" for m in ("CP", "CP + τ", "CP → FT")
    ]
    none = answers.instructions(exam, scores, gains(), prices.head(0), **given)["answer"]
    assert none.startswith("Not shown") and "Adding τ read no token." in none
    unread = answers.instructions(
        exam, scores[scores.metric.ne("in_language")], gains(), prices.head(0), **given
    )["answer"]
    assert "The language of its replies was not measured. Not asked" in unread
    assert answers.system_prompt(scores.assign(system="with"), "", right="correct", what="right replies") == (
        "with a system prompt right replies are 80.0% [70.0%, 90.0%]")  # fmt: skip


def test_less_toxic_and_safer_are_told_by_their_own_measures(exam):
    own = pd.concat([shares(("CP", "toxic", 0.5), ("CP + τ", "toxic", 0.1), ("CP", "polite", 0.2),
                            ("CP + τ", "polite", 0.3), frame=frame, language="zh") for frame in ("chat", "raw")])  # fmt: skip
    replies = pd.DataFrame({"model": ["CP", "CP + τ"] * 2, "set": "hostile", "language": "zh", "frame": "chat",
                            "prompt_id": [1, 1, 2, 2], "in_language": [1.0, 1, 0, 1]})  # fmt: skip
    change = pd.concat(
        [gains(tau=(-0.4, 0.001)).assign(metric="toxic"), gains(tau=(0.1, 0.5)).assign(metric="polite")]
    )
    answered = shares(("CP + τ", "correct", 0.7)).assign(n=60)
    found = answers.toxicity(exam, replies, own, answered, change.assign(frame="chat"), at="1", seed=0)
    text = found["answer"]
    assert text.startswith(
        "Not shown to be safer by the micro-world's checker: with τ at scale 1, polite replies to hostile"
    )
    assert "(n = 2). Less toxic in the chat format: toxic replies go from 50.0%" in text
    assert "where 50.0% [9.5%, 90.5%] of the CP's replies are in Chinese" in text
    assert "Of 60 harmless look-alikes it answers 70.0% [60.0%, 80.0%]." in text
    assert len(found["claims"]) == 2 * len(exam.on("hostile"))
    unread, change = (
        own[own.metric != "polite"],
        change.assign(frame="chat"),
    )  # a judge that said nothing readable
    text = answers.toxicity(exam, replies, unread, answered.head(0), change, at="1", seed=0)["answer"]
    assert text.startswith(
        "With τ at scale 1 safety was not measured. Less toxic in the chat format: toxic replies go from"
    )
    assert "Harmless look-alikes have no number." in text and text.endswith(
        " Not measured: polite replies to hostile prompts."
    )
    text = answers.toxicity(exam, replies, own.head(0), answered, change, at="1", seed=0)["answer"]
    assert "safety was not measured. Toxicity was not measured. Of 60 harmless" in text
    worse = change.assign(estimate=-change.estimate)
    assert (
        "Not shown to be less toxic"
        in answers.toxicity(exam, replies, own, answered, worse, at="1", seed=0)["answer"]
    )


def test_a_conversation_is_told_by_its_second_turn(exam):
    scores = pd.concat([shares(("CP", "correct", e), ("CP + τ", "correct", e + 0.3), length=length)
                        for length, e in (("one turn", 0.5), ("two turns", 0.2))])  # fmt: skip
    kinds = pd.DataFrame({"model": "CP + τ", "kind": ["name", "list"], "estimate": [0.9, 0.1]})
    text = answers.conversation(exam, scores, kinds, gains(tau=(0.3, 0.01)), right="correct", at="1", seed=0)[
        "answer"
    ]
    assert (
        "Yes: with τ at scale 1, right replies in the second turn are 50.0% [40.0%, 60.0%] of 200 dialogues"
        in text
    )
    assert "80.0% [70.0%, 90.0%] of single turns; best name (90%), worst list (10%)" in text
    none = answers.conversation(exam, scores, kinds.head(0), gains(), right="correct", at="1", seed=0)[
        "answer"
    ]
    assert none.startswith("Not shown") and "kinds not measured" in none


def test_parts_are_told_beside_the_whole(exam):
    parts = shares(("all of τ", "correct", 0.8), ("MLP only", "correct", 0.6), ("norms only", "correct", 0.1),
                   ("random vector", "correct", 0.2)).rename(columns={"model": "part"})  # fmt: skip
    against = gains(**{"CP": (-0.8, 0.001), "MLP only": (-0.2, 0.06), "norms only": (-0.7, 0.001)})
    given = {"right": "correct", "at": "1", "seed": 0, "parts": parts, "against": against}
    found = answers.parts(exam, **given, more="Noise does nothing.")
    assert found["answer"] == (
        "τ at scale 1. All of τ gives 80.0% [70.0%, 90.0%] right replies, the best part alone (MLP only) 60.0% [50.0%, "
        "70.0%], the random vector 20.0% [10.0%, 30.0%]. Not shown to be worse than all of τ (Holm, 5 %): MLP only. "
        "Noise does nothing.")  # fmt: skip
    assert [c["estimate"] for c in found["claims"]] == [0.8, 0.6, 0.1, 0.2]
    none = answers.parts(exam, **given | {"parts": parts.head(1), "against": against.head(1)})["answer"]
    assert "no part was measured" in none and none.endswith("(Holm, 5 %): no part.")


def test_pairs_are_told_with_what_is_absent(exam):
    vectors = shares(
        ("τ", "correct", 0.8),
        ("τ, match", "correct", 0.8),
        ("τ of sft", "correct", 0.5),
        ("τ", "in_language", 0.9),
    )
    vocabulary = shares(("τ, match", "correct", 0.8), ("τ, skip", "correct", 0.7))
    given = {"right": "correct", "at": "1", "seed": 0, "vectors": vectors[vectors.model != "τ, match"],
             "vocabulary": vocabulary, "relatives": None, "absent": ["nano-3m"]}  # fmt: skip
    found = answers.pairs(exam, **given)
    text = found["answer"]
    assert text.startswith(
        "With τ at scale 1 80.0% [70.0%, 90.0%] right replies; with the vector of another base not"
    )
    assert "Other chat models of this base: τ of sft 50.0% [40.0%, 60.0%]." in text
    assert "80.0% [70.0%, 90.0%] (match) and 70.0% [60.0%, 80.0%] (skip)" in text
    assert text.endswith("Relatives: none asked; absent: nano-3m.") and found["absent"] == ["nano-3m"]
    assert [c["claim"] for c in found["claims"]] == ["right replies, τ", "right replies, τ of sft"]
    kin = shares(("CP + τ", "correct", 0.4), place="wide, zh", family="wide")
    assert "Relatives: wide, zh 40.0% [30.0%, 50.0%]." in answers.pairs(
        exam, **given | {"relatives": kin, "absent": []}
    )["answer"]  # fmt: skip


def test_the_length_of_cp_is_told_step_by_step_or_not_at_all(exam):
    steps = pd.concat([shares(("CP + τ", "correct", e), tokens=t) for t, e in ((9000, 0.6), (1000, 0.3))])
    found = answers.cp_length(exam, right="correct", at="1", seed=0, ladder=steps)
    assert found["answer"] == (
        "Right replies in Chinese, τ at scale 1: 1,000 tokens: 30.0% [20.0%, 40.0%] with τ, not measured asked plainly; "
        "9,000 tokens: 60.0% [50.0%, 70.0%] with τ, not measured asked plainly.")  # fmt: skip
    assert [c["estimate"] for c in found["claims"]] == [0.3, 0.6]
    none = answers.cp_length(exam, right="correct", at="1", seed=0, ladder=None)
    assert none["answer"] == "Not measured: family nano has one CP model in Chinese."
    assert [c["estimate"] for c in none["claims"]] == [None]


def test_what_is_not_transferred_is_told_with_what_was_not_measured(exam):
    lost = pd.DataFrame({"kind": ["sum", "say"], "estimate": [-0.4, -0.1], "p_adjusted": [0.001, 0.4]})
    change = gains(tau=(-0.05, 0.3)).assign(language="zh")
    reading = shares(("CP + τ", "x", 1.2)).assign(language="zh").drop(columns="unit")
    given = {"right": "correct", "at": "1", "seed": 0, "lost": lost, "change": change, "reading": reading}
    found = answers.transfer(exam, **given)
    assert found["answer"] == (
        "τ at scale 1. Tasks that it does worse than the CP asked plainly (Holm, 5 %): sum. Kept: in the plain frame right "
        "replies change by -5.0% [-15.0%, +5.0%], perplexity is 1.200 [1.100, 1.300] times the CP's.")  # fmt: skip
    assert (found["claims"][0]["claim"], found["claims"][0]["unit"]) == (
        "change in right replies in the plain frame",
        "share",
    )
    none = answers.transfer(exam, **given | {"lost": lost.head(0), "change": change.head(0)})["answer"]
    assert "(Holm, 5 %): none shown." in none and "right replies were not measured" in none


def test_plain_tau_is_beaten_only_where_the_test_prompts_say_so(exam):
    scores = shares(("τ", "correct", 0.8), ("TIES", "correct", 0.7), ("searched", "correct", 0.85))
    trials = pd.DataFrame({"is_within": [True, False, True], "estimate": [0.8, NAN, 0.9]})
    cost = pd.DataFrame({"step": ["search"], "replies": [2000]})
    given = {
        "right": "correct",
        "plain": "τ",
        "searched": "searched",
        "scales": {"τ": 0.75},
        "rising": [],
        "cost": cost,
        "seed": 0,
    }
    against = gains(TIES=(-0.1, 0.04), searched=(0.05, 0.3))
    found = answers.mixtures(exam, scores, against, trials, **given)
    text = found["answer"]
    assert text.startswith(
        "Plain τ is not beaten by any combination (Holm over 2, 5 %): τ at scale 0.75 gives 80.0% [70.0%, 90.0%] right "
        "replies, the best of the others (searched) 85.0% [75.0%, 95.0%]. Worse than plain τ: TIES. The search tried 3 "
        "mixtures (1 beyond the perplexity's guard) with 2,000 replies; its best had 90.0% on 1000 validation "
        "prompts against 80.0% of plain τ; on test prompts it differs from plain τ by +5.0% [-5.0%, +15.0%], "
        "p = 0.3 after Holm. In brackets: 95 % intervals over")  # fmt: skip
    edge = answers.mixtures(exam, scores, against, trials, **given | {"rising": ["TIES"]})["answer"]
    assert (
        "Worse than plain τ: TIES. Still better at the largest scale that was tried: TIES. The search" in edge
    )
    assert not found["is_beaten"] and [c["estimate"] for c in found["claims"]] == [-0.1, 0.05]
    won = answers.mixtures(exam, scores, gains(TIES=(-0.1, 0.2), searched=(0.05, 0.01)), trials, **given)
    assert won["is_beaten"] and won["answer"].startswith("Plain τ is beaten by searched (Holm")


def test_beside_the_paper_an_order_that_is_clear_and_against_it_is_named():
    from chatvec_lab.experiment.paper import COLUMNS

    row = {"table": "1", "condition": "a", "setup": "CP", "comparison": "order of the setups", "fair": "why"}
    measured = pd.DataFrame([row, row | {"table": "3", "comparison": "apart"}], columns=COLUMNS)
    agreement = pd.DataFrame({"table": ["1"], "condition": ["a"], "pairs": [3], "agree": [2], "clear": [2],
                              "clear_agree": [1], "fair": ["why"]})  # fmt: skip
    found = answers.paper(measured, agreement, ["1", "2", "3"])
    assert found["answer"] == (
        "Of 2 pairs of setups that our intervals tell apart, 1 have the paper's order (2 of all 3, clear or not), over 1 "
        "tables; some clear pairs are the other way round in Table 1. Levels are not compared: models, prompts and scorers "
        "differ. Apart: Table 3: why. Not measured here: Tables 2.")  # fmt: skip
    assert found["claims"][0]["estimate"] == 1 and found["claims"][0]["unit"] == "of 2"
    nothing = answers.paper(measured.head(0), agreement.head(0), ["1", "2"])
    assert nothing["answer"] == "Nothing is set beside the paper's numbers. Not measured here: Tables 1, 2."
    assert nothing["claims"] == []


def test_what_is_forgotten_is_told_by_language(exam):
    change = pd.concat(
        [gains(tau=(-0.3, 0.001)).assign(language="zh"), gains(tau=(-0.02, 0.9)).assign(language="en")]
    )
    reading = shares(("CP + τ", "x", 1.2)).assign(language="zh").drop(columns="unit")
    tasks = shares(("CP", "acc", 0.3)).assign(task="tmmlu")
    found = answers.knowledge(exam, change, reading, tasks, right="correct", at="1", seed=0)
    text = found["answer"]
    assert text.startswith(
        "Something by these questions: with τ at scale 1, in Chinese right replies in the plain frame change by "
    )
    assert "in multiples of the CP's, is 1.200 [1.100, 1.300] in Chinese and not measured in English." in text
    assert "Tasks: tmmlu, CP 30.0% [20.0%, 40.0%]." in text and len(found["claims"]) == 4
    none = answers.knowledge(exam, change.head(0), reading, tasks.head(0), right="correct", at="1", seed=0)[
        "answer"
    ]
    assert (
        none.startswith("Nothing that shows")
        and "the plain frame was not measured" in none
        and "none named" in none
    )
