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
    parser.set_defaults(run=run)


def run(options) -> int:
    """Run the study; after a dry run also say what it needs of judges, memory and disk."""
    from chatvec_lab.study import command

    status = command.main(options)
    if options.dry_run and not status:
        from chatvec_lab.experiment import needs
        from chatvec_lab.families import load_family

        # a family's file may stand beside the study
        families = [{**cell.parameters, **cell.places}.get("family") for cell in options.cells]
        family = next(filter(None, families), None)
        if family and (told := needs.page(load_family(family), options.cells)):
            print(told)
    return status
