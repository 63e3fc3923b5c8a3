"""A checkpoint's folder: which of its files hold the tensors, and what lies beside them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from chatvec_lab.weights.sources.bin import bin_entries
from chatvec_lab.weights.sources.files import (
    FLOATS,
    Entry,
    Stored,
    Tensors,
    changed,
    check_is_no_pointer,
    read_json,
    state_of,
)
from chatvec_lab.weights.sources.quantised.recognised import NotRead, quantisation, refusal, whole_config
from chatvec_lab.weights.sources.safetensors import safetensors_entries
from chatvec_lab.weights.tokens.vocabulary import Vocabulary

Reader = Callable[[Path], dict[str, Entry]]


class Folder:
    """A local folder as a source: its tensors, and config, tokenizer and template beside them.

    `tensors` are given where they are not those of a model: of a stored vector, of one shard alone.
    """

    def __init__(self, path: Path, tensors: Tensors | None = None):
        self.folder, self._given = path.resolve(), tensors

    def __reduce__(self):
        return type(self), (self.folder, self._given)

    @property
    def label(self) -> str:
        return self.folder.name

    @property
    def path(self) -> Path:
        return self.folder

    @cached_property
    def stored(self) -> Tensors:
        """The tensors as they lie in the files, packed ones too."""
        if self._given is not None:
            return self._given
        found = open_folder(self.folder)
        if "chat_embed" in found.names or "residuals_version" in self.stored_config:
            raise ValueError(
                f"{self.folder} holds a weight vector of another tool, not a model: open it with WeightVector.load."
            )
        return found

    @cached_property
    def _opened(self) -> tuple[Tensors, str]:
        """The tensors, dequantised where they are not whole; and why they are not read, or ""."""
        how = "" if self._given is not None else quantisation(self.stored_config, self.stored, self.folder)
        if not how:
            return self.stored, ""
        if how.endswith("no quantised tensor is stored"):
            return self.stored, refusal(self.label, how)
        from chatvec_lab.weights.sources.quantised.opened import dequantised  # with numba, for these alone

        try:
            return dequantised(self.stored, self.stored_config, self.folder), ""
        except NotRead as error:
            return self.stored, refusal(self.label, how, str(error))

    @property
    def tensors(self) -> Tensors:
        return self._opened[0]

    @property
    def refused(self) -> str:
        return self._opened[1]

    @cached_property
    def stored_config(self) -> dict[str, Any]:
        return _checked(read_json(self.folder / "config.json"), self.folder / "config.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json, without what it says of a quantisation: weights are read as floats, or not at all."""
        return whole_config(self.stored_config)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        return read_json(self.folder / "tokenizer_config.json")

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        path = self.folder / "generation_config.json"
        found = read_json(path)
        for key, value in found.items():
            ids = value if isinstance(value, list) else [value]
            if key.endswith("_token_id") and not all(type(i) is int or i is None for i in ids):
                raise ValueError(f"{path}: {key} is {value!r}, expected a token's id or a list of ids.")
        return found

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        return Vocabulary.from_folder(self.folder)

    @cached_property
    def chat_template(self) -> str | None:
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            try:
                return path.read_text("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is no text ({error}). Download or copy it again.") from error
        path = self.folder / "tokenizer_config.json"
        stored = self.tokenizer_config.get("chat_template")
        for name in ("chat_template.json", "processor_config.json"):  # where vision-language models keep it
            if stored is None:
                path = self.folder / name
                stored = read_json(path).get("chat_template")
        if isinstance(stored, list):  # several named templates
            named = [item for item in stored if isinstance(item, dict) and item.get("name") == "default"]
            stored = named[0].get("template") if named else None
        if not isinstance(stored, str | None):
            raise ValueError(
                f"{path}: chat_template is {type(stored).__name__}, expected a text. Download it again."
            )
        return stored

    def open_tokenizer(self):
        """The transformers tokenizer, each time a new one. FileNotFoundError when the folder has none."""
        if self.vocabulary is None:
            raise FileNotFoundError(f"{self.label} has no tokenizer (no tokenizer.json or tokenizer.model).")
        from chatvec_lab.opening import open_tokenizer

        return open_tokenizer(self.folder)


def open_folder(folder: Path, stem: str = "model") -> Stored:
    """The tensors of a folder's weight files; of several sets the one that transformers loads, with a warning.

    Raises FileNotFoundError when there are none, ValueError naming the file that is damaged or does not fit its index.
    """
    if stem == "model":
        explicit = read_json(folder / "config.json").get("transformers_weights")
        if explicit is not None:
            raise ValueError(
                f"{folder / 'config.json'} names its weights {explicit!r} (transformers_weights), which is not read: "
                "save the model again under the usual names."
            )
    sets = sets_of_weights(folder, stem)
    if not sets:
        raise FileNotFoundError(_holds_no_model(folder))
    chosen, others = sets[0], sets[1:]
    reader: Reader = bin_entries if ".bin" in chosen.name else safetensors_entries
    entries = _sharded(chosen, reader) if chosen.suffix == ".json" else read_whole(reader, chosen)
    if not entries:
        raise ValueError(f"{chosen} holds no tensor. Download or copy it again.")
    if chosen.suffix == ".json":
        _check_formats(entries)
        return Stored(entries, also=(chosen,))
    index = [
        o for o in others if o.name == f"{chosen.name}.index.json" and _names_other_files(o, chosen.name)
    ]
    if index:
        warnings.warn(
            f"{folder} holds two sets of weights: {chosen.name} is read, as transformers does, and not {index[0].name} "
            "with its shards. Take away the set that is not meant.",
            UserWarning,
            stacklevel=4,
        )
    _check_formats(entries)
    return Stored(entries)


def sets_of_weights(folder: Path, stem: str = "model") -> list[Path]:
    """The files by which a folder's sets of weights begin, the one that transformers loads first."""
    names = [f"{stem}.safetensors", f"{stem}.safetensors.index.json"]
    if stem == "model":
        names += ["pytorch_model.bin", "pytorch_model.bin.index.json"]
    return [folder / name for name in names if (folder / name).is_file()]


def _checked(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A config whose keys that everybody asks for are of their kinds; ValueError naming the file and the key."""
    kinds = config.get("architectures")
    if kinds is not None and not (isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)):
        raise ValueError(
            f"{path}: architectures should be a list of names, got {kinds!r:.60}. Download it again."
        )
    for key, kind in (("model_type", str), ("text_config", dict)):
        if not isinstance(config.get(key), kind | None):
            raise ValueError(
                f"{path}: {key} should be a {kind.__name__}, got {config[key]!r:.60}. Download it again."
            )
    return config


def _check_formats(entries: dict[str, Entry]) -> None:
    """Refuse a lone tensor in the other of the two 16-bit formats, or one that its like in other layers is not in.

    The two have one size, so that a damaged header can exchange them; no model mixes them in this way.
    """
    if not all(entry.dtype in (*FLOATS, "bool") for entry in entries.values()):
        return  # packed or quantised, which has formats of its own and is refused by name
    kinds: dict[str, dict[str, list[str]]] = {}
    for name, entry in entries.items():
        if entry.dtype in ("float16", "bfloat16"):
            for group in ("", re.sub(r"\d+", "#", name)):
                kinds.setdefault(group, {}).setdefault(entry.dtype, []).append(name)
    for group, found in sorted(kinds.items(), key=lambda item: not item[0]):  # the whole model last
        few, many = sorted(found.values(), key=len) if len(found) == 2 else ([], [])
        if few and (group or len(few) == 1 < len(many) / 4):
            others = (
                f"those of the other layers, such as {many[0]!r},"
                if group
                else f"the other {len(many)} of 16 bits"
            )
            raise ValueError(
                f"{entries[few[0]].file}: {few[0]!r} is stored as {entries[few[0]].dtype}, but {others} as "
                f"{entries[many[0]].dtype}: a damaged header? Download it again, or save the model in one format."
            )


def read_whole(reader: Reader, path: Path) -> dict[str, Entry]:
    """The entries of one file; OSError when it changed while its header was being read."""
    check_is_no_pointer(path)
    state = state_of(path)
    entries = reader(path)
    if state_of(path) != state:
        raise OSError(changed(path))
    return entries


def _names_other_files(index: Path, file: str) -> bool:
    """Whether an index beside a single file stands for weights of its own."""
    shards = set(_weight_map(index).values()) - {file}
    return any((index.parent / shard).is_file() for shard in shards)


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{index} has no weight_map. Download it again.")
    for name, shard in found.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ValueError(
                f"{index} puts {name!r} into {shard!r}, which is no file beside it. Download it again."
            )
    return found


def _sharded(index: Path, reader: Reader) -> dict[str, Entry]:
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{index.parent} misses {len(missing)} of {len(shards)} shards that its index names: "
            f"{', '.join(missing[:5])}. Download them again."
        )
    entries: dict[str, Entry] = {}
    for shard in shards:
        found = read_whole(reader, index.parent / shard)
        twice = [name for name in found if name in entries]
        if twice:
            raise ValueError(
                f"{index.parent / shard} holds {twice[0]!r}, and so does {entries[twice[0]].file.name}: nothing tells which "
                "of the two is meant. If shards are of two downloads, get them again; else take the one away."
            )
        entries |= found
    absent = [
        f"{name} (in {shard})"
        for name, shard in weight_map.items()
        if name not in entries or entries[name].file.name != shard
    ]
    if absent:
        raise ValueError(
            f"{index} names {len(absent)} tensors that its shards do not hold: {', '.join(absent[:5])}. "
            "Index and shards are not of one download."
        )
    return entries


def _holds_no_model(folder: Path) -> str:
    found = sorted(path.name for path in folder.iterdir())[:8]
    hint = ""
    if any(name.startswith("vector") and name.endswith(".safetensors") for name in found):
        hint = " It holds a weight vector, not a model: open it with WeightVector.load."
    elif (folder / "adapter_config.json").is_file():
        hint = " It holds a PEFT adapter's settings without its weights (adapter_model.safetensors): download it again."
    return (
        f"{folder} holds no model: expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or "
        f"pytorch_model.bin.index.json, found {', '.join(found) or 'nothing'}.{hint}"
    )
