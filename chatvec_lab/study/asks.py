"""What a cell asks of the engine that runs it: hours, gpus, cpus and memory_gb, the same words in a study and a command.

notebooks:
  03_scale_sweep: {hours: 2, gpus: 1, memory_gb: 40}
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chatvec_lab.keys import Key
from chatvec_lab.reading import as_text

ASKS = {
    "hours": Key(
        "a number above 0",
        "How long each of its cells may take, on a cluster; the command's `--slurm` wins, also for the three below.",
    ),
    "gpus": Key("a whole number, or a kind and a number such as a100:2", "GPUs that each of its cells gets."),
    "cpus": Key("a whole number, 1 or more", "Processor cores that each of its cells gets."),
    "memory_gb": Key("a number above 0", "Gigabytes of memory that each of its cells gets."),
}


def read_asks(entry: Mapping[str, Any], where: str) -> dict[str, str]:
    """What a notebook's entry in a study asks for, as written; ValueError for what no engine could give."""
    found = {name: as_text(entry[name], f"{where}{name}") for name in ASKS if entry.get(name) is not None}
    for name, text in found.items():
        number_of(name, text, f"{where}{name}: {text}")
    return found


def number_of(name: str, value: Any, said: str) -> float:
    """How much is asked for; ValueError, beginning with `said`, for what is no amount. GPUs may name a kind: a100:2.

    >>> number_of("hours", "0.5", "hours: 0.5"), number_of("gpus", "a100:2", "gpus: a100:2")
    (0.5, 2)
    """
    text = str(value)
    if name in ("hours", "memory_gb"):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 < number < 1e6:
            raise ValueError(f"{said}: there should be a number above 0, such as 4.")
        return number
    if name == "gpus" and (kind := re.fullmatch(r"[A-Za-z][\w.-]*:(\d{1,6})", text)):
        text = kind[1]
    least = 0 if name == "gpus" else 1
    if not re.fullmatch(r"\d{1,6}", text) or int(text) < least:
        raise ValueError(f"{said}: there should be a whole number of {least} or more.")
    return int(text)


def divided(
    cells: Iterable[Any], *, devices: Sequence[str], cores: int, memory_gb: float, workers: int | None
) -> tuple[int, list[str]]:
    """How many workers a machine gives for what these cells ask for, and the GPUs of each ("0,1"; [] without any).

    workers: None takes one a set of GPUs, or one a core, 8 at most, and as many as have the cores and the memory.
    ValueError where a cell asks for more than there is; hours are not limited.
    """
    (gpus, notebook), (cpus, _), (gigabytes, large) = (
        _most(cells, name) for name in ("gpus", "cpus", "memory_gb")
    )
    if gpus > len(devices):
        raise ValueError(
            f"{notebook} asks for {gpus} GPU{'s' * (gpus != 1)}, and {len(devices) or 'none'} can be used here. Run it "
            "where there are as many (--engine slurm), or ask for fewer in the study (gpus:)."
        )
    if gigabytes > memory_gb:
        raise ValueError(
            f"{large} asks for {gigabytes:g} GB of memory, and this machine has {memory_gb:.0f}. Run it on a larger one "
            "(--engine slurm), or ask for less in the study (memory_gb:)."
        )
    each = max(1, int(gpus))
    sets = [",".join(devices[i : i + each]) for i in range(0, len(devices) + 1 - each, each)]
    most = int(memory_gb // gigabytes) if gigabytes else len(sets) or 8
    if workers and gigabytes and workers > most:
        raise ValueError(
            f"--workers {workers}: {large} asks for {gigabytes:g} GB of memory, and {workers} times that is more than "
            f"the {memory_gb:.0f} GB of this machine; take --workers {most}."
        )
    room = max(1, cores // max(1, int(cpus)))
    return workers or min(most, len(sets) or min(cores, 8), room if cpus else most), sets


def _most(cells: Iterable[Any], name: str) -> tuple[float, str]:
    """The most of something that one of these cells asks for, and its notebook; (0, "") where none asks."""
    asked = [(number_of(name, cell.asks[name], name), cell.notebook) for cell in cells if name in cell.asks]
    return max(asked, default=(0, ""))


def groups(cells: Iterable[Any]) -> list[tuple[dict[str, str], list[Any]]]:
    """The cells by what they ask for, in their order."""
    found: dict[tuple, list[Any]] = {}
    for cell in cells:
        found.setdefault(tuple(sorted(cell.asks.items())), []).append(cell)
    return [(dict(asks), group) for asks, group in found.items()]
