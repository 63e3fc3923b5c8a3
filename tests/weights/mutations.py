"""Damaged inputs by the thousand: a file of a member is changed at random, and the merge must be right or refused.

Each trial runs in a forked child with a limit of 20 seconds (of a processor) and 2 GB. Its outcome is one of

    same      the merged weights are those of the undamaged family, bit for bit
    refused   an error of one paragraph that names the damaged file or its folder
    unnamed   an error that names neither, or has several paragraphs
    traceback another kind of exception, or a crash
    hang      more than 20 seconds or 2 GB
    content   other weights, from a file that is whole and says something else: a token renamed, two tokens or two
              tensors of one shape exchanged. Nothing in the file contradicts it
    silent    other weights, though the file contradicts itself
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import resource
import signal
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

SECONDS, BYTES = 20, 2 << 30
REFUSALS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    ImportError,
    ArithmeticError,
)  # what the command line prints


def digest_of(merged) -> dict[str, str]:
    """Digest of each merged tensor, and of what a merge says of its rows."""
    merged.check()
    # what a save writes beside the weights: read, so that a damaged file of it is told, but not compared
    _ = merged.generation_config, merged.tokenizer_config, merged.chat_template, merged.vocabulary_report()
    found = {name: hashlib.sha256(merged.raw(name).tobytes()).hexdigest() for name in merged.names}
    return found | {
        f"shape of {name}": str((merged.shape(name), merged.dtype_name(name))) for name in merged.names
    }


def trial(make: Callable, expected: dict[str, str], damaged: Path) -> tuple[str, str]:
    """(outcome, what was said) of `digest_of(make())` in a child of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(9))
        signal.signal(signal.SIGPROF, lambda *_: os._exit(9))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of its own: the machine may be shared
        signal.alarm(9 * SECONDS)  # a wait that never ends
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        warnings.simplefilter("ignore")
        try:
            found = digest_of(make())
            wrong = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
            said = ("silent", ", ".join(sorted(wrong)[:3])) if wrong else ("same", "")
        except REFUSALS as error:
            text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
            words = set(text.replace("/", " ").replace(":", " ").replace("(", " ").split())
            names = damaged.name in text or damaged.parent.name in words
            kind = "refused" if names and "\n\n" not in text.strip() else "unnamed"
            said = (kind, f"{type(error).__name__}: {text}")
        except BaseException as error:
            said = (
                "hang" if isinstance(error, MemoryError) else "traceback",
                f"{type(error).__name__}: {error}",
            )
        os.write(writer, pickle.dumps((said[0], said[1][:1500])))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if answer:
        return pickle.loads(answer)
    return ("hang", "time") if os.waitstatus_to_exitcode(status) == 9 else ("traceback", f"status {status}")


def flip(rng: random.Random, data: bytes, first: int = 0, last: int | None = None) -> bytes:
    """One bit of data[first:last] turned."""
    at = rng.randrange(first, len(data) if last is None else last)
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def edit_bytes(rng: random.Random, data: bytes) -> bytes:
    """A change as a bad disk, a cut download or a hasty hand makes it."""
    at, length = rng.randrange(len(data)), rng.choice([1, 1, 2, 8, 64])
    return rng.choice(
        [
            lambda: flip(rng, data),
            lambda: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            lambda: data[:at] + data[at + length :],
            lambda: data[:at] + data[at : at + length] + data[at:],
            lambda: data[:at] + rng.randbytes(length) + data[at:],
            lambda: data[:at],
            lambda: data[:at] + bytes(length) + data[at + length :],
        ]
    )()


_VALUES = [
    0,
    -1,
    1,
    7,
    1 << 31,
    1 << 63,
    1.5,
    1e308,
    True,
    False,
    None,
    "",
    "x",
    [],
    [3],
    {},
    {"a": 1},
    "../x",
    "\x00",
]


def edit_json(rng: random.Random, value):
    """The same JSON with one place changed: a value, a name, an entry more or less, two entries exchanged."""
    places = list(_places(value, ()))
    at = rng.choice(places)
    return _changed(rng, value, at)


def _places(value, at: tuple):
    yield at
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*at, key))


def _changed(rng, value, at: tuple):
    value = json.loads(json.dumps(value))
    if not at:
        return rng.choice([[], {}, None, "x", [value]])
    holder = value
    for key in at[:-1]:
        holder = holder[key]
    key, old = at[-1], holder[at[-1]]
    how = rng.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[_near(rng, key)] = holder.pop(key)
    elif how == 2 and len(holder) > 1:
        other = rng.choice(
            [k for k in (holder if isinstance(holder, dict) else range(len(holder))) if k != key]
        )
        holder[key], holder[other] = holder[other], old
    elif how == 3 and isinstance(old, int) and not isinstance(old, bool):
        holder[key] = old + rng.choice([-1, 1, 8, -8, old, -2 * old])
    elif how == 4 and isinstance(old, str) and old:
        holder[key] = _near(rng, old)
    else:
        holder[key] = rng.choice(_VALUES)
    return value


def _near(rng, text: str) -> str:
    at = rng.randrange(len(text)) if text else 0
    return text[:at] + rng.choice(["", "0", "x", "_", text[at : at + 1] * 2]) + text[at + 1 :]


def json_file(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.4:
        return edit_bytes(rng, data)
    return json.dumps(edit_json(rng, json.loads(data)), ensure_ascii=rng.random() < 0.5).encode()


def safetensors_header(rng: random.Random, data: bytes) -> bytes:
    """The header's text, one of its values, its length, or an entry given twice; the body stays."""
    size = struct.unpack("<Q", data[:8])[0]
    head, body = data[8 : 8 + size], data[8 + size :]
    how = rng.randrange(10)
    if how == 0:
        return flip(rng, data[:8]) + head + body
    if how == 1:
        entries = list(json.loads(head).items())
        (name, _), (_, info) = rng.choice(entries), rng.choice(entries)
        head = head.rstrip()[:-1] + f",{json.dumps(name)}:{json.dumps(info)}}}".encode()
    elif how < 5:
        head = edit_bytes(rng, head)
    elif how == 5:
        return data[:8] + edit_bytes(rng, head) + body
    else:
        head = json.dumps(edit_json(rng, json.loads(head)), separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8) if rng.random() < 0.9 else b""
    return struct.pack("<Q", len(head)) + head + body


def safetensors_body(rng: random.Random, data: bytes) -> bytes:
    """The body cut, longer or shifted (a bit that is turned there cannot be told)."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    at, length = rng.randrange(start, len(data)), rng.choice([1, 2, 16, 4096])
    return rng.choice(
        [
            data[:at],
            data + rng.randbytes(length),
            data[:at] + data[at + length :],
            data[:at] + bytes(length) + data[at:],
        ]
    )


def bin_file(rng: random.Random, data: bytes) -> bytes:
    """Anything but the tensors' own bytes: the pickle, the archive's headers, its directory, its end."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        spans = []
        for info in infos:
            names, extra = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
            start = info.header_offset + 30 + names + extra
            spans.append((info.header_offset, start))
            if info.filename.endswith("data.pkl"):
                pickled = (start, start + info.file_size)
        directory = (archive.start_dir, len(data))
    if rng.random() < 0.6:
        first, last = pickled
    else:
        first, last = rng.choice([*spans[:4], directory, directory])
    how = rng.randrange(6)
    at = rng.randrange(first, last)
    if how < 3:
        return flip(rng, data, first, last)
    if how == 3:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if how == 4:
        return data[:at] + rng.choice([b"", data[at : at + 2] * 2]) + data[at + 1 :]
    return data[:at] if rng.random() < 0.3 else data[:at] + rng.randbytes(4) + data[at + 4 :]


def gguf_file(rng: random.Random, data: bytes) -> bytes:
    """A change of the header, the metadata or the list of tensors; or the end cut off."""
    import gguf

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        last = int(gguf.GGUFReader(file.name).data_offset)
    head = data[:last]
    how = rng.randrange(8)
    if how < 4:
        return flip(rng, head) + data[last:]
    if how == 4:
        return data[: rng.randrange(len(data))]
    changed = edit_bytes(rng, head)
    return changed + data[last:]


def is_content(kind: str, data: bytes, changed: bytes) -> bool:
    """Whether a changed file is whole, and only says something else (see above)."""
    if kind == "tokenizer":
        before, after = (_tokens(json.loads(text)) for text in (data, changed))
        return before != after
    if kind == "header":
        before, after = (_tensors(raw) for raw in (data, changed))
        return before != after and set(before.values()) == set(after.values())
    if kind == "gguf":
        before, after = (_metadata(raw) for raw in (data, changed))
        return before[1] == after[1] and before[0] != after[0]
    return False


def _tokens(made: dict) -> list:
    added = {token["content"]: token["id"] for token in made.get("added_tokens") or []}
    return sorted((made["model"]["vocab"] | added).items())


def _tensors(raw: bytes) -> dict[str, str]:
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    return {name: json.dumps(info) for name, info in header.items() if name != "__metadata__"}


def _metadata(raw: bytes) -> tuple[str, list]:
    """Tokens with their types, and all that the file says of its tensors."""
    import gguf

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(raw)
        file.flush()
        reader = gguf.GGUFReader(file.name)
        said = {key: field.contents() for key, field in reader.fields.items() if key.startswith("tokenizer.")}
        tensors = [
            [t.name, list(map(int, t.shape)), t.tensor_type.name, int(t.data_offset)] for t in reader.tensors
        ]
    return json.dumps(said, sort_keys=True, default=str), tensors


class Campaign:
    """A family with one kind of file to damage; trial number n is always the same change, whatever ran before."""

    KINDS: ClassVar = {
        # how it is changed, which file of each member, trials in the full campaign
        "header": (safetensors_header, "model.safetensors", 1500),
        "body": (safetensors_body, "model.safetensors", 500),
        "index": (json_file, "model.safetensors.index.json", 300),
        "config": (json_file, "config.json", 300),
        "tokenizer": (json_file, "tokenizer.json", 300),
        "bin": (bin_file, "pytorch_model.bin", 300),
        "gguf": (gguf_file, "m.gguf", 300),
        "vector": (None, "", 300),
    }
    VECTOR: ClassVar = {
        "manifest.json": json_file,
        "vector.safetensors": safetensors_header,
        "vocabulary.json": json_file,
        "chat.json": json_file,
        "special_rows.safetensors": safetensors_header,
    }

    def __init__(self, kind: str, root: Path, seed: int = 0):
        self.kind, self.root, self.seed = kind, root, seed
        mutate, file, self.count = self.KINDS[kind]
        if kind == "gguf":
            self._save_gguf()
        else:
            self._save(as_bin=kind == "bin", shard="6KB" if kind == "index" else "5GB")
        self.targets = [(root / member / file, mutate) for member in ("base", "chat", "cp")]
        if kind == "config":
            beside = ("generation_config.json", "tokenizer_config.json")
            self.targets += [(root / "chat" / name, mutate) for name in beside]
        if kind == "vector":
            (self._open("chat") - self._open("base")).save(root / "tau", progress=False)
            self.targets = [(root / "tau" / name, change) for name, change in self.VECTOR.items()]
        self.expected = digest_of(self.merged())

    def _save(self, **options) -> None:
        from pico import CP_TOKENS, save_family

        save_family(self.root, cp_tokens=CP_TOKENS, **options)

    def _save_gguf(self) -> None:
        from gguf_files import save_llama, write_gguf

        near = None
        for seed, member in enumerate(("base", "chat", "cp")):
            folder = save_llama(self.root / f"whole-{member}", near=near, seed=seed)
            near = near or folder
            (self.root / member).mkdir()
            write_gguf(folder, self.root / member / "m.gguf", "F16")

    def _open(self, member: str):
        from chatvec_lab import Checkpoint

        return Checkpoint(self.root / member / ("m.gguf" if self.kind == "gguf" else ""))

    def merged(self):
        """The merge that a trial makes, opened anew."""
        from chatvec_lab import WeightVector, preflight

        if self.kind == "vector":
            tau = WeightVector.load(self.root / "tau")
        else:
            tau = self._open("chat") - self._open("base")
        cp = self._open("cp")
        preflight(cp, 0.7 * tau, copy_special=True).check()  # as `merge` does
        return cp.add(0.7 * tau, copy_special=True)

    def trial(self, number: int) -> tuple[str, str]:
        """(outcome, what was said) of one trial; the file is as before afterwards."""
        file, mutate = self.targets[number % len(self.targets)]
        data = file.read_bytes()
        changed = mutate(random.Random(f"{self.seed} {self.kind} {number}"), data)
        if changed == data:
            return "same", ""
        try:
            file.write_bytes(changed)
            outcome, said = trial(self.merged, self.expected, file)
            if outcome == "silent" and is_content(self.kind, data, changed):
                outcome = "content"
        finally:
            file.write_bytes(data)
        return outcome, f"{file.parent.name}/{file.name}: {said}"
