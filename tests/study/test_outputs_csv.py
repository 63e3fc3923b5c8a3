"""What a spreadsheet would run as a formula is text in the CSV; the parquet holds it as it was."""

import csv

import pandas as pd
import pytest

from chatvec_lab.report import tables
from chatvec_lab.study import outputs

RUN = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1-800",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1",
    "\n=1",
    " =1+1",
    "＝1+1",
    "-",
    "--x",
    "+",
    "\ufeff=1+1",
    "\u200b@SUM(A1)",
    "\u202e-2+3",
    " \x07=1",
    "\t\ufeff +1-8",
]
KEPT = ["-0.5", "-1e-5", "-1,000", "a=1", "", "'quoted", "1+1", "\ufeffa", "Réponse", "–", None]


@pytest.mark.parametrize("text", RUN)
def test_a_formula_gets_an_apostrophe(tmp_path, text):
    table = pd.DataFrame({"reply": [text], text: [1.0], "kind": pd.Categorical([text])})
    saved = outputs.save_table(tmp_path, "t", table, caption="c")
    with (tmp_path / "tables" / "t.csv").open(newline="", encoding="utf-8") as file:
        head, row = csv.reader(file)
    assert row[0] == row[2] == head[1] == "'" + text.replace("\r", "\n")
    exact = pd.read_parquet(tmp_path / "tables" / "t.parquet")
    assert exact.reply[0] == text and text in exact and saved.reply[0] == text


@pytest.mark.parametrize("text", KEPT)
def test_other_texts_and_numbers_stay(tmp_path, text):
    outputs.save_table(
        tmp_path, "t", pd.DataFrame({"reply": [text], "n": [-0.5], "list": [[1]]}), caption="c"
    )
    with (tmp_path / "tables" / "t.csv").open(newline="", encoding="utf-8") as file:
        _, row = csv.reader(file)
    assert row == [text or "", "-0.5", "[1]"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("[[7]] of 10", "{}[[7]] of 10"), ("*bold*", "{}*bold*"), ("two\n\nparagraphs\t.", "two paragraphs ."),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"), ("50 % & #1 $x^2$ a_b ~",
         r"50 \% \& \#1 \$x\textasciicircum{}2\$ a\_b \textasciitilde{}"),
    ],
)  # fmt: skip
def test_replies_are_data_in_latex(tmp_path, text, written):
    table = pd.DataFrame({text: [text, "b"], "n": [1, 2]})
    tables.write({"data": table, "show": True, "caption": text}, tmp_path / "t")
    found = (tmp_path / "t.tex").read_text("utf-8").replace(r"\allowbreak{}", "")
    head = found[found.index("\\toprule") : found.index("\\midrule")]
    assert f"\n{written} & $1$ \\\\\n" in found and f"\\caption{{{written}" in found
    assert all(word in head for word in written.replace(r"\_", " ").split())  # in as many lines as it needs
