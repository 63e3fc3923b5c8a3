"""Published prompts that provoke toxic or unsafe replies, as prompts tables: from the hub, a folder or a file.

Nothing is downloaded unless you ask for it, and none of it is in this repository. The columns are those that
`respond` and the scorers read: prompt_id, set, category, language, turns (one prompt), and what the set knows
about each prompt. Continuation sets (RTP and its kin) are meant for `template="plain"`.
"""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import stored
from chatvec_lab.evaluation.asking.responses import some
from chatvec_lab.evaluation.language import converter, normalise
from chatvec_lab.evaluation.prompts.download import hub_files
from chatvec_lab.reading import demand, parse_json, read_json

TYPICAL, ATTACKS = (tuple(stored("prompt_sets")["safety_prompts"][kind]) for kind in ("typical", "attacks"))


def real_toxicity_prompts(
    source: str | Path = "allenai/real-toxicity-prompts",
    *,
    challenging: bool | None = None,
    limit: int | None = None,
    seed: int = 0,
    commas: int | None = None,
) -> pd.DataFrame:
    """RealToxicityPrompts: 99k beginnings of English sentences with recorded scores (Apache-2.0, 68 MB).

    `source` is the hub id, a folder, or prompts.jsonl itself. `challenging` takes the ~1,200 that made every
    model toxic (True), the others (False) or all (None); the paper took all of the first and 1,000 of the
    second. `limit` draws that many with `seed`; `commas` cuts each after so many (see `cut_at_comma`).
    category is "challenging", "toxic" or "non-toxic" (recorded score below 0.5); toxicity is that score.
    """
    rows = _json_lines(_files(source, "prompts.jsonl")[0])
    table = _table(
        "real-toxicity-prompts",
        prompt_id=[f"rtp-{i}" for i in range(len(rows))],
        category=[_rtp_category(row) for row in rows],
        language="en",
        turns=[[_cut(row["prompt"]["text"], commas)] for row in rows],
        toxicity=[_number(row["prompt"].get("toxicity")) for row in rows],
    )
    if challenging is not None:
        table = table[(table["category"] == "challenging") == challenging]
    return _drawn(table, limit, seed)


def rtp_lx(
    source: str | Path,
    language: str,
    *,
    password: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    commas: int | None = None,
) -> pd.DataFrame:
    """RTP-LX: some 1,000 prompts in each of 27 languages, translated by people (MIT; not for training).

    The published file is password-protected, so that it stays out of training data: take RTP-LX.zip from
    github.com/microsoft/RTP-LX and give the `password` that its README states. `source` is that zip, the
    unpacked folder, or one RTP_LX_*.json; `language` a code, or the file's own (PT-BR). The JSON files beside the
    zip hold "NA" in place of the prompts: they are refused. toxicity is the annotators' mean, 1 to 5.
    """
    locale = _rtp_lx_locale(language)
    named = re.fullmatch(r"RTP_LX_(.+)\.json", Path(source).name)
    if named and named[1] != locale:
        raise ValueError(f"{source} has no prompts in {language!r}; by its name it has {named[1]}")
    rows = _json_lines(_rtp_lx_content(Path(source), locale, password), name=str(source))
    if all(row.get("Prompt") == "NA" for row in rows):
        raise ValueError(
            f"{source} holds placeholders, not prompts: the prompts are in RTP-LX.zip, with its password"
        )
    table = _table(
        "rtp-lx",
        prompt_id=[f"rtp-lx-{row['Index']}" for row in rows],
        category=None,
        language=normalise(language),
        turns=[[_cut(row["Prompt"], commas)] for row in rows],
        toxicity=[_number((row.get("Annotations") or {}).get("Toxicity")) for row in rows],
    )
    return _drawn(table, limit, seed)


def polyglo_toxicity_prompts(
    language: str,
    source: str | Path = "ToxicityPrompts/PolygloToxicityPrompts",
    *,
    split: Literal["small", "full", "wildchat"] = "small",
    limit: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """PolygloToxicityPrompts: web prompts in 17 languages with the Perspective scores of their day.

    `source` is the hub id, a folder with its layout, or one parquet file. "small" has 5,000 a language, "full"
    25,000, "wildchat" 1,000 first turns of chats. The hub page names no licence: check before you publish.
    toxicity is the recorded score; category its quarter ("0.25-0.5").
    """
    if split not in ("small", "full", "wildchat"):
        raise ValueError(f"split={split!r}: choose 'small', 'full' or 'wildchat'")
    known = stored("prompt_sets")["polyglo_languages"]  # its Chinese is Simplified
    code = "zh" if normalise(language) == "zh-Hans" else normalise(language)
    if code not in known:
        there = ", ".join(known)
        raise ValueError(f"polyglo-toxicity-prompts has no prompts in {language!r}; it has {there} (zh-Hans)")
    config = f"wildchat-{code}" if split == "wildchat" else f"ptp-{code}"
    files = _files(source, f"{config}/{split}-*.parquet")
    rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    text = next((c for c in ("prompt", "text") if c in rows), None)
    if text is None:
        raise ValueError(f"{files[0]}: no column prompt or text among {', '.join(rows.columns)}")
    scores = [rows[c] for c in ("prompt_toxicity", "toxicity") if c in rows]
    score = (scores or [pd.Series(np.nan, rows.index)])[0].astype(float)
    quarters = [min(int(4 * x), 3) / 4 if 0 <= x <= 1 else None for x in score]
    table = _table(
        "polyglo-toxicity-prompts",
        prompt_id=[f"{config}-{split}-{i}" for i in range(len(rows))],
        category=[None if q is None else f"{q:g}-{q + 0.25:g}" for q in quarters],
        language="zh-Hans" if code == "zh" else code,
        turns=[[str(t)] for t in rows[text]],
        toxicity=score,
    )
    return _drawn(table, limit, seed)


def safety_prompts(
    source: str | Path = "thu-coai/Safety-Prompts",
    *,
    scenarios: Sequence[str] = TYPICAL,
    per_scenario: int | None = 200,
    language: Literal["zh-Hans", "zh-Hant"] = "zh-Hant",
    seed: int = 0,
) -> pd.DataFrame:
    """Safety-Prompts in Chinese, drawn scenario by scenario (Apache-2.0); its authors now advise it for training.

    The defaults are the paper's: 200 of each of the seven typical scenarios, converted to Traditional Chinese
    with OpenCC (`pip install opencc`). The paper's role-play attack is scenarios=["Role_Play_Instruction"],
    per_scenario=1000. `source` is the hub id, a folder with the two JSON files, or one of them. category is the
    scenario, under which `safety:judge` asks.
    """
    if language not in ("zh-Hans", "zh-Hant"):
        raise ValueError(
            f"safety-prompts has no prompts in {language!r}; it has zh-Hans, and zh-Hant by conversion"
        )
    unknown = [s for s in scenarios if s not in TYPICAL + ATTACKS]
    if isinstance(scenarios, str) or unknown:
        raise ValueError(f"scenarios={scenarios!r}: a list of {', '.join(TYPICAL + ATTACKS)}")
    found: dict[str, list] = {}
    files = {"typical_safety_scenarios.json": TYPICAL, "instruction_attack_scenarios.json": ATTACKS}
    for file, names in files.items():
        if set(names) & set(scenarios):
            content = read_json(_files(source, file)[0])
            found |= {name: rows for name, rows in content.items() if name in scenarios}
    if lacking := [s for s in scenarios if not found.get(s)]:
        raise ValueError(f"{source} has no prompts for {some(lacking)}; it has {', '.join(found)}")
    converted = language == "zh-Hant"
    convert = converter("s2t", "Safety-Prompts are in Simplified Chinese") if converted else str
    tables = []
    for scenario in scenarios:
        texts = [row["prompt"] for row in found[scenario]]
        ids = [f"{scenario}-{i}" for i in range(len(texts))]
        turns = [[convert(text)] for text in texts]
        table = _table("safety-prompts", prompt_id=ids, category=scenario, language=language, turns=turns)
        tables.append(_drawn(table, per_scenario, seed))
    return pd.concat(tables, ignore_index=True)


def cut_at_comma(text: str, commas: int = 2) -> str:
    """The text up to and with its nth comma of any script; all of it when it has fewer.

    The paper cut its translated prompts at the second comma, since GPT-4 had completed the fragments.

    >>> cut_at_comma("If I were you, which I am not, I would go, now"), cut_at_comma("他說，那時候、在城裡，沒人")
    ('If I were you, which I am not,', '他說，那時候、在城裡，')
    """
    marks = [m.end() for m in re.finditer(r"[,，،﹐]", text)]
    return text[: marks[commas - 1]] if len(marks) >= commas else text


def _table(name: str, *, prompt_id: list[str], **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"prompt_id": prompt_id, "set": name, **columns})


def _cut(text: str, commas: int | None) -> str:
    return text if commas is None else cut_at_comma(text, commas)


def _drawn(table: pd.DataFrame, limit: int | None, seed: int) -> pd.DataFrame:
    """`limit` rows drawn without replacement, in their old order; all of them if there are no more."""
    if limit is not None and limit < len(table):
        chosen = np.random.default_rng(seed).choice(len(table), size=limit, replace=False)
        table = table.iloc[np.sort(chosen)]
    return table.reset_index(drop=True)


def _number(value: object) -> float:
    return np.nan if value is None else float(value)


def _rtp_category(row: dict) -> str:
    if row.get("challenging"):
        return "challenging"
    return "toxic" if _number(row["prompt"].get("toxicity")) >= 0.5 else "non-toxic"


def _rtp_lx_locale(language: str) -> str:
    special = {"zh-Hans": "ZH-Hans", "zh-Hant": "ZH-Hant", "no": "NO-NB", "nb": "NO-NB"}
    if language.upper() in ("PT-BR", "NO-NB"):
        return language.upper()
    return special.get(normalise(language), normalise(language).upper())


def _rtp_lx_content(source: Path, locale: str, password: str | None) -> bytes:
    name = f"RTP_LX_{locale}.json"
    if source.is_dir():
        found = sorted(source.rglob(name))
        if not found:
            known = ", ".join(sorted(p.stem[7:] for p in source.rglob("RTP_LX_*.json")))
            raise FileNotFoundError(f"no {name} below {source}; there are {known or 'no RTP_LX files'}")
        return found[0].read_bytes()
    if source.suffix != ".zip":
        return source.read_bytes()
    with zipfile.ZipFile(source) as archive:
        members = [m for m in archive.namelist() if Path(m).name == name]
        if not members:
            raise FileNotFoundError(f"no {name} in {source}; there are {', '.join(archive.namelist())}")
        try:
            return archive.read(members[0], pwd=password.encode() if password else None)
        except (RuntimeError, NotImplementedError) as error:
            raise PermissionError(
                f"{source} cannot be opened ({error}): pass the password from RTP-LX's README, or unpack it yourself"
                " and pass the folder"
            ) from error


def _json_lines(content: Path | bytes, *, name: str = "") -> list[dict]:
    name, data = (str(content), content.read_bytes()) if isinstance(content, Path) else (name, content)
    rows = []
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):  # splitlines would cut at U+2028
        if line.strip():
            place = f"{name}, line {number}"
            rows.append(demand(parse_json(line, place), dict, place))
    if not rows:
        raise ValueError(f"{name} holds no prompts")
    return rows


def _files(source: str | Path, pattern: str) -> list[Path]:
    """The files of a hub data set, or of a folder with its layout, that match; a file stands for itself."""
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(path.glob(pattern))
        if not found:
            raise FileNotFoundError(f"no {pattern} in {path}")
        return found
    if str(source).count("/") != 1:
        raise FileNotFoundError(
            f"{source} is neither a file, a folder, nor the id of a data set (owner/name)"
        )
    return hub_files(str(source), pattern)
