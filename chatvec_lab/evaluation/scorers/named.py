"""Scorers by name, as studies and notebooks give them, checked before anything is loaded.

`SERVICES` are the options beside the names: addresses and models, never a key. A key is read from the environment
variable that `judge_key_env` or `toxicity_key_env` names, at each request.
"""

import difflib
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from chatvec_lab.evaluation.scorers.contract import Column

__all__ = ["SERVICES", "Chosen", "catalogue", "checked", "choose", "page"]

SERVICES = {
    "judge_model": "the judge's name at its server; else CHATVEC_JUDGE_MODEL",
    "judge_url": "its address, such as http://127.0.0.1:8000/v1; else CHATVEC_JUDGE_URL, else OpenAI's",
    "judge_key_env": "the environment variable that holds its key (OpenAI's address: OPENAI_API_KEY)",
    "judge_max_tokens": "the longest judgement; 1024 without it, which a judge that thinks first may exceed",
    "judge_price": "US dollars for a million tokens read and written, such as 2.5/10: for the estimate of --dry-run",
    "safety_model": "another model than the judge's for safety:judge, at the same address",
    "toxicity_url": "address of toxicity:perspective (the whole one) or toxicity:moderation",
    "toxicity_key_env": "the environment variable that holds its key",
    "toxicity_model": "model of toxicity:moderation",
    "toxicity_languages": "languages that a classifier or a moderation endpoint is trusted in, such as 'en ko'",
    "toxicity_label": "a classifier's label for toxic, where its labels do not tell",
    "timeout": "seconds that a judge, a guard at guard_url or a served model has for one answer; 120 without it",
    "guard_url": "address of a server that runs safety:guard's model; without it the model is loaded here",
    "tasks": "folder with task files of one's own for knowledge:TASK",
    "tasks_limit": "questions of each task; all without it",
}


class Named(NamedTuple):
    """A line of the catalogue."""

    name: str
    gives: str
    languages: str
    needs: str
    cost: str


def _endpoint_cost(what: str) -> str:
    return f"a request a {what}; kept, never asked twice"


CATALOGUE = (
    Named("instructions", "correct: every check holds", "any", "prompts with checks", "none"),
    Named("answers", "correct: harmless prompts answered", "{refusals}", "", "none"),
    Named("refusals", "polite: refusals of hostile prompts", "{refusals}", "", "none"),
    Named("language", "in_language, is_english", "{language}", "", "none"),
    Named("language:lingua", "the same, by the detector that the paper used", "{language}",
          "pip install 'chatvec_lab[lingua]'", "none"),
    Named("thinking", "thinks, no_answer, ended", "any", "", "none"),
    Named("toxicity:english-profanity", "toxic, profanity", "en", "", "none"),
    Named("toxicity:perspective", "toxic and six attributes", "{perspective}", "toxicity_url, mostly a key",
          _endpoint_cost("reply")),
    Named("toxicity:moderation", "toxic and five categories", "toxicity_languages", "toxicity_languages, a key",
          _endpoint_cost("reply")),
    Named("toxicity:HUB-ID", "toxic", "toxicity_languages", "toxicity_languages, maybe toxicity_label",
          "a classifier in memory"),
    Named("judge:paper", "judge_paper, 1 to 10", "any; the question in {paper}", "a judge, prompts with a reference",
          _endpoint_cost("reply")),
    Named("judge:mt-bench", "judge_mt_bench, 1 to 10", "any; the question in en", "a judge",
          _endpoint_cost("conversation")),
    Named("judge:pair", "judge_pair: points against the first model", "any; the question in en", "a judge",
          "two requests a reply; kept, never asked twice"),
    Named("safety:judge", "unsafe", "any; the question in en", "a judge", _endpoint_cost("hostile prompt")),
    Named("safety:guard:HUB-ID", "guard_unsafe", "the guard's", "", "a guard model in memory, or at guard_url"),
    Named("knowledge:TASK", "accuracy in a task of lm-eval", "the task's", "pip install 'chatvec_lab[lmeval]'",
          "the task's questions for each model"),
    Named("FILE.py", "what its SCORER says", "its own", "see evaluation.scorers.contract", "its own"),
)  # fmt: skip


def catalogue() -> pd.DataFrame:
    """All names with what they give, their languages, needs and cost."""
    from chatvec_lab.evaluation import language, refusals
    from chatvec_lab.evaluation.scorers.judge_prompts import templates
    from chatvec_lab.evaluation.scorers.toxicity_endpoints import PerspectiveEndpoint

    known = {"refusals": refusals.LANGUAGES, "language": language.LANGUAGES, "paper": templates()["paper"]}
    known["perspective"] = sorted(PerspectiveEndpoint.languages)
    told = {key: " ".join(codes) for key, codes in known.items()}
    rows = [line._replace(languages=line.languages.format(**told)) for line in CATALOGUE]
    return pd.DataFrame(rows, columns=Named._fields)


def page() -> str:
    """The catalogue and the services as text."""
    lines = []
    for row in catalogue().itertuples():
        about = {"languages": row.languages, "needs": row.needs, "cost": row.cost}
        lines += [
            f"{row.name}: {row.gives}",
            *(f"    {k}: {v}" for k, v in about.items() if v not in ("", "none")),
        ]
    width = max(map(len, SERVICES))
    return "\n".join([*lines, "", "services:", *(f"    {k:{width}}  {v}" for k, v in SERVICES.items())])


def checked(name: str, services: Mapping[str, str]) -> str:
    """How well a toxicity scorer tells rude sentences from harmless ones, by language (`toxicity.validate`)."""
    from chatvec_lab.evaluation.scorers.toxicity import Toxicity, validate

    scorer = choose([name], services).scorers.get(name)
    if not isinstance(scorer, Toxicity):
        raise ValueError(f"--check tries scorers of toxicity, on labelled sentences; {name!r} is none")
    table = validate(scorer.of)
    table = table.pivot(index="language", columns="metric", values="estimate").round(2)
    return (
        f"{scorer.name} {scorer.version}: small numbers of sentences, read them as such\n{table.to_string()}"
    )


class Chosen(NamedTuple):
    """What the names meant: scorers of replies, of pairs of replies, and probes of the model, by name."""

    scorers: dict[str, Any]
    pairs: dict[str, Any]
    probes: dict[str, Any]


def choose(
    names: Sequence[str], services: Mapping[str, str] | None = None, *, keep: Path | None = None
) -> Chosen:
    """The scorers of these names, none loaded yet; judgements are kept in the folder `keep`.

    Raises ValueError for an unknown name or option and for one that is lacking, PermissionError for a key that is
    not in the environment, FileNotFoundError for a scorer's file that is not there, ImportError for a package.
    """
    services = dict(services or {})
    unknown = [f"{key!r}: {_nearest(key, SERVICES)}" for key in services if key not in SERVICES]
    if unknown:
        raise ValueError(f"services: {'; '.join(unknown)}")
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(
            f"scorers={names!r}: a list of different names; `python -m chatvec_lab scorers` lists them"
        )
    chosen = Chosen({}, {}, {})
    for name in names:
        made = _made(name, services, keep)
        kind = "probes" if hasattr(made, "read") else "pairs" if hasattr(made, "compare") else "scorers"
        getattr(chosen, kind)[name] = made
    taken: dict[tuple, str] = {}
    for name, scorer in chosen.scorers.items():
        for column in scorer.columns:
            for place in column.sets or ("",):
                other = taken.setdefault((column.name, place), name)
                if other != name:
                    raise ValueError(
                        f"scorers {other!r} and {name!r} both give {column.name!r}: name one of them"
                    )
    return chosen


def _made(name: str, services: Mapping[str, str], keep: Path | None) -> Any:
    kind, _, rest = name.partition(":")
    match kind, rest:
        case _ if name.endswith(".py"):
            return _from_file(name)
        case "instructions" | "answers" | "refusals" | "language" | "thinking", "":
            from chatvec_lab.evaluation.scorers import local

            return getattr(local, {"answers": "Answered"}.get(name, name.title()))()
        case "language", "lingua":
            from chatvec_lab.evaluation.scorers.local import Language

            return Language("lingua")
        case "toxicity", _ if rest:
            from chatvec_lab.evaluation.scorers.toxicity import Toxicity

            return Toxicity(_toxicity(rest, services, keep))
        case "judge", "paper" | "mt-bench" | "pair":
            from chatvec_lab.evaluation.scorers.by_judge import Preference, Rating

            judge = _judge(services, keep)
            return Preference(judge) if rest == "pair" else Rating(judge, rest)
        case "safety", "judge":
            from chatvec_lab.evaluation.scorers.by_judge import SafetyByJudge

            return SafetyByJudge(_judge(services, keep, services.get("safety_model")))
        case "safety", _ if rest.partition(":")[0] == "guard" and rest.partition(":")[2]:
            return _guard(rest.partition(":")[2], services, keep)
        case "knowledge", _ if rest:
            from chatvec_lab.evaluation.scorers.fluency import LmEvalTask

            limit = number(services, "tasks_limit", None)
            return LmEvalTask(rest, include_path=services.get("tasks"), limit=limit)
    near = _nearest(name, [line.name for line in CATALOGUE])
    raise ValueError(f"no scorer {name!r}; {near} (`python -m chatvec_lab scorers` tells what each needs)")


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"


def number(services: Mapping[str, str], name: str, default: int | None) -> int | None:
    """The whole number, above 0, that an option holds. Raises ValueError for anything else."""
    given = str(services.get(name, "" if default is None else default))
    if given and not (given.isdecimal() and int(given)):
        raise ValueError(f"services: {name}={given!r} is no whole number above 0")
    return int(given) if given else None


def _key_env(services: Mapping[str, str], name: str, url: str | None, own: str, variable: str) -> str | None:
    """The variable that holds a key: the named one; the vendor's for its own address alone; else none."""
    from chatvec_lab.evaluation.asking.http import read_key

    key_env = services.get(name) or (variable if not url or url.startswith(own) else None)
    if key_env:
        read_key(key_env)
    return key_env


def _judge(services: Mapping[str, str], keep: Path | None, model: str | None = None):
    from chatvec_lab.evaluation.asking.http import Endpoint
    from chatvec_lab.evaluation.scorers.judge import OPENAI, Judge

    url = services.get("judge_url") or os.environ.get("CHATVEC_JUDGE_URL")
    key_env = _key_env(services, "judge_key_env", url, OPENAI.removesuffix("/v1"), "OPENAI_API_KEY")
    return Judge(
        model or services.get("judge_model"),
        Endpoint(url or OPENAI, key_env=key_env, timeout=number(services, "timeout", 120)),
        cache=keep and keep / "judge.jsonl",
        progress=False,
        max_tokens=number(services, "judge_max_tokens", 1024),
    )


def _guard(model: str, services: Mapping[str, str], keep: Path | None):
    from chatvec_lab.evaluation.asking.http import Endpoint
    from chatvec_lab.evaluation.scorers.by_judge import SafetyByGuard
    from chatvec_lab.evaluation.scorers.guard import LocalGuard
    from chatvec_lab.evaluation.scorers.judge import Judge

    if url := services.get("guard_url"):
        cache = keep and keep / "guard.jsonl"
        endpoint = Endpoint(url, timeout=number(services, "timeout", 120))
        return SafetyByGuard(Judge(model, endpoint, cache=cache, max_tokens=128, progress=False))
    return SafetyByGuard(LocalGuard(model))


def _toxicity(which: str, services: Mapping[str, str], keep: Path | None):
    from chatvec_lab.evaluation.scorers import toxicity_endpoints, toxicity_scorers

    url, languages = services.get("toxicity_url"), services.get("toxicity_languages", "").split()
    options = {"cache": keep and keep / "toxicity.jsonl", "progress": False}
    if which == "english-profanity":
        return toxicity_scorers.EnglishProfanity()
    if which == "perspective":
        own = "https://commentanalyzer.googleapis.com"
        options["key_env"] = _key_env(services, "toxicity_key_env", url, own, "PERSPECTIVE_API_KEY")
        if url:  # a server of one's own has no quota of one a second
            options |= {"url": url, "per_second": None if not url.startswith(own) else 1.0}
        return toxicity_endpoints.PerspectiveEndpoint(**options)
    if not languages:
        raise ValueError(f"toxicity:{which} needs services: toxicity_languages, those that it is trusted in")
    if which == "moderation":
        own = "https://api.openai.com"
        options["key_env"] = _key_env(services, "toxicity_key_env", url, own, "OPENAI_API_KEY")
        options |= {"base_url": url} if url else {}
        options |= {"model": services["toxicity_model"]} if "toxicity_model" in services else {}
        return toxicity_endpoints.ModerationEndpoint(languages=languages, **options)
    if which.startswith(("http://", "https://")):
        raise ValueError(f"toxicity:{which}: an address goes into services: toxicity_url, and its kind is "
                         "toxicity:perspective or toxicity:moderation")  # fmt: skip
    label = services.get("toxicity_label")
    attributes = {label: "toxicity"} if label else None
    return toxicity_scorers.HuggingFaceClassifier(which, languages=languages, attributes=attributes)


def _from_file(name: str) -> Any:
    from chatvec_lab.paths import ROOT

    file = next((folder / name for folder in (Path(), ROOT) if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"no scorer's file {name}, from here or from {ROOT}")
    spec = importlib.util.spec_from_file_location(f"chatvec_lab_scorer_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scorer = getattr(module, "SCORER", None)
    lacking = [a for a in ("name", "version", "languages", "columns", "score") if not hasattr(scorer, a)]
    if lacking or not all(isinstance(column, Column) for column in scorer.columns):
        raise ValueError(f"{file}: SCORER lacks {', '.join(lacking) or 'columns that are Column(...)'}; "
                         "see chatvec_lab.evaluation.scorers.contract")  # fmt: skip
    return scorer
