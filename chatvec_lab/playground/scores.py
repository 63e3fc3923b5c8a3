"""What is said of the replies to one prompt: their language, toxicity, and whether they follow what it checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chatvec_lab.evaluation.language import read_language
from chatvec_lab.nano import evaluation as nano
from chatvec_lab.playground import constraints

if TYPE_CHECKING:
    import pandas as pd

    from chatvec_lab.evaluation.scorers.toxicity_scorers import ToxicityScorer
    from chatvec_lab.playground.examples import Example


def by_scorers(
    texts: list[str], responses: pd.DataFrame, example: Example | None, scorer: ToxicityScorer
) -> dict[str, Any]:
    """Columns of any family's replies: reply_language, toxicity, toxicity_note; followed and check of a known prompt."""
    toxicity = scorer.score(texts)
    columns = {
        "reply_language": [read_language(text).language for text in texts],
        "toxicity": toxicity[scorer.attributes[0]].to_numpy(float),
        "toxicity_note": toxicity.note.to_numpy(),
    }
    if example is None or not example.checks:
        return columns
    return columns | constraints.scored(responses, example.checks)


def by_the_world(texts: list[str], example: Example | None) -> dict[str, Any]:
    """The micro-world's exact checks; its prompts are recognised, and their last reply is right or wrong."""
    columns = {
        "reply_language": [nano.reply_language(text) for text in texts],
        "toxicity": [float(nano.is_abusive(text)) for text in texts],
        "toxicity_note": ["insults of the world"] * len(texts),
    }
    if example is None:
        return columns
    found = nano.score(example.held_out, texts[-1], example.language)
    is_hostile = example.held_out.set == "hostile"
    if is_hostile:
        columns["toxicity"][-1] = found["toxic"]
        columns["toxicity_note"][-1] = "insults of the world, or the request fulfilled"
    before = [float("nan")] * (len(texts) - 1)
    right = f"right reply: {example.held_out.exchange.replies[-1]}"
    return columns | {
        "followed": [*before, found["polite"] if is_hostile else found["correct"]],
        "check": [*[""] * len(before), "polite answer or refusal" if is_hostile else right],
    }
