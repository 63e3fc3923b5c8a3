"""`merge`: save cp + scale * (chat - base)."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path


def add(verbs) -> None:
    """The verb and its arguments."""
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
    vector.add_argument("--language-part", action="store_true", help="of those --base and --chat that are larger models "
                        "(such as Qwen3-VL) the language part, by the names of its text family")  # fmt: skip
    vector.add_argument("--allow-mixed", action="store_true", help="some members are quantised and others not, or "
                        "otherwise, and that is meant; the report, manifest and card say what noise it brings")  # fmt: skip
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
    output.add_argument("--jobs", type=_jobs, metavar="N", help="threads that read, compute and write; default: one a "
                        "core that this process may use, two to eight. The bytes do not depend on it")  # fmt: skip
    output.add_argument("--no-resume", action="store_true", help="start afresh after an interrupted save")
    output.add_argument(
        "--verify", action="store_true", help="read the result again and compare it with the formula"
    )
    output.add_argument(
        "--force",
        action="append",
        default=[],
        metavar="NAME",
        help="merge in spite of this finding about meaning (see check); repeatable, kept in manifest and card",
    )
    output.add_argument(
        "--export-mergekit",
        metavar="FILE",
        help="write the merge as a recipe of mergekit; --out may be left out",
    )
    output.add_argument("--save-vector", metavar="DIR", help="also save the (unscaled) vector as an artifact")
    output.add_argument(
        "--export-adapter",
        metavar="DIR",
        help="write the scaled vector as a LoRA adapter of --rank for the CP, in place of --out",
    )
    output.add_argument("--rank", type=int, help="of the adapter")
    output.add_argument("--base-id", metavar="ID", help="the CP's id on the hub, which the adapter names")
    parser.set_defaults(run=run)


def _jobs(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of threads, 1 or more")
    return int(text)


def run(options) -> int:
    """Write what the options ask for: the recipe of mergekit, the merged model, the vector, in this order.

    Stopped between two of them, the same command goes on: what is there already is what it would write.
    """
    with _lean():
        _check(options)
        merged, dtype = _from_mergekit(options) if options.mergekit else (_merged(options), None)
        dtype = options.dtype or dtype
        has_vector = bool(options.save_vector) and _is_vector_saved(options)
        if options.export_adapter:
            from chatvec_lab.interop.peft import export_adapter

            report = export_adapter(
                merged.vector,
                options.export_adapter,
                base=merged.cp,
                rank=options.rank,
                base_id=options.base_id,
            )
            print(report)
        if options.export_mergekit:
            _export(merged, options, dtype)
        if options.out and not _is_saved(merged, options, dtype):
            from chatvec_lab.weights.preflight import examine

            merged.check()
            told = examine(merged, force=options.force, out=Path(options.out), jobs=options.jobs)
            print(told)
            told.check()
            report = merged.save(
                options.out, dtype=dtype, max_shard_size=options.max_shard_size,
                resume=not options.no_resume, verify=options.verify, told=told, jobs=options.jobs,
            )  # fmt: skip
            print(report)
        if options.save_vector and not has_vector:
            print(sum(_vectors(options)).save(options.save_vector, jobs=options.jobs))
    return 0


def _check(options) -> None:
    """Refuse what does not go together, and outputs that cannot be written, before anything is read."""
    names = ("base", "chat", "vector", "cp", "scale", "layers", "select", "within")
    given = [f"--{name}" for name in names if getattr(options, name) not in (None, [])]
    given += [
        f"--{k.replace('_', '-')}"
        for k in ("copy_special", "add_tokens", "allow_mixed", "language_part", "save_vector")
        if getattr(options, k)
    ]
    given += ["--vocabulary"] if options.vocabulary != "match" else []
    if options.mergekit and given:
        raise ValueError(f"--mergekit names its own models; {', '.join(given)} cannot be given beside it.")
    if not options.mergekit and not options.cp:
        raise ValueError("no model to add to: give --cp, or --mergekit.")
    if not (options.out or options.export_mergekit or options.export_adapter):
        raise ValueError("nowhere to write to: give --out, --export-mergekit or --export-adapter.")
    if bool(options.export_adapter) != bool(options.rank):
        raise ValueError("--export-adapter DIR and --rank R go together.")
    if options.export_adapter and (options.out or options.export_mergekit or options.save_vector):
        raise ValueError(
            "--export-adapter writes an adapter in place of --out and other outputs; run them apart."
        )
    if options.save_vector:
        out, vector = (Path(text).resolve() for text in (options.out or os.devnull, options.save_vector))
        if out == vector or out in vector.parents or vector in out.parents:
            raise ValueError(f"--out {out} and --save-vector {vector}: give each a folder of its own.")


def _export(merged, options, dtype: str | None) -> None:
    from chatvec_lab.interop.mergekit_export import export, recipe

    file = Path(options.export_mergekit)
    later = [Path(path) for path in (options.out, options.save_vector) if path]
    if file.is_file() and not all(path.exists() for path in later):  # an earlier run stopped after it
        if file.read_bytes() != recipe(merged, dtype=dtype).encode():
            raise FileExistsError(
                f"{file} exists already and holds another recipe than this merge's; it is left as it is. "
                "Choose another name."
            )
        print(f"{file}: there already, and holds this recipe")
        return
    export(merged, file, dtype=dtype)
    print(f"{file}: run it with mergekit-yaml {file} OUT --out-shard-size 500M")


def _is_saved(merged, options, dtype: str | None) -> bool:
    """Whether an earlier run saved this very merge to --out and was stopped before --save-vector.

    Any other folder is for `save` to refuse.
    """
    from chatvec_lab.weights.saving.provenance import MANIFEST
    from chatvec_lab.weights.saving.writer import recipe_of

    if not options.save_vector or not Path(options.out, MANIFEST).is_file():
        return False
    merged.check()
    sources = dict.fromkeys([merged.cp, *merged.vector.sources()])
    return _is_made_of(Path(options.out), recipe_of(merged, dtype), sources)


def _is_vector_saved(options) -> bool:
    """Whether --save-vector holds this very vector already, while --out is still to be written; FileExistsError for all else.

    So it is after somebody removed --out, or a run was stopped that saved the vector first.
    """
    from chatvec_lab.weights.saving.commit import refuse_existing
    from chatvec_lab.weights.saving.provenance import MANIFEST

    folder = Path(options.save_vector)
    if (folder / MANIFEST).is_file() and options.out and not Path(options.out).exists():
        vector = sum(_vectors(options))
        if _is_made_of(folder, vector.describe(), vector.sources()):
            return True
    refuse_existing(folder)
    return False


def _is_made_of(folder: Path, recipe, sources) -> bool:
    """Whether a manifest tells of this recipe and of sources with these weights, which are read for their digests."""
    from chatvec_lab.reading import read_json
    from chatvec_lab.weights.saving.provenance import MANIFEST, Digests, source_entry

    stored, digests = read_json(folder / MANIFEST), Digests()
    plain = json.loads(json.dumps(recipe))
    if stored.get("recipe") != plain or stored.get("sources") != [source_entry(s, digests) for s in sources]:
        return False
    print(f"{folder}: saved already, by this recipe and from these weights")
    return True


@contextlib.contextmanager
def _lean() -> Iterator[None]:
    """Before numpy comes: no threads for products of matrices, and no search for garbage among what imports make."""
    before, collects = os.environ.get("OPENBLAS_NUM_THREADS"), gc.isenabled()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()  # a save makes no cycles worth a search
    try:
        yield
    finally:
        if collects:
            # what was made meanwhile counts as old, so that no search of it follows at once
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
        if before is None:
            os.environ.pop("OPENBLAS_NUM_THREADS", None)


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
        tau, vocabulary=options.vocabulary, copy_special=options.copy_special, add_tokens=options.add_tokens,
        allow_mixed=options.allow_mixed,
    )  # fmt: skip


def _vectors(options) -> list:
    from chatvec_lab import WeightVector

    bases = options.base * len(options.chat) if len(options.base) == 1 else options.base
    if len(bases) != len(options.chat):
        raise ValueError(
            f"{len(options.chat)} --chat but {len(options.base)} --base: give one base, or one for each chat."
        )
    cp = None if options.within is not None else _checkpoint(options.cp)

    def member(text: str):
        """By the CP's own pieces, where it is stored in others: experts in stacks or one by one."""
        model = _checkpoint(text)
        model = language_part_of(model) if options.language_part else model
        return model if cp is None else model.like(cp)

    vectors = [
        member(chat).minus(member(base), allow_mixed=options.allow_mixed)
        for chat, base in zip(options.chat, bases, strict=True)
    ]
    vectors += [WeightVector.load(path) for path in options.vector]
    if not vectors:
        raise ValueError("no vector: give --chat and --base, or --vector.")
    return vectors


def language_part_of(model):
    """The language part of a larger model; a text model as it is."""
    components = {part.component for part in model.layout.parts.values()}
    return model.language_part() if components & {"vision", "audio", "projector"} else model


def _checkpoint(text: str):
    from chatvec_lab import Checkpoint

    if Path(text).exists():  # a folder may have an @ in its path
        return Checkpoint(text)
    source, _, revision = text.partition("@")
    return Checkpoint(source, revision=revision or None)
