"""From an expression to a transformers model, with proof that each tensor lies where the model says: the only way."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from chatvec_lab.live.places import Pieces, places
from chatvec_lab.live.slots import raw, raw_dtype, tensor
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


def load(source: Checkpoint | str | os.PathLike, device="auto", dtype=None) -> torch.nn.Module:
    """A checkpoint as a transformers model in evaluation mode, text or vision: what is stored, or the sum it stands for.

        model = load(cp + 0.5 * tau)

    source: a checkpoint, a merged one, a folder or a hub id. The class is the one that config.json names; template and
    tokens are those of the checkpoint's `tokenizer`.
    device: as in `LiveModel`. dtype: "auto" is the stored one, a name another, to which each weight is rounded once. None
    computes with the stored weights, in their dtype on a GPU and in float32 on a CPU, which has no speed to gain from
    16 bits.

    Raises ValueError, with the list of them, for tensors that do not lie in the model bit by bit, for those that the
    vector moves and the model has no place for, and for weights that the files lack.
    """
    import torch

    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint(source)
    device = _device(device)
    held = dtype or ("float32" if str(device).startswith("cpu") else "auto")
    model, places = opened(checkpoint, device, chosen_dtype(checkpoint, held))
    if isinstance(checkpoint, MergedCheckpoint):
        rounded = None if dtype in (None, "auto") else chosen_dtype(checkpoint, dtype)
        with torch.no_grad():
            for name, place in places:
                if not checkpoint.is_carried(name):
                    _fill(place, checkpoint, name, rounded)
    return model


def opened(checkpoint: Checkpoint, device, dtype: torch.dtype) -> tuple[torch.nn.Module, list]:
    """The model that a checkpoint starts from (of a sum, the CP), and each of its tensors with its proven place.

    It has rows for the tokens that the sum adds, and the generation config of the sum.
    """
    from transformers import GenerationConfig

    root = _root(checkpoint)
    if checkpoint is not root:
        checkpoint.check()
    elif root.lacking and not root.layout.is_part:
        raise ValueError(f"{root.label}: {root.lacking}.")
    with _without_bars():
        # dequantised, an adapter's folder or a GGUF file: transformers would not load it as it is read here
        is_foreign = root.note or root.path.is_file() or not sets_of_weights(root.folder)
        model = (_built if is_foreign else _loaded)(root, _device(device), dtype)
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        raise ValueError(
            f"{len(away)} weights of {root.label} are offloaded ({', '.join(away[:5])}, ...), where no scale "
            "can reach them. Give a device map that keeps all weights in memory."
        )
    if checkpoint is not root:
        rows = max((row + 1 for row in checkpoint.added_tokens.values()), default=0)
        if rows and rows > _tokens(model):
            model.resize_token_embeddings(rows, mean_resizing=False)
        if checkpoint.generation_config:
            model.generation_config = GenerationConfig.from_dict(checkpoint.generation_config)
    return model.eval(), checked_places(checkpoint, model)


def give_back_memory() -> None:
    """Let the system have what was freed between what is kept; only the C library of Linux is asked to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def _root(checkpoint: Checkpoint) -> Checkpoint:
    while isinstance(checkpoint, MergedCheckpoint):
        checkpoint = checkpoint.cp
    return checkpoint


def _device(device):
    import torch

    if isinstance(device, str) and device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _loaded(root: Checkpoint, device, dtype: torch.dtype):
    """Through transformers, which must have found every weight in the files."""
    is_map = isinstance(device, dict) or device in ("balanced", "balanced_low_0", "sequential")
    options = {"device_map": device} if is_map else {}
    with without_adapter(root.folder) as folder:
        model, found = open_model(folder, _class(root)[0], dtype=dtype, output_loading_info=True, **options)
    _check_whole(root, sorted(set(found["missing_keys"]) & {name for name, _ in model.named_parameters()}))
    return model if is_map else model.to(device)


def _built(root: Checkpoint, device, dtype: torch.dtype):
    """Built from config.json and filled from the checkpoint, where the files are none that transformers reads so."""
    import torch

    kind, config = _class(root)
    model, filled = kind._from_config(config, dtype=dtype), set()
    found = _by_published_name(root, model)
    with torch.no_grad():
        for name in root.names:
            place = found.get(root.layout.published(name))
            if place is not None and tuple(place.shape) == root.shape(name):
                _fill(place, root, name, None)
                views = [view for _, view in place.runs] if isinstance(place, Pieces) else [place]
                filled |= {view.untyped_storage().data_ptr() for view in views}
    parameters = model.named_parameters()
    _check_whole(root, [name for name, p in parameters if p.untyped_storage().data_ptr() not in filled])
    return model.to(device)


def _check_whole(root: Checkpoint, lacking: list[str]) -> None:
    if lacking:
        raise ValueError(
            f"{root.label} lacks {len(lacking)} weights that its model has ({', '.join(lacking[:8])}), which transformers "
            "would make up at random. Download or copy the file that holds them."
        )


def _fill(place, checkpoint: Checkpoint, name: str, rounded: torch.dtype | None) -> None:
    """Copy one tensor to its place, rounded once to a dtype; None: as stored."""
    rounded = rounded or checkpoint.dtype(name)
    elements = np.empty(place.numel(), raw_dtype(rounded))
    checkpoint.fill(name, 0, place.numel(), elements)
    place.detach().copy_(tensor(elements, rounded).view(place.shape))


@contextmanager
def _without_bars() -> Iterator[None]:
    """A study loads hundreds of models; a bar each would bury what it prints."""
    from transformers.utils import logging

    has_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if has_bars:
            logging.enable_progress_bar()


def _tokens(model) -> int:
    """Rows of the table of tokens; ValueError for classes that have no such one table."""
    try:
        return model.get_input_embeddings().weight.shape[0]
    except (NotImplementedError, AttributeError):  # it cannot tell, or has a list of tables
        raise ValueError(
            f"{type(model).__name__} has no one table of tokens to which transformers could add rows. "
            "Leave add_tokens out, or save the merged model."
        ) from None


def _class(root: Checkpoint) -> tuple[type, object]:
    """The class that config.json names, and its config; for one without a head, saved by AutoModel, the causal one."""
    from transformers import AutoModelForCausalLM

    try:
        kind, config = class_of(root.config)
    except Unknown as error:
        raise ValueError(f"{root.label} cannot be loaded: {error}. Save a merged model instead.") from error
    if not kind.can_generate() and type(config) in AutoModelForCausalLM._model_mapping:
        return AutoModelForCausalLM._model_mapping[type(config)], config
    return kind, config


def chosen_dtype(checkpoint: Checkpoint, dtype) -> torch.dtype:
    """The dtype by its name; "auto" is that of most stored elements."""
    import torch

    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        sizes: dict[str, int] = {}
        for stored in checkpoint.names:
            kind = checkpoint.dtype_name(stored)
            sizes[kind] = sizes.get(kind, 0) + prod(checkpoint.shape(stored))
        name = max((n for n in sizes if n in files.FLOATS), key=sizes.get)
    if name not in files.FLOATS:
        raise ValueError(f"dtype={dtype!r}: expected 'auto' or one of {', '.join(files.FLOATS)}.")
    return getattr(torch, name)


def checked_places(checkpoint: Checkpoint, model) -> list[tuple[str, torch.Tensor]]:
    """The places of all float tensors, each memory once; ValueError lists what the vector moves and has none.

    The model must hold the stored bits there, which proves that transformers put everything where it says.
    """
    root, layout = _root(checkpoint), checkpoint.layout
    found, lines, result, seen = _by_published_name(root, model), [], [], set()
    names = [n for n in root.names if root.dtype_name(n) in files.FLOATS and n not in layout.ignored]
    # stable: the embedding before the head that is tied to it
    for name in sorted(names, key=lambda n: layout[n].module == "head"):
        place = found.get(layout.published(name))
        if place is None:
            if checkpoint is not root and not checkpoint.is_carried(name):
                lines.append(f"{name}   has no place in {type(model).__name__}")
        elif tuple(place.shape) != checkpoint.shape(name):
            lines.append(f"{name}   stored {checkpoint.shape(name)}, in the model {tuple(place.shape)}")
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
            f"{len(lines)} of {len(names)} tensors of {root.label} did not reach the model:\n  "
            + "\n  ".join(lines)
            + "\nSave a merged model instead, or report this architecture."
        )
    return result


def _by_published_name(root: Checkpoint, model) -> dict[str, torch.Tensor]:
    """Every place under the one name that its tensor has, whoever saved it."""
    found = places(model)
    names = Layout.of(root.config, list(found), {name: tuple(t.shape) for name, t in found.items()})
    return {names.published(name): place for name, place in found.items()}


def _differing(place: torch.Tensor, cp: Checkpoint, name: str) -> int:
    """How many elements of a place are not the CP's, rounded to its dtype, bit for bit."""
    stored = cp.read(name).to(place.dtype)
    here = place.detach()[: stored.shape[0]] if stored.dim() else place.detach()
    found, wanted = (raw(t.cpu().contiguous()).reshape(-1).view(np.uint8) for t in (here, stored))
    if np.array_equal(found, wanted):
        return 0
    return int((found != wanted).reshape(-1, place.dtype.itemsize).any(axis=1).sum())
