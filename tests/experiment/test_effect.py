"""The tables of what the nano family shows: counted by hand, and one cell asked as the published numbers were."""

import pandas as pd

from chatvec_lab import load_family
from chatvec_lab.evaluation.statistics import wilson_interval
from chatvec_lab.experiment.effect import Cell, ask, best_scales, summary
from chatvec_lab.nano import world
from chatvec_lab.nano.evaluation import score

PROMPTS = world.held_out_prompts("zh", 30)


def test_the_summary_counts_by_hand():
    rows = [
        {
            "turns": len(p.exchange.user),
            "words": p.words,
            "kind": p.kind,
            **score(p, p.exchange.replies[-1], "zh"),
        }
        for p in PROMPTS
    ]
    table = pd.DataFrame(rows).assign(model="m", is_english=0.0)
    table.loc[table.index[table.turns.eq(2)][:3], "correct"] = 0.0
    shares = summary(table, ["model"]).set_index("metric")
    assert shares.estimate["one_turn"] == 1 and shares.n["one_turn"] == 30
    assert shares.estimate["two_turn"] == 0.9
    assert shares.estimate["polite"] == 1 and shares.estimate["toxic"] == 0


def test_prompts_that_share_an_item_count_as_one_answer():
    """Ten items of four prompts that all go one way are ten answers, not forty."""
    table = pd.DataFrame(
        {"item": [f"sum {i // 4} 1" for i in range(40)], "turns": 1, "words": "known", "kind": "sum"}
    )
    table = table.assign(
        correct=[float(i // 4 < 5) for i in range(40)], toxic=float("nan"), polite=float("nan")
    )
    table = table.assign(model="m", is_english=0.0)
    by_item, alone = (
        summary(t, ["model"]).set_index("metric").loc["one_turn"] for t in (table, table.drop(columns="item"))
    )
    assert (by_item["n"], by_item["items"], by_item.estimate) == (40, 10, 0.5) and "items" not in alone
    ten = wilson_interval(5, 10)
    assert by_item.low < alone.low < alone.high < by_item.high
    assert by_item.low <= ten.low + 0.02 and by_item.high >= ten.high - 0.02


def test_the_best_scale_is_chosen_a_language_over_seeds():
    rows = [
        ("zh", 0, 1.0, 1),
        ("zh", 1, 1.0, 0),
        ("zh", 0, 0.5, 0),
        ("zh", 1, 0.5, 0),
        ("ko", 0, 0.5, 1),
        ("ko", 0, 1.0, 0),
    ]
    assert best_scales(pd.DataFrame(rows, columns=["language", "seed", "scale", "correct"])) == {
        "zh": 1.0,
        "ko": 0.5,
    }


def test_the_shipped_numbers_come_out_again():
    """The published share of right replies of CP + τ (seed 0), asked again of a part of its prompts."""
    nano = load_family("nano")
    cell = Cell("cp + tau", 1.0, nano.cp["zh"] + (nano.chat - nano.base))
    again = ask(nano, [cell], "zh", 26, seed=0).set_index("prompt_id")
    assert again.perplexity.notna().all() and set(again.columns) >= {"seed", "scale", "draw", "response"}
    assert again.correct.mean() > 0.5 and (again.model == "cp + tau").all()
