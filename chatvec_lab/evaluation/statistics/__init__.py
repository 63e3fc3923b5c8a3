"""Intervals and tests over prompts: never a mean without its interval and n."""

from chatvec_lab.evaluation.statistics.comparison import (
    RESAMPLES,
    Interval,
    Test,
    benjamini_hochberg,
    bradley_terry,
    cohen_kappa,
    compare,
    difference_interval,
    holm,
    mcnemar_test,
    mean_interval,
    per_prompt,
    permutation_test,
    statistic_interval,
    summarise,
    wilson_interval,
)

__all__ = [
    "RESAMPLES",
    "Interval",
    "Test",
    "benjamini_hochberg",
    "bradley_terry",
    "cohen_kappa",
    "compare",
    "difference_interval",
    "holm",
    "mcnemar_test",
    "mean_interval",
    "per_prompt",
    "permutation_test",
    "statistic_interval",
    "summarise",
    "wilson_interval",
]
