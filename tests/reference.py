"""An exact reference that shares nothing with the package: rational numbers, and 'is this the nearest?'."""

from __future__ import annotations

from fractions import Fraction

import torch


def fractions(tensor: torch.Tensor) -> list[Fraction]:
    return [Fraction(x) for x in tensor.to(torch.float64).reshape(-1).tolist()]


def wrongly_rounded(result: torch.Tensor, exact: list[Fraction]) -> int:
    """How many elements are not the value of `exact` rounded once, to nearest with ties to even.

    Looks at each element's two neighbours in its own format instead of computing a rounding.
    """
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[result.element_size()]
    bits = result.contiguous().reshape(-1).view(whole)
    up, down = (neighbour.view(result.dtype) for neighbour in (bits + 1, bits - 1))
    even = (bits % 2 == 0).tolist()
    wrong = 0
    for value, above, below, is_even, target in zip(
        fractions(result), up.double().tolist(), down.double().tolist(), even, exact, strict=True
    ):
        error = abs(value - target)
        for other in (above, below):
            if other != other or other in (float("inf"), float("-inf")) or value == 0 == target:
                continue
            theirs = abs(Fraction(other) - target)
            if theirs < error or (theirs == error and other != value and not is_even):
                wrong += 1
                break
    return wrong


def formula(cp: torch.Tensor, pairs: list[tuple[float, torch.Tensor, torch.Tensor]]) -> list[Fraction]:
    """cp + sum of scale * (chat - base), exactly."""
    total = fractions(cp)
    for scale, chat, base in pairs:
        deltas = zip(fractions(chat), fractions(base), strict=True)
        total = [t + Fraction(scale) * (c - b) for t, (c, b) in zip(total, deltas, strict=True)]
    return total


def tokens_of(folder) -> dict[str, int]:
    import json

    return json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]


def state(folder) -> dict[str, torch.Tensor]:
    """All stored tensors of a folder, by the libraries' own loaders."""
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    for file in sorted(folder.glob("pytorch_model*.bin")):
        tensors |= torch.load(file, weights_only=True)
    return tensors
