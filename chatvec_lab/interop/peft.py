"""A low-rank vector as a LoRA adapter, for PEFT, transformers and servers such as vLLM.

LoRA adds `lora_alpha / r * B @ A` to the weight of a linear layer and can carry nothing else: norms, biases,
embedding and head stay the CP's. What that costs is measured in two ways: energy kept in each tensor, and replies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from chatvec_lab.opening import open_config
from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.methods import LowRank, Tensor
from chatvec_lab.weights.numerics.arrays import randomised_svd
from chatvec_lab.weights.saving.card import fenced, front_matter, inline
from chatvec_lab.weights.saving.commit import commit, refuse_existing
from chatvec_lab.weights.saving.provenance import Digests, combined, file_digest, source_entry
from chatvec_lab.weights.sources.hub import Hub
from chatvec_lab.weights.transforms import Transform
from chatvec_lab.weights.vector import Term, WeightVector

if TYPE_CHECKING:
    import pandas
    import torch

Dtype = Literal["float32", "bfloat16", "float16"]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class AdapterReport:
    """What an adapter holds. `energy` is the share of the vector's squared norm that it keeps, over all tensors.

    `table` has one row a tensor: tensor, layer, module, parameters, l2 (norm of the vector's tensor), energy (share
    kept, from 0 to 1; missing where the vector is zero), carried (True or False), reason (why it is not carried).
    """

    path: Path
    rank: int
    scale: float
    energy: float
    table: pandas.DataFrame
    notes: tuple[str, ...]

    def __str__(self) -> str:
        t = self.table
        carried = t[t.carried]
        lines = [
            f"{self.path}: LoRA adapter of rank {self.rank}, weight {self.scale:g} (lora_alpha / r)",
            f"  {len(carried)} of {len(t)} tensors; {self.energy:.1%} of the vector's energy kept "
            f"({_share(carried.energy * carried.l2**2, carried.l2**2):.1%} within the carried tensors)",
        ]
        for (module, reason), rows in t[~t.carried].groupby(["module", "reason"]):
            share = _share(rows.l2**2, t.l2**2)
            lines.append(f"  not carried: {len(rows)} x {module} ({share:.1%} of the energy): {reason}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def _share(part, whole) -> float:
    return float(part.sum() / whole.sum()) if whole.sum() else float("nan")


def export_adapter(
    vector: WeightVector,
    path: str | Path,
    *,
    base: Checkpoint,
    base_id: str | None = None,
    rank: int | None = None,
    scale: float = 1.0,
    dtype: Dtype = "float32",
    seed: int = 0,
) -> AdapterReport:
    """Write `scale * vector` at `rank` as a new adapter folder for the model `base` (the CP); reports what is kept.

    base_id: the base's id on the hub, which the adapter names so that others can load it; None takes that of `base`
      where it came from the hub. A base that is only a folder here is named by the folder, and the report says so.
    vector: any vector with `rank`, or `tau.low_rank(r)`. dtype: that of the two factors. The scale is the adapter's
    weight, lora_alpha / r, and can be changed in adapter_config.json. Template and tokenizer go along when `base` has
    every token that they need. vLLM takes ranks up to its --max-lora-rank (8, 16, 32, 64, 128, 256, 320 or 512).

    Raises TypeError without a rank, ValueError for a vector that does not pair with `base` or of which no tensor is
    a linear layer's, FileExistsError when `path` exists.
    """
    refuse_existing(Path(path))
    base_id, revision = _published(base, base_id)
    leaf, term = _low_rank(vector, rank, seed)
    if dtype not in get_args(Dtype):
        raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(get_args(Dtype))}.")
    merged = base.add(vector, vocabulary="skip")
    merged.check()
    linear = _linear_modules(base)
    tensors, rows = {}, []
    for name in vector.names:
        reason = _reason(name, leaf, term, linear)
        pair = None if reason else _factors(leaf, term.coefficient(name), name, dtype)
        if pair is not None and not pair[0].any():
            pair, reason = None, "the vector is zero here"
        if pair is not None:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_B.weight"], tensors[f"{stem}.lora_A.weight"] = pair
        rows.append(_row(leaf, term.coefficient(name), name, pair, reason))
    if not tensors:
        raise ValueError(
            f"{vector.label} has no tensor that is a linear layer's in {base.label}; LoRA can carry none."
        )
    import pandas

    table = pandas.DataFrame(rows).astype({"layer": "Int64"})
    energy = _share(table.energy.fillna(0) * table.l2**2, table.l2**2)
    path = Path(path)
    report = AdapterReport(path, leaf.method.rank, float(scale), energy, table, _notes(merged, base_id))
    sources = list(dict.fromkeys([base, *vector.sources()]))
    digests = Digests(sources)
    with commit(path, key="", names=(), resume=False) as work:
        folder = work.companions
        _write(folder, tensors, linear, leaf.method.rank, float(scale), base_id or base.label, revision)
        if merged.chat_side is not None and base.vocabulary is not None and not merged.missing_tokens:
            merged.tokenizer.save_pretrained(folder)
        digest = file_digest(folder / WEIGHTS)
        manifest = {
            "format": "chatvec_lab LoRA adapter 1",
            "recipe": {"base": base_id or base.label, "vector": vector.describe(), "rank": leaf.method.rank,
                       "scale": float(scale), "dtype": dtype, "energy": energy},
            "sources": [source_entry(source, digests) for source in sources],
            "weights": {"digest": combined({WEIGHTS: digest}), "files": {WEIGHTS: digest}},
        }  # fmt: skip
        work.write_manifest(manifest, lambda _: _card(report, base, base_id, vector))
        digests.check_unchanged()
    return report


def _low_rank(vector: WeightVector, rank: int | None, seed: int) -> tuple[Transform, Term]:
    """The low-rank leaf, and the term that holds its factor and schedules."""
    first = vector.terms[0]
    if rank is None:
        is_low_rank = isinstance(first.leaf, Transform) and isinstance(first.leaf.method, LowRank)
        if len(vector.terms) != 1 or not is_low_rank:
            raise TypeError(f"{vector.label} has no rank: give rank=, or tau.low_rank(r).")
        return first.leaf, first
    leaf = Transform(LowRank(rank, seed), vector)
    return leaf, Term(1.0, leaf)


def _linear_modules(base: Checkpoint) -> set[str]:
    """Names of the linear layers of the model as transformers builds it, without its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(open_config(base.folder))
    return {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def _reason(name: str, leaf: Transform, term: Term, linear: set[str]) -> str:
    """Why LoRA does not carry a tensor; empty when it does."""
    kind = leaf.part(name).module
    if not term.coefficient(name) or not any(inner.coefficient(name) for inner in leaf.vector.terms):
        return "not in the selection"
    if leaf.vector.is_table(name):
        return "rows of tokens; they stay the CP's"
    if len(leaf.shape(name)) != 2:
        return f"LoRA adapts matrices; a {kind if kind == 'norm' else 'bias'} stays the CP's"
    if name.removesuffix(".weight") not in linear:
        return "not a linear layer in the loaded model (fused or stacked)"
    return ""


def _factors(
    leaf: Transform, coefficient: float, name: str, dtype: Dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """B (m, rank), times the coefficient, and A (rank, n), rounded to `dtype`.

    A matrix no larger than the rank comes whole, in factors that are padded with zeros.
    """
    import torch

    found, method = leaf.known(name), leaf.method
    if found is None:
        tensor = Tensor(name, leaf.vectors)
        matrix = np.concatenate([block for _, block in tensor.blocks()]).reshape(tensor.shape)
        left, values, right = randomised_svd(matrix, min(matrix.shape), method.seed)
        padding = method.rank - values.size
        found = np.pad(left * values, ((0, 0), (0, padding))), np.pad(right, ((0, padding), (0, 0)))
    left, right = (torch.from_numpy(np.ascontiguousarray(factor)) for factor in found)
    return (coefficient * left).to(getattr(torch, dtype)), right.to(getattr(torch, dtype))


def _row(leaf: LowRank, coefficient: float, name: str, pair, reason: str) -> dict:
    """One row of the table; the energy is that of the factors as they are stored."""
    whole, left_over = 0.0, 0.0
    width = leaf.shape(name)[-1]
    if pair is not None:
        left, right = (factor.double().numpy() for factor in pair)
        left /= coefficient
    for start, block in Tensor(name, leaf.vectors).blocks():
        whole += float(block @ block)
        if pair is not None:
            first = start // width
            rest = block - (left[first : first + block.size // width] @ right).reshape(-1)
            left_over += float(rest @ rest)
    kept = 0.0 if pair is None else 1.0 - left_over / whole if whole else float("nan")
    return {
        "tensor": name, "layer": leaf.part(name).layer, "module": leaf.part(name).module,
        "parameters": int(np.prod(leaf.shape(name))),
        "l2": abs(coefficient) * whole**0.5, "energy": kept if whole and coefficient else float("nan"),
        "carried": pair is not None, "reason": reason,
    }  # fmt: skip


def _published(base: Checkpoint, base_id: str | None) -> tuple[str | None, str | None]:
    """The base's id on the hub and its revision, each None where it has none that others could use."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    revision = None
    if base_id is not None:
        name = base_id
    elif isinstance(base.origin, Hub):
        name, revision = base.source, base.revision
    elif base.path.parent.name == "snapshots" and (kept := base.path.parent.parent.name).startswith(
        "models--"
    ):
        name = kept.removeprefix("models--").replace("--", "/", 1)  # a folder of the hub's cache
        revision = base.path.name
    else:
        return None, None
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        if base_id is None:  # a folder that is only named like the cache's
            return None, None
        raise ValueError(f"base_id={base_id!r} is no id of the hub, such as 'owner/name'. {error}") from None
    return name, revision


def _notes(merged, base_id: str | None) -> tuple[str, ...]:
    notes = []
    if base_id is None:
        notes.append(
            f"its base {merged.cp.label!r} is a folder on this machine, which others cannot load by that name: give "
            "base_id= with its id on the hub, or load the adapter onto a copy of it with PeftModel.from_pretrained"
        )
    if merged.missing_tokens:
        missing = ", ".join(merged.missing_tokens[:8])
        notes.append(
            f"the chat template needs {missing}, whose rows LoRA cannot append; template and tokenizer stay behind"
        )
    return tuple(notes)


def _write(
    folder: Path, tensors, linear: set[str], rank: int, scale: float, base: str, revision: str | None
) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    modules = {
        k.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for k in tensors if "lora_A" in k
    }
    kinds = {name.rsplit(".", 1)[-1] for name in modules}
    complete = {kind for kind in kinds if {m for m in linear if m.rsplit(".", 1)[-1] == kind} <= modules}
    targets = sorted(complete) + sorted(m for m in modules if m.rsplit(".", 1)[-1] not in complete)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "revision": revision, "r": rank,
        "lora_alpha": int(scale * rank) if (scale * rank).is_integer() else scale * rank, "lora_dropout": 0.0,
        "target_modules": targets, "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False,
        "modules_to_save": None, "inference_mode": True,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _card(report: AdapterReport, base: Checkpoint, base_id: str | None, vector: WeightVector) -> str:
    facts = {"library_name": "peft", "tags": ["chat-vector", "lora"], "base_model": [base_id] if base_id else [],
             "base_model_relation": "adapter" if base_id else None}  # fmt: skip
    return "\n".join(
        [
            front_matter(facts), "",
            f"# {inline(vector.label)} as a LoRA adapter for {inline(base_id or base.label)}", "",
            fenced(str(report).replace(str(report.path), report.path.name)), "",
            "Made by chatvec_lab from a difference of weights, without training. `lora_alpha / r` is the scale of the "
            "vector; `manifest.json` has recipe and digests. The licences of all sources apply.", "",
        ]
    )  # fmt: skip


def load_adapted(base: Checkpoint, adapter: str | Path, *, dtype: str = "auto", device: str = "cpu"):
    """`base` with the adapter as a PEFT model in evaluation mode. Needs the package peft.

    What it says beside the full vector, an exam tells, which takes a loaded model with its tokenizer:
    `Exam(family, "zh").ask({"CP + τ": cp + tau, "adapter": (load_adapted(cp, "adapter"), tokenizer)}, ["one_turn"], 100)`.
    """
    from chatvec_lab.live import load

    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError("adapters are loaded with peft: pip install 'chatvec_lab[peft]'") from error
    return PeftModel.from_pretrained(load(base, device, dtype), str(adapter)).eval()
