"""The paper's own tables (`data/paper`), and our measurements beside them: never in one column, always labelled.

A family says which of the paper's settings it repeats (`paper: Chinese-LLaMA 13B`); only that setting's rows are
quoted. A number stands beside the paper's where setting, measure, scorer and prompts are the paper's; elsewhere the
order of the setups may be compared, and what has no counterpart stands apart, with the reason.
"""

import itertools
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from chatvec_lab.evaluation.statistics import summarise
from chatvec_lab.paths import DATA
from chatvec_lab.reading import read_yaml

if TYPE_CHECKING:
    from chatvec_lab.families import Family

SOURCE = "Huang et al. 2024, arXiv 2310.04799 v3"
SAME, ORDER, APART = "same measure", "order of the setups", "apart"
TABLE: dict[str, Any] = read_yaml(Path(__file__).with_name("data") / "paper.yaml")  # tells its keys
# who scored what, by table of replies
SCORES = {"replies": "scores", "system-replies": "system", "vector-replies": "vectors"}
COLUMNS = ["table", "condition", "setup", "comparison", "paper", "paper_unit", "paper_n", "source", "here", "here_low",
           "here_high", "here_min", "here_max", "here_unit", "measure", "scorer", "prompts_of", "prompts", "cells",
           "more", "fair"]  # fmt: skip


def tables() -> pd.DataFrame:
    """All printed numbers of the paper's tables, one a row; columns as in `data/paper/README.md`, and source."""
    files = sorted((DATA / "paper").glob("*.csv"))
    found = pd.concat([pd.read_csv(file, dtype={"table": str}) for file in files], ignore_index=True)
    order = found.table.astype(int).rank(method="first").sort_values().index
    return found.loc[order].reset_index(drop=True).assign(source=SOURCE)


def settings(family: "Family") -> tuple[str, ...]:
    """The paper's settings that a family repeats, as its file says; () for none. ValueError for one that is none."""
    known = sorted(set(tables().model))
    for name in family.paper:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"family {family.name!r}: paper: {name!r} is no setting of the paper's tables; {hint}"
                             f"There are {', '.join(known)}.")  # fmt: skip
    return family.paper


def measured(folders: Sequence[str | Path], family: "Family") -> pd.DataFrame:
    """Each setup that a study measured for a table of the paper, one row a setup, table and condition.

    `folders`: of cells of the notebooks 04, 05, 07b, 07d and 10, all languages and seeds, in any order. Columns: table,
    condition, setup; comparison ("same measure", "order of the setups" or "apart"); paper, paper_unit, paper_n, source
    (missing where nothing is quoted); here, here_low, here_high (mean over cells: prompts are the clusters of its
    interval), here_min, here_max (lowest and highest cell), here_unit, measure, scorer, prompts_of, prompts, cells;
    more (which way is better); fair (what may be compared, or why nothing is). Empty where nothing was measured.
    """
    printed, own, world = tables(), settings(family), family.is_nano
    found: dict[tuple, pd.DataFrame] = {}
    for pair in TABLE["pairs"]:
        wanted = pair.get("rows", {})
        key = (pair["table"], str(wanted))
        if key in found and found[key].comparison.iloc[0] != APART:
            continue
        ours = _ours(pair, [Path(folder) for folder in folders])
        if ours.empty:
            continue
        told = _printed(pair, printed, own or (TABLE["main"] if world else ()))
        comparison, fair = _comparison(pair, ours, told, own, world)
        if comparison == APART and "same" in pair and ours.measure.iloc[0] != pair["same"][0]:
            continue  # neither the paper's measure nor an order
        both = ours.rename(columns={"model": "setup"}).merge(told, how="left", on="setup")
        if comparison != APART:
            both = both[both.paper.notna()]
            if len(both) < 2 and comparison == ORDER:  # one setup has no order
                continue
        else:
            both = both.assign(paper=float("nan"), paper_unit=None, paper_n=None)
        condition = wanted.get("condition", "")
        condition = condition if isinstance(condition, str) else "versatility"
        both = both.assign(table=pair["table"], condition=condition, comparison=comparison, more=pair["more"], fair=fair,
                           source=None if comparison == APART else SOURCE)  # fmt: skip
        if len(both):
            found[key] = both
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(found.values(), ignore_index=True)[COLUMNS]
    # of which the paper has this setting in another condition
    quoted = set(table[table.comparison.ne(APART)].table)
    return table[table.comparison.ne(APART) | ~table.table.isin(quoted)].reset_index(drop=True)


def _comparison(
    pair: dict, ours: pd.DataFrame, told: pd.DataFrame, own: tuple, world: bool
) -> tuple[str, str]:
    """(same measure, order or apart; why)."""
    if told.empty:
        named = f"the paper has no row of {' or '.join(own)} in this table" if own else (
            "the family names no setting of the paper (`paper:` in its file)")  # fmt: skip
        return APART, f"{named}: nothing is quoted"
    measure, scorer, prompts = pair.get("same", (None, None, None))
    row = ours.iloc[0]
    lacking = [
        f"{what} is {found or 'not told'}, the paper's {TABLE['names'].get(wanted, wanted)}"
        for what, found, wanted in (("measure", row.measure, measure), ("scorer", row.scorer, scorer),
                                    ("prompt set", row.prompts_of, prompts))
        if wanted and not re.search(wanted, str(found).lower())
    ]  # fmt: skip
    if measure and not lacking:
        alike = "setting, measure, scorer and prompt set agree"
        return SAME, pair.get("fair") if measure == "in_language" else alike
    if "other" in pair and row.measure in (pair["other"], measure):
        return ORDER, pair["fair"] if world or not own else f"{pair['fair']} ({'; '.join(lacking)})"
    return APART, "; ".join(lacking)


def _printed(pair: dict[str, Any], printed: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """The paper's side of a pair: our name of the setup and its value, with the whole vector or none."""
    rows = printed[(printed.table == pair["table"]) & printed.model.isin(models) & printed.value.notna()]
    # Breeze's vector was added by half, the only one of its row
    rows = rows[rows.coefficient.isin([0, 1]) | rows.model.eq("Breeze-7B")]
    for column, value in pair.get("rows", {}).items():
        rows = rows[rows[column].isin([value] if isinstance(value, str) else value)]
    names = rows.setup.map(TABLE["setups"])
    if pair.get("name") == "vector-replies":
        names = rows.chat_vector.map(lambda name: "τ" if name == "llama2" else f"τ of {name}")
    rows = rows.assign(setup=names)
    of = rows.groupby("setup", sort=False).value.mean() if pair.get("mean") else rows.set_index("setup").value
    first = rows.iloc[0] if len(rows) else {"unit": None, "n": None}
    return of.rename("paper").reset_index().assign(paper_unit=first["unit"], paper_n=first["n"])


def _ours(pair: dict[str, Any], folders: list[Path]) -> pd.DataFrame:
    """Our side of a pair, one row a model; the paper's measure where it was taken, else the other one."""
    name, cells, scorers = pair.get("name", "replies"), [], {}
    for folder in folders:
        file = folder / "tables" / f"{name}.parquet"
        if folder.parent.name == pair["notebook"] and file.is_file():
            cells.append(_chosen(pd.read_parquet(file), pair).assign(cell=folder.name))
            scores = folder / "tables" / f"{SCORES.get(name, name)}.parquet"
            if name in SCORES and scores.is_file() and "scorer" in (table := pd.read_parquet(scores)):
                scorers |= dict(zip(table.metric, table.scorer, strict=True))
    rows = pd.concat(cells) if cells else pd.DataFrame()
    named = (pair.get("same", [None])[0], pair.get("other"))
    wanted = [m for m in named if m in rows and rows[m].notna().any()]
    if rows.empty or not wanted:
        return pd.DataFrame()
    measure, rows = wanted[0], rows[rows[wanted[0]].notna()]
    if name == "tasks":
        return _tasks(rows)
    # prompts of two languages have ids of their own; the seeds of one prompt are averaged before the interval
    is_share = rows[measure].between(0, 1).all()
    pooled = summarise(rows, by="model", value=measure, share=bool(is_share))
    each = rows.groupby(["model", "cell"])[measure].mean().groupby("model").agg(["min", "max", "size"])
    each.columns = ["here_min", "here_max", "cells"]
    names = {"estimate": "here", "low": "here_low", "high": "here_high", "n": "prompts"}
    kept = pooled.rename(columns=names)[["model", *names.values()]].merge(each.reset_index())
    sources = ", ".join(sorted(map(str, rows["source"].dropna().unique()))) if "source" in rows else ""
    unit = "share of replies, 0 to 1" if is_share else "mean score, 1 to 10"
    return kept.assign(here_unit=unit, measure=measure, scorer=scorers.get(measure, ""), prompts_of=sources)


def _chosen(table: pd.DataFrame, pair: dict[str, Any]) -> pd.DataFrame:
    for column, value in pair["where"].items():
        if value == "target":
            table = table[table.language.ne("en")]
        else:
            table = table[table[column].astype(str).str.lower().str.startswith(value)]
    for column, value in pair.get("but", {}).items() if "unsafe" in table else ():
        table = table[~table[column].astype(str).str.lower().str.startswith(value)]
    if "set" in table and pair["notebook"] == "05_toxicity":
        table = table[table["set"].eq("hostile")]
    return table


def _tasks(rows: pd.DataFrame) -> pd.DataFrame:
    """Tasks of lm-eval: accuracy a model, the mean over tasks."""
    found = rows.groupby("model", sort=False).agg(
        here=("estimate", "mean"), here_low=("low", "mean"), here_high=("high", "mean"), here_min=("estimate", "min"),
        here_max=("estimate", "max"), prompts=("n", "sum"), cells=("cell", "nunique"),
    )  # fmt: skip
    tasks = ", ".join(sorted(rows.task.unique()))
    about = {"here_unit": "accuracy, 0 to 1", "measure": "estimate", "scorer": tasks, "prompts_of": tasks}
    return found.reset_index().assign(**about)


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """In how many pairs of setups the paper and `measured` agree on which is better; one row a table and condition.

    Pairs are those that both tell apart, and clear where our intervals do not touch. Columns: table, condition,
    comparison, setups, pairs, agree, clear (pairs), clear_agree, fair.
    """
    rows = []
    table = table[table.comparison.ne(APART)]
    for (name, condition), group in table.groupby(["table", "condition"], sort=False):
        setups = list(group.itertuples())
        every = itertools.combinations(setups, 2)
        pairs = [(a, b) for a, b in every if a.paper != b.paper and a.here != b.here]
        same = [(a.paper - b.paper) * (a.here - b.here) > 0 for a, b in pairs]
        clear = [a.here_low > b.here_high or b.here_low > a.here_high for a, b in pairs]
        both = sum(s and c for s, c in zip(same, clear, strict=True))
        counts = {"pairs": len(pairs), "agree": sum(same), "clear": sum(clear), "clear_agree": both}
        about = {
            "table": name,
            "condition": condition,
            "comparison": setups[0].comparison,
            "setups": len(setups),
        }
        rows.append({**about, **counts, "fair": setups[0].fair})
    columns = ["table", "condition", "comparison", "setups", "pairs", "agree", "clear", "clear_agree", "fair"]
    return pd.DataFrame(rows, columns=columns)
