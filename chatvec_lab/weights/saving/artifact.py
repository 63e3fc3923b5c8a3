"""A weight vector as an artifact: a folder with its tensors, exact, usable later without base and chat.

Each part of the vector is stored in the narrowest dtype (16 bits, float32 or float64) that holds every one of its
elements exactly; where not even float64 does, a second tensor `name::low` holds the rest. A vector with several
terms stores each apart (`name`, `name::1`, …), with float64 coefficients in the manifest.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType

import numpy as np
import xxhash

from chatvec_lab.weights.checkpoint import Checkpoint, read_json
from chatvec_lab.weights.layout import Layout, Part
from chatvec_lab.weights.layout.familiar import Findings
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace, work_spans
from chatvec_lab.weights.saving.card import vector_card
from chatvec_lab.weights.saving.commit import commit, refuse_existing
from chatvec_lab.weights.saving.provenance import MANIFEST, Digests, source_entry, write_json
from chatvec_lab.weights.saving.seal import beside, check_seal
from chatvec_lab.weights.saving.stream import (
    Streamer,
    Tensor,
    header,
    index_of,
    layout,
    parse_size,
    progress_bar,
    workers,
)
from chatvec_lab.weights.sources.files import Stored as StoredTensors
from chatvec_lab.weights.sources.folder import Folder, open_folder
from chatvec_lab.weights.sources.safetensors import safetensors_entries
from chatvec_lab.weights.sources.tokenizer_files import read_saved, to_save
from chatvec_lab.weights.tokens.chat import ChatSide, Row
from chatvec_lab.weights.tokens.vocabulary import Vocabulary
from chatvec_lab.weights.vector import Term, WeightVector

FORMAT = "chatvec_lab weight vector 1"
STEM = "vector"


def save_vector(
    vector: WeightVector,
    path: Path,
    *,
    progress: bool = True,
    max_shard_size: str = "5GB",
    jobs: int | None = None,
) -> Path:
    """Write `vector` to the new folder `path`; see the module's text. Atomic and resumable like a merged save.

    `jobs`: how many threads write, as for a merged save; the look at each element before has one.

    Raises FileExistsError when `path` exists, ValueError for sources that do not pair or hold NaN.
    """
    refuse_existing(path)
    jobs = workers(jobs)
    sources = vector.sources()
    digests = Digests(sources)
    plan = {name: _storage(vector, name, digests) for name in vector.names}
    tensors = [Tensor(t, dtype, vector.shape(n)) for n, parts in plan.items() for t, dtype, _, _ in parts]
    where = {t: (name, part, low) for name, parts in plan.items() for t, _, part, low in parts}
    shards = layout([tensors], parse_size(max_shard_size), stem=STEM)
    total = sum(t.nbytes for t in tensors)
    recipe = [vector.describe(), [source.fingerprint() for source in sources], shards]
    key = xxhash.xxh3_128_hexdigest(json.dumps(recipe, default=asdict).encode())

    def produce(tensor: str, start: int, stop: int, out: np.ndarray, work: Workspace) -> None:
        name, part, low = where[tensor]
        _, plus, minus = vector.parts(name, start, stop, work=work)[part]
        high, rest = _difference(plus, minus)
        _store(rest if low else high, out)

    with (
        commit(path, key, shards, needed=total) as work,
        progress_bar(total, path, progress) as bar,
    ):
        bar.update(sum(t.nbytes for name in work.shards for t in shards[name]))
        with Streamer(produce, record=digests.record, progress=bar.update, jobs=jobs) as stream:
            work.write_shards(shards, stream)
        index = index_of(shards)
        if index:
            write_json(work.companions / f"{STEM}.safetensors.index.json", index)
        vocabulary = vector.vocabulary
        if vocabulary is not None:
            write_json(work.companions / "vocabulary.json", to_save(vocabulary))
        if vector.chat_side is not None:
            _save_chat_side(vector, work.companions)
        manifest = {
            "format": FORMAT,
            "label": vector.label,
            "recipe": vector.describe(),
            "coefficients": {name: _coefficients(vector, name) for name in vector.names},
            "shapes": {name: list(vector.shape(name)) for name in vector.names},
            "parts": {name: asdict(vector.part(name)) for name in vector.names},
            **_roles(vector),
            "absent_rows": _absent_rows(vector),
            "sources": [source_entry(source, digests) for source in sources],
            "beside": beside(work.folder, work.companions),
        }
        work.write_manifest(manifest, lambda _: vector_card(vector))
        digests.check_unchanged()
    return path


def _roles(vector: WeightVector) -> dict:
    """Which tensors are the embedding and the head, and what is tied to what."""
    tables = {name: vector.part(name).module for name in filter(vector.is_table, vector.names)}
    embedding = next((name for name, kind in tables.items() if kind == "embedding"), None)
    heads = [name for name, kind in tables.items() if kind == "head" and name.endswith("weight")]
    heads += [name for name, to in vector.tied.items() if to == embedding]
    return {"tied": dict(vector.tied), "embedding": embedding, "head": next(iter(heads), None)}


def _absent_rows(vector: WeightVector) -> dict[str, list[list[int]]]:
    """Of each table with rows that carry no difference: those rows, as (first, count) runs."""
    found = {}
    for name in vector.names:
        live = vector.live_rows(name)
        if live is not None and not live.all():
            rows = np.flatnonzero(~live)
            starts = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1])
            counts = np.diff(np.concatenate([starts, [rows.size]]))
            found[name] = [[int(rows[i]), int(n)] for i, n in zip(starts, counts, strict=True)]
    return found


def _coefficients(vector: WeightVector, name: str) -> list[float]:
    if not prod(vector.shape(name)):  # of no element nothing is stored
        return []
    return [c for c, _, _ in vector.parts(name, 0, 1)]


def _storage(vector: WeightVector, name: str, digests: Digests) -> list[tuple[str, str, int, bool]]:
    """(stored name, dtype, part, is the low half) of each part, by looking at every element once."""
    widths: list[str] = []
    lows: list[bool] = []
    work = Workspace(digests.record)
    for start, stop in work_spans(vector.shape(name)):
        for i, (_, plus, minus) in enumerate(vector.parts(name, start, stop, work=work)):
            high, low = _difference(plus, minus)
            if not np.isfinite(high).all():
                raise ValueError(f"{name} of {vector.label} holds NaN or infinity; nothing was saved.")
            if i == len(widths):
                widths.append("float16" if plus.dtype == np.float16 else "bfloat16")
                lows.append(False)
            widths[i] = _narrowest(high, widths[i])
            lows[i] = lows[i] or bool(low.any())
        work.release()
    result = []
    for i, (dtype, low) in enumerate(zip(widths, lows, strict=True)):
        stem = name if i == 0 else f"{name}::{i}"
        result.append((stem, dtype, i, False))
        if low:
            result.append((f"{stem}::low", "float64", i, True))
    return result


def _narrowest(values: np.ndarray, least: str) -> str:
    """The first dtype, no narrower than `least`, that holds every value exactly."""
    for dtype in dict.fromkeys((least, "float32", "float64")):
        if dtype == "bfloat16":
            single = values.astype(np.float32)
            fits = np.array_equal(single, values) and not (single.view(np.uint32) & np.uint32(0xFFFF)).any()
        else:
            with np.errstate(over="ignore"):
                fits = np.array_equal(values.astype(dtype).astype(np.float64), values)
        if fits:
            return dtype
    raise AssertionError("float64 holds every float64")


def _difference(plus: np.ndarray, minus: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """plus - minus as high + low, exactly (Knuth's TwoSum)."""
    a = exact.widen(plus).astype(np.float64)
    if minus is None:
        return a, np.zeros_like(a)
    b = -exact.widen(minus).astype(np.float64)
    high = a + b
    back = high - a
    return high, (a - (high - back)) + (b - back)


def _store(values: np.ndarray, out: np.ndarray) -> None:
    if out.dtype == np.uint16:
        out[:] = (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    else:
        out[:] = values


def _save_chat_side(vector: WeightVector, folder: Path) -> None:
    """chat.json, and the rows of special tokens (the chat model's own and the base's) in special_rows.safetensors."""
    side = vector.chat_side
    rows: dict[str, Row] = {}
    for name in filter(vector.is_table, vector.names):
        for i, token in enumerate(side.special):
            found = side.rows(name, token)
            for which, row in zip(("chat", "base"), found or (), strict=False):
                if row is not None:
                    rows[f"{name}/{i}/{which}"] = row
    tensors = [Tensor(name, dtype, (raw.size,)) for name, (raw, dtype) in rows.items()]
    prefix, _ = header(tensors)
    (folder / "special_rows.safetensors").write_bytes(
        prefix + b"".join(raw.tobytes() for raw, _ in rows.values())
    )
    facts = {k: getattr(side, k) for k in ("label", "template", "eos_token", "generation", "special")}
    facts |= {"rules": side.rules(), "prompts": side.prompts(), "others": dict(side.others)}
    write_json(folder / "chat.json", facts)


class Stored:
    """The leaf of a loaded vector: parts come from its files, coefficients from its manifest."""

    base = larger = None
    placed = left_out = MappingProxyType({})

    def __init__(self, folder: Path):
        tensors = open_folder(folder, stem=STEM)
        self.files = Checkpoint(folder, origin=Folder(folder, tensors))
        self.manifest = read_json(folder / MANIFEST)
        # a vector of quantised members stays one
        notes = dict.fromkeys(s["note"] for s in self.manifest.get("sources", []) if s.get("note"))
        tensors.note = "; ".join(notes)
        if self.manifest.get("format") != FORMAT:
            raise ValueError(
                f"{folder / MANIFEST} is no manifest of a weight vector (format {FORMAT!r} expected)."
            )
        check_seal(folder, self.manifest, MANIFEST)
        self.label = self.manifest["label"]
        self.coefficients: dict[str, list[float]] = self.manifest["coefficients"]
        lacking = [name for name in self.coefficients if name not in self.files and self.coefficients[name]]
        if lacking:
            raise ValueError(
                f"{folder} misses {len(lacking)} tensors of its manifest, such as {lacking[0]!r}."
            )

    @property
    def names(self) -> list[str]:
        return list(self.coefficients)

    @cached_property
    def layout(self) -> Layout:
        """What each tensor is, as the manifest says; vectors of earlier versions are read by their names."""
        noted = self.manifest.get("parts")
        if noted is None:
            shapes = {name: self._shape(name) for name in self.coefficients}
            return Layout.of({}, list(shapes), shapes)
        parts = {name: Part(**part) for name, part in noted.items()}
        known = {key: self.manifest[key] for key in ("tied", "embedding", "head")}
        return Layout(Findings(parts, {name: name for name in parts}, "manifest", **known))

    @property
    def tied(self) -> dict[str, str]:
        return self.layout.tied

    def part(self, name: str) -> Part:
        return self.layout[name]

    def resolve(self, name: str) -> str | None:
        return self.layout.holder(name)

    def live_rows(self, name: str) -> np.ndarray | None:
        absent = self.manifest.get("absent_rows", {}).get(self.resolve(name))
        if absent is None:
            return None
        live = np.ones(self.shape(name)[0], bool)
        for row, count in absent:
            live[row : row + count] = False
        return live

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shape(self.resolve(name) or name)

    def _shape(self, name: str) -> tuple[int, ...]:
        shapes = self.manifest.get("shapes", {})
        return tuple(shapes[name]) if name in shapes else self.files.shape(name)  # coefficient 0: in no file

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        return read_saved(self.files.folder / "vocabulary.json")

    @cached_property
    def chat_side(self) -> ChatSide | None:
        facts = read_json(self.files.folder / "chat.json")
        if not facts:
            return None
        special = tuple(facts.pop("special"))
        rules, prompts = facts.pop("rules", {}), facts.pop("prompts", [])  # older vectors lack both
        tensors = StoredTensors(safetensors_entries(self.files.folder / "special_rows.safetensors"))
        holder = Checkpoint(self.files.folder, origin=Folder(self.files.folder, tensors))

        def row(key: str) -> Row | None:
            return (holder.raw(key), holder.dtype_name(key)) if key in tensors.entries else None

        def rows(tensor: str, token: str):
            if token not in special:
                return None
            stem = f"{self.resolve(tensor)}/{special.index(token)}"
            own = row(f"{stem}/chat")
            return None if own is None else (own, row(f"{stem}/base"))

        return ChatSide(**facts, special=special, rows=rows, rules=lambda: rules, prompts=lambda: prompts)

    def own(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        name = self.resolve(name)
        result = []
        for i, coefficient in enumerate(self.coefficients[name]):
            stem = name if i == 0 else f"{name}::{i}"
            for stored in (stem, f"{stem}::low"):
                if stored in self.files:
                    result.append((coefficient, work.fill(self.files, stored, start, stop), None))
        return result

    def describe(self) -> dict:
        return {
            "stored": self.label,
            "weights": self.manifest["weights"]["digest"],
            "of": self.manifest["recipe"],
        }

    def sources(self) -> list[Checkpoint]:
        return [self.files]


def load_vector(path: Path) -> WeightVector:
    """The vector stored in a folder by `save_vector`; headers are checked, weights are read when needed.

    Folders of the `residuals` package and of the paper's own code are read too (see `interop.formats`).
    Raises FileNotFoundError when there is none, ValueError naming the file when one is damaged.
    """
    if not (path / MANIFEST).is_file():
        from chatvec_lab.weights.sources.foreign import load_foreign

        foreign = load_foreign(path)
        if foreign is not None:
            return foreign
        hint = " It holds a model: use Checkpoint." if (path / "config.json").is_file() else ""
        raise FileNotFoundError(f"{path} holds no weight vector (no {MANIFEST}).{hint}")
    return WeightVector((Term(1.0, Stored(path)),))
