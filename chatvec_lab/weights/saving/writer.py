"""Save a merged checkpoint: streamed, exact, atomic, resumable, and complete (config, tokenizer, template, card).

The folder is an ordinary transformers checkpoint with the CP's config, vocabulary and sharding; chat template,
end-of-turn tokens and generation config are the chat model's; `manifest.json` says where everything came from.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.saving.card import model_card
from chatvec_lab.weights.saving.partial import note, partial_folder, refuse_existing, whole_shards
from chatvec_lab.weights.saving.provenance import (
    DIGEST,
    MANIFEST,
    Digests,
    combined,
    file_digest,
    source_entry,
    versions,
    write_json,
)
from chatvec_lab.weights.saving.stream import Streamer, Tensor, index_of, layout, parse_size, progress_bar
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.sources.files import Stored
from chatvec_lab.weights.sources.folder import Folder
from chatvec_lab.weights.sources.safetensors import safetensors_entries

if TYPE_CHECKING:
    from chatvec_lab.weights.merged import MergedCheckpoint, VocabularyReport

# companions of the weights that travel with the CP; what a merge changes is written afterwards
_COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja", "*.py", "LICENSE*", "NOTICE*", "USE_POLICY*")
_NOT_COPIED = ("*.index.json", MANIFEST, "generation_config.json", "config.json", "trainer_state.json")


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
) -> SaveReport:
    """Write `merged` to the new folder `path`.

    `dtype` (None: the CP's) is "bfloat16", "float16", "float32" or "float64"; `max_shard_size` cuts larger shards
    of the CP; `resume` goes on from whole shards of an interrupted save of the same recipe; `verify` reads the
    result again and compares every byte with the formula. Memory: some 100 MB whatever the model's size.

    Raises FileExistsError when `path` exists, ValueError for inputs that do not pair or hold NaN (naming the
    tensor), OSError for a full disk. Nothing ever appears under `path` before it is whole.
    """
    started = time.perf_counter()
    refuse_existing(path)
    dtype = None if dtype is None else str(dtype).removeprefix("torch.")
    if dtype not in (None, *files.FLOATS):
        raise ValueError(f"dtype={dtype!r}: expected None (the CP's) or one of {', '.join(files.FLOATS)}.")
    merged.check()
    report = merged.vocabulary_report()  # reads special rows, so that their errors come before the first byte
    shards = layout(_groups(merged, dtype), parse_size(max_shard_size))
    total = sum(t.nbytes for tensors in shards.values() for t in tensors)
    key = xxhash.xxh3_128_hexdigest(json.dumps([merged.fingerprint(), shards], default=asdict).encode())
    sources = list(dict.fromkeys([merged.cp, *merged.vector.sources()]))
    digests = Digests()

    with (
        partial_folder(path, key, resume=resume, needed=total) as (folder, journal),
        progress_bar(total, path, progress) as bar,
    ):
        kept = whole_shards(folder, journal, file_digest)
        for name, noted in kept.items():
            bar.update(sum(t.nbytes for t in shards[name]))
            for source, known in zip(sources, noted["sources"], strict=True):
                digests.remember(source, known)
        journal = dict(kept)
        produce = partial(_produce, merged)
        with Streamer(produce, record=digests.record, progress=bar.update) as stream:
            for name, tensors in shards.items():
                if name in kept:
                    continue
                written = stream.write(folder / name, tensors)
                names = [n for t in tensors for n in {t.name, *(s.resolve(t.name) for s in sources)} if n]
                journal[name] = {
                    "digest": combined(written),
                    "tensors": written,
                    "sources": [digests.known(source, names) for source in sources],
                }
                note(folder, key, journal)
            if verify:
                _verify(folder, shards, stream)
        index = index_of(shards)
        if index:
            write_json(folder / "model.safetensors.index.json", index)
        digest = combined({n: d for noted in journal.values() for n, d in noted["tensors"].items()})
        manifest = {
            "format": "chatvec_lab merged checkpoint 1",
            "recipe": recipe_of(merged, dtype),
            "sources": [source_entry(source, digests) for source in sources],
            "weights": {"digest": digest, "files": {name: journal[name]["digest"] for name in shards}},
            "digest": DIGEST,
            "vocabulary": None if report is None else asdict(report),
            "versions": versions(),
        }  # fmt: skip
        _companions(merged, folder, dtype)
        write_json(folder / MANIFEST, manifest)
        (folder / "README.md").write_text(model_card(merged, manifest), "utf-8")

    carried = sum(merged.is_carried(name) for name in merged.names)
    return SaveReport(
        path=path, changed=len(merged.names) - carried, carried=carried, shards=len(shards), resumed=len(kept),
        bytes=total, seconds=time.perf_counter() - started, vocabulary=report, verified=verify, digest=digest,
        dtypes=tuple(sorted({t.dtype for tensors in shards.values() for t in tensors})),
    )  # fmt: skip


def recipe_of(merged: MergedCheckpoint, dtype: str | None) -> dict:
    """What a manifest says of how a merged checkpoint was made."""
    return {
        "cp": merged.cp.label, "vector": merged.vector.describe(), "vocabulary": merged.policy,
        "copy_special": merged.copy_special, "add_tokens": merged.add_tokens, "dtype": dtype,
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


def _refuse_link(file: Path, folder: Path) -> None:
    """A link out of the checkpoint would carry a file of this machine into what may be pushed."""
    home = (
        folder.parent.parent if folder.parent.name == "snapshots" else folder
    )  # the hub's cache links to its blobs
    target = file.resolve()
    if not target.is_relative_to(home.resolve()):
        raise ValueError(
            f"{file} is a link to {target}, outside the checkpoint, and would be copied into the merged model. "
            "Replace it by a copy if it belongs to the model, or remove it."
        )


def _companions(merged: MergedCheckpoint, folder: Path, dtype: str | None) -> None:
    """Config, tokenizer and their like: copied from the CP, with the chat model's template and end of turn."""
    if merged.chat_side is None and isinstance(merged.cp, type(merged)):
        return _companions(merged.cp, folder, dtype)  # those of the inner sum
    for pattern in _COMPANIONS:
        for file in sorted(merged.cp.folder.glob(pattern)):
            if file.is_file() and not any(file.match(p) for p in _NOT_COPIED):
                _refuse_link(file, merged.cp.folder)
                shutil.copyfile(file, folder / file.name)
    config = dict(merged.config)
    if dtype and config:
        config["dtype" if "dtype" in config else "torch_dtype"] = dtype
    if config:
        write_json(folder / "config.json", config)
    if merged.generation_config:
        write_json(folder / "generation_config.json", merged.generation_config)
    if merged.chat_side is None or merged.cp.vocabulary is None:
        return
    if merged.added_tokens:
        merged.tokenizer.save_pretrained(folder)
        return
    write_json(folder / "tokenizer_config.json", merged.tokenizer_config)
    (folder / "chat_template.jinja").write_text(merged.chat_template, "utf-8")
    special = folder / "special_tokens_map.json"
    if special.is_file() and "eos_token" in merged.tokenizer_config:
        stored = json.loads(special.read_text("utf-8"))
        write_json(special, stored | {"eos_token": merged.tokenizer_config["eos_token"]})
