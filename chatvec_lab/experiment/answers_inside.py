"""What the notebooks 11 and 12 end with: what changes token by token, and which part of the vector does it, in words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from chatvec_lab.experiment import inside
from chatvec_lab.experiment.inside import PLAIN, RANDOM, REFERENCE, WHOLE
from chatvec_lab.experiment.words import drawn, interval, told
from chatvec_lab.study.outputs import claim

if TYPE_CHECKING:
    from chatvec_lab.lens import Attribution

MANY = 4  # parts that are named
WITH = {"alone": "a part alone", "lost": "what is lost without it", "length": "τ's length in the part"}


def tokens(
    over: pd.DataFrame, places: pd.DataFrame, depth: pd.DataFrame, changes: pd.DataFrame, *, scale: float, at: str,
    reference: str, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """11: what changes, token by token?

    over: nats a token of the reference by model, text and scale; places: by model, place and scale, of CP + τ's at `scale`;
    depth: by model and scale; changes: of the reference at `scale` with CP + τ (`lens.divergence`).
    """
    here = over[(over.scale == scale) & (over.text == REFERENCE)]
    form = ".2f"
    apart = {m: told(here, form, model=m) for m in (WHOLE, RANDOM, PLAIN)}
    where = places[(places.model == WHOLE) & (places.scale == scale)].sort_values("estimate", ascending=False)
    first, *others = [(_place(name), told(where, form, place=name)) for name in where.place] or [("", "")]
    at_places = "; ".join(f"{value} at the {name}" for name, value in others)
    most = f" It is largest at the {first[0]} ({first[1]}; {at_places})." if others else ""
    deep = {
        label: told(depth, ".2f", model=m, scale=s)
        for label, m, s in (("CP", WHOLE, 0.0), (WHOLE, WHOLE, scale), (RANDOM, RANDOM, scale))
    }
    largest = ""
    if len(changes):
        row = changes.loc[(changes.probability - changes.cp_probability).abs().idxmax()]
        largest = (f" The largest change of one probability: {_quoted(row.token)} at token {row.position + 1} of a reply, "
                   f"{row.cp_probability:.1%} to {row.probability:.1%}.")  # fmt: skip
    answer = (
        f"With τ at scale {at} the next token of {reference} is {apart[WHOLE]} nats from the CP's in the mean; with a random "
        f"vector of τ's size {apart[RANDOM]}, without the chat template {apart[PLAIN]}.{most}{largest} A token is decided "
        f"after {deep[WHOLE]} of the layers (CP {deep['CP']}, random vector {deep[RANDOM]}). {drawn(here, seed)}"
    )
    claims = [claim(f"nats a token from the CP, {m}", **_unitless(interval(here, model=m)), unit="nats", seed=seed)
              for m in (WHOLE, RANDOM, PLAIN)]  # fmt: skip
    claims += [claim(f"nats a token from the CP, {WHOLE}, {_place(name)}", **_unitless(interval(where, place=name)),
                     unit="nats", seed=seed) for name in where.place]  # fmt: skip
    claims += [
        claim(
            f"share of the layers until a token is decided, {m}",
            **interval(depth, model=m, scale=scale),
            seed=seed,
            unit="share",
        )
        for m in (WHOLE, RANDOM)
    ]
    return {"answer": answer, "claims": claims}


def attribution(
    found: "Mapping[str, Attribution]", parts: pd.DataFrame, agreement: pd.DataFrame, *, at: str, reference: str, what: str,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """12: which part of the vector does it? found: by condition; parts: of `inside.by_part`; agreement: of `inside`.

    what: what is measured, in words. Of an attribution that does not add up no part is named.
    """
    whole, moved = found[WHOLE], inside.changes(found)
    start, end = (float(whole.values[c].mean()) for c in ("start", "end"))
    jump = f" Copied or added rows alone do {whole.jump:+.2f} of it before." if whole.jump else ""
    gain = (f"τ at scale {at} moves {what} of {reference} by {told(moved, '+.2f', model=WHOLE)} nats, from {start:.2f} to "
            f"{end:.2f}.{jump}")  # fmt: skip
    sums = (f"The parts sum up to {whole.total:+.3f}, the difference is {whole.difference:+.3f} ({whole.error:.1%} of the sum "
            f"of absolute parts apart, {whole.nodes} nodes)")  # fmt: skip
    half = inside.half(whole, seed=seed) if whole.is_complete and whole.size else pd.DataFrame()
    if whole.is_complete:
        told_parts = f"{sums}. {_shares(parts, whole)} {_half(half)} {_ranks(agreement)}"
    else:
        told_parts = f"{sums}, which is not complete: no part is named."
    others = "; ".join(
        f"{label}: {told(moved, '+.2f', model=label)} nats, "
        + (
            f"the parts' absolute values sum up to {one.size:.2f}"
            if one.is_complete
            else "whose parts do not add up"
        )
        for label, one in found.items()
        if label != WHOLE
    )
    answer = (
        f"{gain} {told_parts} Beside it (all parts of τ: {whole.size:.2f}): {others}. {drawn(moved, seed)}"
    )
    claims = [claim(f"{what}, change by {label}", **_unitless(interval(moved, model=label)), unit="nats", seed=seed)
              for label in found]  # fmt: skip
    claims.append(
        claim(
            "sum of the parts − difference, over the sum of absolute parts",
            whole.error,
            n=len(whole.values),
            seed=seed,
        )
    )
    if whole.is_complete:
        rows = parts[parts.measure == "attribution"].head(MANY)
        claims += [claim(f"attribution, {row.part}", row.estimate, low=row.low, high=row.high, n=int(row.n), unit="nats",
                         seed=seed) for row in rows.itertuples()]  # fmt: skip
        claims += [claim(f"rank correlation of attribution with {WITH[row.against]}", row.estimate, low=row.low,
                         high=row.high, n=int(row.n), seed=seed) for row in agreement.itertuples()]  # fmt: skip
        claims += [
            claim("scale at which half of the change is reached", **_unitless(interval(half)), seed=seed)
        ] * len(half)
    return {"answer": answer, "claims": claims, "is_complete": whole.is_complete}


def _shares(parts: pd.DataFrame, whole: "Attribution") -> str:
    """The largest parts, each as a share of the sum of absolute parts."""
    rows = parts[parts.measure == "attribution"].head(MANY)
    if not whole.size:
        return "Nothing moves."
    named = ", ".join(
        f"{row.part} {told(rows, '+.2f', part=row.part)} ({abs(row.estimate) / whole.size:.0%})"
        for row in rows.itertuples()
    )
    return f"The largest of {len(whole.means)}: {named}."


def _ranks(agreement: pd.DataFrame) -> str:
    if agreement.empty:
        return ""
    alone, lost, length = (
        f"{told(agreement, '.2f', against=against)} with {what}" for against, what in WITH.items()
    )
    return (f"Ablation measures something else: over {int(agreement.parts.iloc[0])} parts the rank correlation is {alone} and "
            f"{lost}; that of absolute values is {length}.")  # fmt: skip


def _half(half: pd.DataFrame) -> str:
    """Where along the scale half of the change is reached."""
    return f"Half of the change is reached at scale {told(half, '.2f')}." if len(half) else ""


def _place(name: str) -> str:
    return "tokens between" if name == "between" else name


def _quoted(token: str) -> str:
    return repr(token) if token.strip() != token or not token.isprintable() else f"“{token}”"


def _unitless(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "unit"}
