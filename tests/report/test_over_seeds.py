"""Means over seeds, what tells groups of repetitions apart, and which figure a table becomes."""

import re

import numpy as np
import pandas
import pytest
from scipy import stats

from chatvec_lab import report
from chatvec_lab.report import charts, gather, plots
from chatvec_lab.report.claims import Claim, lead
from chatvec_lab.report.seeds import by_seed, grouping, over


@pytest.mark.parametrize("values", [[0.2, 0.5, 0.9], [1.0, 1.1], [3.0, 4.0, 8.0, 1.0, 2.0, 2.5]])
def test_an_interval_over_seeds_is_students(values):
    found = over(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found.mean, found.low, found.high, found.seeds) == pytest.approx(
        (np.mean(values), low, high, len(values))
    )


def test_it_keeps_to_what_is_possible_and_says_where_there_is_none():
    assert (over([0.5, 0.9, 1.0], (0, 1)).high, over([0.0, 0.1], (0, 1)).low) == (1, 0)
    assert over([-0.9, -0.2], (-1, 1)).low == -1
    assert over([1.0, 1.0])[1:] == (None, None, 2, "all equal, no interval")
    assert over([0.3])[1:] == (None, None, 1, "one seed, no interval")


def test_languages_of_a_seed_are_no_repetitions():
    assert by_seed([(0, 0.2), (0, 0.4), (1, 0.6)]) == pytest.approx([0.3, 0.6])
    rows = [{"estimate": e, "low": None, "high": None, "n": 9, "seed": s, "unit": "share", "label": "", "group": g}
            for s, g, e in [(0, "ko", 0.0), (0, "zh", 1.0), (1, "ko", 0.5), (1, "zh", 0.5)]]  # fmt: skip
    claim = Claim("right replies", rows)
    assert claim.over().note == "all equal, no interval" and claim.over().seeds == 2
    low, high = stats.t.interval(0.95, 1, 0.25, stats.sem([0.0, 0.5]))
    assert claim.over("ko")[:3] == pytest.approx((0.25, max(low, 0), min(high, 1)))


def test_a_section_begins_with_its_first_claims_and_the_price():
    def claim(name):
        row = {"estimate": 0.5, "low": None, "high": None, "n": 9, "unit": "", "label": "", "group": ""}
        return Claim(name, [row | {"seed": seed} for seed in (0, 1)])

    names = [
        "right",
        "toxic",
        "polite",
        "replies in Chinese",
        "perplexity at the chosen scale / CP",
        "replies in Korean",
    ]
    said = [line.partition(":")[0] for line in lead([claim(name) for name in names])]
    assert said == ["right", "toxic", "polite", "perplexity at the chosen scale / CP"]
    assert [line.partition(":")[0] for line in lead([claim(name) for name in names[:4]])] == names[:4]


def test_a_parameter_that_goes_with_the_seed_makes_no_group_unless_it_says_which_models():
    cells = [{"seed": 0, "families": ["a"]}, {"seed": 1, "families": []}]
    assert grouping(cells) == []
    assert grouping([{"seed": 0, "language": "ko"}, {"seed": 1, "language": "zh"}]) == ["language"]
    assert grouping([{"seed": 0, "families": ["a"]}, {"seed": 0, "families": []}]) == ["families"]


@pytest.mark.parametrize(
    ("name", "unit", "values", "written"),
    [
        ("right replies, CP", "share", [0.25], "25.0 %"),
        ("right replies, CP", "share", [0.5, 1.0], "75.0 % [0.0, 100.0]"),  # no share goes beyond 1
        ("change in right replies", "share", [-0.075], "−7.5 percentage points"),
        ("gain in right replies", "share", [0.25, 0.75], "+50.0 percentage points [−100.0, +100.0]"),
        ("judge", "of 10", [7.5], "7.5 of 10"),
        ("a number without a unit", "", [0.5], "0.5"),
    ],
)
def test_a_claims_unit_says_how_it_is_written(name, unit, values, written):
    row = {"low": None, "high": None, "n": 9, "unit": unit, "label": "", "group": ""}
    claim = Claim(name, [row | {"seed": seed, "estimate": value} for seed, value in enumerate(values)])
    assert claim.write(claim.over()) == written


def table(**columns):
    return {"data": pandas.DataFrame(columns), "caption": "c", "file": "f"}


def test_a_number_with_three_values_is_an_axis_and_seeds_are_overlaid():
    rows = [
        (language, seed, scale) for language in ("ko", "zh") for seed in (0, 1) for scale in (0.0, 0.5, 1.0)
    ]
    language, seed, scale = zip(*rows, strict=True)
    item = table(language=language, seed=seed, scale=scale, estimate=[0.1 * (x % 7) for x in range(12)])
    (plot,) = plots.plotted(item, "n", ["language"], set(), None)
    assert (plot["form"], plot["seeds"], [s["title"] for s in plot["svgs"]]) == (
        "lines",
        ["0", "1"],
        ["Korean", "Chinese"],
    )
    drawn = plot["svgs"][0]["svg"]
    assert (
        drawn.count('class="thin seed h0"') == 2
        and drawn.count("<circle") == 6
        and drawn.count('class="mean h0"') == 3
    )


def test_what_has_two_values_for_one_point_or_too_many_rows_is_no_figure():
    twice = table(seed=[0, 0], model=["a", "a"], estimate=[0.1, 0.2])
    many = table(seed=[0] * 30, model=[f"m{i}" for i in range(30)], estimate=[0.5] * 30)
    words = table(model=["a", "b"], note=["x", "y"])
    for item in (twice, many, words):
        assert plots.plotted(item, "n", [], set(), None) == []


def test_one_seed_keeps_each_cells_own_interval():
    item = table(language=["ko", "zh"], seed=[0, 0], estimate=[0.5, 0.25], low=[0.4, 0.2], high=[0.6, 0.3])
    (plot,) = plots.plotted(item, "n", ["language"], set(), None)
    assert plot["seeds"] == [] and "[0.4, 0.6]" in plot["svgs"][0]["svg"]


@pytest.mark.parametrize(
    ("values", "options", "ends"),
    [([0.2, 0.9], {"is_share": True}, (0, 1)), ([-0.1, 0.2], {"is_share": True}, (-0.5, 0.5)),
     ([-0.9, -0.2], {"is_share": True}, (-1, 0.5)), ([1, 100], {"is_share": False}, None), ([5, 5], {"is_share": False}, None)],
)  # fmt: skip
def test_an_axis_holds_its_values_and_its_ticks(values, options, ends):
    axis = charts.axis(values, **options)
    assert axis.low <= min(values) and axis.high >= max(values)
    assert axis.ticks and all(axis.low - 1e-9 <= tick <= axis.high + 1e-9 for tick in axis.ticks)
    assert ends is None or (axis.low, axis.high) == ends


def test_codes_and_names_of_kinds_are_in_words_and_n_is_the_tables_own():
    rows = [(kind, code, n) for kind in ("what_is_it", "last") for code in ("ko", "zh") for n in (120, 200)]
    kind, code, n = zip(*rows, strict=True)
    item = table(kind=kind, language=code, seed=[0, 1] * 4, n=n, cell_n=n, unit="share", estimate=[0.5] * 8)
    (plot,) = plots.plotted(item, "x", [], {"n"}, None)
    assert sorted(plot["hues"]) == ["Chinese", "Korean"] and "what is it" in plot["svgs"][0]["svg"]
    assert plot["asked"] == "n = 120 to 200." and "n 200" in plot["svgs"][0]["svg"]
    assert not plot["has_intervals"]


def test_the_page_says_what_holds_over_seeds_and_languages(finished):
    out = finished()
    text = re.sub("<[^>]*>", "", report.write(out).read_text("utf-8")).replace("\N{NO-BREAK SPACE}", " ")
    claims = gather.content(out)["notebooks"][1]["claims"]
    after = next(c for c in claims if c.name == "right replies, CP + τ")
    values = [np.mean([r["estimate"] for r in after.rows if r["seed"] == s]) for s in (0, 1, 2)]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    said = f"to {100 * np.mean(values):.1f} % [{100 * max(low, 0):.1f}, {100 * min(high, 1):.1f}]: means of 3"
    assert said in text and "Chinese 0.5, 1, 1; Arabic 0.5, 1, 1. From 0.5 to 1." in text


def test_the_overview_has_each_measure_below_its_question_and_says_n(finished):
    out = finished()
    page = report.write(out).read_text("utf-8")
    drawn = re.search('<div class="plot overview">.*?</svg>', page, re.DOTALL)[0]
    (question,) = re.findall(r'class="question"[^>]*>([^<]*)', drawn)
    assert question.startswith("Does it follow? &lt;/p&gt;") and question.endswith("…")
    assert "right replies</text>" in drawn
    text = re.sub("<[^>]*>", "", page)
    assert "intervals over seeds (n = 10 prompts a cell)." in text
    assert "Shares by scale. n = 10." in text


ALL = tuple((language, seed) for language in ("zh", "ar") for seed in (0, 1, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": (0,)},
        {"seeds": (4,), "languages": ("ko",)},
        {"failed": (("zh", 1), ("ar", 0))},
        {"failed": ALL},
    ],
)
def test_a_study_of_one_seed_or_with_failed_cells_has_its_page(finished, options):
    text = re.sub("<[^>]*>", "", report.write(finished(**options)).read_text("utf-8"))
    assert "that cannot be shown" not in text
    assert ("no interval over seeds" in text) == (options.get("seeds") == (0,))
    assert ("Means over seeds with t intervals" in text) == ("failed" in options and options["failed"] != ALL)
    assert ("Means of the cells of one seed" in text) == (options.get("seeds") == (0,))
    assert ("One cell, with its intervals over prompts." in text) == ("languages" in options)
    assert ("Not done" in text) == ("failed" in options)


def test_the_main_table_stands_on_the_page_with_the_best_in_bold(finished):
    text = report.write(finished()).read_text("utf-8")
    table = re.search('<details id="main-results">.*?</details>', text, re.DOTALL)[0]
    assert "right replies ↑" in table and "<th colspan" in table
    assert {"CP", "CP + τ"} <= set(re.findall(r'<td class="text">(.*?)</td>', table))
    assert re.search(r'<td class="number"><strong>[^<]*\[', table)
