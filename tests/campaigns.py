"""Parts of a campaign that have passed, kept in build/campaigns/, so that `make test-campaigns` goes on where it stopped."""

import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Kept:
    """The parts of one campaign that have passed with the code of these folders of chatvec_lab as it is now."""

    def __init__(self, name: str, *folders: str):
        files = sorted(file for folder in folders for file in (ROOT / "chatvec_lab" / folder).rglob("*.py"))
        version = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
        self.file = ROOT / "build" / "campaigns" / f"{name}-{version}.jsonl"

    def __contains__(self, part: str) -> bool:
        lines = self.file.read_text("utf-8").splitlines() if self.file.exists() else []
        is_done = part in [json.loads(line)["part"] for line in lines]
        if is_done:
            print(f"{part}: has passed with this code, see {self.file}")
        return is_done

    def add(self, part: str, **counts) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": part, **counts}) + "\n")
