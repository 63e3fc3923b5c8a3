"""What the notebooks ask of a family's models: the same questions for the embedded family and for published ones.

    from chatvec_lab import experiment, load_family

    family = load_family("nano")
    models = experiment.lineup(family, "zh", scale=1.0)          # CP, CP + τ, CP + random, CP → FT, ..., chat
    replies = experiment.ask(family, models, ["zh", "en"], sets=["one_turn"], n=200, keep="out/replies")
    experiment.shares(replies, ["model", "language"], ["correct", "in_language"])

A nano family is asked the micro-world's prompts, whose only right reply is known; any other family the prompts
of `data/prompts` (or published ones by name), scored by checks, refusal patterns, a toxicity scorer and a
language reader. Both give one table with the same columns. Replies are kept by content in the study's folder.
"""

from chatvec_lab.experiment.exam import (
    METRICS,
    ask,
    changes,
    check,
    is_nano,
    plain_texts,
    read,
    shares,
    trade_offs,
    wording,
)
from chatvec_lab.experiment.models import At, at_scale, lineup, loaded, no_system_prompt
from chatvec_lab.experiment.price import routes
from chatvec_lab.experiment.replies import kept
from chatvec_lab.experiment.words import interval, is_better, told

__all__ = [
    "METRICS",
    "At",
    "ask",
    "at_scale",
    "changes",
    "check",
    "interval",
    "is_better",
    "is_nano",
    "kept",
    "lineup",
    "loaded",
    "no_system_prompt",
    "plain_texts",
    "read",
    "routes",
    "shares",
    "told",
    "trade_offs",
    "wording",
]
