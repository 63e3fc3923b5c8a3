"""Text, plain data and tables without secrets, in whatever way their characters were escaped on the way there."""

import base64
import contextlib
import functools
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, AnyStr, NamedTuple
from urllib.parse import quote

from chatvec_lab.secrets.environment import known
from chatvec_lab.secrets.shapes import IN_SMALL, SHAPES

if TYPE_CHECKING:
    import pandas

_BEGINNING = (
    16  # characters of a long secret that are hidden alone too: tables cut their cells ("hf_SECRETSE...")
)


class Pattern(NamedTuple):
    """How a secret is found in text and in bytes; `shown` stands in its place. `plain` is "" for what only has its looks.

    Where it is found, one of `small` stands in the text in small letters; () tells nothing.
    """

    name: str
    shown: str
    plain: str
    text: re.Pattern
    bytes: re.Pattern
    small: tuple[str, ...] = ()

    def of(self, content: AnyStr) -> re.Pattern:
        return self.text if isinstance(content, str) else self.bytes

    def may_be_in(self, content: AnyStr) -> bool:
        """False where it surely is not, found sooner than by a search."""
        if not self.small:
            return True
        lower = content.lower()
        return any((part if isinstance(content, str) else part.encode()) in lower for part in self.small)

    def put(self, content: AnyStr) -> AnyStr:
        """The text or the bytes with `shown` in place of each."""
        if not self.may_be_in(content):
            return content
        empty, shown = ("", self.shown) if isinstance(content, str) else (b"", self.shown.encode())
        return self.of(content).sub(lambda match: (match.groupdict().get("kept") or empty) + shown, content)


def redacted(value: Any) -> Any:
    """Text, or plain data of texts (mappings, lists, tuples), with each secret as `<NAME>`; the rest as it is."""
    patterns = patterns_now()
    return walk(value, lambda text: hide(text, patterns))


def redacted_table(table: "pandas.DataFrame") -> "pandas.DataFrame":
    """The table without secrets in cells (also in their lists and mappings) and names of columns.

    Returns the table itself when it holds none.
    """
    patterns = patterns_now()

    def clean(value: Any) -> Any:
        return walk(value, lambda text: hide(text, patterns))

    changed = {}
    for place in range(table.shape[1]):
        column = table.iloc[:, place]
        if column.dtype.kind in "biufcmM":
            continue
        old = column.astype(object)
        if not found_in(list(old), patterns):
            continue
        # only what holds a secret is touched: arrays in cells stay arrays elsewhere
        hit = old.map(lambda value: bool(found_in(value, patterns)))
        if hit.any():
            changed[place] = old.where(~hit, old[hit].map(clean))
    names = [clean(name) for name in table.columns]
    if not changed and names == list(table.columns):
        return table
    table = table.copy()
    for place, column in changed.items():
        table.isetitem(place, column)
    return table.set_axis(names, axis="columns")


@contextlib.contextmanager
def hidden_in_output() -> Iterator[None]:
    """While this lasts, nothing that Python prints shows a secret: messages, warnings, logs and tracebacks."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Redacting(out), _Redacting(err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


class _Redacting:
    """A text stream that hands to another what has no secret in it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def patterns_now() -> tuple[Pattern, ...]:
    """The patterns of the secrets that there are now, the longest first, and of what only looks like one."""
    return _compiled(tuple(known().items())) + _by_looks()


def hide(text: str, patterns: Iterable[Pattern]) -> str:
    """The text with each secret as `<NAME>`."""
    text, _ = hide_wrapped(text, patterns)  # first: the beginning of a broken one is a pattern of its own
    for pattern in patterns:
        text = pattern.put(text)
    return text


def hide_wrapped(text: str, patterns: Iterable[Pattern]) -> tuple[str, set[str]]:
    """The text without secrets that were broken over lines (by a frame around a traceback, say), and their names."""
    found: set[str] = set()
    patterns = [pattern for pattern in patterns if pattern.plain]
    squeezed = _BREAK.sub("", text) if patterns and "\n" in text else ""
    for pattern in patterns if squeezed else ():
        if pattern.plain in squeezed:
            shown = pattern.shown
            text, count = _wrapped(pattern.plain).subn(lambda _, shown=shown: shown, text)
            found |= {pattern.name} if count else set()
    return text, found


_BREAK = re.compile(r"[ \t│┃|\\]*\r?\n[ \t│┃|>]*")


@functools.lru_cache(maxsize=64)
def _wrapped(plain: str) -> re.Pattern:
    return re.compile(f"(?:{_BREAK.pattern})?".join(map(re.escape, plain)))


def secrets_of(text: str) -> list[str]:
    """Names of the secrets in a text."""
    return sorted(found_in(text, patterns_now()))


def found_in(value: Any, patterns: Iterable[Pattern]) -> set[str]:
    """Names of the secrets in text or plain data."""
    texts: dict[str, str] = {}  # each once
    walk(value, lambda text: texts.setdefault(text, text))
    whole = "\0".join(texts)  # no secret has a zero: where none is in all of them, none is in any
    if len(texts) > 1 and not _names(whole, patterns):
        return set()
    return set().union(*(_names(text, patterns) for text in texts))


def _names(text: str, patterns: Iterable[Pattern]) -> set[str]:
    text, broken = hide_wrapped(text, patterns)
    return names_in(text, patterns) | broken


def names_in(content: AnyStr, patterns: Iterable[Pattern]) -> set[str]:
    """Names of the secrets in text or bytes; what a variable holds is not named by its looks as well."""
    found: set[str] = set()
    for pattern in patterns:
        if pattern.may_be_in(content) and pattern.of(content).search(content):
            found.add(pattern.name)
            content = pattern.put(content)
    return found


def walk(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with `change` applied to every text in it, keys and bytes included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, bytes):
        return change(value.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    if isinstance(value, Mapping):
        return {walk(key, change): walk(item, change) for key, item in value.items()}
    if isinstance(value, list | set):
        return type(value)(walk(item, change) for item in value)
    if isinstance(value, tuple):
        return tuple(walk(item, change) for item in value)
    if getattr(getattr(value, "dtype", None), "kind", "") in ("O", "U", "S") and hasattr(value, "tolist"):
        return walk(value.tolist(), change)
    return value


@functools.lru_cache(maxsize=8)
def _compiled(secrets: tuple[tuple[str, str], ...]) -> tuple[Pattern, ...]:
    made = []
    for value, name in secrets:
        spellings = [_escaped(value)]
        if len(value) >= _BEGINNING + 8 and "://" not in value[:_BEGINNING]:
            spellings.append(_escaped(value[:_BEGINNING]) + r"(?:\\_|[A-Za-z0-9_.~+/=-])*")
        spellings += _in_base64(value.removesuffix("@"))
        pattern = "|".join(dict.fromkeys(spellings))
        bare = name.removesuffix("@")
        shown = f"<{bare}>" + "@" * name.endswith("@")
        made.append(Pattern(bare, shown, value, re.compile(pattern), re.compile(pattern.encode())))
    return tuple(made)


@functools.cache
def _by_looks() -> tuple[Pattern, ...]:
    return tuple(
        Pattern(name, f"<{name}>", "", re.compile(text), re.compile(text.encode()), IN_SMALL.get(name, ()))
        for name, found in SHAPES.items()
        for text in ((found,) if isinstance(found, str) else found)
    )


def _in_base64(text: str) -> list[str]:
    """Patterns for a text within base64, as HTTP sends a password behind its user: it may begin at any of three places."""
    found = []
    for before in range(3):
        code = base64.b64encode(b"\0" * before + text.encode()).decode().rstrip("=")
        # characters at either end that a neighbour's bits share are left where they are
        whole = code[(8 * before + 5) // 6 : 8 * (before + len(text.encode())) // 6]
        other = whole.replace("+", "-").replace("/", "_")
        found += [re.escape(spelling) + "[A-Za-z0-9+/_-]*=*" for spelling in dict.fromkeys((whole, other))]
    return found


_ESCAPES = r"\\{0,31}"  # each level of escaping doubles them; bounded, so that no text makes a search slow
_SPECIAL = {
    " ": [r"\+"], "\n": [r"\\+n", r"\r\n"], "\t": [r"\\+t"], "~": [r"\\+textasciitilde(?:\{\}|\s)?"],
    "^": [r"\\+textasciicircum(?:\{\}|\s)?"],
}  # fmt: skip
_NAMED = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}


def _escaped(text: str) -> str:
    """A pattern for a text in the ways that JSON, repr, CSV, HTML, LaTeX and addresses write it, nested too."""
    pieces = []
    for character, run in itertools.groupby(text):
        n, once = len(list(run)), _escaped_character(character)
        # CSV doubles quotes, each level of JSON doubles backslashes; one repeat for a run keeps the search linear
        most = {'"': 8, "'": 8, "\\": 32}.get(character, 1) * n
        pieces.append(once * n if most == n else f"(?:{once}){{{n},{most}}}")
    return "".join(pieces)


def _escaped_character(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    code = ord(character)
    utf8, utf16 = character.encode(), character.encode("utf-16-be").hex()
    ways = [
        *_SPECIAL.get(character, []),
        f"&(?:amp;)*(?:#0*{code}|#[xX]0*(?i:{code:x})|{_NAMED.get(character, 'none')});",
        "(?i:" + "".join(rf"\\+u{utf16[i : i + 4]}" for i in range(0, len(utf16), 4)) + ")",
        f"(?i:{quote(character, safe='') if len(utf8) > 1 else f'%{code:02x}'})",
        "(?i:" + "".join(rf"\\+x{byte:02x}" for byte in utf8) + ")",
        rf"\{{\\+char{code}\}}",  # as the report's LaTeX has it
        *([rf"\$+{re.escape(character)}\$+"] if character in "<>|" else []),
        re.escape(character),
    ]
    if character == "\\":
        return rf"(?:\\textbackslash(?:\{{\}}|\s)?|{'|'.join(ways[:-1])}|\\)"
    return rf"{_ESCAPES}(?:{'|'.join(ways)})"
