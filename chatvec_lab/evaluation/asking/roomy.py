"""A cache of keys and values that writes a token where there is room for it, instead of copying all that it holds.

transformers' own grows by concatenation: on a small model a fifth of a token's time is that copy.
"""

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 32  # tokens that are allocated ahead


def with_room(cache: Cache) -> Cache:
    """The same empty cache, whose plain layers have room ahead; others (sliding, recurrent) stay as they are.

    >>> from transformers import DynamicCache, LlamaConfig
    >>> cache = with_room(DynamicCache(config=LlamaConfig(num_hidden_layers=1)))
    >>> keys = torch.ones(2, 4, 7, 8)  # (rows, heads, tokens, dimensions)
    >>> [tuple(cache.update(keys, keys, 0)[0].shape) for _ in range(2)]
    [(2, 4, 7, 8), (2, 4, 14, 8)]
    """
    cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _RoomyLayer(DynamicLayer):
    """`keys` and `values` are views of all but the room."""

    def update(self, key_states, value_states, *args, **kwargs):
        length = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        whole = length + key_states.shape[-2]
        if not length or whole > self._with_room[0].shape[-2]:
            self._with_room = [
                _longer(held, new, whole + ROOM)
                for held, new in ((self.keys, key_states), (self.values, value_states))
            ]
        for held, new in zip(self._with_room, (key_states, value_states), strict=True):
            held[..., length:whole, :] = new
        self.keys, self.values = (held[..., :whole, :] for held in self._with_room)
        return self.keys, self.values

    def batch_select_indices(self, indices) -> None:
        """Keep these rows, in place where others only fill gaps among those that stay (`decoding._closed_up`)."""
        if not (length := self.get_seq_length()):
            return
        places = torch.arange(len(indices), device=indices.device)
        moved = (indices != places).nonzero()[:, 0]
        if (indices[moved] >= len(indices)).all():
            for held in self._with_room:
                held[moved] = held[indices[moved]]
            self._with_room = [held[: len(indices)] for held in self._with_room]
        else:
            self._with_room = [held[indices] for held in self._with_room]
        self.keys, self.values = (held[..., :length, :] for held in self._with_room)


def has_room(cache: Cache | None) -> bool:
    """Whether all layers are of this file, so that caches of different prompts can be put together by `join`."""
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(type(layer) is _RoomyLayer for layer in layers)


def join(cache: Cache, parts: Sequence[Cache]) -> None:
    """Fill an empty cache with the rows of others, one below the other; shorter ones are padded on the left with zeros."""
    for number, layer in enumerate(cache.layers):
        layers = [part.layers[number] for part in parts]
        if not all(part.is_initialized for part in layers):  # of a layer that reads another's keys
            continue
        layer.lazy_initialization(layers[0].keys, layers[0].values)
        layer.keys, layer.values = (
            _below_each_other([getattr(p, name) for p in layers]) for name in ("keys", "values")
        )
        layer._with_room = [layer.keys, layer.values]


def _below_each_other(parts):
    width, (_, heads, _, dimensions) = max(part.shape[2] for part in parts), parts[0].shape
    whole = parts[0].new_zeros(sum(map(len, parts)), heads, width, dimensions)
    first = 0
    for part in parts:
        whole[first : first + len(part), :, width - part.shape[2] :] = part
        first += len(part)
    return whole


def _longer(held, new, length):
    longer = new.new_empty(*new.shape[:-2], length, new.shape[-1])
    if held.numel():
        longer[..., : held.shape[-2], :] = held
    return longer
