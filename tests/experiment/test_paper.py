"""The paper's tables as they were printed, and ours beside them, each in its own column."""

import pandas as pd
import pytest

from chatvec_lab.experiment import paper
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


@pytest.fixture
def cells(tmp_path):
    """Two seeds of notebook 04 with four prompts each: CP never right, FT twice, CP + τ three times."""
    for seed, right in enumerate([(0, 2, 3), (0, 2, 4)]):
        folder = tmp_path / "04_instruction_following" / f"seed{seed}"
        (folder / "tables").mkdir(parents=True)
        rows = [
            {
                "model": model,
                "language": "zh",
                "prompt_id": i,
                "correct": float(i < count),
                "in_language": 1.0,
            }
            for model, count in zip(("CP", "CP → FT", "CP + τ"), right, strict=True)
            for i in range(4)
        ]
        pd.DataFrame(rows).to_parquet(folder / "tables" / "replies.parquet")
    return sorted((tmp_path / "04_instruction_following").iterdir())


def test_ours_stand_beside_never_in_one_column(cells):
    table = paper.beside(cells).set_index(["table", "setup"])
    assert set(table.index.get_level_values("table")) == {"1", "7"}, "no cells of 05 and 07"
    row = table.loc["1", "CP + τ"]
    assert (row.paper, row.paper_unit) == (7.03, "mean score, 0 to 10")
    assert (row.here, row.here_min, row.here_max, row.prompts, row.cells) == (0.875, 0.75, 1.0, 4, 2)
    assert row.here_low <= 0.875 <= row.here_high and "0 to 1" in row.here_unit
    assert ("1", "CP") not in table.index, "the paper's Table 1 has no plain CP"


def test_agreement_counts_pairs(cells):
    found = paper.agreement(paper.beside(cells)).set_index("table")
    assert (found.pairs["1"], found.agree["1"]) == (1, 1), "CP + τ above CP → FT, as in the paper"
    assert found.clear["1"] == 0, "four prompts tell nothing apart"
    assert found.pairs["7"] == 0, "98.8 and 92.5 % there, all in the language here: a tie tells nothing"


def test_folders_without_replies_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="04, 05 or 07"):
        paper.beside([tmp_path])
