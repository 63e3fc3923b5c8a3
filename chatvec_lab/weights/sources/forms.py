"""One model in the pieces in which another of its family is stored, element for element.

Experts lie stacked or one by one (where transformers' own conversions say that the stack is nothing else), queries, keys
and values, gates and ups fused or apart; InternLM2 and ChatGLM have names of their own beside those of the Llama or GLM
that they are. Nothing is computed: each tensor of the one is a sequence of spans of the other's.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from chatvec_lab.weights.layout import Layout
from chatvec_lab.weights.sources.files import Tensors, no_such

if TYPE_CHECKING:
    from chatvec_lab.weights.sources.source import Source

Span = tuple[str, int, int]  # a tensor, the first of its flat elements, and how many

# what a fused tensor holds, one below the other; names end alike but for this piece
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
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
        made = {name: spans for name in theirs.names if (spans := _spans(name, ours, theirs))}
        shapes = {name: theirs.shape(name) for name in made}
        used = {name for spans in made.values() for name, _, _ in spans}
        for name in ours.names:
            if name not in used:
                made[name], shapes[name] = [(name, 0, prod(ours.shape(name)))], ours.shape(name)
        table = {
            theirs.stored.get(name, name): [(ours.stored[n], *rest) for n, *rest in spans]
            for name, spans in made.items()
        }
        return Spliced(
            self.source.tensors, table, {theirs.stored.get(n, n): shape for n, shape in shapes.items()}
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
    ours, theirs = Named(ours), Named(theirs)
    other = [name for name in theirs.names if name not in ours.stored]
    kinds = [source.config.get("model_type") for source in (ours, theirs)]
    is_named = kinds[0] != kinds[1] and any(kind in NAMES for kind in kinds)
    return is_named or any(_spans(name, ours, theirs) for name in other)


class Named:
    """A source's tensors by one name for each, whoever stored them (`NAMES`); `stored` maps it to the file's."""

    def __init__(self, source: Source):
        self.tensors, self.config = source.tensors, source.config
        names = self.tensors.names
        self.layout = Layout.of(self.config, names, {name: self.tensors.shape(name) for name in names})
        rows = NAMES.get(self.config.get("model_type"), ())
        self.stored = {_renamed(self.layout.published(name), rows): name for name in names}
        self.names = list(self.stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors.shape(self.stored[name])

    @cached_property
    def fused(self) -> dict[str, list[Span]]:
        """Of each tensor that this source has in pieces, or could have: the fused name, and its pieces in their order."""
        found: dict[str, list[tuple[tuple, Span]]] = {}
        for name in self.names:
            stack = self.layout.stacks.get(self.stored[name])
            if stack is not None:
                place, expert, order = stack
                found.setdefault(place, []).append(((expert, order), (name, 0, prod(self.shape(name)))))
        result = {place: [span for _, span in sorted(spans)] for place, spans in found.items()}
        for name in self.names:
            for whole, parts in FUSED.items():
                first, *others = (name.replace(f".{parts[0]}.", f".{part}.") for part in parts)
                if f".{parts[0]}." in name and all(other in self.stored for other in others):
                    held = [(n, 0, prod(self.shape(n))) for n in (first, *others)]
                    result[name.replace(f".{parts[0]}.", f".{whole}.")] = held
                    if whole == "qkv_proj":
                        grouped = list(self._grouped((first, *others)))
                        result[name.replace(f".{parts[0]}.", ".wqkv.")] = grouped
        return result

    @cached_property
    def wholes(self) -> dict[str, list[tuple[str, list[tuple[int, int]], int]]]:
        """Of each piece the wholes that it may be in: the name, where in it the piece lies, and how large it is."""
        found: dict[str, list[tuple[str, list[tuple[int, int]], int]]] = {}
        for whole, pieces in self.fused.items():
            places: dict[str, list[tuple[int, int, int]]] = {}
            at = 0
            for piece, start, count in pieces:
                places.setdefault(piece, []).append((start, at, count))
                at += count
            for piece, spans in places.items():
                inside = [(place, count) for _, place, count in sorted(spans)]
                found.setdefault(piece, []).append((whole, inside, at))
        return found

    def _grouped(self, names: tuple[str, ...]) -> Iterator[Span]:
        """InternLM2's order: for each head of keys its queries, the key and the value."""
        heads, groups = self.config.get("num_attention_heads"), self.config.get("num_key_value_heads")
        width = prod(self.shape(names[0])[1:])
        size = self.shape(names[0])[0] // (heads or 1)
        for group in range(groups or heads or 0):
            for name, count in zip(names, ((heads or 1) // (groups or heads), 1, 1), strict=True):
                yield name, group * count * size * width, count * size * width


def _renamed(name: str, rows: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in rows:
        name = re.sub(pattern, new, name)
    return name


def _spans(name: str, ours: Named, theirs: Named) -> list[Span] | None:
    """How a tensor of the other source is made of ours; None where it is not, or not of as many elements."""
    if name in ours.stored:
        return [(name, 0, prod(ours.shape(name)))] if ours.shape(name) == theirs.shape(name) else None
    spans = ours.fused.get(name)  # ours are the pieces
    if spans is not None:
        return spans if sum(count for *_, count in spans) == prod(theirs.shape(name)) else None
    for whole, places, total in theirs.wholes.get(name, ()):  # ours is the whole
        if whole in ours.stored and total == prod(ours.shape(whole)):
            return [(whole, at, count) for at, count in places]
    return None


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
