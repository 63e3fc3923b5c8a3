"""Short digests of what a cell depends on: a notebook's code, the modules that it imports, files and folders."""

import contextlib
import functools
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from chatvec_lab.paths import DATA, ROOT
from chatvec_lab.reading import read_yaml
from chatvec_lab.study import modules

PACKAGE = modules.PACKAGE
WHOLE = 64 << 20  # bytes; a larger file is sampled
SAMPLES, BLOCK = 256, 64 << 10
# What decides what a model with given weights replies, beside the code that asks it. All that it imports counts too.
DECIDES = (
    "from chatvec_lab.evaluation.asking.generation import respond",
    "from chatvec_lab.live import LiveModel, load",
)
WRITTEN = ("out_dir", "folder")  # parameters that name where a notebook writes


def digest(*parts: Any) -> str:
    """sha256 of the parts as sorted JSON, as hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def code(cells: list[dict]) -> str:
    """Digest of a notebook's code cells: prose, outputs, metadata, comments and docstrings do not count."""
    return digest([modules.meaning(source) for source in _code(cells)])


def imports(cells: list[dict]) -> str:
    """Digest of the modules of chatvec_lab that a notebook's code cells import, as they are now on disk.

    The modules that those import count too, in functions as well, the data files beside them, and the versions of
    torch, transformers and tokenizers where these are imported. Comments and docstrings do not. See `study.modules`.
    """
    return modules.digest(_code(cells), PACKAGE)


def stamp() -> str:
    """Digest of the sizes and times of the package's files: while it is the same, `imports` need not be asked again."""
    return modules.stamp(PACKAGE)


def _code(cells: list[dict]) -> list[str]:
    return [cell["source"] for cell in cells if cell["cell_type"] == "code"]


def path(target: Path) -> str:
    """Digest of a file, or of all files in a folder by their relative names; hidden files do not count.

    A file that has not changed since it was last asked for is not read again.

    A file up to 64 MB is read whole. Of a larger one (weights) count its size, its time of change, its
    first 8 MB and 256 blocks of 64 KB, so that a 70B checkpoint takes a second.
    """
    if target.is_dir():
        files = sorted(f for f in target.rglob("*") if f.is_file() and not _is_hidden(f.relative_to(target)))
        return digest([(file.relative_to(target).as_posix(), path(file)) for file in files])
    about = target.stat()
    return _file(target, about.st_size, about.st_mtime_ns, about.st_ino)


@functools.cache
def _file(target: Path, size: int, changed: int, _: int) -> str:
    with target.open("rb") as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        sample = hashlib.sha256(f"{size} {changed}".encode())
        sample.update(file.read(8 << 20))
        for i in range(SAMPLES):
            file.seek(i * (size - BLOCK) // (SAMPLES - 1))
            sample.update(file.read(BLOCK))
    return sample.hexdigest()


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in relative.parts)


def family(name: str, *folders: Path) -> dict[str, str]:
    """Digests of a family's folder, or of its file and every file or folder named there, by name.

    A hub id counts by what the file says of it (pin a revision). An unknown family gives {}: the notebook
    that loads it will say so in its own words.
    """
    described = DATA / "families" / f"{name}.yaml"
    given = _found(name, *folders)
    if given and not (given.suffix in (".yaml", ".yml") or (given / "base").is_dir()):
        given = None  # as `load_family` has it
    place = next((p for p in (given, DATA / "nano" / name, described) if name and p and p.exists()), None)
    if place is None:
        return {}
    found = {f"family {name}": path(place.resolve())}
    if place.is_file():
        for text in sorted(set(_strings(read_yaml(place)))):
            if there := _found(text, place.parent):
                found[text] = path(there)
    return found


def parameters(values: dict[str, Any], *folders: Path) -> dict[str, str]:
    """Digests of the families and files that parameters name.

    Families are the values of `family` and `families`; the others are files, and folders whose name has a slash.
    What a notebook writes to is no input. Names are looked for in `folders` first.
    """
    found: dict[str, str] = {}
    for name in _strings([values.get("family"), values.get("families")]):
        found |= family(name, *folders)
    read = [value for name, value in values.items() if name not in WRITTEN]
    texts = set(_strings(read))
    for text in _strings(values.get("prompts")):
        texts |= {f"./{source}" if reader else source for reader, source in prompt_sets(text)}
    files = {text: _found(text, *folders) for text in sorted(texts)}
    files = {text: file for text, file in files.items() if file and ("/" in text or file.is_file())}
    # a classifier, a guard, or tasks in a folder of the user's own, whose name may have no slash
    named = [name for name in _strings(values.get("scorers")) if name.startswith(_OF_MODELS)]
    own = {name: _found(re.sub("^(?:toxicity|safety:guard):", "", name), *folders) for name in named}
    if tasks := (values.get("services") or {}).get("tasks"):
        own[tasks] = _found(tasks, *folders)
    return found | {name: path(file) for name, file in {**files, **own}.items() if file}


_OF_MODELS = ("toxicity:", "safety:guard:")


def environment(values: dict[str, Any]) -> dict[str, str]:
    """Digests of what scorers take from the environment where parameters do not say it: another judge, other numbers."""
    asks_judge = any(re.match("judge:|safety:judge$", name) for name in _strings(values.get("scorers")))
    services = values.get("services") or {}
    names = {"judge_model": "CHATVEC_JUDGE_MODEL", "judge_url": "CHATVEC_JUDGE_URL"}
    told = {
        name: os.environ.get(name)
        for service, name in names.items()
        if asks_judge and not services.get(service)
    }
    return {name: digest(value) for name, value in told.items() if value}


def prompt_sets(text: str) -> list[tuple[str, str]]:
    """The sets that a value of `prompts` names, commas between them, each as (READER: or '', name or place).

    >>> prompt_sets("mine/zh.jsonl, safety-prompts:mine, vicuna")
    [('', 'mine/zh.jsonl'), ('safety-prompts:', 'mine'), ('', 'vicuna')]
    """
    parts = [re.fullmatch(r"([a-z-]+:(?!//))?(.*)", part.strip(), re.DOTALL) for part in text.split(",")]
    return [(part[1] or "", part[2]) for part in parts if part and part[2]]


def _found(text: str, *folders: Path) -> Path | None:
    """What a text names: looked for in these folders, where the loaders do, and in the project; None for prose."""
    for folder in (*folders, Path(), ROOT):
        with contextlib.suppress(OSError, ValueError):  # too long for a name, or no name at all
            if text and (folder / text).exists():
                return (folder / text).resolve()
    return None


def _strings(tree: Any) -> list[str]:
    if isinstance(tree, str):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list):
        return []
    return [text for item in tree for text in _strings(item)]
