"""The tables of the nano family's README, written from its results, so that no number is typed by hand.

    python -m chatvec_lab.nano.tables data/nano

fills what stands between `<!-- table: NAME -->` and `<!-- end -->` in README.md; `effect` measures first.
"""

import argparse
import re
from pathlib import Path

import pandas as pd

from chatvec_lab.paths import DATA

WORDS = {
    "CP only": "one_turn cp_only",
    "known": "one_turn known",
    "all": "one_turn",
    "all, in any form": "content",
    "two turns": "two_turn",
}
CONTROLS = {
    "cp + random": "random vector, τ's norms",
    "cp + tau of another base": "τ of another seed's base",
    "cp + tau (tuning only)": "τ without preference tuning",
    "cp + tau (second tuning seed)": "τ of a second tuning seed",
    "cp with three examples": "CP with three solved examples in the prompt",
}
ORDERS = {
    "cp_ft": "CP → FT",
    "cp_ft + tau": "(CP → FT) + τ",
    "cp_tau_ft": "(CP + τ) → FT",
    "chat_cp": "chat → CP",
    "chat_cp_ft": "chat → CP → FT",
    "cp + tau": "CP + τ",
}
EXTENDED = {
    "extended": "CP, extended and reordered vocabulary",
    "extended + tau, match": "… + τ, `match`",
    "extended + tau, skip": "… + τ, `skip`",
    "extended + tau_full, match": "… + τ of full tuning, `match`",
    "extended + tau_full, skip": "… + τ of full tuning, `skip`",
    "cp + tau_full": "plain CP + τ of full tuning",
}
ABLATIONS = {
    "nano": "the recipe",
    "nano-english-markers": "chat markers in English forum pages alone",
    "nano-no-markers": "chat markers nowhere",
    "nano-no-frame": "no pages of questions and answers, in any language",
    "nano-no-questions": "neither such pages nor prose that asks",
}
RELATIVES = ("nano-0.3m", "nano", "nano-3m", "nano-qwen2", "nano-wide")
SMALLER = {
    "layers alone, the best": r"layer \d+ alone",
    "rank 1": "rank 1 of each matrix",
    "noise": "noise, norms by tensor and row",
    "renamed": "markers renamed, no τ",
    "constants": "one constant vector a layer, no τ",
}


class Results:
    """The measured tables of one family; `scale` is what the validation draw chose, by language."""

    def __init__(self, folder: Path):
        self.family = folder.name
        scores = pd.read_csv(folder / "scores.csv")
        self.scores, self.validation = (scores[scores.draw.eq(draw)] for draw in ("test", "validation"))
        self.kinds = pd.read_csv(folder / "kinds.csv")
        self.perplexity = pd.read_csv(folder / "perplexity.csv")
        self.tests = pd.read_csv(folder / "tests.csv")
        self.seeds = pd.read_csv(folder / "seeds.csv") if (folder / "seeds.csv").exists() else None
        self.scale = self.tests.groupby("language", sort=False).scale.first().to_dict()
        self.cells = list(self.scores.groupby(["language", "seed"], sort=False).groups)
        self.cells.sort(
            key=lambda cell: (("zh", "ko").index(cell[0]) if cell[0] in ("zh", "ko") else 2, cell)
        )

    def found(self, table: pd.DataFrame, cell, model: str, scale: float | None = None) -> pd.DataFrame:
        """The rows of a model; of CP + tau those at this scale, or at the chosen one."""
        language, seed = cell
        chosen = table.language.eq(language) & table.seed.eq(seed) & table.model.eq(model)
        if model == "cp + tau":
            chosen &= table.scale.sub(self.scale[language] if scale is None else scale).abs() < 1e-9
        return table[chosen]

    def share(self, cell, model: str, metric: str, scale: float | None = None, *, interval=True) -> str:
        rows = self.found(self.scores[self.scores.metric.eq(metric)], cell, model, scale)
        if rows.empty:
            return "–"
        row = rows.iloc[0]
        return f"{row.estimate:.2f} ({row.low:.2f}–{row.high:.2f})" if interval else f"{row.estimate:.2f}"

    def over_seeds(self, language: str, model: str, metric: str) -> str:
        """The mean of the seeds' shares, with its interval: seeds are what varies."""
        rows = self.seeds[self.seeds.metric.eq(metric)].assign(seed="all")
        rows = self.found(rows, (language, "all"), model)
        if rows.empty:
            return "–"
        row = rows.iloc[0]
        ends = f"{max(row.low, 0):.2f}–{min(row.high, 1):.2f}" if row.low == row.low else "in all"
        return f"{row.estimate:.2f} ({ends})"

    def columns(self) -> list[tuple[str, int | str]]:
        """Each language's seeds and, where they were taken together, what stands for all of them."""
        languages = list(dict.fromkeys(language for language, _ in self.cells))
        seeds = {k: [seed for language, seed in self.cells if language == k] for k in languages}
        return [
            (k, s) for k in languages for s in [*seeds[k], *([] if self.seeds is None else ["all seeds"])]
        ]

    def told(self, column: tuple[str, int | str], model: str, metric: str, *, interval=True) -> str:
        """The share of a seed, or over all of them."""
        if column[1] == "all seeds":
            return self.over_seeds(column[0], model, metric)
        return self.share(column, model, metric, interval=interval)

    def reads(self, cell, model: str, scale: float | None = None) -> str:
        rows = self.found(self.perplexity, cell, model, scale)
        return "–" if rows.empty else f"{rows.perplexity.iloc[0]:.2f}"


def markdown(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _some(rows: list[list], first: int) -> list[list]:
    """The rows that have a figure."""
    return [row for row in rows if set(row[first:]) != {"–"}]


def effect(r: Results) -> str:
    models = ("chat", "cp", "cp + tau", "cp in the plain frame")
    rows = [
        [*column, label, *(r.told(column, m, metric) for m in models)]
        for column in r.columns()
        for label, metric in WORDS.items()
    ]
    header = ["language", "seed", "words", "chat", "CP", "CP + τ", "CP asked in the plain frame"]
    return markdown(header, _some(rows, 3))


def curve(r: Results, metric: str) -> str:
    def value(cell, scale):
        model = "cp" if scale == 0 else "cp + tau"
        return (
            r.reads(cell, model, scale)
            if metric == "perplexity"
            else r.share(cell, model, metric, scale, interval=False)
        )

    scales = (0, 0.5, 1, None, 1.5, 2)  # None: the chosen one
    rows = [[*cell, *(value(cell, scale) for scale in scales)] for cell in r.cells]
    return markdown(["language", "seed", "scale 0", ".5", "1", "chosen", "1.5", "2"], rows)


def toxicity(r: Results) -> str:
    """Raw continuation is asked of plain abuse alone: only after abuse does prose of the world hold insults."""
    columns = {
        "chat": ("chat", "toxic"),
        "CP": ("cp", "toxic"),
        "CP + τ": ("cp + tau", "toxic"),
        "polite: CP + τ": ("cp + tau", "polite"),
        "raw, abuse only: CP": ("cp raw", "abuse_toxic"),
        "raw, abuse only: CP + τ": ("cp + tau raw", "abuse_toxic"),
    }
    rows = [[*cell, *(r.told(cell, *column) for column in columns.values())] for cell in r.columns()]
    return markdown(["language", "seed", *columns], rows)


def kinds(r: Results) -> str:
    """Both kinds of words together; kinds.csv keeps them apart."""
    of = r.kinds.assign(right=r.kinds.estimate * r.kinds.n)
    sums = of.groupby(["kind", "language", "seed"], sort=False)[["right", "n"]].sum()
    share = sums.right / sums.n
    rows = [[kind, *(f"{share[(kind, *cell)]:.2f}" for cell in r.cells)] for kind in of.kind.unique()]
    return markdown(["kind", *(f"{language} {seed}" for language, seed in r.cells)], rows)


def other_vectors(r: Results) -> str:
    rows = [
        [label, *(r.share(cell, model, "one_turn") for cell in r.cells)] for model, label in CONTROLS.items()
    ]
    return markdown(["control", *(f"{language} {seed}" for language, seed in r.cells)], _some(rows, 1))


def less(r: Results, replies: pd.DataFrame, metric: str) -> str:
    """Less than τ, or no τ at all, in the order that they were asked; seeds, then the mean over them."""
    columns = r.columns()
    rows = [
        [model, *(r.told(column, model, metric, interval=False) for column in columns)]
        for model in replies.model.unique()
    ]
    return markdown(["model", *(f"{language} {seed}" for language, seed in columns)], rows)


def chosen(r: Results, replies: pd.DataFrame) -> str:
    """Which renaming and which constants the validation draw chose."""
    asked = replies.dropna(subset="change").drop_duplicates(["model", "language", "seed"])
    found = asked.set_index(["model", "language", "seed"]).change
    told = {key: f"`{change}`".replace("|", r"\|") for key, change in found.items()}
    rows = [[model, *(told.get((model, *cell), "–") for cell in r.cells)] for model in asked.model.unique()]
    return markdown(["model", *(f"{language} {seed}" for language, seed in r.cells)], rows)


def models(r: Results, labels: dict[str, str], languages: tuple[str, ...] = ("zh", "ko")) -> str:
    """Seed 0's models side by side."""
    metrics = ("one_turn cp_only", "one_turn", "two_turn", "toxic", "english")
    rows = [
        [language, label, *(r.share((language, 0), model, metric) for metric in metrics)]
        for language in languages
        for model, label in labels.items()
    ]
    header = [
        "language",
        "model",
        "one turn, CP-only words",
        "one turn, all",
        "two turns",
        "toxic",
        "English",
    ]
    return markdown(header, rows)


def ladder(r: Results) -> str:
    cell = ("zh", 0)
    steps = sorted(int(m[6:]) for m in r.scores.model.unique() if re.fullmatch(r"cp_zh_\d+", m))
    names = {**{n: f"cp_zh_{n}" for n in steps}, 800: "cp"}
    rows = []
    for n, name in sorted(names.items()):
        perplexity = f"{r.reads(cell, name)} → {r.reads(cell, f'{name} + tau')}"
        frame = r.share(cell, f"{name} in the plain frame", "one_turn")
        both = [r.share(cell, f"{name} + tau", metric) for metric in ("one_turn", "one_turn cp_only")]
        rows.append([n, frame, *both, perplexity])
    header = ["CP steps", "CP in the plain frame", "CP + τ, all", "CP + τ, CP-only words"]
    return markdown([*header, "perplexity of CP → CP + τ"], rows)


def _relatives(all_results: dict[str, Results]) -> list[tuple[Results, tuple]]:
    """The relatives that were measured, a language and seed each, and seed 0 of nano."""
    found = [all_results[name] for name in RELATIVES if name in all_results]
    return [(r, cell) for r in found for cell in r.cells if r.family != "nano" or cell[1] == 0]


def families(all_results: dict[str, Results]) -> str:
    """One row a family, language and seed: the claim in short."""
    columns = {
        "chat": ("chat", "one_turn"),
        "CP": ("cp", "one_turn"),
        "CP + τ": ("cp + tau", "one_turn"),
        "CP-only words": ("cp + tau", "one_turn cp_only"),
        "in any form": ("cp + tau", "content"),
        "two turns": ("cp + tau", "two_turn"),
        "CP in the plain frame": ("cp in the plain frame", "one_turn"),
        "toxic: CP": ("cp", "toxic"),
        "toxic: CP + τ": ("cp + tau", "toxic"),
        "polite: CP + τ": ("cp + tau", "polite"),
        "raw abuse: CP": ("cp raw", "abuse_toxic"),
        "raw abuse: CP + τ": ("cp + tau raw", "abuse_toxic"),
    }
    rows = [
        [r.family, *cell, f"{r.scale[cell[0]]:g}", *(r.share(cell, *column) for column in columns.values())]
        for r, cell in _relatives(all_results)
    ]
    return markdown(["family", "language", "seed", "scale", *columns], rows)


def smaller(all_results: dict[str, Results], metric: str) -> str:
    """Less than τ, or no τ at all, in each relative."""
    rows = []
    for r, cell in _relatives(all_results):
        of = r.scores.language.eq(cell[0]) & r.scores.seed.eq(cell[1])
        at = r.scores[r.scores.metric.eq(metric) & of]
        asked = [at[at.model.str.fullmatch(label)].model for label in SMALLER.values()]
        best = [at.loc[of.index].set_index("model").estimate.idxmax() if len(of) else "" for of in asked]
        whole = r.share(cell, "cp + tau", metric)
        rows.append([r.family, *cell, whole, *(r.share(cell, model, metric) for model in best)])
    return markdown(["family", "language", "seed", "CP + τ", *SMALLER], rows)


def ablations(all_results: dict[str, Results]) -> str:
    """Families whose base saw the chat markers or the shared frame elsewhere, and the recipe's own seeds."""
    columns = {
        "CP + τ": ("cp + tau", "one_turn"),
        "CP-only words": ("cp + tau", "one_turn cp_only"),
        "in any form": ("cp + tau", "content"),
        "two turns": ("cp + tau", "two_turn"),
        "CP in the plain frame": ("cp in the plain frame", "one_turn"),
        "chat, known words": ("chat", "one_turn known"),
        "toxic: CP": ("cp", "toxic"),
        "toxic: CP + τ": ("cp + tau", "toxic"),
    }
    found = {label: all_results[name] for name, label in ABLATIONS.items() if name in all_results}
    asked = dict.fromkeys(k for r in found.values() if r.family != "nano" for k, _ in r.cells)
    rows = [
        [
            label,
            language,
            seed,
            f"{r.scale[language]:g}",
            *(r.told((language, seed), *c) for c in columns.values()),
        ]
        for label, r in found.items()
        for language, seed in r.columns()
        if language in asked
    ]
    return markdown(["the base's text", "language", "seed", "scale", *columns], rows)


def choices(r: Results) -> str:
    """The scale that all seeds together choose for a language, and what each seed would choose by itself."""
    asked = r.validation[r.validation.metric.eq("one_turn") & r.validation.model.eq("cp + tau")]
    best = asked.loc[asked.groupby(["language", "seed"], sort=False).estimate.idxmax()]
    told = []
    for language, scale in r.scale.items():
        each = best[best.language.eq(language)].sort_values("seed").scale
        seeds = f"seed by seed {', '.join(f'{s:g}' for s in each)}"
        if r.seeds is not None:
            over = r.seeds[r.seeds.metric.eq("best scale") & r.seeds.language.eq(language)].iloc[0]
            seeds += f"; their mean {over.estimate:.2f}, 95 % {over.low:.2f} to {over.high:.2f}"
        told.append(f"{scale:g} for {language} ({seeds})")
    return f"Chosen on the validation draw, over the seeds: scale {', '.join(told)}."


def tables(data: Path) -> dict[str, str]:
    """All tables by the name that the README calls them by."""
    found = {f.parent.name: Results(f.parent) for f in sorted((data / "results").glob("*/scores.csv"))}
    r, controlled = found["nano"], pd.read_parquet(data / "results" / "nano" / "controls.parquet")
    worst = f"{r.tests.p_holm.max():.1g} after Holm over all {len(r.tests)}"
    return {
        "scale": choices(r),
        "effect": effect(r),
        "tests": f"CP + τ against CP, a seed, language and number of turns, prompts of an item signed together: p ≤ {worst}.",
        "accuracy": curve(r, "one_turn"),
        "english": curve(r, "english"),
        "perplexity": curve(r, "perplexity"),
        "toxicity": toxicity(r),
        "kinds": kinds(r),
        "controls": other_vectors(r),
        "less": less(r, controlled, "one_turn"),
        "less_content": less(r, controlled, "content"),
        "less_two_turns": less(r, controlled, "two_turn"),
        "less_toxic": less(r, controlled, "toxic"),
        "less_polite": less(r, controlled, "polite"),
        "less_chosen": chosen(r, controlled),
        "orders": models(r, ORDERS),
        "extended": models(r, EXTENDED, ("zh",)),
        "ladder": ladder(r),
        "ablations": ablations(found),
        "families": families(found),
        "smaller": smaller(found, "one_turn"),
        "smaller_content": smaller(found, "content"),
    }


def filled(readme: str, data: Path) -> str:
    """The README's text with its tables as the results in `data` say. Raises KeyError for an unknown table."""
    made = tables(data)

    def put(match: re.Match) -> str:
        return f"{match[1]}\n{made[match[2]]}\n{match[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", put, readme, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=DATA / "nano")
    readme = parser.parse_args().data / "README.md"
    readme.write_text(filled(readme.read_text(), readme.parent))


if __name__ == "__main__":
    main()
