"""Tiny notebooks and studies, run by the real runner: from Python, and as a user would, from a shell."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from chatvec_lab.study import fingerprint

COMMAND = """
import argparse, sys
from chatvec_lab import study
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    study.add_arguments(parser)
    sys.exit(study.main(parser.parse_args()))
"""


def write_notebook(path: Path, parameters: str, *code: str, title: str = "A tiny notebook") -> Path:
    """A stripped notebook: title, parameters cell, code cells."""

    def cell(kind: str, source: str, tags: tuple[str, ...] = ()) -> dict:
        made = {"cell_type": kind, "id": f"c{len(cells)}", "metadata": {"tags": list(tags)} if tags else {}}
        source = textwrap.dedent(source).strip()
        return (
            made | {"source": source} | ({"outputs": [], "execution_count": None} if kind == "code" else {})
        )

    cells: list[dict] = []
    cells.append(cell("markdown", f"# {title}"))
    out_dir = "\nout_dir: str = ''  # folder for results"
    cells.append(cell("code", textwrap.dedent(parameters).strip() + out_dir, ("parameters",)))
    for source in code:
        cells.append(cell("code", source))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    path.write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}), "utf-8"
    )
    return path


class Lab:
    """A folder with a copy of the machinery, so that editing it, or a colleague's edit, is under control."""

    patience = 300.0  # seconds for one command

    def __init__(self, root: Path):
        self.root, self.out = root, root / "out"
        source = fingerprint.PACKAGE
        for name in (
            "__init__.py",
            "keys.py",
            "languages.py",
            "paths.py",
            "mistakes.py",
            "reading.py",
            "spreadsheet.py",
            "secrets",
            "study",
            "report",
        ):
            copy = shutil.copytree if (source / name).is_dir() else shutil.copy2
            (root / "chatvec_lab").mkdir(exist_ok=True)
            copy(source / name, root / "chatvec_lab" / name)
        self.environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def notebook(self, name: str, parameters: str, *code: str, **more: str) -> Path:
        return write_notebook(self.root / f"{name}.ipynb", parameters, *code, **more)

    def study(self, text: str, name: str = "tiny") -> Path:
        file = self.root / f"{name}.yaml"
        file.write_text(textwrap.dedent(text), "utf-8")
        return file

    def start(self, *arguments: str, name: str = "tiny", **options) -> subprocess.Popen:
        command = [sys.executable, "-c", COMMAND, f"{name}.yaml", "--out", "out", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.root, env=self.environment, **pipes, **options)

    def run(self, *arguments: str, name: str = "tiny") -> tuple[int, str]:
        """Exit status and everything printed of `run tiny.yaml --out out ARGUMENTS`."""
        process = self.start(*arguments, name=name)
        text, _ = process.communicate(timeout=self.patience)
        return process.returncode, text

    def records(self) -> dict[str, dict]:
        """Every run.json below the study's folder, by its path."""
        found = sorted(self.out.glob("cells/*/*/run.json"))
        return {str(path.relative_to(self.out)): json.loads(path.read_text("utf-8")) for path in found}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)
