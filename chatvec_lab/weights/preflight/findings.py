"""What `preflight` looks at, one function a section of its report: lines to read, and findings where one is due.

They ask headers, configs and tokenizers alone; what a sample of rows tells is in `kinship`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import BLOCK, TOGETHER
from chatvec_lab.weights.preflight.configs import OTHER, differences, others, settings_of
from chatvec_lab.weights.saving.stream import workers
from chatvec_lab.weights.sources.beside import sort_companions
from chatvec_lab.weights.tokens.tokenizers import compare_prompts, mending, other_rules, rules_of
from chatvec_lab.weights.tokens.vocabulary import Vocabulary
from chatvec_lab.weights.vector import Term, WeightVector

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.merged import MergedCheckpoint


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
        theirs = _settings_of(base)
        for role, member in (("chat", chat), ("cp", merged.cp)):
            if not (member.config and base.config):
                continue
            told = differences(_settings_of(member), theirs)
            if text := others(member.config, base.config):
                told.append((OTHER, text))
            for entry, text in told:
                meaning = entry.meaning[0].upper() + entry.meaning[1:]
                finding = Finding(entry.name, role in entry.refuses, f"{member.label}: {text}. {meaning}.")
                if finding not in found:
                    found.append(finding)
                    lines.append(f"{entry.name}: {text} ({member.label})")
    return lines or ["no difference in what a sum of weights depends on"]


def _settings_of(member: Checkpoint) -> dict:
    try:
        return settings_of(member.config)
    except ValueError as error:
        raise ValueError(f"{member.folder / 'config.json'}: {error}. Download or copy it again.") from error


def files(merged: MergedCheckpoint) -> list[str]:
    """What lies beside the weights: carried, copied from chat, written anew, left out."""
    carried, left = sort_companions(merged.cp.folder)
    lines = [f"carried from the CP: {', '.join(path.name for path in carried) or 'none'}"]
    if merged.chat_side is not None:
        lines.append(f"from {merged.chat_side.label}: chat template, end of turn, generation_config.json")
    if merged.added_tokens:
        lines.append(f"written anew: the tokenizer, with {', '.join(merged.added_tokens)}")
    own = {merged.cp.file(name) for name in merged.cp.names}
    out = [
        f"{name} ({why})"
        for name, why in left.items()
        if why not in ("written anew", "hidden") and name not in own and not name.endswith(".index.json")
    ]
    if out:
        lines.append(f"left out: {', '.join(out[:12])}{', …' if len(out) > 12 else ''}")
    return lines


def room(merged: MergedCheckpoint, out: Path | None, jobs: int | None = None) -> list[str]:
    """Bytes that the result takes on disk, and that making it takes in memory."""
    size = sum(merged.nbytes(name) for name in merged.names)
    buffers = workers(jobs) * (2 * len(merged.vector.terms) + 3) * TOGETHER * BLOCK * 8
    lines = [f"{size:,} bytes on disk; some {(buffers + 1e8) / 1e6:,.0f} MB of memory"]
    if out is not None:
        parent = next(path for path in [out.absolute(), *out.absolute().parents] if path.exists())
        lines.append(f"free on that disk: {shutil.disk_usage(parent).free:,} bytes")
    return lines
