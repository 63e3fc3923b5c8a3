"""Token by token: from prompts as token ids to replies as token ids.

A loop of our own over `model.forward`, since `generate` spends more time around a small model than in it.
Rows are padded on the left, positions count only real tokens, and a finished row leaves the batch at once.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from chatvec_lab.evaluation.asking.responses import Decoding, random_stream

__all__ = ["Reply", "decode", "draws"]


@dataclass
class Reply:
    """Token ids of one reply, without the token that ended it, and why it ended."""

    ids: list[int]
    finish_reason: str = ""  # "stop" or "length"


def draws(seed: int, keys: Sequence[tuple], steps: int) -> np.ndarray:
    """Uniform numbers (len(keys), steps), each row a function of the seed and its own key alone.

    Thus a sampled reply does not depend on what else is in its batch.
    """
    return np.stack([random_stream(seed, key).random(steps) for key in keys])


@torch.inference_mode()
def decode(
    model,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    limits: Sequence[int],
    end_ids: frozenset[int],
    uniforms: np.ndarray | None = None,
    text_of: Callable[[list[int]], str] | None = None,
) -> list[Reply]:
    """One reply a prompt, decoded together in one batch.

    prompts: token ids, none empty. limits: the most tokens for each reply, at least 1.
    uniforms: (prompts, steps) in [0, 1), needed unless greedy. text_of: decodes ids, needed for stop strings.
    """
    ids, mask = _left_padded(prompts, model.device)  # (batch, width)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    forward = _cached_forward(model)
    seen = _seen(ids, mask, model) if decoding.repetition_penalty != 1 else None
    uniforms = None if decoding.is_greedy else torch.as_tensor(uniforms, device=model.device)
    replies = [Reply([]) for _ in prompts]
    rows = list(range(len(prompts)))  # the prompts still in the batch
    step = 0
    while True:
        logits = forward(ids, mask, positions)  # (batch, vocabulary)
        if seen is not None:
            logits = _penalised(logits, seen, decoding.repetition_penalty)
        chosen = logits.argmax(-1) if decoding.is_greedy else _sampled(logits, decoding, uniforms[rows, step])
        kept = []
        for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            reply = replies[row]
            if token in end_ids:
                reply.finish_reason = "stop"
                continue
            reply.ids.append(token)
            if decoding.stop and _stops(reply.ids, decoding.stop, text_of):
                reply.finish_reason = "stop"
            elif len(reply.ids) >= limits[row]:
                reply.finish_reason = "length"
            else:
                kept.append(place)
        if not kept:
            return replies
        step += 1
        if len(kept) < len(rows):
            rows = [rows[place] for place in kept]
            kept = torch.tensor(kept, device=model.device)
            chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
            seen = seen if seen is None else seen[kept]
            forward.cache.batch_select_indices(kept)
        ids = chosen[:, None]
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        if seen is not None:
            seen.scatter_(1, ids, True)


def _stops(ids: list[int], stop: Sequence[str], text_of) -> bool:
    """Whether a stop string has just been completed; only the tail is decoded, at least a token a byte."""
    tail = text_of(ids[-4 * max(map(len, stop)) - 8 :])
    return any(text in tail for text in stop)


def _left_padded(prompts, device):
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _cached_forward(model):
    """A function (ids, mask, positions) -> logits of the last position, with its cache as an attribute.

    Raises ValueError for recurrent models, whose state padding would change.
    """
    from transformers import DynamicCache

    if getattr(model, "_is_stateful", False):
        raise ValueError(
            f"{type(model).__name__} keeps a recurrent state, which padded batches would change. Serve the model and "
            "use `respond_served` instead."
        )
    cache = DynamicCache(config=model.config.get_text_config())
    parameters = inspect.signature(model.forward).parameters
    cache_name = "cache" if "cache" in parameters else "past_key_values"  # renamed in transformers 5

    def forward(ids, mask, positions):
        # ALiBi models (BLOOM, MPT) take positions from the mask
        where = {"position_ids": positions} if "position_ids" in parameters else {}
        output = model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=True,
            logits_to_keep=1,
            **where,
            **{cache_name: cache},
        )
        return output.logits[:, -1].float()

    forward.cache = cache
    return forward


def _seen(ids, mask, model):
    """Which tokens each row holds already, padding aside: (batch, vocabulary), bool."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    seen = torch.zeros(len(ids), vocabulary, dtype=torch.long, device=ids.device)
    return seen.scatter_add_(1, ids, mask).bool()


def _penalised(logits, seen, penalty):
    """Logits with the repetition penalty of CTRL (arXiv 1909.05858), over prompt and reply."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _sampled(logits, decoding: Decoding, uniform):
    """The token at which the cumulative probability passes each row's uniform number."""
    probabilities = torch.softmax(logits.double() / decoding.temperature, dim=-1)
    order = None
    if decoding.top_k is not None or decoding.top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        if decoding.top_k is not None:
            probabilities[:, decoding.top_k :] = 0
            probabilities /= probabilities.sum(-1, keepdim=True)
        if decoding.top_p < 1:
            before = probabilities.cumsum(-1) - probabilities
            probabilities[before >= decoding.top_p] = 0
    cumulative = probabilities.cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    # right=True: a token of probability 0 is never chosen
    place = torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[-1] - 1)
    return (place if order is None else order.gather(1, place)).squeeze(1)
