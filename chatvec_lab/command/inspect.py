"""`inspect`: what a checkpoint or vector holds."""

from __future__ import annotations


def add(verbs) -> None:
    """The verb and its arguments."""
    parser = verbs.add_parser(
        "inspect",
        help="what a checkpoint or vector holds",
        description="Sizes, dtypes, modules, vocabulary and provenance of a checkpoint or vector. Reads no weights.",
    )
    parser.add_argument("source", help="folder or hub id")
    parser.add_argument("--revision")
    parser.add_argument("--tensors", action="store_true", help="also list every tensor")
    parser.set_defaults(run=run)


def run(options) -> int:
    from chatvec_lab.weights.inspect import inspect

    print(inspect(options.source, revision=options.revision, tensors=options.tensors))
    return 0
