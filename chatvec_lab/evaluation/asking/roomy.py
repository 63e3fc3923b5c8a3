"""A cache of keys and values that writes a token where there is room for it, instead of copying all that it holds.

transformers' own grows by concatenation: on a small model a fifth of a token's time is that copy.
"""

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
        whole = length + key_states.shape[-2]
        if not length:
            self.make_room(key_states, value_states, len(key_states), whole)
        elif whole > self._with_room[0].shape[-2]:
            self._with_room = [_longer(held, whole + ROOM) for held in self._with_room]
        for held, new in zip(self._with_room, (key_states, value_states), strict=True):
            held[..., length:whole, :] = new
        self.keys, self.values = (held[..., :whole, :] for held in self._with_room)
        return self.keys, self.values

    def make_room(self, keys, values, rows, tokens):
        """Hold so many rows and tokens, not written yet, of the same heads and dimensions as these."""
        self.lazy_initialization(keys, values)
        self._with_room = [
            new.new_empty(rows, new.shape[1], tokens + ROOM, new.shape[-1]) for new in (keys, values)
        ]
        self.keys, self.values = (held[..., :tokens, :] for held in self._with_room)

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
    """Whether all layers are of this file, so that its rows can be read in pieces (`of_rows`)."""
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(type(layer) is _RoomyLayer for layer in layers)


def of_rows(cache: Cache, rows: slice, of: tuple[int, int]) -> list[DynamicLayer]:
    """Layers through which these rows of an empty cache are read: they are written where they will stand.

    of: rows and tokens of the whole, of which these rows may have fewer; they are padded on the left with zeros.
    """
    return [_SomeRows(layer, rows, of) for layer in cache.layers]


class _SomeRows(DynamicLayer):
    """Rows of another layer, of which all tokens but the last come at once."""

    def __init__(self, whole: _RoomyLayer, rows: slice, of: tuple[int, int]):
        super().__init__()
        self._whole, self._rows, self._of = whole, rows, of

    def update(self, key_states, value_states, *args, **kwargs):
        width, own = self._of[1], key_states.shape[-2]
        if not self._whole.is_initialized:
            self._whole.make_room(key_states, value_states, *self._of)
        views = []
        for held, new in zip(self._whole._with_room, (key_states, value_states), strict=True):
            held[self._rows, :, : width - own] = 0  # what is masked still must be finite
            views.append(held[self._rows, :, width - own : width])
            views[-1].copy_(new)
        self.keys, self.values = views
        self.is_initialized = True
        return self.keys, self.values


def _longer(held, length):
    longer = held.new_empty(*held.shape[:-2], length, held.shape[-1])
    longer[..., : held.shape[-2], :] = held
    return longer
