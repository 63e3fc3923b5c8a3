"""`lab`: JupyterLab on working copies of the notebooks, so that playing changes no study."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

RECORD = ".copied.json"  # in the folder of copies: the digest of each as it was copied


def add(verbs) -> None:
    """The verb and its arguments."""
    parser = verbs.add_parser(
        "lab",
        help="open JupyterLab on working copies of the notebooks",
        description="Open JupyterLab on copies of the notebooks, in the folder lab/. What you do there changes no study: "
        "`run` runs the notebooks of notebooks/. A copy that you have edited is kept; the others are renewed.",
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the copies are (default: lab/, in the project)"
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="NOTEBOOK",
        help="what to open (default: playground); options of jupyter lab stand behind --, such as -- --port 9999",
    )
    parser.set_defaults(run=run)


def run(options) -> int:
    """Renew the copies, say which are the user's own, and become JupyterLab."""
    from chatvec_lab.paths import NOTEBOOKS, ROOT

    given = list(options.arguments)
    name = given.pop(0).removesuffix(".ipynb") if given and not given[0].startswith("-") else "playground"
    folder = (options.folder or ROOT / "lab").resolve()
    for line in renew(NOTEBOOKS, folder):
        print(line)
    if not (folder / f"{name}.ipynb").is_file():
        from chatvec_lab.keys import nearest

        raise FileNotFoundError(
            f"no notebook {name!r} in {folder}; {nearest(name, sorted(f.stem for f in folder.glob('*.ipynb')))}"
        )
    print(f"These are copies, in {folder}: what you change there changes no study.", flush=True)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={folder}",
        str(folder / f"{name}.ipynb"),
    ]
    command += ["--KernelManager.transport_encryption=auto"]  # or ipykernel warns at every start
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.execve(sys.executable, [*command, *given], os.environ | {"PYTHONPATH": path})


def renew(notebooks: Path, folder: Path) -> list[str]:
    """Copy each notebook that is new or has changed, but for copies that were edited; what there is to say, in lines."""
    if folder.resolve() == notebooks.resolve():
        raise ValueError(f"{folder} holds the notebooks themselves; name another folder for their copies.")
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / RECORD
    copied = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    lines = []
    for shipped in sorted(notebooks.glob("*.ipynb")):
        copy, now = folder / shipped.name, digest(shipped)
        before = copied.get(shipped.name)
        if copy.is_file() and digest(copy) != before:
            if before != now:
                lines.append(
                    f"{shipped.name}: your edited copy is kept, and the shipped one has changed since; rename or delete "
                    f"{copy} to get the new one"
                )
            continue
        if not copy.is_file() or before != now:
            shutil.copyfile(shipped, copy)
            copied[shipped.name] = now
    record.write_text(json.dumps(copied, indent=1) + "\n", "utf-8")
    return lines


def digest(path: Path) -> str:
    """Of what is written in a notebook's cells; '' for a file that is none. Running it changes outputs alone."""
    from chatvec_lab.study.parameters import notebook_cells

    try:
        cells = [(cell["cell_type"], cell["source"]) for cell in notebook_cells(path)]
    except ValueError:
        return ""
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()
