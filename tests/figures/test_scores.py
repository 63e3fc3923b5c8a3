"""Figures of scores, by their artists: data, x, y and hue as the caller names them, zeros and infinities in the frame."""

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from drawn_labels import cut, on_one_another

from chatvec_lab import figures


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def steps():
    rows = [(n, m, e) for m, shift in (("CP", 0), ("CP + τ", 0.1)) for n, e in ((0, 0.1), (1e5, 0.4), (1e6, 0.8))
            for e in [e + shift]]  # fmt: skip
    return pd.DataFrame(rows, columns=["tokens", "model", "estimate"])


def inside(ax, line) -> bool:
    """Whether all points that a line has stand in the frame."""
    places = ax.transAxes.inverted().transform(ax.transData.transform(np.column_stack(line.get_data())))
    return bool(((places >= -1e-6) & (places <= 1 + 1e-6)).all())


def test_any_column_may_be_x_y_and_hue(steps):
    ax = figures.over(
        steps.rename(columns={"estimate": "loss"}), x="tokens", y="loss", hue="model", label="loss"
    )
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.1, 0.4, 0.8], [0.2, 0.5, 0.9]]
    assert not ax.collections  # no interval, no band
    with_band = steps.assign(low=steps.estimate - 0.1, high=steps.estimate + 0.1)
    assert len(figures.over(with_band, x="tokens", hue="model", label="").collections) == 2
    kinds = pd.DataFrame(
        {
            "kind": ["what_is_it", "last"] * 2,
            "model": ["CP", "CP", "chat", "chat"],
            "estimate": [0, 1, 0.5, 0.2],
        }
    )
    ax = figures.by_model(kinds, y="kind", hue="model", label="right replies")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["what is it", "last"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["CP", "chat"]


def test_languages_are_in_words(steps):
    table = pd.DataFrame({"model": ["CP"] * 2, "language": ["ko", "zh-Hant"], "estimate": [0.1, 0.2]})
    ax = figures.by_model(table, hue="language", label="share")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Korean", "Traditional Chinese"]


def test_zeros_on_a_logarithmic_axis_stand_beyond_a_break(steps):
    ax = figures.over(steps, x="tokens", hue="model", label="right replies", is_log=True)
    assert ax.get_xscale() == "log" and ax.get_xticklabels()[0].get_text() == "0"
    points = [line for line in ax.lines if line.get_label() != "_break"]
    assert len(ax.lines) - len(points) == 2  # the two strokes
    assert all(inside(ax, line) for line in points)
    assert points[0].get_xdata()[0] == ax.get_xticks()[0] < 1e5
    without = figures.over(steps[steps.tokens > 0], x="tokens", hue="model", label="", is_log=True)
    assert "0" not in [t.get_text() for t in without.get_xticklabels()]


@pytest.mark.parametrize(
    "values", [[0.0, 0.0, 0.0], [0.0, 1e-12, 0.1], [np.nan, 0.0, 0.01], [1e-9, 1e-9, 0.0]]
)
@pytest.mark.parametrize("labels", ["legend", "direct"])
def test_no_fidelity_is_pushed_out_of_its_frame(values, labels):
    rows = [(s, d, v) for d in ("bfloat16", "float32") for s, v in zip((0.25, 0.5, 1.0), values, strict=True)]
    table = pd.DataFrame(rows, columns=["scale", "dtype", "relative_error"])
    table.loc[table.dtype == "bfloat16", "relative_error"] = [0.1, 0.05, 0.02]
    ax = figures.fidelity(table, labels=labels)
    for line in ax.lines:
        if line.get_label() != "_break":
            assert inside(ax, line)
    figures.fidelity(table[table.dtype == "float32"], ax=plt.figure().gca()).figure.draw_without_rendering()


def test_what_is_beyond_all_numbers_is_marked_at_the_edge():
    table = pd.DataFrame({"scale": [0.0, 1.0, 2.0], "metric": "perplexity", "estimate": [2.0, 3.0, np.inf]})
    ax = figures.over_scale(table, label="perplexity")
    line, mark = ax.lines
    assert np.isnan(line.get_ydata()[2]) and mark.get_marker() == "^" and list(mark.get_xdata()) == [2.0]
    assert ax.get_ylim()[1] < 10


def test_values_far_apart_have_a_logarithmic_axis():
    table = pd.DataFrame({"scale": [0.0, 1.0, 2.0], "metric": "perplexity", "estimate": [2.0, 3.0, 4000.0]})
    assert figures.over_scale(table, label="perplexity").get_yscale() == "log"
    assert figures.over_scale(table.assign(estimate=[0.0, 0.5, 1.0]), label="").get_yscale() == "linear"


def test_points_beyond_the_limits_widen_the_axis():
    table = pd.DataFrame(
        {
            "model": ["CP", "chat"],
            "metric": "x",
            "estimate": [0.2, 1.4],
            "low": [0.1, 1.2],
            "high": [0.3, 1.6],
        }
    )
    assert figures.by_model(table, label="ratio").get_xlim()[1] > 1.6
    assert figures.by_model(table.head(1), label="share").get_xlim() == (-0.02, 1.02)


def test_an_empty_table_says_so():
    empty = pd.DataFrame(columns=["scale", "metric", "model", "estimate", "low", "high"])
    for ax in (figures.over_scale(empty, label="x"), figures.by_model(empty, label="x")):
        assert [text.get_text() for text in ax.texts] == ["not measured"]


def test_lines_break_where_a_value_is_missing():
    rows = [("a", layer, 0.1 * (layer + 1)) for layer in range(5)]
    table = pd.DataFrame(rows, columns=["module", "layer", "relative_l2"])
    table.loc[2, "relative_l2"] = np.nan
    drawn = figures.layer_profile(table).lines
    assert sorted(x for line in drawn for x in line.get_xdata()) == [0, 1, 3, 4]
    assert [len(line.get_xdata()) for line in drawn] == [2, 2], "not joined over the gap"


def test_projections_are_rows_in_the_models_order_with_their_numbers():
    order = ["down", "q", "up", "o", "gate", "v", "k"]
    rows = [(layer, p, 0.01 * (i + 1)) for layer in range(2) for i, p in enumerate(order)] + [(0, None, 0.9)]
    table = pd.DataFrame(rows, columns=["layer", "projection", "relative_l2"])
    ax = figures.heat_map(table, y="projection", numbers=True)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["q", "k", "v", "o", "gate", "up", "down"]
    cells = ax.collections[0].get_array().filled(np.nan).reshape(7, 2)
    np.testing.assert_allclose(cells[:, 0], [0.02, 0.07, 0.06, 0.04, 0.05, 0.03, 0.01])
    assert len(ax.texts) == 14 and ax.texts[0].get_text() == "0.02"


def test_direct_labels_stand_at_the_ends_and_apart():
    rows = [
        (v, layer, value)
        for v, value in (("chat", 0.5), ("CP zh", 0.5), ("CP ko", 0.1))
        for layer in range(3)
    ]
    table = pd.DataFrame(rows, columns=["vector", "layer", "relative_l2"])
    ax = figures.layer_profile(table, hue="vector", labels="direct")
    assert ax.get_legend() is None
    assert [text.get_text() for text in ax.texts] == ["chat", "Chinese CP", "Korean CP"]
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    many = pd.concat([table.assign(vector=table.vector + str(i)) for i in range(4)])
    assert figures.layer_profile(many, hue="vector", labels="direct").get_legend() is not None


@pytest.mark.parametrize("venue", ["acl", "slides"])
def test_rows_with_long_names_keep_apart(venue, tmp_path):
    names = [f"a control that has a name of two lines, number {k}" for k in range(12)]
    table = pd.DataFrame({"model": names, "estimate": 0.5, "low": 0.4, "high": 0.6, "metric": "right"})
    with figures.venue(venue) as at:
        figure, ax = figures.subplots(ratio=0.6)
        figures.by_model(table, label="share of the replies to hostile prompts that are right", ax=ax)
        figures.save(figure, tmp_path / "rows")
        assert on_one_another(figure) == [] == cut(figure)
        assert figures.size(ratio=0.6)[1] < figure.get_figheight() <= at.height
        mine, ax = plt.subplots(figsize=(4, 2))
        figures.by_model(table, label="share", ax=ax)
        assert mine.get_figheight() == 2, "a figure of one's own keeps its size"


def test_a_point_without_neighbours_keeps_its_marker():
    values = [np.nan if k % 5 else 0.5 for k in range(20)] + [0.1] * 20
    table = pd.DataFrame({"trial": range(40), "estimate": values, "what": "a trial"})
    ax = figures.over(table, x="trial", hue="what", label="right")
    assert {0, 5, 10, 15} <= set(ax.lines[0].get_markevery()) and len(ax.lines[0].get_markevery()) < 12


def test_points_that_stand_for_themselves_are_not_joined():
    trials = pd.DataFrame({"trial": range(40), "estimate": np.linspace(0, 1, 40), "what": "a trial"})
    best = trials.assign(what="the best so far")
    ax = figures.over(pd.concat([trials, best]), x="trial", hue="what", label="right", points=["a trial"])
    apart, joined = ax.lines
    assert apart.get_linestyle() == "None" and apart.get_markevery() is None
    assert joined.get_linestyle() != "None" and len(joined.get_markevery()) < 12
    of_key = [handle.get_linestyle() for handle in ax.get_legend().legend_handles]
    assert of_key == [apart.get_linestyle(), joined.get_linestyle()]


def test_numbers_fit_their_cells_and_colours_that_end_say_so():
    table = pd.DataFrame({"layer": [0, 1, 2, 3], "module": "mlp", "relative_l2": [0.01, 0.2, 0.0088, 1.8]})
    figure, (left, right) = figures.subplots(1, 2, width="text", ratio=0.3)
    figures.heat_map(table, limit=0.2, ax=left)
    figures.heat_map(table, numbers=False, ax=right)
    assert left.collections[0].colorbar.extend == "max" and right.collections[0].colorbar.extend == "neither"
    assert [text.get_text() for text in left.texts] == ["0.01", "0.2", "0.0088", "1.8"] and not right.texts
    figure.draw_without_rendering()
    room = left.get_window_extent().width / 4
    assert all(text.get_window_extent().width < room for text in left.texts if text.get_visible())


def test_what_is_changed_by_hand_stays_as_it_was_made(tmp_path):
    table = pd.DataFrame(
        {"model": ["CP", "CP + τ"], "estimate": 0.5, "low": 0.4, "high": 0.6, "metric": "right"}
    )
    cells = pd.DataFrame({"layer": [0, 1], "module": "mlp", "relative_l2": [0.01, 0.2]})
    figure, (left, middle, right) = figures.subplots(1, 3, width="text", ratio=0.3)
    figures.by_model(table, label="share", ax=left)
    figures.by_model(table, label="share", ax=middle)
    figures.heat_map(cells, ax=right)
    left.set_xlabel("mine")
    middle.set_yticks([])
    right.texts[0].remove()
    figures.save(figure, tmp_path / "mine")
    assert left.get_xlabel() == "mine" and not middle.get_yticklabels() and len(right.texts) == 1
    _, panels = figures.subplots(1, 2, width="text")
    paper = table.rename(
        columns={"model": "setup", "estimate": "here", "low": "here_low", "high": "here_high"}
    )
    figures.two_sources(
        paper.assign(table="7", paper=[90, 95], paper_unit="percent", here_unit="share"),
        ours="ours",
        axes=panels,
    )
    figures.save(panels[0].figure, tmp_path / "two")
    assert len(panels[0].get_yticklabels()) == 2 and not panels[1].get_yticklabels()
