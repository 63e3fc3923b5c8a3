"""The page in a real browser: readable at a desk and on a phone, by day and by night; what it shows stays text."""

import json
import os
import re
import shutil

import pytest
from tiny_study import HOSTILE

from chatvec_lab import report

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("CHATVEC_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
# texts of the page's figures that stick out of their figure, or lie on one another, by more than a pixel
STRAYS = """() => {
  const found = [];
  for (const chart of document.querySelectorAll("svg.chart")) {
    const frame = chart.getBoundingClientRect();
    if (!frame.width) continue;
    const boxes = [...chart.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
    for (const [text, box] of boxes)
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
          || box.bottom > frame.bottom + 1) found.push(`${text} is outside of ${chart.getAttribute("aria-label")}`);
    boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([two, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 3) found.push(`${one} lies on ${two}`);
    }));
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install 'chatvec_lab[browser]'"
    )
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium), or its path in CHATVEC_CHROMIUM")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(made, tmp_path_factory):
    out = shutil.copytree(made(()), tmp_path_factory.mktemp("page") / "out")
    return report.write(out).as_uri()


@pytest.fixture
def opened(browser, address):
    """`opened(width, scheme)` shows the page. At the end nothing was asked for, and the console is empty."""
    pages, said, asked = [], [], []

    def show(width=1280, scheme="light", hash="", is_refused=False, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        pages.append(page)
        page.set_default_timeout(60_000)
        if not is_refused:  # a test that breaks the policy on purpose is told so
            page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address + hash)
        return page

    yield show
    for page in pages:
        assert page.title() == f"A study {HOSTILE}", "a script of the study ran"
        page.close()
    assert not said, said
    assert [url for url in asked if not url.startswith((address, "data:image/svg+xml,"))] == []


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_labels_keep_inside_their_figures_and_the_page_inside_the_window(opened, width, scheme):
    page = opened(width, scheme)
    page.evaluate("() => document.querySelectorAll('details').forEach((fold) => { fold.open = true })")
    page.wait_for_function("() => [...document.images].every((image) => image.naturalWidth > 0)")
    assert page.evaluate(STRAYS) == []
    assert page.locator("svg.chart").count() > 5
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # contrast of what is written, against what lies behind it
    light = page.evaluate("""() => [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]
      .map((colour) => colour.match(/[0-9]+/g).slice(0, 3).reduce((sum, x) => sum + Number(x), 0) / 765)""")
    assert (light[0] > 0.8 and light[1] < 0.2) if scheme == "dark" else (light[0] < 0.2 and light[1] > 0.8)
    sizes = page.evaluate("""() => [...document.querySelectorAll("svg.chart")]
      .map((chart) => 11 * chart.getBoundingClientRect().width / 340).filter((size) => size)""")
    assert min(sizes) > 9, "letters of a figure, in pixels"


def test_it_opens_in_two_seconds_and_is_small(opened, address):
    page = opened()
    assert page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 2000
    assert page.locator(".toc").bounding_box()["y"] >= 0
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert 0 <= page.locator(".toc").bounding_box()["y"] < 50, "the table of contents stays in view"


def test_a_point_tells_its_value_and_leads_to_its_replies(opened):
    page = opened()
    chart = page.locator("#overview + .plot svg.chart").first
    chart.scroll_into_view_if_needed()
    mean = chart.locator("[data-where] .mean.after").first
    box = mean.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = page.locator(".tip.shown")
    assert re.match(r"CP \+ τ: [0-9.]+ % \[[0-9., ]+\], mean of 3 seeds", tip.inner_text())
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("article.reply")
    assert page.locator("select[name=model]").input_value() == "CP + τ"
    assert "60 replies" in page.locator(".tally").inner_text()
    assert "model=CP" in page.url


def test_a_figure_is_read_by_keyboard(opened):
    page = opened()
    page.locator("#overview + .plot svg.chart").first.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert (
        "seed 0" in page.locator(".tip.shown").inner_text() or "CP" in page.locator(".tip.shown").inner_text()
    )
    page.keyboard.press("Enter")
    page.wait_for_selector("article.reply")


def test_seeds_go_on_and_off(opened):
    page = opened()
    plot = page.locator(".plot", has=page.locator(".seeds")).first
    hidden = "(plot) => plot.querySelectorAll('.seed.off').length"
    assert plot.evaluate(hidden) == 0
    plot.locator("input[value='1']").uncheck()
    off = plot.evaluate(hidden)
    assert off > 0 and plot.evaluate(
        "(plot) => [...plot.querySelectorAll('.seed.off')].every((m) => m.dataset.seed === '1')"
    )
    plot.locator("input[value='1']").check()
    assert plot.evaluate(hidden) == 0


def test_filters_search_and_a_second_model_beside(opened, made):
    import pandas

    page = opened(hash="#replies?" + "notebook=04_following&model=CP+%2B+%CF%84&verdict=correct%3Ano")
    page.wait_for_selector("article.reply")
    files = sorted(made(()).glob("cells/04_following/*/tables/replies.parquet"))
    rows = pandas.concat([pandas.read_parquet(file) for file in files])
    of = rows[rows.model == "CP + τ"]

    def count():
        return int(re.match(r"([0-9,]+)", page.locator(".tally").inner_text())[1].replace(",", ""))

    assert count() == (of.correct == 0).sum()
    page.select_option("select[name=verdict]", "")
    assert "Arabic" in page.locator("select[name=language]").inner_text()
    page.select_option("select[name=language]", "ar")
    assert count() == (of.language == "ar").sum()
    first = page.locator("article.reply .said.prompt").first
    assert first.evaluate("(line) => getComputedStyle(line).direction") == "rtl"
    assert " · Arabic · " in page.locator("article.reply .soft").first.inner_text()
    page.select_option("select[name=kind]", "yesno")
    page.select_option("select[name=verdict]", "judge:high")
    assert 0 < count() < (of.language == "ar").sum()
    page.get_by_role("button", name="clear").click()
    page.fill("input[type=search]", "DOG IS AN")  # of a gloss
    page.wait_for_timeout(600)
    whole = [pandas.read_parquet(file) for file in made(()).glob("cells/*/*/tables/replies.parquet")]
    assert count() == sum(table.gloss.notna().sum() for table in whole)
    page.get_by_role("button", name="clear").click()
    page.select_option("select[name=notebook]", "04_following")
    page.select_option("select[name=model]", "CP + τ")
    page.select_option("select[name=beside]", "CP")
    assert count() == len(of)
    page.locator(".check input").check()
    merged = of.merge(rows[rows.model == "CP"], on=["prompt", "language"], how="inner")
    assert count() < len(of) and len(merged)
    card = page.locator("article.reply").first
    assert card.locator(".talk > div").count() == 2 and card.locator("mark").count() >= 1


def test_the_other_replies_to_a_prompt_are_shown_with_what_differs(opened):
    page = opened(hash="#replies?notebook=04_following&model=CP")
    page.wait_for_selector("article.reply")
    card = page.locator("article.reply").first
    card.locator(".more").click()
    names = card.locator(".who strong").all_inner_texts()
    assert sorted(names) == ["CP", "CP + random", "CP + τ"]


def test_what_models_and_notebooks_wrote_stays_text(opened):
    page = opened(hash="#replies?model=CP&notebook=04_following", is_refused=True)
    page.wait_for_selector("article.reply")
    page.fill("input[type=search]", "evil.example")
    page.wait_for_timeout(600)
    assert page.locator("article.reply .said", has_text="onerror=alert(2)").first.inner_text() == HOSTILE
    page.evaluate("() => document.querySelectorAll('details').forEach((fold) => { fold.open = true })")
    page.wait_for_timeout(300)
    assert page.locator("img[src^=http]").count() == 0 and page.locator("img[onerror]").count() == 0
    scripts = page.evaluate("() => [...document.scripts].map((script) => script.type)")
    assert scripts == ["text/plain", "text/plain", ""]
    # the policy refuses a script of another's hand even where one gets into the page
    page.evaluate("""() => { const s = document.createElement("script"); s.textContent = "document.title = 'taken'";
      addEventListener("securitypolicyviolation", () => { window.refused = true }); document.body.append(s); }""")
    page.wait_for_function("() => window.refused")


def test_words_explain_themselves_without_a_mouse(opened):
    page = opened(390)
    word = page.locator("button.term").first
    word.focus()
    page.keyboard.press("Enter")
    shown = page.locator("[popover]:popover-open")
    assert shown.count() == 1 and len(shown.inner_text()) > 30
    box = shown.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.keyboard.press("Escape")
    assert shown.count() == 0


def test_without_script_samples_and_the_names_of_the_tables_are_there(opened):
    page = opened(java_script_enabled=False)
    text = page.locator("body").inner_text()
    assert "Three prompts, before and after" in text and "cells/04_following/*/tables/replies.parquet" in text
    assert page.locator("svg.chart").first.is_visible() and page.locator("svg.chart title").count() > 20
    page.locator("summary", has_text="Read some").first.click()
    assert page.locator("summary", has_text="Side by side").first.is_visible()


@pytest.mark.parametrize(
    "question",
    ["Does it work?", "Which scale?", "What does it cost?", "What goes wrong?", "Show me a wrong reply"],
)
def test_five_questions_are_answered_on_the_first_screen_and_lead_on(opened, question):
    page = opened()
    card = page.locator(".answers .card", has=page.get_by_role("heading", name=question))
    assert len(card.inner_text()) > len(question) + 20
    link = card.locator("a")
    where = link.get_attribute("data-where")
    link.click()
    if where is None:
        assert page.evaluate("location.hash").startswith(("#03", "#04"))
        return
    page.wait_for_selector("article.reply")
    assert json.loads(where)["verdict"] == "correct:no"
    verdicts = page.locator("article.reply .verdicts").all_inner_texts()
    assert verdicts and all("wrong" in text for text in verdicts)
