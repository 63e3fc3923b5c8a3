"""Which tensors a choice means, and what is said of a choice that means nothing."""

import pytest
import torch

from chatvec_lab import Checkpoint
from chatvec_lab.weights.layout import Part
from chatvec_lab.weights.selection import Selection

PARTS = {
    "model.embed_tokens.weight": Part("text", None, "embedding", None, "vocabulary"),
    "model.layers.0.self_attn.k_proj.weight": Part("text", 0, "attention", "k"),
    "model.layers.0.post_attention_layernorm.weight": Part("text", 0, "norm"),
    "model.layers.1.mlp.up_proj.weight": Part("text", 1, "mlp", "up"),
    "model.layers.10.mlp.up_proj.weight": Part("text", 10, "mlp", "up"),
    "vision_tower.layers.0.attn.q_proj.weight": Part("vision", 0, "attention", "q"),
}
ATTENTION, NORM, VISION = list(PARTS)[1], list(PARTS)[2], list(PARTS)[5]


def chosen(layers=None, modules=None, components=None) -> list[str]:
    selection = Selection(lambda: PARTS, layers, modules, components)
    return [name for name, part in PARTS.items() if selection(name, part)]


@pytest.fixture(scope="module")
def tau(families):
    base, chat, _ = map(Checkpoint, families("llama"))
    return chat - base


@pytest.mark.parametrize("layers", [[1], range(1, 2), slice(1, 2), "1", "1-1", 1])
def test_layers_are_numbers_not_prefixes(tau, layers):
    part = tau.select(layers=layers)
    for name in tau.names:
        expected = tau.read(name) if ".layers.1." in name else 0 * tau.read(name)
        assert torch.equal(part.read(name), expected)
    assert chosen(layers=layers) == ["model.layers.1.mlp.up_proj.weight"]


@pytest.mark.parametrize(
    "layers", ["a", "1-", "3-1", "", [-1], slice(-2, None), [0.5], 0.5, b"1", [True], "1-99999999999"]
)
def test_a_choice_of_layers_that_cannot_be_read(layers):
    with pytest.raises(ValueError, match="layers="):
        chosen(layers=layers)


@pytest.mark.parametrize("layers", ["7-9", 2, [0, 11], range(0, 3), "0-999999999", slice(11, 20)])
def test_layers_that_are_not_there(layers):
    with pytest.raises(ValueError, match="layers 0 to 10"):
        chosen(layers=layers)


def test_a_slice_may_reach_beyond_the_end_as_python_has_it():
    assert chosen(layers=slice(1, 99)) == chosen(layers=[1, 10])


def test_layers_count_the_text_unless_another_component_is_named():
    assert chosen(layers=0) == [ATTENTION, NORM]
    assert chosen(layers=0, components="vision") == [VISION]
    assert chosen(modules="attention") == [ATTENTION, VISION]
    assert chosen(components="text|vision") == list(PARTS)
    with pytest.raises(ValueError, match="layers 0 to 0"):
        chosen(layers=1, components="vision")


def test_modules_by_kind_or_by_pattern():
    assert NORM not in chosen(modules="attention")  # though its name has the word
    assert chosen(layers=0, modules="attention|norm") == [ATTENTION, NORM]
    assert chosen(modules=["mlp", "post_attention"])[0] == NORM
    assert chosen(modules=r"k_proj|up_proj") == [ATTENTION, *list(PARTS)[3:5]]
    assert chosen(modules=r"(k|up)_proj") == chosen(modules=r"k_proj|up_proj")


@pytest.mark.parametrize(
    "choice, near",
    [
        ({"modules": "atention"}, "attention"),
        ({"modules": "atention|mlp"}, "attention"),  # the other alternative fits
        ({"modules": ["norm", "embeding"]}, "embedding"),
        ({"components": "vison"}, "vision"),
    ],
)
def test_a_misspelt_word_is_named_with_its_neighbour(choice, near):
    with pytest.raises(ValueError, match=f"fits no tensor.*{near}.*There are: "):
        chosen(**choice)


@pytest.mark.parametrize(
    "choice", [{"modules": "router"}, {"layers": 0, "modules": "mlp"}, {"modules": "head"}]
)
def test_known_words_that_meet_nothing(choice):
    with pytest.raises(ValueError, match="selects nothing"):
        chosen(**choice)
    if "layers" not in choice:  # beside others a kind that this model lacks is no mistake
        assert chosen(modules=f"{choice['modules']}|mlp") == chosen(modules="mlp")


@pytest.mark.parametrize("modules", ["(", "", ["mlp", ""], "*mlp"])
def test_a_pattern_that_is_none(modules):
    with pytest.raises(ValueError, match="modules="):
        chosen(modules=modules)


def test_a_vector_that_touches_nothing_is_never_saved(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama"))
    tau = chat - base
    for nothing in (
        tau.select(modules="atention"),
        tau.scheduled(lambda layer, module: 0.0),
        tau.select(layers="7-9"),
    ):
        with pytest.raises(ValueError, match=r"fits no tensor|touches no tensor|not all there"):
            (cp + nothing).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    assert (cp + 0 * tau).save(tmp_path / "zero", progress=False).changed == 0  # asked for
