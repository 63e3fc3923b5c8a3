"""Our merge as a recipe of mergekit, in the form in which it is numerically right and keeps the CP's vocabulary.

That form is `base_model: CP` with chat at +scale and base at -scale, not the documented one (base_model: base), in
which the CP's new tokens are cut off and each delta is rounded to 16 bits.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Literal

import yaml

from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.difference import Difference
from chatvec_lab.weights.merged import MergedCheckpoint
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.sources.adapter import Adapter
from chatvec_lab.weights.sources.forms import Formed
from chatvec_lab.weights.sources.language import LanguagePart

Arithmetic = Literal["float32", "float64"]


def recipe(
    merged: MergedCheckpoint, *, dtype: str | None = None, arithmetic: Arithmetic | None = None
) -> str:
    """The YAML with which `mergekit-yaml` reproduces `merged.save(dtype=dtype)`, up to mergekit's rounding.

    dtype: what mergekit writes; None is the CP's. arithmetic: what mergekit computes in; None is "float32" for a
    16-bit result and "float64" for a float32 one. mergekit rounds the scale and each delta, product and sum to it.
    Scales such as 1 and 0.5 come out bit for bit like ours. At 0.7 up to some percent of the elements are the other
    neighbour: those for which seven tenths would be a tie (the float 0.7 is a little less, so ours are right).

    Raises ValueError for what mergekit has no words for: transformed or stored vectors, copied and appended rows,
    padding rows beside different vocabularies, a CP of several dtypes. Reads headers and tokenizers, no weights.
    """
    merged.check()
    cp = merged.cp
    weights = _weights(merged)
    _refuse_special_rows(merged)
    stored = {cp.dtype_name(n) for n in cp.names if cp.dtype_name(n) in files.FLOATS}
    if dtype is None and len(stored) != 1:
        raise ValueError(
            f"{cp.label} stores {', '.join(sorted(stored))}; mergekit writes one dtype. Choose it with dtype=."
        )
    dtype = dtype or stored.pop()
    document = {
        "merge_method": "task_arithmetic",
        "base_model": _reference(cp),
        "models": [
            {"model": reference, "parameters": {"weight": _setting(values)}}
            for reference, values in weights.items()
        ],
        "parameters": {"normalize": False},
        "dtype": arithmetic or ("float64" if dtype in ("float32", "float64") else "float32"),
        "out_dtype": dtype,
        **_tokenizer(merged),
    }
    if merged.chat_side is not None:
        document["chat_template"] = merged.chat_template
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def export(merged: MergedCheckpoint, path: str | os.PathLike, **options) -> Path:
    """Write `recipe(merged, **options)` to a new file; run it with `mergekit-yaml FILE OUT --out-shard-size 500M`."""
    path, text = Path(path), recipe(merged, **options)
    if path.exists():
        raise FileExistsError(f"{path} exists already and is left as it is. Choose another name.")
    path.write_text(text, "utf-8")
    return path


def _reference(model: Checkpoint) -> str:
    if model.source.endswith(".gguf"):
        raise ValueError(f"mergekit reads no GGUF files such as {model.label}; use the model's safetensors.")
    if isinstance(getattr(model.origin, "found", model.origin), Adapter):
        raise ValueError(
            f"a recipe takes whole models, and {model.label} is an adapter: save it as a model first."
        )
    if isinstance(model.origin, Formed | LanguagePart):
        raise ValueError(f"a recipe takes whole models, and {model.label} is none: save it as a model first.")
    if model.note:
        raise ValueError(f"mergekit reads no packed weights, and {model.label} is {model.note}.")
    local = Path(model.source).is_dir()
    source = str(Path(model.source).resolve()) if local else model.source
    return f"{source}@{model.revision}" if model.revision and not local else source


def _weights(merged: MergedCheckpoint) -> dict[str, dict[str, float]]:
    """For each model but the CP its coefficient in each of the CP's float tensors."""
    other = [t.leaf.label for t in merged.vector.terms if not isinstance(t.leaf, Difference)]
    if other:
        raise ValueError(
            f"mergekit takes whole models; {len(other)} terms are none: {', '.join(other)}. A recipe can hold "
            "differences of checkpoints (chat - base), their sums, scales, selections and schedules. "
            "Save the merged model instead and give mergekit that."
        )
    names = [n for n in merged.cp.names if merged.cp.dtype_name(n) in files.FLOATS]
    result: dict[str, dict[str, float]] = {}
    for term in merged.vector.terms:
        for model, sign in ((term.leaf.plus, 1.0), (term.leaf.minus, -1.0)):
            row = result.setdefault(_reference(model), dict.fromkeys(names, 0.0))
            for name in names:
                if not merged.is_carried(name):
                    row[name] += sign * term.coefficient(name)
    result.pop(_reference(merged.cp), None)  # CP - CP is nothing
    return result


def _setting(values: dict[str, float]) -> float | list[dict]:
    """One number, or mergekit's list of filters (substrings of tensor names; the first that fits decides)."""
    most, count = Counter(values.values()).most_common(1)[0]
    if count == len(values):
        return most
    exceptions = [{"filter": name, "value": value} for name, value in values.items() if value != most]
    return [*exceptions, {"value": most}]


def _refuse_special_rows(merged: MergedCheckpoint) -> None:
    rows = {token for n in merged.layout.tables for token, _ in merged._special(n).values()}
    if rows:
        raise ValueError(
            f"mergekit cannot copy or append the rows of {', '.join(sorted(rows))} (copy_special, add_tokens); "
            "leave these options off, or save the merged model with chatvec_lab."
        )


def _tokenizer(merged: MergedCheckpoint) -> dict:
    """`tokenizer: {source: base}` where vocabularies differ, with the tokens that must keep the CP's row."""
    models = [m for t in merged.vector.terms for m in (t.leaf.plus, t.leaf.minus)]
    cp = merged.cp
    names = cp.layout.tables
    same_rows = all(m.shape(m.resolve(n)) == cp.shape(n) for m in models for n in names if m.resolve(n))
    if cp.vocabulary is None or any(m.vocabulary is None for m in models):
        return {}  # rows pair by number; `check` has refused what differs
    if same_rows and all(m.vocabulary.tokens == cp.vocabulary.tokens for m in models):
        return {}  # mergekit then copies the base_model's tokenizer and keeps padding rows
    rows = max((cp.shape(n)[0] for n in names), default=0)
    if rows > len(cp.vocabulary.tokens):
        raise ValueError(
            f"{cp.label} has {rows} rows for {len(cp.vocabulary.tokens)} tokens, and the vocabularies differ: "
            "mergekit would cut the padding rows off. Save the merged model with chatvec_lab instead."
        )
    one_sided = set()
    for term in merged.vector.terms:
        plus, minus = (m.vocabulary.tokens.keys() for m in (term.leaf.plus, term.leaf.minus))
        one_sided |= (plus ^ minus) & cp.vocabulary.tokens.keys()
    keep = {
        token: {"source": _reference(cp), "force": True}
        for token in sorted(one_sided, key=cp.vocabulary.tokens.get)
    }
    return {"tokenizer": {"source": "base", **({"tokens": keep} if keep else {})}}
