"""`families`: list the families, or check that one has one base."""

from __future__ import annotations


def add(verbs) -> None:
    """The verb and its arguments."""
    parser = verbs.add_parser(
        "families",
        help="list the families, or check that one has one base",
        description="The families that load_family knows, with languages, sizes, licences and confounds. "
        "No weight is read; --check reads some rows of each model, also of models on the hub.",
    )
    parser.add_argument(
        "name", nargs="?", help="one family: a name, a folder or a YAML file; all its members"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare sampled weights of every member with the base's"
    )
    parser.add_argument(
        "--pin",
        metavar="NAME",
        help="ask the hub for the commit, licence and files of this family's members, and write them into its file",
    )
    parser.add_argument("--seed", type=int, default=0, help="which repetition of a nano family")
    parser.set_defaults(run=run)


def run(options) -> int:
    from chatvec_lab.families import families_page, load_family

    if options.pin:
        from chatvec_lab.families.pin import pin

        print("\n".join(pin(options.pin)))
        return 0
    if not options.check:
        print(families_page(options.name, seed=options.seed))
        return 0
    if options.name is None:
        raise ValueError("--check needs the name of a family.")
    from chatvec_lab.families.descent import descent_page, settings_page

    family = load_family(options.name, seed=options.seed)
    print(descent_page(family.check()))
    if told := settings_page(family):
        print(told)
    return 0
