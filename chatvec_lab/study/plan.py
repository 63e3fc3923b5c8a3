"""From a study file to its cells: one notebook with one set of parameters each, and the key that names it.

A study file (`data/studies/NAME.yaml`, or any path) reads:

    title: Korean, at several scales
    question: How much of the chat vector is best?   # optional
    family: llama-2-7b            # given to every notebook that has a parameter `family`
    out: results                  # optional: the folder for results, from this file
    inputs: [data/prompts]        # files and folders (below the project's root) that all results depend on
    set: {samples: 200}           # given to every notebook that has these parameters
    notebooks:
      03_scale_sweep:             # notebooks/03_scale_sweep.ipynb, or a path from the study file
        set: {decoding: greedy}
        grid: {language: [ko, zh], seed: [0, 1, 2]}     # all combinations; a list of grids is their union
      06_multi_turn:
        needs: {sweep: 03_scale_sweep}                  # its parameter `sweep` gets the folder of that cell
        grid: {language: [ko, zh], seed: [0, 1, 2]}
        hours: 2                                        # what each of its cells asks for: hours, gpus, cpus, memory_gb
        gpus: 1

Notebooks hand results on by files: `needs` maps a parameter of one notebook to another one, listed before
it. The parameter gets the folder of the one cell that agrees with it on every parameter that varies there
and is given here (by grid or set, not by default); one of type `list[str]` gets the folders of all that agree.
"""

import contextlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatvec_lab import keys
from chatvec_lab.keys import Key
from chatvec_lab.mistakes import naming
from chatvec_lab.paths import DATA, NOTEBOOKS, REPORTS, ROOT
from chatvec_lab.reading import as_text, brief, read_yaml
from chatvec_lab.study import fingerprint, parameters, ranges
from chatvec_lab.study.asks import ASKS, read_asks

STUDY_KEYS = {
    "title": Key("text", "The title of the report; without it the file's name."),
    "question": Key("text", "What the study asks; the report begins with it."),
    "family": Key(
        "a family's name, folder or YAML file", "Given to every notebook that has a parameter `family`."
    ),
    "inputs": Key(
        "a list of files and folders",
        "What all results depend on: when one changes, all cells are run again. "
        "Looked for beside the study, then in the project.",
    ),
    "set": Key("a mapping from parameters to values", "Given to every notebook that has these parameters."),
    "notebooks": Key(
        "a mapping from notebooks to their entries",
        "A notebook by name (of the folder notebooks/) or path "
        "(from this file), each with the keys of a notebook's entry or with nothing.",
        True,
    ),
    "out": Key("a folder, from this file", "Where the results go; without it reports/NAME. `--out` wins."),
}
NOTEBOOK_KEYS = {
    "set": Key("a mapping from parameters to values", "Given to each cell of the notebook; wins over the study's `set`."),
    "grid": Key("a mapping from parameters to lists of values, or a list of such mappings",
                "A cell for each combination; a list of grids is their union."),
    "needs": Key("a mapping from parameters to notebooks", "The parameter gets the folder of the cell of that notebook "
                 "which agrees on every parameter that varies there; one of type `list[str]` gets all that agree. The "
                 "notebook is listed before."),
    "inputs": Key("a list of files and folders", "As the study's `inputs`, for this notebook alone."),
    **ASKS,
}  # fmt: skip
MOST_CELLS = 10_000  # of one notebook
READ = "read"  # in place of a parameter's name: what stands behind READER: is a place for certain


@dataclass(frozen=True)
class Cell:
    """One notebook with one set of parameters; `parameters` lacks `out_dir` and what `needs` fills in.

    `needs` maps a parameter to the cells whose folders it gets; `listed` holds those that get a list.
    `varying` has the parameters that differ between this notebook's cells. `inputs` are digests by name.
    `places` has those parameters that name files beside the study, with whole paths; `imports` is the digest of the
    modules that run, `stamp` that of their files' sizes and times. `asks` is what it asks of an engine, as written;
    results do not depend on it.
    """

    notebook: str
    path: Path
    parameters: dict[str, Any]
    needs: dict[str, list["Cell"]]
    listed: frozenset[str]
    inputs: dict[str, str]
    code: str
    imports: str
    stamp: str = field(compare=False)
    key: str
    source: str = field(repr=False)
    varying: dict[str, Any] = field(default_factory=dict, compare=False)
    places: dict[str, Any] = field(default_factory=dict, compare=False)
    asks: dict[str, str] = field(default_factory=dict, compare=False)

    def folder(self, out: Path) -> Path:
        """Where this cell's results are kept below the study's folder `out`."""
        return Path(out) / "cells" / self.notebook / self.key

    def __str__(self) -> str:
        return " ".join([self.notebook, self.key, *(f"{k}={v}" for k, v in self.varying.items())])


@dataclass(frozen=True)
class Study:
    """A study ready to run: its cells in order, and the digests of the files that they all depend on."""

    name: str
    title: str
    question: str
    family: str
    inputs: dict[str, str]
    cells: list[Cell]
    out: Path  # where its results go, if nothing else is said


def load(study: str | Path, *, set: Mapping[str, Any] | None = None) -> Study:
    """Read a study by name or path; every parameter is checked here, before anything runs.

    `set` gives a value to every notebook that has the parameter, and wins over the file and its grids.
    Text in it is read by the parameter's type, so that `{"scale": "1e-3"}` is a number.

    Raises FileNotFoundError for a study or notebook that is not there, ValueError and TypeError (all
    offenders named) for parameters that do not fit.
    """
    file = _find(study)
    with naming(file):
        return _planned(file, set)


def _planned(file: Path, set: Mapping[str, Any] | None) -> Study:
    written = read_yaml(file)
    keys.check(written, STUDY_KEYS, str(file))
    if not written.get("notebooks"):
        raise ValueError(f"{file}: there are no `notebooks`")
    _check_mapping(written["notebooks"], f"{file}: notebooks")
    _check_mapping(written.get("set") or {}, f"{file}: set")
    shared = dict(written.get("set") or {})
    if written.get("family"):
        shared["family"] = written["family"]
    notebooks = {name: _Notebook(name, entry or {}, file) for name, entry in written["notebooks"].items()}
    _check_shared(shared, notebooks, f"{file.name}: set")
    _check_shared(set or {}, notebooks, "--set")

    names = [notebook.name for notebook in notebooks.values()]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{file.name}: two notebooks are called {', '.join(doubled)}; list one with several grids"
        )

    inputs = _digests(written.get("inputs"), file)
    cells: dict[str, list[Cell]] = {}
    problems: dict[str, Exception] = {}
    broken: list[str] = []
    for notebook in notebooks.values():
        if any(Path(source).stem in broken for source in notebook.needs.values()):
            broken.append(notebook.name)
            continue
        try:
            cells[notebook.name] = notebook.cells(shared, set or {}, cells, inputs)
        except (ValueError, TypeError) as error:
            problems[notebook.name] = error
            broken.append(notebook.name)
    if problems:
        kind = TypeError if all(isinstance(error, TypeError) for error in problems.values()) else ValueError
        raise kind(ranges.together(problems))
    return Study(
        name=file.stem,
        title=as_text(written.get("title") or file.stem, f"{file.name}: title"),
        question=as_text(written.get("question") or "", f"{file.name}: question"),
        family=as_text(shared.get("family", ""), f"{file.name}: family"),
        inputs=inputs,
        cells=[cell for group in cells.values() for cell in group],
        out=_out(written.get("out"), file),
    )


def _out(folder: Any, file: Path) -> Path:
    """The study's folder for results: what it says, from beside its file, else reports/NAME."""
    return file.parent / as_text(folder, f"{file.name}: out") if folder else REPORTS / file.stem


class _Notebook:
    """A notebook's entry in the study file, and its declared parameters."""

    def __init__(self, name: str, entry: dict, file: Path):
        keys.check(entry, NOTEBOOK_KEYS, f"{file.name}: {name}")
        self.path = file.parent / name if name.endswith(".ipynb") else NOTEBOOKS / f"{name}.ipynb"
        if not self.path.is_file():
            there = [p.stem for p in sorted(NOTEBOOKS.glob("*.ipynb"))]
            raise FileNotFoundError(f"{self.path} is not there; {parameters.nearest(name, there)}")
        self.name, self.file = self.path.stem, file
        # Read once, so that what runs is what the key is of, whatever an editor does meanwhile.
        self.source = parameters.notebook_text(self.path)
        content = parameters.cells_of(self.source, str(self.path))
        self.stamp = fingerprint.stamp()  # before the modules are read
        self.code, self.imports = fingerprint.code(content), fingerprint.imports(content)
        self.declared = parameters.read(self.path)
        if "out_dir" not in self.declared:
            raise ValueError(
                f"{self.name}: its parameters cell needs `out_dir: str = ''`, the folder for results"
            )
        self.set, self.needs = entry.get("set") or {}, entry.get("needs") or {}
        _check_mapping(self.set, f"{file.name}: {name}: set")
        _check_mapping(self.needs, f"{file.name}: {name}: needs")
        self.needs = {p: as_text(source, f"{file.name}: {name}: needs") for p, source in self.needs.items()}
        self.inputs = _digests(entry.get("inputs"), file)
        self.asks = read_asks(entry, f"{file.name}: {name}: ")
        grids = entry.get("grid") or {}
        self.grids = grids if isinstance(grids, list) else [grids]
        for grid in self.grids:
            _check_mapping(grid, f"{file.name}: {name}: grid")
        for axis, values in ((axis, values) for grid in self.grids for axis, values in grid.items()):
            if not isinstance(values, list) or not values:
                raise ValueError(
                    f"{file.name}: {self.name}: grid: {axis} must be a list of values, got {brief(values)}"
                )

    def cells(self, shared: dict, override: Mapping, done: dict[str, list[Cell]], common: dict) -> list[Cell]:
        reserved = sorted(
            {"out_dir", *self.needs} & {*self.set, *override, *shared, *(a for g in self.grids for a in g)}
        )
        if reserved:
            raise ValueError(
                f"{self.name}: {', '.join(reserved)} is filled in by the runner and cannot be set"
            )
        fixed = {k: v for k, v in shared.items() if k in self.declared} | self.set
        override = {
            name: parameters.from_text(value, self.declared[name]) if isinstance(value, str) else value
            for name, value in override.items()
            if name in self.declared
        }
        if (many := sum(math.prod(map(len, grid.values())) for grid in self.grids)) > MOST_CELLS:
            raise ValueError(
                f"{self.name}: its grid makes {many:,} cells, and a study has {MOST_CELLS:,} at most."
            )
        given = [
            fixed | dict(zip(grid, values, strict=True)) | override
            for grid in self.grids
            for values in itertools.product(*grid.values())
        ]
        unique = {c.key: c for c in (self._cell(values, override, done, common) for values in given)}
        group = list(unique.values())
        names = [
            n for n in group[0].parameters if any(c.parameters[n] != group[0].parameters[n] for c in group)
        ]
        for cell in group:
            cell.varying.update({name: cell.parameters[name] for name in names})
        return group

    def _cell(self, given: dict, override: Mapping, done: dict[str, list[Cell]], common: dict) -> Cell:
        merged = parameters.merge(self.declared, given, notebook=self.name)
        values = {
            name: value for name, value in merged.items() if name != "out_dir" and name not in self.needs
        }
        told = {name: values[name] for name in given}
        needs = {name: self._needed(name, source, told, done) for name, source in self.needs.items()}
        # What the study file says is looked for beside it; what a command says, where that was typed.
        typed = {name for name in override if name in values} | (values.keys() - given.keys())
        written = {name: value for name, value in values.items() if name not in typed}
        places = {name: _placed(value, name, self.file.parent) for name, value in written.items()}
        kinds = {name: parameter.annotation for name, parameter in self.declared.items()}
        if wrong := ranges.problems(values | places, kinds):
            raise ValueError("\n".join(f"{self.name}: {line}" for line in wrong))
        inputs = self.inputs | fingerprint.parameters(
            {name: values[name] for name in values if name in typed}
        )
        inputs |= fingerprint.parameters(written, self.file.parent) | fingerprint.environment(values)
        needed = {name: [cell.key for cell in cells] for name, cells in needs.items()}
        return Cell(
            notebook=self.name,
            path=self.path,
            parameters=values,
            needs=needs,
            listed=frozenset(n for n in needs if self.declared[n].annotation.startswith("list")),
            inputs=inputs,
            code=self.code,
            imports=self.imports,
            stamp=self.stamp,
            source=self.source,
            key=fingerprint.digest(self.name, self.code, self.imports, values, needed, inputs, common)[:12],
            places={name: value for name, value in places.items() if value != values[name]},
            asks=self.asks,
        )

    def _needed(self, name: str, source: str, told: dict, done: dict[str, list[Cell]]) -> list[Cell]:
        if name not in self.declared:
            raise ValueError(f"{self.name} needs {name}, but {parameters.nearest(name, self.declared)}")
        source = Path(source).stem
        if source not in done:
            raise ValueError(
                f"{self.name} needs {source!r}, which is not listed before it; "
                f"{parameters.nearest(source, done)}"
            )
        agree = [c for c in done[source] if all(told.get(n, v) == v for n, v in c.varying.items())]
        is_list = self.declared[name].annotation.startswith("list")
        if not agree or (len(agree) > 1 and not is_list):
            shown = "\n".join(f"  {cell}" for cell in agree or done[source])
            raise ValueError(
                f"{self.name} needs one cell of {source} for {name}, and {len(agree)} agree with {told}:\n"
                f"{shown}\n"
                f"Give both the same grid, or declare `{name}: list[str]` to get them all."
            )
        return agree


def chosen(study: Study, only: list[str] | None) -> list[Cell]:
    """The cells of the named notebooks (an unambiguous beginning will do), and of those that they need."""
    if not only:
        return study.cells
    names = list(dict.fromkeys(cell.notebook for cell in study.cells))
    wanted: set[str] = set()
    for text in only:
        stem = Path(text).stem if text.endswith(".ipynb") else text
        found = [stem] if stem in names else [name for name in names if name.startswith(stem)]
        if len(found) != 1:
            raise ValueError(
                f"--only {text}: {f'it may be {found}' if found else parameters.nearest(stem, names)}"
            )
        wanted.update(found)
    return with_needs(study, {cell.key for cell in study.cells if cell.notebook in wanted})


def with_needs(study: Study, keys: set[str]) -> list[Cell]:
    """The cells of these keys and those that they need, in the study's order."""
    for cell in reversed(study.cells):  # a cell comes after those that it needs
        if cell.key in keys:
            keys = keys | {need.key for group in cell.needs.values() for need in group}
    return [cell for cell in study.cells if cell.key in keys]


def _find(study: str | Path) -> Path:
    text = str(study)
    file = Path(text) if text.endswith((".yaml", ".yml")) else DATA / "studies" / f"{text}.yaml"
    if not file.is_file():
        there = [path.stem for path in sorted((DATA / "studies").glob("*.yaml"))]
        raise FileNotFoundError(f"there is no study {file}; {parameters.nearest(text, there)}")
    return file.resolve()


def _check_mapping(entry: Any, where: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: there should be a mapping, `name: ...` a line, got {brief(entry)}")


def _check_shared(values: Mapping[str, Any], notebooks: dict[str, _Notebook], where: str) -> None:
    names = list(dict.fromkeys(name for notebook in notebooks.values() for name in notebook.declared))
    unknown = [f"{name!r}: {parameters.nearest(name, names)}" for name in values if name not in names]
    if unknown:
        raise ValueError(f"{where}: no notebook of this study has these parameters: {'; '.join(unknown)}")


def _placed(value: Any, name: str, folder: Path) -> Any:
    """A parameter of the study file with its relative paths made whole where they name something beside that file."""
    if isinstance(value, dict):
        return {key: _placed(item, name, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_placed(item, name, folder) for item in value]
    if not isinstance(value, str) or not value or name in fingerprint.WRITTEN:
        return value
    if name == "prompts" and list(sets := fingerprint.prompt_sets(value)) != [("", value)]:
        return ", ".join(
            f"{reader}{_placed(source, READ if reader else '', folder)}" for reader, source in sets
        )
    with contextlib.suppress(OSError, ValueError):  # too long for a name, or no name at all
        there = folder / value
        # a word such as `ko` is a folder's name only by chance, unless it is asked to be a family
        is_named = (
            "/" in value
            or there.is_file()
            or (name in ("family", "families") and (there / "base").is_dir())
            or name == READ
        )
        if is_named and there.exists():
            return str(there.resolve())
    return value


def _digests(inputs: Any, file: Path) -> dict[str, str]:
    if not isinstance(inputs or [], list):
        raise ValueError(
            f"{file.name}: inputs: there should be a list of files and folders, got {brief(inputs)}"
        )
    found = {}
    for text in [as_text(entry, f"{file.name}: inputs") for entry in inputs or []]:
        path = next((p / text for p in (file.parent, ROOT) if (p / text).exists()), None)
        if path is None:
            raise FileNotFoundError(
                f"{file.name}: inputs: {text!r} is neither beside the study nor in {ROOT}"
            )
        found[text] = fingerprint.path(path.resolve())
    return found
