"""Intervals and tests over prompts: never a mean without its interval and n."""

from chatvec_lab.evaluation.statistics.comparison import compare, per_prompt, summarise
from chatvec_lab.evaluation.statistics.intervals import (
    RESAMPLES,
    Interval,
    Test,
    benjamini_hochberg,
    difference_interval,
    holm,
    mcnemar_test,
    mean_interval,
    permutation_test,
    statistic_interval,
    wilson_interval,
)
from chatvec_lab.evaluation.statistics.judgements import bradley_terry, cohen_kappa

__all__ = ["RESAMPLES", "Interval", "Test", "benjamini_hochberg", "bradley_terry", "cohen_kappa", "compare",
           "difference_interval", "holm", "mcnemar_test", "mean_interval", "per_prompt", "permutation_test",
           "statistic_interval", "summarise", "wilson_interval"]  # fmt: skip
