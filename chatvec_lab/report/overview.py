"""The first screen of the page: what the whole study says, in one sentence, five answers, one figure and three replies."""

from collections.abc import Sequence
from typing import Any

from chatvec_lab.languages import language_name
from chatvec_lab.report import charts, tables
from chatvec_lab.report.charts import Axis, Point
from chatvec_lab.report.claims import AFTER, BEFORE, Claim, Pair, is_number, pairs
from chatvec_lab.report.plots import of_prompts, of_seeds, percent
from chatvec_lab.report.replies import Replies
from chatvec_lab.report.replies import pairs as reply_pairs
from chatvec_lab.report.seeds import by_seed, over

MOST_ROWS = 8
NOTHING: dict[str, Any] = {
    "headline": "",
    "answers": [],
    "next": [],
    "arrows": [],
    "means": "",
    "curves": None,
    "samples": [],
}


def overview(notebooks: Sequence[dict[str, Any]], replies: Replies | None) -> dict[str, Any]:
    """headline, answers [{question, answer, link, where}], figures, samples; what a study has not is left out."""
    every = [(n, pair) for n in notebooks for pair in pairs(n["claims"])]
    # a comparison that has its control is the one that an experiment was made for
    every.sort(key=lambda item: item[1].control is None)
    main = every[0] if every else None
    metric = _metric(*main, replies) if main and replies else None
    answers = [_works(*main)] if main else []
    answers += [*_scale(notebooks), *_cost(notebooks)]
    samples: list[dict[str, Any]] = []
    if main and replies and metric:
        answers += _wrong(main[0]["name"], metric, replies)
        samples = _samples(main[0]["name"], metric, replies)
    return {
        "headline": _headline(*main) if main else "",
        "answers": [{"where": None, **answer} for answer in answers],
        "next": [n for n in notebooks if n["name"] in {answer["link"] for answer in answers}],
        "arrows": _arrows(every, replies),
        "means": _means(main[1].after) if main else "",
        "curves": next((plot for n in notebooks for plot in n["plots"] if plot["form"] == "lines" and plot["is_main"]), None),
        "samples": samples,
    }  # fmt: skip


def _headline(notebook: dict[str, Any], pair: Pair) -> str:
    before, after = pair.before.over(), pair.after.over()
    assert before and after
    text = f"Adding the chat vector takes {pair.measure} from {pair.before.write(before)} to {pair.after.write(after)}"
    counts = of_prompts(row["n"] for row in pair.after.rows if is_number(row["n"])).removesuffix(".")
    counts = f" ({counts} prompts{' a cell' if len(pair.after.rows) > 1 else ''})" if counts else ""
    groups = [group for group in dict.fromkeys(row["group"] for row in pair.after.rows) if group]
    of = f" over {_and(groups)}" if len(groups) > 1 else ""
    if after.seeds > 1:
        how = "intervals over seeds" if not after.note else after.note
        text += f": means of {after.seeds} seeds{of}, {how}{counts}."
    elif of:
        text += f": means{of}, one seed, so no interval over seeds{counts}."
    else:
        text += f": one cell, with its intervals over prompts{counts}."
    return text


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _works(notebook: dict[str, Any], pair: Pair) -> dict[str, Any]:
    more, cells = pair.wins
    said = (
        f"With τ {pair.measure} go up in {f'all {cells}' if more == cells else f'{more} of {cells}'} cells."
    )
    if cells == 1:
        said = f"With τ {pair.measure} {'go up' if more else 'do not go up'}, in the one cell."
    if pair.control and (control := pair.control.over()):
        said += f" A random vector of the same size gives {pair.control.write(control)}: its direction does it, not its size."
        if _is_near(pair.after, pair.control):
            said = said.replace(": its direction does it, not its size.", ", which is not far from τ's.")
    return {"question": "Does it work?", "answer": said, "link": notebook["name"]}


def _is_near(after: Claim, control: Claim) -> bool:
    """Whether a seed's control reaches what another seed's τ gives, in any cell."""
    values = [
        [row["estimate"] for row in claim.rows if is_number(row["estimate"])] for claim in (after, control)
    ]
    return not all(values) or max(values[1]) >= min(values[0])


def _scale(notebooks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The scales that the cells chose: their list and range, never a mean."""
    for notebook in notebooks:
        claim = next((c for c in notebook["claims"] if c.name == "best scale"), None)
        if claim is None:
            continue
        groups: dict[str, list[str]] = {}
        for row in claim.rows:
            chosen = f"{row['estimate']:g}" if is_number(row["estimate"]) else "none"
            groups.setdefault(row["group"], []).append(chosen)
        numbers = [row["estimate"] for row in claim.rows if is_number(row["estimate"])]
        listed = "; ".join(f"{group} {', '.join(chosen)}".strip() for group, chosen in groups.items())
        ends = f" From {min(numbers):g} to {max(numbers):g}." if len(numbers) > 1 else ""
        each = ", a seed each" if len(claim.rows) > 1 else ""
        said = f"Chosen on validation prompts{each}: {listed}.{ends}"
        return [{"question": "Which scale?", "answer": said, "link": notebook["name"]}]
    return []


def _cost(notebooks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What it costs: perplexity against the CP, and the first change in what the CP could do, over seeds."""
    said, link = [], ""
    for start, most in (("perplexity", 1), ("change", 1)):
        found = [
            (n, c) for n in notebooks for c in n["claims"] if c.name.lower().startswith(start) and c.over()
        ]
        for notebook, claim in found[:most]:
            name, mean = claim.name[0].upper() + claim.name[1:], claim.over()
            value, note = claim.write(mean).replace("-", "−"), f" ({mean.note})" if mean and mean.note else ""
            if name.endswith(" / CP"):
                said.append(f"{name.removesuffix(' / CP')} is {value} times the CP's{note}.")
            else:
                said.append(f"{name}: {value}{note}.")
            link = link or notebook["name"]
    return [{"question": "What does it cost?", "answer": " ".join(said), "link": link}] if said else []


def _metric(notebook: dict[str, Any], pair: Pair, replies: Replies) -> str | None:
    """The measure of the replies that the pair's claims are of: the one whose means are theirs."""
    rows = replies.table[replies.table.notebook == notebook["name"]]
    for metric in replies.measures:
        if not set(rows[metric].dropna()) <= {0.0, 1.0} or "model" not in rows:
            continue
        told = ((BEFORE, pair.before), (AFTER, pair.after))
        if all(_agrees(rows[rows.model == model], metric, claim) for model, claim in told):
            return metric
    return None


def _agrees(rows: Any, metric: str, claim: Claim) -> bool:
    """Whether each cell's estimate is a mean of the measure over some group of its replies of one language and frame."""
    keys = [c for c in ("language", "cell_language", "frame", "seed", "set") if c in rows]
    means = {round(float(value), 6) for value in rows[rows[metric].notna()].groupby(keys)[metric].mean()}
    return bool(means) and all(
        round(float(row["estimate"]), 6) in means for row in claim.rows if is_number(row["estimate"])
    )


def _wrong(notebook: str, metric: str, replies: Replies) -> list[dict[str, Any]]:
    """The kinds of prompts that CP + τ does worst, and a way to its wrong replies."""
    rows = replies.table
    rows = rows[(rows.notebook == notebook) & (rows.model == AFTER) & rows[metric].notna()]
    found = []
    if "kind" in rows and rows.kind.nunique() > 1:
        kinds = []
        for kind, of in rows.groupby("kind", sort=False):
            values = by_seed((seed, float(part[metric].mean())) for seed, part in of.groupby("seed"))
            kinds.append((over(values, (0, 1)), kind))
        worst = sorted(kinds, key=lambda pair: pair[0].mean)[:3]
        said = "; ".join(f"{kind} {percent(mean.mean, mean.low, mean.high)}" for mean, kind in worst)
        asked = rows[rows.kind == worst[0][1]]
        text = next(
            (asked[c].iloc[0] for c in ("prompt_gloss", "prompt") if c in asked and asked[c].notna().all()),
            "",
        )
        said += f". A prompt of the kind {worst[0][1]}: “{text}”" if 0 < len(text) < 120 else ""
        where = {"notebook": notebook, "model": AFTER, "kind": str(worst[0][1]), "verdict": f"{metric}:no"}
        found.append({"question": "What goes wrong?", "answer": f"Least often right, by kind of prompt: {said}.",
                      "link": "replies", "where": where})  # fmt: skip
    bad = int((rows[metric] == 0).sum())
    where = {"notebook": notebook, "model": AFTER, "verdict": f"{metric}:no"}
    said = f"{bad:,} of {len(rows):,} replies of {AFTER} to these prompts are wrong; one stands below, all can be read."
    return [*found, {"question": "Show me a wrong reply", "answer": said, "link": "replies", "where": where}]


def _samples(notebook: str, metric: str, replies: Replies) -> list[dict[str, Any]]:
    """Two replies that τ put right, in two languages where there are two, and one that it did not: the first of each."""
    found = reply_pairs(replies, notebook, metric, BEFORE, AFTER)
    if "cell_language" in found and (own := found.cell_language.eq(found.language)).any():
        found = found[own]  # asked in the CP's language
    if found.empty:
        return []
    was, now = found[f"{metric}_before"], found[f"{metric}_after"]
    right, wrong = found[(was == 0) & (now == 1)], found[now == 0]
    # the second one in another language and of another kind
    chosen = [right.iloc[:1]]
    if len(right):
        other = right[(right.language != right.language.iloc[0]) | (right.language.nunique() == 1)]
        chosen.append((other[other.kind != right.kind.iloc[0]] if "kind" in other else other).iloc[:1])
    chosen.append(wrong.iloc[:1])
    texts = {"prompt": "prompt", "prompt_gloss": "prompt_gloss", "before": "response_before", "after": "response_after",
             "before_gloss": "gloss_before", "after_gloss": "gloss_after"}  # fmt: skip
    samples = []
    for row in (row for part in chosen for row in part.to_dict("records")):
        sample = {name: row.get(column, "") for name, column in texts.items()}
        about = ", ".join(filter(None, [language_name(row.get("language", "")), str(row.get("kind", ""))]))
        samples.append(
            sample
            | {"about": about, "was": bool(row[f"{metric}_before"]), "now": bool(row[f"{metric}_after"])}
        )
    return samples


def _arrows(every: Sequence[tuple[dict[str, Any], Pair]], replies: Replies | None) -> list[dict[str, Any]]:
    """One figure a unit of CP → CP + τ for every measure, each once, below the question of its notebook."""
    found: dict[str, dict[str, tuple[str, Claim, Claim, dict[str, Any]]]] = {}
    for notebook, pair in every:
        unit = "share" if pair.after.is_share else next(iter(pair.after.rows))["unit"]
        found.setdefault(unit, {}).setdefault(pair.measure, (pair.measure, pair.before, pair.after, notebook))
    figures = []
    for unit, rows in found.items():
        groups: dict[str, list[tuple[str, Point, Point]]] = {}
        for measure, before, after, notebook in list(rows.values())[:MOST_ROWS]:
            both = [
                _point(notebook["name"], model, claim, replies)
                for model, claim in ((BEFORE, before), (AFTER, after))
            ]
            groups.setdefault(notebook["title"], []).append((measure, *both))
        values = charts.reach([point for kept in groups.values() for _, *both in kept for point in both])
        is_share = unit == "share"
        axis = Axis(0, 1, True) if is_share else charts.axis(values, is_share=False, from_zero=True)
        title = "" if len(found) == 1 else "Shares" if is_share else unit.capitalize() or "Other numbers"
        figures.append({"title": title, "svg": charts.arrows(groups, axis, "The CP before and after τ"),
                        "left_out": max(len(rows) - MOST_ROWS, 0)})  # fmt: skip
    return figures


def _means(claim: Claim) -> str:
    """What the figure's large points are of, and what lies around them."""
    over = claim.over()
    if over and over.seeds > 1:
        return "Means over seeds with t intervals; small dots and thin lines: single cells."
    if len(claim.rows) > 1:
        return "Means of the cells of one seed, so without intervals over seeds; small dots: single cells."
    return "One cell, with its intervals over prompts."


def _point(notebook: str, model: str, claim: Claim, replies: Replies | None) -> Point:
    mean = claim.over()
    assert mean is not None
    seeds = []
    for row in claim.rows:
        if is_number(row["estimate"]):
            ends = [row[e] if is_number(row[e]) else None for e in ("low", "high")]
            value = (
                percent(row["estimate"], *ends) if claim.is_share else tables.interval(row["estimate"], *ends)
            )
            seeds.append((str(row["seed"]), float(row["estimate"]), f"{model}, {row['label']}: {value}"))
    told = f"{model}: {claim.write(mean)}, {of_seeds(mean)}"
    where = replies.where(notebook, {"model": model}) if replies else None
    return Point("", "", mean, seeds, told, where)
