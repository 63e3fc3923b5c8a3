"""`run`: a study of notebooks and its report."""

from __future__ import annotations


def add(verbs) -> None:
    """The verb and its arguments."""
    from chatvec_lab.study import command

    parser = verbs.add_parser(
        "run",
        help="run a study of notebooks and write its report",
        description="Run the notebooks of a study and write its report.",
    )
    command.add_arguments(parser)
    parser.set_defaults(run=command.main)
