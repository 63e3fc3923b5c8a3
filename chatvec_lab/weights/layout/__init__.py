"""What each stored tensor of a checkpoint is, and the one name that it has whoever saved it.

The families that we know by heart (`familiar`) are told without torch; for others transformers builds the model's own
class without weights (`structure`); where it does not know the model, names and shapes tell (`naming`), and what they
cannot tell stands in `Layout.unknown`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from chatvec_lab.weights.layout import familiar, naming
from chatvec_lab.weights.layout.familiar import Findings
from chatvec_lab.weights.layout.naming import COMPONENTS, KINDS, Part

__all__ = ["COMPONENTS", "KINDS", "Layout", "Part"]


class Layout:
    """What each stored tensor of a checkpoint is, and the one name that it has whoever saved it.

    Made by `Layout.of`. `layout[name]` takes a stored or a published name and gives a `Part`. `source` says who
    told: "by heart", a class of transformers, or "names"; `note` says why it was only the names.
    """

    def __init__(self, found: Findings):
        self.parts = found.parts
        self.source, self.note = found.source, found.note
        self._found = found
        self._published = found.published
        self._stored = {canonical: name for name, canonical in found.published.items()}
        self._holders: dict[str, str | None] = {}

    @staticmethod
    def of(config: Mapping[str, Any], names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """The layout of tensors with these names and shapes, in a model with this config.json."""
        names = list(names)
        found = familiar.findings(config, names)
        if found is None:
            from chatvec_lab.weights.layout import structure

            try:
                found = structure.structure_of(config).findings(names)
                if names and len(found.ignored) > len(names) / 2:
                    raise structure.Unknown(f"{found.source} has few of the stored names")
            except structure.Unknown as error:
                found = _from_names(config, names, shapes, str(error))
        return Layout(found)

    def __getitem__(self, name: str) -> Part:
        """What a tensor is; one that is not stored but tied to another (a head to its embedding) has that one's rows."""
        stored = self.stored(name) or self.holder(name)
        if stored is None:
            raise KeyError(f"no tensor {name!r} in this layout")
        part = self.parts[stored]
        is_tied_head = self.published(name) == self._found.head and stored != self.stored(name)
        return replace(part, module="head") if is_tied_head else part

    def __contains__(self, name: str) -> bool:
        return name in self.parts or name in self._stored

    def published(self, name: str) -> str:
        """The one name of a stored tensor, whoever saved it (of a published name: itself)."""
        return self._published.get(name, name)

    def stored(self, published: str) -> str | None:
        """The stored tensor with this published name, or None."""
        name = self._stored.get(published, published)
        return name if name in self.parts else None

    def holder(self, published: str) -> str | None:
        """The stored tensor that plays this part: itself, or for one that is not stored what it is tied to, or None.

        >>> layout = Layout.of({"model_type": "gpt2"}, ["wte.weight"], {"wte.weight": (9, 4)})
        >>> layout.published("wte.weight"), layout.holder("lm_head.weight")
        ('transformer.wte.weight', 'wte.weight')
        """
        if published not in self._holders:  # asked anew for every block of a tensor
            canonical = self.published(published)
            source = self.tied.get(canonical, canonical)
            group = [canonical, source, *(t for t, s in self.tied.items() if s == source)]
            self._holders[published] = next((n for n in map(self.stored, group) if n is not None), None)
        return self._holders[published]

    def lands(self, name: str) -> str:
        """The tensor of the model that a stored one ends in: another where transformers fuses or splits it.

        A fused stack of experts and experts stored one by one land in the same tensor under different published names.
        """
        return self._found.lands.get(name, self.published(name))

    @property
    def stacks(self) -> dict[str, tuple[str, int, int]]:
        """Stored tensors that a plain stack is made of: its published name, which expert, which of the expert's in it."""
        return self._found.stacks

    @property
    def turned(self) -> frozenset[str]:
        """Stored tensors that the class does more to than rename and stack them: it turns or cuts them when it loads them."""
        return frozenset(self._found.lands) - frozenset(self._found.stacks)

    def is_table(self, name: str) -> bool:
        """True when the tensor has one row a token: input and output embedding, and other tables indexed by token."""
        return name in self and self[name].axis == "vocabulary"

    @cached_property
    def tables(self) -> list[str]:
        """Stored names of the tensors with one row a token, in file order."""
        return [name for name, part in self.parts.items() if part.axis == "vocabulary"]

    @cached_property
    def embedding(self) -> str | None:
        """Stored name of the text's input embedding."""
        if self._found.embedding is not None:
            return self.holder(self._found.embedding)
        return next((n for n in self.tables if self.parts[n].module == "embedding"), None)

    @cached_property
    def head(self) -> str | None:
        """Stored name of the text's own head (its weight); None where it is not stored, tied or lacking."""
        if self._found.head is not None:
            return self.stored(self._found.head)
        heads = (n for n in self.tables if self.parts[n].module == "head" and n.endswith("weight"))
        return next(heads, None)

    @cached_property
    def lacks_head(self) -> str | None:
        """Published name of a head that the model needs, and that is neither stored nor tied to what is stored."""
        head = self._found.head
        return head if head is not None and self.holder(head) is None else None

    @property
    def lacks(self) -> list[str]:
        """Published names of what the model needs and the files lack, its head first."""
        return [name for name in (self.lacks_head, *self._found.lacking) if name is not None]

    @cached_property
    def wrapper(self) -> str:
        """What stands before every name that no class knows, where training wraps models so ("_orig_mod."); or ""."""
        if self.source != "names" or not self.parts:
            return ""
        first = naming.wrapper(next(iter(self.parts)))
        return first if all(naming.wrapper(name) == first for name in self.parts) else ""

    @property
    def is_part(self) -> bool:
        """True for tensors that are no whole model and do not pretend to be one: a shard, some layers."""
        return self.embedding is None and self.head is None and len(self.lacks) != 1

    @property
    def tied(self) -> dict[str, str]:
        """Published names of tensors that the class shares with another, and that other."""
        return self._found.tied

    @property
    def is_tied(self) -> bool:
        """True when the model's class, by its config, shares its head with its embedding."""
        return self._found.head in self.tied if self._found.head is not None else bool(self.tied)

    @property
    def ignored(self) -> dict[str, str]:
        """Stored tensors that transformers leaves out when it loads the model, and why."""
        return self._found.ignored

    @cached_property
    def unknown(self) -> dict[str, str]:
        """Stored tensors of which something that matters is not known, and what."""
        found = {}
        for name, part in self.parts.items():
            if part.axis == "candidate":
                found[name] = (
                    "has as many rows as the vocabulary, and nothing says whether they are its tokens"
                )
            elif part.module == "other" and self.source == "names":
                found[name] = "is of no kind of module that its name tells"
        return found


def _may_be_a_table(name: str, part: Part) -> bool:
    """Whether nothing in the name speaks against a row a token: no layer's matrix, no norm, no positions."""
    is_open = part.layer is None and part.module in ("embedding", "head", "other")
    return is_open and not re.search(r"pos|wpe|type", name)


def _from_names(
    config: Mapping[str, Any], names: list[str], shapes: Mapping[str, tuple], why: str
) -> Findings:
    """What names and shapes tell of a model that transformers does not know."""
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    depth = next(
        (c[k] for c in (text, config) for k in ("num_hidden_layers", "n_layer") if isinstance(c.get(k), int)),
        None,
    )
    parts = naming.parts_of(names, depth=depth)
    inside = lambda n: parts[n].component in ("text", "encoder", "draft", "other") and "qformer" not in n  # noqa: E731
    tables = [n for n in names if naming.is_table(n) and inside(n)]
    rows = {shapes[n][0] for n in tables if shapes.get(n)} | {
        text.get("vocab_size"),
        config.get("vocab_size"),
    }
    for name, part in parts.items():
        if part.module == "buffer":
            continue
        if name in tables:
            parts[name] = replace(part, axis="vocabulary")
        elif inside(name) and shapes.get(name) and shapes[name][0] in rows and _may_be_a_table(name, part):
            parts[name] = replace(part, axis="candidate")
    embedding = next((n for n in tables if parts[n].module == "embedding"), None)
    heads = [
        n for n in tables if parts[n].module == "head" and n.endswith("weight") and parts[n].layer is None
    ]
    tie = text.get("tie_word_embeddings", config.get("tie_word_embeddings", not heads))
    tied, head = {}, heads[0] if heads else None
    if tie and embedding:
        head = head or "lm_head.weight"
        tied = {head: embedding}
    elif head is None and "ForCausalLM" in str(config.get("architectures")) and embedding:
        head = "lm_head.weight"
    ignored = {n: r for n in names if (r := familiar.left_out(n)) and parts[n].module != "buffer"}
    return Findings(
        parts,
        {n: n for n in names},
        "names",
        ignored=ignored,
        tied=tied,
        embedding=embedding,
        head=head,
        note=why,
    )
