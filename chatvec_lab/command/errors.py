"""How a command ends that does not succeed: one paragraph for a mistake, a traceback for a fault of our own."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

from chatvec_lab.mistakes import is_mistake


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception: what is at work cleans up as after Ctrl-C."""


def tell(error: BaseException, verb: str | None, *, with_traceback: bool = False) -> int:
    """Say on stderr what went wrong; the exit status."""
    if with_traceback:
        traceback.print_exception(error)
    stopped = _interrupt_in(error)
    if stopped is not None:
        how = "stopped by SIGTERM" if isinstance(stopped, Terminated) else "stopped"
        print(f"{how}; run the same command again to go on where it stopped", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)
    program = f"chatvec_lab {verb}" if verb else "chatvec_lab"
    if is_mistake(error):
        text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        print(f"{program}: {text or type(error).__name__}", file=sys.stderr)
        return 1
    if not with_traceback:
        traceback.print_exception(error)
    print(
        f"{program}: this is a fault of chatvec_lab itself ({type(error).__name__}: {error}), not of the command. "
        "Please report it with the lines above.",
        file=sys.stderr,
    )
    return 1


def _interrupt_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that an error stems from: one in the middle of an import can come out as an ImportError."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def told_of_sigterm() -> Iterator[None]:
    """While this lasts, SIGTERM raises `Terminated` in the main thread, so that a scheduler's stop is told of too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as `__main__` left it while modules were imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
