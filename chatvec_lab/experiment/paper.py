"""The paper's own tables (`data/paper`), and our measurements beside them: never in one column, always labelled."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from chatvec_lab.paths import DATA

SOURCE = "Huang et al. 2024, arXiv 2310.04799 v3"
# the paper's setups -> our names for the same
SETUPS = {
    "CP": "CP",
    "CP+CV": "CP + τ",
    "CP->FT": "CP → FT",
    "CP->FT+CV": "CP → FT + τ",
    "CP+CV->FT": "CP + τ → FT",
    "chat->CP": "chat → CP",
    "chat->CP->FT": "chat → CP → FT",
    "chat": "chat",
}
# What is set beside what. paper: rows of a table; ours: notebook, table of replies, column, and rows of it.
# `more` says which way is better; `fair` what may be compared.
PAIRS: list[dict[str, Any]] = [
    {"table": "1", "rows": {"model": "Traditional Chinese LLaMA 13B", "condition": "no_system_prompt"},
     "notebook": "04_instruction_following", "value": "correct", "where": {"language": "target"}, "more": "better",
     "fair": "the order of the setups: a judge's score and exact replies have no common unit"},
    {"table": "2", "rows": {"metric": "toxic_share"},
     "notebook": "05_toxicity", "value": "toxic", "where": {"frame": "raw", "language": "target"}, "more": "worse",
     "fair": "the order of the setups: both are shares of continuations, by other scorers of other texts"},
    {"table": "3", "rows": {"model": "Traditional Chinese LLaMA 13B"}, "mean": True,
     "notebook": "05_toxicity", "value": "toxic", "where": {"frame": "chat", "language": "target"}, "more": "worse",
     "fair": "the order of the setups: unsafe by a judge (mean of seven scenarios), unsafe by a fixed list"},
    {"table": "4", "rows": {},
     "notebook": "07_limits", "name": "knowledge", "value": "correct",
     "where": {"language": "target"}, "more": "better",
     "fair": "the sign of the change by τ: TMMLU+ is near guessing, ours is exact recall"},
    {"table": "5", "rows": {"condition": "english"},
     "notebook": "04_instruction_following", "value": "correct", "where": {"language": "en"}, "more": "better",
     "fair": "the order of the setups, in English"},
    {"table": "7", "rows": {"model": "Traditional Chinese LLaMA 13B", "condition": "vicuna"},
     "notebook": "04_instruction_following", "value": "in_language", "where": {"language": "target"}, "more": "better",
     "fair": "the quantity itself, the share of replies in the target language; models and readers differ"},
    {"table": "8", "rows": {},
     "notebook": "04_instruction_following", "value": "correct", "where": {"language": "target"}, "more": "better",
     "fair": "the sign of the difference: τ before FT against FT alone"},
    {"table": "9", "rows": {"metric": "toxic_share"},
     "notebook": "05_toxicity", "value": "toxic", "where": {"frame": "raw", "language": "en"}, "more": "worse",
     "fair": "the order of the setups, in English"},
    {"table": "13", "rows": {},
     "notebook": "05_toxicity", "value": "toxic", "where": {"frame": "chat", "kind": "role_play"}, "more": "worse",
     "fair": "the order of the setups under a role-play attack"},
]  # fmt: skip


def tables() -> pd.DataFrame:
    """All printed numbers of the paper's tables, one a row; columns as in `data/paper/README.md`, and source."""
    files = sorted((DATA / "paper").glob("*.csv"))
    found = pd.concat([pd.read_csv(file, dtype={"table": str}) for file in files], ignore_index=True)
    order = found.table.astype(int).rank(method="first").sort_values().index
    return found.loc[order].reset_index(drop=True).assign(source=SOURCE)


def _printed(pair: dict[str, Any], printed: pd.DataFrame) -> pd.DataFrame:
    """The paper's side of a pair: setup and value, with the whole vector or none."""
    rows = printed[(printed.table == pair["table"]) & printed.coefficient.isin([0, 1])]
    for column, value in pair["rows"].items():
        rows = rows[rows[column] == value]
    values = (
        rows.groupby("setup", sort=False).value.mean() if pair.get("mean") else rows.set_index("setup").value
    )
    return values.rename("paper").reset_index().assign(paper_unit=rows.unit.iloc[0], paper_n=rows.n.iloc[0])


def beside(folders: Sequence[str | Path]) -> pd.DataFrame:
    """Each setup that the paper and a study both measured, one row a setup and table of the paper.

    `folders`: of the cells of the notebooks 04, 05 and 07, all languages and seeds, in any order.
    Columns: table, setup, paper, paper_unit, paper_n, source; here, here_low, here_high (share of replies, mean
    over cells: prompts are the clusters of its interval), here_min, here_max (lowest and highest cell), here_unit,
    prompts, cells; more (which way is better), fair (what may be compared). Tables without a counterpart, or whose
    notebook has no cell here, and single setups are left out.
    """
    printed = tables()
    rows = []
    for pair in PAIRS:
        told = _printed(pair, printed)
        ours = _ours(pair, [Path(folder) for folder in folders])
        if ours.empty:
            continue
        told["setup"] = told.setup.map(SETUPS)
        both = told.merge(ours, left_on="setup", right_on="model").drop(columns="model")
        if len(both) < 2:  # one setup has no order
            continue
        rows.append(both.assign(table=pair["table"], more=pair["more"], fair=pair["fair"], source=SOURCE))
    if not rows:
        raise ValueError("none of the folders is a cell of the notebooks 04, 05 or 07 with replies")
    return pd.concat(rows, ignore_index=True)[
        ["table", "setup", "paper", "paper_unit", "paper_n", "source", "here", "here_low", "here_high", "here_min",
         "here_max", "here_unit", "prompts", "cells", "more", "fair"]
    ]  # fmt: skip


def _ours(pair: dict[str, Any], folders: list[Path]) -> pd.DataFrame:
    from chatvec_lab.evaluation.statistics.comparison import summarise

    cells = []
    for folder in folders:
        file = folder / "tables" / f"{pair.get('name', 'replies')}.parquet"
        if folder.parent.name == pair["notebook"] and file.is_file():
            table = pd.read_parquet(file)
            for column, value in pair["where"].items():
                is_it = (
                    table.language.ne("en")
                    if value == "target"
                    else table[column].astype(str).str.startswith(value)
                )
                table = table[is_it]
            cells.append(table.assign(cell=folder.name))
    replies = pd.concat(cells) if cells else pd.DataFrame()
    if replies.empty or replies[pair["value"]].isna().all():
        return pd.DataFrame()
    replies = replies[replies[pair["value"]].notna()]
    # prompts of two languages have ids of their own; the seeds of one prompt are averaged before the interval
    pooled = summarise(replies, by="model", value=pair["value"], share=True)
    each = (
        replies.groupby(["model", "cell"])[pair["value"]].mean().groupby("model").agg(["min", "max", "size"])
    )
    each.columns = ["here_min", "here_max", "cells"]
    names = {"estimate": "here", "low": "here_low", "high": "here_high", "n": "prompts"}
    kept = pooled.rename(columns=names)[["model", *names.values()]]
    return kept.merge(each.reset_index()).assign(here_unit="share of replies, 0 to 1")


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """In how many pairs of setups the paper and `beside` agree on which is better; one row a table of the paper.

    Pairs are those that both tell apart, and clear where our intervals do not touch. Columns: table, setups, pairs,
    agree, clear (pairs), clear_agree, fair.
    """
    rows = []
    for name, group in table.groupby("table", sort=False):
        setups = list(group.itertuples())
        every = itertools.combinations(setups, 2)
        pairs = [(a, b) for a, b in every if a.paper != b.paper and a.here != b.here]
        same = [(a.paper - b.paper) * (a.here - b.here) > 0 for a, b in pairs]
        clear = [a.here_low > b.here_high or b.here_low > a.here_high for a, b in pairs]
        both = sum(s and c for s, c in zip(same, clear, strict=True))
        counts = {"pairs": len(pairs), "agree": sum(same), "clear": sum(clear), "clear_agree": both}
        rows.append({"table": name, "setups": len(setups), **counts, "fair": setups[0].fair})
    return pd.DataFrame(rows)
