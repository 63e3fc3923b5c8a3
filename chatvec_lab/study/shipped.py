"""Whether a notebook is the one that was committed, so that a study of an edited one says so."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from chatvec_lab.paths import NOTEBOOKS
from chatvec_lab.study.parameters import cells_of

RECORD = "digests.json"  # beside the notebooks, for a copy of the project that is no git checkout


def edited(sources: Iterable[tuple[Path, str]], folder: Path = NOTEBOOKS) -> list[str]:
    """A line for each of these notebooks (path and text) of the project's folder whose code is not the committed code."""
    lines = []
    for path, text in dict(sources).items():
        if path.parent.resolve() != folder.resolve():
            continue  # the user's own
        now = _code(text, path.name)
        committed = _committed(path)
        if committed is None:
            recorded = _recorded(folder).get(path.name)
            if recorded is not None and recorded != digest(now):
                lines.append(f"{path.name} differs from the notebook that was shipped")
        elif committed == "":
            lines.append(f"{path.name} is not committed")
        elif (before := _code(committed, path.name)) != now:
            places = [
                i for i, pair in enumerate(zip(before, now, strict=False), start=1) if pair[0] != pair[1]
            ]
            places += range(min(len(before), len(now)) + 1, max(len(before), len(now)) + 1)
            told = f"code cell{'s' * (len(places) > 1)} {', '.join(map(str, places))}"
            lines.append(f"{path.name} differs from the committed notebook in {told}")
    return lines


def _code(text: str, where: str) -> list[str]:
    return [cell["source"].strip() for cell in cells_of(text, where) if cell["cell_type"] == "code"]


def _committed(path: Path) -> str | None:
    """The notebook's text in git's HEAD; '' if it has none, None where there is no git or no checkout."""
    command = ["git", "-C", str(path.parent), "show", f"HEAD:./{path.name}"]
    try:
        shown = subprocess.run(command, capture_output=True)
        if shown.returncode == 0:
            return shown.stdout.decode()
        ask = [
            "git",
            "-C",
            str(path.parent),
            "ls-files",
            "--error-unmatch",
            RECORD,
        ]  # ours, not a checkout around us
        return "" if subprocess.run(ask, capture_output=True).returncode == 0 else None
    except OSError:
        return None


def _recorded(folder: Path) -> dict[str, str]:
    file = folder / RECORD
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def digest(code: list[str]) -> str:
    """sha256 of a notebook's code cells."""
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def digests(folder: Path = NOTEBOOKS) -> dict[str, str]:
    """The digest of every notebook of a folder, by file name."""
    return {
        path.name: digest(_code(path.read_text("utf-8"), path.name))
        for path in sorted(folder.glob("*.ipynb"))
    }


if __name__ == "__main__":  # make format: python -m chatvec_lab.study.shipped
    (NOTEBOOKS / RECORD).write_text(json.dumps(digests(), indent=0) + "\n", "utf-8")
    sys.exit(0)
