"""What `preflight` looks at, one function a section of its report: lines to read, and findings where one is due.

`members` to `room` ask headers, configs and tokenizers alone; `kinship` reads a sample of rows.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.weights.configs import differences, settings_of
from chatvec_lab.weights.descent import COSINE, Holding, evidence, holding, is_nothing, rows_for
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import BLOCK
from chatvec_lab.weights.saving.stream import workers
from chatvec_lab.weights.sources.beside import sort_companions
from chatvec_lab.weights.tokenizers import compare_prompts, mending, other_rules, rules_of
from chatvec_lab.weights.vector import Term, WeightVector
from chatvec_lab.weights.vocabulary import Vocabulary

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.merged import MergedCheckpoint

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


def pairs(vector: WeightVector) -> list[tuple[Term, Checkpoint, Checkpoint]]:
    """(term, chat, base) of the terms that know both; a stored vector has its own files alone."""
    result = []
    for term in vector.terms:
        base = term.leaf.base
        others = [source for source in term.leaf.sources() if source is not base]
        if base is not None and len(others) <= 1 and term.factor:
            result.append((term, others[0] if others else base, base))
    return result


def members(merged: MergedCheckpoint) -> list[str]:
    """Who takes part, with sizes and dtypes."""
    known = pairs(merged.vector)
    roles = {"CP": merged.cp}
    for i, (_, chat, base) in enumerate(known, 1):
        number = f" {i}" if len(known) > 1 else ""
        roles |= {f"chat{number}": chat, f"base{number}": base}
    lines = []
    for role, member in roles.items():
        count = Counter(member.dtype_name(name) for name in member.names)
        dtypes = ", ".join(f"{dtype} ({n})" if len(count) > 1 else dtype for dtype, n in count.most_common())
        size = sum(prod(member.shape(name)) for name in member.names)
        note = f"; {member.note}" if member.note else ""
        lines.append(
            f"{role}: {member.label}, {size:,} elements in {len(member.names)} tensors, {dtypes}{note}"
        )
        if member.lacking:
            lines.append(f"{role}: {member.lacking}")
    if not known:
        lines.append(f"vector: {merged.vector.label}; its base is not at hand, so descent cannot be judged")
    return lines


def tensors(merged: MergedCheckpoint) -> list[str]:
    """What gets the vector and what is carried, by component and kind of module."""
    layout, groups = merged.cp.layout, {}
    for name in merged.cp.names:
        part = layout[name]
        group = groups.setdefault((part.component, part.module), [0, 0, 0])
        group[merged.is_carried(name)] += 1
        group[2] += prod(merged.cp.shape(name))
    lines = []
    for (component, module), (changed, carried, size) in groups.items():
        told = [f"{changed} get the vector"] * bool(changed) + [f"{carried} are the CP's"] * bool(carried)
        lines.append(f"{component} {module}: {', '.join(told)} ({size:,} elements)")
    left_out = {name: why for name, why in merged.left_out.items() if why != "not selected"}
    lines += [f"{name}: {why}; left out" for name, why in list(left_out.items())[:8]]
    lines += [f"{name} {why}" for name, why in list(layout.unknown.items())[:8]]
    return lines


def vocabulary(merged: MergedCheckpoint) -> list[str]:
    """How the vocabularies lie to each other, what happens to the rows, and which tokens the template needs."""
    lines = [f"CP beside the vector's: {_relation(merged.cp.vocabulary, merged.vector.vocabulary)}"]
    for _, chat, base in pairs(merged.vector)[:1]:
        lines.append(f"chat beside base: {_relation(chat.vocabulary, base.vocabulary)}")
    report = merged.vocabulary_report()
    if report:
        lines.append(
            f"rows ({report.policy}): {report.rows:,}; {report.matched:,} get the vector, {report.kept:,} of the CP "
            f"alone, {len(report.copied)} copied from chat, {report.padded:,} padding, {len(report.added)} added"
        )
    side = merged.chat_side
    if side is not None and merged.cp.vocabulary is not None:
        lines.append(f"tokens that the template needs: {', '.join(side.needed_tokens()) or 'none'}")
        fresh = [] if merged.copy_special or merged.policy == "skip" else _never_trained(merged)
        if fresh:
            lines.append(
                f"special tokens never trained in the CP: {', '.join(fresh[:8])}{', …' if len(fresh) > 8 else ''} "
                "(--copy-special gives them chat's own rows)"
            )
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
    return ", ".join(told + [f"{moved:,} in another row"] * bool(moved))


def _never_trained(merged: MergedCheckpoint) -> list[str]:
    """Special tokens of chat whose row in the CP's embedding is the base's, bit for bit."""
    name, side, found = merged.cp.layout.embedding, merged.chat_side, []
    if name is None:
        return []
    width, rows = prod(merged.cp.shape(name)[1:]), merged.cp.vocabulary.tokens
    for token in side.special:
        row = rows.get(token)
        theirs = (
            side.rows(merged.named(name), token)
            if row is not None and row < merged.cp.shape(name)[0]
            else None
        )
        if theirs is None or theirs[1] is None:
            continue
        own = exact.widen(merged.cp.raw(name, row * width, (row + 1) * width))
        if np.array_equal(own, exact.widen(theirs[1][0])):
            found.append(token)
    return found


def chat_prompts(merged: MergedCheckpoint, found: list[Finding], *, always: bool) -> list[str]:
    """Whether chat prompts come out as the chat model was tuned on them, text and pieces."""
    side = merged.chat_side
    if side is None or merged.cp.vocabulary is None:
        return ["the vector brings no chat template; the CP's own stays"]
    unlike = other_rules(rules_of(merged.cp), side.rules())
    if not unlike and not always and not merged.added_tokens:
        return ["the tokenizer's rules are chat's (its files say so)"]
    try:
        count, lines = compare_prompts(merged)
        mend = mending(merged) if lines else None
    except (ValueError, OSError, ImportError) as error:  # a tokenizer that transformers cannot open
        return [f"not compared: {error}"]
    if not lines:
        return [f"{count} talks are written and cut as by chat's tokenizer"]
    cure = f"What differs: {'; '.join(unlike) or 'the vocabulary'}."
    if mend:
        cure = f"With {mend} in tokenizer_config.json of the CP they are the same."
    found.append(
        Finding(
            "chat prompts",
            False,
            f"{len(lines)} of {count} talks are cut unlike by chat's tokenizer, on whose pieces it was tuned: "
            f"{lines[0]}. {cure}",
        )
    )
    return lines


def settings(merged: MergedCheckpoint, found: list[Finding]) -> list[str]:
    """The settings in which chat or CP differ from the base; each with what it means."""
    lines: list[str] = []
    for _, chat, base in pairs(merged.vector):
        theirs = settings_of(base.config)
        for role, member in (("chat", chat), ("cp", merged.cp)):
            if not (member.config and base.config):
                continue
            for entry, text in differences(settings_of(member.config), theirs):
                meaning = entry.meaning[0].upper() + entry.meaning[1:]
                finding = Finding(entry.name, role in entry.refuses, f"{member.label}: {text}. {meaning}.")
                if finding not in found:
                    found.append(finding)
                    lines.append(f"{entry.name}: {text} ({member.label})")
    return lines or ["no difference in what a sum of weights depends on"]


def files(merged: MergedCheckpoint) -> list[str]:
    """What lies beside the weights: carried, copied from chat, written anew, left out."""
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


def room(merged: MergedCheckpoint, out: Path | None) -> list[str]:
    """Bytes that the result takes on disk, and that making it takes in memory."""
    size = sum(merged.nbytes(name) for name in merged.names)
    buffers = workers() * (2 * len(merged.vector.terms) + 3) * BLOCK * 8
    lines = [f"{size:,} bytes on disk; some {(buffers + 1e8) / 1e6:,.0f} MB of memory"]
    if out is not None:
        parent = next(path for path in [out.absolute(), *out.absolute().parents] if path.exists())
        lines.append(f"free on that disk: {shutil.disk_usage(parent).free:,} bytes")
    return lines


def kinship(
    merged: MergedCheckpoint,
    found: list[Finding],
    holdings: dict[str, Holding],
    *,
    bases: list[Checkpoint],
    full: bool,
    seed: int,
    places: int,
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
            lines += _held(merged, term, (chat, base), found, holdings, elements, seed, places)
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


def _held(merged, term: Term, of, found, holdings, elements: int | None, seed: int, places: int) -> list[str]:
    """The share of the vector that the CP holds already, and whether chat or CP is the base."""
    chat, base = of
    alone = WeightVector((Term(1.0, term.leaf, term.schedules),))
    try:
        held = holding(
            merged.cp.add(alone, vocabulary=merged.policy), base, elements=elements, seed=seed, places=places
        )
    except ValueError:  # base and CP do not pair (a family within a larger model)
        return [f"how much of {alone.label} the CP holds is not measured: CP and {base.label} do not pair"]
    holdings[alone.label] = held
    if not held.length and (held.is_exact or is_nothing(alone)):
        text = f"{chat.label} and {base.label} hold the same numbers: the vector is zero everywhere."
        found.append(Finding("vector", True, text))
        return [f"{alone.label} is zero"]
    if not held.distance and (held.is_exact or is_nothing(merged.cp - base)):
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
