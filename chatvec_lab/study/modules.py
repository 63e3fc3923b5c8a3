"""Which modules of chatvec_lab a piece of code imports, also through others, and one digest of what they do.

Read with `ast`, never executed. An import inside a function counts, and so does a name that a package hands out when it
is first asked for (`__getattr__` over a table from names to modules); what stands under `if TYPE_CHECKING` does not.
Code that cannot be followed counts as importing everything: a result may be made once too often, never kept wrongly.
"""

import ast
import contextlib
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
)  # whose version may change what a model with given weights says
# Lines of IPython that import nothing; any other line that is not Python might run anything.
_HARMLESS = ("%matplotlib ", "%config ", "%load_ext ", "%autoreload ", "%precision ")


def digest(sources: Iterable[str], package: Path | None = None) -> str:
    """One sha256 of the modules that these pieces of code import, of the data files beside those, and of libraries.

    Comments, docstrings and layout do not count. `package`: the folder of chatvec_lab (None: the one that runs). It is kept
    in the package's __pycache__, for as long as no file of the package changes: to read all modules takes seconds.
    """
    return _about(list(sources), package or PACKAGE)["digest"]


def libraries(sources: Iterable[str], package: Path | None = None) -> set[str]:
    """Those of LIBRARIES that these pieces of code import, by themselves or through modules of chatvec_lab; kept as well."""
    return set(_about(list(sources), package or PACKAGE)["libraries"])


def _about(sources: list[str], package: Path) -> dict[str, Any]:
    """Digest and libraries of these pieces of code, from the file of earlier answers where nothing has changed since."""
    name, before = hashlib.sha256(repr(sources).encode()).hexdigest(), stamp(package)
    kept = _Kept(package / "__pycache__" / "digests.json", before)
    if name not in kept.answers:
        outside = _libraries(sources, package)
        found = {"digest": _digest(sources, outside, package), "libraries": outside}
        if stamp(package) != before:  # edited meanwhile: this may be of both
            return found
        kept.add(name, found)
    return kept.answers[name]


def _digest(sources: list[str], outside: list[str], package: Path) -> str:
    tree = _tree(package)
    names = sorted(tree.closure(sources))
    files = [tree.files[name] for name in names]
    parts = [(name, _meaning(*file)) for name, file in zip(names, files, strict=True)]
    for folder in sorted({file.parent / "data" for file, *_ in files}):
        if folder.is_dir() and folder != tree.package / "data":
            plain = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix not in (".py", ".pyc"))
            parts += [(f.relative_to(tree.package).as_posix(), _content(f, *_state(f))) for f in plain]
    parts += [(library, _version(library)) for library in outside]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class _Kept:
    """Answers in a file, which is good for one stamp; where it cannot be read or written it is done without."""

    def __init__(self, file: Path, stamp: str):
        self.file, self.stamp, self.answers = file, stamp, {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            there = json.loads(file.read_text("utf-8"))
            if there["stamp"] == stamp:
                self.answers = dict(there["answers"])

    def add(self, name: str, answer: Any) -> None:
        self.answers[name] = answer
        if not sys.dont_write_bytecode:
            part = self.file.with_name(f"{self.file.name}.{os.getpid()}")
            with contextlib.suppress(OSError):
                part.write_text(json.dumps({"stamp": self.stamp, "answers": self.answers}), "utf-8")
                part.replace(self.file)


def stamp(package: Path | None = None) -> str:
    """One sha256 of the sizes and times of the package's files, and of the versions of Python and the libraries.

    While it is the same nothing changed, and `digest` need not read the modules again.
    """
    package = package or PACKAGE
    versions = [
        sys.version_info[:2],
        *(_version(name) for name in LIBRARIES),
    ]  # `meaning` is as Python writes it
    return hashlib.sha256(repr([str(package), sorted(_states(str(package))), versions]).encode()).hexdigest()


def _states(folder: str) -> Iterator[tuple[str, int, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _states(entry.path) if entry.name != "__pycache__" else ()
            elif entry.is_file():
                with contextlib.suppress(FileNotFoundError):  # an editor's, gone at once
                    about = entry.stat()
                    # of the two times only the first can be set: an archive's files may all have one date
                    yield entry.path, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def closure(sources: Iterable[str], package: Path | None = None) -> set[str]:
    """Names of all modules of chatvec_lab that these pieces of code import, with those that the modules import."""
    return _tree(package or PACKAGE).closure(sources)


def _libraries(sources: list[str], package: Path) -> list[str]:
    tree = _tree(package)
    found = (_facts(*tree.files[name]).libraries for name in tree.closure(sources))
    imported = set().union(*found, *(_facts_of(source).libraries for source in sources))
    return [library for library in LIBRARIES if library in imported]


class _Facts:
    """What one piece of code says of imports, before names are looked for on disk."""

    def __init__(self, source: str):
        self.tree = _parsed(source)
        self.imports: list[tuple[int, str, str, str]] = []  # level, module, name ("" for none), bound to
        self.libraries: set[str] = set()
        self.table: dict[str, str] = {}  # names that a package hands out at first use, and their modules
        self.is_lazy = False  # has a `__getattr__`
        self.is_open = self.unknown = False  # imports what cannot be known here
        if self.tree is None:
            self.is_open = True
            return
        for node in _executed(self.tree):
            self._note(node)
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
                self.is_lazy = True
            elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
                self.table |= _texts(node.value)
        self.is_open = self.unknown and not (self.is_lazy and self.table)

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                self._add(0, alias.name, "", bound if alias.asname or "." not in alias.name else f".{bound}")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                self._add(node.level, node.module or "", alias.name, alias.asname or alias.name)
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            match node.args:
                case [ast.Constant(value=str(name)), *_]:
                    self._add(0, name, "", "")
                case [ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]), *_] if start.endswith("."):
                    self._add(0, start, "", "")  # one of the modules of a package
                case _:
                    self.unknown = True

    def _add(self, level: int, module: str, name: str, bound: str) -> None:
        if level or module.partition(".")[0] == "chatvec_lab":
            self.imports.append((level, module, name, bound))
        elif (top := module.partition(".")[0]) in LIBRARIES:
            self.libraries.add(top)


class _Tree:
    """The modules of the package as they lie on disk, and which of them each imports by itself."""

    def __init__(self, package: Path, listing: tuple[tuple[str, int, int], ...]):
        self.package, self.files = package, {}
        for path, *state in listing:
            name = ".".join(["chatvec_lab", *Path(path).with_suffix("").parts]).removesuffix(".__init__")
            if name not in self.files or path.endswith("__init__.py"):  # a package hides a module of its name
                self.files[name] = (package / path, *state)
        self._imports: dict[str, set[str]] = {}

    def closure(self, sources: Iterable[str]) -> set[str]:
        known: set[str] = set()
        waiting = set().union(*(self._modules(_facts_of(source), "") for source in sources))
        while waiting:
            known.add(name := waiting.pop())
            if name not in self._imports:
                file, *state = self.files[name]
                self._imports[name] = self._modules(_facts(file, *state), _package_of(name, file))
            waiting |= self._imports[name] - known
        return known

    def _below(self, name: str) -> set[str]:
        return {other for other in self.files if other == name or other.startswith(f"{name}.")}

    def _modules(self, facts: _Facts, package_name: str) -> set[str]:
        """The modules that code with these facts imports by itself, packages around them included."""
        if facts.is_open:
            return self._below("chatvec_lab")
        found: set[str] = set()
        bound: dict[str, str] = {}  # variables that hold a module

        def add(name: str) -> bool:
            if name not in self.files:
                return False
            parts = name.split(".")
            found.update(".".join(parts[: i + 1]) for i in range(len(parts)))
            return True

        def hand_out(module: str, name: str) -> None:
            for other in self._handed_out(module, name):
                add(other)

        for level, module, name, variable in facts.imports:
            parents = package_name.split(".")[: len(package_name.split(".")) - level + 1] if level else []
            module = ".".join([*parents, module] if module else parents)
            if module.endswith("."):
                _ = [add(other) for other in self._below(module.rstrip("."))]
                continue
            add(module)
            if not name:
                bound[variable.lstrip(".")] = "chatvec_lab" if variable.startswith(".") else module
            elif add(f"{module}.{name}"):
                bound[variable] = f"{module}.{name}"
            else:
                hand_out(module, name)
        if bound:
            for module, attribute in self._uses(facts.tree, bound):
                if not add(f"{module}.{attribute}"):
                    hand_out(module, attribute)
        return found

    def _handed_out(self, module: str, name: str) -> set[str]:
        """Modules behind a name that a package hands out at first use; "*" is every such name."""
        if module not in self.files or not (facts := _facts(*self.files[module])).is_lazy:
            return set()
        table = {key: value for key, value in facts.table.items() if value in self.files}
        if not table:
            return self._below(module)
        return set(table.values()) if name == "*" else {table[name]} if name in table else set()

    def _uses(self, tree: ast.AST, bound: dict[str, str]) -> Iterator[tuple[str, str]]:
        """(module, attribute) for each use of a variable that holds a module; "*" where it goes elsewhere whole."""
        inside: set[int] = set()

        def held(node: ast.AST) -> str | None:
            if isinstance(node, ast.Name):
                return bound.get(node.id)
            if isinstance(node, ast.Attribute) and (outer := held(node.value)):
                return f"{outer}.{node.attr}" if f"{outer}.{node.attr}" in self.files else None
            return None

        for node in ast.walk(tree):  # breadth first: an attribute comes before what it is an attribute of
            if isinstance(node, ast.Attribute) and (module := held(node.value)):
                inside.add(id(node.value))
                yield module, node.attr
            elif isinstance(node, ast.Name) and node.id in bound and id(node) not in inside:
                yield bound[node.id], "*"


def _tree(package: Path) -> _Tree:
    """The package as it is now; nothing is read again where no file came, went or changed."""
    files = sorted(file for file in package.rglob("*.py") if file.is_file())
    return _grown(package, tuple((file.relative_to(package).as_posix(), *_state(file)) for file in files))


@functools.lru_cache(maxsize=4)
def _grown(package: Path, listing: tuple[tuple[str, int, int], ...]) -> _Tree:
    return _Tree(package, listing)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _name(node: ast.expr) -> str:
    """The last name of `a` or `a.b`; "" for anything else."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _parsed(source: str) -> ast.Module | None:
    lines = ["pass" if line.lstrip().startswith(_HARMLESS) else line for line in source.splitlines()]
    try:
        return ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError):
        return None


def _texts(node: ast.Dict) -> dict[str, str]:
    try:
        found = ast.literal_eval(node)
    except (ValueError, TypeError):
        return {}
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}


def meaning(source: str) -> str:
    """Code without comments, docstrings and layout; as it is where it is not Python.

    >>> meaning("def f(x):\\n    'Twice.'  # of x\\n    return (2 * x)") == meaning("def f(x): return 2*x")
    True
    """
    text = _meaning_of(_parsed(source))
    return source if text is None else text


def _meaning_of(tree: ast.Module | None) -> str | None:
    if tree is None:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                    node.body = rest
    return ast.unparse(tree)


def _package_of(name: str, file: Path) -> str:
    return name if file.name == "__init__.py" else name.rpartition(".")[0]


def _state(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_size, about.st_mtime_ns


@functools.cache
def _facts(file: Path, *_: int) -> _Facts:
    return _Facts(file.read_text("utf-8"))


@functools.cache
def _facts_of(source: str) -> _Facts:
    return _Facts(source)


@functools.cache
def _meaning(file: Path, *_: int) -> str:
    text = _meaning_of(_facts(file, *_).tree)
    text = file.read_text("utf-8") if text is None else text
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _content(file: Path, *_: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@functools.cache
def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""
