"""Attribution is the integral of central differences, part by part, and adds up to what the vector does."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from looked_at import PAIRS, family, live_of, opened
from pico import CP_TOKENS, SPECIAL, TOKENS
from transformers import AutoModelForCausalLM

from chatvec_lab import Checkpoint, lens
from chatvec_lab.lens import Pair
from chatvec_lab.live import LiveModel

NODES, STEP = 200, 1e-2
KINDS = {r"embed": "embedding", r"lm_head|embed_out": "head", r"norm": "norm", r"attn|attention": "attention",
         r"router|mlp\.gate\.|moe\.gate": "router", r"mlp|experts": "mlp"}  # fmt: skip
PROJECTIONS = r"[qkvo]_proj|gate_proj|up_proj|down_proj|norm|embed_tokens|lm_head"


def weights(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    model.set_experts_implementation("eager")  # the fused product has no kernel for float64
    return model, {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def vector(folders):
    """cp's model, its weights and the vector in float64, rows of tables paired by token."""
    (_, base), (_, chat), (model, cp) = map(weights, folders)
    tau = {}
    ids = [Checkpoint(f).vocabulary.tokens for f in folders]
    for name, tensor in cp.items():
        if tensor.shape == base[name].shape and ids[0] == ids[2]:
            tau[name] = chat[name] - base[name]
        elif tensor.shape[1:] == base[name].shape[1:] and re.search("embed|head", name):
            tau[name] = torch.zeros_like(tensor)
            for token, row in ids[2].items():
                if token in ids[0]:
                    tau[name][row] = chat[name][ids[0][token]] - base[name][ids[0][token]]
        else:
            tau[name] = chat[name] - base[name]
    return model, cp, tau


def f(model, pairs=PAIRS):
    """Mean over the pairs of the mean log probability of what is said, in one batch, padded behind."""
    width = max(len(pair.asked) + len(pair.said) for pair in pairs)
    texts = [[*pair.asked, *pair.said] for pair in pairs]
    with torch.no_grad():
        nats = model(torch.tensor([ids + [0] * (width - len(ids)) for ids in texts])).logits.log_softmax(-1)
    found = []
    for row, pair in zip(nats, pairs, strict=True):
        places = len(pair.asked) - 1 + torch.arange(len(pair.said))
        found.append(float(row[places, list(pair.said)].mean()))
    return np.mean(found)


def central(folders, scale, part_of):
    """Each part's integral of (f(cp + sτ + ετ_p) − f(cp + sτ − ετ_p)) / 2ε over NODES values of s."""
    model, cp, tau = vector(folders)
    names = {}
    for name in tau:
        names.setdefault(part_of(name), []).append(name)
    parameters = dict(model.named_parameters())

    def at(s, part, step):
        with torch.no_grad():
            for name, delta in tau.items():
                parameters[name].copy_(cp[name] + (s + (step if name in part else 0)) * delta)
        return f(model)

    found = dict.fromkeys(names, 0.0)
    for s in (np.arange(NODES) + 0.5) / NODES * scale:
        for part, own in names.items():
            found[part] += (at(s, own, STEP) - at(s, own, -STEP)) / (2 * STEP) * scale / NODES
    return found


def kind_of(name):
    return next(kind for pattern, kind in KINDS.items() if re.search(pattern, name))


def compare(attributed, key, wanted, tolerance=1e-3, floor=1e-3):
    table = attributed.means
    keys = zip(*(table[column] for column in key), strict=True)
    found = dict(zip(keys if len(key) > 1 else table[key[0]], table.attribution, strict=True))
    assert found.keys() == wanted.keys()
    size = sum(map(abs, wanted.values()))
    for part, value in wanted.items():
        assert abs(found[part] - value) <= tolerance * max(abs(value), floor * size), (
            part,
            found[part],
            value,
        )


@pytest.mark.parametrize(
    ("kind", "options", "scale"),
    [
        ("gpt_neox", {}, 0.8),
        ("qwen2", {"tied": True, "cp_tokens": CP_TOKENS}, -0.6),
        pytest.param("mixtral", {"step": 0.01}, 0.7, marks=pytest.mark.slow),
        pytest.param("mixtral", {"step": 0.01, "experts": 3}, 0.7, marks=pytest.mark.slow),
    ],
    ids=["plain", "tied, other tokens", "experts, chosen", "experts, all"],
)
def test_modules_are_the_integral_of_central_differences(kind, options, scale, tmp_path):
    experts = options.get("experts")
    folders = family(
        tmp_path, kind, dtype=torch.float32, **{k: v for k, v in options.items() if k != "experts"}
    )
    for file in [folder / "config.json" for folder in folders if experts]:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"num_experts_per_tok": experts}))
    found = lens.attribution(live_of(folders, "float64"), PAIRS, scale, by="module", nodes=16)
    assert found.is_complete
    # where a router changes its choice the function jumps, which no gradient sees: 2 % of all parts, as for completeness
    limits = {"tolerance": 0.02, "floor": 1} if kind == "mixtral" and not experts else {}
    compare(found, ["module"], central(folders, scale, kind_of), **limits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_layers_and_projections_are_the_integral_of_central_differences(kind, tmp_path):
    folders = family(tmp_path, kind, dtype=torch.float32, tied=kind == "gemma")
    found = lens.attribution(live_of(folders, "float64"), PAIRS, 0.8, nodes=16)

    def part_of(name):
        layer = re.search(r"layers\.(\d+)\.", name)
        projection = re.search(PROJECTIONS, name)[0].removesuffix("_proj")
        word = {"embed_tokens": "embedding", "lm_head": "head"}.get(projection, projection)
        return (int(layer[1]) if layer else -1, word)

    table = found.means.assign(layer=lambda t: t.layer.fillna(-1).astype(int))
    wanted = central(folders, 0.8, part_of)
    size = sum(map(abs, wanted.values()))
    told = dict(zip(zip(table.layer, table.projection, strict=True), table.attribution, strict=True))
    assert told.keys() == wanted.keys()
    for part, value in wanted.items():
        assert abs(told[part] - value) <= 1e-3 * max(abs(value), 1e-3 * size), part


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return family(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def live(folders):
    return live_of(folders, "float32")


def test_scale_0_gives_zeros(live):
    found = lens.attribution(live, PAIRS, 0.0)
    assert found.parts.attribution.eq(0).all() and len(found.parts) > 20
    assert found.difference == found.total == found.error == found.jump == 0 and found.is_complete
    assert found.path.empty and list(found.path) == [
        "pair",
        "scale",
        "weight",
        "component",
        "layer",
        "module",
        "projection",
        "rate",
    ]


def test_it_adds_up_pair_by_pair_and_along_the_path(live, folders):
    live.scale = 0.4
    needs = {name: parameter.requires_grad for name, parameter in live.model.named_parameters()}
    found = lens.attribution(live, PAIRS, 1.0, nodes=8)
    assert live.scale == 0.4
    assert {name: p.requires_grad for name, p in live.model.named_parameters()} == needs
    assert all(parameter.grad is None for parameter in live.model.parameters())
    each = found.parts.groupby("pair").attribution.sum()
    ends = found.values.set_index("pair")
    np.testing.assert_allclose(each, (ends.end - ends.start).loc[each.index], rtol=1e-3)
    assert found.is_complete and found.error < 1e-3 and 0 < found.change < 0.01
    keys = ["pair", "layer", "projection"]
    again = (found.path.weight * found.path.rate).groupby([found.path[k] for k in keys], dropna=False).sum()
    parts = found.parts.set_index(keys).attribution
    np.testing.assert_allclose(again.sort_index(), parts.sort_index(), rtol=1e-9)
    cp, tau = opened(folders)
    plain = LiveModel(cp, 1.0 * tau, device="cpu", dtype="float32")
    plain.scale = 1.0
    np.testing.assert_allclose(ends.end.mean(), f(plain.model), atol=1e-6)


@pytest.mark.parametrize("by", ["module", "layer", "component", "projection × module", "layer×module"])
def test_coarser_parts_are_the_sums_of_finer_ones(live, by):
    fine = lens.attribution(live, PAIRS[:1], 0.7, by="layer × module × projection", nodes=8, most_nodes=8)
    found = lens.attribution(live, PAIRS[:1], 0.7, by=by, nodes=8, most_nodes=8)
    columns = [word.strip() for word in by.split("×")]
    wanted = fine.parts.groupby(columns, dropna=False).attribution.sum().sort_index()
    told = found.parts.groupby(columns, dropna=False).attribution.sum().sort_index()
    assert len(found.parts) == len(wanted)
    pd.testing.assert_series_equal(told, wanted, rtol=1e-6)


def test_the_mean_of_the_pairs_is_that_of_each(live, monkeypatch):
    each = lens.attribution(live, PAIRS, 0.7, nodes=4)
    mean = lens.attribution(live, PAIRS, 0.7, nodes=4, by_pair=False)
    assert mean.parts["pair"].isna().all() and len(mean.parts) == len(each.parts) / 2
    pd.testing.assert_frame_equal(mean.means, each.means, rtol=1e-4)
    monkeypatch.setattr("chatvec_lab.lens.measures._HELD", 1)  # no two texts are read together
    pd.testing.assert_frame_equal(
        lens.attribution(live, PAIRS, 0.7, nodes=4, by_pair=False).means, mean.means, rtol=1e-4
    )


def test_checkpointing_changes_nothing(live):
    plain = lens.attribution(live, PAIRS, 0.7, nodes=2, most_nodes=4)
    less = lens.attribution(live, PAIRS, 0.7, nodes=2, most_nodes=4, checkpointing=True)
    pd.testing.assert_frame_equal(plain.parts, less.parts, rtol=1e-5)


def test_the_first_token_is_a_measure_of_its_own(live):
    found = lens.attribution(live, PAIRS, 1.0, measure="first token", by="module", nodes=16)
    short = lens.attribution(
        live, [Pair(p.asked, p.said[:1], p.name) for p in PAIRS], 1.0, by="module", nodes=16
    )
    pd.testing.assert_frame_equal(found.parts, short.parts)
    assert found.is_complete


def test_rows_that_are_the_chat_models_own_are_a_jump_before_the_start(tmp_path):
    marks = ["<|im_start|>", "<|im_end|>"]
    reserved = {"tokens": SPECIAL + TOKENS + marks, "special": SPECIAL + marks, "dtype": torch.float32}
    folders = family(tmp_path, **reserved)

    def untrained(folder):  # the CP's rows are the base's: never trained
        from safetensors.torch import load_file, save_file

        theirs, ours = (load_file(f / "model.safetensors") for f in (folders[0], folder))
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            ours[name][63:] = theirs[name][63:]
        save_file(ours, folder / "model.safetensors", metadata={"format": "pt"})

    untrained(folders[2])
    pairs = [Pair([1, 63, 9], [64, 7], "marks")]
    live = live_of(folders, "float32", copy_special=True)
    found = lens.attribution(live, pairs, 0.8, nodes=16)
    assert abs(found.jump) > 1e-3 and found.is_complete and "before the start" in str(found)
    start, end = found.values.start.item(), found.values.end.item()
    np.testing.assert_allclose(found.values.cp.item(), f(live.model, pairs), atol=1e-6)
    assert any(slot.rows.get(1) for slot in live.slots)
    with live.at(1e-12):
        np.testing.assert_allclose(start, f(live.model, pairs), atol=1e-6)
    with live.at(0.8):
        np.testing.assert_allclose(end, f(live.model, pairs), atol=1e-6)
    plain = lens.attribution(live_of(folders, "float32"), pairs, 0.8, nodes=16)
    assert plain.jump == 0 and plain.difference != pytest.approx(found.difference, rel=1e-3)


def test_what_does_not_settle_is_said_to_be_incomplete(live):
    once = lens.attribution(live, PAIRS, 1.0, nodes=1, most_nodes=1)
    assert once.change == np.inf and not once.is_complete and "nothing of it is shown" in str(once)
    twice = lens.attribution(live, PAIRS, 6.0, nodes=1, most_nodes=2)
    assert twice.nodes == 2 and not twice.is_complete and twice.change > 0.01


def test_what_cannot_be_attributed_is_told(live, folders):
    with pytest.raises(ValueError, match="bfloat16 weights, whose rounding"):
        lens.attribution(live_of(folders), PAIRS, 1.0)
    with pytest.raises(ValueError, match="by='layers': expected some of component, layer"):
        lens.attribution(live, PAIRS, 1.0, by="layers")
    with pytest.raises(ValueError, match="measure='loss': expected one of 'reply', 'first token'"):
        lens.attribution(live, PAIRS, 1.0, measure="loss")
    with pytest.raises(ValueError, match="1 <= nodes <= most_nodes"):
        lens.attribution(live, PAIRS, 1.0, nodes=0)
    cp, tau = opened(folders)
    with pytest.raises(ValueError, match="moves no weight"):
        lens.attribution(LiveModel(cp, tau.chat_side_only(), device="cpu", dtype="float32"), PAIRS, 1.0)
