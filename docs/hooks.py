"""What mkdocs adds while it builds the site: the API from the docstrings, and documents that stand beside their data."""

import importlib
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BESIDE = {
    "nano.md": "data/nano/README.md",
    "scale.png": "data/nano/scale.png",
    "prompts.md": "data/prompts/README.md",
    "TRANSLATING.md": "data/prompts/TRANSLATING.md",
    "benchmarks.md": "benchmarks/README.md",
}
# module -> what its part is called; its public names are those of __all__
PARTS = {
    "chatvec_lab": "The algebra, and what it stands on",
    "chatvec_lab.anatomy": "Inside a vector",
    "chatvec_lab.lens": "Inside a model",
    "chatvec_lab.experiment": "Asking and scoring",
    "chatvec_lab.evaluation.prompts": "Prompts",
    "chatvec_lab.evaluation.statistics": "Statistics",
    "chatvec_lab.figures": "Figures",
    "chatvec_lab.study": "Studies, and what a notebook leaves",
}


def on_files(files, config):
    """Take in the documents that stand beside their data."""
    from mkdocs.structure.files import File

    for name, place in BESIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Put the docstrings into the page of the API."""
    return markdown.replace("<!-- the docstrings -->", api()) if page.file.src_path == "api.md" else markdown


def api() -> str:
    """Every public name with its signature and docstring."""
    return "\n\n".join(line for module, title in PARTS.items() for line in _part(module, title))


def _part(module: str, title: str):
    yield f"## {title}: `{module}`"
    part = importlib.import_module(module)
    for name in sorted(part.__all__, key=str.lower):
        thing = getattr(part, name)
        if inspect.ismodule(thing):
            continue
        if not (inspect.isclass(thing) or callable(thing)):
            yield f"### {name}\n\n{_code(f'{name} = {_short(thing)}')}"
            continue
        yield f"### {name}\n\n{_code(_signature(name, thing))}\n\n{_text(inspect.getdoc(thing))}"
        if inspect.isclass(thing):
            yield from _members(name, thing)


def _members(owner: str, thing: type):
    for name, member in inspect.getmembers_static(thing):
        if name.startswith("_") or not any(
            name in vars(one) for one in thing.__mro__ if "chatvec_lab" in one.__module__
        ):
            continue
        member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(member, property):
            yield f"#### {owner}.{name}\n\n{_text(inspect.getdoc(member))}"
        elif inspect.isfunction(member) and inspect.getdoc(member):
            yield f"#### {owner}.{name}\n\n{_code(_signature(name, member))}\n\n{_text(inspect.getdoc(member))}"


def _signature(name: str, thing: object) -> str:
    """The signature on a line, or a parameter a line; annotations without their quotation marks and modules."""
    try:
        given = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    text = f"{name}{given}"
    if len(text) > 90:
        lines = [str(parameter) for parameter in given.parameters.values() if parameter.name != "self"]
        named = [p.kind for p in given.parameters.values() if p.name != "self"]
        if inspect.Parameter.KEYWORD_ONLY in named and inspect.Parameter.VAR_POSITIONAL not in named:
            lines.insert(named.index(inspect.Parameter.KEYWORD_ONLY), "*")
        returned = inspect.formatannotation(given.return_annotation)
        arrow = "" if given.return_annotation is given.empty else f" -> {returned}"
        text = "\n".join([f"{name}(", *(f"    {line}," for line in lines), f"){arrow}"])
    text = re.sub(r"(: |-> )(['\"])(.*?)\2(?=,|\)| = |$)", r"\1\3", text, flags=re.MULTILINE)
    return re.sub(
        r"\b(?:pandas\.core\.frame|chatvec_lab(?:\.\w+)*|collections\.abc|typing|pathlib)\.(?=[A-Z])",
        "",
        text,
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]} …"


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _text(docstring: str | None) -> str:
    """A docstring as Markdown: its examples become code, and nothing in it becomes a tag."""
    paragraphs = re.split(r"\n{2,}", docstring or "")
    return "\n\n".join(map(_paragraph, paragraphs))


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if lines[0].startswith(">>>"):
        return f"```pycon\n{text}\n```"
    if all(line.startswith("    ") for line in lines):
        return text
    return re.sub(r"(`[^`]*`)|([<*])", lambda found: found[1] or f"\\{found[2]}", text)
