"""What is a mistake of the user's and what a fault of our own, told from how an error was raised."""

from __future__ import annotations

import contextlib
import dis
import re
from collections.abc import Iterator
from pathlib import Path

# what is raised on purpose for something that a user can mend
_KINDS = (OSError, ValueError, TypeError, KeyError, ImportError, ArithmeticError, re.error)
_LONGEST = 2000  # characters of a message that quotes what a file says
_RAISE = dis.opmap["RAISE_VARARGS"]


def is_mistake(error: BaseException) -> bool:
    """Whether an error is meant for the user: of the system, or of a kind for that and raised by a `raise`.

    What Python itself raises inside our code (an index out of range, an unhashable list) nobody has foreseen.
    """
    if isinstance(error, OSError | ImportError):
        return True
    return isinstance(error, _KINDS) and _is_raised_on_purpose(error)


@contextlib.contextmanager
def naming(file: str | Path) -> Iterator[None]:
    """Errors for the user that come from what a file says name the file: "FILE: what is wrong"."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError) as error:
        if not is_mistake(error) or str(file) in str(error)[:_LONGEST]:
            raise
        kind = next(
            k for k in (FileNotFoundError, OSError, ValueError, TypeError, KeyError) if isinstance(error, k)
        )
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise kind(f"{file}: {text if len(text) <= _LONGEST else text[:_LONGEST] + '…'}") from error


def _is_raised_on_purpose(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_code[trace.tb_lasti] == _RAISE
