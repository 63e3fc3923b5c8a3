"""A whole study drawn again at every venue: each of its figures, with no label cut or on another, twice in the same bytes."""

import importlib
import json

import gallery
import matplotlib
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt
from drawn_labels import cut, on_one_another

from chatvec_lab.command.main import main
from chatvec_lab.command.redraw import NAMES
from chatvec_lab.figures import recipe

pytestmark = pytest.mark.slow
TWICE = ("acl", "slides")  # a paper's and a screen's; half of the time, were it all


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, gallery.finished(folder)


def test_the_study_has_every_figure_function(finished):
    calls = [
        call["function"]
        for file in finished[0].glob("cells/*/*/figures/*.json")
        for call in json.loads(file.read_text("utf-8"))["drawn"]["calls"]
    ]
    assert set(calls) == set(recipe.DRAWN)


@pytest.mark.parametrize("venue", NAMES)
def test_every_label_has_its_room_and_every_byte_its_place(finished, venue, tmp_path, monkeypatch, capsys):
    folder, names = finished
    strays = []

    def measured(figure, target, **options):
        files = write(figure, target, **options)
        strays.extend((target.name, found) for found in (cut(figure), on_one_another(figure)) if found)
        return files

    style = importlib.import_module("chatvec_lab.figures.style")  # figures.style is its function
    write = style.write
    monkeypatch.setattr(style, "write", measured)
    for out in ("one", "two") if venue in TWICE else ("one",):
        assert main(["redraw", str(folder), "--venue", venue, "--out", str(tmp_path / out)]) == 0
        assert f"{len(names)} of {len(names)} figures drawn for {venue}" in capsys.readouterr().out
        monkeypatch.setattr(style, "write", write)
    plt.close("all")
    assert not strays, strays
    files = sorted(tmp_path.glob("one/*"))
    assert {file.stem for file in files} == names and len(files) == 3 * len(names)
    if venue in TWICE:
        assert [f.name for f in files if f.read_bytes() != (tmp_path / "two" / f.name).read_bytes()] == []
    if venue == "acl":  # as the notebook drew them
        home = next(folder.glob("cells/*/*/figures"))
        drawn = {f.name: f.read_bytes() for f in home.glob("*.pdf")}
        assert drawn == {f.name.split("-")[1] + ".pdf": f.read_bytes() for f in files if f.suffix == ".pdf"}
