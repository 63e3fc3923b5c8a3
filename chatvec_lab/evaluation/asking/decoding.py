"""Token by token: from prompts as token ids to replies as token ids.

A loop of our own over `model.forward`, since `generate` spends more time around a small model than in it.
Rows are padded on the left, positions count only real tokens, and a finished row leaves the batch at once.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from chatvec_lab.evaluation.asking.prefill import places, prefill
from chatvec_lab.evaluation.asking.responses import Decoding, random_stream
from chatvec_lab.evaluation.asking.roomy import with_room


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
    Models whose replies padding would change (recurrent ones, those that count positions by place) decode one by one.
    So do those without a cache of single tokens, which read prompt and reply anew for each token, slowly.
    An image model around a causal LM is asked as that LM.
    Raises ValueError for models that cannot continue a text alone: encoder-decoders, those that need an image.
    """
    model = _text_model(model)
    if len(prompts) > 1 and _goes_alone(model):
        settings = {"end_ids": end_ids, "text_of": text_of}
        draw = (
            [None] * len(prompts) if uniforms is None else [uniforms[i : i + 1] for i in range(len(prompts))]
        )
        singles = zip(prompts, limits, draw, strict=True)
        return [
            decode(model, [prompt], decoding, limits=[limit], uniforms=own, **settings)[0]
            for prompt, limit, own in singles
        ]
    forward = _cached_forward(model)
    ids, mask, logits = prefill(model, forward, prompts)  # (batch, width) twice, (batch, vocabulary)
    positions = places(mask)
    seen = _seen(ids, mask, model) if decoding.repetition_penalty != 1 else None
    uniforms = None if decoding.is_greedy else torch.as_tensor(uniforms, device=model.device)
    replies = [Reply([]) for _ in prompts]
    rows = list(range(len(prompts)))  # the prompts still in the batch
    step = 0
    while True:
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
            kept = _closed_up(kept)
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
        logits = forward(ids, mask, positions)


def _closed_up(kept: list[int]) -> list[int]:
    """The places that stay, with the last ones in those that became free: little moves.

    >>> _closed_up([0, 3, 4])
    [0, 4, 3]
    """
    count, staying = len(kept), set(kept)
    late = [place for place in kept if place >= count]
    return [place if place in staying else late.pop() for place in range(count)]


def _stops(ids: list[int], stop: Sequence[str], text_of) -> bool:
    """Whether a stop string has just been completed; only the tail is decoded, at least a token a byte."""
    tail = text_of(ids[-4 * max(map(len, stop)) - 8 :])
    return any(text in tail for text in stop)


def _goes_alone(model) -> bool:
    """Whether padding would change the replies: a recurrent state, or positions that count places, not tokens."""
    parameters = inspect.signature(model.forward).parameters
    # ALiBi models take distances from the mask
    counts_places = "position_ids" not in parameters and model.config.model_type not in ("bloom", "mpt")
    # short convolutions keep a state too, which does not leave the batch with its row
    convolves = any("conv" in key and value for key, value in vars(model.config.get_text_config()).items())
    # GIT takes a mask beside a cache for that of a text after an image
    is_odd = counts_places or convolves or model.config.model_type == "git"
    return getattr(model, "_is_stateful", False) or is_odd or _reads_whole(model)


def _text_model(model):
    """The causal LM that an image model is built around, where it is one of transformers' own classes; else the model.

    Text alone reaches nothing else of it, and some of these classes cannot be asked without an image.
    """
    inner = getattr(model, "language_model", None)
    is_whole = (
        hasattr(inner, "can_generate") and inner.can_generate() and inner.get_output_embeddings() is not None
    )
    return inner if is_whole else model


def _cache(model):
    """An empty cache for the model, or None where transformers cannot make one."""
    from transformers import DynamicCache

    try:
        return with_room(DynamicCache(config=model.config.get_text_config()))
    except AttributeError:  # of a config that does not say how many layers there are
        return None


def _reads_whole(model) -> bool:
    """Whether each token needs the whole text again: there is no cache, or none that takes one token at a time."""
    if getattr(model, "_is_stateful", False):
        return model.config.model_type == "recurrent_gemma"  # its state stays in its layers
    parameters = inspect.signature(model.forward).parameters
    # XLM writes where a mask stands at the end; CPM-Ant counts its prompt anew; transformers names the others itself
    is_odd = model.config.model_type in ("xlm", "cpmant") or not _takes_dynamic_cache(model)
    return is_odd or not {"cache", "past_key_values"} & set(parameters) or _cache(model) is None


def _takes_dynamic_cache(model) -> bool:
    takes = getattr(model, "_supports_default_dynamic_cache", None)  # of models that generate
    return takes is None or takes()


def _output(model, **inputs):
    try:
        return model(**inputs)
    except ValueError as error:  # some ask for an image only here
        raise ValueError(f"{type(model).__name__} cannot continue a text alone: {error}") from error


def _whole_forward(model):
    """A function (ids, mask, positions) -> logits of the last position, for one row, whose ids it gathers itself."""
    read: list[torch.Tensor] = []
    carried = {"use_cache": False}
    if model.config.model_type == "cpmant":  # wants the whole text beside its cache
        carried = {"use_cache": True, "cache": _cache(model)}

    def forward(ids, mask, positions):
        read.append(ids)
        output = _output(model, **model.prepare_inputs_for_generation(torch.cat(read, dim=1), **carried))
        if getattr(output, "mems", None) is not None:  # XLNet's
            carried["mems"] = output.mems
        return output.logits[:, -1].float()

    return forward


def _cached_forward(model):
    """A function (ids, mask, positions) -> logits of the last position, with its cache as an attribute.

    It takes another cache as its last argument, for rows that are read by themselves.
    """
    parameters = inspect.signature(model.forward).parameters
    _check_text_alone(model, parameters)
    if _reads_whole(model):
        return _whole_forward(model)
    is_alone, is_stateful = _goes_alone(model), getattr(model, "_is_stateful", False)
    cache_name = "cache" if "cache" in parameters else "past_key_values"  # renamed in transformers 5
    carried = {} if is_stateful else {cache_name: _cache(model)}
    # what a config may ask for training: a loss over the router's logits, which a cache leaves too few of
    wanted = {"logits_to_keep": 1, "output_router_logits": False}
    fixed = {name: value for name, value in wanted.items() if name in parameters}

    def forward(ids, mask, positions, cache=None):
        where = {"position_ids": positions} if "position_ids" in parameters else {}
        where |= {} if is_alone else {"attention_mask": mask}
        held = carried if cache is None else {cache_name: cache}
        output = _output(model, input_ids=ids, use_cache=True, **fixed, **where, **held)
        if is_stateful:  # the model makes its own state, which goes back in with the next token
            names = [name for name in (cache_name, "state") if name in parameters]
            carried.update({name: output[name] for name in names if output.get(name) is not None})
            if not carried:
                raise ValueError(
                    f"{type(model).__name__} gives no state to go on from; no reply can be decoded."
                )
        return output.logits[:, -1].float()

    forward.cache = carried.get(cache_name)
    return forward


def _check_text_alone(model, parameters) -> None:
    kind = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"{kind} reads the prompt with an encoder and writes with a decoder; respond continues prompts. Use its "
            "own `generate`."
        )
    if "diffusion" in model.config.model_type:
        raise ValueError(f"{kind} writes blocks by diffusion, not token by token. Use its own `generate`.")
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    needed = [name for name in needed if name != "input_ids"]
    if needed:
        raise ValueError(f"{kind} needs {' and '.join(needed)} beside the text, which prompts do not have.")
    if not model.can_generate():
        raise ValueError(f"{kind} writes no text: it is no model that transformers generates with.")
    if isinstance(model.get_input_embeddings(), torch.nn.ModuleList):
        raise ValueError(
            f"{kind} reads and writes several codebooks at once, such as codes of sound, not text."
        )


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
