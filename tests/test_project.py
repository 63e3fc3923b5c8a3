"""The project's own files agree with each other, and its README does what it says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_mirrors_pyproject(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    wanted = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    packages = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    found = {}
    for text in packages + [p for p in pip if not p.startswith("-e")]:
        name, bound = re.fullmatch(r"([\w.-]+)\s*(.*)", text).groups()
        found[CONDA_NAMES.get(name, name)] = SpecifierSet(bound)
    assert found.pop("python") == SpecifierSet(project["requires-python"])
    assert "pip" in found and found.pop("pip") is not None
    assert found == wanted
    assert "-e ." in pip


def test_constraints_pin_every_dependency_within_its_bounds(project):
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    asked = list(project["dependencies"])
    for name in ("dev", "dask", "browser", "docs", "formats", "lmeval"):
        asked += project["optional-dependencies"][name]
    for requirement in map(Requirement, asked):
        pinned = pins.get(requirement.name)
        assert pinned, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(pinned.split("+")[0]), requirement


def test_the_version_is_told_once(project):
    import chatvec_lab

    assert not hasattr(chatvec_lab, "__version__")  # importlib.metadata has it
    assert f"version: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_make_help_lists_every_target():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "report", "test", "test-slow", "lint", "lab", "bench"} <= set(targets)
    for target in targets:
        assert f"make {target}" in listed


def test_ci_runs_both_test_targets():
    text = (ROOT / ".ci" / "run").read_text()
    assert "make test\n" in text and "make test-slow\n" in text


@pytest.mark.parametrize(
    "arguments", [["--help"], ["merge", "--help"], ["inspect", "--help"], ["families", "--help"]]
)
def test_help_answers_at_once(arguments):
    """Nothing heavy is imported: the text comes at once on any machine (0.04 s of CPU where this was written)."""
    code = (
        "import runpy, sys; sys.argv = ['chatvec_lab', *sys.argv[1:]]\n"
        "try: runpy.run_module('chatvec_lab', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'numba', 'transformers', 'papermill', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks("python")
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_readme_commands_run(tmp_path):
    """Each `$ python -m chatvec_lab ...` line, with the members of nano in place of BASE, CHAT and CP."""
    seed = ROOT / "data" / "nano" / "nano" / "seed0"
    places = {"BASE": seed / "base", "CHAT": seed / "chat", "CP": seed / "cp_zh", "OUT": tmp_path / "out"}
    places |= {"MINE": tmp_path / "mine", "MINE/study.yaml": tmp_path / "mine" / "study.yaml"}
    lines = [
        line
        for block in code_blocks("console")
        for line in block.splitlines()
        if line.startswith("$ python ")
    ]
    assert len(lines) >= 6
    for line in lines:
        words = [str(places.get(word, word)) for word in line.split()[2:]]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_readme_names_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for block in code_blocks("(?:bash|console)"):
        for target in re.findall(r"^\$? ?make ([a-z-]+)", block, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        for verb in re.findall(r"python -m chatvec_lab ([a-z]+)", block):
            shown = subprocess.run([sys.executable, "-m", "chatvec_lab", verb, "--help"], capture_output=True)
            assert shown.returncode == 0, verb


def test_nothing_committed_names_a_machine_or_a_registry():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = re.compile(
        "|".join(
            ("py" + r"pi\.org", "pythonhos" + "ted", "registry" + r"\.npmjs", "/ro" + "ot/", "/wo" + "rk/")
        )
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".safetensors", ".npz", ".png", ".pdf") or not path.is_file():
            continue
        found = words.search(path.read_text(errors="replace"))
        assert not found, f"{name}: {found and found.group()}"
