"""`python -m chatvec_lab VERB`: find the verb, run it, and end every error as its reader needs it."""

from __future__ import annotations

import argparse

from chatvec_lab.command import errors
from chatvec_lab.secrets import hidden_in_output


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status.

    A mistake of the user's ends in one paragraph; a fault of our own, in a traceback and a line that says so;
    `--traceback` shows the traceback of either. Nothing that is printed holds a secret of the environment.
    """
    options = argparse.Namespace(verb=None, traceback=False)
    with hidden_in_output(), errors.told_of_stops() as stopped:
        try:
            _parser().parse_args(argv, options)
            return options.run(options) or 0
        except (Exception, KeyboardInterrupt) as error:
            return errors.tell(error, options.verb, with_traceback=options.traceback, stopped=stopped)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatvec_lab", description="A workbook for chat vectors: chat - base."
    )
    from chatvec_lab.command import (
        check,
        families,
        inspect,
        keys,
        lab,
        merge,
        new,
        push,
        redraw,
        run,
        scorers,
    )

    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in (
        new,
        run,
        redraw,
        lab,
        merge,
        check,
        inspect,
        push,
        families,
        scorers,
        keys,
    ):  # in the order of --help
        verb.add(verbs)
    for named in verbs.choices.values():
        named.add_argument(
            "--traceback", action="store_true", help="show where in the code an error comes from"
        )
    return parser
