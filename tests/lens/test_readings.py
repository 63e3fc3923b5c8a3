"""Each layer's reading is head(final norm(its states)), the last layer's the model's own logits."""

import numpy as np
import pandas as pd
import pytest
import torch
from looked_at import PAIRS, family, live_of, logits_of, saved

from chatvec_lab import lens
from chatvec_lab.lens.layers import decoder_layers
from chatvec_lab.lens.readings import layer_logits

# the final norm and the head, by the names that these classes give them
BEHIND = {
    "llama": lambda m, h: m.lm_head(m.model.norm(h)),
    "gemma": lambda m, h: m.lm_head(m.model.norm(h)),
    "qwen2": lambda m, h: m.lm_head(m.model.norm(h)),
    "mixtral": lambda m, h: m.lm_head(m.model.norm(h)),
    "phi3": lambda m, h: m.lm_head(m.model.norm(h)),
    "gpt_neox": lambda m, h: m.lm_head(m.gpt_neox.final_layer_norm(h)) if hasattr(m, "lm_head") else (
        m.embed_out(m.gpt_neox.final_layer_norm(h))),
}  # fmt: skip


def states(model, pair):
    """What each layer gives, by transformers' own hidden_states: the last of those is behind the norm."""
    ids = torch.tensor([[*pair.asked, *pair.said]])
    caught = []
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)
    hooks = [
        x.register_forward_hook(lambda m, i, o: caught.append(o[0] if isinstance(o, tuple) else o))
        for x in layers
    ]
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(caught[0], hidden[1])
    return [state[:, len(pair.asked) - 1 : -1] for state in caught]


@pytest.mark.parametrize("kind", list(BEHIND))
def test_each_layer_is_read_through_the_norm_and_the_head(kind, tmp_path):
    folders = family(tmp_path, kind, tied=kind == "gemma")
    table = lens.readings(live_of(folders), PAIRS, [0.0, 0.8])
    for scale in (0.0, 0.8):
        model = saved(folders, scale, tmp_path / f"{scale}")
        for pair in PAIRS:
            with torch.no_grad():
                each = [BEHIND[kind](model, h)[0].double().log_softmax(-1) for h in states(model, pair)]
            final = logits_of(model, pair).log_softmax(-1)
            torch.testing.assert_close(each[-1], final, atol=1e-5, rtol=1e-5)
            for layer, logp in enumerate(each):
                told = table[(table.scale == scale) & (table["pair"] == pair.name) & (table.layer == layer)]
                apart = (final.exp() * (final - logp)).sum(-1)
                np.testing.assert_allclose(told.divergence, apart, atol=1e-5)
                np.testing.assert_allclose(told.probability, logp.max(-1).values.exp(), atol=1e-5)
                np.testing.assert_allclose(
                    told.token_probability, [logp[i, t].exp() for i, t in enumerate(pair.said)], atol=1e-5
                )
                assert told.read_id.tolist() == logp.argmax(-1).tolist()
                assert told.is_final.tolist() == (logp.argmax(-1) == final.argmax(-1)).tolist()
    assert table[table.layer == 1].divergence.eq(0).all()


def test_the_last_reading_is_the_models_own_logits_bit_for_bit_also_behind_a_cap(tmp_path):
    """Gemma 2 caps its logits behind the head: what is read has that too."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, head_dim=8,
                          num_key_value_heads=1, intermediate_size=24, final_logit_softcapping=0.05)  # fmt: skip
    model, pair = Gemma2ForCausalLM(config).eval(), lens.Pair([1, 5, 9], [7, 3])
    before = [layer.forward for layer in model.model.layers]
    found = dict(layer_logits(model, pair))
    assert list(found) == [2, 0, 1]
    assert torch.equal(found[2].double(), logits_of(model, pair))
    assert all(logits.abs().max() <= 0.05 for logits in found.values()) and not torch.equal(
        found[0], found[1]
    )
    assert [layer.forward for layer in model.model.layers] == before


def test_where_a_token_is_decided():
    said = [(0, "x"), (1, "y"), (2, "y"), (3, "y")], [(0, "y"), (1, "x"), (2, "x"), (3, "y")]
    rows = [
        {
            "scale": 1.0,
            "pair": "p",
            "position": i,
            "token": "t",
            "layer": layer,
            "read": read,
            "is_final": read == "y",
        }
        for i, one in enumerate(said)
        for layer, read in one
    ]
    found = lens.decisions(pd.DataFrame(rows))
    assert found.layer.tolist() == [1, 3], (
        "a layer that says it too early and changes its mind has not decided"
    )
    assert found.depth.tolist() == [0.5, 1.0] and found["read"].tolist() == ["y", "y"]


def test_a_model_whose_layers_are_not_found_is_named():
    from transformers import LlamaConfig, LlamaForCausalLM, XLMConfig, XLMWithLMHeadModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
    assert decoder_layers(llama) == list(llama.model.layers)
    llama.model.layers = torch.nn.ModuleList(llama.model.layers[:1])
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM cannot be read .* LlamaModel has no list of 2 modules"
    ):
        decoder_layers(llama)
    xlm = XLMWithLMHeadModel(XLMConfig(vocab_size=50, emb_dim=16, n_layers=2, n_heads=2))
    with pytest.raises(
        ValueError, match=r"XLMWithLMHeadModel cannot be read .* lists of 2 modules \(attentions"
    ):
        decoder_layers(xlm)


def test_a_layer_that_is_used_twice_or_not_at_all_is_told():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model, pair = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes)).eval(), lens.Pair([1], [2, 3])
    first, second = model.model.layers
    model.model.layers = torch.nn.ModuleList([first, first])
    with pytest.raises(ValueError, match="uses a layer twice"):
        list(layer_logits(model, pair))
    model.model.layers = torch.nn.ModuleList([first, second])
    model.config.num_hidden_layers = 2
    model.model.norm.forward = lambda states: torch.randn_like(states)  # its logits come from elsewhere
    with pytest.raises(ValueError, match="do not follow from what its last layer"):
        list(layer_logits(model, pair))
