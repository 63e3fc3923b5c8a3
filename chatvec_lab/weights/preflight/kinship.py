"""Are chat and CP of one base, and how much of the vector does the CP hold already? The sampled part of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.weights.preflight.descent import COSINE, Holding, evidence, holding, is_nothing, rows_for
from chatvec_lab.weights.preflight.findings import Finding, pairs
from chatvec_lab.weights.vector import Term, WeightVector

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.merged import MergedCheckpoint

HELD = 0.2  # of tau; from here on the report says what that may come from


def kinship(
    merged: MergedCheckpoint,
    found: list[Finding],
    holdings: dict[str, Holding],
    *,
    bases: list[Checkpoint],
    full: bool,
    seed: int,
    places: int,
    record: Callable | None = None,
) -> list[str]:
    """Are chat and CP of the base; how much of the vector does the CP hold; does anything differ at all?"""
    known, lines = pairs(merged.vector), []
    if not known and not bases:
        return ["not judged: the vector is stored, and its base is not at hand"]
    if not known:  # the base of a stored vector, by the user's word
        return [
            _descends("CP", merged.cp, base, evidence(merged.cp, base, seed=seed), found)
            for base in bases[:1]
        ]
    total = sum(prod(merged.cp.shape(name)) for name in merged.cp.names)
    budget = max(3 * total // 220, 1 << 18)  # elements for each of two measures: together 1 % of the members
    for term, chat, base in known:
        rows = rows_for([base, chat, base, merged.cp], budget)
        apart: dict[str, list[float]] = {"chat": [], "CP": []}
        for role, member in (("chat", chat), ("CP", merged.cp)):
            placed = term.leaf.placed if role == "CP" else {}
            for candidate in (base, *bases):
                table = evidence(member, candidate, rows=rows, seed=seed, placed=placed)
                table = [row for row in table if _counts(merged, candidate, row, term.leaf.placed)]
                apart[role].append(_distance(table))
                if candidate is base:
                    lines.append(_descends(role, member, base, table, found))
        if bases:
            lines += _nearest({"chat": chat, "CP": merged.cp}, [base, *bases], apart, found)
        if not any(finding.name == "descent" for finding in found):  # else it would measure nothing
            elements = None if full else budget // 5
            lines += _held(merged, term, (chat, base), found, holdings, elements, seed, places, record)
    return lines


def _counts(merged: MergedCheckpoint, base: Checkpoint, row: dict, placed: Mapping[str, str]) -> bool:
    """Whether a row of the evidence is about a tensor that gets the vector, or that the CP lacks."""
    published = base.layout.published(row["tensor"])
    outer = {inner: outer for outer, inner in placed.items()}
    stored = merged.cp.resolve(outer.get(published, published))
    return stored is None or not merged.is_carried(stored)


def _distance(table: list[dict]) -> float:
    apart = [row["relative_distance"] for row in table if "relative_distance" in row]
    return float(np.sqrt(np.mean(np.square(apart)))) if apart else np.nan


def _descends(
    role: str, member: Checkpoint, base: Checkpoint, table: list[dict], found: list[Finding]
) -> str:
    bad = [row for row in table if not row["descends"]]
    cosines = [row["cosine"] for row in table if "cosine" in row]
    told = f"cosine {min(cosines):.3f} to {max(cosines):.3f}" if cosines else "no cosine"
    if bad:
        worst = bad[0]
        why = worst["problem"] or f"has a cosine of {worst['cosine']:.3f}, a descendant at least {COSINE}"
        hint = ""
        if {row["module"] for row in bad} <= {"embedding", "head"} and len(bad) < len(table):
            hint = " The layers do descend: leave the tables alone with --vocabulary skip."
        found.append(
            Finding(
                "descent",
                True,
                f"{role} {member.label} does not descend from {base.label}: {worst['tensor']} {why} ({len(bad)} of "
                f"{len(table)} sampled tensors). A difference of unrelated models is no chat vector.{hint}",
                is_estimate=True,
            )
        )
    verdict = "does NOT descend" if bad else "descends"
    return f"{role} {member.label}: {verdict} from {base.label} ({len(table)} tensors, {told})"


def _nearest(
    models: Mapping[str, Checkpoint],
    bases: list[Checkpoint],
    apart: Mapping[str, list[float]],
    found: list[Finding],
) -> list[str]:
    """Which of several candidate bases chat and CP lie nearest to."""
    names = [
        base.label if [b.label for b in bases].count(base.label) == 1 else f"{base.label} (--base {i})"
        for i, base in enumerate(bases, 1)
    ]
    lines = []
    for role, member in models.items():
        known = {name: far for name, far in zip(names, apart[role], strict=True) if not np.isnan(far)}
        if not known:
            continue
        near = min(known, key=known.get)
        told = ", ".join(f"{name} {far:.3f}" for name, far in known.items())
        lines.append(f"{role} {member.label}: nearest base {near} (distance over the base's length: {told})")
        if near != names[0]:
            text = f"{role} {member.label} lies nearer to {near} than to {names[0]} ({told})."
            found.append(Finding("nearest base", False, text))
    return lines


def _held(
    merged, term: Term, of, found, holdings, elements: int | None, seed: int, places: int, record
) -> list[str]:
    """The share of the vector that the CP holds already, and whether chat or CP is the base."""
    chat, base = of
    alone = WeightVector((Term(1.0, term.leaf, term.schedules),))
    try:
        held = holding(
            merged.cp.add(alone, vocabulary=merged.policy, allow_mixed=True), base, elements=elements, seed=seed,
            places=places, record=record,
        )  # fmt: skip
    except ValueError:  # base and CP do not pair (a family within a larger model)
        return [f"how much of {alone.label} the CP holds is not measured: CP and {base.label} do not pair"]
    holdings[alone.label] = held
    if not held.length and (held.is_exact or is_nothing(alone)):
        text = f"{chat.label} and {base.label} hold the same numbers: the vector is zero everywhere."
        found.append(Finding("vector", True, text))
        return [f"{alone.label} is zero"]
    is_known = (
        held.is_exact or merged.cp.fingerprint() == base.fingerprint()
    )  # the same files need no reading
    if not held.distance and (is_known or is_nothing(merged.cp.minus(base, allow_mixed=True))):
        text = (
            f"{merged.cp.label} holds the numbers of {base.label} for every token that both have: nothing was "
            "continually pre-trained, and the sum at scale 1 is the chat model."
        )
        found.append(Finding("cp-is-base", True, text, is_estimate=True))
    if np.isnan(held.share):
        return []
    interval = "" if held.is_exact else f" (95 % interval {held.low:.1%} to {held.high:.1%})"
    if held.low > max(held.band, HELD):
        cause = (
            "was likely made from the chat model"
            if held.share > 0.5
            else "may have seen the chat model's data"
        )
        text = (
            f"{merged.cp.label} already holds {held.share:.0%} of {alone.label}{interval}; it {cause}. At scale s "
            f"the merge then holds {held.share:.2f} + s of the vector."
        )
        found.append(Finding("held", False, text))
    return [
        f"|{alone.label}| is {held.length:.2%} of the base's length, |CP - base| {held.distance:.2f} times that; the "
        f"CP already holds {held.share:.1%} of it{interval}, with random signs ± {held.band:.2%} "
        f"({held.elements:,} of {held.of:,} elements)"
    ]
