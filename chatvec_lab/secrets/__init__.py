"""Secrets of the environment: read in one place, and hidden in whatever is printed or written.

In place of a secret stands `<NAME>`, the variable that holds it, so that a reader sees what is hidden.
"""

from chatvec_lab.secrets.environment import (
    NAMES_FILE,
    key,
    known,
    looks_secret,
    name_secret,
    shown_address,
    take_told,
    watch,
)
from chatvec_lab.secrets.text import hidden_in_output, redacted, redacted_table, secrets_of

__all__ = [
    "NAMES_FILE",
    "hidden_in_output",
    "key",
    "known",
    "looks_secret",
    "name_secret",
    "redacted",
    "redacted_table",
    "secrets_of",
    "shown_address",
    "take_told",
    "watch",
]
