"""Ask models and score their replies, whatever the family: one table, one row a prompt, the same columns."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from chatvec_lab.experiment import microworld, published
from chatvec_lab.experiment.models import At
from chatvec_lab.experiment.replies import Speaker

if TYPE_CHECKING:
    from chatvec_lab.families import Family
    from chatvec_lab.weights.checkpoint import Checkpoint

METRICS = ("correct", "toxic", "polite", "in_language", "is_english")
Frame = Literal["chat", "raw", "qa"]


def is_nano(family: "Family") -> bool:
    """Whether the family grew in the micro-world, so that its prompts mean something to it."""
    return Path(family.base.source, "stage.json").is_file()


def _exam(family: "Family"):
    return microworld if is_nano(family) else published


def check(family: "Family", language: str, prompts: Mapping[str, str] | None = None) -> None:
    """Raise ValueError where the family has no CP model for the language, or `prompts` has unknown options."""
    if language not in family.languages:
        raise ValueError(
            f"family {family.name!r} has no CP model for {language!r}; there are {', '.join(family.languages)}."
        )
    _exam(family).check(family, prompts or {})


def wording(family: "Family", language: str) -> dict[str, str]:
    """What the metrics are called for this family, in words to print."""
    return {
        **_exam(family).WORDING,
        "in_language": f"replies in {language}",
        "is_english": "replies in English",
    }


def ask(
    family: "Family", models: "Mapping[object, Checkpoint | At]", languages: Iterable[str], *, sets: Sequence[str],
    n: int, frame: Frame = "chat", draw: Literal["test", "validation"] = "test", system: str | None = None,
    keep: str | Path | None = None, prompts: Mapping[str, str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The scored last replies of every model to every prompt, one row each.

    Columns: model (the key of `models`), language, frame; prompt_id, set, kind, words, turns (how many), prompt
    (user turns, one a line), reply, reply_language; and as 1, 0 or NaN (has no meaning here, or not covered):
    correct, polite, toxic, in_language, is_english. What they count is in `microworld` and `published`.

    sets: of one_turn, two_turn, hostile, and harmless (look-alikes of hostile prompts). n: prompts of each; published
    sets may have fewer, so look at n in the tables. frame: the chat template, the bare text of the last turn (raw),
    or pages of questions and answers (qa). draw: choose on "validation", report "test". keep: folder of kept
    replies. prompts: options of `published`. Raises ValueError when there is nothing to ask.
    """
    exam, prompts = _exam(family), prompts or {}
    asked = {
        (language, name): exam.questions(language, name, n=n, draw=draw, frame=frame, prompts=prompts)
        for language in languages
        for name in sets
    }
    asked = {key: table for key, table in asked.items() if len(table)}
    if not asked:
        raise ValueError(
            f"there are no prompts in {', '.join(languages)}; name a set that has some: prompts={{'{sets[0]}': ...}}"
        )
    settings = {**exam.decoding(frame, prompts), **({"system": system} if system else {})}
    tables = []
    for label, model in models.items():
        with Speaker(model, keep) as speaker:
            for (language, _), table in asked.items():
                replies = speaker.reply(
                    table[["prompt_id", "language", "turns"]].to_dict("records"), **settings
                )
                scored = exam.score(table, replies, prompts)
                tables.append(scored.assign(model=label, language=language, frame=frame))
    return pd.concat(tables, ignore_index=True)


def plain_texts(
    family: "Family", language: str, n: int = 64, *, prompts: Mapping[str, str] | None = None
) -> list[dict[str, str]]:
    """Plain texts in this language for `fluency.perplexity`; none where we have none."""
    return _exam(family).plain_texts(language, n, prompts or {})


def read(
    family: "Family", models: "Mapping[object, Checkpoint | At]", languages: Iterable[str], *, n: int = 64,
    prompts: Mapping[str, str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """What plain text costs every model: `fluency.perplexity` with the columns model and language."""
    from chatvec_lab.evaluation.scorers.fluency import perplexity

    tables = []
    for label, model in models.items():
        with Speaker(model) as speaker:
            for language in languages:
                if texts := plain_texts(family, language, n, prompts=prompts):
                    costs = perplexity(*speaker.loaded, texts, progress=False)
                    tables.append(costs.assign(model=label, language=language))
    if not tables:
        raise ValueError(f"there are no plain texts in {', '.join(languages)}")
    return pd.concat(tables, ignore_index=True)


def shares(replies: pd.DataFrame, by: str | Sequence[str], metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Share of replies by group and metric, with Wilson's 95 % interval; one row each.

    Columns: `by`, metric, estimate, low, high, n (prompts). What no prompt of a group has is left out.
    """
    from chatvec_lab.evaluation.statistics.comparison import summarise

    by = [by] if isinstance(by, str) else list(by)
    tables = [
        summarise(replies[replies[metric].notna()], by=by, value=metric, share=True).assign(metric=metric)
        for metric in metrics
        if replies[metric].notna().any()
    ]
    if not tables:
        return pd.DataFrame(columns=[*by, "metric", "estimate", "low", "high", "n"])
    return pd.concat(tables, ignore_index=True)[[*by, "metric", "estimate", "low", "high", "n"]]


def changes(replies: pd.DataFrame, metrics: Sequence[str], **options) -> pd.DataFrame:
    """`statistics.compare` by McNemar's test for each metric that was measured, one below the other; may be empty."""
    from chatvec_lab.evaluation.statistics.comparison import compare

    tables = [
        compare(replies, value=metric, test="mcnemar", **options).assign(metric=metric)
        for metric in metrics
        if replies[metric].notna().any()
    ]
    columns = [
        "metric",
        options.get("within", "frame"),
        options["by"],
        "estimate",
        "low",
        "high",
        "n",
        "p_adjusted",
    ]
    columns += ["test", "correction"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def trade_offs(scores: pd.DataFrame, reading: pd.DataFrame) -> pd.DataFrame:
    """The measures of a sweep side by side, one row a scale, and whether it is on the Pareto front of those measured.

    `scores`: `shares(replies, "scale")`; `reading`: perplexity by scale, may be empty. Columns: scale; correct,
    toxic and perplexity, each with _low and _high (NaN where not measured); is_on_front.
    """
    from chatvec_lab.evaluation.statistics.sweep import is_on_front

    tables = [scores[scores.metric == metric].assign(measure=metric) for metric in ("correct", "toxic")]
    long = pd.concat([*tables, reading.assign(measure="perplexity")])
    wide = pd.DataFrame({"scale": sorted(scores.scale.unique())})
    for measure in ("correct", "toxic", "perplexity"):
        names = {"estimate": measure, "low": f"{measure}_low", "high": f"{measure}_high"}
        rows = long[long.measure == measure].rename(columns=names)
        wide = wide.merge(rows[["scale", *names.values()]], how="left")
    least = [name for name in ("toxic", "perplexity") if wide[name].notna().any()]
    return wide.assign(is_on_front=is_on_front(wide, most=["correct"], least=least))
