"""Tables of papers: models × measures, means over seeds with their t interval, the best in bold, what is constant told once."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from chatvec_lab.report.latex import _cell, document, write
from chatvec_lab.report.main_table import collect
from chatvec_lab.report.pivot import Cell, Table, pivoted

MEASURES = {
    "correct": {"better": "higher", "words": "right replies"},
    "toxic": {"better": "lower", "words": "toxic replies"},
}


def scores(seeds=(0,), languages=("ko",), models=("CP", "CP + τ", "chat")):
    rows = [
        {"language": language, "seed": seed, "model": model, "metric": metric, "unit": "share", "scorer": "checker (exact)",
         "estimate": (0.1 + 0.3 * i + 0.05 * seed) if metric == "correct" else 0.9 - 0.4 * i, "low": 0.0, "high": 1.0,
         "n": 200, "coverage": 1.0}
        for language in languages for seed in seeds for i, model in enumerate(models) for metric in ("correct", "toxic")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def cells(table: Table, place: int) -> list[Cell]:
    return [row[place] for row in table.rows if not isinstance(row, str)]


def test_models_by_measures_with_what_is_constant_in_the_caption():
    table = pivoted(scores(), MEASURES)
    assert [head.text for head in table.heads] == ["model", "right replies", "toxic replies"]
    assert [head.better for head in table.heads] == ["", "higher", "lower"]
    assert [cell.value for cell in cells(table, 0)] == ["CP", "CP + τ", "chat"]
    assert "n = 200" in table.notes and "seed 0" in table.notes
    assert [cell.is_best for cell in cells(table, 1)] == [False, False, True]
    assert [cell.is_best for cell in cells(table, 2)] == [False, False, True]


def test_seeds_are_repetitions_with_students_interval():
    table = pivoted(scores(seeds=(0, 1, 2)), MEASURES)
    values = np.array([0.4, 0.45, 0.5])
    half = student.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    cell = cells(table, 1)[1]
    assert (cell.value, cell.low, cell.high) == pytest.approx((0.45, 0.45 - half, 0.45 + half))
    same = cells(table, 2)[0]
    assert (same.value, same.low) == (0.9, None)  # all seeds equal: no interval
    assert "mean over 3 seeds ± 95 % t interval" in table.notes[0]


def test_an_interval_of_shares_does_not_leave_0_to_1():
    low = scores(seeds=(0, 1, 2)).query("model == 'CP'").assign(estimate=lambda t: 0.1 * (t.seed == 2))
    cell = cells(pivoted(low, MEASURES), 0)[0]
    assert cell.low == 0 and cell.high > 0.1


def test_languages_are_blocks_in_words_and_the_best_is_one_of_each():
    table = pivoted(scores(languages=("ko", "zh")), MEASURES)
    assert [row for row in table.rows if isinstance(row, str)] == ["Korean", "Chinese"]
    assert [cell.is_best for cell in cells(table, 1)] == [False, False, True] * 2


def test_of_equals_all_are_best_and_without_a_direction_none():
    even = scores().assign(estimate=0.5)
    assert not any(cell.is_best for cell in cells(pivoted(even, MEASURES), 1))
    two = scores()
    two.loc[two.model != "CP", "estimate"] = 0.5
    assert [cell.is_best for cell in cells(pivoted(two, MEASURES), 1)] == [False, True, True]
    assert not any(cell.is_best for row in pivoted(scores()).rows for cell in row)


def test_no_row_is_lost_however_many():
    long = pd.DataFrame({"tensor": [f"layer.{i}" for i in range(300)], "l2": np.arange(300.0)})
    table = pivoted(long)
    assert len(table.rows) == 300
    latex = document(table, caption="All.", name="all")
    assert all(rf"layer.{i} &" in latex for i in range(300)) and r"\begin{longtable}" in latex
    for odd in (scores(seeds=(0, 1)).drop(index=3), scores().assign(model=None), pd.DataFrame({"a": []})):
        assert document(pivoted(odd, MEASURES), caption="c", name="n").count(r"\bottomrule") == 1


def test_notes_that_go_with_their_rows_are_no_columns():
    rows = [
        ("ko", 0.0, 0.25, "50 % & more"),
        ("ko", 0.5, 0.75, None),
        ("zh", 0.0, 0.25, "a"),
        ("zh", 0.5, 0.75, "b"),
    ]
    table = pivoted(pd.DataFrame(rows, columns=["language", "scale", "mean", "note"]))
    assert [head.text for head in table.heads] == ["scale", "mean", "note"]
    assert [cell.value for cell in cells(table, 1)] == [0.25, 0.75, 0.25, 0.75]


def test_a_list_that_goes_with_the_seed_is_no_key():
    table = scores(seeds=(0, 1)).assign(families=lambda t: t.seed.map({0: '["nano-wide"]', 1: "[]"}))
    assert [head.text for head in pivoted(table, MEASURES).heads] == [
        "model",
        "right replies",
        "toxic replies",
    ]


@pytest.mark.parametrize(
    "cell, latex",
    [
        (Cell(0.871, 0.821, 0.921, 2), r"$0.87 \pm 0.05$"),
        (Cell(0.01, 0.0, 0.06, 2), "$0.01^{+0.05}_{-0.01}$"),
        (Cell(0.5, None, None, 2, is_best=True), r"$\mathbf{0.50}$"),
        (Cell(-0.25, -0.5, 0.0, 2), r"$-0.25 \pm 0.25$"),
        (Cell(1234567), "$1{,}234{,}567$"),
        (Cell(2.5e-7, 2.4e-7, 2.6e-7, 2), r"$(2.5 \pm 0.1) \times 10^{-7}$"),
        (Cell(True), "yes"),
        (Cell(float("nan")), "--"),
        (Cell(float("inf"), decimals=2), r"$\infty$"),
        (Cell("a & [b]"), r"a \& [b]"),
    ],
)
def test_numbers_and_their_intervals(cell, latex):
    assert _cell(cell) == latex


def test_the_head_of_a_file_says_what_it_needs(tmp_path):
    file = write(
        pd.DataFrame({"prompt": ["繁體", "한국어"], "reply": ["a_b", "العربية"]}),
        tmp_path / "prompts",
        caption="100 % τ",
    )
    head = file.read_text().split("\\makeatletter")[0].splitlines()
    assert all(line.startswith("%") for line in head)
    assert {"%   \\usepackage{booktabs}", "%   \\usepackage{CJKutf8}"} <= set(head)
    assert any("Arabic: with XeLaTeX or LuaLaTeX" in line for line in head)
    assert r"\caption{100 \% $\tau$.}" in file.read_text() and r"\label{tab:prompts}" in file.read_text()


def test_the_main_table_joins_the_notebooks_that_compare_models():
    def table(data, file, measures=MEASURES):
        return {"fault": "", "show": True, "file": file, "data": data, "measures": measures}

    both = scores(languages=("ko",)).assign(cell_language="ko")
    english = both.assign(language="en", estimate=0.99)
    turns = pd.concat([scores().assign(length=name) for name in ("one turn", "two turns")])
    turns.loc[turns.length == "two turns", "estimate"] *= 0.5
    perplexity = pd.DataFrame(
        {"language": "ko", "seed": 0, "model": ["CP + τ"], "estimate": 1.01, "low": 1.0, "high": 1.02, "n": 9}
    )
    others = scores(models=("eyes", "ears"))
    main = collect([
        {"tables": [table(pd.concat([both, english]), "04-scores"), table(turns, "06-scores"), table(others, "09-scores")]},
        {"tables": [table(perplexity, "10-perplexity", {"estimate": {"better": "lower", "words": "perplexity"}})]},
    ])  # fmt: skip
    made = pivoted(main["data"], main["measures"])
    # one turn of the second notebook are the first one's numbers again: they stand once
    assert [head.text for head in made.heads] == [
        "model", "right replies", "toxic replies", "right replies, two turns", "toxic replies, two turns", "perplexity"
    ]  # fmt: skip
    assert [cell.value for cell in cells(made, 0)] == ["CP", "CP + τ", "chat"]
    assert 0.99 not in [cell.value for cell in cells(made, 1)]
    assert collect([{"tables": []}]) is None


@pytest.mark.parametrize("seed", range(40))
def test_any_table_is_written(seed):
    """Whatever a notebook's table holds, lists and gaps and mixed types too, it becomes a table with all its columns told."""
    rng = np.random.default_rng(seed)
    kinds = {
        "model": rng.choice(["CP", "a & b", "[x]", ""], 6),
        "metric": rng.choice(["right", "toxic"], 6),
        "seed": rng.integers(0, 3, 6),
        "estimate": rng.choice([0.1, np.nan, np.inf, -1e-9, 0.0], 6), "low": rng.random(6), "high": ["0.5"] * 6,
        "note": [None, "x", 1, 2.5, True, "y"], "families": [[1, 2]] * 6, "n": pd.array([1, None, 2] * 2, dtype="Int64"),
        "holds": pd.array([True, None, False] * 2, dtype="boolean"), "when": pd.to_datetime(["2026-01-01"] * 6),
        "language": rng.choice(["ko", "zh", "none"], 6),
    }  # fmt: skip
    chosen = rng.choice(list(kinds), rng.integers(1, 8), replace=False)
    table = pivoted(pd.DataFrame({name: kinds[name] for name in chosen}), MEASURES)
    assert all(len(row) == len(table.heads) for row in table.rows if not isinstance(row, str))
    assert document(table, caption="c", name="n").count(r"\toprule") == 1
