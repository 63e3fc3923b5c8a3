"""The tensors of a LoRA or DoRA on its base: which of the base's it changes or replaces, and how each is read."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from chatvec_lab.weights.layout import Layout
from chatvec_lab.weights.sources.bin import bin_entries
from chatvec_lab.weights.sources.files import FLOATS, NUMPY_DTYPES, Stored, Tensors
from chatvec_lab.weights.sources.folder import read_whole
from chatvec_lab.weights.sources.safetensors import safetensors_entries

_PREFIX = "base_model.model."
# settings that say nothing of what the weights are, whatever their value
_NEUTRAL = frozenset((
    "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_bias", "lora_dropout",
    "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "alpha_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_dora", "use_rslora",
))  # fmt: skip
# ways to begin that change the base's own weights, which an adapter's folder does not hold
_CHANGES_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga", re.I)
# model types of transformers whose matrices lie turned (Conv1D), and these: PEFT turns them whatever fan_in_fan_out says
_CONV1D = ("gpt2", "openai-gpt", "imagegpt")
_TURNED = re.compile(r"\.(?:c_attn|q_attn|c_proj|c_fc)$")
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector(?:\.weight)?"
    r"|lora_embedding_A|lora_embedding_B)$"
)


@dataclass(frozen=True)
class Pair:
    """A and B of one matrix, as they are read: `down` (r, columns) and `up` (rows, r), float64, with their scale."""

    a: str
    b: str
    scale: float
    kind: str  # "linear", "transposed" (Conv1D) or "embedding"
    magnitude: str | None


class LoRA:
    """The base's tensors with an adapter's changes (see `Tensors`). A changed tensor reads as float64."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], base: Tensors, config: Mapping[str, Any]):
        self.folder, self.base, self.note = folder, base, base.note
        self._own = _stored(folder)
        _check_settings(folder, settings)
        shapes = {name: base.shape(name) for name in base.names}
        self._layout = Layout.of(config, base.names, shapes)
        self._has_conv1d = config.get("model_type") in _CONV1D
        self._pairs: dict[str, Pair] = {}
        self._added: dict[str, tuple[str, float]] = {}  # bias to what is added to it, and the scale
        self._whole: dict[str, str] = {}
        self._sort(settings)
        self._check_tables()
        self._names = list(base.names)

    @property
    def grown(self) -> dict[int, int]:
        """Rows of the tables before and after the adapter has added some."""
        return {self.base.shape(name)[0]: self.shape(name)[0] for name in self._layout.tables}

    @property
    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._own.shape(self._whole[name]) if name in self._whole else self.base.shape(name)

    def dtype(self, name: str) -> str:
        if name in self._pairs or name in self._added:
            return "float64"
        return self._own.dtype(self._whole[name]) if name in self._whole else self.base.dtype(name)

    def stored_dtype(self, name: str) -> str:
        """The dtype in which a merge stores a tensor: that of the base, also where the adapter has a wider one."""
        return self.base.stored_dtype(name)

    def file(self, name: str) -> str:
        return self.base.file(name)

    def place(self, name: str) -> Hashable:
        changed = name in self._pairs or name in self._added
        return (str(self.folder), name) if changed else self._place(name)

    def _place(self, name: str) -> Hashable:
        tensors, stored = self._before(name)
        return tensors.place(stored)

    def quantised(self, name: str) -> str:
        return "" if name in self._whole else self.base.quantised(name)

    def noise(self, name: str, start: int, stop: int) -> float:
        return 0.0 if name in self._whole else self.base.noise(name, start, stop)

    def fingerprint(self) -> str:
        return f"{self.base.fingerprint()} {self._own.fingerprint()}"

    def check(self) -> None:
        self.base.check()
        self._own.check()

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        if name not in self._pairs and name not in self._added:
            tensors, stored = self._before(name)
            return tensors.fill(stored, start, stop, out)
        view = out[: stop - start]
        if name in self._added:
            added, scale = self._added[name]
            plain = self._floats(*self._before(name), start, stop)
            view[:] = plain + scale * self._floats(self._own, added, start, stop)
        elif stop > start:
            width = self.base.shape(name)[1]
            first, last = start // width, -(-stop // width)
            view[:] = self._matrix(name, first, last).reshape(-1)[
                start - first * width : stop - first * width
            ]
        return view

    def _before(self, name: str) -> tuple[Tensors, str]:
        """Where a tensor lies before anything is added to it: in the adapter where it was stored whole."""
        return (self._own, self._whole[name]) if name in self._whole else (self.base, name)

    def _matrix(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows [first, last) of a changed matrix, (rows, columns) float64."""
        pair, width = self._pairs[name], self.base.shape(name)[1]
        rows = self._floats(*self._before(name), first * width, last * width).reshape(-1, width)
        a, b = (self._whole_matrix(part) for part in (pair.a, pair.b))
        if pair.kind == "linear":  # delta = B @ A
            up, down = b[first:last], a
        else:  # delta = (B @ A).T
            up, down = np.ascontiguousarray(a.T[first:last]), np.ascontiguousarray(b.T)
        _add_product(rows, np.ascontiguousarray(up), np.ascontiguousarray(down), pair.scale)
        if pair.magnitude is not None:
            size = np.sqrt((rows * rows).sum(axis=1))
            rows *= (self._floats(self._own, pair.magnitude, first, last) / size)[:, None]
        return rows

    def _whole_matrix(self, name: str) -> np.ndarray:
        shape = self._own.shape(name)
        return self._floats(self._own, name, 0, prod(shape)).reshape(shape)

    @staticmethod
    def _floats(tensors: Tensors, name: str, start: int, stop: int) -> np.ndarray:
        dtype = tensors.dtype(name)
        raw = tensors.fill(name, start, stop, np.empty(stop - start, NUMPY_DTYPES[dtype]))
        if dtype == "bfloat16":
            return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        return raw.astype(np.float64)

    # what the adapter's file holds

    def _sort(self, settings: Mapping[str, Any]) -> None:
        """Each stored tensor to its place; one ValueError that lists what has none."""
        found: dict[str, dict[str, str]] = {}
        lines = []
        for name in self._own.names:
            if ".original_module." in name:  # the base's own, kept beside what was trained whole
                continue
            if self._own.dtype(name) not in FLOATS:
                raise ValueError(
                    f"{self.folder}: {name} is stored as {self._own.dtype(name)}, expected a float dtype."
                )
            inner = name.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
            match = _PART.fullmatch(inner)
            if match:
                found.setdefault(match["module"], {})[match["part"].removesuffix(".weight")] = name
            elif re.search(r"\.(?:lora|token_adapter|trainable_tokens)", inner):
                lines.append(f"{name}   is of a kind that is not known")
            elif (target := self._target(inner)) is None:
                lines.append(f"{name}   {self._no_place(inner)}")
            else:
                self._whole[target] = name
        for module, parts in found.items():
            lines += self._pair(module, parts, settings)
        lines += [
            f"{self._whole[n]}   has the shape {self.shape(n)}, in the base {self.base.shape(n)}"
            for n in self._whole
            if self.shape(n)[1:] != self.base.shape(n)[1:]
            or (self.shape(n) != self.base.shape(n) and not self._layout.is_table(n))
        ]
        if lines:
            shown = "\n  ".join(lines[:20]) + (f"\n  … {len(lines) - 20} more" if len(lines) > 20 else "")
            raise ValueError(
                f"{self.folder}: {len(lines)} parts of the adapter do not fit its base:\n  {shown}\n"
                "Is base_model_name_or_path of adapter_config.json the model that it was trained on?"
            )

    def _target(self, inner: str) -> str | None:
        """The base's tensor of this name, by whichever name the base stores it."""
        if inner in self._layout:
            return self._layout.stored(self._layout.published(inner))
        published = {self._layout.published(name): name for name in self.base.names}
        return published.get(inner)

    def _no_place(self, inner: str, otherwise: str = "has no place in the base") -> str:
        """Why a tensor of this name has none."""
        if self._layout.is_tied and inner.startswith("lm_head."):
            return "is the head's, which the base ties to its embedding: with a head of its own it is another model"
        return otherwise

    def _pair(self, module: str, parts: Mapping[str, str], settings: Mapping[str, Any]) -> list[str]:
        """Note the changes of one module; lines about what does not fit."""
        is_embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        keys = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A", "lora_B")
        target = self._target(f"{module}.weight")
        if not set(keys) <= set(parts):
            return [f"{module}   has {', '.join(parts)}, expected {' and '.join(keys)}"]
        if target is None:
            told = "is no module of the base (its tensors may be fused or split there)"
            return [f"{module}   {self._no_place(f'{module}.weight', told)}"]
        a, b = (parts[key] for key in keys)
        if len(self._own.shape(a)) != 2 or len(self._own.shape(b)) != 2:
            return [f"{module}   has A of the shape {self._own.shape(a)}, of which only matrices are read"]
        (rank, columns), (rows, other), shape = self._own.shape(a), self._own.shape(b), self.shape(target)
        is_turned = _TURNED.search(module) if self._has_conv1d else settings.get("fan_in_fan_out")
        kind = "embedding" if is_embedding else "transposed" if is_turned else "linear"
        wanted = (rows, columns) if kind == "linear" else (columns, rows)
        if rank != other or tuple(shape) != wanted:
            return [
                f"{module}   A {self._own.shape(a)} and B {self._own.shape(b)} do not make the base's {shape}"
            ]
        if rank != _setting(settings, "rank_pattern", "r", module):
            return [
                f"{module}   has the rank {rank}, in adapter_config.json {_setting(settings, 'rank_pattern', 'r', module)}"
            ]
        alpha = _setting(settings, "alpha_pattern", "lora_alpha", module)
        scale = alpha / (sqrt(rank) if settings.get("use_rslora") else rank)
        magnitude = parts.get("lora_magnitude_vector")
        if bool(settings.get("use_dora")) != (magnitude is not None):
            return [f"{module}   use_dora is {settings.get('use_dora')!r}, and it has {', '.join(parts)}"]
        if magnitude and kind != "linear":
            return [
                f"{module}   is DoRA on {'an embedding' if is_embedding else 'a turned matrix (Conv1D)'}, which is not read"
            ]
        if magnitude and prod(self._own.shape(magnitude)) != shape[0]:
            return [f"{module}   has {self._own.shape(magnitude)} magnitudes for {shape[0]} rows"]
        self._pairs[target] = Pair(a, b, scale, kind, magnitude)
        if "lora_B.bias" in parts:
            bias = self._target(f"{module}.bias")
            if bias is None:
                return [f"{module}   adds a bias (lora_bias) where the base has none"]
            self._added[bias] = parts["lora_B.bias"], scale
        return []

    def _check_tables(self) -> None:
        """Refuse tables of different heights, and a head of its own where the base has none."""
        head, embedding = self._layout.head, self._layout.embedding
        if embedding in self._pairs and self._layout.is_tied and head is None:
            return  # a tied head is the embedding, changed with it
        heights = {n: self.shape(n)[0] for n in (embedding, head) if n}
        before = {n: self.base.shape(n)[0] for n in heights}
        if len(set(heights.values())) > 1 and len(set(before.values())) == 1:
            raise ValueError(f"{self.folder}: the adapter has added rows to one table alone: {heights}.")


def _stored(folder: Path) -> Stored:
    safe, old = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    if safe.is_file():
        return Stored(read_whole(safetensors_entries, safe), also=(folder / "adapter_config.json",))
    if old.is_file():
        return Stored(read_whole(bin_entries, old), also=(folder / "adapter_config.json",))
    raise FileNotFoundError(
        f"{folder} holds an adapter_config.json but no adapter_model.safetensors. Download it again."
    )


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """ValueError for another kind of adapter, and for a setting that changes what its numbers mean."""
    where, kind = folder / "adapter_config.json", settings.get("peft_type")
    if kind != "LORA":
        raise ValueError(
            f"{where}: an adapter of the type {kind!r}; LoRA and DoRA (peft_type LORA) are read. Merge it into its base "
            "with PEFT (merge_and_unload), and save that."
        )
    begun = settings.get("init_lora_weights")
    if isinstance(begun, str) and _CHANGES_BASE.search(begun):
        raise ValueError(
            f"{where}: init_lora_weights {begun!r} changes the base's own weights before the training, and the adapter "
            "is one to the changed ones. Merge it with PEFT, or convert it (path_initial_model_for_weight_conversion)."
        )
    known = _NEUTRAL | {"init_lora_weights"}
    odd = sorted(
        key for key, value in settings.items() if key not in known and value not in (None, False, {}, [], "")
    )
    if odd:
        raise ValueError(
            f"{where}: {', '.join(f'{key}={settings[key]!r:.40}' for key in odd)} is not known here, and may change what "
            "the adapter's numbers mean. Merge it into its base with PEFT (merge_and_unload), and save that."
        )
    for key in ("r", "lora_alpha"):
        if (
            not isinstance(settings.get(key), int | float)
            or isinstance(settings[key], bool)
            or settings[key] <= 0
        ):
            raise ValueError(f"{where}: {key} is {settings.get(key)!r}, expected a positive number.")


def _setting(settings: Mapping[str, Any], pattern: str, plain: str, module: str) -> Any:
    """A setting of one module: that of the first pattern which its name ends with, else the one of all."""
    for key, value in (settings.get(pattern) or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return settings[plain]


@njit(nogil=True, cache=True, error_model="numpy")
def _add_product(rows, up, down, scale):
    """rows += scale * (up @ down), in one order of additions whatever the block or the machine."""
    total = np.empty(rows.shape[1])
    for i in range(rows.shape[0]):
        total[:] = 0.0
        for k in range(up.shape[1]):
            factor = up[i, k]
            for j in range(total.size):
                total[j] += factor * down[k, j]
        for j in range(total.size):
            rows[i, j] += scale * total[j]
