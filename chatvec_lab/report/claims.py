"""The claims of a notebook's cells over seeds: one row a claim and language, on an axis that comparable rows share."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from chatvec_lab.languages import language_name
from chatvec_lab.report import charts, tables
from chatvec_lab.report.plots import of_seeds, percent, points
from chatvec_lab.report.seeds import Over, by_seed, limits_of, over

BEFORE, AFTER, CONTROL = "CP", "CP + τ", "CP + random"


class Claim(NamedTuple):
    """One claim of several cells: each cell's row (claim, estimate, low, high, n, seed, unit, label, group)."""

    name: str
    rows: list[dict[str, Any]]

    @property
    def is_share(self) -> bool:
        units = {row["unit"] for row in self.rows if is_number(row["estimate"])}
        return units == {"share"}

    @property
    def is_change(self) -> bool:
        return self.name.startswith(("change", "gain"))

    def over(self, group: str | None = None) -> Over | None:
        """The mean over seeds, of one group or of all (a seed's value is then the mean of its groups)."""
        rows = [r for r in self.rows if (group is None or r["group"] == group) and is_number(r["estimate"])]
        if not rows:
            return None
        if len(rows) == 1:  # one cell: its own interval, over prompts
            ends = [rows[0][end] if is_number(rows[0][end]) else None for end in ("low", "high")]
            return Over(float(rows[0]["estimate"]), *ends, 1, "")
        values = by_seed((row["seed"], float(row["estimate"])) for row in rows)
        return over(values, limits_of(self.is_share, self.is_change))

    def write(self, found: Over | None) -> str:
        if found is None:
            return tables.MISSING
        ends = (found.mean, found.low, found.high)
        if self.is_share:
            return points(*ends) if self.is_change else percent(*ends)
        unit = next((row["unit"] for row in self.rows if row["unit"] != "share"), "")
        return " ".join(filter(None, [tables.interval(*ends), unit]))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def gathered(cells: Iterable[dict[str, Any]], kept: Sequence[str]) -> list[Claim]:
    """The claims of done cells by name; `kept` are the parameters whose values make groups of repetitions."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        group = ", ".join(_said(name, cell["varying"][name]) for name in kept if name in cell["varying"])
        seed = cell["parameters"].get("seed")
        for claim in (cell["summary"] or {}).get("claims", []):
            row = {**claim, "label": cell["label"], "group": group, "unit": str(claim["unit"] or "")}
            row["seed"] = seed if seed is not None else claim["seed"]
            groups.setdefault(str(claim["claim"]), []).append(row)
    return [Claim(name, rows) for name, rows in groups.items()]


def _said(name: str, value: Any) -> str:
    return language_name(str(value)) if name == "language" else str(value)


def table(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Rows for the page: name, group, value in words, bar, n, and over how many seeds.

    Shares have one axis together; other claims share theirs with those of the same beginning ("rank, chat", "rank, CP").
    """
    found, together = [], {}
    for claim in claims:
        values = [v for row in claim.rows for e in ("estimate", "low", "high") if is_number(v := row[e])]
        together.setdefault(_begins(claim), []).extend(values)
    for claim in claims:
        if claim.name == "best scale":  # choices are listed, not averaged
            continue
        values = [v for row in claim.rows for e in ("estimate", "low", "high") if is_number(v := row[e])]
        if not values:
            found.append(
                {"name": claim.name, "group": "", "value": tables.MISSING, "bar": "", "n": None, "seeds": ""}
            )
            continue
        axis = (
            charts.axis(values, is_share=claim.is_share) if len(set(values)) > 1 or claim.is_share else None
        )
        for group in dict.fromkeys(row["group"] for row in claim.rows):
            mean = claim.over(group)
            rows = [row for row in claim.rows if row["group"] == group]
            seeds = [float(row["estimate"]) for row in rows if is_number(row["estimate"])]
            bar = charts.bar(mean, seeds if len(seeds) > 1 else [], axis) if mean and axis else ""
            found.append({"name": claim.name, "group": group, "value": claim.write(mean), "bar": bar, "n": rows[0]["n"],
                          "seeds": of_seeds(mean) if mean and len(rows) > 1 else ""})  # fmt: skip
    return found


def _begins(claim: Claim) -> str:
    return "share" if claim.is_share else claim.name.rpartition(", ")[0] or claim.name


class Pair(NamedTuple):
    """A measure of the CP before and after τ was added, and of the control where there is one."""

    measure: str
    before: Claim
    after: Claim
    control: Claim | None

    @property
    def wins(self) -> tuple[int, int]:
        """In how many cells the measure is larger after, of how many."""
        values = [
            {row["label"]: row["estimate"] for row in claim.rows if is_number(row["estimate"])}
            for claim in (self.before, self.after)
        ]
        both = values[0].keys() & values[1].keys()
        return sum(values[1][label] > values[0][label] for label in both), len(both)


def pairs(claims: Sequence[Claim]) -> list[Pair]:
    """The measures that a notebook gives of the CP and of CP + τ, by their claims' names: "…, CP" and "…, CP + τ"."""
    by_name = {claim.name: claim for claim in claims}
    found = []
    for name, before in by_name.items():
        measure, _, model = name.rpartition(", ")
        after = by_name.get(f"{measure}, {AFTER}")
        if model == BEFORE and measure and after and before.over() and after.over():
            found.append(Pair(measure, before, after, by_name.get(f"{measure}, {CONTROL}")))
    return found


def lead(claims: Sequence[Claim], most: int = 4) -> list[str]:
    """What a notebook's cells say together, a line a measure: of pairs what τ changes, else the first claims.

    The price is among them, where there is one.
    """
    several = [claim for claim in claims if len(claim.rows) > 1]
    found = pairs(several)
    if found:
        return [f"{p.measure}: {p.before.write(p.before.over())} without τ, {p.after.write(p.after.over())} with it"
                for p in found[:most]]  # fmt: skip
    rest = [claim for claim in several if claim.name != "best scale" and claim.over()]
    price = [claim for claim in rest[most:] if claim.name.startswith("perplexity")][:1]
    return [f"{claim.name}: {claim.write(claim.over())}" for claim in [*rest[: most - len(price)], *price]]
