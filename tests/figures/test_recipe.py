"""What drew a figure is kept as data, and draws it again: the same bytes at the same venue, another size at another."""

import json

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from chatvec_lab import figures, study
from chatvec_lab.command.main import main
from chatvec_lab.figures import recipe


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def scores():
    rows = [(m, metric, i / 2, 0.2 * i, 0.1 * i, 0.3 * i) for i, m in enumerate(("CP", "CP + τ", "chat"))
            for metric in ("right", "toxic")]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "metric", "scale", "estimate", "low", "high"])


def saved(out, scores, name="two", by_hand=None):
    figure, (left, right) = figures.subplots(1, 2, width="text", ratio=0.4)
    figures.by_model(scores, label="share", ax=left)
    figures.over_scale(scores, label="share", mark=1.0, ax=right)
    if by_hand:
        by_hand(right)
    study.save_figure(out, name, figure, caption="Two panels.", alt="Two panels.")
    return json.loads((out / f"figures/{name}.json").read_text())


def test_a_recipe_is_data_beside_the_figure(tmp_path, scores):
    about = saved(tmp_path, scores)
    calls = about["drawn"]["calls"]
    assert [(call["function"], call["axes"]) for call in calls] == [("by_model", [0]), ("over_scale", [1])]
    assert calls[1]["options"] == {"label": "share", "mark": 1.0} and about["drawn"]["whole"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "figures/two.1.parquet"), scores)


def test_how_many_prompts_a_figure_is_of_stands_beside_it(tmp_path, scores):
    assert saved(tmp_path, scores, "none")["n"] == []
    few = scores.assign(n=[120 + 80 * (k % 2) for k in range(len(scores))])
    assert saved(tmp_path, few)["n"] == [120, 200]


def test_redrawn_for_its_own_venue_the_bytes_are_the_same(tmp_path, scores):
    saved(tmp_path, scores)
    assert main(["redraw", str(tmp_path), "--venue", "acl", "--out", str(tmp_path / "again")]) == 0
    for kind in ("pdf", "png", "svg"):
        assert (tmp_path / f"again/two.{kind}").read_bytes() == (
            tmp_path / f"figures/two.{kind}"
        ).read_bytes()


def test_redraw_for_another_venue_and_twice(tmp_path, scores, capsys):
    saved(tmp_path, scores)
    for out in ("a", "b"):
        assert main(["redraw", str(tmp_path), "--venue", "slides", "--out", str(tmp_path / out)]) == 0
    assert "1 of 1 figures drawn for slides" in capsys.readouterr().out
    assert (tmp_path / "a/two.pdf").read_bytes() == (tmp_path / "b/two.pdf").read_bytes()
    assert b"MediaBox [ 0 0 885.6 " in (tmp_path / "a/two.pdf").read_bytes()  # 12.3 inches
    assert main(["redraw", str(tmp_path), "--venue", "icml", "--width", "2.5"]) == 0
    assert b"MediaBox [ 0 0 180 " in (tmp_path / "figures-icml/two.pdf").read_bytes()


@pytest.mark.parametrize(
    "by_hand",
    [lambda ax: ax.axvline(0.5), lambda ax: ax.set_ylabel("mine"), lambda ax: ax.set_yscale("log"),
     lambda ax: ax.set_xlim(0, 9)],
)  # fmt: skip
def test_what_was_added_by_hand_is_told_not_lost(tmp_path, scores, capsys, by_hand):
    saved(tmp_path, scores)
    assert not saved(tmp_path, scores, "mine", by_hand)["drawn"]["whole"]
    assert main(["redraw", str(tmp_path), "--venue", "acl"]) == 0
    assert "mine: something was drawn by hand on it besides" in capsys.readouterr().out
    assert not (tmp_path / "figures-acl/mine.pdf").exists()


def test_a_figure_of_ones_own_has_no_recipe_and_is_named(tmp_path, scores, capsys):
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    study.save_figure(tmp_path, "own", figure, caption="Own.", alt="Own.")
    assert main(["redraw", str(tmp_path), "--venue", "acl"]) == 1
    assert "own: it was drawn by hand" in capsys.readouterr().out


def test_mistakes_are_told(tmp_path, scores, capsys):
    for arguments, told in (
        ([str(tmp_path / "none"), "--venue", "acl"], "none is not there"),
        ([str(tmp_path), "--venue", "acl"], "holds no figures"),
        (
            [str(tmp_path), "--venue", "acl", "--width", "wide"],
            "expected one of column, text, or a number of inches",
        ),
    ):
        assert main(["redraw", *arguments]) == 1 and told in capsys.readouterr().err
    saved(tmp_path, scores)
    (tmp_path / "figures/two.0.parquet").unlink()
    assert main(["redraw", str(tmp_path), "--venue", "acl"]) == 1
    assert "its tables are not there: two.0.parquet" in capsys.readouterr().out


def test_another_versions_recipe_is_refused(scores):
    with pytest.raises(
        ValueError, match="unknown figure functions pie: the figure was drawn by another version"
    ):
        recipe.redraw({"panels": {"rows": 1, "columns": 1}, "calls": [{"function": "pie"}]}, [scores])
    with pytest.raises(ValueError, match="0 tables for 1 calls"):
        recipe.redraw({"panels": {}, "calls": [{"function": "by_model"}]}, [])
