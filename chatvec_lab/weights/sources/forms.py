"""One model in the pieces in which another of its family is stored, element for element.

Experts lie stacked or one by one (where transformers' own conversions say that the stack is nothing else), queries, keys
and values, gates and ups fused or apart; InternLM2 and ChatGLM have names of their own beside those of the Llama or GLM
that they are. Nothing is computed: each tensor of the one is a sequence of spans of the other's.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from chatvec_lab.weights.layout import Layout
from chatvec_lab.weights.sources.files import Tensors, no_such

if TYPE_CHECKING:
    from chatvec_lab.weights.sources.source import Source

Span = tuple[str, int, int]  # a tensor, the first of its flat elements, and how many

# what a fused tensor holds; names end alike but for this piece
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),  # one below the other
    "gate_up_proj": ("gate_proj", "up_proj"),
    "wqkv": ("q_proj", "k_proj", "v_proj"),  # for each head of keys its queries, the key and the value
}
# which of them a model type has; of others the order is not known
FUSES = {"phi3": ("qkv_proj", "gate_up_proj"), "glm": ("gate_up_proj",), "chatglm": ("qkv_proj", "gate_up_proj"),
         "internlm2": ("wqkv",)}  # fmt: skip
# names of repositories with code of their own, and those of the same weights in transformers: a test for each row
NAMES = {
    "internlm2": (
        (r"model\.tok_embeddings\.", "model.embed_tokens."), (r"^output\.", "lm_head."),
        (r"\.attention_norm\.", ".input_layernorm."), (r"\.ffn_norm\.", ".post_attention_layernorm."),
        (r"\.attention\.wqkv\.", ".self_attn.wqkv."), (r"\.attention\.wo\.", ".self_attn.o_proj."),
        (r"\.feed_forward\.w1\.", ".mlp.gate_proj."), (r"\.feed_forward\.w3\.", ".mlp.up_proj."),
        (r"\.feed_forward\.w2\.", ".mlp.down_proj."),
    ),
    "chatglm": (
        (r"transformer\.embedding\.word_embeddings\.", "model.embed_tokens."),
        (r"transformer\.output_layer\.", "lm_head."),
        (r"transformer\.encoder\.final_layernorm\.", "model.norm."),
        (r"transformer\.encoder\.layers\.", "model.layers."),
        (r"\.self_attention\.dense\.", ".self_attn.o_proj."),
        (r"\.self_attention\.query_key_value\.", ".self_attn.qkv_proj."),
        (r"\.mlp\.dense_h_to_4h\.", ".mlp.gate_up_proj."), (r"\.mlp\.dense_4h_to_h\.", ".mlp.down_proj."),
    ),
}  # fmt: skip


class Formed:
    """A source in another's pieces. What the other does not have keeps its name, so that no tensor is lost silently."""

    def __init__(self, source: Source, pattern: Source):
        self.source, self.pattern = source, pattern

    def __reduce__(self):
        return Formed, (self.source, self.pattern)

    def __getattr__(self, name: str):  # config, tokenizer, label: all but the tensors are the source's own
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.source, name)

    @cached_property
    def tensors(self) -> Tensors:
        ours, theirs = Named(self.source), Named(self.pattern)
        made = pieces(ours, theirs)
        used = {name for spans in made.values() for name, _, _ in spans}
        shapes = {name: theirs.shape(name) for name in made}
        for name in ours.names:
            if name not in used:
                made[name], shapes[name] = [(name, 0, prod(ours.shape(name)))], ours.shape(name)
        called = {name: theirs.stored.get(name, name) for name in made}
        return Spliced(
            self.source.tensors,
            {called[name]: [(ours.stored[n], *rest) for n, *rest in spans] for name, spans in made.items()},
            {called[name]: shape for name, shape in shapes.items()},
        )

    @cached_property
    def config(self) -> dict[str, Any]:
        """This one's values under the other's keys: the names are those of the other's class."""
        own, theirs = dict(self.source.config), self.pattern.config
        own.setdefault("vocab_size", own.get("padded_vocab_size"))  # ChatGLM's word
        kept = {key: value for key, value in own.items() if key in theirs and value is not None}
        of_class = {key: theirs[key] for key in ("model_type", "architectures") if key in theirs}
        return {**theirs, **kept, **of_class}


def differ(ours: Source, theirs: Source) -> bool:
    """Whether any tensor of theirs is one of ours in other pieces or under another name of `NAMES`."""
    if set(ours.tensors.names) == set(theirs.tensors.names):
        return False
    here, there = Named(ours), Named(theirs)
    is_named = here.kind != there.kind and (here.kind in NAMES or there.kind in NAMES)
    return is_named or any(name not in here.stored for name in pieces(here, there))


class Named:
    """A source's tensors by one name for each, whoever stored them (`NAMES`); `stored` maps it to the file's."""

    def __init__(self, source: Source):
        self.tensors, self.config = source.tensors, source.config
        self.kind = self.config.get("model_type")
        names = self.tensors.names
        self.layout = Layout.of(self.config, names, {name: self.tensors.shape(name) for name in names})
        rows = NAMES.get(self.kind, ())
        self.stored = {_renamed(self.layout.published(name), rows): name for name in names}
        self.names = list(self.stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors.shape(self.stored[name])

    def whole(self, name: str) -> Span:
        return name, 0, prod(self.shape(name))


def _renamed(name: str, rows: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in rows:
        name = re.sub(pattern, new, name)
    return name


@dataclass(frozen=True)
class Whole:
    """A tensor that others make up: their spans in its order, and its shape."""

    spans: list[Span]
    shape: tuple[int, ...]


def pieces(ours: Named, theirs: Named) -> dict[str, list[Span]]:
    """How each tensor of theirs is made of ours; those that are not, or not of this shape, are left out."""
    fused, split = wholes(ours, theirs.kind), wholes(theirs, ours.kind)
    inside = {}  # of each piece of theirs: where it lies in a tensor of ours
    for name, whole in split.items():
        if name in ours.stored and ours.shape(name) == whole.shape:
            at = 0
            for piece, start, count in whole.spans:
                inside.setdefault(piece, []).append((start, (name, at, count)))
                at += count
    found = {}
    for name in theirs.names:
        if name in ours.stored:
            if ours.shape(name) == theirs.shape(name):
                found[name] = [ours.whole(name)]
        elif name in fused and fused[name].shape == theirs.shape(name):
            found[name] = fused[name].spans
        elif name in inside:
            found[name] = [span for _, span in sorted(inside[name])]
    return found


def wholes(split: Named, kind: str | None) -> dict[str, Whole]:
    """What a model of this type would have as one tensor, and this one has, or would have, in pieces."""
    return _stacks(split) | {
        name.replace(f".{FUSED[fused][0]}.", f".{fused}."): _fused(split, name, fused)
        for fused in FUSES.get(kind, ())
        for name in split.names
        if all(other in split.stored for other in _siblings(name, fused))
    }


def _siblings(name: str, fused: str) -> list[str]:
    """The names of the pieces, of which this is the first; a name that nothing has for any other."""
    first = FUSED[fused][0]
    return (
        [name.replace(f".{first}.", f".{part}.") for part in FUSED[fused]] if f".{first}." in name else [""]
    )


def _fused(split: Named, name: str, fused: str) -> Whole:
    names = _siblings(name, fused)
    shape = (sum(split.shape(n)[0] for n in names), *split.shape(name)[1:])
    if fused != "wqkv":
        return Whole([split.whole(n) for n in names], shape)
    heads = split.config["num_attention_heads"]
    groups = split.config.get("num_key_value_heads") or heads
    size = split.shape(name)[0] // heads * prod(shape[1:])  # elements of a head
    counts = [heads // groups * size, size, size]
    return Whole(
        [(n, g * count, count) for g in range(groups) for n, count in zip(names, counts, strict=True)], shape
    )


def _stacks(split: Named) -> dict[str, Whole]:
    found: dict[str, dict[tuple[int, int], str]] = {}
    for name in split.names:
        stack = split.layout.stacks.get(split.stored[name])
        if stack is not None:
            place, expert, order = stack
            found.setdefault(place, {})[expert, order] = name
    result = {}
    for place, names in found.items():
        experts, parts = (max(key[i] for key in names) + 1 for i in (0, 1))
        shapes = {split.shape(name) for name in names.values()}
        if len(names) == experts * parts and len(shapes) == 1:  # none is lacking, all are alike
            rows, *width = shapes.pop()
            spans = [split.whole(names[key]) for key in sorted(names)]
            result[place] = Whole(spans, (experts, parts * rows, *width))
    return result


class Spliced:
    """Tensors that are sequences of spans of another source's (see `Tensors`)."""

    def __init__(self, tensors: Tensors, table: Mapping[str, list[Span]], shapes: Mapping[str, tuple]):
        self._tensors, self._table, self._shapes = tensors, dict(table), dict(shapes)

    def __reduce__(self):
        return Spliced, (self._tensors, self._table, self._shapes)

    @property
    def note(self) -> str:
        return self._tensors.note

    @property
    def names(self) -> list[str]:
        return list(self._table)

    def _spans(self, name: str) -> list[Span]:
        if name not in self._table:
            raise KeyError(no_such(name, self._table))
        return self._table[name]

    def _first(self, name: str) -> str:
        return self._spans(name)[0][0]

    def shape(self, name: str) -> tuple[int, ...]:
        self._spans(name)
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        kinds = {self._tensors.dtype(stored) for stored, *_ in self._spans(name)}
        if len(kinds) > 1:
            raise ValueError(f"{name} is stored in pieces of {', '.join(sorted(kinds))}, expected one dtype.")
        return kinds.pop()

    def file(self, name: str) -> str:
        return self._tensors.file(self._first(name))

    def place(self, name: str) -> Hashable:
        spans = self._spans(name)
        return tuple((self._tensors.place(stored), start, count) for stored, start, count in spans)

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        view = out[: stop - start]
        for stored, first, at, count in self._between(name, start, stop):
            self._tensors.fill(stored, first, first + count, view[at : at + count])
        return view

    def _between(self, name: str, start: int, stop: int) -> Iterator[tuple[str, int, int, int]]:
        """(stored, first element, place in what is asked for, number of elements) of the spans in [start, stop)."""
        at = 0
        for stored, first, count in self._spans(name):
            low, high = max(start, at), min(stop, at + count)
            if low < high:
                yield stored, first + low - at, low - start, high - low
            at += count

    def quantised(self, name: str) -> str:
        return ", ".join(
            dict.fromkeys(filter(None, (self._tensors.quantised(n) for n, *_ in self._spans(name))))
        )

    def stored_dtype(self, name: str) -> str:
        return self._tensors.stored_dtype(self._first(name))

    def noise(self, name: str, start: int, stop: int) -> float:
        return sum(
            self._tensors.noise(n, first, first + count)
            for n, first, _, count in self._between(name, start, stop)
        )

    def fingerprint(self) -> str:
        return f"{self._tensors.fingerprint()} {sorted(self._table.items())}"

    def check(self) -> None:
        self._tensors.check()
