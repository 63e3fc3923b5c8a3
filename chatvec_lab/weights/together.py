"""Work on a whole tensor that several threads want: who comes while another does it takes a share of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

Share = Callable[[Callable[[Any], Any], Sequence], list]  # what `map` does, as a list


def alone(function: Callable[[Any], Any], items: Sequence) -> list:
    return list(map(function, items))


class Together:
    """One result: the first thread makes it, those that wait for it help.

    >>> Together().make(lambda share: sum(share(abs, [-1, 2])))
    3
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._result: Any = None
        self._error: BaseException | None = None
        self._is_done = False

    def make(self, work: Callable[[Share], Any]) -> Any:
        """What `work` makes, which may hand out a list of jobs, again and again, with the function that it gets."""
        try:
            self._result = work(self._share)
        except BaseException as error:
            self._error = error
            raise
        finally:
            with self._changed:
                self._is_done = True
                self._changed.notify_all()
        return self._result

    def wait(self) -> Any:
        """The result, or the error of the one who makes it; takes jobs until it is there."""
        while job := self._next():
            job()
        if self._error is not None:
            raise self._error
        return self._result

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_done)
            return self._jobs.popleft() if self._jobs else None

    def _share(self, function: Callable[[Any], Any], items: Sequence) -> list:
        """`function` of each item, in the order of the items, by all threads that are there."""
        results, errors, left = [None] * len(items), [], len(items)

        def job(i: int) -> None:
            nonlocal left
            try:
                if not errors:
                    results[i] = function(items[i])
            except BaseException as error:
                errors.append(error)
            finally:
                with self._changed:
                    left -= 1
                    self._changed.notify_all()

        with self._changed:
            self._jobs.extend(lambda i=i: job(i) for i in range(len(items)))
            self._changed.notify_all()
        while True:
            with self._changed:
                if not self._jobs:
                    self._changed.wait_for(lambda: left == 0)
                    break
                mine = self._jobs.popleft()
            mine()
        if errors:
            raise errors[0]
        return results
