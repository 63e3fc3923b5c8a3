"""A cache of keys and values that writes a token where there is room for it, instead of copying all that it holds.

transformers' own grows by concatenation: on a small model a fifth of a token's time is that copy.
"""

import copy
from collections.abc import Sequence
from itertools import groupby

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


def of_one(cache: Cache) -> Cache:
    """An empty cache of the same layers, for a single row that is read once."""
    return _with(cache, [DynamicLayer() for _ in cache.layers])


def of_rows(
    cache: Cache, rows: slice, of: tuple[int, int], beginning: Cache | None = None, own: Sequence[int] = ()
) -> Cache:
    """A cache through which these rows of an empty one are read: they are written where they will stand.

    of: rows and tokens of the whole, of which these rows may have fewer; they are padded on the left with zeros.
    beginning: a cache of one row, what each of these rows begins with, before the tokens that will be read: of each
      row so many as `own` says, padded on the left.
    """
    begun = beginning.layers if beginning else [None] * len(cache.layers)
    alike = [
        (count, len(list(found))) for count, found in groupby(own)
    ]  # rows in turn that have as many tokens
    pairs = zip(cache.layers, begun, strict=True)
    return _with(cache, [_SomeRows(layer, rows, of, first, alike) for layer, first in pairs])


def _with(cache: Cache, layers: list[DynamicLayer]) -> Cache:
    other = copy.copy(cache)
    other.layers = layers
    return other


class _SomeRows(DynamicLayer):
    """Rows of another layer, of which all tokens but the last come at once."""

    def __init__(
        self,
        whole: _RoomyLayer,
        rows: slice,
        of: tuple[int, int],
        first: DynamicLayer | None,
        alike: Sequence[tuple[int, int]],
    ):
        super().__init__()
        self._whole, self._rows, self._of, self._first, self._alike = whole, rows, of, first, alike
        if first is not None and first.is_initialized:  # what has been seen already
            self.keys, self.values, self.is_initialized = first.keys, first.values, True

    def update(self, key_states, value_states, *args, **kwargs):
        width, seen = self._of[1], self.get_seq_length()
        begin = width - key_states.shape[-2]
        if not self._whole.is_initialized:
            self._whole.make_room(key_states, value_states, *self._of)
        views = []
        for held, new, name in zip(
            self._whole._with_room, (key_states, value_states), ("keys", "values"), strict=True
        ):
            held = held[self._rows]
            held[:, :, :begin] = 0  # what is masked still must be finite
            held[:, :, begin:width] = new
            row = 0
            for count, rows in self._alike if seen else ():  # over what came of padding
                held[row : row + rows, :, width - count - seen : width - count] = getattr(self._first, name)
                row += rows
            views.append(held[:, :, begin - seen : width])
        self.keys, self.values = views
        self.is_initialized = True
        return self.keys, self.values


def _longer(held, length):
    longer = held.new_empty(*held.shape[:-2], length, held.shape[-1])
    longer[..., : held.shape[-2], :] = held
    return longer
