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

    status = command.main(options, planned=_warn_of_unpinned)
    if options.dry_run and not status:
        from chatvec_lab.experiment import needs
        from chatvec_lab.families import load_family

        # a family's file may stand beside the study
        families = [{**cell.parameters, **cell.places}.get("family") for cell in options.cells]
        family = next(filter(None, families), None)
        if family and (told := needs.page(load_family(family), options.cells)):
            print(told)
    return status


def _warn_of_unpinned(study) -> None:
    """Say which models of the study's family no commit pins; a family that cannot be read says so itself, later."""
    import sys

    from chatvec_lab.families import load_family
    from chatvec_lab.families.pin import unpinned

    try:
        loose = unpinned(load_family(study.family)) if study.family else []
    except (ValueError, OSError, KeyError, TypeError):
        return
    if loose:
        print(
            f"{study.family}: {', '.join(loose)} {'is' if len(loose) == 1 else 'are'} not pinned to a commit, so that "
            f"another day may read other weights; python -m chatvec_lab families --pin {study.family} pins them.",
            file=sys.stderr,
        )
