"""The keys of a file that people write: what each holds and means, said once, used by the loader and by the documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from chatvec_lab.reading import brief


class Key(NamedTuple):
    """holds: what stands behind the key, in words. is_needed: whether a file without it is refused."""

    holds: str
    meaning: str
    is_needed: bool = False


def unknown(given: Iterable[Any], keys: Iterable[str]) -> list[str]:
    """What to say of each key that is none of `keys`: "'gird': did you mean 'grid'?"."""
    return [f"{str(name)!r}: {nearest(str(name), keys)}" for name in given if name not in keys]


def check(entry: Any, keys: Mapping[str, Key], where: str) -> None:
    """ValueError for what is no mapping, or has other keys than `keys`."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: there should be a mapping with {', '.join(keys)}, got {brief(entry)}")
    if told := unknown(entry, keys):
        raise ValueError(f"{where}: unknown fields: {'; '.join(told)}")


def nearest(name: str, names: Iterable[str]) -> str:
    """'did you mean ...?' with the nearest of `names`, or a list of them all."""
    names = list(names)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names) or 'none'}"


def markdown(keys: Mapping[str, Key | str]) -> str:
    """The keys as a table in Markdown; keys with one meaning in a row share a line."""
    rows: dict[Key, list[str]] = {}
    for name, key in keys.items():
        rows.setdefault(key if isinstance(key, Key) else Key("text", key), []).append(f"`{name}`")
    return table(
        ("key", "holds", "meaning"),
        [
            (", ".join(names), key.holds, _sentence(key.meaning) + " **Needed.**" * key.is_needed)
            for key, names in rows.items()
        ],
    )


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "." * (text[-1] not in ".,")
