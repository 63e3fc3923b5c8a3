"""What families there are and what is known of their members, without reading a weight or asking the network."""

from __future__ import annotations

from math import prod
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from chatvec_lab.families.family import Family, family_names, load_family
from chatvec_lab.paths import DATA

if TYPE_CHECKING:
    from chatvec_lab import Checkpoint


def describe_families(names: list[str] | None = None) -> list[dict[str, Any]]:
    """One dict a member of the named families (None: all): a table for `pandas.DataFrame`.

    Keys: family, member, language (None but for CP models), source, revision (None: the hub's main), parameters,
    bytes (weights on disk; for hub ids parameters times 2, None where these are unknown), vocabulary (rows of the
    embedding), dtype, licence, notes. What is not known is None.
    """
    return [
        _member(family, name, checkpoint)
        for family in map(load_family, family_names() if names is None else names)
        for name, checkpoint in family.members.items()
    ]


def families_page(name: str | None = None, *, seed: int = 0) -> str:
    """A printable list of all families, or one family with all its members, notes and confounds."""
    if name is not None:
        return _page(load_family(name, seed=seed))
    return "\n".join([*map(_summary, family_names()), "", "python -m chatvec_lab families NAME tells more."])


def _summary(name: str) -> str:
    family = load_family(name)
    members = [_member(family, *item) for item in family.members.items()]
    sources = {row["source"]: row for row in members}
    sizes = [row["bytes"] for row in sources.values()]
    size = ("" if all(sizes) else "at least ") + _size(sum(filter(None, sizes)))
    licences = ", ".join(dict.fromkeys(row["licence"] for row in members if row["licence"]))
    lines = [
        f"{name:22} {' '.join(family.languages):15} {len(sources)} models, base {_count(members[0]['parameters'])} "
        f"parameters, {size} in all; {licences or 'licence not recorded'}"
    ]
    many = len(family.confounds)
    told = [family.notes, f"{many} known confound{'s' * (many > 1)}." if many else ""]
    return "\n".join(lines + [_indented(" ".join(filter(None, told)), 23)] * any(told))


def _page(family: Family) -> str:
    lines = [_indented(family.name + (f": {family.notes}" if family.notes else ""), 0)]
    shared: dict[int, list[str]] = {}
    for name, checkpoint in family.members.items():
        shared.setdefault(id(checkpoint), []).append(name)
    for names in shared.values():
        row = _member(family, names[0], family.members[names[0]])
        facts = [f"{_count(row['parameters'])} parameters"] if row["parameters"] else []
        facts += [_size(row["bytes"])] if row["bytes"] else []
        facts += [f"{row['vocabulary']:,} tokens"] if row["vocabulary"] else []
        facts += [row["dtype"]] if row["dtype"] else []
        facts.append(f"licence {row['licence'] or 'not recorded'}")
        at = f" @ {row['revision']}" if row["revision"] else ""
        lines.append(f"{', '.join(names)}: {row['source']}{at}")
        lines.append(_indented(", ".join(facts)))
        lines += [_indented(row["notes"])] if row["notes"] else []
        known = family.facts.get(names[0], {})
        lines += [_indented(f"read from {page}") for page in known.get("pages") or ()]
        if known.get("unverified"):
            lines.append(_indented(f"unverified: {', '.join(known['unverified'])}"))
    return "\n".join(lines + [_indented(f"Confound: {text}", 0) for text in family.confounds])


def _member(family: Family, name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    known = dict(family.facts.get(name, {}))
    parameters, role = known.get("parameters"), family.roles[name]
    row = {
        "family": family.name, "member": name, "language": role.language if name == f"cp_{role.language}" else None,
        "source": checkpoint.label, "revision": checkpoint.revision,
        "parameters": None if parameters is None else round(float(parameters)),
        "bytes": None if parameters is None else round(2 * float(parameters)),
        **{key: known.get(key) for key in ("vocabulary", "dtype", "licence", "notes")},
    }  # fmt: skip
    return row | (_read(checkpoint) if Path(checkpoint.source).is_dir() else {})


def _read(checkpoint: Checkpoint) -> dict[str, Any]:
    """Sizes of a local checkpoint, from its headers."""
    names = checkpoint.names
    return {
        "parameters": sum(
            prod(checkpoint.shape(n)) for n in names if checkpoint.layout[n].module != "buffer"
        ),
        "bytes": sum(checkpoint.nbytes(name) for name in names),
        "vocabulary": checkpoint.config.get("vocab_size"),
        "dtype": ", ".join(sorted({checkpoint.dtype_name(name) for name in names})),
        "licence": "MIT (ships with chatvec_lab)" if checkpoint.folder.is_relative_to(DATA) else None,
    }


def _count(parameters: int | None) -> str:
    if parameters is None:
        return "?"
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e8 else f"{parameters / 1e6:.2f} M"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _indented(text: str, width: int = 4) -> str:
    return fill(" ".join(text.split()), 110, initial_indent=" " * width, subsequent_indent=" " * width)
