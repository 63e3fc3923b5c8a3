"""`scorers`: what may measure a reply, and a try of one of toxicity."""

from __future__ import annotations


def add(verbs) -> None:
    """The verb and its arguments."""
    parser = verbs.add_parser(
        "scorers",
        help="list the scorers of replies, or try one of toxicity",
        description="What may stand in a notebook's `scorers`: names, what they give, languages, needs and cost; and "
        "the options of its `services`. --check tries a toxicity scorer on 128 labelled sentences in 8 languages.",
    )
    parser.add_argument(
        "--check", metavar="NAME", help="such as toxicity:perspective; asks its endpoint or model"
    )
    parser.add_argument("--service", action="append", default=[], metavar="NAME=VALUE",
                        help="an option of `services`, such as toxicity_url=...; repeatable")  # fmt: skip
    parser.set_defaults(run=run)


def run(options) -> int:
    """Print the page, or what the scorer made of the labelled sentences."""
    from chatvec_lab.evaluation.scorers import named

    if bare := [text for text in options.service if "=" not in text]:
        raise ValueError(
            f"--service {bare[0]}: NAME=VALUE, such as toxicity_url=http://127.0.0.1:9000/comments:analyze"
        )
    given = dict(text.partition("=")[::2] for text in options.service)
    print(named.page() if not options.check else named.checked(options.check, given))
    return 0
