"""The site of documents, opened from the disk: it asks nothing of another server, its search works, a phone can read it."""

import subprocess
import sys

import pytest

from chatvec_lab.paths import ROOT

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="needs mkdocs-material: pip install 'chatvec_lab[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture
def opened(site, chromium):
    """`opened(name, width)` -> the page; at the end none may have asked another server or told of an error."""
    outside, errors, pages = [], [], []

    def page_of(name: str, width: int = 1280):
        page = chromium.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:")) or outside.append(request.url),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: message.type != "error" or errors.append(message.text))
        page.goto((site / name).as_uri())
        page.wait_for_selector("article h1")
        return page

    yield page_of
    for page in pages:
        page.close()
    assert not outside and not errors


@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_fits_its_window(site, opened, width):
    names = sorted(path.name for path in site.glob("*.html") if path.name != "404.html")
    assert len(names) > 10
    for name in names:
        page = opened(name, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.close()


def test_the_search_works_from_the_disk(opened):
    page = opened("index.html")
    page.locator("[data-md-component=search-query]").fill("fidelity")
    page.locator(".md-search-result__item").first.wait_for()
    assert "Reading the report" in page.locator(".md-search-result__list").inner_text()
