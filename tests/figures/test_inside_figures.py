"""Coloured texts, maps of layers over tokens, and scatters: the artists are the table's values."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from drawn_labels import boxes, cut, on_one_another

from chatvec_lab import figures
from chatvec_lab.figures.inside import SHADES, visible
from chatvec_lab.figures.recipe import finish


@pytest.fixture(autouse=True)
def closed():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def tokens(*rows):
    table = pd.DataFrame(rows, columns=["text", "token", "divergence"])
    return table.assign(position=table.groupby("text").cumcount())


TEXTS = tokens(
    ("one", "雞", 4.0), ("one", "是", 0.0), ("one", "\n", 16.0), ("two", "<b>", 1.0), ("two", "$x$", np.nan)
)


def test_each_token_has_its_ground_and_its_place():
    _, ax = figures.subplots(width="text", ratio=0.3)
    figures.coloured_text(TEXTS, ax=ax)
    said = {text.get_text(): text for text in ax.texts}
    assert list(said) == ["one:", "雞", "是", "⏎", "two:", "<b>", "$x$"]
    shades = matplotlib.colormaps[SHADES]
    for token, share in (("雞", 0.5), ("是", 0.0), ("⏎", 1.0), ("<b>", 0.25)):  # the square root of the share
        assert said[token].get_bbox_patch().get_facecolor() == pytest.approx(shades(share))
    assert said["$x$"].get_bbox_patch().get_facecolor() == (1, 1, 1, 1), "no number, no colour"
    places = [said[token].get_position() for token in ("雞", "是", "⏎")]
    assert places[0][0] < places[1][0] < places[2][0] and len({y for _, y in places}) == 1
    assert said["<b>"].get_position()[1] < places[0][1]
    boxes = [said[token].get_window_extent() for token in ("雞", "是", "⏎")]
    assert all(one.x1 <= other.x0 for one, other in itertools.pairwise(boxes)), "no token covers another"


def test_a_long_text_is_wrapped_and_one_from_the_right_begins_there():
    _, ax = figures.subplots(ratio=0.8)
    figures.coloured_text(tokens(*(("one", f"word{i}", float(i)) for i in range(30))), ax=ax)
    rows = [text.get_position() for text in ax.texts[1:]]
    assert len({round(y, 6) for _, y in rows}) > 2 and max(x for x, _ in rows) < 1
    _, ax = figures.subplots(ratio=0.5)
    figures.coloured_text(tokens(("one", "كتاب", 1.0), ("one", "أحمر", 2.0)), ax=ax)
    first, second = ax.texts[1:]
    assert first.get_position()[0] > second.get_position()[0]


def test_html_escapes_and_tells_its_numbers():
    shown = figures.ColouredText(TEXTS.fillna(0.5), told=("position",))._repr_html_()
    assert "&lt;b&gt;</span>" in shown and "<b>" not in shown and shown.count("<span") == 5
    assert 'title="KL from the CP (nats): 16\nposition: 2"' in shown
    r, g, b, _ = (round(255 * c) for c in matplotlib.colormaps[SHADES](1.0))
    assert f"rgb({r},{g},{b});color:#fff" in shown, "white on dark ground"


def test_what_is_seen_of_a_token():
    assert [visible(t) for t in ("\n", " the ", " ", "", "a\tb")] == ["⏎", "the", "␣", "␣", "a⇥b"]


def test_a_map_has_the_last_layer_on_top_and_each_layers_word():
    rows = [(p, layer, f"r{layer}{p}", f"t{p}", p / 10 + layer / 2) for p in range(3) for layer in range(2)]
    table = pd.DataFrame(rows, columns=["position", "layer", "read", "token", "token_probability"])
    _, ax = figures.subplots()
    figures.token_map(table, title="CP", ax=ax)
    assert [t.get_text() for t in ax.texts] == ["r10", "r11", "r12", "r00", "r01", "r02"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["t0", "t1", "t2"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "0"] and ax.yaxis_inverted()
    np.testing.assert_allclose(
        ax.collections[0].get_array().reshape(2, 3), [[0.5, 0.6, 0.7], [0.0, 0.1, 0.2]]
    )
    assert ax.get_title(loc="left") == "CP"
    with pytest.raises(ValueError, match="where one is drawn"):
        figures.token_map(pd.concat([table, table]), ax=ax)


@pytest.mark.parametrize("venue", ["acl", "slides", "poster"])
def test_words_keep_inside_the_cells_of_a_map(venue):
    rows = [(p, layer, "<|end|>", "<|assistant|>", 0.5) for p in range(8) for layer in range(4)]
    table = pd.DataFrame(rows, columns=["position", "layer", "read", "token", "token_probability"])
    with figures.venue(venue):
        figure, panels = figures.subplots(1, 2, width="text", ratio=0.35)
        for ax in panels:
            figures.token_map(table, title="CP", ax=ax)
        finish(figure)
        figure.draw_without_rendering()
        assert on_one_another(figure) == [] == cut(figure)
        cell = panels[0].get_window_extent().width / 8
        assert all(text.get_window_extent().width < cell for text in panels[0].texts)


def test_one_value_against_another():
    table = pd.DataFrame({"of": ["a", "b", "a"], "x": [1.0, 2.0, -1.0], "y": [0.5, 3.0, 0.0]})
    _, ax = figures.subplots()
    figures.against(table, x="x", y="y", hue="of", x_label="alone", ax=ax)
    assert ax.lines[0].get_xdata().tolist() == [1.0, -1.0] and ax.lines[1].get_ydata().tolist() == [3.0]
    assert ax.lines[0].get_linestyle() == "None" and ax.get_xlabel() == "alone"
    assert list(ax.lines[2].get_xdata()) == [-1.0, 3.0], "equals lie on the dotted line"


def test_they_are_drawn_again_from_their_recipe():
    from chatvec_lab.figures import recipe

    figure, ax = figures.subplots(width="text")
    figures.coloured_text(TEXTS, ax=ax)
    kept = recipe.of(figure)
    again = figures.redraw(kept.data(figure), kept.tables)
    assert [t.get_text() for t in again.axes[0].texts] == [t.get_text() for t in ax.texts]


def test_texts_without_room_come_nearer_then_smaller_and_long_titles_keep_their_ends():
    title = "a prompt that goes on and on " * 9
    rows = [
        (f"{k}. {title} its end", place, token, float(place))
        for k in range(9)
        for place, token in enumerate("abc")
    ]
    table = pd.DataFrame(rows, columns=["text", "position", "token", "divergence"])
    figure, ax = figures.subplots(width="text", ratio=0.25)
    figures.coloured_text(table, ax=ax)
    assert cut(figure) == [] == on_one_another(figure) and len(boxes(figure)) > 9 * 4
    titles = [text.get_text() for text in ax.texts if "…" in text.get_text()]
    assert len(titles) == 9 and all(
        t.startswith(f"{k}. a prompt") and t.endswith("its end:") for k, t in enumerate(titles)
    )
