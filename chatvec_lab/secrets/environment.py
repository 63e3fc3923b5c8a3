"""Which values of the environment are secrets, and the one place where a key is read.

A secret is the value of a variable that some `key_env` names or whose own name looks like one (HF_TOKEN, JUDGE_KEY,
DATABASE_PASSWORD), the password in an address (a proxy's, a database's), what a variable such as JUDGE_KEY_FILE points
to, the token that the hub's login left in a file, and the passwords of a netrc file.
"""

import contextlib
import functools
import json
import netrc
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

# A kernel appends to the file of this name, which is its user's alone and short-lived, which variables hold keys, and the
# values of those that the notebook itself has set: the worker, which redacts what the kernel leaves, cannot see them.
NAMES_FILE = "CHATVEC_SECRET_NAMES"
_WORDS = {"TOKEN", "TOKENS", "KEY", "KEYS", "APIKEY", "SECRET", "SECRETS", "PASSWORD", "PASSWORDS", "PASSWD", "PASS",
          "PWD", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS", "CREDS", "AUTH", "AUTHORIZATION", "BEARER", "COOKIE",
          "WEBHOOK", "DSN", "PAT", "SAS", "SIGNATURE"}  # fmt: skip
_ENDINGS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "APIKEY", "ACCESSKEY", "SECRETKEY", "PRIVATEKEY",
            "AUTHKEY", "CREDENTIALS")  # fmt: skip
# what such a name may end in and hold no secret: HF_TOKEN_PATH, SSH_AUTH_SOCK, MAX_TOKENS_LIMIT
_HARMLESS = {"PATH", "FILE", "FILES", "DIR", "FOLDER", "SOCK", "SOCKET", "MODE", "TYPE", "NAME", "HOST", "PORT", "ENV",
             "PARALLELISM", "LIMIT", "LENGTH", "COUNT", "SIZE", "BUDGET", "VERSION", "TIMEOUT", "TTL", "ENABLED",
             "HEADER", "FORMAT"}  # fmt: skip
_ADDRESS = re.compile(r"([a-zA-Z][\w+.-]*)://([^/?#\s\"'<>]+)@")
_SETTING = re.compile(
    r"(?i)(?<![a-z])(?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|accountkey|sig|signature)"
    r"[\"']?\s*[:=]\s*[\"']?([^;&,\s\"'{}]+)"  # of a connection string, an address, or JSON
)


_named: set[str] = set()  # variables that a key_env names
_read: dict[str, str] = {}  # values read as keys, which stay secret when the environment changes
_set: dict[str, str] = {}  # what this process has set in its environment since `watch`
_told: dict[tuple[str, str], None] = {}  # variables and values that were set on the way, here or in a kernel


def key(variable: str) -> str | None:
    """The secret in an environment variable without white space around it, None where there is none.

    Secrets mounted from files end in a line end. Raises PermissionError for characters that no key has.
    """
    name_secret(variable)
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    _read[value] = variable
    if not (value.isascii() and value.isprintable() and " " not in value):
        raise PermissionError(
            f"the environment variable {variable} holds characters that no key has, such as a space or a line end "
            "inside; set it to the key alone"
        )
    return value


def name_secret(variable: str) -> None:
    """Treat this environment variable as a secret, whatever its name looks like."""
    if variable in _named:
        return
    _named.add(variable)
    _tell(variable, _set.get(variable))


def watch() -> None:
    """From now on, tell the worker (`NAMES_FILE`) of each secret that this process sets in its environment."""

    def hear(event: str, arguments: tuple) -> None:
        if event == "os.putenv":
            name, value = map(os.fsdecode, arguments)
            _set[name] = value
            if _of_variable(name, value):
                _tell(name, value)

    sys.addaudithook(hear)


def take_told(file: Path) -> None:
    """Take what a kernel has told of into what is known here, and remove its file."""
    with contextlib.suppress(OSError):
        for line in file.read_text("utf-8", "surrogateescape").splitlines():
            with contextlib.suppress(ValueError):  # cut off by a kill
                name, value = json.loads(line)
                _named.add(name)
                if value is not None:
                    _told[name, value] = None
        file.unlink()


def _tell(variable: str, value: str | None) -> None:
    if value is not None:
        _told[variable, value] = None
    if file := os.environ.get(NAMES_FILE):
        line = json.dumps([variable, value]) + "\n"
        with contextlib.suppress(OSError), open(file, "a", encoding="utf-8", opener=_mine) as names:
            names.write(line)


def _mine(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@functools.cache
def looks_secret(name: str) -> bool:
    """Whether a variable of this name is taken to hold a secret.

    >>> [looks_secret(name) for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN_PATH", "MONKEY")]
    [True, True, False, False]
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper().replace("-", "_").split("_")
    words = [word.rstrip("0123456789") for word in words if word.rstrip("0123456789")]
    if not words or words[-1] in _HARMLESS or words == ["PWD"] or name == "OLDPWD":
        return False
    return any(word in _WORDS or word.endswith(_ENDINGS) for word in words)


def known() -> dict[str, str]:
    """Every secret and the name that is shown in its place: {value: name}, long ones first."""
    found = {value: name for value, name in _read.items() if _is_long_enough(value)}
    for name, value in [*_told, *os.environ.items()]:
        found |= _of_variable(name, value)
    for value, name in _in_files():
        if _is_long_enough(value):
            found.setdefault(value, name)
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _of_variable(name: str, value: str) -> dict[str, str]:
    """The secrets in one variable, each with the name that is shown in its place."""
    value = value.encode("utf-8", "ignore").decode().strip()  # bytes that are no text cannot be a key
    is_secret = name in _named or looks_secret(name)
    return _of_value(name, value, is_secret and not (value.startswith("/") and os.path.exists(value)))


@functools.lru_cache(maxsize=1024)  # asked for again with each text that is looked at
def _of_value(name: str, value: str, is_secret: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    if is_secret:
        # the lines of a private key are apart in a notebook and a log
        pieces = [value, *(line.strip() for line in value.splitlines() if not line.startswith("-----"))]
        found |= {piece: name for piece in pieces if _is_long_enough(piece)}
    for scheme, user in _ADDRESS.findall(value):
        if ":" not in user and not scheme.startswith("http"):  # ssh://git@host names a user, no secret
            continue
        password = user.partition(":")[2] or user
        found |= {f"{user}@": f"{name}@"} if ":" in user else {}
        found |= {p: name for p in (password, unquote(password)) if _is_long_enough(p)}
    return found | {piece: name for piece in _SETTING.findall(value) if _is_long_enough(piece)}


def _is_long_enough(value: str) -> bool:
    """Short values and plain numbers occur by chance; hiding them would spoil results."""
    if value.isdigit():
        return len(value) >= 12
    return len(value) >= 8 or (len(value) >= 6 and not value.isalpha())


def _in_files() -> Iterator[tuple[str, str]]:
    """Secrets that stand in files, with the names that are shown: of the hub's login, netrc, and KEY_FILE variables."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    yield _text(os.environ.get("HF_TOKEN_PATH") or home / "token").strip(), "HF_TOKEN"
    stored = _text(os.environ.get("HF_STORED_TOKENS_PATH") or home / "stored_tokens")
    yield from ((token, "HF_TOKEN") for token in re.findall(r"(?m)^\s*hf_token\s*=\s*(\S+)", stored))
    for name, value in os.environ.items():
        short = re.sub(r"_(FILE|PATH)$", "", name.upper())
        if short != name.upper() and looks_secret(short):  # as containers mount secrets
            yield _text(value).strip(), short
    for place in filter(None, (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc")):
        yield from ((piece, "NETRC") for piece in _netrc(str(place), _text(place)))


@functools.lru_cache(maxsize=8)
def _netrc(place: str, text: str) -> list[str]:
    """The passwords of a netrc file, and each behind its user, as it is sent."""
    if not text:
        return []
    try:
        hosts = netrc.netrc(place).hosts.values()
    except (OSError, ValueError, netrc.NetrcParseError):  # what cannot be parsed may still be printed
        return re.findall(r"\bpassword\s+(\S+)", text)
    return [piece for user, _, word in hosts if word for piece in (word, f"{user}:{word}")]


def _text(place: str | Path) -> str:
    """A small file's text, "" where there is none."""
    with contextlib.suppress(OSError, ValueError):
        about = os.stat(place)
        return _read_text(str(place), about.st_mtime_ns, about.st_size, about.st_ino)
    return ""


@functools.lru_cache(maxsize=64)
def _read_text(place: str, _changed: int, size: int, _file: int) -> str:
    return Path(place).read_text("utf-8") if 0 < size < 1 << 16 and os.path.isfile(place) else ""


def shown_address(address: str) -> str:
    """An address as it may be shown: without user, password, query and fragment.

    >>> shown_address("https://me:secret@host/v1?key=abc#x"), shown_address("me:secret@host")
    ('https://host/v1', 'host')
    """
    scheme, mark, rest = address.rpartition("://")
    rest = re.split(r"[?#]", rest)[0]
    place, slash, path = rest.partition("/")
    if re.fullmatch(r"[^:@\[\]]*:(?!\d+$)[^@]*", place) and "@" in path:  # a password with a slash in it
        place, slash, path = (rest.rpartition("@")[2] + "/").partition("/")
        path = path.rstrip("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"
