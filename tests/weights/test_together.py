"""A measurement that several threads make together: one result, in order, and one error for all."""

import threading

import pytest

from chatvec_lab.weights.together import Together


def run(together, work, threads=3):
    """What each thread got: the first makes it, the others wait."""
    got, begun = [None] * threads, threading.Event()

    def first():
        def begins(share):
            begun.set()
            return work(share)

        attempt(0, lambda: together.make(begins))

    def attempt(i, function):
        try:
            got[i] = function()
        except Exception as error:
            got[i] = error

    others = [
        threading.Thread(target=attempt, args=(i, together.wait), daemon=True) for i in range(1, threads)
    ]
    leader = threading.Thread(target=first, daemon=True)
    leader.start()
    assert begun.wait(10)
    for thread in others:
        thread.start()
    for thread in (leader, *others):
        thread.join(30)
        assert not thread.is_alive()
    return got


def test_all_threads_take_part_and_get_one_result_in_order():
    meeting, seen = threading.Barrier(3, timeout=10), set()

    def square(i):
        if i < 3:
            meeting.wait()  # only with three threads at work
        seen.add(threading.get_ident())
        return i * i

    def work(share):
        once = share(square, range(50))
        return once + share(abs, [-1, -2])

    expected = [i * i for i in range(50)] + [1, 2]
    assert run(Together(), work) == [expected] * 3
    assert len(seen) == 3


def test_an_error_reaches_everyone_and_the_rest_is_left_undone():
    done = []

    def job(i):
        if i == 2:
            raise ValueError("element 2")
        done.append(i)

    got = run(Together(), lambda share: share(job, range(10_000)))
    assert all(isinstance(error, ValueError) and "element 2" in str(error) for error in got)
    assert len(done) < 10_000


@pytest.mark.parametrize("items", [[], [1]])
def test_few_jobs(items):
    assert run(Together(), lambda share: share(float, items)) == [items] * 3
    assert Together().make(lambda share: share(float, items)) == items


def test_one_measurement_may_wait_for_another():
    inner = Together()
    lock, begun = threading.Lock(), []

    def needs(i):
        with lock:
            is_first = not begun
            begun.append(i)
        found = inner.make(lambda share: share(abs, [-5] * 20)) if is_first else inner.wait()
        return found[0] + i

    assert run(Together(), lambda share: share(needs, range(6))) == [[5, 6, 7, 8, 9, 10]] * 3
