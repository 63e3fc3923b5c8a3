"""What each parameter of a notebook may be: the one table of their types and ranges, and the names that they may give.

A study asks it while it plans, a notebook in its first cell (`study.check`), so that a mistake is told before a model is
loaded. A parameter that is not in the table is held to the type in its notebook's parameters cell, and to nothing else.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from chatvec_lab.keys import nearest
from chatvec_lab.mistakes import is_mistake
from chatvec_lab.paths import ROOT
from chatvec_lab.reading import brief
from chatvec_lab.study.results import is_done

if TYPE_CHECKING:
    from chatvec_lab.families import Family

DTYPES = ("bfloat16", "float16", "float32")
PARTS = ("component", "layer", "module", "projection")  # by which a vector is taken apart


class Range(NamedTuple):
    """kind: the type, as a parameters cell writes it. allowed: what may be given, in words. holds: whether a value may."""

    kind: str
    allowed: str
    holds: Callable[[Any], bool] = lambda value: True


def _at_least(least: int) -> Range:
    return Range("int", f"a whole number, {least} or more", lambda value: value >= least)


def _different(values: list) -> bool:
    return len(set(values)) == len(values)


_COUNT = _at_least(1)
_MAPPING = "a mapping of texts, such as {{{}}}"
_RESULTS = "folders of cells of {}, each with its summary.json"
KNOWN = {
    "family": Range("str", "a family's name (python -m chatvec_lab families), its folder or its YAML file", bool),
    "families": Range("list[str]", "a list of families' names, each once", lambda v: all(v) and _different(v)),
    "seed": _at_least(0),
    "seeds": Range("list[int]", "a list of whole numbers, 0 or more, each once",
                   lambda v: all(seed >= 0 for seed in v) and _different(v)),
    "language": Range("str", "the language of one of the family's CP models", bool),
    "scale": Range("float", "a finite number", isfinite),
    "scales": Range("list[float]", "a list of finite numbers, one at least, each once",
                    lambda v: bool(v) and all(map(isfinite, v)) and _different(v)),
    "has_controls": Range("bool", "true or false"),
    "has_checkpointing": Range("bool", "true or false"),
    "by": Range("str", "some of component, layer, module and projection, each once, joined by ' × '",
                lambda v: _different(words := [w.strip() for w in v.split("×")]) and set(words) <= set(PARTS)),
    "measure": Range("str", "reply or first token", ("reply", "first token").__contains__),
    "at_scales": Range("list[float]", "a list of finite numbers above 0, one at least, each once",
                       lambda v: bool(v) and all(0 < scale < inf for scale in v) and _different(v)),
    "steps": Range("list[float]", "a list of finite numbers, two at least, each once",
                   lambda v: len(v) > 1 and all(map(isfinite, v)) and _different(v)),
    "samples": _COUNT,
    "temperature": Range("float", "a finite number above 0", lambda value: 0 < value < inf),
    "trials": _COUNT,
    "guard": Range("float", "a finite number, 1 or more", lambda value: 1 <= value < inf),
    "n": _COUNT,
    "validation_n": _COUNT,
    "texts": _COUNT,
    "elements": _COUNT,
    "rank": _COUNT,
    "max_tokens": _COUNT,
    "dtype": Range("str", f"auto or one of {', '.join(DTYPES)}", ("auto", *DTYPES).__contains__),
    "dtypes": Range("list[str]", f"a list of some of {', '.join((*DTYPES, 'float64'))}, each once",
                    lambda v: bool(v) and set(v) <= {*DTYPES, "float64"} and _different(v)),
    "vector": Range("str", "chat, random, or the name of another chat model of the family", bool),
    "compare": Range("list[str]", "a list of base and chat, of one of them, or of neither",
                     lambda v: set(v) <= {"base", "chat"} and _different(v)),
    "prompt": Range("str", "text; '' takes the first example"),
    "system": Range("str", "text; '' for no system prompt"),
    "prompts": Range("dict[str, str]", _MAPPING.format("one_turn: mine.jsonl")),
    "scorers": Range("list[str]", "a list of scorers' names, each once", lambda v: all(v) and _different(v)),
    "services": Range("dict[str, str]", _MAPPING.format("judge_model: gpt-5")),
    "tasks": Range("list[str]", "a list of names of lm-eval's tasks, each once", lambda v: all(v) and _different(v)),
    "speaker": Range("str", "memory, or served:URL such as served:http://127.0.0.1:8000/v1",
                     lambda v: bool(re.fullmatch(r"memory|served:https?://\S+", v))),
    "served": Range("dict[str, str]", _MAPPING.format("CP: name-at-the-server"), lambda v: all(v.values())),
    "sweep": Range("str", "the folder of a cell of 03_scale_sweep, or ''"),
    "instructions": Range("list[str]", _RESULTS.format("04_instruction_following")),
    "toxicity": Range("list[str]", _RESULTS.format("05_toxicity")),
    "pairs": Range("list[str]", _RESULTS.format("07b_pairs")),
    "transfer": Range("list[str]", _RESULTS.format("07d_transfer")),
    "knowledge": Range("list[str]", _RESULTS.format("10_knowledge")),
    "folder": Range("str", "a folder to write to, or ''"),
    "out_dir": Range("str", "a folder to write to, or ''"),
}  # fmt: skip


def problems(values: Mapping[str, Any], kinds: Mapping[str, str]) -> list[str]:
    """A sentence for each value that is none of the allowed, or names what is not there; each has its type already.

    `kinds`: the types that the notebook declares; a parameter that has another one than here is the notebook's own.
    """
    known = {
        name: value for name, value in values.items() if name in KNOWN and kinds[name] == KNOWN[name].kind
    }
    outside = [
        f"{name} must be {KNOWN[name].allowed}, got {brief(value)}"
        for name, value in known.items()
        if not KNOWN[name].holds(value)
    ]
    return outside or [told for check in _CHECKS for told in check(known)]


def _needs_zero(values: Mapping[str, Any]) -> Iterator[str]:
    """A sweep (it has validation prompts) compares with the CP, and chooses among the others."""
    scales = values.get("scales", [])
    if "validation_n" in values and "scales" in values and not (0 in scales and len(scales) > 1):
        yield (
            f"scales must have 0, which is the CP itself, and another scale to compare with it, got {brief(scales)}"
        )


def _names_members(values: Mapping[str, Any]) -> Iterator[str]:
    """The family, its repetition, and what of it is named."""
    if "family" not in values:
        return
    try:
        family = _family(values)
    except (KeyError, ValueError, TypeError, OSError) as error:
        if not is_mistake(error):
            raise
        yield f"family: {error.args[0] if isinstance(error, KeyError) else error}"
        return
    language = values.get("language")
    there = list(family.languages)
    if "vector" in values:  # the playground takes every CP model, by its member's name
        there = [name.removeprefix("cp_") for name in family.members if name.startswith("cp_")]
        vectors = [
            "chat",
            *(m for m, role in family.roles.items() if role.kind == "chat" and role.variant),
            "random",
        ]
        if values["vector"] not in vectors:
            yield f"vector={values['vector']!r}: family {family.name!r} has {', '.join(vectors)}"
    if language is not None and language not in there:
        yield f"language={language!r}: family {family.name!r} has no CP model for it; it has {', '.join(there)}"
    if family.is_nano and values.get("prompts"):
        yield (
            f"prompts={brief(values['prompts'])}: family {family.name!r} is asked the micro-world's prompts, and takes "
            "none of yours"
        )
    if "world" in values.get("scorers", []) and not family.is_nano:
        yield f"scorers: 'world' knows the micro-world alone, where family {family.name!r} did not grow"


def _family(values: Mapping[str, Any]) -> "Family":
    from chatvec_lab.families import load_family

    return load_family(values["family"], seed=values.get("seed", 0))


def _names_families(values: Mapping[str, Any]) -> Iterator[str]:
    """Nano families that could be trained may be named before they are: notebooks say which are not there."""
    if not values.get("families"):
        return
    from chatvec_lab.families import family_names
    from chatvec_lab.nano.recipe import FAMILIES

    names = list(dict.fromkeys([*family_names(), *FAMILIES]))
    for name in values["families"]:
        if name not in names:
            yield f"families: no family {name!r}; {nearest(name, names)}"


def _names_prompts(values: Mapping[str, Any]) -> Iterator[str]:
    if not values.get("prompts"):
        return
    from chatvec_lab.evaluation.prompts.options import NAMING, OPTIONS

    for key, text in values["prompts"].items():
        if key not in OPTIONS:
            yield f"prompts: no key {key!r}; {nearest(key, OPTIONS)}"
        elif key in NAMING:
            parts = [part.strip() for part in text.split(",")]
            yield from (f"prompts: {key}: {told}" for part in parts if (told := _prompt_set(part)))
        elif key in ("max_tokens", "temperature") and not _is_number(text, whole=key == "max_tokens"):
            wanted = "a whole number, 1 or more" if key == "max_tokens" else "a number, 0 or more"
            yield f"prompts: {key} must be {wanted}, got {brief(text)}"


def _prompt_set(name: str) -> str | None:
    """What is wrong with the name of a prompt set; None for one that may be there."""
    from chatvec_lab.evaluation.prompts.files import SUFFIXES
    from chatvec_lab.evaluation.prompts.options import READERS
    from chatvec_lab.evaluation.prompts.sets import PUBLISHED, SETS

    reader, _, source = name.partition(":")
    own = [*SETS, *PUBLISHED, *READERS]
    if name in own or name.startswith(("http://", "https://")):
        return None
    is_read = reader in READERS
    place = source if is_read else name
    if Path(place).exists() or (is_read and (not source or source.startswith(("http://", "https://")))):
        return None
    if is_read or place.endswith(SUFFIXES) or place.startswith((".", "/", "~")):
        return f"there is no file or folder {place!r}"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):  # a data set of the hub
        return None
    return f"no prompt set {name!r}; {nearest(name, own)}, or a file, a link or the id of a data set (OWNER/NAME)"


def _names_scorers(values: Mapping[str, Any]) -> Iterator[str]:
    if not values.get("scorers"):
        return
    from chatvec_lab.evaluation.scorers.named import CATALOGUE

    forms = ["world", *(line.name for line in CATALOGUE)]
    patterns = [re.sub("HUB-ID", "*/*", form).replace("TASK", "?*") for form in forms]
    for name in values["scorers"]:
        if name.endswith(".py"):
            if not any((folder / name).is_file() for folder in (Path(), ROOT)):
                yield f"scorers: there is no file {name!r}"
        elif not any(fnmatchcase(name, pattern) for pattern in patterns):
            yield f"scorers: no scorer {name!r}; {nearest(name, forms)} (`python -m chatvec_lab scorers` lists them)"


def _names_services(values: Mapping[str, Any]) -> Iterator[str]:
    if not values.get("services"):
        return
    from chatvec_lab.evaluation.scorers.named import SERVICES

    for key, text in values["services"].items():
        if key not in SERVICES:
            yield f"services: no key {key!r}; {nearest(key, SERVICES)}"
        elif key in ("tasks_limit", "timeout", "judge_max_tokens") and not _is_number(text, whole=True):
            yield f"services: {key} must be a whole number, 1 or more, got {brief(text)}"
        elif key.endswith("_url") and not re.fullmatch(r"https?://[^\s/]\S*", text):
            yield f"services: {key} must be an address such as http://127.0.0.1:8000/v1, got {brief(text)}"
        elif key in ("judge_price", "safety_price") and not re.fullmatch(r"\d+(\.\d+)?/\d+(\.\d+)?", text):
            yield f"services: {key} must be two numbers, such as 2.5/10, got {brief(text)}"


def _names_served(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("served") and values.get("speaker") == "memory":
        yield f"served={brief(values['served'])}: names of a server's models; say which server: speaker: served:URL"


def _names_results(values: Mapping[str, Any]) -> Iterator[str]:
    for name in ("sweep", "instructions", "toxicity", "pairs", "transfer", "knowledge"):
        given = values.get(name) or []
        for folder in [given] if isinstance(given, str) else given:
            # of a sweep the summary is read; of the others the tables, which are whole once the cell is done
            if not (Path(folder) / "summary.json").is_file() and (
                name == "sweep" or not is_done(Path(folder))
            ):
                yield f"{name}: {folder!r} is no folder of results: there is no summary.json in it"


_CHECKS = (_needs_zero, _names_members, _names_families, _names_prompts, _names_scorers, _names_services, _names_served,
           _names_results)  # fmt: skip


def _is_number(text: str, *, whole: bool) -> bool:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        return False
    return isfinite(number) and number >= whole


def together(problems: Mapping[str, Exception]) -> str:
    """What is wrong with the notebooks, a line each; what several have in common is said once."""
    said: dict[str, list[str]] = {}
    for name, error in problems.items():
        for line in str(error).splitlines():
            what = line.removeprefix(f"{name}: ")
            said.setdefault(what, []).extend([name] if what != line else [])
    return "\n".join(f"{', '.join(names)}: {what}" if names else what for what, names in said.items())
