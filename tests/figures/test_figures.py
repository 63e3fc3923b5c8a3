"""Figures: what the artists say, what is refused, and files that are the same each time."""

import importlib
import re
import shutil
import subprocess
import warnings

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from chatvec_lab import figures

fonts = importlib.import_module("chatvec_lab.figures.fonts")
LAYERS = 4


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def norms():
    rows = [
        {"vector": "chat", "layer": layer, "module": module, "relative_l2": 0.01 * (layer + 1) * factor}
        for layer in range(LAYERS)
        for module, factor in (("norm", 1), ("attention", 2), ("mlp", 3))
    ]
    rows.append({"vector": "chat", "layer": None, "module": "embedding", "relative_l2": 0.5})
    return pd.DataFrame(rows).astype({"layer": "Int64"})


@pytest.fixture
def cosines():
    rows = [
        {"a": a, "b": b, "layer": layer, "cosine": value + 0.01 * layer, "random_sd": 0.02}
        for a, b, value in (("chat", "繁體中文", 0.1), ("chat", "한국어", -0.2), ("繁體中文", "한국어", 0.6))
        for layer in range(LAYERS)
    ]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


@pytest.fixture
def spectrum():
    rows = [
        {
            "vector": vector,
            "tensor": str(t),
            "index": i,
            "singular_value": (t + 1) * i**-power,
            "energy": 1 - 1 / (i + 1),
        }
        for vector, power in (("chat", 0.3), ("zh", 0.7))
        for t in range(3)
        for i in range(1, 33)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def fidelity():
    rows = [
        {"scale": s, "dtype": d, "relative_error": e / s, "unchanged": e, "cosine": 1 - e}
        for d, e in (("bfloat16", 0.1), ("float16", 0.01))
        for s in (1.0, 0.1, 0.5)
    ]
    return pd.DataFrame(rows)


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_layer_profile_has_a_line_a_module(norms):
    ax = figures.layer_profile(norms)
    assert labels(ax) == ["attention", "mlp", "norm"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "relative L2 norm")
    mlp = ax.lines[1]
    np.testing.assert_allclose(mlp.get_xdata(), range(LAYERS))
    np.testing.assert_allclose(mlp.get_ydata(), [0.03, 0.06, 0.09, 0.12])
    looks = {(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in ax.lines}
    markers = {line.get_marker() for line in ax.lines}
    assert len(looks) == len(markers) == 3  # never by colour alone


def test_a_module_looks_the_same_in_every_figure(norms):
    few = figures.layer_profile(norms[norms.module == "norm"]).lines[0]
    all_of_them = figures.layer_profile(norms).lines[2]
    assert (few.get_color(), few.get_marker()) == (all_of_them.get_color(), all_of_them.get_marker())


def test_depth_profile_lays_families_over_one_another(norms):
    one = norms[norms.module == "mlp"].assign(relative_depth=lambda t: t.layer / LAYERS)
    table = pd.concat(
        [one.assign(family="nano"), one[one.layer < 2].assign(family="wide", relative_depth=[0.0, 0.5])]
    )
    ax = figures.depth_profile(table)
    assert labels(ax) == ["nano", "wide"]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0, 0.25, 0.5, 0.75])


def test_heat_map_shows_what_lies_outside_the_layers(norms):
    ax = figures.heat_map(norms)
    cells = ax.collections[0].get_array().filled(np.nan).reshape(4, LAYERS + 1)
    rows = [tick.get_text() for tick in ax.get_yticklabels()]
    assert rows == ["attention", "mlp", "norm", "embedding"]
    np.testing.assert_allclose(cells[1, :LAYERS], [0.03, 0.06, 0.09, 0.12])
    assert cells[3, LAYERS] == 0.5 and np.isnan(cells[3, :LAYERS]).all()  # missing is not 0
    assert ax.collections[0].get_clim() == (0, 0.5)


def test_heat_map_of_signed_values_is_centred(norms):
    ax = figures.heat_map(norms.rename(columns={"relative_l2": "cosine"}), value="cosine")
    assert ax.collections[0].get_clim() == (-1, 1)


def test_cosine_matrix_is_symmetric_and_marks_signal(cosines):
    table = cosines[cosines.layer == 0].assign(random_sd=[0.02, 0.2, 0.02])
    ax = figures.cosine_matrix(table)
    cells = ax.images[0].get_array().filled(np.nan)
    assert cells[0, 1] == cells[1, 0] == 0.1 and ax.images[0].get_clim() == (-1, 1)
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["1", "0.10*", "−0.20", "0.10*", "1", "0.60*", "−0.20", "0.60*", "1"]


def test_cosine_profile_has_the_random_band(cosines):
    ax = figures.cosine_profile(cosines)
    assert labels(ax) == ["95 % of random pairs", "chat · 繁體中文", "chat · 한국어", "繁體中文 · 한국어"]
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(1.96 * 0.02) and band[:, 1].min() == pytest.approx(-1.96 * 0.02)


def test_spectra_are_logarithmic_with_a_band_over_matrices(spectrum):
    ax = figures.spectra(spectrum)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_ylabel() == "singular value / largest"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.arange(1, 33) ** -0.3)
    assert len(ax.collections) == 2
    ax.figure.draw_without_rendering()
    numbers = [tick.get_text() for tick in ax.get_xticklabels()]
    assert {"1", "2", "5", "10"} <= set(numbers), "an index is a whole number"
    one = figures.spectra(spectrum[spectrum.tensor == "2"], ax=plt.figure().gca())
    assert one.get_ylabel() == "singular value" and one.lines[0].get_ydata()[0] == 3 and not one.collections


def test_fidelity_is_ordered_by_scale(fidelity):
    ax = figures.fidelity(fidelity)
    assert ax.lines[0].get_xdata().tolist() == [0.1, 0.5, 1.0] and ax.get_yscale() == "log"
    assert figures.fidelity(fidelity, y="unchanged", ax=plt.figure().gca()).get_ylim()[0] == 0


def test_a_given_axes_is_drawn_on_and_returned(norms):
    _, (left, right) = figures.subplots(1, 2, width="text", ratio=0.3)
    assert figures.layer_profile(norms, ax=right) is right and not left.lines


def test_drawing_leaves_the_callers_settings_alone(norms):
    before = dict(matplotlib.rcParams)
    figures.heat_map(norms)
    assert dict(matplotlib.rcParams) == before


def test_wrong_tables_are_refused_with_a_way_out(norms, fidelity):
    with pytest.raises(ValueError, match="the table lacks module; it has scale"):
        figures.heat_map(fidelity.assign(layer=0))
    with pytest.raises(
        ValueError, match=r"2 rows where one is drawn for each layer and module.*Pick rows by vector"
    ):
        figures.layer_profile(pd.concat([norms, norms.head(1).assign(vector="zh")]))
    with pytest.raises(ValueError, match="empty"):
        figures.layer_profile(norms.head(0))
    with pytest.raises(ValueError, match="width='page'"):
        figures.size("page")


def test_files_have_the_width_of_the_column_and_the_same_bytes(norms, tmp_path):
    for name in ("one", "two"):
        pdf, png = figures.save(figures.layer_profile(norms), tmp_path / f"{name}.pdf")
        assert pdf.suffix == ".pdf" and png.suffix == ".png"
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", (tmp_path / "one.pdf").read_bytes())
    assert float(box[1]) == pytest.approx(3.03 * 72, abs=0.01)
    assert plt.imread(tmp_path / "one.png").shape[1] == round(3.03 * 300)


def test_fonts_are_embedded_as_truetype(norms, tmp_path):
    pdf, _ = figures.save(figures.layer_profile(norms), tmp_path / "figure")
    content = pdf.read_bytes()
    assert b"/Type3" not in content and b"/Subtype /Type3" not in content
    assert b"/CIDFontType2" in content or b"/CIDFontType0" in content


def test_cjk_labels_are_rendered(cosines, tmp_path, recwarn):
    if figures.cjk_family() is None:
        pytest.skip("no font with Chinese and Korean here: install the extra 'cjk'")
    pdf, png = figures.save(figures.cosine_profile(cosines), tmp_path / "figure")
    assert not [w for w in recwarn if "lyph" in str(w.message)]
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", pdf, "-"], capture_output=True, text=True, check=True).stdout
        assert "繁體中文" in text and "한국어" in text
    other = figures.save(
        figures.cosine_profile(cosines.replace({"繁體中文": "簡體中文"})), tmp_path / "other"
    )[1]
    assert png.read_bytes() != other.read_bytes()  # two boxes would look alike


def test_missing_cjk_fonts_are_said_once_with_the_cure(cosines, tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "cjk_family", lambda: None)
    monkeypatch.setattr(fonts, "_family_with", lambda characters: None)
    with pytest.warns(UserWarning) as caught:
        figures.save(figures.cosine_profile(cosines), tmp_path / "figure")
    (told,) = (str(w.message) for w in caught if w.category is UserWarning)
    assert "pip install 'chatvec_lab[cjk]'" in told


def test_a_font_is_found_though_matplotlib_does_not_list_it(monkeypatch):
    from matplotlib import font_manager

    if figures.cjk_family() is None:
        pytest.skip("no font with Chinese and Korean here: install the extra 'cjk'")
    known = font_manager.fontManager.ttflist
    monkeypatch.setattr(
        font_manager.fontManager,
        "ttflist",
        [f for f in known if "CJK" not in f.name and "WenQuan" not in f.name],
    )
    monkeypatch.setattr(fonts, "cjk_family", fonts.cjk_family.__wrapped__)
    assert fonts.cjk_family() is not None


@pytest.mark.parametrize(
    "text, script",
    [
        ("العربية", "arabic"),
        ("ok 😀", "emoji"),
        ("ไทย", "thai"),
        ("देवनागरी", "devanagari"),
        ("שלום", "hebrew"),
    ],
)
def test_any_script_is_drawn_or_said_once_with_the_package(tmp_path, monkeypatch, text, script):
    """Both ends: with no font of its own the warning names it; with the fonts installed here it is drawn, or named."""
    with figures.style():
        figure, axes = plt.subplots()
        axes.set_xlabel(text)
        axes.set_xticks([0], [text])  # a label that only drawing brings about
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figures.save(figure, tmp_path / "figure")
    is_had = all(fonts._family_with(frozenset(c)) for c in text if ord(c) > 0x7F)
    told = [
        warning for warning in caught if issubclass(warning.category, UserWarning)
    ]  # not of other tests' sockets
    assert len(told) == (0 if is_had else 1)
    monkeypatch.setattr(fonts, "_family_with", lambda characters: None)
    with figures.style():
        figure, axes = plt.subplots()
        axes.set_xlabel(text)
    with pytest.warns(UserWarning, match=f"boxes are drawn.*{script}.*Debian: fonts-") as caught:
        figures.save(figure, tmp_path / "figure")
    assert sum(warning.category is UserWarning for warning in caught) == 1
