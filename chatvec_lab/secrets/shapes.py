"""Secrets that no variable holds, known by their looks: tokens of well-known services, and keys in headers and addresses.

A key that somebody typed into a notebook, or that a library read from a place of its own, is not in the environment. In
its place stands what it was, such as `<Hugging Face token>`. Digests, revisions and names have no such looks.
"""

# A beginning that every such text shares comes first in a pattern: the search jumps to it, 16 MB in some milliseconds.
_ALPHANUMERIC = "[A-Za-z0-9]"
_LINE = r"\\{0,31}_"  # an underscore, also as LaTeX writes it
_WORD = rf"(?:[A-Za-z0-9-]|{_LINE})"
# a name has no digit, a constant no small letter
_VALUE = "(?={0}{{0,200}}[0-9])(?={0}{{0,200}}[a-z]){0}{{16,}}".format("[A-Za-z0-9_.~+/=%-]")
_IS = r"\\*[\"']?\s*[:=,]\s*(?:b?\\*[\"'])?"  # between a name and its value, in headers, JSON and Python
_PRIVATE = r"PRIVATE KEY(?: BLOCK)?-----"


def _token(beginning: str, mark: str, character: str = _ALPHANUMERIC, least: int = 20) -> str:
    """A token with this beginning and mark, then so many characters, among them a capital or a digit: no name.

    A table cuts its cells ("hf_SECRETSE..."): before dots, six are enough.
    """
    some = rf"(?={character}{{0,200}}?[A-Z0-9])"
    before = f"(?<!{_ALPHANUMERIC}{beginning})"
    return rf"{beginning}{before}{mark}{some}(?:{character}{{{least},}}|{character}{{6,}}(?=\.\.\.|…))"


# What a group `kept` matches stays where it is. Several patterns of a name are searched one by one: each has a beginning.
SHAPES: dict[str, str | tuple[str, ...]] = {
    "Hugging Face token": _token("hf", _LINE),
    "Hugging Face token of an organisation": _token("api", f"{_LINE}org{_LINE}"),
    "OpenAI key": _token("sk", "-") + "|" + _token("sk", "-(?:proj|svcacct|admin|or|ant)-", _WORD),
    "GitHub token": (_token("gh[pousr]", _LINE), _token("github", f"{_LINE}pat{_LINE}", _WORD)),
    "GitLab token": _token("glpat", "-", _WORD),
    "AWS key": r"A(?:KIA|SIA)(?<![A-Za-z0-9]A[KS]IA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "Google key": (_token("AIza", "", _WORD, 35), _token("ya29", r"\.", _WORD)),
    "Slack token": (_token("xox[abeprs]", "-", _WORD, 12), _token("xapp", "-", _WORD, 12)),
    "Groq key": _token("gsk", _LINE),
    "xAI key": _token("xai", "-"),
    "NVIDIA key": _token("nvapi", "-", _WORD),
    "Databricks token": _token("dapi", "", "[0-9a-f]", 32),
    "Together key": _token("tgp", f"{_LINE}v1{_LINE}", _WORD),
    "Perplexity key": _token("pplx", "-"),
    "Fireworks key": _token("fw", _LINE),
    "webhook": (
        r"(?P<kept>hooks\.slack\.com/services/)[A-Za-z0-9_/-]{20,}",
        r"(?P<kept>discord(?:app)?\.com/api/webhooks/)[A-Za-z0-9_/-]{20,}",
    ),
    "Replicate token": _token("r8", _LINE),
    "Stripe key": tuple(_token(kind, f"{_LINE}(?:live|test){_LINE}") for kind in ("sk", "rk")),
    "PyPI token": _token("pypi", "-", _WORD, 40),
    "npm token": _token("npm", _LINE, least=36),
    "JSON web token": rf"eyJ(?<![A-Za-z0-9_-]eyJ){_WORD}{{10,}}\.eyJ{_WORD}{{10,}}\.{_WORD}{{10,}}",
    "private key": rf"-----BEGIN (?:[A-Z]+ ){{0,3}}{_PRIVATE}(?:[^-]|-(?!----)){{40,20000}}(?:-----END [A-Z ]*-----)?",
    "bearer token": rf"(?P<kept>earer\s+){_VALUE}",
    "key in a header": rf"(?P<kept>(?i:pi[-_]?key|uthorization|ecret_access_key){_IS}(?:[A-Z][a-z]+\s+)?){_VALUE}",
    "key in an address": rf"(?P<kept>[?&](?:[A-Za-z-]+[-_])?(?:[Tt]oken|[Kk]ey|[Ss]ig|[Ss]ignature)=){_VALUE}",
    "password in an address": r"(?P<kept>://[^\s/:@\"'<>]{1,64}:)(?!<|&lt;)[^\s/@\"'<>]{1,200}(?=@)",
}
# Capitals or not, such a name has no beginning to jump to, so that it is looked for in small letters first.
IN_SMALL = {"key in a header": ("pikey", "pi-key", "pi_key", "uthorization", "ecret_access_key")}
