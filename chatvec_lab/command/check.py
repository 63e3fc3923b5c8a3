"""`check`: may this vector be added to this CP?"""

from __future__ import annotations

from pathlib import Path


def add(verbs) -> None:
    """The verb and its arguments."""
    parser = verbs.add_parser(
        "check",
        help="whether a merge makes sense, before a byte is written",
        description="Whether chat - base may be added to the CP: how tensors and vocabularies pair, what the configs "
        "say of the same weights, whether chat and CP are of the base, how much of the vector the CP holds already, and "
        "what would be carried or left out. Headers, configs and tokenizers are read, and a seeded sample of rows. "
        "Exit status: 0 when `merge` would go on, 1 when it would refuse.",
    )
    models = parser.add_argument_group("models (folder or hub id, 'id@revision' for a revision)")
    models.add_argument(
        "--base", action="append", default=[], help="the model that chat was tuned from; more of them are candidates, "
        "of which the nearest is named",
    )  # fmt: skip
    models.add_argument("--chat", help="the chat model")
    models.add_argument("--vector", help="a saved vector, in place of --chat and --base")
    models.add_argument(
        "--cp", required=True, help="the continually pre-trained model that would get the vector"
    )
    models.add_argument("--out", type=Path, help="where the result would go, for the room on its disk")
    models.add_argument(
        "--within", nargs="?", const="", metavar="PATH", help="--cp is a larger model; as in merge"
    )
    models.add_argument(
        "--language-part", action="store_true", help="as in merge: of larger models the text alone"
    )
    models.add_argument(
        "--allow-mixed", action="store_true", help="as in merge: some are quantised, others not"
    )
    rows = parser.add_argument_group("vocabulary, as in merge")
    rows.add_argument("--vocabulary", choices=("match", "skip", "strict"), default="match")
    rows.add_argument("--copy-special", action="store_true")
    rows.add_argument("--add-tokens", action="store_true")
    depth = parser.add_argument_group("how much is read, and what may be")
    depth.add_argument(
        "--full", action="store_true", help="read everything; figures are then exact, not estimates"
    )
    depth.add_argument("--seed", type=int, default=0, help="which rows are sampled")
    depth.add_argument(
        "--force",
        action="append",
        default=[],
        metavar="NAME",
        help="override this finding, as merge --force would",
    )
    parser.set_defaults(run=run)


def run(options) -> int:
    from chatvec_lab import WeightVector
    from chatvec_lab.command.merge import _checkpoint, language_part_of
    from chatvec_lab.weights.checkpoint import sparsely
    from chatvec_lab.weights.preflight import preflight

    if bool(options.vector) == bool(options.chat) or (options.chat and not options.base):
        raise ValueError("no vector to check: give --chat and --base, or --vector.")
    whole = {text: _checkpoint(text) for text in (options.cp, options.chat, *options.base) if text}
    # of models on the hub a few rows are read, without a download
    found = whole if options.full else {text: sparsely(model) for text, model in whole.items()}
    is_remote = any(found[text] is not whole[text] for text in whole)
    cp = found[options.cp]

    def part(model):
        model = language_part_of(model) if options.language_part else model
        return model if options.within is not None else model.like(cp)

    bases = [part(found[base]) for base in options.base]
    if options.vector:
        tau, candidates = WeightVector.load(options.vector), bases
    else:
        tau = part(found[options.chat]).minus(bases[0], allow_mixed=options.allow_mixed)
        candidates = bases[1:]
    if options.within is not None:
        tau = tau.within(cp, options.within or None)
    report = preflight(
        cp, tau, vocabulary=options.vocabulary, copy_special=options.copy_special, add_tokens=options.add_tokens,
        allow_mixed=options.allow_mixed, bases=candidates, full=options.full, force=options.force, out=options.out,
        seed=options.seed, places=40 if is_remote else 1000,
    )  # fmt: skip
    print(report)
    print("merge would refuse this." if report.refusals else "merge would go on.")
    return 1 if report.refusals else 0
