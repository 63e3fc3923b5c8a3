"""The paper's tables as they were printed, and ours beside them, each in its own column."""

import pandas as pd
import pytest

from chatvec_lab import Checkpoint, Family, load_family
from chatvec_lab.experiment import paper
from chatvec_lab.families import family_names
from chatvec_lab.paths import DATA


def test_the_printed_numbers():
    printed = paper.tables()
    assert printed.table.value_counts().to_dict() == {
        "1": 18, "2": 35, "3": 63, "4": 3, "5": 6, "6": 7, "7": 20, "8": 2, "9": 21, "13": 4,
    }  # fmt: skip
    assert list(dict.fromkeys(printed.table)) == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "13"]
    row = printed[
        (printed.table == "1") & (printed.setup == "CP->FT+CV") & (printed.condition == "system_prompt")
    ]
    assert sorted(row.value) == [7.06, 8.02, 8.09]
    shares = printed[
        (printed.table == "7") & (printed.condition == "safety_prompts") & (printed.setup == "CP+CV")
    ]
    assert shares.value.dropna().tolist() == [62.6, 20.9, 99.9] and shares.value.isna().sum() == 1
    assert printed.value.isna().sum() == 1 and printed.source.eq(paper.SOURCE).all()
    assert (
        printed[printed.unit == "percent"].value.max() == 100
        and printed[printed.unit.str.contains("to 1$")].value.max() < 1
    )
    assert "2310.04799" in (DATA / "paper" / "README.md").read_text()


NANO = load_family("nano")


def family(*settings: str):
    """A family that repeats these settings of the paper; its members are not looked at."""
    return Family(
        "mine", Checkpoint("lab/base"), Checkpoint("lab/chat"), {"zh": Checkpoint("lab/cp")}, paper=settings
    )


def cell(root, notebook: str, name: str, rows: list[dict], *, table="replies", scores="scores", **scorers):
    """A cell's folder with a table of replies, and who scored what."""
    tables = root / notebook / name / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(tables / f"{table}.parquet")
    told = {"metric": list(scorers), "scorer": list(scorers.values())}
    pd.DataFrame(told).to_parquet(tables / f"{scores}.parquet")
    return tables.parent


def rows(values: dict[str, list[float]], measure: str, **more) -> list[dict]:
    """Replies of each model with these values of a measure."""
    return [
        {"model": model, "language": "zh", "prompt_id": str(i), "in_language": 1.0, measure: value, **more}
        for model, found in values.items()
        for i, value in enumerate(found)
    ]


@pytest.fixture
def cells(tmp_path):
    """Two seeds of notebook 04 with four prompts each: CP never right, FT twice, CP + τ three times or four."""
    counts = [{"CP": 0, "CP → FT": 2, "CP + τ": 3}, {"CP": 0, "CP → FT": 2, "CP + τ": 4}]
    return [
        cell(tmp_path, "04_instruction_following", f"seed{seed}",
             rows({model: [float(i < n) for i in range(4)] for model, n in right.items()}, "correct"))
        for seed, right in enumerate(counts)
    ]  # fmt: skip


def test_a_nano_study_is_compared_in_its_order_alone(cells):
    table = paper.measured(cells, NANO).set_index(["table", "setup"])
    assert set(table.index.get_level_values("table")) == {"1", "7"}, "no cells of 05 and 07"
    row = table.loc["1", "CP + τ"]
    assert (row.paper, row.paper_unit, row.comparison) == (7.03, "mean score, 0 to 10", paper.ORDER)
    assert (row.here, row.here_min, row.here_max, row.prompts, row.cells) == (0.875, 0.75, 1.0, 4, 2)
    assert row.here_low <= 0.875 <= row.here_high and "0 to 1" in row.here_unit
    assert ("1", "CP") not in table.index, "the paper's Table 1 has no plain CP"
    assert table.loc["7"].comparison.eq(paper.SAME).all(), "the share of a language is one quantity"


def test_agreement_counts_pairs(cells):
    found = paper.agreement(paper.measured(cells, NANO)).set_index("table")
    assert (found.pairs["1"], found.agree["1"]) == (1, 1), "CP + τ above CP → FT, as in the paper"
    assert found.clear["1"] == 0, "four prompts tell nothing apart"
    assert found.pairs["7"] == 0, "98.8 and 92.5 % there, all in the language here: a tie tells nothing"


@pytest.mark.parametrize(
    ("setting", "quoted"),
    [("Traditional Chinese LLaMA 13B", 92.5), ("Chinese-LLaMA 13B", 65.0), ("Korean LLaMA 7B", 86.3)],
)
def test_a_family_is_set_beside_its_own_setting(cells, setting, quoted):
    table = paper.measured(cells, family(setting))
    beside = table[table.comparison == paper.SAME]
    printed = paper.tables().query(
        "table == '7' and condition == 'vicuna' and setup == 'CP+CV' and coefficient == 1"
    )
    assert (
        beside[beside.table == "7"].set_index("setup").paper["CP + τ"]
        == printed.set_index("model").value[setting]
    )


JUDGED = {"CP → FT": [6.0, 6.0, 7.0, 5.0], "CP + τ": [8.0, 7.0, 8.0, 9.0]}


@pytest.mark.parametrize(
    ("judge", "source", "settings", "comparison", "why"),
    [("gpt-4 (paper)", "data/vicuna-zh.jsonl", ("Chinese-LLaMA 13B",), paper.SAME, "agree"),
     ("gpt-4-0613 (paper)", "vicuna", ("Chinese-LLaMA 13B",), paper.SAME, "agree"),
     ("gpt-4o (paper)", "vicuna", ("Chinese-LLaMA 13B",), paper.ORDER, "scorer is gpt-4o"),
     ("gpt-4 (paper)", "general", ("Chinese-LLaMA 13B",), paper.ORDER, "prompt set is general"),
     ("gpt-4 (paper)", "vicuna", (), paper.APART, "names no setting")],
)  # fmt: skip
def test_a_judges_score_stands_beside_where_all_agrees(tmp_path, judge, source, settings, comparison, why):
    folder = cell(
        tmp_path,
        "04_instruction_following",
        "one",
        rows(JUDGED, "judge_paper", source=source),
        judge_paper=judge,
    )
    found = paper.measured([folder], family(*settings)).query("table == '1'")
    assert set(found.comparison) == {comparison} and found.fair.str.contains(why).all(), found.fair.iloc[0]
    assert found.paper.isna().all() == (comparison == paper.APART)
    assert found.set_index("setup").here["CP + τ"] == 8.0 and "1 to 10" in found.here_unit.iloc[0]


def test_other_vectors_tasks_and_scenarios_have_their_tables(tmp_path):
    vectors = {"τ": [7.0, 8.0], "τ of xwin": [8.0, 9.0], "CP": [1.0, 1.0]}
    values = {"CP + τ": [0.0, 1.0], "CP → FT": [1.0, 1.0]}
    where = {"source": "safety-prompts", "set": "hostile", "frame": "chat"}
    unsafe = [
        r for kind in ("Insult", "Role_Play_Instruction") for r in rows(values, "unsafe", kind=kind, **where)
    ]
    tasks = [
        {
            "model": m,
            "task": "tmmluplus",
            "metric": "acc",
            "estimate": e,
            "low": e - 0.1,
            "high": e + 0.1,
            "n": 50,
        }
        for m, e in (("CP", 0.26), ("CP + τ", 0.27))
    ]
    folders = [
        cell(tmp_path, "07b_pairs", "one", rows(vectors, "judge_paper", source="vicuna"), table="vector-replies",
             scores="vectors", judge_paper="gpt-4 (paper)"),
        cell(tmp_path, "05_toxicity", "one", unsafe, unsafe="gpt-3.5-turbo (safety)"),
        cell(tmp_path, "10_knowledge", "one", tasks, table="tasks"),
    ]  # fmt: skip
    found = (
        paper.measured(folders, family(*paper.TABLE["main"]))
        .query("comparison == @paper.SAME")
        .set_index(["table", "setup"])
    )
    assert found.paper["6", "τ of xwin"] == 7.28 and found.here["6", "τ of xwin"] == 8.5
    assert found.here["3", "CP + τ"] == 0.5 and found.prompts["3", "CP + τ"] == 2, (
        "the seven scenarios, no role-play"
    )
    assert (found.paper["13", "CP + τ"], found.here["13", "CP → FT"]) == (23.0, 1.0)
    assert found.paper["4", "CP + τ"] == 26.93 and found.here["4", "CP + τ"] == 0.27


def test_nothing_measured_is_an_empty_table(tmp_path):
    table = paper.measured([tmp_path], NANO)
    assert table.empty and paper.agreement(table).empty and list(table) == paper.COLUMNS


def test_a_setting_that_the_paper_does_not_have_is_named():
    with pytest.raises(ValueError, match="did you mean 'Chinese-LLaMA 13B'"):
        paper.settings(family("Chinese-LLaMA 13b"))


def test_the_shipped_families_name_settings_of_the_paper():
    for name in family_names():
        assert set(paper.settings(load_family(name))) <= set(paper.tables().model)
    assert load_family("llama-2-7b-zh").paper == ("Chinese-LLaMA 13B",)
