"""The page of a study: complete, safe, self-contained, and the same bytes each time."""

import base64
import csv
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import matplotlib.figure
import pandas
import pytest

from chatvec_lab import report, study
from chatvec_lab.report import gather, svg, tables
from chatvec_lab.study import fingerprint, outputs, runner
from chatvec_lab.study.results import read_manifest, write_record

HOSTILE = '</p><script>alert(1)</script><img src="http://evil.example/x.png" onerror=alert(2)>'
LOADING = {"src", "srcset", "poster", "data", "background", "action", "xlink:href"}


@pytest.fixture
def finished(lab, monkeypatch):
    """A study of four cells, two done, one failed, one blocked; without kernels, as notebooks would leave it."""
    monkeypatch.setattr(fingerprint, "PACKAGE", lab.root / "chatvec_lab")
    lab.notebook("01_scales", "language: str = 'ko'  # language", title="How much is best?")
    lab.notebook("02_limits", "language: str = 'ko'  # language", title="What does it not transfer?")
    lab.notebook("03_last", "limits: str = ''  # folder", title="And so?")
    lab.study("""
        title: A study <of> tests
        question: Does it work?
        notebooks:
          01_scales.ipynb: {grid: {language: [ko, zh]}}
          02_limits.ipynb: {}
          03_last.ipynb: {needs: {limits: 02_limits}}
    """)
    plan = study.load(lab.root / "tiny.yaml")
    lab.out.mkdir()
    runner.write_manifest(plan, lab.out)
    for cell in plan.cells[:3]:
        folder = study.output(cell.folder(lab.out))
        record = {
            "status": "done",
            "error": None,
            "versions": {"torch": "2.9"},
            "started": "now",
            "host": "node7",
        }
        if cell.notebook == "02_limits":
            error = {
                "name": "ValueError",
                "value": f"bad {folder.resolve()} {HOSTILE}",
                "cell": 3,
                "line": "f(<x>)",
            }
            record |= {"status": "failed", "error": error}
            (folder / "run.log").write_text("log")
        else:
            leave_results(folder, cell.parameters["language"])
        write_record(folder, record | {"seconds": 12.345})
    return lab.out


def leave_results(folder, language):
    import matplotlib.pyplot as plt

    table = pandas.DataFrame(
        {"scale": [0.0, 0.5], "mean": [0.25, 0.75], "low": [0.2, 0.7], "high": [0.3, 0.8]}
    )
    table["note"] = ["50 % & more_of", None]
    study.save_table(folder, "scores", table.assign(n=200), caption="Score & interval, 100 %.")
    study.save_table(folder, "replies", table, caption="All replies", show=False)
    figure, axes = plt.subplots(figsize=(3.03, 1.9))
    axes.plot([0, 1], [0, 1], marker="o", label="a < b")
    axes.legend()
    study.save_figure(folder, "scores", figure, caption="Score by scale.", alt='A "rising" line.')
    plt.close(figure)
    rows = [{"prompt": "Hello?", "scale": s, "response": f"{HOSTILE} at {s}"} for s in (0.0, 1.0)]
    study.save_samples(folder, pandas.DataFrame(rows), by="scale", caption="Replies side by side")
    claims = [
        study.claim("best scale", 0.5, low=0.4, high=0.6, n=200, seed=0),
        study.claim("unmeasured", float("nan")),
    ]
    study.save_summary(folder, question="How much?", answer=f"For {language}, 0.5 is best.", claims=claims)


class Page(HTMLParser):
    """Tags, attributes and ids of a page; an unclosed element is an error."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def read(out):
    return Page(report.write(out).read_text("utf-8"))


def test_nothing_is_loaded_and_nothing_runs(finished):
    page = read(finished)
    assert not {"iframe", "object", "embed", "link", "base"} & set(page.tags)
    (script,) = re.findall(r"<script>(.*?)</script>", (finished / "index.html").read_text("utf-8"), re.DOTALL)
    assert [v for tag, name, v in page.attributes if tag == "script" and name == "type"] == ["text/plain"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.tags.count("script") == 2 and f"script-src 'sha256-{digest}'; base-uri" in str(
        page.attributes
    )
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name, value)
        assert name not in LOADING or value.startswith("#"), (tag, name, value)
        if name == "href":
            assert not re.match(r"[a-z]+:|//", value), (tag, value)
    text = (finished / "index.html").read_text("utf-8")
    assert not re.search(r"url\((?!#)|@import", text)
    assert "default-src 'none'" in text


def test_every_link_leads_somewhere(finished):
    page = read(finished)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "ids clash"
    for tag, name, value in page.attributes:
        if name in ("href", "xlink:href") and value.startswith("#"):
            assert value[1:] in ids, (tag, value)
        elif name == "href":
            assert (finished / value).exists(), value


def test_answers_come_first_with_intervals_and_failures_are_plain(finished):
    page = read(finished)
    first = ("Does it work?", "Which scale?", "Korean 0.5; Chinese 0.5", "For ko, 0.5 is best.")
    order = [page.text.index(part) for part in (*first, "Score by scale.")]
    assert order == sorted(order)
    for part in (
        "For zh, 0.5 is best.",
        "0.25 [0.20, 0.30]",
        "2 of 4 cells done",
        "Replies side by side",
    ):
        assert part in page.text
    assert "ValueError: bad ./cells/02_limits/" in page.text and "code cell 3: f(<x>)" in page.text
    assert "blocked" in page.text and "needs 02_limits, which has no result" in page.text
    assert HOSTILE + " at 1.0" in page.text, "a reply is shown as it was written"
    assert not re.search(r"\b(nan|None|inf)\b", page.text)


def test_figures_are_inline_with_alt_text(finished):
    page = read(finished)
    described = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert described == ['A "rising" line.'] * 2
    assert [v for tag, name, v in page.attributes if tag == "img" and name == "data-figure"] == ["0", "1"]
    packed = re.search(r'id="figures-data">([^<]+)<', (finished / "index.html").read_text("utf-8"))[1]
    drawn = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert all(
        text.startswith("<svg") and 'aria-label="A &quot;rising&quot; line."' in text for text in drawn
    )
    made = sorted(path.name for path in (finished / "figures").iterdir())
    assert made == [
        f"01_scales-scores-language-{x}.{kind}" for x in ("ko", "zh") for kind in ("pdf", "png", "svg")
    ]


def test_tables_join_cells_and_latex_is_escaped(finished):
    report.write(finished)
    rows = list(csv.DictReader((finished / "tables/01_scales-scores.csv").open()))
    assert [(row["language"], row["scale"], row["low"]) for row in rows] == [
        ("ko", "0.0", "0.2"), ("ko", "0.5", "0.7"), ("zh", "0.0", "0.2"), ("zh", "0.5", "0.7")
    ]  # fmt: skip
    latex = (finished / "tables/01_scales-scores.tex").read_text()
    assert (
        r"\toprule" in latex
        and r"\caption{Score \& interval, 100 \%. $\pm$ 95 \% interval; n = 200.}" in latex
    )
    assert r"$0$ & $0.25 \pm 0.05$ & 50 \% \& more\_of \\" in latex
    assert latex.index(r"\emph{Korean}") < latex.index(r"\emph{Chinese}")
    assert not (finished / "tables/01_scales-replies.tex").exists()
    assert (finished / "tables/01_scales-replies.csv").exists()
    whole = study.load_table(finished, "01_scales", "scores")
    assert list(whole.language) == ["ko", "ko", "zh", "zh"]


def test_each_notebook_has_its_folder_and_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(outputs, "REPORTS", tmp_path)
    for opened, folder in (
        ("", "interactive/02_anatomy"),  # plain papermill
        ("/home/me/", "interactive/02_anatomy"),
        ("/home/me/my_copy.ipynb", "interactive/my_copy"),  # JupyterLab
    ):
        monkeypatch.setenv("JPY_SESSION_NAME", opened)
        assert study.output("", "02_anatomy") == tmp_path / folder and (tmp_path / folder).is_dir()
        assert capsys.readouterr().out == f"Results go to {tmp_path / folder}\n"
    assert study.output(tmp_path / "mine", "02_anatomy") == tmp_path / "mine"
    assert capsys.readouterr().out == ""


def test_tables_in_one_keep_each_cells_parameters_and_caption(finished):
    """A table with a language of its own (the prompt's) does not hide which cell a row is of."""
    cells = {c["key"]: c["parameters"]["language"] for c in read_manifest(finished)["cells"][:2]}
    for key, code in cells.items():
        folder = finished / "cells/01_scales" / key
        said = pandas.DataFrame({"language": [code, "en"], "correct": [0.9, 0.4]})
        study.save_table(folder, "by-language", said, caption=f"Scale {len(code)} of {code}.")
    whole = study.load_table(finished, "01_scales", "by-language")
    assert list(whole.columns) == ["cell_language", "language", "correct"]
    assert list(whole.cell_language) == [c for c in cells.values() for _ in range(2)]
    report.write(finished)
    latex = (finished / "tables/01_scales-by-language.tex").read_text()
    assert "Scale 2 of ko or zh." in latex
    assert gather._together({"At 1; n 3.": ["a"], "At 0.5; n 3.": ["b"]}) == "At 1 or 0.5; n 3."
    assert gather._together({"τ at 1. By us.": ["a"], "τ at 0.5. By us.": ["b"]}) == "τ at 1 or 0.5. By us."
    assert (
        gather._together({"At 1.": ["a"], "Not asked in b.": ["b", "c"]})
        == "[a] At 1. [b; c] Not asked in b."
    )


def test_the_same_results_give_the_same_bytes_wherever_and_whenever(finished, tmp_path):
    def everything(out):
        report.write(out)
        files = [out / "index.html", *out.glob("figures/*"), *out.glob("tables/*")]
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(files)}

    before = everything(finished)
    for file in finished.glob("cells/*/*/run.json"):
        record = json.loads(file.read_text())
        if record["error"]:
            record["error"]["value"] = record["error"]["value"].replace(
                str(finished), str(tmp_path / "moved")
            )
        record |= {"started": "later", "host": "node8", "seconds": 99, "attempt": 2, "git": {"commit": "abc"}}
        file.write_text(json.dumps(record))
    assert everything(finished.rename(tmp_path / "moved")) == before
    assert not re.search(rb"node[78]", before["index.html"]) and b"12.345" not in before["index.html"]


def test_a_figure_is_the_same_bytes_twice(tmp_path):
    for name in ("one", "two"):
        leave_results(study.output(tmp_path / name), "ko")
    for kind in ("svg", "pdf", "png"):
        first, second = ((tmp_path / name / f"figures/scores.{kind}").read_bytes() for name in ("one", "two"))
        assert first == second


def test_svg_loses_what_runs_or_loads(tmp_path):
    file = tmp_path / "x.svg"
    file.write_text("""<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="2in" height="72pt"
        xmlns:xlink="http://www.w3.org/1999/xlink" onload="alert(1)"><script>alert(2)</script>
        <style>*{stroke-linejoin: round} </style><style>@import url(http://evil.example)</style>
        <defs><clipPath id="c"><rect/></clipPath></defs><image xlink:href="http://evil.example/x.png"/>
        <foreignObject><b/></foreignObject><g clip-path="url(#c)" fill="url(http://evil.example)"><path d="M0 0"/></g>
        <use xlink:href="#c"/>
        </svg>""")
    drawn, width = svg.inline(file, "p-", "alt <text>")
    assert width == 144
    assert not re.search(r"script|alert\(|evil|foreignObject|onload|import", drawn)
    for part in (
        'id="p-c"',
        'clip-path="url(#p-c)"',
        'href="#p-c"',
        "svg*{stroke-linejoin: round}",
        'aria-label="alt &lt;text&gt;"',
    ):
        assert part in drawn
    file.write_text("<svg")
    with pytest.raises(ValueError, match=r"x\.svg is not well-formed SVG"):
        svg.inline(file, "", "")


def test_what_a_notebook_saves_is_checked(tmp_path):
    table = pandas.DataFrame({"x": [1]})
    with pytest.raises(ValueError, match="should be of a-z"):
        study.save_table(tmp_path, "My table", table, caption="")
    with pytest.raises(ValueError, match="alt is empty"):
        study.save_figure(tmp_path, "x", matplotlib.figure.Figure(), caption="", alt=" ")
    with pytest.raises(KeyError, match="samples need the columns prompt, response, scale"):
        study.save_samples(tmp_path, table, by="scale", caption="")
    with pytest.raises(ValueError, match="a claim needs"):
        study.save_summary(tmp_path, question="", answer="", claims=[{"claim": "x"}])
    assert study.save_summary(tmp_path, question="q", answer="a", more=(1, float("inf")))["more"] == [1, None]


def test_conversations_of_several_turns_stay_together(tmp_path):
    from chatvec_lab.report import gather

    rows = [
        {
            "prompt_id": "p",
            "turn": turn,
            "prompt": f"turn {turn}",
            "model": model,
            "response": f"{model} {turn}",
        }
        for model in ("cp", "cp+tau")
        for turn in (1, 2)
    ]
    study.save_samples(tmp_path, pandas.DataFrame(rows), by="model", caption="Talks")
    cell = {"folder": tmp_path, "label": "", "notebook": "n"}
    (talk,) = gather._samples(tmp_path, cell)[0]["talks"]
    assert list(talk["columns"]) == ["model cp", "model cp+tau"] and talk["shared"] is None
    assert [turn["response"] for turn in talk["columns"]["model cp+tau"]] == ["cp+tau 1", "cp+tau 2"]


def test_missing_values_are_shown_as_missing():
    table = pandas.DataFrame(
        {"x": [0.5, None], "x_low": [0.4, None], "x_high": [0.6, None], "k": pandas.array([1, None])}
    )
    assert tables.readable(table).to_dict("list") == {"x": ["0.5 [0.4, 0.6]", "–"], "k": ["1", "–"]}


def test_a_folder_without_a_study_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no study has been run into"):
        report.write(tmp_path)


def damaged(finished, damage):
    """The page's text after `damage(folder)` of one of the two done cells; the other is as it was."""
    folder = next((finished / "cells/01_scales").iterdir())
    damage(folder)
    page = read(finished)
    other = {"ko": "For zh, 0.5 is best.", "zh": "For ko, 0.5 is best."}
    language = json.loads((finished / "study.json").read_text())["cells"]
    language = next(c["parameters"]["language"] for c in language if c["key"] == folder.name)
    assert other[language] in page.text and "2 of 4 cells done" in page.text
    return page.text


def edited(name, **changes):
    """A damage: fields of a JSON file changed, or taken out where None."""

    def damage(folder):
        content = json.loads((folder / name).read_text())
        content = {key: value for key, value in (content | changes).items() if value is not None}
        (folder / name).write_text(json.dumps(content))

    return damage


def replaced(name, content):
    def damage(folder):
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (edited("summary.json", question=None), "summary.json cannot be shown: no 'question'"),
        (edited("summary.json", claims=[{"claim": "x"}]), "a claim without its name or estimate"),
        (edited("summary.json", claims=[{"claim": "x", "estimate": "much"}]), "is no number"),
        (edited("summary.json", claims=7), "summary.json cannot be shown"),
        (replaced("summary.json", b"[1]"), "there should be an object, got [1]"),
        (replaced("summary.json", b'{"question": "' + b"\xff"), "summary.json cannot be shown"),
        (replaced("figures/scores.svg", None), "scores.svg is not there"),
        (replaced("figures/scores.svg", b"<svg"), "is not well-formed SVG"),
        (replaced("figures/scores.svg", b"\xff\xfe"), "is not well-formed SVG"),
        (edited("figures/scores.json", alt=None), "the figure 01_scales: scores cannot be shown: no 'alt'"),
        (edited("figures/scores.json", order=None), "scores.json cannot be shown: no 'order'"),
        (replaced("tables/scores.parquet", b"PAR1 no"), "scores.parquet is not a table that can be read"),
        (replaced("tables/scores.json", b"{"), "scores.json cannot be shown"),
        (edited("samples/samples.json", rows=[{"prompt": "x"}]), "the samples 01_scales: samples cannot be shown"),
        (edited("samples/samples.json", rows=[{"prompt": ["x"], "scale": 1, "response": ""}]), "samples cannot"),
        (edited("run.json", versions=None), ""),
    ],
)  # fmt: skip
def test_a_fault_of_one_cell_costs_its_own_place_only(finished, damage, told):
    text = damaged(finished, damage)
    assert told in text
    assert ("that cannot be shown" in text) == bool(told)
    assert str(finished) not in text, "no path of this machine"


def test_characters_that_no_page_may_hold_are_shown_by_signs(finished):
    import matplotlib.pyplot as plt

    def damage(folder):
        figure, axes = plt.subplots()
        axes.barh(["a", "\x08"], [1, 2])
        study.save_figure(folder, "scores", figure, caption="A bell: \x07.", alt="bars \x00")
        plt.close(figure)
        edited("summary.json", answer="half a pair: \ud800, and \x1b[0m")(folder)

    text = damaged(finished, damage)
    assert (
        "half a pair: \ufffd, and ␛[0m" in text
        and "A bell: ␇." in text
        and "that cannot be shown" not in text
    )
    page = (finished / "index.html").read_bytes()
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", page) and "bars ␀".encode() in page
    for file in (finished / "figures").glob("*.svg"):
        svg.inline(file, "x", "y")  # what lies beside the page can be opened too


def test_a_caption_with_half_a_pair_is_shown(finished):
    folder = next((finished / "cells/01_scales").iterdir())
    study.save_table(folder, "fine", pandas.DataFrame({"text": ["x"]}), caption="Fine.")
    (folder / "tables/fine.json").write_text(json.dumps({"order": 9, "caption": "Half \ud800 a pair."}))
    text = read(finished).text
    assert "Half \ufffd a pair." in text and (finished / "tables/01_scales-fine.csv").exists()


@pytest.mark.parametrize("damage", ["nothing", "a key", "a parameter"])
def test_a_damaged_manifest_says_how_to_write_it_anew(finished, damage):
    content = json.loads((finished / "study.json").read_text())
    if damage == "a key":
        content["cells"][0]["key"] = "\ud800"
    elif damage == "a parameter":
        content["cells"][0]["parameters"] = {"seed": ["half \udfff"]}
    (finished / "study.json").write_text(json.dumps({} if damage == "nothing" else content))
    for read_it in (report.write, study.results):
        with pytest.raises(
            ValueError, match=r"study\.json is damaged .* chatvec_lab run STUDY writes it anew"
        ):
            read_it(finished)
