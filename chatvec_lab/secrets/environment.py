"""Which values of the environment are secrets, and the one place where a key is read.

A secret is the value of a variable that some `key_env` names or whose own name looks like one (HF_TOKEN, JUDGE_KEY,
DATABASE_PASSWORD), the password in an address (a proxy's, a database's), and the token that the hub's login left in
a file.
"""

import contextlib
import functools
import os
import re
from pathlib import Path
from urllib.parse import unquote

NAMES_FILE = (
    "CHATVEC_SECRET_NAMES"  # a kernel appends here which variables it read keys from; names, no values
)
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
    r"(?i)(?<![a-z])(?:password|passwd|pwd|secret|token|api_?key|access_?key|accountkey|sig|signature)=([^;&\s\"']+)"
)


_named: set[str] = set()  # variables that a key_env names
_read: dict[str, str] = {}  # values read as keys, which stay secret when the environment changes


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
    if file := os.environ.get(NAMES_FILE):  # for the worker, which redacts what this kernel leaves
        with contextlib.suppress(OSError), open(file, "a", encoding="utf-8") as names:
            names.write(variable + "\n")


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
    for name, value in os.environ.items():
        value = value.encode("utf-8", "ignore").decode().strip()  # bytes that are no text cannot be a key
        if (name in _named or looks_secret(name)) and not (value.startswith("/") and os.path.exists(value)):
            # the lines of a private key are apart in a notebook and a log
            pieces = [value, *(line.strip() for line in value.splitlines() if not line.startswith("-----"))]
            found |= {piece: name for piece in pieces if _is_long_enough(piece)}
        for scheme, user in _ADDRESS.findall(value):
            if ":" not in user and not scheme.startswith("http"):  # ssh://git@host names a user, no secret
                continue
            password = user.partition(":")[2] or user
            found |= {f"{user}@": f"{name}@"} if ":" in user else {}
            found |= {p: name for p in (password, unquote(password)) if _is_long_enough(p)}
        found |= {piece: name for piece in _SETTING.findall(value) if _is_long_enough(piece)}
    for token in _login_tokens():
        found.setdefault(token, "HF_TOKEN")
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _is_long_enough(value: str) -> bool:
    """Short values and plain numbers occur by chance; hiding them would spoil results."""
    if value.isdigit():
        return len(value) >= 12
    return len(value) >= 8 or (len(value) >= 6 and not value.isalpha())


def _login_tokens() -> list[str]:
    """Tokens that `hf auth login` left in files."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    tokens = []
    with contextlib.suppress(OSError, ValueError):
        tokens.append(Path(os.environ.get("HF_TOKEN_PATH") or home / "token").read_text("utf-8").strip())
    with contextlib.suppress(OSError, ValueError):
        text = Path(os.environ.get("HF_STORED_TOKENS_PATH") or home / "stored_tokens").read_text("utf-8")
        tokens += re.findall(r"(?m)^\s*hf_token\s*=\s*(\S+)", text)
    return [token for token in tokens if _is_long_enough(token)]


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
