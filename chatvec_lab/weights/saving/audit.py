"""Is a saved model what the formula says? Asked in rational numbers, with nothing of the code that wrote it.

Files are opened by the libraries safetensors and torch, rows are paired by reading tokenizer.json here, and sums are
fractions. What a tensor is (its name, its kind, whether its rows are tokens) is taken from `layout`. A tensor that
this cannot vouch for has a reason instead of checked elements, and is never counted as right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from math import isfinite, prod
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.saving.provenance import weights_digest

if TYPE_CHECKING:
    import torch
    from pandas import DataFrame

LEAST = 16  # elements looked at in every tensor, however small its share


def facts(checkpoints: Mapping[str, Checkpoint]) -> DataFrame:
    """One row a checkpoint: parameters, tensors, dtype, megabytes, tokens, has_template and the weights' digest.

    Reads every weight once, for the digest; it is the one that manifests record.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "model": name,
            "parameters": sum(prod(c.shape(t)) for t in c.names),
            "tensors": len(c.names),
            "dtype": ", ".join(sorted({c.dtype_name(t) for t in c.names})),
            "megabytes": sum(c.nbytes(t) for t in c.names) / 1e6,
            "tokens": len(c.vocabulary.tokens) if c.vocabulary else 0,
            "has_template": c.chat_template is not None,
            "digest": weights_digest(c),
        }
        for name, c in checkpoints.items()
    )


def audit(
    saved: Checkpoint,
    cp: Checkpoint,
    chat: Checkpoint,
    base: Checkpoint,
    scale: float,
    *,
    elements: int = 20_000,
    seed: int = 0,
) -> DataFrame:
    """Whether `saved` holds cp + scale * (chat - base), rounded once to nearest, ties to even; a row a tensor.

    Looks at about `elements` random elements in all, 16 or more of each tensor, in exact rational arithmetic, and
    compares each with its two neighbours in its own format. Rows of embedding and head are paired by token; where
    chat or base lacks the token, the CP's own element is the right one. Columns: tensor, layer, module, parameters,
    checked, moved (of those checked, other than the CP's element), wrong, reason (why nothing was checked; else
    empty). One tensor at a time is in memory.

    Raises ValueError listing the tensors that only one of `saved` and `cp` has, or whose shapes differ, and for
    members whose files it cannot open by itself.
    """
    import pandas as pd

    opened = {id(member): _Opened(member) for member in (saved, cp, chat, base)}
    result, own, plus, minus = (opened[id(member)] for member in (saved, cp, chat, base))
    unlike = sorted(set(result.names) ^ set(own.names))
    unlike += [n for n in own.names if n not in unlike and saved.shape(n) != cp.shape(n)]
    if unlike:
        raise ValueError(
            f"{saved.label} and {cp.label} differ in {len(unlike)} tensors: {', '.join(unlike)}."
        )
    rng = np.random.default_rng(seed)
    total = sum(prod(cp.shape(name)) for name in cp.names)
    rows = []
    for name in cp.names:
        part, size = cp.layout[name], prod(cp.shape(name))
        picked = rng.integers(size, size=min(size, max(LEAST, round(elements * size / total))))
        found, here = (side.read(name).reshape(-1)[picked] for side in (result, own))
        row = {"tensor": name, "layer": part.layer, "module": part.module, "parameters": size}
        try:
            wanted = _formula(here, name, picked, own, plus, minus, scale)
            checks = list(_nearest(found, wanted))
            row |= {"checked": len(picked), "moved": int((found != here).sum())}
            row |= {"wrong": checks.count(False), "reason": ""}
        except _Unknown as error:
            row |= {"checked": 0, "moved": 0, "wrong": 0, "reason": str(error)}
        rows.append(row)
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def verdict(table: DataFrame) -> tuple[bool, str]:
    """Whether a model passed, and the audit's sentence about it, to be read after "The merged model"."""
    wrong, checked = int(table.wrong.sum()), int(table.checked.sum())
    unknown = table[table.reason != ""]
    if wrong:
        worst = table.loc[table.wrong.idxmax()]
        return False, (
            f"is NOT what the formula says: {wrong:,} of {checked:,} elements checked in rational numbers are wrong, most "
            f"of them in {worst.tensor}"
        )
    if len(unknown):
        first = unknown.iloc[0]
        return False, (
            f"cannot be vouched for in {len(unknown)} of {len(table)} tensors ({first.tensor}: {first.reason}); of the "
            f"others none of {checked:,} elements checked in rational numbers is wrong"
        )
    return (
        True,
        f"is what the formula says: none of {checked:,} elements checked in rational numbers is wrong",
    )


class _Unknown(ValueError):
    """Why the audit cannot say what the right element is."""


class _Opened:
    """A member's tensors, as the libraries that own the formats read them, and its tokens as tokenizer.json has them."""

    def __init__(self, member: Checkpoint):
        if type(member) is not Checkpoint:
            raise ValueError(
                f"{member.label} is an expression without files; the audit asks what is stored. Save it."
            )
        self.member, self.label = member, member.label
        folder, files = member.folder, ["model.safetensors"]
        index = folder / "model.safetensors.index.json"
        if not (folder / files[0]).is_file():  # the order of transformers
            if not index.is_file():
                files, index = ["pytorch_model.bin"], folder / "pytorch_model.bin.index.json"
            if index.is_file():
                files = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        missing = [file for file in files if not (folder / file).is_file()]
        if missing or not folder.is_dir() or member.source.endswith(".gguf"):
            raise ValueError(
                f"the audit reads safetensors and pytorch_model.bin by itself, and {self.label} has none of them "
                f"({', '.join(missing[:3]) or member.source}). It cannot vouch for what is made of it."
            )
        self._place = {name: folder / file for file in files for name in _names(folder / file)}
        self._state: tuple | None = None

    @property
    def names(self) -> list[str]:
        return list(self._place)

    def read(self, name: str) -> torch.Tensor:
        import torch
        from safetensors import safe_open

        file = self._place[name]
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as stored:
                return stored.get_tensor(name)
        if self._state is None or self._state[0] != file:
            self._state = file, torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        return self._state[1][name]

    @cached_property
    def tokens(self) -> dict[str, int] | None:
        """The rows by token, or None where no tokenizer.json says."""
        file = self.member.folder / "tokenizer.json"
        if not file.is_file():
            return None
        stored = json.loads(file.read_text("utf-8"))
        listed = stored["model"]["vocab"]
        known = (
            dict(listed) if isinstance(listed, dict) else {token: i for i, (token, _) in enumerate(listed)}
        )
        return known | {token["content"]: token["id"] for token in stored.get("added_tokens") or []}


def _names(file) -> list[str]:
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, "pt") as stored:
            return list(stored.keys())
    import torch

    found = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    return [name for name, value in found.items() if isinstance(value, torch.Tensor)]


def _formula(here, name: str, picked: np.ndarray, own: _Opened, plus: _Opened, minus: _Opened, scale) -> list:
    """cp + scale * (chat - base) at the flat positions `picked` of the CP's tensor, without any rounding."""
    part, published = own.member.layout[name], own.member.layout.published(name)
    if not here.is_floating_point() or part.module == "buffer":
        return here.tolist()
    names = [side.member.layout.holder(published) for side in (plus, minus)]
    if names == [None, None] and name in own.member.layout.ignored:
        return [Fraction(x) for x in _finite(here, own, name)]  # carried: no say in the model
    if None in names:
        lacking = (plus, minus)[names.index(None)].label
        raise _Unknown(f"{lacking} has no such tensor")
    values = [side.read(stored) for side, stored in zip((plus, minus), names, strict=True)]
    places = [
        _positions(picked, name, own, side, tuple(value.shape))
        for side, value in zip((plus, minus), values, strict=True)
    ]
    known = (places[0] >= 0) & (places[1] >= 0)
    p, m = (
        _finite(value.reshape(-1)[np.where(known, place, 0)], side, name)
        for value, place, side in zip(values, places, (plus, minus), strict=True)
    )
    return [
        x + Fraction(scale) * (Fraction(a) - Fraction(b)) if is_known else x
        for x, a, b, is_known in zip(map(Fraction, _finite(here, own, name)), p, m, known, strict=True)
    ]


def _positions(picked: np.ndarray, name: str, own: _Opened, other: _Opened, theirs: tuple) -> np.ndarray:
    """The same elements in `other`, where rows with a token may stand elsewhere; -1 where it lacks the token."""
    axis, ours = own.member.layout[name].axis, tuple(own.member.shape(name))
    if axis is None and ours != theirs:
        raise _Unknown(f"{other.label} has the shape {theirs}, not {ours}")
    tokens = [side.tokens for side in (own, other)] if axis else [{}, {}]
    if ours == theirs and tokens[0] == tokens[1] and tokens[0] is not None:
        return picked
    if tokens == [None, None] and ours == theirs and own.member.vocabulary is other.member.vocabulary is None:
        return picked  # neither has any tokenizer
    if axis != "vocabulary" or None in tokens or ours[1:] != theirs[1:]:
        raise _Unknown(
            f"which rows of {other.label} are whose tokens is in no tokenizer.json, or not known of it"
        )
    width = prod(ours[1:])
    rows, columns = np.divmod(picked, width)
    by_row = {row: token for token, row in tokens[0].items()}
    found = np.array([tokens[1].get(by_row.get(int(row)), -1) for row in rows])
    found[found >= theirs[0]] = -1
    return np.where(found >= 0, found * width + columns, -1)


def _finite(values: torch.Tensor, side: _Opened, name: str) -> list[float]:
    result = values.double().tolist()
    if not all(map(isfinite, result)):
        raise _Unknown(f"{side.label} holds NaN or infinity in {name}")
    return result


def _nearest(result: torch.Tensor, wanted: list):
    """For each element whether no neighbour in its format is nearer to the wanted value, or as near and even."""
    import torch

    if not result.is_floating_point():
        yield from (value == target for value, target in zip(result.tolist(), wanted, strict=True))
        return
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[result.element_size()]
    bits = result.contiguous().view(kind)
    neighbours = [(bits + step).view(result.dtype).double().tolist() for step in (1, -1)]
    rows = zip(result.double().tolist(), *neighbours, (bits % 2 == 0).tolist(), wanted, strict=True)
    for value, above, below, is_even, target in rows:
        if not isfinite(value):
            yield False
            continue
        error = abs(Fraction(value) - Fraction(target))
        others = [abs(Fraction(x) - Fraction(target)) for x in (above, below) if isfinite(x) and x != value]
        yield error == 0 or all(error < other or (error == other and is_even) for other in others)


def back_to_chat(base: Checkpoint, chat: Checkpoint) -> DataFrame:
    """What `base + (chat - base)` is beside chat, element by element: one row a cause, with how many there are.

    The sum is exact, so the two hold the same numbers wherever both have the element in one dtype. What else there is
    has a cause of its own: "equal bits", "equal numbers, other sign of zero" (the formula gives +0.0 for chat's -0.0),
    "rounded to the base's dtype", "rows of tokens that the base lacks", "rows of the base that chat lacks", and
    "other" (none, if all is well). Reads both once. Columns: cause, elements.
    """
    import pandas as pd
    import torch

    again, count = base + (chat - base), dict.fromkeys(CAUSES, 0)
    for name in base.names:
        part, published = base.layout[name], base.layout.published(name)
        stored = chat.resolve(published)
        if stored is None or part.module == "buffer" or not base.dtype(name).is_floating_point:
            continue
        ours, theirs = again.read(name), chat.read(stored)
        if part.axis == "vocabulary" and base.vocabulary and chat.vocabulary:
            rows = [
                (row, chat.vocabulary.tokens.get(token, -1)) for token, row in base.vocabulary.tokens.items()
            ]
            rows = np.array(
                [(r, c) for r, c in rows if r < len(ours) and 0 <= c < len(theirs)], np.int64
            ).reshape(-1, 2)
            count["rows of tokens that the base lacks"] += theirs[0].numel() * (len(theirs) - len(rows))
            count["rows of the base that chat lacks"] += ours[0].numel() * (len(ours) - len(rows))
            ours, theirs = ours[rows[:, 0]], theirs[rows[:, 1]]
        is_cast = ours.dtype != theirs.dtype
        cast = theirs.to(ours.dtype)
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[ours.element_size()]
        same = (ours.contiguous().view(bits) == cast.contiguous().view(bits)) & (
            cast.double() == theirs.double()
        )
        equal = ours.double() == theirs.double()
        rounded = ~equal & is_cast & (ours == cast)
        count["equal bits"] += int(same.sum())
        count["equal numbers, other sign of zero"] += int((equal & ~same).sum())
        count["rounded to the base's dtype"] += int(rounded.sum())
        count["other"] += int((~equal & ~rounded).sum())
    return pd.DataFrame(count.items(), columns=["cause", "elements"])


CAUSES = (
    "equal bits",
    "equal numbers, other sign of zero",
    "rounded to the base's dtype",
    "rows of tokens that the base lacks",
    "rows of the base that chat lacks",
    "other",
)
