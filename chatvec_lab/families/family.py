"""Families: one base with its chat models and its CP models, by language.

The embedded nano families are folders of checkpoints in `data/nano`; a family of published models is a YAML
file in `data/families` that names hub ids or folders. Nothing is read from disk here but names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatvec_lab.paths import DATA

if TYPE_CHECKING:
    import pandas as pd

    from chatvec_lab import Checkpoint


@dataclass(frozen=True)
class Family:
    """One base, its chat model, and its CP models by language code; the other members by name.

    `languages` are the codes of `cp`. `family["cp_ft_zh"]` gives any member by its name, base, chat and
    cp_zh included; a name that does not exist raises KeyError with the names that do.
    `facts` holds what is known of a member without reading it (licence, parameters, vocabulary, notes), by
    member name; `confounds` says what could be mistaken for an effect of the chat vector. Both are empty for
    folders, whose checkpoints tell for themselves.
    """

    name: str
    base: "Checkpoint"
    chat: "Checkpoint"
    cp: Mapping[str, "Checkpoint"]
    others: Mapping[str, "Checkpoint"] = field(default_factory=dict)
    notes: str = ""
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    confounds: tuple[str, ...] = ()
    paper: tuple[str, ...] = ()  # whose rows of the paper's tables it repeats (`experiment.paper`)

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.cp)

    @property
    def members(self) -> dict[str, "Checkpoint"]:
        """All checkpoints by name: base, chat, cp_<language>, and the others."""
        return {
            "base": self.base,
            "chat": self.chat,
            **{f"cp_{code}": cp for code, cp in self.cp.items()},
            **self.others,
        }

    def __getitem__(self, member: str) -> "Checkpoint":
        try:
            return self.members[member]
        except KeyError:
            raise KeyError(_unknown("member", member, self.members, f"of family {self.name!r}")) from None

    def descent(self, *, layers: int = 3, rows: int = 64, seed: int = 0) -> "pd.DataFrame":
        """The evidence that each member descends from the base, one row a member and sampled tensor.

        See `families.descent.descent` for the columns, the options and the thresholds. Reads a few megabytes a member.
        """
        from chatvec_lab.families.descent import descent

        return descent(self, layers=layers, rows=rows, seed=seed)

    def check(self, **options) -> "pd.DataFrame":
        """The table of `descent`, or ValueError that names each member that does not descend from the base."""
        from chatvec_lab.families.descent import check

        return check(self, **options)


_FAMILY_KEYS = ("name", "base", "chat", "cp", "others", "notes", "confounds", "paper")
_MEMBER_KEYS = ("source", "revision", "licence", "parameters", "vocabulary", "dtype", "notes")


def load_family(name_or_path: str | Path, *, seed: int = 0) -> Family:
    """The family of this name, or in this folder or YAML file, with lazily read checkpoints.

    Names are the nano families in `data/nano` ("nano", "nano-wide", ...), whose `seed` picks one of the
    trained repetitions, and the files of `data/families` without their ending.
    Raises FileNotFoundError for a seed or a folder that is not there, KeyError for an unknown name, and
    ValueError for a YAML file that lacks base, chat or cp.

    >>> nano = load_family("nano")
    >>> nano.languages
    ('zh', 'ko')
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return _from_yaml(path)
    if (path / "base").is_dir():
        return _from_folder(path, path.name)
    nano = DATA / "nano" / str(name_or_path)
    if nano.is_dir() and nano.name == str(name_or_path):
        folder = nano / f"seed{seed}"
        if not (folder / "base").is_dir():
            there = ", ".join(sorted(f.name for f in nano.glob("seed*")))
            raise FileNotFoundError(
                f"{folder} holds no family; shipped are {there}. Train it: "
                f"python -m chatvec_lab.nano.training {nano.name} --seeds {seed} --out {DATA / 'nano'}"
            )
        return _from_folder(folder, nano.name)
    described = DATA / "families" / f"{name_or_path}.yaml"
    if described.is_file():
        return _from_yaml(described)
    raise KeyError(
        _unknown("family", str(name_or_path), family_names(), "(nor a folder with base, chat and cp_*)")
    )


def family_names() -> list[str]:
    """The names that `load_family` knows: the nano families that are there, then the described ones."""
    nano = sorted(f.parent.parent.name for f in (DATA / "nano").glob("*/seed0/base"))
    return nano + sorted(f.stem for f in (DATA / "families").glob("*.yaml"))


def _from_folder(folder: Path, name: str) -> Family:
    from chatvec_lab import Checkpoint

    members = {f.name: Checkpoint(f) for f in sorted(folder.iterdir()) if (f / "config.json").is_file()}
    lacking = [m for m in ("base", "chat") if m not in members]
    if lacking:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(lacking)}; found {', '.join(members) or 'no checkpoint'}."
        )
    # languages have two letters; a CP with another name (cp_zh_extended) is one of the others
    cp = {m[3:]: members.pop(m) for m in list(members) if m.startswith("cp_") and len(m) == 5}
    cp = {code: cp[code] for code in sorted(cp, key=_paper_order)}
    return Family(name, members.pop("base"), members.pop("chat"), cp, members)


def _paper_order(code: str) -> tuple:
    """zh and ko first, as in the paper; the rest by alphabet."""
    return (("zh", "ko").index(code) if code in ("zh", "ko") else 2, code)


def _from_yaml(file: Path) -> Family:
    import yaml

    from chatvec_lab import Checkpoint

    try:
        described = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(described, Mapping):
        raise ValueError(f"{file}: there should be a mapping with base, chat and cp, got {described!r}")
    lacking = [key for key in ("base", "chat", "cp") if not described.get(key)]
    if lacking:
        raise ValueError(
            f"{file} lacks {', '.join(lacking)}: a family has base, chat and cp (a model a language)."
        )

    if not isinstance(described["cp"], Mapping):
        raise ValueError(
            f"{file}: cp names a model a language, such as `cp: {{zh: MODEL}}`, got {described['cp']!r}"
        )
    entries = {"base": described["base"], "chat": described["chat"]}
    entries |= {f"cp_{code}": entry for code, entry in described["cp"].items()}
    entries |= described.get("others") or {}
    facts = {name: dict(e) if isinstance(e, Mapping) else {"source": e} for name, e in entries.items()}
    unknown = [
        f"{name}: {key}" for name, known in facts.items() for key in sorted(set(known) - set(_MEMBER_KEYS))
    ] + sorted(set(described) - set(_FAMILY_KEYS))
    if unknown:
        raise ValueError(
            f"{file} has keys that mean nothing: {', '.join(unknown)}. A family knows {', '.join(_FAMILY_KEYS)}; "
            f"a member {', '.join(_MEMBER_KEYS)}."
        )
    sourceless = [name for name, known in facts.items() if not known.get("source")]
    if sourceless:
        raise ValueError(f"{file}: {', '.join(sourceless)} lack their source, a folder or hub id.")
    made = {}  # one checkpoint a source, also where several languages share it
    for known in facts.values():
        key = (known["source"], known.get("revision"))
        made.setdefault(key, Checkpoint(key[0], revision=key[1]))
    members = {name: made[known["source"], known.get("revision")] for name, known in facts.items()}
    return Family(
        described.get("name", file.stem),
        members.pop("base"),
        members.pop("chat"),
        {code: members.pop(f"cp_{code}") for code in described["cp"]},
        members,
        described.get("notes", ""),
        facts,
        tuple(described.get("confounds") or ()),
        _listed(described.get("paper")),
    )


def _listed(value: str | list[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(str, value or ()))


def _unknown(what: str, asked: str, names, where: str) -> str:
    near = get_close_matches(asked, list(names), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no {what} {asked!r} {where}{hint} There are: {', '.join(names) or 'none'}."
