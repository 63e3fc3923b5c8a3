"""Families: one base with its chat models and its CP models, by language.

The embedded nano families are folders of checkpoints in `data/nano`; a family of published models is a YAML
file in `data/families` that names hub ids or folders. Nothing is read from disk here but names.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chatvec_lab.keys import Key
from chatvec_lab.mistakes import naming
from chatvec_lab.paths import DATA
from chatvec_lab.reading import as_text, brief, read_yaml

if TYPE_CHECKING:
    import pandas as pd

    from chatvec_lab import Checkpoint


@dataclass(frozen=True)
class Role:
    """What a member is to its family.

    kind: base, chat and cp as in the formula (a further chat or CP model has a `variant`), other for the rest, such as
    cp_ft_zh, a CP model tuned further. language: that of its training, None where there is none of its own.
    """

    kind: Literal["base", "chat", "cp", "other"]
    language: str | None = None
    variant: str = ""


def role(member: str, languages: Iterable[str]) -> Role:
    """The role that a member's name declares, in a family with CP models in these languages: the one place that knows.

    >>> role("cp_zh-Hant", ["zh-Hant"]), role("cp_ko_extended", ["ko"])
    (Role(kind='cp', language='zh-Hant', variant=''), Role(kind='cp', language='ko', variant='extended'))
    >>> role("chat_sft", ["ko"]), role("cp_ft_ko", ["ko"])
    (Role(kind='chat', language=None, variant='sft'), Role(kind='other', language='ko', variant='cp_ft'))
    """
    if member in ("base", "chat"):
        return Role(member)
    for code in sorted(languages, key=len, reverse=True):
        if member == f"cp_{code}":
            return Role("cp", code)
        if member.startswith(f"cp_{code}_"):
            return Role("cp", code, member.removeprefix(f"cp_{code}_"))
        if member.endswith(f"_{code}"):
            return Role("other", code, member.removesuffix(f"_{code}"))
    # chat_cp...: the chat model continued on plain text, whose difference from the base is no chat vector
    if member.startswith("chat_") and not member.startswith("chat_cp"):
        return Role("chat", None, member.removeprefix("chat_"))
    return Role("other", None, member)


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
    def is_nano(self) -> bool:
        """Whether the family grew in the micro-world, so that its prompts mean something to it."""
        return Path(self.base.source, "stage.json").is_file()

    @property
    def members(self) -> dict[str, "Checkpoint"]:
        """All checkpoints by name: base, chat, cp_<language>, and the others."""
        return {
            "base": self.base,
            "chat": self.chat,
            **{f"cp_{code}": cp for code, cp in self.cp.items()},
            **self.others,
        }

    @property
    def roles(self) -> dict[str, Role]:
        """The role of each of `members`, by name."""
        return {name: role(name, self.cp) for name in self.members}

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


_MODEL = "a hub id or a folder, or a mapping with the keys of a member"
FAMILY_KEYS = {
    "name": Key("text", "What the family is called; without it the file's name."),
    "base": Key(_MODEL, "The model that all others descend from.", True),
    "chat": Key(_MODEL, "The base, tuned to chat: the chat vector is chat − base.", True),
    "cp": Key(f"a mapping from language codes to models (each {_MODEL})",
              "The base, trained further on text in a language: what receives the chat vector.", True),
    "others": Key(f"a mapping from names to models (each {_MODEL})",
                  "Further members: chat_NAME is another chat model, cp_CODE_NAME another CP model, cp_ft_CODE a CP model "
                  "that was fine-tuned."),
    "notes": Key("text", "For readers; printed by `families`."),
    "confounds": Key("text, or a list of texts", "What could be mistaken for an effect of the chat vector."),
    "paper": Key("text, or a list of texts", "Whose rows of the paper's tables the family repeats: a name in the column "
                 "model of data/paper."),
}  # fmt: skip
MEMBER_KEYS = {
    "source": Key("a hub id or a folder", "Where the model is; a relative folder is looked for beside the file.", True),
    "revision": Key("text", "A commit (40 digits), a tag or a branch on the hub; without it main."),
    "licence": Key("text", "For readers; printed by `families`."),
    "part": Key("language", "Of a larger model, such as a vision-language one, its language part alone, by the names of its "
                "text family."),
    "parameters": Key("a number, such as 6.7e9", "How many, for the estimate of memory and disk in `run --dry-run`."),
    "vocabulary": Key("a number", "Rows of the embedding table, for readers."),
    "dtype": Key("text, such as bfloat16", "The format of the stored weights, for readers."),
    "notes": Key("text", "For readers."),
    "pages": Key("text, or a list of texts", "The pages that these facts were read from, with the day; printed by `families`."),
    "unverified": Key("text, or a list of texts", "Names of the facts for which no such page was at hand."),
    "files": Key("a list of texts", "What the repository holds, as `families --pin` found it."),
}  # fmt: skip
_LISTS = ("pages", "unverified", "files")


def load_family(name_or_path: str | Path, *, seed: int = 0) -> Family:
    """The family of this name, or in this folder or YAML file, with lazily read checkpoints.

    Names are the nano families in `data/nano` ("nano", "nano-wide", ...), whose `seed` picks one of the
    trained repetitions, and the files of `data/families` without their ending. In a YAML file, a folder beside the file
    is meant before a hub id. A folder has the members as folders: base, chat, cp_CODE for each language (cp_ko, cp_fil,
    cp_zh-Hant, cp_pt-BR), and others under any other name.
    Raises FileNotFoundError for a seed, a file or a folder that is not there, KeyError for an unknown name, and
    ValueError for a YAML file that lacks base, chat or cp, or says something twice.

    >>> nano = load_family("nano")
    >>> nano.languages
    ('zh', 'ko')
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there: no family of that name in {path.parent.resolve()}."
            )
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


# A language code as BCP 47 has them: two or three letters, then script, region or variants behind hyphens.
_CODE = r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*"


def _from_folder(folder: Path, name: str) -> Family:
    from chatvec_lab import Checkpoint

    folders = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    members = {f.name: Checkpoint(f) for f in folders if (f / "config.json").is_file()}
    weights = (".safetensors", ".bin", ".pth")
    bare = [
        f.name
        for f in folders
        if f.name not in members and any(file.suffix in weights for file in f.iterdir())
    ]
    if bare:
        raise FileNotFoundError(
            f"{folder}: {', '.join(bare)}: weights without a config.json, so no member. Put the model's config.json "
            "beside them, or move the folder away."
        )
    if lacking := [m for m in ("base", "chat") if m not in members]:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(lacking)}; found {', '.join(members) or 'no checkpoint'}."
        )
    if local := [m for m in members if re.match(r"cp_[a-z]{2,3}_([A-Z]{2}|[A-Z][a-z]{3})$", m)]:
        raise ValueError(
            f"{folder}: {', '.join(local)}: a language code has hyphens here; rename it to "
            f"{', '.join('cp_' + m[3:].replace('_', '-') for m in local)}."
        )
    codes = [m.removeprefix("cp_") for m in members if re.fullmatch(f"cp_{_CODE}", m)]
    if odd := [m for m in members if m.startswith("cp_") and role(m, codes).language is None]:
        raise ValueError(
            f"{folder}: {', '.join(odd)}: no CP model of a language that is known here. A CP model is called cp_CODE, with "
            "a code of two or three letters (cp_ko, cp_fil, cp_pt-BR); further ones cp_CODE_NAME. Rename it, or move it "
            "away."
        )
    cp = {code: members.pop(f"cp_{code}") for code in sorted(codes, key=_paper_order)}
    return Family(name, members.pop("base"), members.pop("chat"), cp, members)


def _paper_order(code: str) -> tuple:
    """zh and ko first, as in the paper; the rest by alphabet."""
    return (("zh", "ko").index(code) if code in ("zh", "ko") else 2, code)


def _from_yaml(file: Path) -> Family:
    with naming(file):
        return _described(file)


def _described(file: Path) -> Family:
    from chatvec_lab import Checkpoint

    described = read_yaml(file)
    if not isinstance(described, Mapping):
        raise ValueError(f"{file}: there should be a mapping with base, chat and cp, got {brief(described)}.")
    lacking = [name for name, key in FAMILY_KEYS.items() if key.is_needed and not described.get(name)]
    if lacking:
        raise ValueError(
            f"{file} lacks {', '.join(lacking)}: a family has base, chat and cp (a model a language)."
        )
    cp, others = described["cp"], described.get("others") or {}
    if not isinstance(cp, Mapping):
        raise ValueError(
            f"{file}: cp names a model a language, such as `cp: {{zh: MODEL}}`, got {brief(cp)}."
        )
    if not isinstance(others, Mapping):
        raise ValueError(
            f"{file}: others names further models, such as `others: {{sft: MODEL}}`, got {brief(others)}."
        )
    if odd := [code for code in cp if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", code)]:
        raise ValueError(
            f"{file}: cp: {', '.join(map(repr, odd))}: a language code has letters, digits and hyphens."
        )
    entries = {"base": described["base"], "chat": described["chat"]}
    entries |= {f"cp_{code}": entry for code, entry in cp.items()}
    if doubled := sorted(set(entries) & set(others)):
        raise ValueError(
            f"{file}: others: {', '.join(doubled)} {'are members' if len(doubled) > 1 else 'is a member'} already; "
            "give it another name."
        )
    entries |= others
    facts = {name: _facts(entry, f"{file}: {name}") for name, entry in entries.items()}
    unknown = [
        f"{name}: {key}" for name, known in facts.items() for key in sorted(set(known) - set(MEMBER_KEYS))
    ] + sorted(set(described) - set(FAMILY_KEYS))
    if unknown:
        raise ValueError(
            f"{file} has keys that mean nothing: {', '.join(unknown)}. A family knows {', '.join(FAMILY_KEYS)}; "
            f"a member {', '.join(MEMBER_KEYS)}."
        )
    sourceless = [name for name, known in facts.items() if not known.get("source")]
    if sourceless:
        raise ValueError(f"{file}: {', '.join(sourceless)} lack their source, a folder or hub id.")
    made = {}  # one checkpoint a source, also where several languages share it
    key_of = lambda known: (known["source"], known.get("revision"), known.get("part"))  # noqa: E731
    for name, known in facts.items():
        source, revision, part = key = key_of(known)
        if part not in (None, "language"):
            raise ValueError(f"{file}: {name}: part is {part!r}; only `language` is known, or no such line.")
        whole = Checkpoint(_place(source, file), revision=revision)
        made.setdefault(key, whole.language_part() if part else whole)
    members = {name: made[key_of(known)] for name, known in facts.items()}
    confounds = described.get("confounds") or []
    return Family(
        as_text(described.get("name", file.stem), f"{file}: name"),
        members.pop("base"),
        members.pop("chat"),
        {code: members.pop(f"cp_{code}") for code in cp},
        members,
        as_text(described.get("notes") or "", f"{file}: notes"),
        facts,
        tuple(
            as_text(text, f"{file}: confounds")
            for text in (confounds if isinstance(confounds, list) else [confounds])
        ),
        tuple(as_text(text, f"{file}: paper") for text in _listed(described.get("paper"))),
    )


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _facts(entry: Any, where: str) -> dict[str, Any]:
    """What a file says of one member: text as written, and numbers for `parameters` and `vocabulary`."""
    if not isinstance(entry, Mapping):
        return {"source": as_text(entry, where)} if entry else {}
    facts = {}
    for key, value in entry.items():
        if value is None or key not in MEMBER_KEYS:
            facts[key] = value
        elif key in _LISTS:
            facts[key] = tuple(as_text(text, f"{where}: {key}") for text in _listed(value))
        elif key in ("parameters", "vocabulary"):
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise ValueError(f"{where}: {key} should be a number, such as 6.7e9, got {brief(value)}.")
            facts[key] = int(value) if float(value).is_integer() else float(value)
        else:
            facts[key] = as_text(value, f"{where}: {key}")
    return facts


def _place(source: str, file: Path) -> str:
    """What a file means by a model: a folder, which a relative path names from beside the file, or a hub id."""
    beside = file.parent / Path(source).expanduser()
    if beside.exists():
        return str(beside)
    if source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{file}: {source} is not there; it was looked for at {beside}.")
    return source


def _unknown(what: str, asked: str, names, where: str) -> str:
    near = get_close_matches(asked, list(names), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no {what} {asked!r} {where}{hint} There are: {', '.join(names) or 'none'}."
