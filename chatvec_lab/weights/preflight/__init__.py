"""May this vector be added to this CP? One readable report, before a byte is written.

Its first part comes from headers, configs and tokenizers alone; the second from a seeded sample of rows, and is called
an estimate. What it finds is told, or refuses the merge; a refusal about meaning (configs, descent, a CP that is its
base) can be overridden by its name, one about layout, vocabulary, quantised or damaged files cannot.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatvec_lab.weights.mixed import OF_A_SUM, check_mixed
from chatvec_lab.weights.preflight import configs, findings
from chatvec_lab.weights.preflight.descent import Holding
from chatvec_lab.weights.preflight.findings import Finding
from chatvec_lab.weights.preflight.kinship import kinship
from chatvec_lab.weights.preflight.noise import quantisation
from chatvec_lab.weights.preflight.tokens import contradictions
from chatvec_lab.weights.saving.provenance import Digests
from chatvec_lab.weights.tokens.vocabulary import Policy
from chatvec_lab.weights.vector import WeightVector

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.merged import MergedCheckpoint

FORCIBLE = (*configs.FORCIBLE, "descent", "cp-is-base", "tokens")
ROOM = "disk and memory"


@dataclass(frozen=True)
class Report:
    """What `preflight` found. `print(report)` is the page; `check()` raises what refuses.

    `sections` maps titles to lines; `forced` names the refusals that were overridden; `holdings` has the figures of
    each term of the vector that knows its base. `read` has the digests of what was read whole, for the manifest.
    """

    title: str
    sections: dict[str, list[str]]
    findings: tuple[Finding, ...] = ()
    forced: tuple[str, ...] = ()
    holdings: dict[str, Holding] = field(default_factory=dict)
    read: Digests | None = field(default=None, repr=False, compare=False)

    def __getstate__(self):  # what was read is known in this process only
        return vars(self) | {"read": None}

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.refuses and f.name not in self.forced)

    def check(self, *, estimates: bool = True) -> None:
        """ValueError that lists what refuses, and how to override what can be; without `estimates` these only warn."""
        refusing = [f for f in self.refusals if estimates or not f.is_estimate]
        for finding in self.refusals:
            if finding not in refusing:
                how = f"force=[{finding.name!r}] says that it is meant"
                warnings.warn(f"{self.title}: {finding.text} ({how})", UserWarning, stacklevel=4)
        if not refusing:
            return
        names = list(dict.fromkeys(f.name for f in refusing if f.name in FORCIBLE))
        told = " ".join(f"--force {name}" for name in names)
        how = f"If it is meant all the same: {told} (in Python force={names}). " if names else ""
        lines = "\n  ".join(f"{f.name}: {f.text}" for f in refusing)
        raise ValueError(f"{self.title} is refused:\n  {lines}\n{how}Nothing was written.")

    def __str__(self) -> str:
        lines = [self.title]
        for title, texts in self.sections.items():
            lines += [f"  {title}", *(f"    {text}" for text in texts)]
        for finding in self.findings:
            mark = "FORCED" if finding.name in self.forced else "REFUSED" if finding.refuses else "note"
            lines.append(f"  {mark} {finding.name}: {finding.text}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The report as a manifest keeps it: what does not depend on the machine."""
        return {
            "sections": {title: lines for title, lines in self.sections.items() if title != ROOM},
            "findings": [asdict(finding) for finding in self.findings],
            "forced": list(self.forced),
            "holdings": {label: asdict(held) for label, held in self.holdings.items()},
        }


def preflight(
    cp: Checkpoint,
    tau: WeightVector,
    *,
    vocabulary: Policy = "match",
    copy_special: bool = False,
    add_tokens: bool = False,
    allow_mixed: bool = False,
    bases: Iterable[Checkpoint] = (),
    full: bool = False,
    force: Iterable[str] = (),
    out: Path | None = None,
    seed: int = 0,
    places: int = 1000,
) -> Report:
    """Whether `cp.add(tau, …)` may be saved, and what there is to know before; the first options are those of `add`.

    `bases`: other candidates for the base, of which the nearest is named. `full`: read everything instead of a sample
    (some rows of three layers and `places` more places, about 1 % of the bytes; small models more). `force`: names of
    refusals to override (`FORCIBLE`). `out`: where the result would go, for the room on its disk.
    Errors of layout and vocabulary become refusals of the report; a damaged or quantised file raises.

    >>> from chatvec_lab import load_family
    >>> nano = load_family("nano")
    >>> report = preflight(nano.cp["zh"], nano.chat - nano.base)
    >>> report.refusals, list(report.sections)[:2]
    ((), ['members', 'tensors'])
    """
    merged = cp.add(
        tau, vocabulary=vocabulary, copy_special=copy_special, add_tokens=add_tokens, allow_mixed=allow_mixed
    )
    _ = cp.names, *(source.names for source in tau.sources())  # what is damaged raises as such
    try:
        check_mixed(merged.label, [cp, *tau.sources()], allow_mixed, OF_A_SUM)
    except ValueError as error:
        return Report(merged.label, {}, (Finding("mixed quantisation", True, str(error)),))
    try:
        merged.check()
    except ValueError as error:
        return Report(merged.label, {}, (Finding("layout", True, str(error)),))
    return examine(
        merged, bases=bases, full=full, force=force, out=out, seed=seed, places=places, prompts=True
    )


def examine(
    merged: MergedCheckpoint,
    *,
    bases: Iterable[Checkpoint] = (),
    full: bool = False,
    force: Iterable[str] = (),
    out: Path | None = None,
    seed: int = 0,
    places: int = 200,
    prompts: bool = False,
    jobs: int | None = None,
) -> Report:
    """The report about a sum that passed its own `check`; a merge's own reads fewer `places`.

    `prompts`: cut chat prompts also where rules are equal. `jobs`: threads that a save would have, for its memory.
    """
    force = tuple(dict.fromkeys(force))
    unknown = [name for name in force if name not in FORCIBLE]
    if unknown:
        raise ValueError(
            f"--force {unknown[0]}: only findings about meaning can be overridden ({', '.join(FORCIBLE)}); layout, "
            "vocabulary, quantised and damaged files cannot."
        )
    found: list[Finding] = []
    holdings: dict[str, Holding] = {}
    sections = {
        "members": findings.members(merged),
        "tensors": findings.tensors(merged),
        "vocabulary": findings.vocabulary(merged),
        "chat prompts": findings.chat_prompts(merged, found, always=prompts),
        "configs": findings.settings(merged, found),
        "files": findings.files(merged),
        ROOM: findings.room(merged, out, jobs),
    }
    for _, chat, base in findings.pairs(merged.vector):
        found += contradictions("chat", chat, base, full=full, seed=seed)
        if merged.policy != "skip":
            found += contradictions("CP", merged.cp, base, full=full, seed=seed)
    read = Digests(dict.fromkeys([merged.cp, *merged.vector.sources()]))
    lines = quantisation(merged, found, full=full, seed=seed, places=places)
    if lines:
        sections["quantisation"] = lines
    how = "everything read" if full else "an estimate from sampled rows"
    sections[f"descent ({how})"] = kinship(
        merged, found, holdings, bases=list(bases), full=full, seed=seed, places=places, record=read.record
    )
    forced = tuple(dict.fromkeys(f.name for f in found if f.refuses and f.name in force))
    return Report(merged.label, sections, tuple(found), forced, holdings, read)
