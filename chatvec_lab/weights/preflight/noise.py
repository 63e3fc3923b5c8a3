"""What quantisation has taken from the members, beside what the vector moves: estimates, by kind of module."""

from __future__ import annotations

from collections import defaultdict
from math import isnan, prod, sqrt
from typing import TYPE_CHECKING

from chatvec_lab.weights.mixed import quantised_sources
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.preflight.descent import _places, _sum
from chatvec_lab.weights.preflight.findings import Finding

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.merged import MergedCheckpoint


def quantisation(
    merged: MergedCheckpoint, found: list[Finding], *, full: bool, seed: int, places: int
) -> list[str]:
    """How each member was quantised, the noise floor by part, and one finding; no lines where none was."""
    members = list(dict.fromkeys([merged.cp, *merged.vector.sources()]))
    notes = {member.note for member in members}
    if notes == {""}:
        return []
    lines = [f"{member.label}: {member.note or 'not quantised'}" for member in members]
    if merged.cp.note:
        dtypes = sorted({merged.dtype_name(n) for n in merged.cp.names if merged.cp.quantised(n)})
        lines.append(f"what was quantised of the CP is written as {', '.join(dtypes)}, not as it was stored")
    floors = _floors(merged, full=full, seed=seed, places=places)
    told = ", ".join(f"{module} {_share(*sums)}" for module, sums in floors.items())
    unknown = any(isnan(noise) for _, noise in floors.values())
    whole = [sum(part) for part in zip(*floors.values(), strict=True)] or [0.0, 0.0]
    lines.append(f"expected noise over |vector|, from the formats' steps: {told or 'nothing is quantised'}")
    how = "all members are quantised alike" if len(notes) == 1 else "members are quantised differently"
    floor = "is not known for this format" if unknown else f"is expected to be {_share(*whole)} of |vector|"
    found.append(
        Finding(
            "quantised",
            False,
            f"{how} ({'; '.join(lines[: len(members)])}). The noise that this leaves in the vector {floor} (an estimate; "
            "by part in the report).",
            is_estimate=True,
        )
    )
    return lines


def _share(squared: float, noise: float) -> str:
    return "unknown" if isnan(noise) else f"{sqrt(noise / squared):.2f}" if squared else "without a vector"


def _floors(
    merged: MergedCheckpoint, *, full: bool, seed: int, places: int
) -> dict[str, tuple[float, float]]:
    """By kind of module: the squared L2 of the vector, and that of its expected noise, in the places read."""
    vector, layout, work = merged.vector, merged.cp.layout, Workspace()
    names = [n for n in merged.cp.names if not merged.is_carried(n)]
    noisy = [n for n in names if any(True for _ in quantised_sources(vector, merged.named(n)))]
    total = sum(prod(merged.cp.shape(name)) for name in noisy)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, start, stop in _places(
        merged, noisy, None if full else max(total // 200, 1 << 17), places, seed
    ):
        work.release()
        tau = _sum(merged.parts(name, start, stop, work), stop - start)
        entry = sums[layout[name].module]
        entry[0] += float(tau @ tau)
        for coefficient, source, stored in quantised_sources(vector, merged.named(name)):
            end = min(stop, prod(source.shape(stored)))  # a table's rows may be fewer, and lie elsewhere
            entry[1] += coefficient**2 * _noise(source, stored, min(start, end), end)
    return {module: (squared, noise) for module, (squared, noise) in sums.items()}


def _noise(source: Checkpoint, name: str, start: int, stop: int) -> float:
    return source.noise(name, start, stop) if stop > start else 0.0
