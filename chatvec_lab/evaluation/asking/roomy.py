"""A cache of keys and values that writes a token where there is room for it, instead of copying all that it holds.

transformers' own grows by concatenation: on a small model half of a token's time is that copy.
"""

from transformers.cache_utils import Cache, DynamicLayer

ROOM = 32  # tokens that are allocated ahead


def with_room(cache: Cache) -> Cache:
    """The same empty cache, whose plain layers have room ahead; others (sliding, recurrent) stay as they are.

    >>> import torch
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
        if length := self.get_seq_length():
            self._with_room = [held[indices] for held in self._with_room]
            self.keys, self.values = (held[..., :length, :] for held in self._with_room)


def _longer(held, new, length):
    longer = new.new_empty(*new.shape[:-2], length, new.shape[-1])
    if held.numel():
        longer[..., : held.shape[-2], :] = held
    return longer
