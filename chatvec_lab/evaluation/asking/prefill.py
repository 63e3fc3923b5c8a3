"""Prompts of one batch, read before the first token of a reply.

What all of them begin with (a system prompt, examples) is read once, and its keys and values are given to every row.
Prompts of unlike lengths are read in pieces, which are padded less. Either way a row is where it always is, padded on
the left, so that the model sees what it sees of the row alone.
"""

from collections.abc import Sequence

import numpy as np
import torch

from chatvec_lab.evaluation.asking.roomy import has_room, of_one, of_rows

PIECE = 32  # prompts that are read together where their lengths differ much
SPARED = 128  # tokens that a common beginning must spare: reading it is a pass of its own


@torch.inference_mode()
def prefill(
    model, forward, prompts: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The prompts' ids and where they are no padding, both (rows, tokens), and their last logits (rows, vocabulary).

    prompts: token ids, none empty. forward: of `decoding`, whose empty cache holds all of them afterwards.
    """
    ids, mask = _left_padded(prompts, model.device)
    positions, cache = places(mask), getattr(forward, "cache", None)
    if not has_room(cache) or _turns_by_longest(model):
        return ids, mask, forward(ids, mask, positions)
    shared = _shared(prompts) if _looks_back(model) else 0
    own = [len(prompt) - shared for prompt in prompts]
    pieces = _pieces(own)
    if not shared and len(pieces) == 1:
        return ids, mask, forward(ids, mask, positions)
    beginning = None
    if shared:
        beginning, first = of_one(cache), ids[:1, ids.shape[1] - len(prompts[0]) :][:, :shared]
        forward(first, torch.ones_like(first), places(torch.ones_like(first)), beginning)
    logits = []
    for rows in pieces:
        width = max(own[rows])
        part = of_rows(cache, rows, ids.shape, beginning, own[rows])
        read, seen = (rows, slice(-width, None)), (rows, slice(ids.shape[1] - width - shared, None))
        given = (ids[read], mask[seen], positions[read])
        logits.append(forward(*(tensor.contiguous() for tensor in given), part))
    return ids, mask, torch.cat(logits)


def places(mask: torch.Tensor) -> torch.Tensor:
    """The position of each token in its text, padding aside."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, of which each has more; 0 where reading them once spares little.

    >>> _shared([[1, 2, 3, 4], (1, 2, 5)]), _shared([[*range(200), 7], (*range(200), 8, 9)])
    (0, 200)
    """
    ordered = sorted(map(list, prompts))
    first, last = ordered[0], ordered[-1]  # the two that have the least in common
    most = min(map(len, prompts)) - 1
    count = next((i for i in range(most) if first[i] != last[i]), most)
    return count if count * (len(prompts) - 1) >= SPARED else 0


def _pieces(lengths: Sequence[int]) -> list[slice]:
    """The rows that are read together: all, unless pieces would be padded less by a tenth."""
    starts = range(0, len(lengths), PIECE)
    padded = sum(max(lengths[i : i + PIECE]) * len(lengths[i : i + PIECE]) for i in starts)
    if padded > 0.9 * max(lengths) * len(lengths):
        return [slice(0, len(lengths))]
    return [slice(i, min(i + PIECE, len(lengths))) for i in starts]


def _looks_back(model) -> bool:
    """Whether each token sees those before it alone: then what is known of a beginning holds in every row."""
    told = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    return all(told) if told else getattr(model.config, "is_decoder", True)


def _turns_by_longest(model) -> bool:
    """Whether the longest row decides by which angles all rows' positions turn: pieces would not fit together."""
    kinds = {str(getattr(module, "rope_type", "")) for module in model.modules()}
    return any(name in kind for kind in kinds for name in ("dynamic", "longrope"))


def _left_padded(prompts, device):
    width = max(len(prompt) for prompt in prompts)
    ids, mask = np.zeros((2, len(prompts), width), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
