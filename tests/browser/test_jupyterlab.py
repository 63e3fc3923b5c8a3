"""A person opens the notebooks in JupyterLab: the playground answers to its slider, figures are there."""

import re
import shutil

import nbformat
import pytest

from chatvec_lab import study
from chatvec_lab.paths import NOTEBOOKS

pytestmark = pytest.mark.browser
ERRORS = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error'], [role=alert].chatvec-error"


def copied(name: str, folder, results, **values) -> str:
    """A copy of a notebook in the server's folder, whose parameters cell has these values."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    for key, value in {"out_dir": str(results), **values}.items():
        cell.source, changes = re.subn(rf"(?m)^({key}: .*?= ).*$", rf"\g<1>{value!r}", cell.source)
        assert changes == 1, key
    nbformat.write(notebook, folder / name)
    return name


@pytest.fixture
def playground(lab, open_notebook, run_all, tmp_path):
    """The playground after all of its cells ran."""
    page = open_notebook(copied("playground.ipynb", lab.folder, tmp_path / "results"))
    run_all(page)
    page.locator(".chatvec-card").nth(3).wait_for()
    return page


def merged(page):
    """The card of CP + τ in the panel."""
    return page.locator(".chatvec-panel .chatvec-card[data-model='CP + τ']")


def press(page, handle, key: str, times: int) -> None:
    handle.focus()
    for _ in range(times):
        page.keyboard.press(key)


def test_the_slider_changes_the_reply(playground, tmp_path):
    from playwright.sync_api import expect

    page = playground
    expect(page.locator(ERRORS)).to_have_count(0)
    heading, reply = merged(page).locator(".chatvec-name"), merged(page).locator(".chatvec-reply")
    expect(heading).to_have_text("CP + 1 τ")
    expect(reply).to_have_text("米、樹。")
    handle = page.locator(".chatvec-panel .noUi-handle").first
    press(page, handle, "ArrowLeft", 20)  # steps of 0.05: back to the CP itself
    expect(heading).to_have_text("CP + 0 τ")
    expect(reply).to_have_text("the opposite of old is new.")
    expect(page.locator(".chatvec-panel .chatvec-card[data-model='CP'] .chatvec-reply")).to_have_text(
        "the opposite of old is new."
    )
    press(page, handle, "ArrowRight", 15)
    expect(heading).to_have_text("CP + 0.75 τ")
    expect(reply).to_have_text("米、樹。")
    expect(merged(page).locator(".chatvec-facts")).to_contain_text("✓")
    page.screenshot(path=tmp_path / "playground.png")


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """The folder of a study's cell of 02_anatomy: its executed notebook and its results."""
    out = tmp_path_factory.mktemp("study")
    plan = study.load("nano-quick")
    records = study.run(plan, out, study.Local(workers=1), cells=study.chosen(plan, ["02_anatomy"]))
    assert [record["status"] for record in records.values()] == ["done"]
    return next(out.glob("cells/02_anatomy/*"))


def test_an_executed_study_notebook_shows_its_figures(lab, open_notebook, executed, tmp_path):
    from playwright.sync_api import expect

    shutil.copy(executed / "notebook.ipynb", lab.folder / "executed.ipynb")
    page = open_notebook("executed.ipynb")
    expect(page.locator(ERRORS)).to_have_count(0)
    figure = page.locator(".jp-OutputArea-output img").first
    figure.scroll_into_view_if_needed()
    expect(figure).to_be_visible()
    width, height = figure.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert width > 400 and height > 150
    expect(page.locator(".jp-OutputArea-output table").first).to_contain_text("chat")
    page.screenshot(path=tmp_path / "executed.png")
