"""What each layer of a model would say: its hidden states read by all that stands behind the last layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from chatvec_lab.lens.distributions import chunks, kl, log_probabilities, shown, tokens_of
from chatvec_lab.lens.layers import decoder_layers, forwards, hidden, with_hidden
from chatvec_lab.lens.pairs import Pair, checked, finite

if TYPE_CHECKING:
    import torch
    from pandas import DataFrame

    from chatvec_lab.live import LiveModel


def readings(live: LiveModel, pairs: Iterable[Pair], scales: Iterable[float]) -> DataFrame:
    """What each layer would say before each token that is said, a row a scale, pair, position and layer.

    Columns: scale, pair, position (from 0), layer (from 0), token_id and token (what is said in the text), read_id and
    read (what the layer would say: its likeliest token), probability (of that), token_probability (of the text's token),
    divergence (KL(last layer ‖ this layer), nats), is_final (whether the layer would say what the last one says).

    A layer's states are put in the place of the last one's, and the model's own code does the rest: its final norm,
    its head and whatever it does to the logits. So the last layer's reading is the model's own, and no norm is applied
    twice. **Turns the model**, and back. Raises ValueError naming the class of a model whose layers are not found, or
    whose logits depend on something else than the last layer's states.
    """
    import pandas as pd

    found, scales, rows = checked(live, pairs), finite(scales), []
    for scale in scales:
        with live.computing(scale) as model:
            for name, pair in found.items():
                for row in _read(model, live.tokenizer, pair):
                    rows.append({"scale": scale, "pair": name, **row})
    return pd.DataFrame(rows)


def decisions(table: DataFrame) -> DataFrame:
    """Where each token is decided: the first layer from which on all say what the last one says.

    `table`: of `readings`. Columns: scale, pair, position, token, read (the last layer's), layer, and depth (share of
    the layers that it takes: 1 where only the last one says it).
    """
    last = table.layer.max()
    same = table.is_final.iloc[::-1]  # from the last layer to the first
    keys = [table[column] for column in ("scale", "pair", "position")]
    table = table.assign(_is_decided=same.groupby(keys, sort=False).cummin().astype(bool))
    decided = table[table["_is_decided"]].groupby(["scale", "pair", "position"], sort=False).layer.min()
    final = table[table.layer == last].set_index(["scale", "pair", "position"])[["token", "read"]]
    joined = final.join(decided).reset_index()
    return joined.assign(depth=(joined.layer + 1) / (last + 1))


def layer_logits(model, pair: Pair) -> Iterator[tuple[int, torch.Tensor]]:
    """Each layer's number and the logits before each token that is said, as it would give them; the last layer first."""
    import torch

    layers, outputs = decoder_layers(model), {}
    ids = torch.tensor([[*pair.asked, *pair.said]], device=model.device)
    last = len(layers) - 1

    def kept(number: int, forward: Callable) -> Callable:
        def run(*given: Any, **named: Any) -> Any:
            if number in outputs:
                raise ValueError(
                    f"{type(model).__name__} uses a layer twice: it cannot be read layer by layer."
                )
            outputs[number] = forward(*given, **named)
            return outputs[number]

        return run

    def logits(made: Callable) -> torch.Tensor:
        with torch.inference_mode(), forwards(layers, made):
            return model(input_ids=ids, use_cache=False).logits[0, len(pair.asked) - 1 : -1]

    def read(number: int) -> torch.Tensor:
        given = {**outputs, last: with_hidden(outputs[last], hidden(outputs[number]))}
        return logits(lambda i, _: lambda *a, **k: given[i])

    own = logits(kept)
    if sorted(outputs) != list(range(len(layers))):
        raise ValueError(
            f"{type(model).__name__} skips some of its layers: it cannot be read layer by layer."
        )
    if not torch.allclose(read(last), own, rtol=1e-4, atol=1e-4):
        raise ValueError(
            f"{type(model).__name__} cannot be read layer by layer: its logits do not follow from what its last layer "
            "gives."
        )
    yield last, own
    for number in range(last):
        yield number, read(number)


def _read(model, tokenizer, pair: Pair) -> list[dict]:
    table: list[dict] = []
    for number, logits in layer_logits(model, pair):
        rows = max(tokens_of(tokenizer, logits.shape[1]), max(pair.said) + 1)
        each = [log_probabilities(logits[chunk], rows) for chunk in chunks(len(pair.said))]
        if not table:
            final = each
        for chunk, layer, last in zip(chunks(len(pair.said)), each, final, strict=True):
            best, apart = layer.max(-1), kl(last, layer)
            is_final = best.indices == last.argmax(-1)
            for i, token in enumerate(pair.said[chunk]):
                read = int(best.indices[i])
                table.append({
                    "position": chunk.start + i, "layer": number, "token_id": int(token),
                    "token": shown(tokenizer, int(token)), "read_id": read, "read": shown(tokenizer, read),
                    "probability": float(best.values[i].exp()), "token_probability": float(layer[i, token].exp()),
                    "divergence": float(apart[i]), "is_final": bool(is_final[i]),
                })  # fmt: skip
    return sorted(table, key=lambda row: (row["position"], row["layer"]))
