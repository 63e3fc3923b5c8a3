"""Files from elsewhere, fetched once into the cache: of the hub, or behind a link, resumed where the server allows it."""

import contextlib
import fcntl
import fnmatch
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tqdm import tqdm

from chatvec_lab.secrets import shown_address

LARGEST = 4 << 30  # bytes; no file of prompts has more
TIMEOUT = 30.0  # seconds without a byte


def fetch(link: str) -> Path:
    """The file behind an http or https link, from the cache or downloaded into it (below HF_HOME/chatvec_lab).

    A download that was stopped goes on where it stopped, if the server allows ranges and the file there is still the
    same; else its half is removed. Raises ConnectionError, without user and password of the link, when the file
    cannot be had; the half that can be resumed stays.
    """
    from huggingface_hub.constants import HF_HOME, HF_HUB_OFFLINE

    path = Path(HF_HOME) / "chatvec_lab" / _place(link)
    if path.is_file():
        return path
    shown = shown_address(link)
    try:
        if HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _part(path) as part:
            if not path.is_file():  # another process may have been quicker
                _download(link, part)
                os.replace(part.path, path)
    except OSError as error:
        raise ConnectionError(
            f"cannot download {shown}: {str(error).replace(link, shown)}\n"
            "Get the file by hand and pass its path: read_prompts(path, language=...)."
        ) from None  # the chain may show the address as it was given
    return path


def _place(link: str) -> Path:
    """Where a link's file is kept: below a folder of its own, whatever dots and slashes the link holds.

    >>> _place("http://h/../../../x.jsonl?a=1").name
    'x.jsonl'
    """
    path = re.split(r"[?#]", link.split("://", 1)[-1])[0].partition("/")[2]
    name = re.sub(r"[^\w.-]", "_", unquote(path).rsplit("/", 1)[-1]).lstrip(".")[-100:]
    return Path(hashlib.blake2b(link.encode(), digest_size=12).hexdigest()) / (name or "file")


class _Part:
    """The half of a file, and the validator (ETag or date) by which the server knows what it is a half of."""

    def __init__(self, path: Path, file: Any):
        self.path, self.file = path, file
        self.note = path.with_name(path.name + ".validator")

    @property
    def validator(self) -> str:
        return self.note.read_text("utf-8") if self.note.is_file() else ""

    def restart(self, validator: str) -> None:
        self.file.truncate(0)
        self.file.seek(0)
        self.note.write_text(validator, "utf-8")


@contextlib.contextmanager
def _part(path: Path) -> Iterator[_Part]:
    """The half beside `path`, locked; it is removed unless it can be resumed."""
    half = path.with_name(path.name + ".part")
    with half.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a second process waits, and then finds the file
        part = _Part(half, file)
        try:
            yield part
        finally:
            file.flush()
            if path.is_file() or not part.validator or not os.fstat(file.fileno()).st_size:
                half.unlink(missing_ok=True)
                part.note.unlink(missing_ok=True)


def _download(link: str, part: _Part) -> None:
    import httpx

    have = part.file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"}
    if have and part.validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": part.validator}
    try:
        with httpx.stream("GET", link, headers=headers, timeout=TIMEOUT, follow_redirects=True) as reply:
            if reply.status_code == 416:  # what is there is no beginning of the file
                part.restart("")
            if reply.status_code not in (200, 206):
                raise OSError(f"the server answered {reply.status_code} {reply.reason_phrase}".strip())
            packed = reply.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")
            if reply.status_code == 206:
                told = reply.headers.get("Content-Range", "").strip()
                sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", told)
                if packed or not sent or int(sent[1]) != have or not have:
                    part.restart("")
                    raise OSError(
                        f"the server sent another part than the one from byte {have:,}; asked again, it begins anew"
                    )
                total = _total(sent[2])
            else:
                total = None if packed else _total(reply.headers.get("Content-Length"))
                have = 0
                takes_ranges = reply.headers.get("Accept-Ranges") == "bytes" and not packed
                told = [reply.headers.get(name, "") for name in ("ETag", "Last-Modified")]
                strong = [validator for validator in told if validator and not validator.startswith("W/")]
                part.restart(strong[0] if strong and takes_ranges else "")
            if (total or 0) > LARGEST:
                part.restart("")
                raise OSError(f"the file has {total:,} bytes; prompts have {LARGEST:,} at most")
            name = shown_address(link).rsplit("/", 1)[-1]
            with tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=name, disable=None) as bar:
                # without a size: what came before a break is handed out
                for chunk in reply.iter_bytes() if packed else reply.iter_raw():
                    part.file.write(chunk)
                    have += len(chunk)
                    bar.update(len(chunk))
                    if have > LARGEST:
                        part.restart("")
                        raise OSError(f"the file has more than {LARGEST:,} bytes")
    except httpx.HTTPError as error:
        raise OSError(f"{type(error).__name__}: {error}; {have:,} bytes are here") from None
    except (httpx.InvalidURL, ValueError) as error:
        raise OSError(f"no address that can be asked ({type(error).__name__})") from None
    if total is not None and have != total:
        raise OSError(f"the connection ended after {have:,} of {total:,} bytes")


def _total(length: str | None) -> int | None:
    return int(length) if length and length.isdigit() else None


def hub_files(
    source: str,
    pattern: str | None,
    *,
    suffixes: tuple[str, ...] = (),
    revision: str | None = None,
    is_one: bool = False,
) -> list[Path]:
    """The files of a data set of the hub that match a pattern (None: that end in one of the suffixes), downloaded.

    Raises FileNotFoundError where there is none, ValueError where one was wanted and several match, and ConnectionError,
    with what to do, where they cannot be had.
    """
    from huggingface_hub import HfApi, hf_hub_download

    about = {"repo_id": source, "repo_type": "dataset", "revision": revision}
    names, there = [pattern], []
    if pattern is None or any(c in pattern for c in "*?["):
        there = sorted(_had(source, pattern, HfApi().list_repo_files, **about))
        names = [n for n in there if (fnmatch.fnmatch(n, pattern) if pattern else n.endswith(suffixes))]
    if not names:
        raise FileNotFoundError(
            f"{source} has no file {pattern or 'that is a table'}; it has {', '.join(there)}"
        )
    if is_one and len(names) > 1:
        told = f"{len(names)} files match {pattern or 'a table'}; name one with file=: {', '.join(names)}"
        raise ValueError(f"{source}: {told}")
    return [Path(_had(source, name, hf_hub_download, filename=name, **about)) for name in names]


def _had(source: str, name: str | None, get: Callable, **about: Any) -> Any:
    try:
        return get(**about)
    except Exception as error:  # the hub's client raises the errors of three libraries
        raise ConnectionError(
            f"cannot download {name or 'the files'} of dataset {source}: {type(error).__name__}: {error}\n"
            "Get the file by hand and pass its path: read_prompts(path, language=...). Our own sets need no network."
        ) from error
