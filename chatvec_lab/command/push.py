"""`push`: send what was saved to the hub."""

from __future__ import annotations


def add(verbs) -> None:
    """The verb and its arguments."""
    parser = verbs.add_parser(
        "push",
        help="send a saved model, vector or adapter to the hub",
        description="Send a folder that chatvec_lab saved to the hub, with a model card. The token is read from "
        "HF_TOKEN in the environment.",
    )
    parser.add_argument("folder", help="a saved merged model, vector or adapter")
    parser.add_argument("repo", help="owner/name on the hub; made when it is not there")
    parser.add_argument("--dry-run", action="store_true", help="send nothing; list files, sizes and the card")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="a branch other than main")
    parser.add_argument("--message", help="of the commit")
    card = parser.add_argument_group("card")
    card.add_argument("--family", help="the family's name")
    card.add_argument("--evaluation", metavar="FILE", help="a summary.json or a .csv to show")
    card.add_argument("--licence", action="append", default=[], metavar="SOURCE=LICENCE", help="repeatable")
    parser.set_defaults(run=run)


def run(options) -> int:
    from chatvec_lab.interop.hub import push

    odd = [text for text in options.licence if "=" not in text]
    if odd:
        raise ValueError(
            f"--licence {odd[0]}: expected SOURCE=LICENCE, such as --licence lab/base=apache-2.0."
        )
    report = push(
        options.folder, options.repo, private=options.private, dry_run=options.dry_run, revision=options.revision,
        commit_message=options.message, family=options.family, evaluation=options.evaluation,
        licences=dict(text.split("=", 1) for text in options.licence),
    )  # fmt: skip
    print(report)
    return 0
