"""Do the members of a family descend from its base? A table and a page of what `weights.descent` measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatvec_lab.weights.checkpoint import sparsely
from chatvec_lab.weights.preflight.configs import differences, settings_of
from chatvec_lab.weights.preflight.descent import COSINE, RATIO, evidence

if TYPE_CHECKING:
    import pandas as pd

    from chatvec_lab.families.family import Family

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
            seen[id(member)] = evidence(sparsely(member), base, layers, rows, seed)
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


def settings_page(family: Family) -> str:
    """What the members' configs say otherwise than the base's, one line a member and setting; "" for no difference."""
    base, lines = settings_of(family.base.config), []
    for name, member in family.members.items():
        if member is family.base or not (member.config and family.base.config):
            continue
        for entry, text in differences(settings_of(member.config), base):
            role = "chat" if family.roles[name].kind == "chat" else "cp"  # what τ is taken of, or added to
            verdict = " A merge is refused." if role in entry.refuses else ""
            lines.append(f"  {name}: {text}. {entry.meaning}.{verdict}")
    return "\n".join(["Settings that differ from the base's:", *lines] if lines else [])


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
