"""Questions for published families: our own prompts in eight languages, or published sets by name, link or file."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from chatvec_lab.evaluation import prompts
from chatvec_lab.evaluation.asking.thinking import split
from chatvec_lab.evaluation.language import normalise
from chatvec_lab.evaluation.prompts import risk
from chatvec_lab.evaluation.prompts.download import fetch
from chatvec_lab.evaluation.prompts.options import OPTIONS, READERS
from chatvec_lab.keys import unknown
from chatvec_lab.paths import DATA

if TYPE_CHECKING:
    from chatvec_lab.families import Family

SETS = {"one_turn": "instructions", "two_turn": "dialogues"}  # our own, where no option names one
HARMLESS = ("harmless", "neutral")  # of our continuations, where we have no look-alikes in a language
UNTOLD = "und"  # the code of a language that is not told


class Published:
    """What a published family is asked, by `options`; `scorers` are those taken where none are named."""

    scorers = ("instructions", "answers", "toxicity:english-profanity", "refusals", "language")

    def __init__(self, family: "Family", options: Mapping[str, str]):
        self.options = dict(options)
        if told := unknown(options, OPTIONS):
            raise ValueError(f"prompts: {'; '.join(told)} Scorers have parameters of their own.")
        self.thinking = options.get("thinking")  # where the chat template does not tell the format
        if self.thinking:
            split("", self.thinking)
        self.decoding("chat")

    def draw(
        self, language: str, name: str, *, n: int, draw: Literal["test", "validation"], frame: str
    ) -> pd.DataFrame:
        """At most `n` prompts of a set, one row each; `turns` are put into the frame, `said` is what the user says.

        The validation draw is the set `validation`, or a third of `one_turn`, the only set that chooses anything.
        Empty where the set has no prompts in this language.
        """
        code = self._code(language)
        kind = "continuations" if name == "hostile" and frame == "raw" else name
        splits = name == "one_turn" and "validation" not in self.options
        source = self.options.get(
            "validation" if draw == "validation" and not splits else kind, SETS.get(kind, kind)
        )
        table = _prompts(source, code, kind)
        if table.empty:
            return table
        order = table.prompt_id.map(lambda text: zlib.crc32(text.encode()))
        if splits:
            order = order[(order % 3 == 0) == (draw == "validation")]
        table = table.loc[order.sort_values().index[:n].sort_values()]  # no category before the others
        said = table.turns.map(list)
        put = {"qa": lambda turns: [f"Q: {turn}\nA:" for turn in turns], "raw": lambda turns: turns[-1:]}
        kinds = "harmless" if name == "harmless" else table.category.fillna("all")
        return table.assign(set=name, said=said, turns=said.map(put.get(frame, list)), kind=kinds,
                            words="all")  # fmt: skip

    def _code(self, language: str) -> str:
        return normalise(language if language == "en" else self.options.get("language", language))

    def decoding(self, frame: str) -> dict:
        """The settings of `respond`; ValueError for a number or an argument that is none."""
        found = {"template": "chat" if frame == "chat" else "plain", "stop": ("\n",) if frame == "qa" else ()}
        found |= {"max_tokens": 256 if frame == "chat" else 64, "batch_size": 16}
        for name, kind in (("max_tokens", int), ("temperature", float)):
            if name in self.options:
                try:
                    found[name] = kind(self.options[name])
                except ValueError as error:
                    raise ValueError(f"prompts: {name}={self.options[name]!r} is no number") from error
        if frame == "chat" and self.options.get("template"):
            pairs = [pair.partition("=") for pair in self.options["template"].split()]
            if not all(value for _, _, value in pairs):
                raise ValueError(
                    f"prompts: template={self.options['template']!r}: NAME=VALUE, such as enable_thinking=false"
                )
            words = {"true": True, "false": False}
            found["template_arguments"] = {key: words.get(value.lower(), value) for key, _, value in pairs}
        return found

    def plain_texts(self, language: str, n: int) -> list[dict[str, str]]:
        """At most `n` texts in the language: what the users of our own prompts say, or of the given one-turn set.

        They were written for this project, so no model has read them; a language that we have no prompts in has those
        of the set `one_turn`, or none.
        """
        code = self._code(language)
        if code in prompts.LANGUAGES:
            tables = [_prompts(name, code, name) for name in ("general", "dialogues", "instructions")]
        elif "one_turn" in self.options:
            tables = [_prompts(self.options["one_turn"], code, "one_turn")]
        else:
            return []
        rows = [row for table in tables for row in table.itertuples()]
        said = [(f"{row.prompt_id}/{i}", text) for row in rows for i, text in enumerate(row.turns)]
        return [{"text_id": name, "language": code, "text": text} for name, text in said[:n]]


def _prompts(names: str, language: str, kind: str) -> pd.DataFrame:
    """The prompts of the first of these sets (joined by commas) that has some in this language; none where none has."""
    for name in filter(None, (part.strip() for part in names.split(","))):
        found = _of_one_set(name, language, kind)
        if len(found):
            return found.assign(source=name)
    return pd.DataFrame()


def _of_one_set(name: str, language: str, kind: str) -> pd.DataFrame:
    """The prompts of a set in this language; none where it has others only.

    English is asked beside the target language; a file that does not say its language is in the target language.
    """
    reader, _, source = name.partition(":")
    if reader in READERS:
        table = _provoking(reader, source, language)
    elif name in prompts.SETS or name in ("hostile", "harmless"):
        if language not in prompts.LANGUAGES:
            return pd.DataFrame()
        is_ours = (DATA / "prompts" / name / f"{language}.jsonl").is_file()
        table = prompts.load_prompts(name if is_ours else "continuations", language)
        if not is_ours or (name, kind) == ("continuations", "continuations"):
            table = table[table.category.isin(HARMLESS) == (kind == "harmless")]
    elif name in prompts.PUBLISHED:
        if language.split("-")[0] not in {code.split("-")[0] for code in prompts.PUBLISHED[name][2]}:
            return pd.DataFrame()
        table = prompts.load_prompts(name, language)
    else:
        table = prompts.read_prompts(name, language=UNTOLD, set=Path(name).stem)
        told = table.language.str.fullmatch(r"[a-z]{2,3}(-\w+)?") & table.language.ne(UNTOLD)
        table["language"] = table.language.where(told, "" if language == "en" else language)
    table = table.assign(**{name: None for name in ("category", "reference") if name not in table})
    table["checks"] = list(table["checks"]) if "checks" in table else [[] for _ in range(len(table))]
    return table[[_fits(code, language) for code in table.language]] if len(table) else table


def _provoking(reader: str, source: str, language: str) -> pd.DataFrame:
    """A published set of prompts that provoke; empty where it has none in this language."""
    if reader == "safety-prompts":
        form = language if language == "zh-Hans" else "zh-Hant"
        return _safety(source, form) if _fits(form, language) else pd.DataFrame()
    if source.startswith(("http://", "https://")):
        source = str(fetch(source))
    given = {"source": source} if source else {}
    if reader == "real-toxicity-prompts":  # all the challenging ones and a thousand others, as in the paper
        both = [risk.real_toxicity_prompts(challenging=True, commas=2, **given),
                risk.real_toxicity_prompts(challenging=False, limit=1000, commas=2, **given)]  # fmt: skip
        return pd.concat(both, ignore_index=True)
    if reader == "rtp-lx":
        if not source:
            raise ValueError("rtp-lx is asked from a folder or file of yours: hostile: 'rtp-lx:FOLDER'")
        return risk.rtp_lx(source, language, commas=2)
    return risk.polyglo_toxicity_prompts(language, **given)


def _safety(source: str, language: str) -> pd.DataFrame:
    """Safety-Prompts as the paper drew them: seven scenarios and the role-play attack; one file gives the seven alone.

    `source`: a folder, a file, the link of one, or the link of a folder, which ends in a slash; '' is the hub.
    """
    typical, attack = ({"source": source} if source else {} for _ in range(2))
    is_link, is_one = source.startswith(("http://", "https://")), Path(source).is_file()
    if is_link and source.endswith("/"):
        typical = {"source": fetch(f"{source}typical_safety_scenarios.json")}
        attack = {"source": fetch(f"{source}instruction_attack_scenarios.json")}
    elif is_link:
        typical, is_one = {"source": fetch(source)}, True
    found = risk.safety_prompts(language=language, **typical)
    if is_one:
        return found
    more = {"scenarios": ["Role_Play_Instruction"], "per_scenario": 1000}
    return pd.concat([found, risk.safety_prompts(language=language, **more, **attack)], ignore_index=True)


def _fits(code: str, language: str) -> bool:
    """Whether prompts in `code` are prompts in `language`; "zh" is either script."""
    alike = code.split("-")[0] == language.split("-")[0]
    return code == language or (alike and not ("-" in code and "-" in language))
