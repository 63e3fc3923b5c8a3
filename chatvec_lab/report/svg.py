"""A figure's SVG made fit to stand inside a page: nothing that runs or loads, no id that clashes.

matplotlib writes text as outlines, each letter of each figure anew, and most of a figure is those: `Shapes` has the
letters of all figures of a page once.
"""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ALLOWED = {
    "svg",
    "g",
    "defs",
    "path",
    "rect",
    "circle",
    "ellipse",
    "line",
    "polyline",
    "polygon",
    "text",
    "tspan",
}
ALLOWED |= {"title", "desc", "use", "symbol", "marker", "clipPath", "mask", "pattern", "image", "style"}
ALLOWED |= {"linearGradient", "radialGradient", "stop"}
_PLACES = {"d", "points", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "width", "height"}
_ILLEGAL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


class Shapes:
    """The outlines of letters that the figures of a page share, each once: (d, transform) to id."""

    def __init__(self) -> None:
        self.ids: dict[tuple[str, str], str] = {}

    def take(self, root: ElementTree.Element) -> None:
        """Take the letters out of a figure and point what draws them at the page's."""
        moved: dict[str, str] = {}
        for parent in list(root.iter()):
            for child in list(parent):
                if _name(child) == "path" and child.attrib.keys() == {"id", "d", "transform"}:
                    about = (child.attrib["d"], child.attrib["transform"])
                    moved[f"#{child.attrib['id']}"] = self.ids.setdefault(about, f"letter{len(self.ids)}")
                    parent.remove(child)
        for element in root.iter():
            for name, value in element.attrib.items():
                if name.rpartition("}")[2] == "href" and value in moved:
                    element.set(name, f"#{moved[value]}")

    def listed(self) -> list[dict[str, Any]]:
        """[{"id", "d", "transform"}] for the page."""
        return [{"id": id_, "d": d, "transform": turn} for (d, turn), id_ in self.ids.items()]


def inline(file: Path, prefix: str, alt: str, shapes: Shapes | None = None) -> tuple[str, float]:
    """The SVG of `file` as an `<svg role="img">` element described by `alt`, and its width in points.

    Its ids begin with `prefix`, so that several figures can share a page; with `shapes` its letters are the page's.
    Raises ValueError with the file's name when it is not SVG.
    """
    try:
        root = ElementTree.fromstring(legal(file.read_text("utf-8")))
    except FileNotFoundError as error:
        raise ValueError(f"{file} is not there: a figure is saved as SVG too") from error
    except (ElementTree.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not well-formed SVG: {error}") from error
    if _name(root) != "svg":
        raise ValueError(f"{file} is not SVG: its root is {root.tag!r}")
    _clean(root, prefix)
    if shapes is not None:
        shapes.take(root)
    _slim(root)
    width, height = (_points(root.attrib.pop(side, "")) for side in ("width", "height"))
    root.attrib.setdefault("viewBox", f"0 0 {width:g} {height:g}")
    root.set("role", "img")
    root.set("aria-label", alt)
    root.set("style", f"max-width:{1.4 * width:g}pt")  # a paper's letters are small on a screen
    return ElementTree.tostring(root, encoding="unicode"), width


def legal(text: str) -> str:
    r"""Text with a sign (␈ for \x08) for each character that no page, XML or LaTeX may hold, however it is written.

    >>> legal("a\x08b &#8; &#x1f600;")
    'a␈b ␈ &#x1f600;'
    """

    def sign(code: int) -> str:
        return chr(0x2400 + code) if code < 0x20 else "\ufffd"

    def reference(found: re.Match) -> str:
        code = int(found[1], 16) if found[1] else int(found[2])
        return found[0] if code < 0x110000 and not _ILLEGAL.match(chr(code)) else sign(code)

    text = re.sub(r"&#(?:[xX]([0-9a-fA-F]{1,8})|([0-9]{1,8}));", reference, text)
    return _ILLEGAL.sub(lambda found: sign(ord(found[0])), text)


def _points(length: str) -> float:
    """A length of SVG in points (matplotlib writes those); what has no length gets 6.3 inches."""
    found = re.fullmatch(r"([\d.]+)(pt|px|in|cm|mm)?", length.strip())
    factor = {"pt": 1, "px": 0.75, None: 0.75, "in": 72, "cm": 72 / 2.54, "mm": 7.2 / 2.54}
    return float(found[1]) * factor[found[2]] if found else 453.6


def _name(element: ElementTree.Element) -> str:
    return element.tag.removeprefix(f"{{{SVG}}}") if isinstance(element.tag, str) else ""


def _slim(root: ElementTree.Element) -> None:
    """Without ids that nothing points at, empty definitions and the spaces between elements."""
    values = [value for element in root.iter() for value in element.attrib.values()]
    named = {name for value in values for name in re.findall(r"#([\w.:-]+)", value)}
    for parent in list(root.iter()):
        if parent.attrib.get("id") not in named:
            parent.attrib.pop("id", None)
        if _name(parent) not in ("text", "tspan", "title", "desc", "style"):
            parent.text = parent.tail = None
        for child in list(parent):
            if _name(child) in ("defs", "g") and not len(child) and not child.attrib:
                parent.remove(child)


def _clean(element: ElementTree.Element, prefix: str) -> None:
    for child in list(element):
        if _name(child) not in ALLOWED:  # scripts, foreign objects, metadata
            element.remove(child)
        else:
            _clean(child, prefix)
    if _name(element) == "style":
        # matplotlib's one rule, `*{stroke-linejoin: round; ...}`, must not reach the rest of the page.
        safe = (
            element.text
            and re.fullmatch(r"\s*\*\s*\{[^{}@\\]*\}\s*", element.text)
            and "url" not in element.text
        )
        element.text = f"svg{element.text.strip()}" if safe else ""
    for name, value in list(element.attrib.items()):
        local = name.rpartition("}")[2]
        is_foreign = local == "href" and not value.startswith(("#", "data:image/"))
        if local.lower().startswith("on") or is_foreign or re.search(r"url\(\s*['\"]?(?!#|['\"])", value):
            del element.attrib[name]
        elif local == "id":
            element.set(name, prefix + value)
        elif local == "href" and value.startswith("#"):
            element.set(name, f"#{prefix}{value[1:]}")
        elif local in _PLACES:  # a hundredth of a point is finer than any screen
            element.set(name, re.sub(r"(\.\d\d)\d+", r"\1", value))
        elif "url(" in value:
            element.set(name, re.sub(r"url\(\s*['\"]?#", f"url(#{prefix}", value))
