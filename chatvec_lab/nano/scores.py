"""From scored replies to what notebooks show: the models that stand side by side, and shares with intervals."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

import pandas as pd

from chatvec_lab.evaluation.statistics import summarise
from chatvec_lab.nano import documents
from chatvec_lab.nano.evaluation import evaluate
from chatvec_lab.weights.checkpoint import read_json

if TYPE_CHECKING:
    from chatvec_lab.families import Family
    from chatvec_lab.weights.checkpoint import Checkpoint

METRICS = ("correct", "toxic", "polite", "in_language", "is_english")
# member of a family -> how the paper writes it
TRAINED = {
    "cp_ft": "CP → FT",
    "chat_cp": "chat → CP",
    "chat_cp_ft": "chat → CP → FT",
    "cp_tau_ft": "CP + τ → FT",
}


def check_is_nano(family: "Family", language: str) -> None:
    """Raise ValueError for a family that did not grow in the micro-world, whose prompts would mean nothing to it."""
    if not (family.base.folder / "stage.json").is_file():
        raise ValueError(
            f"family {family.name!r} is not of the micro-world (its base has no stage.json), so that it cannot be "
            "asked the micro-world's prompts. Prompts for published models are in data/prompts."
        )
    if language not in family.languages:
        raise ValueError(
            f"family {family.name!r} has no CP model for {language!r}; there are {', '.join(family.languages)}."
        )


def lineup(family: "Family", language: str, scale: float) -> dict[str, "Checkpoint"]:
    """The models that the paper compares, by its names for them, as far as this family has trained them.

    CP, CP + τ (at `scale`) and CP + a random vector of τ's size are always there; FT is the tuning on
    instructions in `language`.
    """
    cp, tau = family.cp[language], family.chat - family.base
    models = {"CP": cp, "CP + τ": cp + scale * tau, "CP + random": cp + scale * tau.random_like(1)}
    for member, label in TRAINED.items():
        if f"{member}_{language}" in family.others:
            models[label] = family[f"{member}_{language}"]
    if "CP → FT" in models:
        models["CP → FT + τ"] = models["CP → FT"] + scale * tau
    return models | {"chat": family.chat}


def ask_all(
    models: dict[str, "Checkpoint"], languages: Iterable[str], *, n: int, sets: Sequence[str],
    frame: Literal["chat", "raw"] = "chat",
) -> pd.DataFrame:  # fmt: skip
    """The scored replies of every model in every language: `nano.evaluate` with the columns model and language.

    Models are computed in float32 from the weights that would be stored.
    """
    from chatvec_lab.nano.effect import as_model

    languages = list(languages)
    tables = []
    for name, checkpoint in models.items():
        loaded = as_model(checkpoint)
        for language in languages:
            table = evaluate(*loaded, language, n=n, sets=tuple(sets), frame=frame)
            tables.append(with_languages(table, language).assign(model=name, language=language, frame=frame))
    return pd.concat(tables, ignore_index=True)


def with_languages(replies: pd.DataFrame, language: str) -> pd.DataFrame:
    """The replies with in_language (the reply is in `language`) and is_english; an empty reply is in neither."""
    told = replies.reply_language
    return replies.assign(in_language=told.eq(language).astype(float), is_english=told.eq("en").astype(float))


def shares(replies: pd.DataFrame, by: str | Sequence[str], metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Share of replies by group and metric, with Wilson's 95 % interval; one row each.

    Columns: `by`, metric, estimate, low, high, n (prompts). Metrics that no prompt of a group has are left out.
    """
    by = [by] if isinstance(by, str) else list(by)
    tables = [
        summarise(replies[replies[metric].notna()], by=by, value=metric, share=True).assign(metric=metric)
        for metric in metrics
        if replies[metric].notna().any()
    ]
    return pd.concat(tables, ignore_index=True)[[*by, "metric", "estimate", "low", "high", "n"]]


def plain_texts(language: str, n: int = 64) -> list[dict[str, str]]:
    """`n` fresh plain texts of this language for `evaluation.fluency`: all its words, no chat markers."""
    stream = documents.documents(f"perplexity 0 {language}", {language: 1.0}, {language: "any"})
    return [
        {"text_id": f"{language}/{i}", "language": language, "text": text}
        for i, text in enumerate(islice(stream, n))
    ]


def price(family: "Family", language: str) -> pd.DataFrame:
    """What training each member of a language's comparison took, as its `stage.json` recorded it; one row a member.

    Columns: member, parent, tokens (read in training), seconds (on the machine that `machine` describes).
    """
    names = ["base", "chat_sft", "chat", f"cp_{language}", *(f"{member}_{language}" for member in TRAINED)]
    rows = [read_json(family[name].folder / "stage.json") for name in names if name in family.members]
    return pd.DataFrame(rows).reindex(columns=["member", "parent", "tokens", "seconds", "machine"])
