"""The README's numbers are the results'."""

import pytest

from chatvec_lab.nano import tables
from chatvec_lab.paths import DATA

NANO = DATA / "nano"


def test_the_readme_shows_what_was_measured():
    readme = (NANO / "README.md").read_text()
    assert readme.count("<!-- table: ") >= 10
    assert tables.filled(readme, NANO) == readme, "run python -m chatvec_lab.nano.tables"


def test_a_cell_is_a_share_with_its_interval():
    results = tables.Results(NANO / "results" / "nano")
    row = results.scores[
        results.scores.model.eq("chat")
        & results.scores.language.eq("ko")
        & results.scores.seed.eq(0)
        & results.scores.metric.eq("one_turn")
    ].iloc[0]
    shown = results.share(("ko", 0), "chat", "one_turn")
    assert shown == f"{row.estimate:.2f} ({row.low:.2f}–{row.high:.2f})"
    assert results.share(("ko", 0), "no such model", "one_turn") == "–"


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError, match="colours"):
        tables.filled("<!-- table: colours -->\n<!-- end -->", NANO)
