"""Which members of a family are pinned to a commit, and pinning the others: commit, licence and files as the hub has them.

The lines are written into the family's own file; its comments and everything else stay as they are.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from chatvec_lab.paths import DATA
from chatvec_lab.reading import read_yaml

if TYPE_CHECKING:
    from chatvec_lab.families.family import Family

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SOURCE = re.compile(r"^(?P<indent> *)source: *(?P<id>[^ #]+)")


def unpinned(family: "Family") -> list[str]:
    """The hub ids of members that no commit pins: what a run reads may be another model tomorrow."""
    found = [
        member.source
        for member in family.members.values()
        if not Path(member.source).exists() and not _COMMIT.fullmatch(member.revision or "")
    ]
    return list(dict.fromkeys(found))


def pin(name_or_path: str) -> list[str]:
    """Write commit, licence and files of each unpinned member into a family's file; lines that say what was done.

    A branch or tag in `revision` is resolved to its commit. Raises FileNotFoundError for what is no family's file or no
    model of the hub, OSError where the hub cannot be reached; the file is written whole at the end, or not at all.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = DATA / "families" / f"{name_or_path}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: only a family that a YAML file describes can be pinned."
        )
    lines, told = path.read_text("utf-8").splitlines(), []
    position = 0
    while position < len(lines):
        match = _SOURCE.match(lines[position])
        position += 1
        if not match or Path(path.parent / match["id"]).exists():
            continue
        end = _end(lines, position, len(match["indent"]))
        stated = _stated(lines[position:end], len(match["indent"]))
        asked = stated.get("revision")
        if asked and _COMMIT.fullmatch(asked):
            told.append(f"{match['id']}: pinned already, {asked}")
            continue
        found = _ask(match["id"], asked)
        new = {
            "revision": found.sha,
            "files": f"[{', '.join(sorted(s.rfilename for s in found.siblings or []))}]",
        }
        licence = getattr(found.card_data, "license", None) if found.card_data else None
        if licence and not stated.get("licence"):
            new["licence"] = licence
        kept = [line for line in lines[position:end] if _key(line, len(match["indent"])) not in new]
        fresh = [f"{match['indent']}{key}: {value}" for key, value in new.items()]
        lines[position:end] = [*fresh, *kept]
        position += len(fresh) + len(kept)
        told.append(f"{match['id']}: {found.sha}" + (f", licence {licence} by its card" if licence else ""))
    if not told:
        raise ValueError(f"{path} names no model of the hub in a line of its own (source: OWNER/NAME).")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("\n".join(lines) + "\n", "utf-8")
    read_yaml(temporary)  # still a file that can be read
    temporary.replace(path)
    return told


def _end(lines: list[str], start: int, indent: int) -> int:
    """The line behind a member's: the first that is indented less, or begins a list of another."""
    for number in range(start, len(lines)):
        text = lines[number]
        if text.strip() and len(text) - len(text.lstrip()) < indent:
            return number
    return len(lines)


def _key(line: str, indent: int) -> str:
    match = re.match(rf"^ {{{indent}}}(\w+):", line)
    return match[1] if match else ""


def _stated(lines: list[str], indent: int) -> dict[str, str]:
    """What a member's own lines say, as text; null is nothing."""
    found = {}
    for line in lines:
        if key := _key(line, indent):
            value = line.partition(":")[2].partition(" #")[0].strip().strip("'\"")
            found[key] = "" if value in ("null", "~") else value
    return found


def _ask(repo: str, revision: str | None):
    """What the hub says of a model. Its own errors, but for a model that is not there."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return HfApi().model_info(repo, revision=revision or None)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"the hub has no model {repo!r}{f' at {revision!r}' if revision else ''}, or not for you ({error}). Nothing was "
            "written. Check the name, or log in for gated models (HF_TOKEN)."
        ) from error
