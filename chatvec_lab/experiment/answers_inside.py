"""What the notebooks 11 and 12 end with: what changes token by token, and which part of the vector does it, in words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from chatvec_lab.experiment.inside import PLAIN, RANDOM, REFERENCE, WHOLE
from chatvec_lab.experiment.words import interval, told
from chatvec_lab.study.outputs import claim

if TYPE_CHECKING:
    from chatvec_lab.lens import Attribution

MANY = 4  # parts that are named


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
    where = places[(places.model == WHOLE) & (places.scale == scale)].set_index("place").estimate
    others = where.drop(where.idxmax()).items() if len(where) else ()
    at_places = "; ".join(f"{value:.2f} at the {_place(name)}" for name, value in others)
    most = (
        ""
        if where.empty
        else f" It is largest at the {_place(where.idxmax())} ({where.max():.2f}; {at_places})."
    )
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
        f"after {deep[WHOLE]} of the layers (CP {deep['CP']}, random vector {deep[RANDOM]})."
    )
    claims = [claim(f"nats a token from the CP, {m}", **_unitless(interval(here, model=m)), unit="nats", seed=seed)
              for m in (WHOLE, RANDOM, PLAIN)]  # fmt: skip
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
    whole = found[WHOLE]
    start, end = (float(whole.values[c].mean()) for c in ("start", "end"))
    jump = f" Copied or added rows alone do {whole.jump:+.2f} of it before." if whole.jump else ""
    gain = f"τ at scale {at} moves {what} of {reference} from {start:.2f} to {end:.2f} nats.{jump}"
    sums = (f"The parts sum up to {whole.total:+.3f}, the difference is {whole.difference:+.3f} ({whole.error:.1%} of the sum "
            f"of absolute parts apart, {whole.nodes} nodes)")  # fmt: skip
    if whole.is_complete:
        told_parts = f"{sums}. {_shares(parts, whole)} {_half(whole)} {_ranks(agreement)}"
    else:
        told_parts = f"{sums}, which is not complete: no part is named."
    others = "; ".join(
        f"{label}: {float(one.values.end.mean()) - float(one.values.start.mean()):+.2f} nats"
        + ("" if one.is_complete else " (its parts do not add up)")
        for label, one in found.items()
        if label != WHOLE
    )
    answer = f"{gain} {told_parts} Beside it: {others}."
    claims = [claim(f"{what}, change by τ", whole.difference, n=len(whole.values), unit="nats", seed=seed)]
    claims.append(
        claim("sum of the parts − difference, over the sum of absolute parts", whole.error, seed=seed)
    )
    if whole.is_complete:
        rows = parts[parts.measure == "attribution"].head(MANY)
        claims += [claim(f"attribution, {row.part}", row.estimate, low=row.low, high=row.high, n=int(row.n), unit="nats",
                         seed=seed) for row in rows.itertuples()]  # fmt: skip
        claims += [claim(f"rank correlation with ablation, {row.against}", row.estimate, low=row.low, high=row.high,
                         n=int(row.n), seed=seed) for row in agreement.itertuples()]  # fmt: skip
    return {"answer": answer, "claims": claims, "is_complete": whole.is_complete}


def _shares(parts: pd.DataFrame, whole: "Attribution") -> str:
    """The largest parts, each as a share of the sum of absolute parts."""
    rows = parts[parts.measure == "attribution"].head(MANY)
    if not whole.size:
        return "Nothing moves."
    named = ", ".join(
        f"{row.part} {row.estimate:+.2f} ({abs(row.estimate) / whole.size:.0%})" for row in rows.itertuples()
    )
    return f"The largest of {len(whole.means)}: {named}."


def _ranks(agreement: pd.DataFrame) -> str:
    if agreement.empty:
        return ""
    ranks = " and ".join(
        f"{told(agreement, '.2f', against=against)} with {what}"
        for against, what in (("alone", "a part alone"), ("lost", "what is lost without it"))
    )
    return f"Ablation measures something else: over {int(agreement.parts.iloc[0])} parts the rank correlation is {ranks}."


def _half(whole: "Attribution") -> str:
    """Where along the scale half of the change is reached."""
    steps = (whole.path.rate * whole.path.weight).groupby(whole.path.scale).sum().sort_index()
    reached = steps.cumsum() / steps.sum() >= 0.5 if steps.sum() else steps > 0
    return f"Half of the change is reached by scale {reached.idxmax():.2f}." if reached.any() else ""


def _place(name: str) -> str:
    return "tokens between" if name == "between" else name


def _quoted(token: str) -> str:
    return repr(token) if token.strip() != token or not token.isprintable() else f"“{token}”"


def _unitless(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "unit"}
