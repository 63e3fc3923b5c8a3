"""One question at a time, in a thread, and the last that is wanted next: what lies between is never asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from chatvec_lab.playground.replies import Stopped

Show = Callable[[], None]
Job = Callable[
    [Callable[[Show], Any]], Show
]  # takes what shows something meanwhile, returns what shows the result


class Asker:
    """Does jobs for a panel. With an event loop (JupyterLab) in a thread, without one (a script) at once.

    failed: shows an exception. busy: told when work begins (True) and ends (False). Both, and what jobs show, run in
    the loop's own thread. A job that asks models passes `goes_on` on to them, so that `stop` ends it.
    """

    def __init__(self, *, failed: Callable[[Exception], None], busy: Callable[[bool], None]):
        self._failed, self._busy = failed, busy
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="chatvec-playground")
        self._next: Job | None = None
        self._is_at_work = self._is_stopped = False

    def do(self, job: Job, *, drops_running: bool = False) -> None:
        """Do this next, in the place of what waits. drops_running: nobody waits for what is done now either."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.do_now(job)
            return
        self._next = job
        if self._is_at_work:
            self._is_stopped = self._is_stopped or drops_running
        else:
            self._is_at_work = True
            self._busy(True)
            loop.call_soon(self._start, loop)  # choices that come together are one question

    def do_now(self, job: Job) -> None:
        """Do this here, and return when it is done."""
        self._work(job, lambda show: show())

    def stop(self) -> None:
        """End what is done now, before the next token, and forget what waits."""
        self._next, self._is_stopped = None, True

    def goes_on(self) -> bool:
        return not self._is_stopped

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        job, self._next = self._next, None
        if job is None:
            self._is_at_work = False
            self._busy(False)
            return
        done = loop.run_in_executor(self._pool, self._work, job, loop.call_soon_threadsafe)
        done.add_done_callback(lambda _: self._start(loop))

    def _work(self, job: Job, later: Callable[[Show], Any]) -> None:
        self._is_stopped = False
        try:
            later(job(later))
        except Stopped:
            pass  # whoever stopped it knows
        except Exception as error:
            problem = error  # outlives this block
            later(lambda: self._failed(problem))
