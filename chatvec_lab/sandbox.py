"""A chat template is a program that comes with a model: it runs in jinja's sandbox, and neither for long nor over much.

The sandbox, in which transformers renders, keeps a template from files, modules and attributes of Python's own. It
does not keep it from looping or from asking for memory; that is done here.
"""

import contextlib
import ctypes
import functools
import gc
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["render"]

SECONDS = 5.0  # a rendering takes milliseconds
MEMORY = 1 << 30  # bytes more than there are when it begins
LONGEST = 1 << 20  # characters of a template; those of 2026 have up to 30,000
LONGEST_TEXT = 1 << 26  # characters of a rendering
_alone = threading.Lock()  # the limit of memory is the process's


def render(tokenizer, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """`tokenizer.apply_chat_template(messages, tokenize=False, **options)` within limits of time and memory.

    Raises jinja2's TemplateError for what the template itself refuses, and ValueError for one that runs for more than
    5 s, asks for more than 1 GB, computes powers, or fails in another way.
    """
    from jinja2 import TemplateError

    template = options.get("chat_template") or tokenizer.chat_template
    for text in template.values() if isinstance(template, dict) else [template or ""]:
        _check(text)
    try:
        with _alone, _limited_memory(), _uncollected(), _limited_time():
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError:
        raise
    except _TooLong:
        raise ValueError(
            f"the chat template was stopped after {SECONDS:g} s; it may loop without end."
        ) from None
    except MemoryError:
        raise ValueError(
            f"the chat template was stopped when it asked for more than {MEMORY >> 20} MB."
        ) from None
    except RecursionError:
        raise ValueError("the chat template calls itself without end.") from None
    except (ArithmeticError, LookupError, AttributeError, ValueError) as error:
        raise ValueError(f"the chat template fails: {type(error).__name__}: {error}") from error
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"the chat template makes {len(text):,} characters of a conversation.")
    return text


@functools.lru_cache(maxsize=32)
def _check(template: str) -> None:
    from jinja2 import Environment, TemplateSyntaxError, nodes

    if len(template) > LONGEST:
        raise ValueError(f"the chat template has {len(template):,} characters; {LONGEST:,} at most are run.")
    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except (
        TemplateSyntaxError,
        RecursionError,
    ):  # a tag of transformers' own, or an error that rendering will tell
        if "**" in template:
            raise ValueError(
                "the chat template computes powers, which cannot be stopped; it is not run."
            ) from None
        return
    if (
        next(parsed.find_all(nodes.Pow), None) is not None
    ):  # 9**9**9 is one step of C, which nothing interrupts
        raise ValueError("the chat template computes powers, which cannot be stopped; it is not run.")


class _TooLong(BaseException):
    """The time is up. No `Exception`, so that nothing on the way takes it for its own."""


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """Stop this thread when the time is up, and again until it has stopped: code on the way may swallow an exception."""
    thread, done, thrown = ctypes.c_ulong(threading.get_ident()), threading.Event(), threading.Event()

    def watch() -> None:
        seconds = SECONDS
        while not done.wait(seconds):
            thrown.set()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TooLong))
            seconds = 0.5

    watcher = threading.Thread(target=watch, daemon=True, name="chatvec-template")
    watcher.start()
    try:
        yield
    finally:
        while watcher.is_alive():
            with contextlib.suppress(_TooLong):  # one that comes this late
                done.set()
                watcher.join()
        # an exception called back would leave Python's flag up, and under a profiler every call then hangs
        with contextlib.suppress(_TooLong):
            if thrown.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TooLong))
                while True:
                    pass


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: an exception that arrives in one of its callbacks is printed and lost."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """For the time of a rendering the process may not grow by more; where the system does not tell its size, no limit."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = size + MEMORY
    if soft != resource.RLIM_INFINITY and soft < most:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
