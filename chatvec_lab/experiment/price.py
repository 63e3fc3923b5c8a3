"""What each way to a model costs, from what its training recorded."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from chatvec_lab.experiment.models import TRAINED

if TYPE_CHECKING:
    from chatvec_lab.families import Family

SHARED = ("base", "chat")  # published by others, as a rule


def routes(family: "Family", language: str) -> pd.DataFrame:
    """The training behind each model of the lineup, beyond base and chat; one row a way.

    Columns: model, stages, tokens and seconds (of all its stages), tokens_beyond_cp (less those of the CP that
    CP + τ starts from), needs_instructions (in the target language), machine. Tokens are those read in training,
    as each member's `stage.json` recorded them; seconds tell of the machine's load too. Adding τ reads no token:
    each weight of the CP is read and written once. Empty where nothing was recorded, as with published models.
    """
    from chatvec_lab.weights.checkpoint import read_json

    known = {name: read_json(Path(member.source, "stage.json")) for name, member in family.members.items()}
    known = {name: stage for name, stage in known.items() if stage}
    cp = f"cp_{language}"
    if cp not in known:
        return pd.DataFrame()
    ways = {"CP": [cp], "CP + τ": [cp]}
    for member, label in TRAINED.items():
        if f"{member}_{language}" in known:
            ways[label] = _stages(known, f"{member}_{language}")
    rows = []
    for label, names in ways.items():
        total = {unit: sum(known[name][unit] for name in names) for unit in ("tokens", "seconds")}
        beyond = {"tokens_beyond_cp": total["tokens"] - known[cp]["tokens"]}
        needs = any("_ft_" in name for name in names)
        machines = ", ".join(dict.fromkeys(known[name].get("machine", "") for name in names))
        stages = " + ".join(name.removesuffix(f"_{language}") for name in names)
        told = {"needs_instructions": needs, "machine": machines}
        rows.append({"model": label, "stages": stages, **total, **beyond, **told})
    return pd.DataFrame(rows)


def _stages(known: dict, member: str) -> list[str]:
    """The member and its parents, the oldest first, without those that are shared by all."""
    names = []
    while member in known and member not in SHARED:
        names.insert(0, member)
        member = known[member]["parent"]
    return names
