"""Scorers by name, as studies and notebooks give them, checked before anything is loaded.

`SERVICES` are the options beside the names: addresses and models, never a key. A key is read from the environment
variable that `judge_key_env` or `toxicity_key_env` names, at each request.
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from chatvec_lab.evaluation._frames import stored
from chatvec_lab.evaluation.scorers.contract import Column
from chatvec_lab.keys import nearest, unknown

SERVICES: dict[str, str] = stored("scorers")["services"]


class Named(NamedTuple):
    """A line of the catalogue."""

    name: str
    gives: str
    languages: str
    needs: str = ""
    cost: str = "none"


CATALOGUE = [Named(name, **row) for name, row in stored("scorers")["scorers"].items()]


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
    for row in catalogue().to_dict("records"):
        lines.append(f"{row['name']}: {row['gives']}")
        lines += [f"    {k}: {row[k]}" for k in ("languages", "needs", "cost") if row[k] not in ("", "none")]
    width = max(map(len, SERVICES))
    return "\n".join([*lines, "", "services:", *(f"    {k:{width}}  {v}" for k, v in SERVICES.items())])


def checked(name: str, services: Mapping[str, str]) -> str:
    """How well a toxicity scorer tells rude sentences from harmless ones, by language (`toxicity.validate`)."""
    from chatvec_lab.evaluation.scorers.toxicity import validate

    if not name.startswith("toxicity:"):
        raise ValueError(f"--check tries scorers of toxicity, on labelled sentences; {name!r} is none")
    scorer = choose([name], services).scorers[name]
    table = validate(scorer.of).pivot(index="language", columns="metric", values="estimate").round(2)
    said = f"{scorer.name} {scorer.version}: small numbers of sentences, read them as such"
    return f"{said}\n{table.to_string()}"


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
    from chatvec_lab.evaluation.scorers import local

    services = dict(services or {})
    if told := unknown(services, SERVICES):
        raise ValueError(f"services: {'; '.join(told)}")
    if isinstance(names, str) or len(set(names)) < len(names):
        raise ValueError(
            f"scorers={names!r}: a list of different names; `python -m chatvec_lab scorers` lists them"
        )
    chosen = Chosen({}, {}, {})
    for name in names:
        made = _made(name, services, keep)
        kind = "probes" if hasattr(made, "read") else "pairs" if hasattr(made, "compare") else "scorers"
        getattr(chosen, kind)[name] = made
    if (
        "answers" in chosen.scorers
    ):  # an insult is no answer, in any language that the named toxicity scorer covers
        toxic = (made for name, made in chosen.scorers.items() if name.startswith("toxicity:"))
        chosen.scorers["answers"] = local.Answers(next(toxic, None))
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
    from chatvec_lab.evaluation.scorers import by_judge, local
    from chatvec_lab.evaluation.scorers.fluency import LmEvalTask
    from chatvec_lab.evaluation.scorers.toxicity import Toxicity

    kind, _, rest = name.partition(":")
    match kind, rest:
        case _ if name.endswith(".py"):
            return _from_file(name)
        case "instructions" | "answers" | "refusals" | "language" | "thinking", "":
            return getattr(local, name.title())()
        case "language", "lingua":
            return local.Language("lingua")
        case "toxicity", _ if rest:
            return Toxicity(_toxicity(rest, services, keep))
        case "judge", "pair":
            return by_judge.Preference(_judge(services, keep))
        case "judge", "paper" | "mt-bench":
            return by_judge.Rating(_judge(services, keep), rest)
        case "safety", "judge":
            return by_judge.SafetyByJudge(_judge(services, keep, services.get("safety_model")))
        case "safety", _ if rest.removeprefix("guard:") not in (rest, ""):
            return by_judge.SafetyByGuard(_guard(rest.removeprefix("guard:"), services, keep))
        case "knowledge", _ if rest:
            limit = number(services, "tasks_limit", None)
            return LmEvalTask(rest, include_path=services.get("tasks"), limit=limit)
    raise _unknown(name)


def _unknown(name: str) -> ValueError:
    near = nearest(name, [line.name for line in CATALOGUE])
    return ValueError(f"no scorer {name!r}; {near} (`python -m chatvec_lab scorers` tells what each needs)")


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
    from chatvec_lab.evaluation.scorers.guard import LocalGuard
    from chatvec_lab.evaluation.scorers.judge import Judge

    if not (url := services.get("guard_url")):
        return LocalGuard(model)
    endpoint = Endpoint(url, timeout=number(services, "timeout", 120))
    return Judge(model, endpoint, cache=keep and keep / "guard.jsonl", max_tokens=128, progress=False)


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
    is_model = "/" in which or Path(which).is_dir()
    if which != "moderation" and not is_model:
        raise _unknown(f"toxicity:{which}")
    if not languages:
        raise ValueError(f"toxicity:{which} needs services: toxicity_languages, those that it is trusted in")
    if which == "moderation":
        own = "https://api.openai.com"
        options["key_env"] = _key_env(services, "toxicity_key_env", url, own, "OPENAI_API_KEY")
        given = {"base_url": url, "model": services.get("toxicity_model")}
        options |= {name: value for name, value in given.items() if value}
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
