"""Save a merged checkpoint: streamed, exact, atomic, resumable, and complete (config, tokenizer, template, card).

The folder is an ordinary transformers checkpoint with the CP's config, vocabulary and sharding; chat template,
end-of-turn tokens and generation config are the chat model's; `manifest.json` says where everything came from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.preflight import Report, examine
from chatvec_lab.weights.saving.card import model_card
from chatvec_lab.weights.saving.commit import commit, refuse_existing
from chatvec_lab.weights.saving.companions import check_tokenizer, write_companions
from chatvec_lab.weights.saving.provenance import Digests, source_entry, write_json
from chatvec_lab.weights.saving.stream import (
    Streamer,
    Tensor,
    index_of,
    layout,
    parse_size,
    progress_bar,
    workers,
)
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.sources.files import Stored
from chatvec_lab.weights.sources.folder import Folder
from chatvec_lab.weights.sources.safetensors import safetensors_entries

if TYPE_CHECKING:
    from chatvec_lab.weights.merged import MergedCheckpoint, VocabularyReport


@dataclass(frozen=True)
class SaveReport:
    """What `save` did. `changed` tensors got the vector, `carried` ones are the CP's bytes; sizes in bytes."""

    path: Path
    changed: int
    carried: int
    shards: int
    resumed: int
    bytes: int
    seconds: float
    dtypes: tuple[str, ...]
    vocabulary: VocabularyReport | None
    verified: bool
    digest: str
    preflight: Report

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.bytes / 1e6:,.1f} MB in {self.shards} shard{'s' * (self.shards != 1)} "
            f"({', '.join(self.dtypes)}), {self.seconds:.1f} s"
            + (f", {self.resumed} kept from an earlier run" if self.resumed else ""),
            f"  tensors: {self.changed} got the vector, {self.carried} carried over from the CP",
        ]
        v = self.vocabulary
        if v:
            lines.append(
                f"  vocabulary ({v.policy}): {v.rows} rows, {v.matched} matched, {v.kept} of the CP alone, "
                f"{len(v.copied)} copied from chat, {v.padded} padding, {len(v.added)} added"
            )
            if v.chat_only:
                more = f" … ({len(v.chat_only)} in all)" if len(v.chat_only) > 8 else ""
                lines.append(f"  tokens that only chat has: {', '.join(v.chat_only[:8])}{more}")
        lines.append(f"  weights {self.digest}" + (", verified against the formula" if self.verified else ""))
        return "\n".join(lines)


def save(
    merged: MergedCheckpoint,
    path: Path,
    *,
    dtype: str | None = None,
    max_shard_size: str | int = "5GB",
    resume: bool = True,
    verify: bool = False,
    progress: bool = True,
    force: Iterable[str] = (),
    told: Report | None = None,
    jobs: int | None = None,
) -> SaveReport:
    """Write `merged` to the new folder `path`.

    `dtype` (None: the CP's) is "bfloat16", "float16", "float32" or "float64"; `max_shard_size` cuts larger shards
    of the CP; `resume` goes on from whole shards of an interrupted save of the same recipe; `verify` reads the
    result again and compares every byte with the formula. `force` names findings of `preflight` that would refuse the
    merge; `told` is the report of one that was made already. `jobs` is how many threads read, compute and write (None:
    one a core that this process may use, two to eight); the bytes do not depend on it. Memory: some 100 MB whatever the
    model's size, a few MB more for each of `jobs`.

    Raises FileExistsError when `path` exists, ValueError for inputs that do not pair or hold NaN (naming the
    tensor), OSError for a full disk. Nothing ever appears under `path` before it is whole.
    """
    started = time.perf_counter()
    refuse_existing(path)
    jobs = workers(jobs)
    dtype = None if dtype is None else str(dtype).removeprefix("torch.")
    if dtype not in (None, *files.FLOATS):
        raise ValueError(f"dtype={dtype!r}: expected None (the CP's) or one of {', '.join(files.FLOATS)}.")
    merged.check()
    told = told or examine(merged, force=force, out=path, jobs=jobs)
    told.check(estimates=False)
    report = merged.vocabulary_report()  # reads special rows, so that their errors come before the first byte
    shards = layout(_groups(merged, dtype), parse_size(max_shard_size))
    total = sum(t.nbytes for tensors in shards.values() for t in tensors)
    key = xxhash.xxh3_128_hexdigest(json.dumps([merged.fingerprint(), shards], default=asdict).encode())
    sources = list(dict.fromkeys([merged.cp, *merged.vector.sources()]))
    digests = told.read if told.read and told.read.sources == sources else Digests(sources)

    def read_of(tensors: list[Tensor]) -> dict:
        """Digests of what was read for these tensors, so that a resumed save need not read it again."""
        names = [n for t in tensors for n in {t.name, *(s.resolve(t.name) for s in sources)} if n]
        return {"sources": [digests.known(source, names) for source in sources]}

    with (
        commit(path, key, shards, resume=resume, needed=total) as work,
        progress_bar(total, path, progress) as bar,
    ):
        resumed = len(work.shards)
        for name, noted in work.shards.items():
            bar.update(sum(t.nbytes for t in shards[name]))
            for source, known in zip(sources, noted["sources"], strict=True):
                digests.remember(source, known)
        with Streamer(
            partial(_produce, merged), record=digests.record, progress=bar.update, jobs=jobs
        ) as stream:
            work.write_shards(shards, stream, read_of)
            if verify:
                _verify(work.folder, shards, stream)
        index = index_of(shards)
        if index:
            write_json(work.companions / "model.safetensors.index.json", index)
        write_companions(merged, work.companions, dtype)
        check_tokenizer(merged, work.companions, fully=verify)
        manifest = work.write_manifest(
            {
                "format": "chatvec_lab merged checkpoint 1",
                "recipe": recipe_of(merged, dtype),
                "sources": [source_entry(source, digests) for source in sources],
                "vocabulary": None if report is None else asdict(report),
                "preflight": told.as_dict(),
            },
            partial(model_card, merged),
        )
        digests.check_unchanged()

    carried = sum(merged.is_carried(name) for name in merged.names)
    digest = manifest["weights"]["digest"]
    return SaveReport(
        path=path, changed=len(merged.names) - carried, carried=carried, shards=len(shards), resumed=resumed,
        bytes=total, seconds=time.perf_counter() - started, vocabulary=report, verified=verify, digest=digest,
        dtypes=tuple(sorted({t.dtype for tensors in shards.values() for t in tensors})), preflight=told,
    )  # fmt: skip


def recipe_of(merged: MergedCheckpoint, dtype: str | None) -> dict:
    """What a manifest says of how a merged checkpoint was made."""
    return {
        "cp": merged.cp.label, "vector": merged.vector.describe(), "vocabulary": merged.policy,
        "copy_special": merged.copy_special, "add_tokens": merged.add_tokens, "dtype": dtype,
        **({"allow_mixed": True} if merged.allow_mixed else {}),
    }  # fmt: skip


def _produce(merged: MergedCheckpoint, name, start, stop, out, work) -> None:
    merged.fill(name, start, stop, out, work)


def _groups(merged: MergedCheckpoint, dtype: str | None) -> list[list[Tensor]]:
    """The tensors of each of the CP's files, in file order."""
    groups: dict[str, list[Tensor]] = {}
    for name in merged.names:
        stored = merged.dtype_name(name)
        kind = dtype if dtype and stored in files.FLOATS else stored
        groups.setdefault(merged.file(name), []).append(Tensor(name, kind, merged.shape(name)))
    return list(groups.values())


def _verify(folder: Path, shards: dict[str, list[Tensor]], stream: Streamer) -> None:
    for name, tensors in shards.items():
        stored = Checkpoint(folder, origin=Folder(folder, Stored(safetensors_entries(folder / name))))
        differing = stream.compare(tensors, stored)
        if differing:
            raise OSError(
                f"verification failed: {len(differing)} tensors of {name} differ from the formula after writing "
                f"({', '.join(differing[:5])}). The disk or the memory of this machine cannot be trusted."
            )
