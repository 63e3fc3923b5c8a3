"""`keys`: every key of the files that people write, and every parameter of the notebooks, from the code that reads them."""

from __future__ import annotations

from pathlib import Path

KINDS = ("family", "prompts", "study", "parameters")


def add(verbs) -> None:
    """The verb and its arguments."""
    parser = verbs.add_parser(
        "keys",
        help="list the keys of family, prompt and study files, and the notebooks' parameters",
        description="Every key that the loaders read, and every parameter of every notebook with its default and range, "
        "as tables in Markdown.",
    )
    parser.add_argument("kind", nargs="?", choices=KINDS, help="one of them; without it all")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write all as a page (make docs does)")
    parser.set_defaults(run=run)


def run(options) -> int:
    if options.write:
        options.write.write_text(page(), "utf-8")
    else:
        print("\n\n".join(tables(kind) for kind in ([options.kind] if options.kind else KINDS)))
    return 0


def page() -> str:
    """All tables as a document."""
    head = (
        "# Every key\n\nWritten by `python -m chatvec_lab keys --write docs/keys.md` from the code that reads the files, "
        "not by hand; a test compares the two. On the command line, `python -m chatvec_lab keys study` shows one part.\n\n"
        "Paths follow the file that names them. In YAML here `no`, `0123` and `12:30` are text, as they are written, and a "
        "key that is given twice is refused."
    )
    return "\n\n".join([head, *map(tables, KINDS)]) + "\n"


def tables(kind: str) -> str:
    """The tables of one kind of file."""
    return {"family": _family, "prompts": _prompts, "study": _study, "parameters": _parameters}[kind]()


def _family() -> str:
    from chatvec_lab.families.family import FAMILY_KEYS, MEMBER_KEYS
    from chatvec_lab.keys import markdown

    return (
        f"## A family file\n\nYAML, such as those in `data/families`.\n\n{markdown(FAMILY_KEYS)}\n\n"
        f"### A member\n\nOf `base`, `chat` and each entry of `cp` and `others`, where more than its source is said.\n\n"
        f"{markdown(MEMBER_KEYS)}"
    )


def _prompts() -> str:
    from chatvec_lab.evaluation.prompts.files import SUFFIXES
    from chatvec_lab.evaluation.prompts.shapes import ROW_KEYS, UNASKED
    from chatvec_lab.keys import markdown

    return (
        f"## A prompt file\n\n{', '.join(SUFFIXES)}: a row a prompt, with one of the keys that say what is asked. Other "
        f"columns are left alone.\n\n{markdown(ROW_KEYS)}\n\n### Refused\n\nThese would change what is asked, and a row "
        f"has no place for them.\n\n{_refused(UNASKED)}"
    )


def _refused(keys: dict[str, str]) -> str:
    from chatvec_lab.keys import table

    by_reason: dict[str, list[str]] = {}
    for name, reason in keys.items():
        by_reason.setdefault(reason, []).append(f"`{name}`")
    return table(("key", "why"), [(", ".join(names), reason) for reason, names in by_reason.items()])


def _study() -> str:
    from chatvec_lab.evaluation.prompts.options import OPTIONS
    from chatvec_lab.evaluation.scorers.named import SERVICES
    from chatvec_lab.keys import markdown
    from chatvec_lab.study.plan import NOTEBOOK_KEYS, STUDY_KEYS

    return (
        f"## A study file\n\nYAML, such as those in `data/studies`.\n\n{markdown(STUDY_KEYS)}\n\n"
        f"### A notebook's entry\n\n{markdown(NOTEBOOK_KEYS)}\n\n"
        f"### The parameter `prompts`\n\nWhat a family of your own is asked.\n\n{markdown(OPTIONS)}\n\n"
        f"### The parameter `services`\n\nAddresses and models of judges, endpoints and tasks. Keys stay in the "
        f"environment.\n\n{markdown(SERVICES)}"
    )


def _parameters() -> str:
    from chatvec_lab.keys import table
    from chatvec_lab.paths import NOTEBOOKS
    from chatvec_lab.study import parameters
    from chatvec_lab.study.ranges import KNOWN

    declared = {path.stem: parameters.read(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    rows = []
    for name in KNOWN:
        found = {
            stem.partition("_")[0] if stem[0].isdigit() else stem: read[name]
            for stem, read in declared.items()
            if name in read
        }
        defaults: dict[str, list[str]] = {}
        for stem, parameter in found.items():
            defaults.setdefault(f"`{parameter.default!r}`", []).append(stem)
        meanings = dict.fromkeys(parameter.help for parameter in found.values())
        told = "; ".join(f"{default} in {', '.join(stems)}" for default, stems in defaults.items())
        rows.append((f"`{name}`", f"`{KNOWN[name].kind}`", KNOWN[name].allowed, " · ".join(meanings), told))
    return (
        "## The notebooks' parameters\n\n`set` and `grid` of a study give them values, and so does `--set NAME=VALUE`; in a "
        "notebook they stand in the first code cell. What is given is checked before anything is loaded.\n\n"
        + table(("parameter", "type", "may be", "what it is", "default"), rows)
    )
