"""The documents: what they name exists, and the site builds and asks nothing of another server."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chatvec_lab.paths import NOTEBOOKS, ROOT
from chatvec_lab.study import parameters

PAGES = sorted((ROOT / "docs").glob("*.md"))
each_page = pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)


@each_page
def test_links_to_files_of_the_project_lead_there(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


@each_page
def test_verbs_and_targets_that_are_named_exist(page):
    from chatvec_lab.command.main import _parser

    text = page.read_text("utf-8")
    verbs = next(a for a in _parser()._actions if a.dest == "verb").choices
    for verb in re.findall(r"python -m chatvec_lab ([a-z]+)", text):
        assert verb in verbs
    for line in re.findall(r"(?:^|`)\$? ?(?:python -m )chatvec_lab ([a-z]+ [^`\n#\\]*)", text, re.MULTILINE):
        known = verbs[line.split()[0]].format_help()
        for option in re.findall(r"(?<!\S)(--[a-z][a-z-]+)", line.split(" -- ")[0]):
            assert option in known, f"{option} in {line!r}"
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_notebook_stands_in_the_list_of_notebooks():
    for page in (ROOT / "docs" / "notebooks.md", ROOT / "README.md"):
        listed = re.findall(r"^\| (\w+) \| ", page.read_text("utf-8"), re.MULTILINE)
        assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} <= set(listed), page
    assert parameters.title(NOTEBOOKS / "03_scale_sweep.ipynb")


def test_every_page_is_in_the_navigation():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = set(re.findall(r"[\w-]+\.md", str(settings["nav"])))
    assert {page.name for page in PAGES} <= listed
    assert settings["theme"]["font"] is False


def test_a_notebook_of_ones_own_as_it_is_described_leaves_its_results(tmp_path):
    """The code of "Write one" runs as it stands."""
    text = (ROOT / "docs" / "notebooks.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    prepared = (
        "import matplotlib; matplotlib.use('agg')\nimport pandas\nfrom matplotlib import pyplot\n"
        "from chatvec_lab import study\n"
        f"out_dir: str = {str(tmp_path)!r}\ntable = pandas.DataFrame({{'scale': [0.5]}})\nfigure = pyplot.figure()\n"
    )
    exec(compile(prepared + code, "notebooks.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} == {"tables", "figures", "summary.json"}


def test_the_algebra_of_merging_runs(tmp_path, monkeypatch):
    from chatvec_lab import load_family

    monkeypatch.chdir(tmp_path)
    nano = load_family("nano")
    members = {"BASE": nano.base.source, "CHAT": nano.chat.source, "CP": nano.cp["zh"].source}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "merging.md").read_text("utf-8"), re.DOTALL)
    exec(compile("\n".join(blocks), "merging.md", "exec"), members)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"half", "tau"}


def test_the_prompts_of_own_models_are_read(tmp_path):
    from chatvec_lab.evaluation.prompts import read_prompts

    text = (ROOT / "docs" / "own-models.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "prompts.yaml").write_text(block)
    found = read_prompts(tmp_path / "prompts.yaml", language="ko")
    assert found.turns.map(len).tolist() == [1, 2, 1] and found.language.tolist() == ["ko", "ko", "en"]


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_nothing_of_another_server(tmp_path):
    pytest.importorskip("material", reason="needs mkdocs-material: pip install 'chatvec_lab[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:)?//", re.IGNORECASE)
    pages = [path for path in Path(tmp_path / "site").rglob("*.html")]
    assert len(pages) >= len(PAGES)
    for path in pages:
        assert not asked.search(path.read_text("utf-8")), path
    for path in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\(\"?https?:", path.read_text("utf-8")), path
    api = (tmp_path / "site" / "api.html").read_text("utf-8")
    assert all(name in api for name in ("Checkpoint.read", "load_family", "mean_interval", "save_summary"))
