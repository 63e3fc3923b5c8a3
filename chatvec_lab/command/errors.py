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


class Stopped:
    """Which signal has asked the command to stop, None while none has."""

    number: int | None = None


def tell(
    error: BaseException, verb: str | None, *, with_traceback: bool = False, stopped: Stopped | None = None
) -> int:
    """Say on stderr what went wrong; the exit status.

    After a signal every error counts as that stop: in the middle of an import of C code it can come out as another.
    """
    if with_traceback:
        traceback.print_exception(error)
    if (number := (stopped and stopped.number) or _signal_in(error)) is not None:
        how = "stopped by SIGTERM" if number == signal.SIGTERM else "stopped"
        print(f"{how}; run the same command again to go on where it stopped", file=sys.stderr)
        return 128 + number
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


def _signal_in(error: BaseException | None) -> int | None:
    """The signal of the interrupt that an error stems from: one in the middle of an import can come out as an ImportError."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def told_of_stops() -> Iterator[Stopped]:
    """While this lasts, SIGTERM and Ctrl-C are noted and raise an interrupt: a scheduler's stop is told of too."""
    stopped = Stopped()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, _: object) -> None:
        stopped.number = number
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if (
        signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    ):  # as a shell leaves it to what runs in the background
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
