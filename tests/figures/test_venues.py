"""Venues: widths, letters and line weights, inside a `with` statement and from a plain call; nothing is left behind."""

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from drawn_labels import cut

from chatvec_lab import figures
from chatvec_lab.figures import venues

NAMES = ["acl", "icml", "neurips", "iclr", "slides", "poster"]
INCHES = {"acl": (3.03, 6.30), "icml": (3.25, 6.75), "neurips": (5.5, 5.5), "iclr": (5.5, 5.5)}


@pytest.fixture(autouse=True)
def _as_before():
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert venues.current().name == "acl" and venues.current().width == "column"
    assert dict(matplotlib.rcParams) == before


@pytest.fixture
def scores():
    models = ["CP", "CP + τ", "CP + random", "chat → CP → FT", "vision-language model + τ"]
    rows = [
        {"model": m, "metric": metric, "language": "ko", "scale": i / 2, "estimate": 0.2 * i, "low": 0.15 * i, "high": 0.21 * i}
        for i, m in enumerate(models)
        for metric in ("toxic replies to hostile prompts", "replies in the language asked for")
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_as_wide_as_the_venue(name):
    with figures.venue(name) as at:
        for width, inches in (("column", at.column), ("text", at.text), (4.2, 4.2), (None, at.column)):
            assert figures.size(width)[0] == figures.subplots(width=width)[0].get_figwidth() == inches
        assert plt.figure().get_figwidth() == at.column  # matplotlib's own figures follow
        assert matplotlib.rcParams["axes.labelsize"] == at.points
        assert figures.size("column", 9)[1] == at.height  # no figure is higher than what fits there
    if name in INCHES:
        assert (at.column, at.text) == INCHES[name]


def test_lines_and_marks_grow_with_the_letters():
    with figures.venue("acl"):
        small = {
            key: matplotlib.rcParams[key] for key in ("lines.linewidth", "lines.markersize", "axes.linewidth")
        }
    with figures.venue("poster") as at:
        assert {key: matplotlib.rcParams[key] / at.factor for key in small} == pytest.approx(small)


def test_a_width_of_the_venue_is_that_of_figures_without_their_own():
    with figures.venue("icml", width="text"):
        assert figures.subplots()[0].get_figwidth() == 6.75
        assert figures.subplots(width="column")[0].get_figwidth() == 3.25
    with figures.venue("icml", width=2.5):
        assert figures.subplots()[0].get_figwidth() == 2.5


def test_a_plain_call_holds_until_the_next_and_nests():
    first = figures.venue("neurips")
    assert figures.size()[0] == 5.5 and matplotlib.rcParams["font.size"] == 9
    with figures.venue("slides", font="DejaVu Serif"):
        assert matplotlib.rcParams["font.family"][0] == "DejaVu Serif"
    assert figures.size()[0] == 5.5 and matplotlib.rcParams["font.size"] == 9
    first.__exit__(None, None, None)


def test_an_error_inside_ends_the_venue_too():
    with pytest.raises(RuntimeError), figures.venue("poster"):
        raise RuntimeError
    assert venues.current().name == "acl"


def test_what_is_not_known_is_refused_by_name():
    with pytest.raises(ValueError, match=r"venue 'nature': expected one of acl, icml"):
        figures.venue("nature")
    with pytest.raises(ValueError, match=r"font 'DejaVu Sand' is not installed here.*DejaVu Sans"):
        figures.venue("acl", font="DejaVu Sand")
    for width in ("page", -1, 0, True):
        with pytest.raises(ValueError, match="expected one of column, text, or a number of inches"):
            figures.venue("acl", width=width)


@pytest.mark.parametrize("name", NAMES)
def test_no_label_is_cut(name, scores):
    with figures.venue(name):
        for width in ("column", "text"):
            _, ax = figures.subplots(width=width)
            figures.by_model(scores, label="share of replies to hostile prompts", ax=ax)
            assert not cut(ax.figure)
            plt.close("all")
        _, (left, right) = figures.subplots(1, 2, width="text", ratio=0.5)
        figures.over_scale(scores, label="share of replies", mark=1.0, ax=left)
        figures.over_scale(scores, label="share of replies", labels="direct", ax=right)
        assert not cut(left.figure)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("high", [1.336608, 1.353])
def test_the_last_tick_has_room_in_what_is_written(name, high, tmp_path):
    """A wide axis has a tick at its end, which needs room, without which there is no such tick."""
    models = ["CP + τ", "CP → FT", "CP → FT + τ"] * 2
    rows = pd.DataFrame({"model": models, "language": ["zh"] * 3 + ["en"] * 3,
                         "estimate": [1.012, 1.016, 1.186, 1.062, 1.017, high - 0.1],
                         "low": [1.006, 1.008, 1.13, 1.029, 1.014, high - 0.18],
                         "high": [1.019, 1.025, 1.252, 1.104, 1.021, high]})  # fmt: skip
    with figures.venue(name):
        _, ax = figures.subplots(ratio=0.5)
        figures.by_model(rows, hue="language", label="perplexity / the CP's", limits=None, mark=1, ax=ax)
        figures.save(ax.figure, tmp_path / "a")
        assert not cut(ax.figure)


def test_a_venue_draws_the_same_bytes_each_time(scores, tmp_path):
    files = []
    for stem in ("one", "two"):
        with figures.venue("slides"):
            files += figures.save(figures.by_model(scores, label="share"), tmp_path / stem)
    assert files[0].read_bytes() == files[2].read_bytes() and files[1].read_bytes() == files[3].read_bytes()
