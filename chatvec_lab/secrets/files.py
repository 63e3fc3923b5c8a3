"""Files without secrets, whatever their type: the last thing that happens to what a cell has written."""

import bz2
import contextlib
import gzip
import html
import io
import itertools
import json
import lzma
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatvec_lab.secrets.environment import known
from chatvec_lab.secrets.text import Pattern, found_in, hide, hide_wrapped, names_in, patterns_now, walk

__all__ = ["redact_files", "secrets_in"]

LARGEST_WHOLE = (
    1 << 28
)  # bytes; of a larger file, and of weights, the beginning is searched: names stand there
_BEGINNING = 1 << 24
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_SHOWN_AS_HTML = ("text/html", "image/svg+xml", "text/markdown")


def redact_files(*places: Path) -> list[str]:
    """Hide every secret in files and below folders, whatever the type; the names of the secrets that were found.

    Text, notebooks, JSON, CSV, parquet, feather, gzip and zip files are written anew; in other files the bytes of
    the secret become `*`. What cannot be written anew (a compressed stream in a PDF) is removed, and a file
    NAME.removed says so. Names of files and folders are cleaned too. Links are not followed.
    """
    patterns = patterns_now()
    found: set[str] = set()
    for place in map(Path, places):
        # what lies in a folder comes before it, so that its own name can be cleaned
        for file in sorted(place.rglob("*"), reverse=True) if place.is_dir() else [place]:
            if file.is_file() and not file.is_symlink():
                found |= _redact_file(file, patterns)
            if (name := hide(file.name, patterns)) != file.name and os.path.lexists(file):
                found |= found_in(file.name, patterns)
                file.rename(_free(file.with_name(re.sub(r"[<>@]", "_", name))))
    return sorted(found)


def _free(path: Path) -> Path:
    """This path, or one like it that is not taken: two secrets may have had one name."""
    numbered = (path.with_name(f"{path.stem}_{n}{path.suffix}") for n in itertools.count(2))
    return path if not os.path.lexists(path) else next(p for p in numbered if not os.path.lexists(p))


def secrets_in(file: Path) -> list[str]:
    """Names of the secrets that a file holds; it stays as it is."""
    patterns = patterns_now()
    content, suffix = _opened(file)
    try:
        return sorted(_clean(content, suffix, patterns)[1])
    except _Unwritable as error:
        return sorted(error.args[0])


class _Unwritable(Exception):
    """Secrets stand where they cannot be taken out; the argument is their names."""


def _redact_file(file: Path, patterns: tuple[Pattern, ...]) -> set[str]:
    old, suffix = _opened(file)
    whole = suffix not in _WEIGHTS
    try:
        new, found = _clean(old, suffix, patterns)
    except _Unwritable as error:
        names = error.args[0]
        file.unlink()
        text = (
            f"{file.name} held {', '.join(sorted(names))} where it could not be taken out, and was removed.\n"
        )
        file.with_name(file.name + ".removed").write_text(text, "utf-8")
        return names
    if new != old and whole and file.suffix != ".log":
        _replace(file, new)
    elif (
        new != old
    ):  # a log's writers hold it open, and with it their lock; in weights the length stays the same
        with file.open("r+b") as opened:
            opened.write(new)
            if whole:
                opened.truncate()
    return found


def _opened(file: Path) -> tuple[bytes, str]:
    """What is searched of a file, and the suffix that says how."""
    suffix = file.suffix.lower()
    with file.open("rb") as opened:
        if suffix in _WEIGHTS or file.stat().st_size > LARGEST_WHOLE:
            return opened.read(_BEGINNING), suffix if suffix in _WEIGHTS else ".bin"
        return opened.read(), suffix


def _clean(old: bytes, suffix: str, patterns: tuple[Pattern, ...]) -> tuple[bytes, set[str]]:
    """The content of a file without secrets, and the names of those that it held."""
    if old[:4] == b"PAR1" or old[:6] == b"ARROW1":
        return _clean_table(old, patterns)
    for magic, packer in _PACKERS.items():
        if old.startswith(magic):
            return _clean_packed(old, suffix, patterns, packer)
    if old[:4] == b"PK\x03\x04" and suffix not in _WEIGHTS:
        return _clean_zip(old, patterns)
    is_pdf = old[:5] == b"%PDF-"
    if is_pdf and (hidden := {name for part in _inflated(old) for name in names_in(part, patterns)}):
        raise _Unwritable(hidden)
    if b"\0" in old[:8192] or suffix in _WEIGHTS or is_pdf:
        return _masked(old, patterns)
    found = names_in(old, patterns)
    if suffix in (".json", ".ipynb", ".jsonl") and (found or b"\\n" in old):
        with contextlib.suppress(ValueError, RecursionError):  # torn, or no JSON: as any text
            return _clean_json(old, suffix, patterns)
    patterns = tuple(pattern._replace(shown=_shown(pattern, suffix)) for pattern in patterns)
    text, broken = hide_wrapped(old.decode("utf-8", "surrogateescape"), patterns)
    new = text.encode("utf-8", "surrogateescape") if broken else old
    for pattern in patterns if found else ():
        new = pattern.put(new)
    return new, found | broken


def _shown(pattern: Pattern, suffix: str) -> str:
    if suffix in (".html", ".htm", ".svg", ".xml"):
        return html.escape(pattern.shown)
    return pattern.shown.replace("_", r"\_" if suffix == ".tex" else "_")


def _masked(old: bytes, patterns: tuple[Pattern, ...]) -> tuple[bytes, set[str]]:
    """Binary content with `*` in place of secrets, of the same length."""
    new, found = old, set()
    for pattern in patterns:
        new, count = pattern.bytes.subn(lambda match: b"*" * len(match[0]), new)
        found |= {pattern.name} if count else set()
    for value, name in known().items():
        for needle in (value.encode("utf-16-le"), value.encode("utf-16-be")):
            if needle in new:
                new, found = new.replace(needle, b"*" * len(needle)), found | {name.removesuffix("@")}
    return new, found


def _clean_json(old: bytes, suffix: str, patterns: tuple[Pattern, ...]) -> tuple[bytes, set[str]]:
    """Inside the strings, so that it is JSON again; the lines of a text in a notebook are one text."""
    shown = {pattern.shown: html.escape(pattern.shown) for pattern in patterns}
    found: set[str] = set()

    def clean(value: Any, is_html: bool = False) -> Any:
        if isinstance(value, dict):
            return {clean(k): clean(item, k in _SHOWN_AS_HTML) for k, item in value.items()}
        if suffix == ".ipynb" and isinstance(value, list) and _are_lines(value):
            return clean("".join(value), is_html).splitlines(keepends=True)
        if isinstance(value, list):
            return [clean(item, is_html) for item in value]
        if not isinstance(value, str):
            return value
        if not (held := found_in(value, patterns)):
            return value
        found.update(held)
        value = hide(value, patterns)
        for plain, escaped in shown.items() if is_html else ():
            value = value.replace(plain, escaped)
        return value

    if suffix == ".jsonl":
        lines = old.decode("utf-8").split("\n")
        lines = [
            json.dumps(clean(json.loads(line)), ensure_ascii=False) if line.strip() else line
            for line in lines
        ]
        text = "\n".join(lines)
    else:
        text = json.dumps(clean(json.loads(old)), indent=1, ensure_ascii=False) + "\n"
    return (text.encode("utf-8", "surrogatepass") if found else old), found


def _are_lines(value: list) -> bool:
    """Whether a list of a notebook's is one text, a line an item; tags and plain data are not."""
    return all(isinstance(item, str) for item in value) and all(item.endswith("\n") for item in value[:-1])


def _clean_table(old: bytes, patterns: tuple[Pattern, ...]) -> tuple[bytes, set[str]]:
    """A parquet or feather file: texts wherever they stand, names and metadata included."""
    import pyarrow
    import pyarrow.feather
    import pyarrow.parquet

    is_parquet = old[:4] == b"PAR1"
    try:
        source = pyarrow.BufferReader(old)
        table = pyarrow.parquet.read_table(source) if is_parquet else pyarrow.feather.read_table(source)
    except (pyarrow.ArrowException, OSError, ValueError):  # torn: bytes are bytes
        return _masked(old, patterns)
    found: set[str] = set()

    def clean(value: Any) -> Any:
        held = found_in(value, patterns)
        found.update(held)
        return walk(value, lambda text: hide(text, patterns)) if held else value

    columns = []
    for column in table.columns:
        texts = column.to_pylist() if _holds_text(column.type) and not _is_clean(column, patterns) else []
        if texts and (hidden := clean(texts)) is not texts:
            column = pyarrow.chunked_array([pyarrow.array(hidden, column.type)])
        columns.append(column)
    names = clean(table.column_names)
    metadata = clean(table.schema.metadata or {})
    if not found:
        return old, found
    fields = [field.with_name(name) for field, name in zip(table.schema, names, strict=True)]
    table = pyarrow.Table.from_arrays(columns, schema=pyarrow.schema(fields, metadata))
    sink = io.BytesIO()
    (pyarrow.parquet.write_table if is_parquet else pyarrow.feather.write_feather)(table, sink)
    return sink.getvalue(), found


def _is_clean(column: Any, patterns: tuple[Pattern, ...]) -> bool:
    """Whether a column of plain texts holds no secret: each text is looked at once."""
    from pyarrow import types

    is_plain = types.is_string(column.type) or types.is_large_string(column.type)
    return is_plain and not found_in(column.unique().to_pylist(), patterns)


def _holds_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    checks = (
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
    )
    return any(check(kind) for check in checks) or any(
        _holds_text(kind.field(i).type) for i in range(kind.num_fields)
    )


_PACKERS = {b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ\0": lzma}


def _clean_packed(
    old: bytes, suffix: str, patterns: tuple[Pattern, ...], packer: Any
) -> tuple[bytes, set[str]]:
    try:
        plain = packer.decompress(old)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return old, set()
    new, found = _clean(plain, suffix, patterns)
    options = {"mtime": 0} if packer is gzip else {}
    return (packer.compress(new, **options), found) if found else (old, found)


def _clean_zip(old: bytes, patterns: tuple[Pattern, ...]) -> tuple[bytes, set[str]]:
    sink, found = io.BytesIO(), set()
    try:
        with zipfile.ZipFile(io.BytesIO(old)) as source, zipfile.ZipFile(sink, "w") as target:
            for entry in source.infolist():
                new, held = _clean(source.read(entry), Path(entry.filename).suffix.lower(), patterns)
                found |= held
                target.writestr(entry, new)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error):
        return _masked(old, patterns)
    return (sink.getvalue(), found) if found else (old, found)


def _inflated(pdf: bytes) -> Iterator[bytes]:
    """The compressed streams of a PDF, as far as they can be read."""
    for match in re.finditer(rb"stream\r?\n", pdf):
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj().decompress(pdf[match.end() :], 1 << 26)


def _replace(file: Path, content: bytes) -> None:
    """Write a file anew in one step; nobody can read it who could not read the old one."""
    mode = file.stat().st_mode & 0o777
    handle, part = tempfile.mkstemp(prefix=".redacted.", dir=file.parent)  # 0600 while it is written
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        os.chmod(part, mode)
        os.replace(part, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
