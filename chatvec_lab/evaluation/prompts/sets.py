"""Prompt sets as one tidy table: our own by name and language, published ones by hub id, link or file.

Our own sets (`data/prompts`) are parallel: the same `prompt_id` asks the same in every language.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path

import pandas as pd

from chatvec_lab.evaluation.instructions import validate
from chatvec_lab.evaluation.language import normalise
from chatvec_lab.evaluation.prompts.download import fetch, hub_files
from chatvec_lab.evaluation.prompts.files import SUFFIXES, rows_of
from chatvec_lab.evaluation.prompts.options import PUBLISHED
from chatvec_lab.evaluation.prompts.shapes import prompt_of
from chatvec_lab.mistakes import naming
from chatvec_lab.paths import DATA
from chatvec_lab.secrets import shown_address

COLUMNS = ["prompt_id", "set", "category", "language", "turns", "checks", "reference"]
SETS = ("general", "dialogues", "instructions", "hostile", "harmless", "continuations")
LANGUAGES = ("en", "zh-Hant", "zh-Hans", "ko", "ja", "es", "ar", "sw")


def load_prompts(name: str, language: str = "en", *, limit: int | None = None) -> pd.DataFrame:
    """One of our own sets (SETS) in one of LANGUAGES, or a published one (PUBLISHED) from the hub.

    Columns: prompt_id, set, category, language, turns (list of what the user says), checks (list of verifiable
    instructions, empty if none), reference (list of answers or None). `limit` keeps the first prompts.
    Raises KeyError for an unknown name, ValueError for a language the set lacks, and ConnectionError, with
    the file to fetch by hand, when a published set cannot be downloaded.

    >>> load_prompts("general", "ko", limit=2)[["prompt_id", "category", "language"]].to_dict("list")
    {'prompt_id': ['generic-1', 'generic-2'], 'category': ['generic', 'generic'], 'language': ['ko', 'ko']}
    """
    if name not in SETS and name not in PUBLISHED:
        raise KeyError(f"no prompt set {name!r}; our own: {', '.join(SETS)}; published: {', '.join(PUBLISHED)};"
                       " any other file or hub id: read_prompts")  # fmt: skip
    known = LANGUAGES if name in SETS else PUBLISHED[name][2]
    fitting = [code for code in known if code == normalise(language)]
    if normalise(language) == "zh":  # either script, if there is one of them alone
        fitting = fitting or [code for code in known if code.startswith("zh-")]
    if len(fitting) != 1:
        raise ValueError(f"{name} has no prompts in {language!r}; it has {', '.join(known)}")
    language = fitting[0]
    if name in SETS:
        path = DATA / "prompts" / name / f"{language}.jsonl"
        return read_prompts(path, language=language, set=name, limit=limit)
    source, file, _ = PUBLISHED[name]
    file = file and file.format(language=language.split("-")[0])
    return read_prompts(source, file=file, language=language, set=name, limit=limit)


def read_prompts(
    source: str | Path | Iterable[Mapping],
    *,
    language: str,
    set: str | None = None,
    file: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """Prompts from a file (jsonl, json, yaml, csv, parquet), a link, a hub dataset's id, or rows.

    `file` names the file inside a hub dataset; a pattern will do. Understands the fields of FastChat (question_id,
    category, turns, reference), IFEval (key, prompt, instruction_id_list, kwargs), messages with roles (TRL, ShareGPT),
    Alpaca's instruction and input, a question with its context, and plain tables with a prompt, question, instruction
    or text. Answers that stand in the file are references. A column `item` names what several prompts share, and is
    kept. Columns and errors as in `load_prompts`; a row that cannot be asked as it is meant is a ValueError with file,
    row and column.
    """
    if isinstance(source, str | Path):
        path = _local(str(source), file, revision)
        rows, name = rows_of(path), set or Path(str(source)).stem
    else:
        name = set or "prompts"
        rows = [(f"{name}, row {i}", row) for i, row in enumerate(source)]
    language = normalise(language) or language
    with naming(source) if isinstance(source, str | Path) else nullcontext():
        return _table(rows[:limit], name, language)


def _table(rows: list, name: str, language: str) -> pd.DataFrame:
    if not rows:
        raise ValueError(f"{name} holds no prompts")
    found = [prompt_of(row, place, i, set=name, language=language) for i, (place, row) in enumerate(rows)]
    columns = [*COLUMNS, "item"] if any("item" in row for row in found) else COLUMNS
    table = pd.DataFrame(found, columns=columns)
    if table["prompt_id"].duplicated().any():
        twice = table.loc[table["prompt_id"].duplicated(), "prompt_id"].unique()
        raise ValueError(f"{name}: {len(twice)} ids occur twice, such as {twice[0]!r}")
    for prompt_id, checks in zip(table["prompt_id"], table["checks"], strict=True):
        validate(checks, where=f"{name} {prompt_id}")
    return table


def _local(source: str, file: str | None, revision: str | None) -> Path:
    """The file on disk, downloaded first if `source` is a link or a hub dataset's id."""
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", source):
        if scheme[1].lower() not in ("http", "https"):
            raise ValueError(
                f"{shown_address(source)}: prompts are read from a file, a dataset of the hub, or an address with http or "
                f"https, and this has {scheme[1]}. Download it, and give the file's path."
            )
        return fetch(source)
    if Path(source).is_file():
        return Path(source)
    if source.endswith(SUFFIXES) or source.count("/") != 1:
        raise FileNotFoundError(f"no prompt file {source}")
    return hub_files(source, file, suffixes=SUFFIXES, revision=revision, is_one=True)[0]
