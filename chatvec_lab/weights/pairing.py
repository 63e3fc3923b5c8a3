"""Which tensors of a CP and a vector pair, and which may be without a partner (design, rule 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatvec_lab.weights.difference import unpaired
from chatvec_lab.weights.layout import familiar
from chatvec_lab.weights.tokens.rows import Table, check_candidate, pairs_in_shape

if TYPE_CHECKING:
    from chatvec_lab.weights.merged import MergedCheckpoint


def left_out(merged: MergedCheckpoint) -> dict[str, str]:
    """Tensors that one side alone has and that have no say in the model, with what they are.

    Raises one ValueError that lists every other tensor without its partner.
    """
    cp, vector = merged.cp, merged.vector
    floats = {merged.named(name): name for name in cp.names if merged.is_weight(name)}
    found, lines = dict(vector.left_out), []
    for published, name in floats.items():
        reason, line = _of_cp(merged, published, name)
        if reason:
            found[published] = reason
        elif line:
            lines.append(f"{name}   {line}")
    for published in vector.names:
        if published not in floats:
            reason = _of_vector(merged, published)
            if reason:
                found[published] = reason
            else:
                lines.append(f"{published}   only in the vector {vector.label}")
    if lines:
        error = unpaired(f"{cp.label} + vector", lines, len(floats), cp.label, vector.label)
        raise ValueError(error + _about_heads(merged))
    return found


def _of_cp(merged: MergedCheckpoint, published: str, name: str) -> tuple[str | None, str | None]:
    """Of a tensor of the CP: why it may be carried without a partner, or what is wrong with its pair."""
    cp, vector = merged.cp, merged.vector
    part = cp.layout[name]
    if vector.is_outside(published):
        return None, None
    if not vector.resolve(published):
        if not any(term.coefficient(published, part) for term in vector.terms):
            return "not selected", None
        return cp.layout.ignored.get(name), f"only in {cp.label}"
    ours, theirs = cp.shape(name), vector.shape(published)
    if not pairs_in_shape(part, ours, theirs):
        return None, f"{cp.label} {ours}, vector {theirs}"
    if part.axis == "candidate":
        table = Table(cp.label, cp.vocabulary, ours[0])
        check_candidate(name, table, Table(vector.label, vector.vocabulary, theirs[0]))
    return None, None


def _of_vector(merged: MergedCheckpoint, published: str) -> str | None:
    """Why a tensor of the vector that the CP does not store may be left out; None: it may not."""
    cp, vector = merged.cp, merged.vector
    if not any(term.coefficient(published) for term in vector.terms):
        return "not selected"
    stored = cp.resolve(published)
    if stored and published in vector.tied:  # a copy of the embedding, stored beside it
        return f"{cp.label} has no head of its own: it is tied to {stored}"
    is_draft = vector.part(published).component == "draft"
    extra = familiar.left_out(published) or ("a draft layer" if is_draft else None)
    return extra and f"{extra}, which {cp.label} lacks"


def _about_heads(merged: MergedCheckpoint) -> str:
    layout, vector = merged.cp.layout, merged.vector
    if layout.head is not None or not any(vector.part(name).module == "head" for name in vector.names):
        return ""
    if layout.is_tied:
        return " The CP ties its head to its embedding, so a head of its own has no place in it."
    return " The CP has no head of its own and does not tie it: is its file whole?"
