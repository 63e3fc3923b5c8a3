"""A person opens the notebooks in JupyterLab: the playground answers to its slider, figures are there."""

import re
import shutil

import pytest

from chatvec_lab import study
from chatvec_lab.paths import NOTEBOOKS
from chatvec_lab.playground import Playground

pytestmark = pytest.mark.browser
ERRORS = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error'], [role=alert].chatvec-error"


def copied(name: str, folder, **values) -> str:
    """A copy of a notebook in the server's folder, whose parameters cell has these values."""
    import nbformat  # compiles a grammar: a second of every process's start

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


def test_the_playground_follows_its_slider(lab, open_notebook, run_all, known, tmp_path):
    """By mouse: replies change while the slider is held, before it is let go."""
    from playwright.sync_api import expect

    prompt, before, after = known
    page = open_notebook(
        copied("playground.ipynb", lab.folder, out_dir=str(tmp_path / "results"), prompt=prompt), height=1400
    )
    problems = []
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    run_all(page)
    panel = page.locator(".chatvec-panel")
    merged = panel.locator(".chatvec-card.is-merged")
    name, facts = (merged.locator(f".chatvec-{part}") for part in ("name", "facts"))
    expect(panel.locator(".chatvec-card")).to_have_count(4)
    expect(name).to_have_text("CP + 1 τ")
    expect_reply(merged, after)
    expect(facts).to_contain_text("✓ kept")

    slider = panel.get_by_role("slider", name="scale", exact=True)
    expect_picture(page.locator(".jp-RenderedImage img").last)  # nothing moves the page any more
    expect_picture(panel.locator("img.chatvec-profile"))
    slider.hover()  # in view, and where it stays
    box = slider.bounding_box()
    at = lambda scale: (box["x"] + 8 + (box["width"] - 16) * (scale + 1) / 3, box["y"] + box["height"] / 2)  # noqa: E731
    page.mouse.move(*at(1))
    page.mouse.down()
    expect(slider).to_be_focused()
    for step in range(21):
        page.mouse.move(*at(1 - step / 20))
        page.wait_for_timeout(30)
    expect(name).to_have_text(re.compile(r"CP \+ 0(\.05)? τ"))  # still held
    expect_reply(merged, before)
    page.mouse.up()
    expect(facts).to_contain_text("✗ broken")

    slider.focus()
    press(page, "ArrowRight", 30)
    expect(name).to_have_text(re.compile(r"CP \+ 1\.[45]5? τ"))
    page.get_by_label("scale, as a number").fill("1")
    page.keyboard.press("Enter")
    expect(name).to_have_text("CP + 1 τ")
    expect_reply(merged, after)

    expect(page.locator(ERRORS)).to_have_count(0)
    panel.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "playground.png")
    assert not problems, problems


def test_the_playground_by_keyboard_and_screen_reader(lab, open_notebook, run_all, known, tmp_path):
    """Every control has a name; the grid, the tokens, pins and history answer to keys; replies stay text."""
    from playwright.sync_api import expect

    page = open_notebook(
        copied("playground.ipynb", lab.folder, out_dir=str(tmp_path / "results"), prompt=known[0]),
        height=1400,
    )
    run_all(page)
    panel = page.locator(".chatvec-panel")
    unnamed = panel.evaluate(_UNNAMED)
    assert not unnamed, unnamed
    merged = panel.locator(".chatvec-card.is-merged")

    panel.get_by_text("where the vector is added").click()
    panel.get_by_role("button", name=re.compile("^all parts")).focus()
    press(page, "ArrowDown", 2)
    page.keyboard.press("ArrowRight")
    first = panel.locator("button:focus")
    name = first.get_attribute("aria-label").split(":")[0]
    page.keyboard.press("Space")
    expect(merged.locator(".chatvec-name")).to_have_text("CP + 1 τ in parts")
    expect(panel.get_by_role("switch", name=f"{name}: factor 0", exact=True)).to_have_attribute(
        "aria-checked", "false"
    )
    page.keyboard.press("Space")
    expect(merged.locator(".chatvec-name")).to_have_text("CP + 1 τ")

    panel.get_by_role("button", name=re.compile("^Pin")).click()
    slider = panel.get_by_role("slider", name="scale", exact=True)
    slider.focus()
    press(page, "ArrowLeft", 10)
    expect(panel.locator(".chatvec-card")).to_have_count(5)
    expect(panel.locator(".chatvec-card.is-pinned .chatvec-name")).to_contain_text("+ 1 τ")

    merged.locator(".chatvec-reply").last.focus()
    page.keyboard.press("ArrowRight")
    bubble = panel.locator(".chatvec-bubble")
    expect(bubble).to_contain_text("nats from the CP")
    expect(bubble).to_contain_text("by the CP:")
    page.keyboard.press("Escape")
    expect(bubble).to_be_hidden()

    history = panel.get_by_label("history: go back to")
    expect(history.locator("option").nth(1)).to_be_attached()
    history.select_option(index=history.locator("option").count() - 1)
    expect(merged.locator(".chatvec-name")).to_have_text("CP + 1 τ")

    panel.get_by_text("checks of your own").click()
    panel.get_by_label("checks, a line each").fill("punctuation:no_comma")
    page.keyboard.press("Control+Enter")
    expect(merged.locator(".chatvec-facts")).to_contain_text(re.compile("(kept|broken): has no comma"))

    panel.get_by_label("prompt", exact=True).fill("<img src=x onerror=alert(1)>\n===\n" + known[0])
    page.keyboard.press("Control+Enter")
    expect(panel.locator(".chatvec-asked")).to_have_count(2)
    expect(panel.locator(".chatvec-prompt").first).to_contain_text("<img src=x onerror=alert(1)>")
    assert panel.locator(".chatvec-page img").count() == 0
    panel.get_by_role("button", name="Scales × prompts").click()
    expect(panel.locator(".chatvec-sweep tbody tr")).to_have_count(2)
    panel.get_by_role("button", name="Save").click()
    expect(panel.get_by_role("status").first).to_contain_text("saved as")
    assert list(tmp_path.glob("results/tables/playground-001.parquet"))
    expect(page.locator(ERRORS)).to_have_count(0)
    page.screenshot(path=tmp_path / "keyboard.png")


# what a screen reader would call nothing
_UNNAMED = """panel => [...panel.querySelectorAll("input, select, textarea, button, summary, [tabindex]")]
  .filter(e => !(e.getAttribute("aria-label") || e.textContent.trim() && ["BUTTON", "SUMMARY"].includes(e.tagName)
    || e.id && panel.querySelector(`label[for="${e.id}"]`)))
  .map(e => e.outerHTML.slice(0, 200))"""


def expect_reply(card, text: str) -> None:
    """The card's last reply is this text: all that it shows but the name of the token that ended it."""
    from playwright.sync_api import expect

    expect(card.locator(".chatvec-reply").last).to_contain_text(text)


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
