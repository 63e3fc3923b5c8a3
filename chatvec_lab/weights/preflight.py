"""May this vector be added to this CP? One readable report, before a byte is written.

Its first part comes from headers, configs and tokenizers alone; the second from a seeded sample of rows, and is called
an estimate. What it finds is told, or refuses the merge; a refusal about meaning (configs, descent, a CP that is its
base) can be overridden by its name, one about layout, vocabulary, quantised or damaged files cannot.
"""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatvec_lab.weights import configs
from chatvec_lab.weights.descent import COSINE, Holding, evidence, holding, is_nothing, rows_for
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import BLOCK
from chatvec_lab.weights.saving.stream import workers
from chatvec_lab.weights.sources.beside import sort_companions
from chatvec_lab.weights.tokenizers import compare_prompts, mending, other_rules, rules_of
from chatvec_lab.weights.vector import Term, WeightVector
from chatvec_lab.weights.vocabulary import Policy, Vocabulary

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.merged import MergedCheckpoint

FORCIBLE = (*configs.FORCIBLE, "descent", "cp-is-base")
HELD = 0.2  # of tau; from here on the report says what that may come from


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing: its name (for `force`), whether it refuses the merge, and what was found.

    An estimate refuses `merge` on the command line; a `save` in Python goes on and warns.
    """

    name: str
    refuses: bool
    text: str
    is_estimate: bool = False


@dataclass(frozen=True)
class Report:
    """What `preflight` found. `print(report)` is the page; `check()` raises what refuses.

    `sections` maps titles to lines; `forced` names the refusals that were overridden.
    """

    title: str
    sections: dict[str, list[str]]
    findings: tuple[Finding, ...] = ()
    forced: tuple[str, ...] = ()
    holdings: dict[str, Holding] = field(default_factory=dict)

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.refuses and f.name not in self.forced)

    def check(self, *, estimates: bool = True) -> None:
        """ValueError that lists what refuses, and how to override what can be; without `estimates` these only warn."""
        refusing = [f for f in self.refusals if estimates or not f.is_estimate]
        for finding in self.refusals:
            if finding not in refusing:
                warnings.warn(
                    f"{self.title}: {finding.text} (force=[{finding.name!r}] says that it is meant)",
                    stacklevel=4,
                )
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
        """The report as a manifest keeps it: no paths, no times."""
        kept = {title: lines for title, lines in self.sections.items() if title not in ("disk and memory",)}
        return {
            "sections": kept,
            "findings": [asdict(finding) for finding in self.findings],
            "forced": list(self.forced),
            "holdings": {label: asdict(found) for label, found in self.holdings.items()},
        }


def preflight(
    cp: Checkpoint,
    tau: WeightVector,
    *,
    vocabulary: Policy = "match",
    copy_special: bool = False,
    add_tokens: bool = False,
    bases: Iterable[Checkpoint] = (),
    full: bool = False,
    force: Iterable[str] = (),
    out: Path | None = None,
    seed: int = 0,
) -> Report:
    """Whether `cp.add(tau, …)` may be saved, and what there is to know before; the options are those of `add`.

    `bases`: other candidates for the base, of which the nearest is named. `full`: read everything instead of a sample.
    `force`: names of refusals to override (`FORCIBLE`). `out`: where the result would go, for the room on its disk.
    Errors of layout and vocabulary become refusals of the report; a damaged or unreadable file raises.

    >>> from chatvec_lab import load_family
    >>> nano = load_family("nano")
    >>> report = preflight(nano.cp["zh"], nano.chat - nano.base)
    >>> report.refusals, list(report.sections)[:2]
    ((), ['members', 'tensors'])
    """
    merged = cp.add(tau, vocabulary=vocabulary, copy_special=copy_special, add_tokens=add_tokens)
    try:
        merged.check()
    except ValueError as error:
        return Report(merged.label, {}, (Finding("layout", True, str(error)),))
    return examine(merged, bases=bases, full=full, force=force, out=out, seed=seed, prompts=True)


def examine(
    merged: MergedCheckpoint,
    *,
    bases: Iterable[Checkpoint] = (),
    full: bool = False,
    force: Iterable[str] = (),
    out: Path | None = None,
    seed: int = 0,
    prompts: bool = False,
) -> Report:
    """The report about a sum that has passed its own `check`. `prompts`: cut chat prompts even where rules are equal."""
    force = tuple(dict.fromkeys(force))
    unknown = [name for name in force if name not in FORCIBLE]
    if unknown:
        raise ValueError(
            f"--force {unknown[0]}: only findings about meaning can be overridden ({', '.join(FORCIBLE)}); layout, "
            "vocabulary, quantised and damaged files cannot."
        )
    sections: dict[str, list[str]] = {
        "members": _members(merged),
        "tensors": _tensors(merged),
    }
    findings: list[Finding] = []
    sections["vocabulary"] = _vocabulary(merged)
    sections["chat prompts"] = _prompts(merged, findings, always=prompts)
    sections["configs"] = _configs(merged, findings)
    sections["files"] = _files(merged)
    sections["disk and memory"] = _room(merged, out)
    found = {}
    sections["descent" + (" (everything read)" if full else " (an estimate from sampled rows)")] = _descent(
        merged, findings, found, list(bases), full, seed
    )
    forced = tuple(f.name for f in findings if f.refuses and f.name in force)
    return Report(merged.label, sections, tuple(findings), forced, found)


def _pairs(vector: WeightVector) -> list[tuple[Term, Checkpoint, Checkpoint]]:
    """(term, chat, base) of the terms that know both; a stored vector has its own files alone."""
    found = []
    for term in vector.terms:
        base = term.leaf.base
        others = [source for source in term.leaf.sources() if source is not base]
        if base is not None and len(others) <= 1 and term.factor:
            found.append((term, others[0] if others else base, base))
    return found


def _members(merged: MergedCheckpoint) -> list[str]:
    members = {"CP": merged.cp}
    for i, (_, chat, base) in enumerate(_pairs(merged.vector), 1):
        number = f" {i}" if len(merged.vector.terms) > 1 else ""
        members |= {f"chat{number}": chat, f"base{number}": base}
    lines = []
    for role, member in members.items():
        dtypes = Counter(member.dtype_name(name) for name in member.names)
        size = sum(prod(member.shape(name)) for name in member.names)
        note = f"; {member.note}" if member.note else ""
        kinds = ", ".join(f"{dtype} ({n})" if len(dtypes) > 1 else dtype for dtype, n in dtypes.most_common())
        lines.append(
            f"{role}: {member.label}, {size:,} elements in {len(member.names)} tensors, {kinds}{note}"
        )
    if not _pairs(merged.vector):
        lines.append(f"vector: {merged.vector.label}; its base is not at hand, so descent cannot be judged")
    return lines


def _tensors(merged: MergedCheckpoint) -> list[str]:
    """What gets the vector and what is carried, by component and kind of module."""
    layout, groups = merged.cp.layout, {}
    for name in merged.cp.names:
        part = layout[name]
        group = groups.setdefault((part.component, part.module), [0, 0, 0])
        group[merged.is_carried(name)] += 1
        group[2] += prod(merged.cp.shape(name))
    lines = []
    for (component, module), (changed, carried, size) in groups.items():
        told = [f"{changed} get the vector"] * bool(changed) + [f"{carried} are carried from the CP"] * bool(
            carried
        )
        lines.append(f"{component} {module}: {', '.join(told)} ({size:,} elements)")
    lines += [
        f"{name}: {why}; left out" for name, why in list(merged.left_out.items())[:8] if why != "not selected"
    ]
    lines += [f"{name} {why}" for name, why in list(layout.unknown.items())[:8]]
    return lines


def _relation(ours: Vocabulary | None, theirs: Vocabulary | None) -> str:
    """How our tokens lie to theirs, in words."""
    if ours is None or theirs is None:
        return "unknown (no tokenizer)"
    if ours.tokens == theirs.tokens:
        return "the same tokens in the same rows"
    more, less = ours.tokens.keys() - theirs.tokens.keys(), theirs.tokens.keys() - ours.tokens.keys()
    moved = sum(ours.tokens[token] != row for token, row in theirs.tokens.items() if token in ours.tokens)
    told = [f"{len(more):,} tokens more"] * bool(more) + [f"{len(less):,} fewer"] * bool(less)
    told += [f"{moved:,} in another row"] * bool(moved)
    return ", ".join(told)


def _vocabulary(merged: MergedCheckpoint) -> list[str]:
    lines = [f"{merged.cp.label}: {merged.cp.lacking}"] if merged.cp.lacking else []
    lines += [f"CP beside the vector's: {_relation(merged.cp.vocabulary, merged.vector.vocabulary)}"]
    for _, chat, base in _pairs(merged.vector)[:1]:
        lines.append(f"chat beside base: {_relation(chat.vocabulary, base.vocabulary)}")
    report = merged.vocabulary_report()
    if report:
        lines.append(
            f"rows ({report.policy}): {report.rows:,}; {report.matched:,} get the vector, {report.kept:,} of the CP "
            f"alone, {len(report.copied)} copied from chat, {report.padded:,} padding, {len(report.added)} added"
        )
    side = merged.chat_side
    if side is not None and merged.cp.vocabulary is not None:
        needed = side.needed_tokens()
        lines.append(f"tokens that the template needs: {', '.join(needed) or 'none'}")
        fresh = _never_trained(merged)
        if fresh and not merged.copy_special:
            lines.append(
                f"special tokens never trained in the CP: {', '.join(fresh[:8])}{', …' if len(fresh) > 8 else ''} "
                "(--copy-special gives them chat's own rows)"
            )
    return lines


def _never_trained(merged: MergedCheckpoint) -> list[str]:
    """Special tokens of chat whose row in the CP's embedding is the base's, bit for bit."""
    name, side, found = merged.cp.layout.embedding, merged.chat_side, []
    if name is None or merged.policy == "skip":
        return []
    width, rows = prod(merged.cp.shape(name)[1:]), merged.cp.vocabulary.tokens
    for token in side.special:
        row = rows.get(token)
        theirs = side.rows(name, token) if row is not None and row < merged.cp.shape(name)[0] else None
        if theirs is None or theirs[1] is None:
            continue
        own = exact.widen(merged.cp.raw(name, row * width, (row + 1) * width))
        if np.array_equal(own, exact.widen(theirs[1][0])):
            found.append(token)
    return found


def _prompts(merged: MergedCheckpoint, findings: list[Finding], *, always: bool) -> list[str]:
    """Whether chat prompts come out as the chat model was tuned on them, text and pieces."""
    side = merged.chat_side
    if side is None or merged.cp.vocabulary is None:
        return ["the vector brings no chat template; the CP's own stays"]
    unlike = other_rules(rules_of(merged.cp), side.rules())
    if not unlike and not always and not merged.added_tokens:
        return ["the tokenizer's rules are chat's (its files say so)"]
    try:
        count, lines = compare_prompts(merged)
    except (ValueError, OSError, ImportError) as error:  # a tokenizer that transformers cannot open
        return [f"not compared: {error}"]
    if not lines:
        return [f"{count} talks are written and cut as chat's tokenizer does"]
    mend = mending(merged)
    findings.append(
        Finding(
            "chat prompts",
            False,
            f"{len(lines)} of {count} talks are cut unlike chat's tokenizer does, on whose pieces it was tuned: "
            f"{lines[0]}. "
            + (
                f"With {mend} in tokenizer_config.json of the CP (and of the saved folder) they are the same."
                if mend
                else f"What differs: {'; '.join(unlike) or 'the vocabulary'}."
            ),
        )
    )
    return lines


def _configs(merged: MergedCheckpoint, findings: list[Finding]) -> list[str]:
    """The settings in which chat or CP differ from the base; each with what it means."""
    lines = []
    for _, chat, base in _pairs(merged.vector):
        theirs = configs.settings_of(base.config)
        for role, member in (("chat", chat), ("cp", merged.cp)):
            if not (member.config and base.config):
                continue
            for entry, text in configs.differences(configs.settings_of(member.config), theirs):
                line = f"{member.label if role == 'chat' else merged.cp.label}: {text}. {entry.meaning[0].upper()}{entry.meaning[1:]}."
                lines.append(f"{entry.name}: {text} ({member.label})")
                finding = Finding(entry.name, role in entry.refuses, line)
                if finding not in findings:
                    findings.append(finding)
    return list(dict.fromkeys(lines)) or ["no difference in what a sum of weights depends on"]


def _files(merged: MergedCheckpoint) -> list[str]:
    carried, left = sort_companions(merged.cp.folder)
    lines = [f"carried from the CP: {', '.join(path.name for path in carried) or 'none'}"]
    if merged.chat_side is not None:
        lines.append(f"from {merged.chat_side.label}: chat template, end of turn, generation_config.json")
    if merged.added_tokens:
        lines.append(f"written anew: the tokenizer, with {', '.join(merged.added_tokens)}")
    out = [
        f"{name} ({why})" for name, why in left.items() if why not in ("weights", "written anew", "hidden")
    ]
    if out:
        lines.append(f"left out: {', '.join(out[:12])}{', …' if len(out) > 12 else ''}")
    return lines


def _room(merged: MergedCheckpoint, out: Path | None) -> list[str]:
    size = sum(merged.nbytes(name) for name in merged.names)
    buffers = workers() * (2 * len(merged.vector.terms) + 3) * BLOCK * 8
    lines = [f"{size:,} bytes on disk; some {(buffers + 1e8) / 1e6:,.0f} MB of memory"]
    if out is not None:
        parent = next(p for p in [out.absolute(), *out.absolute().parents] if p.exists())
        lines.append(f"free on that disk: {shutil.disk_usage(parent).free:,} bytes")
    return lines


def _descent(merged, findings, found, bases: list[Checkpoint], full: bool, seed: int) -> list[str]:
    """Are chat and CP of the base; how much of the vector does the CP hold; does anything differ at all?"""
    pairs, lines = _pairs(merged.vector), []
    if not pairs:
        return ["not judged: the vector is stored, and its base is not at hand"]
    total = sum(prod(merged.cp.shape(n)) for n in merged.cp.names)
    budget = max(
        3 * total // 200, 1 << 19
    )  # elements for each of two measures: half a percent of the members
    for term, chat, base in pairs:
        rows = rows_for([base, chat, base, merged.cp], budget)
        distances = {}
        for role, member in (("chat", chat), ("CP", merged.cp)):
            for candidate in (base, *bases):
                placed = term.leaf.placed if role == "CP" else {}
                table = evidence(member, candidate, rows=rows, seed=seed, placed=placed)
                table = [row for row in table if _counts(merged, candidate, row, term.leaf.placed)]
                distances[role, candidate.label] = _distance(table)
                if candidate is base:
                    lines.append(_descends(role, member, base, table, findings))
        if bases:
            lines += _nearest(chat, merged.cp, (base, *bases), distances, findings)
        if not any(finding.name == "descent" for finding in findings):  # else it would measure nothing
            lines += _held(merged, term, chat, base, findings, found, None if full else budget // 5, seed)
    return lines


def _counts(merged: MergedCheckpoint, base: Checkpoint, row: dict, placed: Mapping[str, str]) -> bool:
    """Whether a row of the evidence is about a tensor that gets the vector, or that the CP lacks."""
    published = base.layout.published(row["tensor"])
    outer = {inner: outer for outer, inner in placed.items()}
    stored = merged.cp.resolve(outer.get(published, published))
    return stored is None or not merged.is_carried(stored)


def _distance(table: list[dict]) -> float:
    known = [row["relative_distance"] for row in table if "relative_distance" in row]
    return float(np.sqrt(np.mean(np.square(known)))) if known else np.nan


def _descends(role: str, member: Checkpoint, base: Checkpoint, table: list[dict], findings) -> str:
    bad = [row for row in table if not row["descends"]]
    known = [row["cosine"] for row in table if "cosine" in row]
    cosines = f"cosine {min(known):.3f} to {max(known):.3f}" if known else "no cosine"
    if bad:
        worst = bad[0]
        why = worst["problem"] or f"has a cosine of {worst['cosine']:.3f}, a descendant at least {COSINE}"
        hint = ""
        if {row["module"] for row in bad} <= {"embedding", "head"} and len(bad) < len(table):
            hint = " The layers do descend: leave the tables alone with --vocabulary skip."
        findings.append(
            Finding(
                "descent",
                True,
                f"{role} {member.label} does not descend from {base.label}: {worst['tensor']} {why} ({len(bad)} of "
                f"{len(table)} sampled tensors). A difference of unrelated models is no chat vector.{hint}",
                True,
            )
        )
    return f"{role} {member.label}: {'does NOT descend' if bad else 'descends'} from {base.label} ({len(table)} tensors, {cosines})"


def _nearest(chat, cp, bases, distances, findings) -> list[str]:
    lines = []
    for role, member in (("chat", chat), ("CP", cp)):
        known = {b.label: distances[role, b.label] for b in bases if not np.isnan(distances[role, b.label])}
        if not known:
            continue
        near = min(known, key=known.get)
        told = ", ".join(f"{label} {distance:.3f}" for label, distance in known.items())
        lines.append(f"{role} {member.label}: nearest base {near} (distance over the base's length: {told})")
        if near != bases[0].label:
            findings.append(
                Finding(
                    "nearest base",
                    False,
                    f"{role} {member.label} lies nearer to {near} than to {bases[0].label} ({told}).",
                )
            )
    return lines


def _held(merged, term, chat, base, findings, found, elements: int | None, seed: int) -> list[str]:
    """The share of the vector that the CP holds already, and whether chat or CP is the base."""
    alone = WeightVector((Term(1.0, term.leaf, term.schedules),))
    try:
        held = holding(merged.cp.add(alone, vocabulary=merged.policy), base, elements=elements, seed=seed)
    except ValueError:  # base and CP do not pair (a family within a larger model)
        return [f"how much of {alone.label} the CP holds is not measured: CP and {base.label} do not pair"]
    found[alone.label] = held
    lines = []
    if not held.length and (held.is_exact or is_nothing(alone)):
        findings.append(
            Finding(
                "vector",
                True,
                f"{chat.label} and {base.label} hold the same numbers: the vector is zero everywhere.",
            )
        )
        return [f"{alone.label} is zero"]
    if not held.distance and (held.is_exact or is_nothing(merged.cp - base)):
        findings.append(
            Finding(
                "cp-is-base", True,
                f"{merged.cp.label} holds the numbers of {base.label} for every token that both have: nothing was "
                "continually pre-trained, and the sum at scale 1 is the chat model.", True,
            )
        )  # fmt: skip
    if np.isnan(held.share):
        return lines
    interval = "" if held.is_exact else f" (95 % interval {held.low:.1%} to {held.high:.1%})"
    lines.append(
        f"|{alone.label}| is {held.length:.2%} of the base's length, |CP - base| {held.distance:.2f} times that; the CP "
        f"already holds {held.share:.1%} of it{interval}, with random signs ± {held.band:.2%} "
        f"({held.elements:,} of {held.of:,} elements)"
    )
    if held.low > max(held.band, HELD):
        cause = (
            "was likely made from the chat model"
            if held.share > 0.5
            else "may have seen the chat model's data"
        )
        findings.append(
            Finding(
                "held", False,
                f"{merged.cp.label} already holds {held.share:.0%} of {alone.label}{interval}; it {cause}. At scale s the "
                f"merge then holds {held.share:.2f} + s of the vector.",
            )
        )  # fmt: skip
    return lines
