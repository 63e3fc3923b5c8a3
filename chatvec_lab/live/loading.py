"""The CP as a transformers model, and proof that each of its tensors lies where the model says."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.live.places import places
from chatvec_lab.live.slots import raw
from chatvec_lab.opening import open_model
from chatvec_lab.weights.checkpoint import Checkpoint
from chatvec_lab.weights.layout import Layout
from chatvec_lab.weights.layout.structure import Unknown, class_of
from chatvec_lab.weights.merged import MergedCheckpoint
from chatvec_lab.weights.sources import files
from chatvec_lab.weights.sources.beside import without_adapter
from chatvec_lab.weights.sources.folder import sets_of_weights

if TYPE_CHECKING:
    import torch


def load(merged: MergedCheckpoint, device, dtype: torch.dtype):
    """The CP through transformers, on its device, with rows for added tokens and the chat's generation config."""
    import torch
    from transformers import GenerationConfig

    if merged.cp.note or not sets_of_weights(merged.folder):
        raise ValueError(
            f"{merged.cp.label} is no folder of whole weights, which transformers could load as they are read here. Save "
            "the merged model (or the CP alone: cp + 0 * tau), and open that."
        )
    if isinstance(device, str) and device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    is_map = isinstance(device, dict) or device in ("balanced", "balanced_low_0", "sequential")
    options = {"device_map": device} if is_map else {}
    with without_adapter(merged.folder) as folder:
        model = open_model(folder, _class(merged), dtype=dtype, **options)
    model = model if is_map else model.to(device)
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        raise ValueError(
            f"{len(away)} weights of {merged.cp.label} are offloaded ({', '.join(away[:5])}, ...), where no scale "
            "can reach them. Give a device map that keeps all weights in memory."
        )
    rows = max((row + 1 for row in merged.added_tokens.values()), default=0)
    if rows and rows > _tokens(model):
        model.resize_token_embeddings(rows, mean_resizing=False)
    if merged.generation_config:
        model.generation_config = GenerationConfig.from_dict(merged.generation_config)
    return model.eval()


def _tokens(model) -> int:
    """Rows of the table of tokens; ValueError for classes that have no such one table."""
    try:
        return model.get_input_embeddings().weight.shape[0]
    except (NotImplementedError, AttributeError):  # it cannot tell, or has a list of tables
        raise ValueError(
            f"{type(model).__name__} has no one table of tokens to which transformers could add rows. "
            "Leave add_tokens out, or save the merged model."
        ) from None


def _class(merged: MergedCheckpoint):
    """The class that the CP's config names; for one without a head, saved by AutoModel, the causal one."""
    from transformers import AutoModelForCausalLM

    try:
        kind, config = class_of(merged.cp.config)
    except Unknown as error:
        raise ValueError(
            f"{merged.cp.label} cannot be loaded: {error}. Save the merged model instead."
        ) from error
    if not kind.can_generate() and type(config) in AutoModelForCausalLM._model_mapping:
        return AutoModelForCausalLM
    return kind


def chosen_dtype(merged: MergedCheckpoint, dtype) -> torch.dtype:
    """The dtype by its name; "auto" is that of most stored elements."""
    import torch

    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        sizes: dict[str, int] = {}
        for tensor in merged.cp.names:
            stored = merged.cp.dtype_name(tensor)
            sizes[stored] = sizes.get(stored, 0) + prod(merged.cp.shape(tensor))
        name = max((n for n in sizes if n in files.FLOATS), key=sizes.get)
    if name not in files.FLOATS:
        raise ValueError(f"dtype={dtype!r}: expected 'auto' or one of {', '.join(files.FLOATS)}.")
    return getattr(torch, name)


def checked_places(merged: MergedCheckpoint, model) -> list[tuple[str, torch.Tensor]]:
    """The places of all of the CP's float tensors, each memory once; ValueError lists what has none.

    The model must hold the CP's bits there, which proves that transformers put everything where it says.
    """
    found, lines, result, seen = _by_published_name(merged, model), [], [], set()
    root = merged.cp
    while isinstance(root, MergedCheckpoint):
        root = root.cp
    layout = merged.layout
    names = [n for n in merged.names if merged.dtype_name(n) in files.FLOATS and n not in layout.ignored]
    # stable: the embedding before the head that is tied to it
    for name in sorted(names, key=lambda n: layout[n].module == "head"):
        place = found.get(layout.published(name))
        if place is None:
            if not merged.is_carried(name):
                lines.append(f"{name}   has no place in {type(model).__name__}")
        elif tuple(place.shape) != merged.shape(name):
            lines.append(f"{name}   stored {merged.shape(name)}, in the model {tuple(place.shape)}")
        elif differing := _differing(place, root, name):
            lines.append(
                f"{name}   is not what the model holds in its place: {differing} of {place.numel()} elements are "
                f"others after transformers loaded it ({type(model).__name__} may set them itself)"
            )
        elif (place.data_ptr(), place.shape) not in seen:
            seen.add((place.data_ptr(), place.shape))
            result.append((name, place))
    if lines:
        raise ValueError(
            f"{len(lines)} of {len(names)} tensors of {merged.cp.label} did not reach the model:\n  "
            + "\n  ".join(lines)
            + "\nSave the merged model instead, or report this architecture."
        )
    return result


def _by_published_name(merged: MergedCheckpoint, model) -> dict[str, torch.Tensor]:
    """Every place under the one name that its tensor has, whoever saved it."""
    found = places(model)
    names = Layout.of(merged.cp.config, list(found), {name: tuple(t.shape) for name, t in found.items()})
    return {names.published(name): place for name, place in found.items()}


def _differing(place: torch.Tensor, cp: Checkpoint, name: str) -> int:
    """How many elements of a place are not the CP's, rounded to its dtype, bit for bit."""
    stored = cp.read(name).to(place.dtype)
    here = place.detach()[: stored.shape[0]] if stored.dim() else place.detach()
    found, wanted = (raw(t.cpu().contiguous()).reshape(-1).view(np.uint8) for t in (here, stored))
    if np.array_equal(found, wanted):
        return 0
    return int((found != wanted).reshape(-1, place.dtype.itemsize).any(axis=1).sum())
