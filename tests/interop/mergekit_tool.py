"""mergekit in an environment of its own, layered over this one: torch and transformers are not installed twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "scratch" / "mergekit-layered"
VERSION = "0.1.5"


def find_mergekit() -> tuple[Path | None, str]:
    """(mergekit-yaml, "") or (None, why not). Installs it once under benchmarks/scratch/, which git ignores."""
    on_path = shutil.which("mergekit-yaml")
    if on_path:
        return Path(on_path), ""
    command = FOLDER / "bin" / "mergekit-yaml"
    if command.exists():
        return command, ""
    venv.create(FOLDER, with_pip=True)
    python = FOLDER / "bin" / "python"
    inner = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (Path(inner.stdout.strip()) / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [python, "-m", "pip", "install", "-q", f"mergekit=={VERSION}"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(FOLDER, ignore_errors=True)
        return (
            None,
            f"pip could not install mergekit: {(done.stderr.strip().splitlines() or ['no message'])[-1]}",
        )
    return command, ""


if __name__ == "__main__":
    print(find_mergekit())
    sys.exit(0)
