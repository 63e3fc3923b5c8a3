"""Does a model descend from a base? Judged by its weights, not by its name.

Two models that were trained apart have no direction in common, whatever their architecture: the cosine between
their weights is that of chance. Fine-tuning and continual pre-training hardly turn the weights, so a descendant's
cosine with its base stays near 1. A few rows of a few tensors are enough to tell the two apart.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from chatvec_lab.weights.checkpoint import sparsely
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.vocabulary import runs

if TYPE_CHECKING:
    import pandas as pd

    from chatvec_lab.families.family import Family
    from chatvec_lab.weights.checkpoint import Checkpoint

# Measured over ten samples of every shipped nano model: descendants have cosines of 0.59 and more (an embedding after
# CP in an alphabet that the base hardly saw; layers 0.98), models of other seeds -0.10 to 0.08, unrelated pico models
# (tensors of a few hundred elements) up to 0.19. The threshold is the middle. Norms: 0.82 to 1.34 times the base's.
COSINE = 0.4
RATIO = 2.0  # a difference of weights has a tenth of the base's norm, or less
_RUN = 8  # rows read together

_COLUMNS = ["family", "member", "source", "tensor", "layer", "module", "rows", "elements", "cosine", "chance",
            "chance_sd", "relative_distance", "norm_ratio", "problem", "descends"]  # fmt: skip


def descent(family: Family, *, layers: int = 3, rows: int = 64, seed: int = 0) -> pd.DataFrame:
    """Evidence that a family's members descend from its base, one row a member and sampled tensor.

    Of every matrix in `layers` layers (first, last, and between) `rows` rows are read, in runs of eight, of
    embedding and head rows of tokens that both vocabularies have; `seed` chooses them. A few megabytes a member, which
    are also all that is fetched of a hub model that has safetensors.

    Columns: family, member, source, tensor, layer, module, rows, elements (looked at), cosine (with the base's),
    chance (the same, with the base's rows put out of order: what unrelated rows give), chance_sd (1/sqrt(elements)),
    relative_distance (|member - base| / |base|), norm_ratio (|member| / |base|), problem (a text, or missing; the
    numbers are missing where a tensor could not be compared), descends.
    A tensor descends when its cosine is at least 0.4 and its norm between half and twice the base's.
    """
    import pandas as pd

    base, found, seen = sparsely(family.base), [], {}
    for name, member in family.members.items():
        if member is family.base:
            continue
        if id(member) not in seen:  # one CP model can serve several languages
            seen[id(member)] = _evidence(sparsely(member), base, layers, rows, seed)
        about = {"family": family.name, "member": name, "source": member.label}
        found += [about | row for row in seen[id(member)]]
    table = pd.DataFrame(found, columns=_COLUMNS)
    table["layer"] = table["layer"].astype("Int64")
    return table


def check(family: Family, **options) -> pd.DataFrame:
    """The table of `descent`, or ValueError that names the members with a tensor that does not descend."""
    table = descent(family, **options)
    lines = [
        _line(name, part, family.base.label)
        for name, part in table.groupby("member", sort=False)
        if not part.descends.all()
    ]
    if lines:
        raise ValueError(
            f"family {family.name!r}: {len(lines)} of {table.member.nunique()} members do not descend from the base "
            f"{family.base.label!r}.\n  "
            + "\n  ".join(lines)
            + "\nA difference of unrelated models is no chat "
            "vector. Give the model that these were trained from as the base (see their cards), or leave them out."
        )
    return table


def descent_page(table: pd.DataFrame) -> str:
    """A printable summary of the table, one line a member."""
    lines = [
        f"Sampled tensors of each member against the base's; a descendant has a cosine of at least {COSINE}."
    ]
    for name, part in table.groupby("member", sort=False):
        norms = f"{part.norm_ratio.min():.2f} to {part.norm_ratio.max():.2f}"
        lines.append(
            f"  {name:16} {'descends' if part.descends.all() else 'does NOT descend'}: {len(part)} tensors, "
            f"cosine {part.cosine.min():.3f} to {part.cosine.max():.3f} (chance up to {part.chance.abs().max():.3f}), "
            f"norm {norms} of the base's"
        )
    return "\n".join(lines)


def _line(name: str, part: pd.DataFrame, base: str) -> str:
    """What is wrong with one member, on one line: found and expected values, and a hint."""
    bad = part[~part.descends]
    where = f"{len(bad)} of {len(part)} tensors"
    source = part.source.iloc[0]
    told = bad.problem.dropna()
    if len(told):
        return f"{name} ({source}): {where}: {bad.tensor[told.index[0]]} {told.iloc[0]}"
    worst = bad.loc[bad.cosine.idxmin()]
    text = (
        f"{name} ({source}): {where}, such as {worst.tensor}: cosine {worst.cosine:.3f} with the base, expected at "
        f"least {COSINE} (chance gives {worst.chance:.3f} ± {worst.chance_sd:.3f}); norm {worst.norm_ratio:.3g} "
        f"times the base's"
    )
    if (bad.norm_ratio < 1 / RATIO).all() and len(bad) == len(part):
        return text + ". So small, it looks like a difference of weights rather than a model"
    if set(bad.module) <= {"embedding", "head"} and len(bad) < len(part):
        return text + ". The layers do descend: for this member use cp.add(tau, vocabulary='skip')"
    if len(bad) < len(part):
        return text + ". Other tensors do descend: was a part of it replaced or trained anew?"
    return text


def _evidence(
    member: Checkpoint, base: Checkpoint, layers: int, rows: int, seed: int
) -> list[dict[str, Any]]:
    result = []
    for name in _sampled(base, layers):
        part = base.layout[name]
        row = {"tensor": name, "layer": part.layer, "module": part.module, "rows": 0, "elements": 0}
        problem = _problem(member, base, name)
        if problem is None:
            generator = np.random.default_rng([seed, *name.encode()])
            ours, theirs = _chosen(member, base, name, rows, generator)
            if len(ours):
                row |= _compare(_read(member, _stored(member, base, name), ours), _read(base, name, theirs))
                if np.isnan(row["cosine"]):
                    problem = "is zero or holds NaN, here or in the base: a damaged file?"
            else:
                problem = f"shares no token with {base.label}"
        cosine, ratio = row.get("cosine", np.nan), row.get("norm_ratio", np.nan)
        row["problem"] = problem
        row["descends"] = bool(cosine >= COSINE and 1 / RATIO <= ratio <= RATIO)
        result.append(row)
    return result


def _sampled(base: Checkpoint, layers: int) -> list[str]:
    """Tables of tokens, and the matrices of evenly spaced layers of the text, in file order. Norms tell nothing."""
    parts = base.layout.parts
    matrices = [
        name
        for name in base.names
        if len(base.shape(name)) > 1
        and base.dtype_name(name) in files.FLOATS
        and parts[name].module != "buffer"
    ]
    numbers = sorted({parts[n].layer for n in matrices if parts[n].component == "text"} - {None})
    if numbers:
        picked = {numbers[round(i)] for i in np.linspace(0, len(numbers) - 1, max(1, layers))}
        is_picked = lambda part: part.component == "text" and part.layer in picked  # noqa: E731
        return [n for n in matrices if is_picked(parts[n]) or base.layout.is_table(n)]
    return matrices


def _problem(member: Checkpoint, base: Checkpoint, name: str) -> str | None:
    """Why a tensor cannot be compared, or None."""
    stored = _stored(member, base, name)
    if stored is None:
        return "is missing: another architecture"
    ours, theirs = member.shape(stored), base.shape(name)
    if ours[1:] != theirs[1:] or (ours[0] != theirs[0] and not base.layout.is_table(name)):
        return f"has the shape {ours}, in the base {theirs}: another architecture"
    if ours[0] != theirs[0] and None in (member.vocabulary, base.vocabulary):
        return (
            f"has {ours[0]} rows, in the base {theirs[0]}, and without both tokenizers they cannot be paired"
        )
    return None


def _chosen(member, base, name: str, count: int, generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows to compare, in the member and in the base: some short runs of consecutive ones."""
    shape = base.shape(name)
    total = prod(shape[:-1])
    starts = np.unique(generator.integers(0, max(1, total - _RUN + 1), max(1, count // _RUN)))
    theirs = np.unique(starts[:, None] + np.arange(_RUN))
    theirs = theirs[theirs < total]
    if not base.layout.is_table(name) or len(shape) != 2 or None in (member.vocabulary, base.vocabulary):
        return theirs, theirs
    rows = member.shape(_stored(member, base, name))[0]
    pairs = [
        (member.vocabulary.tokens.get(token, rows), row)
        for token, row in base.vocabulary.tokens.items()
        if row < total
    ]
    pairs = np.array(sorted(((r, ours) for ours, r in pairs if ours < rows)), np.int64).reshape(-1, 2)
    if not len(pairs):
        return theirs[:0], theirs[:0]
    starts = generator.integers(0, max(1, len(pairs) - _RUN + 1), max(1, count // _RUN))
    picked = np.unique(starts[:, None] + np.arange(_RUN))
    picked = pairs[picked[picked < len(pairs)]]
    return picked[:, 1], picked[:, 0]


def _stored(member: Checkpoint, base: Checkpoint, name: str) -> str | None:
    """The member's tensor for one of the base's, whoever saved it."""
    return member.resolve(base.layout.published(name))


def _read(model: Checkpoint, name: str, rows: np.ndarray) -> np.ndarray:
    """These rows of a tensor in float64, shape (rows, width)."""
    width = model.shape(name)[-1]
    pieces = [model.raw(name, row * width, (row + n) * width) for _, row, n in runs(rows)]
    return exact.widen(np.concatenate(pieces)).astype(np.float64).reshape(len(rows), width)


def _compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    length = float(np.linalg.norm(theirs))
    ratio = float(np.linalg.norm(ours)) / length if length else np.nan
    between = length**2 * ratio  # the product of both norms

    def cosine(other: np.ndarray) -> float:
        return float((ours * other).sum() / between) if between else np.nan

    return {
        "rows": len(ours),
        "elements": ours.size,
        "cosine": cosine(theirs),
        "chance": cosine(np.roll(theirs, max(1, len(theirs) // 2), axis=0)) if len(theirs) > 1 else np.nan,
        "chance_sd": 1 / sqrt(ours.size),
        "relative_distance": float(np.linalg.norm(ours - theirs)) / length if length else np.nan,
        "norm_ratio": ratio,
    }
