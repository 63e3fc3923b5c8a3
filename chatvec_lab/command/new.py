"""`new`: a folder with a family, prompts and a study of one's own, ready to run."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any


def add(verbs) -> None:
    """The verb and its arguments."""
    parser = verbs.add_parser(
        "new",
        help="a folder with a family, prompts and a study of your own",
        description="Make a folder with family.yaml, prompts.yaml and study.yaml, commented and ready for `run`; results "
        "go beside them. Without models, the tiny ones that ship with the project stand in for yours.",
    )
    parser.add_argument("folder", metavar="DIR", help="a new or an empty folder")
    models = parser.add_argument_group("models (folder or hub id, 'id@revision' for a revision)")
    models.add_argument("--base", help="the model that chat was tuned from")
    models.add_argument("--chat", help="the chat model")
    models.add_argument("--cp", action="append", default=[], metavar="CODE=MODEL",
                        help="a CP model and its language, such as ko=OWNER/NAME; repeatable")  # fmt: skip
    parser.set_defaults(run=run)


def run(options) -> int:
    """Write the three files, and say what to do with them."""
    folder = Path(options.folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already, and is no empty folder: name a new one.")
    files = written(folder, options.base, options.chat, options.cp)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    study, family = (shlex.quote(str(folder / name)) for name in ("study.yaml", "family.yaml"))
    print(f"{folder} has {', '.join(files)}. Read them, then:")
    for code in re.findall(r"^# (\S+): we have none", files["prompts.yaml"], re.MULTILINE):
        print(
            f"  write prompts in {code} into {shlex.quote(str(folder / 'prompts.yaml'))}, since we have none"
        )
    print(f"  python -m chatvec_lab families {family} --check    # are the models of one base?")
    print(f"  python -m chatvec_lab run {study} --dry-run         # what would run, and what it needs")
    print(
        f"  python -m chatvec_lab run {study}                   # the page is {folder / 'results' / 'index.html'}"
    )
    return 0


def written(folder: Path, base: str | None, chat: str | None, cps: list[str]) -> dict[str, str]:
    """The files by name; ValueError for models that do not make a family."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    given = {"--base": base, "--chat": chat, "--cp CODE=MODEL": cps}
    if lacking := [name for name, value in given.items() if not value]:
        if len(lacking) < len(given):
            raise ValueError(
                f"{' and '.join(lacking)}: a family has a base, a chat model and a CP model, or name none."
            )
        content = {"is_nano": True, **_nano()}
    else:
        cp = {code: _model(model, folder) for code, model in _by_language(cps).items()}
        content = {"is_nano": False, "base": _model(base, folder), "chat": _model(chat, folder), "cp": cp}
    codes = list(content["cp"])
    if "zh" in codes and len(codes) > 1:
        raise ValueError("--cp zh=...: among several languages say the script: zh-Hans=... or zh-Hant=...")
    sets = {code: _rows(code) for code in [*codes, "en"] if code != "en" or "en" not in codes}
    ours = [code for code in codes if sets[code]]
    content |= {
        "folder": shlex.quote(str(folder)),
        "first": codes[0],
        "codes": ", ".join(codes),
        "ours": ", ".join(ours),
        "sets": sets,
        "title": f"{folder.resolve().name}: chat vectors in {', '.join(codes)}",
        "script": _known("zh")[0] if codes == ["zh"] else "",
        "one_turn": _one_turn([code for code in codes if code not in ours]),
    }
    environment = Environment(
        loader=PackageLoader("chatvec_lab.command"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["text"] = _text
    names = ("family.yaml", "prompts.yaml", "study.yaml")
    return {name: environment.get_template(f"{name}.j2").render(content) for name in names}


def _nano() -> dict[str, Any]:
    """The members of the embedded family, where they are now."""
    from chatvec_lab.families import load_family

    nano = load_family("nano")
    places = {name: _text(str(Path(member.source).resolve())) for name, member in nano.members.items()}
    return {"base": places["base"], "chat": places["chat"], "cp": {"zh": places["cp_zh"]}}


def _by_language(cps: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in cps:
        code, _, model = text.partition("=")
        if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", code) or not model:
            raise ValueError(f"--cp {text}: a language code, = and a model, such as ko=beomi/llama-2-ko-7b")
        if code in found:
            raise ValueError(
                f"--cp {code}=... is given twice: a language has one CP model here; others go into `others`."
            )
        found[code] = model
    return found


def _model(text: str, folder: Path) -> str:
    """A model as the family's file writes it: a folder that was named from here is named from the new folder."""
    source, _, revision = (text, "", "") if Path(text).exists() else text.partition("@")
    place = Path(source).expanduser()
    if place.exists():
        source = str(place) if place.is_absolute() else os.path.relpath(place.resolve(), folder.resolve())
        source = source if source.startswith((".", "/")) else f"./{source}"
    elif source.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise FileNotFoundError(f"{text} is neither a folder that is there nor a hub id (OWNER/NAME).")
    return f"{{source: {_text(source)}, revision: {_text(revision)}}}" if revision else _text(source)


def _known(code: str) -> list[str]:
    """The languages of our own prompts that a code stands for; "zh" is written in two scripts."""
    from chatvec_lab.evaluation.prompts import LANGUAGES

    return sorted(own for own in LANGUAGES if own == code or (code == "zh" and own.startswith("zh-")))


def _rows(code: str, kinds: int = 6, of_each: int = 2) -> list[dict[str, Any]]:
    """Some of our own prompts in a language: a few of each of the first kinds; [] where we have none."""
    from chatvec_lab.paths import DATA
    from chatvec_lab.reading import read_jsonl

    if not (known := _known(code)):
        return []
    by_kind: dict[str, list] = {}
    for row in read_jsonl(DATA / "prompts" / "instructions" / f"{known[0]}.jsonl"):
        by_kind.setdefault(row["category"], []).append(row)
    return [row for rows in list(by_kind.values())[:kinds] for row in rows[:of_each]]


def _one_turn(codes: list[str]) -> str:
    """What is asked in one turn: the folder's prompts, and a published set for languages that we have none in."""
    from chatvec_lab.evaluation.prompts import PUBLISHED

    known = PUBLISHED["Qwen/P-MMEval"][2]
    return "prompts.yaml, Qwen/P-MMEval" if codes and set(codes) <= set(known) else "prompts.yaml"


def _text(value: Any) -> str:
    """Plain data in YAML, as JSON, which is YAML too; a simple word stays as it is."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_./~][\w./-]*", value):
        return value
    return json.dumps(value, ensure_ascii=False)
