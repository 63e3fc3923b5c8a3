"""The tables of what the nano family shows: counted by hand, and one cell asked as the published numbers were."""

import shutil

import pandas as pd
import pytest

from chatvec_lab import load_family
from chatvec_lab.evaluation.statistics import wilson_interval
from chatvec_lab.experiment import effect
from chatvec_lab.experiment.effect import Cell, ask, best_scales, over_seeds, summary
from chatvec_lab.nano import parts
from chatvec_lab.nano.evaluation import score
from chatvec_lab.paths import DATA

PROMPTS = parts.held_out_prompts("zh", 30)


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


def test_measures_are_told_in_words():
    rows = [("one_turn", "CP", 0.0, 0.0, 0.1), (effect.NAMES["one_turn"], "CP + τ", 0.8, 0.7, 0.9)]
    scores = pd.DataFrame(rows, columns=["metric", "model", "estimate", "low", "high"])
    said = effect.told(scores, ["one_turn", "content"])
    assert said == "right in one turn: CP 0% [0%, 10%]; CP + τ 80% [70%, 90%]"


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


def test_seeds_are_what_the_mean_over_them_counts():
    """Three seeds, .6, .7 and .8: Student's interval with two degrees of freedom."""
    rows = [("zh", s, "cp + tau", 1.0, "chat", "test", "one_turn", e) for s, e in enumerate((0.6, 0.7, 0.8))]
    rows += [("zh", s, "cp", 0.0, "chat", "test", "one_turn", 0.0) for s in range(3)]
    rows += [
        ("zh", s, "cp + tau", x, "chat", "validation", "one_turn", e)
        for s, best in enumerate((1.0, 1.0, 1.5))
        for x, e in ((1.0, 0.5), (1.5, 0.6 if best == 1.5 else 0.4))
    ]
    columns = ["language", "seed", "model", "scale", "frame", "draw", "metric", "estimate"]
    found = over_seeds(pd.DataFrame(rows, columns=columns)).set_index(["model", "metric"])
    row = found.loc[("cp + tau", "one_turn")]
    assert row.seeds == 3 and row.estimate == pytest.approx(0.7)
    assert (row.low, row.high) == pytest.approx(
        (0.7 - 4.302653 * 0.1 / 3**0.5, 0.7 + 4.302653 * 0.1 / 3**0.5)
    )
    assert found.loc[("cp", "one_turn")].isna().sum() >= 2, "equal in all seeds: no interval"
    assert found.loc[("cp + tau", "best scale")].estimate == pytest.approx(3.5 / 3)


def test_prompts_of_an_item_are_signed_together():
    """Six items that all go one way: 2 of 2**6 signings are as extreme, however many prompts they have."""
    rows = [
        {"prompt_id": f"{i}/{j}", "item": str(i), "model": m, "scale": s, "correct": float(m == "cp + tau")}
        for i in range(6)
        for j in range(5)
        for m, s in (("cp", 0.0), ("cp + tau", 1.0))
    ]
    about = {"family": "f", "seed": 0, "language": "zh", "frame": "chat"}
    table = pd.DataFrame(rows).assign(**about)
    both = pd.concat([table.assign(turns=1), table.assign(turns=2, prompt_id=table.prompt_id + "b")])
    found = effect.tests(both, {"zh": 1.0})
    assert (
        found.gap.eq(1).all() and found.n.eq(30).all() and found.p.to_list() == pytest.approx([2 / 2**6] * 2)
    )
    alone = effect.tests(both.drop(columns="item"), {"zh": 1.0})
    assert alone.p.to_list() == pytest.approx([2 / 2**30] * 2)


def test_the_shipped_numbers_come_out_again():
    """The published share of right replies of CP + τ (seed 0), asked again of a part of its prompts."""
    nano = load_family("nano")
    cell = Cell("cp + tau", 1.0, nano.cp["zh"] + (nano.chat - nano.base))
    again = ask(nano, [cell], "zh", 26, seed=0).set_index("prompt_id")
    assert again.perplexity.notna().all() and set(again.columns) >= {"seed", "scale", "draw", "response"}
    assert again.correct.mean() > 0.5 and (again.model == "cp + tau").all()


@pytest.mark.slow
def test_a_lone_seed_without_extra_members_is_measured(tmp_path):
    """Of a family of one seed, with neither extras nor another base, the part `extra` has nothing to ask."""
    shutil.copytree(DATA / "nano/nano-0.3m", tmp_path / "nano-0.3m")
    effect.measure(
        "nano-0.3m", [0], tmp_path, n=26, parts=("validation", "main", "extra"), keep=tmp_path / "kept"
    )
    out = tmp_path / "results/nano-0.3m"
    assert sorted(f.name for f in out.glob("*.parquet")) == ["main.parquet", "validation.parquet"]
    scores = pd.read_csv(out / "scores.csv").set_index(["draw", "model", "scale", "metric"]).estimate
    scale = pd.read_csv(out / "tests.csv").scale.iloc[0]
    assert scores["test", "cp + tau", scale, "one_turn"] > scores["test", "cp", 0.0, "one_turn"]
    assert not (out / "seeds.csv").exists(), "one seed has no interval over seeds"
