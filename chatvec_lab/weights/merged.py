"""`cp + vector` as a checkpoint: the CP's names, shapes, dtypes and vocabulary, with the formula's elements.

To every consumer it is a `Checkpoint`; each read computes the exact value, rounded once to the CP's dtype.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.layout import Layout
from chatvec_lab.weights.mixed import OF_A_SUM, check_mixed
from chatvec_lab.weights.numerics import exact
from chatvec_lab.weights.numerics.blocks import Workspace
from chatvec_lab.weights.pairing import left_out
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.tokens.chat import ChatSide
from chatvec_lab.weights.tokens.rows import with_rows
from chatvec_lab.weights.tokens.special import VocabularyReport, special_rows, vocabulary_report
from chatvec_lab.weights.tokens.vocabulary import Policy, Vocabulary
from chatvec_lab.weights.vector import Term, WeightVector


class MergedCheckpoint(Checkpoint):
    """The sum of a checkpoint and a vector, computed when read. Made by `cp + tau` or `cp.add(tau, …)`.

    Raises ValueError (listing every tensor) when the two do not pair, and when the chat template needs tokens
    that the CP lacks and `add_tokens` is False.
    """

    def __init__(
        self,
        cp: Checkpoint,
        vector: WeightVector,
        *,
        vocabulary: Policy,
        copy_special: bool,
        add_tokens: bool,
        allow_mixed: bool = False,
    ):
        if vocabulary not in get_args(Policy):
            raise ValueError(f"vocabulary={vocabulary!r}: expected one of {', '.join(get_args(Policy))}.")
        self.cp, self.vector, self.policy = cp, vector, vocabulary
        self.copy_special, self.add_tokens, self.allow_mixed = copy_special, add_tokens, allow_mixed
        self.source, self.revision, self.origin = cp.source, cp.revision, cp.origin
        self._special_rows: dict[str, dict[int, tuple[str, np.ndarray]]] = {}

    def __repr__(self) -> str:
        return f"{self.cp!r} + {self.vector!r}"

    def __getstate__(self):
        raise TypeError(
            "a merged checkpoint is an expression; save it and open the result, or rebuild it there."
        )

    def language_part(self, path: str | None = None):
        raise TypeError(
            f"{self.label} is an expression: take the language part of what it is made of, or of the saved model."
        )

    @property
    def label(self) -> str:
        return f"{self.cp.label} + {self.vector.label}"

    @property
    def folder(self) -> Path:
        return self.cp.folder

    def fingerprint(self) -> list:
        recipe = [self.policy, self.copy_special, self.add_tokens, self.vector.describe()]
        # of a tied vector, names of its own do not tell what a head of the CP's own gets
        recipe.append(
            [[t.coefficient(self.named(n), self.layout[n]) for t in self.vector.terms] for n in self.cp.names]
        )
        return [recipe, self.cp.fingerprint(), *(source.fingerprint() for source in self.vector.sources())]

    def check(self) -> None:
        """Raise the errors that headers and tokenizers can show, before anything is read or written."""
        if self.cp.lacking and not self.cp.layout.is_part:
            raise ValueError(f"{self.cp.label}: {self.cp.lacking}.")
        _ = self._pairs
        self._check_moves()
        if isinstance(self.cp, MergedCheckpoint) and self.cp.added_tokens and self.chat_side:
            raise ValueError(
                f"{self.cp.label} is itself a sum, whose added tokens would be lost beside another chat template. "
                "Add the vectors first, cp + (a + b), or save the first sum and add to that."
            )
        if self.policy == "strict" and (names := self._vocabulary_names()):
            self._check_strict(names[0])
        missing = self.missing_tokens
        if missing and not self.add_tokens and self.policy != "skip":
            raise ValueError(
                f"{self.cp.label} lacks {len(missing)} tokens (or their rows) that the chat template of "
                f"{self.chat_side.label} needs: "
                f"{', '.join(missing[:8])}. Use cp.add(tau, add_tokens=True) (--add-tokens) to append their rows, "
                "or vocabulary='skip' to leave embedding, head and tokenizer alone."
            )

    @property
    def layout(self) -> Layout:
        return self.cp.layout

    def dtype_name(self, name: str) -> str:
        """The dtype in which a tensor is stored: the CP's; where that is dequantised, the one of its config."""
        return self.cp.written_dtype(name)

    def named(self, name: str) -> str:
        """The published name of one of the CP's tensors: the vector's name for it."""
        return self.cp.layout.published(name)

    @property
    def left_out(self) -> dict[str, str]:
        """Tensors that one side alone has and that have no say in the model, with what they are."""
        return self._pairs

    @cached_property
    def _pairs(self) -> dict[str, str]:
        check_mixed(self.label, [self.cp, *self.vector.sources()], self.allow_mixed, OF_A_SUM)
        return left_out(self)

    def is_weight(self, name: str) -> bool:
        """Whether a tensor of the CP is one that training moves: of a float dtype, and no buffer."""
        return self.cp.dtype_name(name) in files.FLOATS and self.cp.layout[name].module != "buffer"

    def _check_moves(self) -> None:
        """Refuse a vector that touches nothing of this CP, unless its scale is 0."""
        if all(map(self.is_carried, self.cp.names)) and any(term.is_meant for term in self.vector.terms):
            raise ValueError(
                f"{self.vector.label} touches no tensor of {self.cp.label}: the selection or schedule leaves nothing."
                " Choose other layers or modules, or scale 0 for the CP itself."
            )

    def _check_strict(self, name: str) -> None:
        ours, theirs = self.cp.vocabulary, self.vector.vocabulary
        rows, vector_rows = self.cp.shape(name)[0], self.vector.shape(self.named(name))[0]
        same = ours is not None and theirs is not None and ours.has_the_rows_of(theirs)
        if not same or rows != vector_rows:
            count = len(ours.tokens.items() ^ theirs.tokens.items()) if ours and theirs else "unknown"
            raise ValueError(
                f"vocabulary='strict', but {self.cp.label} has {rows} rows and the vector {vector_rows}, and "
                f"their tokens differ in {count} places. Use vocabulary='match' to pair rows by token."
            )

    def _vocabulary_names(self) -> list[str]:
        return self.cp.layout.tables

    @property
    def chat_side(self) -> ChatSide | None:
        return self.vector.chat_side

    @cached_property
    def missing_tokens(self) -> tuple[str, ...]:
        """Tokens that the chat template needs, and for which the CP has no row."""
        side, vocabulary = self.chat_side, self.cp.vocabulary
        if side is None or vocabulary is None:
            return ()
        name = self.layout.embedding
        rows = self.cp.shape(name)[0] if name else None
        known = {token for token, row in vocabulary.tokens.items() if rows is None or row < rows}
        return tuple(token for token in side.needed_tokens(known) if token not in known)

    @cached_property
    def added_tokens(self) -> dict[str, int]:
        """Tokens that are appended, with their rows: the first free ids behind the CP's last token.

        A token of the CP's tokenizer that has an id and no row keeps its id.
        """
        if not self.add_tokens or self.policy == "skip" or not self.missing_tokens:
            return {}
        known = self.cp.vocabulary.tokens
        free = itertools.count(max(known.values()) + 1)
        return {token: known[token] if token in known else next(free) for token in self.missing_tokens}

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.cp.shape(name)
        if not self.added_tokens or not self.layout.is_table(name):
            return shape
        return (max(shape[0], max(self.added_tokens.values()) + 1), *shape[1:])  # padding rows are used first

    @cached_property
    def config(self) -> dict[str, Any]:
        grown = {self.cp.shape(name)[0]: self.shape(name)[0] for name in self.layout.tables}
        return with_rows(self.cp.config, grown) if self.added_tokens else dict(self.cp.config)

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        ours = self.cp.vocabulary
        if not self.added_tokens:
            return ours
        return Vocabulary({**ours.tokens, **self.added_tokens}, ours.special | set(self.added_tokens))

    @cached_property
    def chat_template(self) -> str | None:
        return self.chat_side.template if self.chat_side else self.cp.chat_template

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        if self.chat_side is None or self.vocabulary is None:
            return self.cp.generation_config
        found = self.chat_side.generation_config(self.vocabulary.tokens)
        for key in self.chat_side.generation:
            own = self.cp.generation_config.get(key, self.cp.config.get(key))
            if key.endswith("_token_id") and key not in found and own is not None:
                found[key] = own  # the CP lacks chat's token, as an end of turn, and ends with its own
        return found

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        config = dict(self.cp.tokenizer_config)
        side = self.chat_side
        if side is not None:
            config.pop("chat_template", None)  # the template has a file of its own
            if side.eos_token and self.vocabulary and side.eos_token in self.vocabulary.tokens:
                config["eos_token"] = side.eos_token
        return config

    @cached_property
    def tokenizer(self):
        if self.chat_side is None and isinstance(self.cp, MergedCheckpoint):
            return self.cp.tokenizer
        tokenizer = self.cp.origin.open_tokenizer()  # ours to change
        if self.chat_side is not None:
            tokenizer.chat_template = self.chat_side.templates
            if "eos_token" in self.tokenizer_config:
                tokenizer.eos_token = self.tokenizer_config["eos_token"]
        if self.added_tokens:
            extra = {"additional_special_tokens": list(self.added_tokens)}
            tokenizer.add_special_tokens(
                extra, replace_extra_special_tokens=False
            )  # the CP's own stay special
            given = {token: tokenizer.convert_tokens_to_ids(token) for token in self.added_tokens}
            if given != self.added_tokens:
                raise ValueError(
                    f"the tokenizer of {self.cp.label} gave new tokens the ids {given}, not {self.added_tokens}."
                )
        return tokenizer

    def is_carried(self, name: str) -> bool:
        """True when the vector adds nothing: buffers, zero coefficients, skipped vocabulary."""
        pub = self.named(name)
        if not self.is_weight(name) or self.vector.is_outside(pub) or not self.vector.resolve(pub):
            return True
        if self.policy == "skip" and self.layout.is_table(name):
            return True
        return not self.is_moved_by(self.vector.terms, name)

    def is_moved_by(self, terms: Iterable[Term], name: str) -> bool:
        """Whether any of these terms has a coefficient for one of the CP's tensors."""
        return any(term.coefficient(self.named(name)) for term in terms)

    def parts(self, name: str, start: int, stop: int, work: Workspace) -> list[exact.Part]:
        """What is added to the CP's flat elements [start, stop) of a tensor, as raw parts for `exact.combine`.

        Special rows (`special_rows`) are replaced after the sum and are not among the parts.
        """
        if self._pairs is not None and self.is_carried(name):
            return []
        pub = self.named(name)
        if not self.layout.is_table(name):
            return self.vector.parts(pub, start, stop, work=work)
        rows = self.shape(name)[0]
        return self.vector.parts(pub, start, stop, vocabulary=self.cp.vocabulary, rows=rows, work=work)

    def fill(
        self, name: str, start: int, stop: int, out: np.ndarray, work: Workspace | None = None
    ) -> np.ndarray:
        """Compute the flat elements [start, stop) into `out`, rounded once to out's dtype (raw, as ever)."""
        work = work or Workspace()
        view = out[: stop - start]
        cp = self._cp_span(name, start, stop, work)
        parts = self.parts(name, start, stop, work)
        if parts or view.dtype != cp.dtype:
            try:
                exact.combine(cp, parts, view)
            except FloatingPointError as error:
                raise ValueError(self._blame(name, cp, parts, error)) from error
        else:
            view[:] = cp
        if self.layout.is_table(name):
            width = prod(self.shape(name)[1:])
            for row, values in self.special_rows(name).items():
                low, high = max(start, row * width), min(stop, (row + 1) * width)
                if low < high:
                    own = values[low - row * width : high - row * width]
                    exact.combine(None, [(1.0, own, None)], view[low - start : high - start])
        return view

    def _cp_span(self, name: str, start: int, stop: int, work: Workspace) -> np.ndarray:
        stored = prod(self.cp.shape(name))
        if stop <= stored:
            return work.fill(self.cp, name, start, stop)
        raw = work.array(files.NUMPY_DTYPES[self.cp.dtype_name(name)], stop - start)
        raw[:] = 0
        if start < stored:
            self.cp.fill(name, start, stored, raw)
        return raw

    def _blame(self, name: str, cp: np.ndarray, parts: list[exact.Part], error: FloatingPointError) -> str:
        arrays = {self.cp.label: cp}
        for i, (_, plus, minus) in enumerate(parts):
            arrays[f"the vector (term {i + 1}, plus)"] = plus
            if minus is not None:
                arrays[f"the vector (term {i + 1}, minus)"] = minus
        broken = [label for label, raw in arrays.items() if not np.isfinite(exact.widen(raw)).all()]
        why = (
            f"NaN or infinity comes from {', '.join(broken)}"
            if broken
            else "the scale is too large for this dtype"
        )
        return f"{name} of {self.label}: {error}; {why}. Nothing was saved."

    def special_rows(self, name: str) -> dict[int, np.ndarray]:
        """Rows that are the chat model's own, raw in its dtype: copied special tokens and appended tokens."""
        return {row: values for row, (_, values) in self._special(name).items()}

    def _special(self, name: str) -> dict[int, tuple[str, np.ndarray]]:
        if name not in self._special_rows:
            self._special_rows[name] = special_rows(self, name)
        return self._special_rows[name]

    def vocabulary_report(self) -> VocabularyReport | None:
        """What happens to the rows of the input embedding; None for a checkpoint without one."""
        return vocabulary_report(self)

    def save(self, path: str | os.PathLike, *, dtype: str | None = None, max_shard_size: str | int = "5GB",
             resume: bool = True, verify: bool = False, progress: bool = True, force=(), told=None,
             jobs: int | None = None):  # fmt: skip
        """Write the merged model as a transformers checkpoint; see `writer.save`. Returns a `SaveReport`."""
        from chatvec_lab.weights.saving.writer import save

        return save(
            self,
            Path(path),
            dtype=dtype,
            max_shard_size=max_shard_size,
            resume=resume,
            verify=verify,
            progress=progress,
            force=force,
            told=told,
            jobs=jobs,
        )
