"""What the notebooks ask of a family's models: the same questions for the embedded family and for published ones.

    from chatvec_lab import experiment, load_family

    family = load_family("nano")
    models = experiment.lineup(family, "zh", scale=1.0)          # CP, CP + τ, CP + random, CP → FT, ..., chat
    exam = experiment.Exam(family, "zh", keep="out/replies")
    replies = exam.ask(models, ["one_turn"], 200, languages=["zh", "en"])
    exam.shares(replies, ["model", "language"], ["correct", "in_language"])

A nano family is asked the micro-world's prompts, whose only right reply is known; any other family the prompts
of `data/prompts` (or published ones by name), scored by scorers that are named. Both give one table with the same
columns. Replies are kept by content in the study's folder.
"""

from chatvec_lab.experiment.exam import Exam, trade_offs
from chatvec_lab.experiment.judged import agreement, judging, strengths
from chatvec_lab.experiment.limits import cost, perplexities
from chatvec_lab.experiment.models import At, Mix, at_scale, lineup, loaded, no_system_prompt, over_scales
from chatvec_lab.experiment.price import routes
from chatvec_lab.experiment.replies import kept
from chatvec_lab.experiment.words import chosen_scale, interval, is_better, signed, told

__all__ = [
    "At",
    "Exam",
    "Mix",
    "agreement",
    "at_scale",
    "chosen_scale",
    "cost",
    "interval",
    "is_better",
    "judging",
    "kept",
    "lineup",
    "loaded",
    "no_system_prompt",
    "over_scales",
    "perplexities",
    "routes",
    "signed",
    "strengths",
    "told",
    "trade_offs",
]
