"""The layers of a decoder, found from its own structure, and what stands behind the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def decoder_layers(model) -> list[torch.nn.Module]:
    """The decoder's layers, in order: the one list of as many modules as the config has layers.

    Raises ValueError naming the class where there is none, or more than one, so that nothing says which.
    """
    from torch.nn import ModuleList

    config = model.config.get_text_config(decoder=True)
    number = getattr(config, "num_hidden_layers", None)
    decoder = model.get_decoder()
    lists = {name: m for name, m in decoder.named_modules() if isinstance(m, ModuleList) and len(m) == number}
    outer = {n: m for n, m in lists.items() if not any(n.startswith(f"{o}.") for o in lists if o != n)}
    if len(outer) != 1:
        found = f"has {len(outer)} lists of {number} modules ({', '.join(outer)})" if outer else (
            f"has no list of {number} modules")  # fmt: skip
        raise ValueError(
            f"{type(model).__name__} cannot be read layer by layer: its decoder {type(decoder).__name__} {found}, "
            "where one list of layers was expected."
        )
    return list(next(iter(outer.values())))


@contextmanager
def forwards(layers: list, made: Callable[[int, Callable], Callable]) -> Iterator[None]:
    """Each layer's forward replaced by `made(number, forward)`, and put back."""
    before = [layer.__dict__.get("forward") for layer in layers]
    try:
        for i, layer in enumerate(layers):
            layer.forward = made(i, layer.forward)
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                layer.__dict__.pop("forward", None)
            else:  # one that was replaced before, as accelerate does
                layer.forward = own


def hidden(output: Any) -> torch.Tensor:
    """The hidden states of what a layer gives: a tensor, or the first of a tuple."""
    return output[0] if isinstance(output, tuple | list) else output


def with_hidden(output: Any, states: torch.Tensor) -> Any:
    """What a layer gives, with other hidden states."""
    return type(output)([states, *output[1:]]) if isinstance(output, tuple | list) else states


@contextmanager
def checkpointed(model) -> Iterator[None]:
    """Only what enters each layer is kept for the gradient, and the rest computed again: a layer's memory, not all's."""
    from torch.utils.checkpoint import checkpoint

    def made(number: int, forward: Callable) -> Callable:
        return lambda *given, **named: checkpoint(forward, *given, use_reentrant=False, **named)

    with forwards(decoder_layers(model), made):
        yield
