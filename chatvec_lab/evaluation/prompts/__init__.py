"""Prompt sets: ours, published ones, and files of the user's."""

from chatvec_lab.evaluation.prompts.sets import (
    COLUMNS,
    LANGUAGES,
    PUBLISHED,
    SETS,
    load_prompts,
    read_prompts,
)

__all__ = ["COLUMNS", "LANGUAGES", "PUBLISHED", "SETS", "load_prompts", "read_prompts"]
