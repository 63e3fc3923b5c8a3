"""A person opens the notebooks in JupyterLab: the playground answers to its slider, figures are there."""

import re
import shutil

import nbformat
import pytest

from chatvec_lab import study
from chatvec_lab.paths import NOTEBOOKS
from chatvec_lab.playground import Playground

pytestmark = pytest.mark.browser
ERRORS = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error'], [role=alert].chatvec-error"


def copied(name: str, folder, **values) -> str:
    """A copy of a notebook in the server's folder, whose parameters cell has these values."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    for key, value in values.items():
        cell.source, changes = re.subn(rf"(?m)^({key}: .*?= ).*$", rf"\g<1>{value!r}", cell.source)
        assert changes == 1, key
    nbformat.write(notebook, folder / name)
    return name


@pytest.fixture(scope="session")
def known():
    """A prompt that CP + τ answers and the CP does not, with both replies."""
    play = Playground("nano", device="cpu", compare=[])
    for example in play.examples("zh"):
        table = play.ask(example.text, scale=1.0).groupby("model").last()
        if table.followed.tolist() == [0, 1]:  # CP, CP + τ
            return example.text, table.response["CP"].strip(), table.response["CP + τ"].strip()
    raise AssertionError("CP + τ answers nothing that the CP does not")


def test_the_slider_changes_the_reply(lab, open_notebook, run_all, known, tmp_path):
    from playwright.sync_api import expect

    prompt, before, after = known
    page = open_notebook(
        copied("playground.ipynb", lab.folder, out_dir=str(tmp_path / "results"), prompt=prompt)
    )
    run_all(page)
    panel = page.locator(".chatvec-panel")
    merged = panel.locator(".chatvec-card[data-model='CP + τ']")
    name, reply, facts = (merged.locator(f".chatvec-{part}") for part in ("name", "reply", "facts"))
    expect(panel.locator(".chatvec-card")).to_have_count(4)
    expect(name).to_have_text("CP + 1 τ")
    expect(reply.last).to_have_text(after)
    expect(facts).to_contain_text("✓")

    panel.locator(".noUi-handle").first.focus()  # the scale
    press(page, "ArrowLeft", 20)  # steps of 0.05: back to the CP itself
    expect(name).to_have_text("CP + 0 τ")
    expect(reply.last).to_have_text(before)
    expect(facts).to_contain_text("✗")
    press(page, "ArrowRight", 20)
    expect(name).to_have_text("CP + 1 τ")
    expect(reply.last).to_have_text(after)

    expect_picture(panel.locator("img.chatvec-profile"))
    expect_picture(page.locator(".jp-RenderedImage img").last)
    expect(page.locator(ERRORS)).to_have_count(0)
    panel.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "playground.png")


def press(page, key: str, times: int) -> None:
    for _ in range(times):
        page.keyboard.press(key)


def expect_picture(image) -> None:
    """The image is on the page and was decoded at a size that can be read."""
    from playwright.sync_api import expect

    image.scroll_into_view_if_needed()
    expect(image).to_be_visible()
    width, height = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert width > 300 and height > 150, (width, height)


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
    expect_picture(page.locator(".jp-RenderedImage img").first)
    saved = len(list(executed.glob("figures/*.png")))
    expect(page.locator(".jp-RenderedImage img")).to_have_count(saved)
    expect(page.locator(".jp-OutputArea-output table").first).to_contain_text("chat")
    page.screenshot(path=tmp_path / "executed.png")
