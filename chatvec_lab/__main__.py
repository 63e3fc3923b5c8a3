"""The command line: `python -m chatvec_lab VERB`. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status. Expected errors print one paragraph, not a traceback."""
    parser = argparse.ArgumentParser(
        prog="chatvec_lab", description="A workbook for chat vectors: chat - base."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_run(verbs)
    _add_merge(verbs)
    _add_inspect(verbs)
    _add_push(verbs)
    _add_families(verbs)
    _add_scorers(verbs)
    options = parser.parse_args(argv)
    try:
        return options.run(options) or 0
    except (OSError, ValueError, TypeError, KeyError, ImportError, ArithmeticError, re.error) as error:
        text = error.args[0] if isinstance(error, KeyError) else error
        print(f"chatvec_lab {options.verb}: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on where it stopped", file=sys.stderr)
        return 130


def _add_run(verbs) -> None:
    from chatvec_lab.study import command

    parser = verbs.add_parser(
        "run",
        help="run a study of notebooks and write its report",
        description="Run the notebooks of a study and write its report.",
    )
    command.add_arguments(parser)
    parser.set_defaults(run=_run)


def _run(options) -> int:
    from chatvec_lab.study import command, plan

    status = command.main(options)
    if options.dry_run and not status:
        from chatvec_lab.experiment import needs
        from chatvec_lab.families import load_family

        study = plan.load(options.study, set=dict(text.partition("=")[::2] for text in options.set))
        if study.family and (told := needs.page(load_family(study.family), plan.chosen(study, options.only))):
            print(told)
    return status


def _add_merge(verbs) -> None:
    parser = verbs.add_parser(
        "merge",
        help="save cp + scale * (chat - base)",
        description="Save cp + scale * (chat - base) as a transformers checkpoint, exact and rounded once. "
        "Repeat --chat (with --base and --scale) to add several vectors.",
    )
    models = parser.add_argument_group("models (folder or hub id, 'id@revision' for a revision)")
    models.add_argument("--base", action="append", default=[], help="the model that chat was tuned from")
    models.add_argument("--chat", action="append", default=[], help="the chat model; repeatable")
    models.add_argument(
        "--vector", action="append", default=[], help="a saved vector, in place of --chat and --base"
    )
    models.add_argument("--cp", help="the continually pre-trained model that gets the vector")
    models.add_argument("--out", help="the new folder")
    models.add_argument(
        "--mergekit", metavar="FILE", help="run this recipe of mergekit, in place of --base, --chat and --cp"
    )
    vector = parser.add_argument_group("vector")
    vector.add_argument(
        "--scale", action="append", type=float, default=[], help="one for all, or one each; default 1"
    )
    vector.add_argument("--layers", help="only these layers, such as 0-7,12")
    vector.add_argument("--select", action="append", help="only these modules: a kind (attention, mlp, router, norm, "
                        "embedding, head) or a regular expression; repeatable")  # fmt: skip
    vector.add_argument("--within", nargs="?", const="", metavar="PATH", help="--cp is a larger model (such as LLaVA): "
                        "add to its language part, at PATH of its names ('.': none; default: found)")  # fmt: skip
    rows = parser.add_argument_group("vocabulary")
    rows.add_argument("--vocabulary", choices=("match", "skip", "strict"), default="match",
                      help="pair rows by token (default), leave them alone, or demand one vocabulary")  # fmt: skip
    rows.add_argument(
        "--copy-special", action="store_true", help="take chat's rows of special tokens the CP never trained"
    )
    rows.add_argument("--add-tokens", action="store_true", help="append tokens that the chat template needs")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32", "float64"), help="default: the CP's"
    )
    output.add_argument("--max-shard-size", default="5GB")
    output.add_argument("--no-resume", action="store_true", help="start afresh after an interrupted save")
    output.add_argument(
        "--verify", action="store_true", help="read the result again and compare it with the formula"
    )
    output.add_argument(
        "--export-mergekit",
        metavar="FILE",
        help="write the merge as a recipe of mergekit; --out may be left out",
    )
    output.add_argument("--save-vector", metavar="DIR", help="also save the (unscaled) vector as an artifact")
    parser.set_defaults(run=_merge)


def _merge(options) -> int:
    _start_lean()
    from chatvec_lab.weights.saving.partial import refuse_existing

    names = ("base", "chat", "vector", "cp", "scale", "layers", "select", "within")
    given = [f"--{name}" for name in names if getattr(options, name) not in (None, [])]
    given += [
        f"--{k.replace('_', '-')}"
        for k in ("copy_special", "add_tokens", "save_vector")
        if getattr(options, k)
    ]
    given += ["--vocabulary"] if options.vocabulary != "match" else []
    if options.mergekit and given:
        raise ValueError(f"--mergekit names its own models; {', '.join(given)} cannot be given beside it.")
    if not options.mergekit and not options.cp:
        raise ValueError("no model to add to: give --cp, or --mergekit.")
    if not options.out and not options.export_mergekit:
        raise ValueError("nowhere to write to: give --out, or --export-mergekit.")
    if options.save_vector:
        refuse_existing(Path(options.save_vector))
    merged, dtype = _from_mergekit(options) if options.mergekit else (_merged(options), None)
    dtype = options.dtype or dtype
    if options.export_mergekit:
        from chatvec_lab.interop.mergekit_export import export

        file = export(merged, options.export_mergekit, dtype=dtype)
        print(f"{file}: run it with mergekit-yaml {file} OUT --out-shard-size 500M")
    if options.out:
        report = merged.save(
            options.out, dtype=dtype, max_shard_size=options.max_shard_size,
            resume=not options.no_resume, verify=options.verify,
        )  # fmt: skip
        print(report)
    if options.save_vector:  # last, so that the same command goes on where it was stopped
        print(sum(_vectors(options)).save(options.save_vector))
    return 0


def _start_lean() -> None:
    """Before numpy comes: no threads for products of matrices, and no search for garbage among what imports make."""
    import gc
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()  # a save makes no cycles worth a search


def _from_mergekit(options):
    from chatvec_lab.interop.mergekit import load

    recipe = load(options.mergekit)
    for note in recipe.notes:
        print(f"{options.mergekit}: {note}")
    return recipe.merged, recipe.dtype


def _merged(options):
    """cp + the sum of the scaled vectors that the options name."""
    vectors = _vectors(options)
    scales = options.scale or [1.0]
    scales = scales * len(vectors) if len(scales) == 1 else scales
    if len(scales) != len(vectors):
        raise ValueError(
            f"{len(vectors)} vectors but {len(scales)} --scale: give one for all, or one for each."
        )
    tau = sum(scale * vector for scale, vector in zip(scales, vectors, strict=True))
    if options.layers or options.select:
        tau = tau.select(layers=options.layers, modules=options.select)
    cp = _checkpoint(options.cp)
    if options.within is not None:
        tau = tau.within(cp, options.within or None)
    return cp.add(
        tau, vocabulary=options.vocabulary, copy_special=options.copy_special, add_tokens=options.add_tokens
    )


def _vectors(options) -> list:
    from chatvec_lab import WeightVector

    bases = options.base * len(options.chat) if len(options.base) == 1 else options.base
    if len(bases) != len(options.chat):
        raise ValueError(
            f"{len(options.chat)} --chat but {len(options.base)} --base: give one base, or one for each chat."
        )
    vectors = [_checkpoint(chat) - _checkpoint(base) for chat, base in zip(options.chat, bases, strict=True)]
    vectors += [WeightVector.load(path) for path in options.vector]
    if not vectors:
        raise ValueError("no vector: give --chat and --base, or --vector.")
    return vectors


def _checkpoint(text: str):
    from chatvec_lab import Checkpoint

    if Path(text).exists():  # a folder may have an @ in its path
        return Checkpoint(text)
    source, _, revision = text.partition("@")
    return Checkpoint(source, revision=revision or None)


def _add_inspect(verbs) -> None:
    parser = verbs.add_parser(
        "inspect",
        help="what a checkpoint or vector holds",
        description="Sizes, dtypes, modules, vocabulary and provenance of a checkpoint or vector. Reads no weights.",
    )
    parser.add_argument("source", help="folder or hub id")
    parser.add_argument("--revision")
    parser.add_argument("--tensors", action="store_true", help="also list every tensor")
    parser.set_defaults(run=_inspect)


def _inspect(options) -> int:
    from chatvec_lab.weights.inspect import inspect

    print(inspect(options.source, revision=options.revision, tensors=options.tensors))
    return 0


def _add_families(verbs) -> None:
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
    parser.add_argument("--seed", type=int, default=0, help="which repetition of a nano family")
    parser.set_defaults(run=_families)


def _families(options) -> int:
    from chatvec_lab.families import families_page, load_family

    if not options.check:
        print(families_page(options.name, seed=options.seed))
        return 0
    if options.name is None:
        raise ValueError("--check needs the name of a family.")
    from chatvec_lab.families.descent import descent_page

    family = load_family(options.name, seed=options.seed)
    print(descent_page(family.check()))
    return 0


def _add_scorers(verbs) -> None:
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
    parser.set_defaults(run=_scorers)


def _scorers(options) -> int:
    from chatvec_lab.evaluation.scorers import named

    given = dict(text.partition("=")[::2] for text in options.service)
    print(named.page() if not options.check else named.checked(options.check, given))
    return 0


def _add_push(verbs) -> None:
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
    parser.set_defaults(run=_push)


def _push(options) -> int:
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


if __name__ == "__main__":
    sys.exit(main())
