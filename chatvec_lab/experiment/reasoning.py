"""What a reasoning vector carries: how often, how long and in which language a model thinks over the scale, and how well.

    exam = reasoning.exam(load_family("nano"), "zh")
    models = reasoning.over_scales(exam.family, "zh", [0.0, 0.5, 1.0])
    replies = reasoning.ask(exam, models, 52, samples=4, temperature=1.0)
    reasoning.measured(exam, replies)

The reasoning vector is chat_think − base, of the family's chat model that thinks before it answers. `between` goes from
the chat vector to it, as arXiv 2510.10977 goes from an Instruct to a Thinking model: (1 − λ) τ + λ τ_think.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from chatvec_lab.evaluation.language import language_scores
from chatvec_lab.evaluation.statistics import summarise
from chatvec_lab.evaluation.statistics.sweep import is_on_front
from chatvec_lab.experiment.exam import Exam
from chatvec_lab.experiment.models import At, Dial, Mix, at_scale, control
from chatvec_lab.experiment.words import claims_of, drawn, interval, told
from chatvec_lab.languages import language_name
from chatvec_lab.weights.combinations import weighted

if TYPE_CHECKING:
    from chatvec_lab.families import Family
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.vector import WeightVector

MEMBER = "chat_think"
PAPER = "arXiv 2510.10977: from near 0 to near 1 between .4 and .6 (Qwen3-4B, Instruct to Thinking)"
THINKS, TOKENS, LANGUAGE, MEAN, ANY = "thinks", "thinking_tokens", "thought_in_language", "mean@k", "pass@k"
SPENT = "tokens_spent"
WHOLE, RANDOM = "CP + τ_think", "CP + random vector"
NAMES = {THINKS: "replies that think", LANGUAGE: "thoughts in the CP's language", MEAN: "right, mean over samples",
         ANY: "right in one sample or more"}  # fmt: skip


def vector(family: "Family") -> "WeightVector":
    """chat_think − base; ValueError where the family has no such member."""
    if MEMBER not in family.others:
        home = family.base.folder.parent.parent.parent if family.is_nano else None
        way = (
            f"grow it: python -m chatvec_lab.nano.training {family.name} --seeds N --only {MEMBER} --out {home} (the recipe "
            "of nano has one, and each of its seeds is shipped with it)"
            if home
            else f"name one in the family's file, others: {{{MEMBER}: MODEL}}"
        )
        raise ValueError(f"family {family.name!r} has no member {MEMBER}, a chat model that thinks: {way}.")
    return family[MEMBER] - family.base


def exam(family: "Family", language: str, *, scorers: Sequence[str] = (), **options: Any) -> Exam:
    """The family's own exam (or these scorers), which also reads the thoughts; the member is checked first."""
    vector(family)
    own = scorers or (["world"] if family.is_nano else ["instructions", "language"])
    return Exam(family, language, scorers=list(dict.fromkeys([*own, "thinking"])), **options)


def over_scales(family: "Family", language: str, scales: Sequence[float]) -> dict[float, At]:
    """CP + scale · τ_think, by scale."""
    dial = Dial(family.cp[language], vector(family))
    return {scale: At(dial, scale) for scale in scales}


def between(family: "Family", language: str, steps: Sequence[float]) -> dict[float, Mix]:
    """CP + (1 − λ) τ + λ τ_think, by λ."""
    both = [family.chat - family.base, vector(family)]
    dial = Dial(family.cp[language], weighted(both, [1.0, 1.0]))
    return {step: Mix(dial, weighted(both, [1 - step, step])) for step in steps}


def controls(family: "Family", language: str, scale: float) -> "dict[str, Checkpoint]":
    """What else might make the CP think, by label: noise of τ_think's size, with the template of the member that thinks."""
    return {RANDOM: at_scale(family.cp[language], control(vector(family)), scale)}


def ask(
    exam: Exam,
    models: "Mapping[float | str, At | Mix | Checkpoint]",
    n: int,
    *,
    samples: int,
    temperature: float,
    seed: int = 0,
) -> pd.DataFrame:
    """`samples` replies of each model to `n` one-turn prompts, scored, with the thought's language; models by `scale`.

    Columns as of `Exam.ask`, and thought_language (missing without a thought) and thought_in_language (NaN likewise).
    Of a nano family only the kinds that its member thinks about are asked for: the others are answered at once.
    """
    decoding = {"samples": samples, "temperature": temperature, "seed": seed}
    found = exam.ask(models, ["one_turn"], n, decoding=decoding).rename(columns={"model": "scale"})
    thinks = found.thinks.eq(1)
    if exam.family.is_nano:
        from chatvec_lab.nano.documents import WORKED
        from chatvec_lab.nano.evaluation import reply_language

        told = pd.Series([reply_language(t) if isinstance(t, str) else None for t in found.thinking])
        found = found.assign(thought_language=told)
        found[LANGUAGE] = told.eq(exam.language).astype(float).where(thinks & told.notna())
        return found[found.kind.isin(WORKED)].reset_index(drop=True)
    read = language_scores(found.assign(answer=found.thinking))
    found[LANGUAGE] = read.correct.where(thinks)
    return found.rename(columns={"thinking_language": "thought_language"})


def measured(exam: Exam, replies: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Each measure by scale with its 95 % interval over prompts: scale, metric, estimate, low, high, n (prompts), unit.

    thinks: share of replies with a thought. thinking_tokens and thought_in_language: of those with one; tokens_spent:
    of all replies, 0 without a thought. mean@k: mean of the exam's main measure over samples; pass@k: share of prompts
    that one of the k samples has right (k = all of them; only of a measure that is right or wrong). A reply that never
    gets from its thought to an answer is not right; a prompt that the scorer does not cover is left out.
    """
    main = exam.main("one_turn")
    is_share = exam.measures[main][0].unit == "share"
    is_covered = replies[main].notna().groupby(replies.prompt_id).transform("any")
    never = is_covered & replies.answer.isna() & replies.thinks.eq(1)
    rows = replies.assign(**{MEAN: replies[main].mask(never, 0.0) if is_share else replies[main]})
    rows[SPENT] = rows[TOKENS]
    rows[TOKENS] = rows[TOKENS].where(rows.thinks.eq(1))
    units = {
        THINKS: "share",
        TOKENS: "tokens",
        SPENT: "tokens",
        LANGUAGE: "share",
        MEAN: exam.measures[main][0].unit,
    }
    tables = []
    for metric, unit in units.items():
        known = rows[rows[metric].notna()]
        if len(known):
            found = summarise(known, by="scale", value=metric, share=unit == "share", seed=seed)
            tables.append(found.assign(metric=metric, unit=unit))
    if is_share:
        best = rows[rows[MEAN].notna()].groupby(["scale", "prompt_id"], as_index=False)[MEAN].max()
        best = best.rename(columns={MEAN: ANY})
        tables.append(
            summarise(best, by="scale", value=ANY, share=True, seed=seed).assign(metric=ANY, unit="share")
        )
    return pd.concat(tables, ignore_index=True)[["scale", "metric", "estimate", "low", "high", "n", "unit"]]


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """The shares of `measured`, by the names that figures print; rows of scales are left out."""
    return table[table.metric.isin(NAMES) & table.unit.eq("share")].replace({"metric": NAMES})


def beside(over: pd.DataFrame, others: pd.DataFrame, scale: float) -> pd.DataFrame:
    """The rows of `over` at a scale beside those of the controls, both of `measured`: model in place of scale."""
    both = pd.concat([over[over.scale == scale].assign(scale=WHOLE), others], ignore_index=True)
    return both.rename(columns={"scale": "model"})


class Jump(NamedTuple):
    """The step along a path at which the share that thinks grows most."""

    start: float
    stop: float
    before: float
    after: float


def jump(table: pd.DataFrame) -> Jump:
    """Where thinking sets in: of neighbouring scales in `measured` the two with the largest growth (the first of equals)."""
    line = table[table.metric == THINKS].sort_values("scale")
    i = int(np.argmax(np.diff(line.estimate)))
    (start, stop), (before, after) = line.scale.iloc[i : i + 2], line.estimate.iloc[i : i + 2]
    return Jump(float(start), float(stop), float(before), float(after))


def front(table: pd.DataFrame) -> pd.DataFrame:
    """Length against accuracy, a row a scale: scale, tokens and right with _low and _high, is_on_front.

    tokens: of the thought, over all replies, 0 for those without one: what the thinking costs.
    """
    wide = pd.DataFrame({"scale": sorted(table.scale.unique())})
    for name, metric in (("tokens", SPENT), ("right", MEAN)):
        rows = table[table.metric == metric].rename(
            columns={"estimate": name, "low": f"{name}_low", "high": f"{name}_high"}
        )
        wide = wide.merge(rows[["scale", name, f"{name}_low", f"{name}_high"]], how="left")
    return wide.assign(is_on_front=is_on_front(wide, most=["right"], least=["tokens"]))


def answer(
    exam: Exam, over: pd.DataFrame, path: pd.DataFrame, points: pd.DataFrame, compared: pd.DataFrame, *, at: float,
    samples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """14 in sentences and claims: of `measured` over the scale and along the path, `front` and `beside`."""
    first, last = path.scale.min(), path.scale.max()
    on_front = ", ".join(f"{scale:g}" for scale in points[points.is_on_front].scale)
    others = [model for model in dict.fromkeys(compared.model) if model != WHOLE]
    thinking = ", ".join(f"{model} {told(compared, model=model, metric=THINKS)}" for model in others)
    sentences = [
        f"CP + {at:g} · τ_think: {_all_of(exam, over, at, samples)}.",
        f"Replies that think without τ_think, at that scale: {thinking}.",
        f"Over the scale thinking sets in {_step(over)}.",
        f"No other scale is as right with less thought than {on_front}: the front.",
        f"From τ to τ_think, λ = {first:g}: {_all_of(exam, path, first, samples)}; "
        f"λ = {last:g}: {_all_of(exam, path, last, samples)}; the largest step is {_step(path)} (the paper, {PAPER}).",
        f"{drawn(over[over.metric == MEAN], seed)} {samples} samples each.",
    ]
    metrics = (THINKS, TOKENS, LANGUAGE, MEAN, ANY)
    claims = claims_of(over, f"{{}} at scale {at:g}", metrics, seed, by="metric", scale=at)
    claims += claims_of(compared, "thinks, {}", others, seed, metric=THINKS)
    claims += claims_of(path, "thinks at λ = {:g}", sorted(set(path.scale)), seed, by="scale", metric=THINKS)
    return {"answer": " ".join(sentences), "claims": claims}


def _all_of(exam: Exam, table: pd.DataFrame, scale: float, samples: int) -> str:
    where = f"{told(table, scale=scale, metric=THINKS)} of the replies think"
    if interval(table, scale=scale, metric=TOKENS)["estimate"] is not None:
        where += f", in {told(table, '.1f', scale=scale, metric=TOKENS)} tokens"
        where += f", {told(table, scale=scale, metric=LANGUAGE)} of them in {language_name(exam.language)}"
    right = f"mean@{samples} {told(table, scale=scale, metric=MEAN)}"
    if ANY in set(table.metric):
        right += f", pass@{samples} {told(table, scale=scale, metric=ANY)}"
    return f"{where}; {right}"


def _step(table: pd.DataFrame) -> str:
    found = jump(table)
    before, after = (told(table, scale=scale, metric=THINKS) for scale in (found.start, found.stop))
    return f"between {found.start:g} and {found.stop:g} (from {before} to {after} of the replies)"
