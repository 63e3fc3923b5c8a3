"""The embedded family: a micro-world, tiny models grown in it, and the exact score of what they say."""

from chatvec_lab.nano.evaluation import evaluate, perplexity

__all__ = ["evaluate", "perplexity"]
