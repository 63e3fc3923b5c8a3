"""A vector within a larger model: pico vision-language models, their language part and the rest."""

import json
import re

import numpy as np
import pytest
import torch
from pico import SPECIAL, TEMPLATE, TOKENS, config_of, save_model, save_tokenizer
from safetensors.torch import load_file, save_file

from chatvec_lab import Checkpoint, WeightVector, anatomy
from chatvec_lab.__main__ import main
from chatvec_lab.live import LiveModel
from chatvec_lab.weights.saving.provenance import weights_digest
from chatvec_lab.weights.sources.files import Stored
from chatvec_lab.weights.sources.folder import Folder
from chatvec_lab.weights.within import placement

IMAGE = "<image>"
WORDS = SPECIAL + TOKENS + [IMAGE]


def save_llava(folder, language, *, template=None):
    """A tiny LLaVA whose language part is the text model in `language`, with one token more, for images."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=config_of("llama", len(WORDS)),
                         image_token_index=WORDS.index(IMAGE), image_seq_length=4)  # fmt: skip
    return save_vlm(folder, LlavaForConditionalGeneration, config, language, template)


def save_qwen2_vl(folder, language, *, template=None):
    """A tiny Qwen2-VL, whose language part has the names of Qwen2 itself."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = config_of("qwen2", len(WORDS)).to_dict()
    keep = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "intermediate_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")  # fmt: skip
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = Qwen2VLConfig(
        text_config={k: text[k] for k in keep} | {"rope_parameters": rope},
        vision_config={"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4},
        image_token_id=WORDS.index(IMAGE), tie_word_embeddings=False,
    )  # fmt: skip
    return save_vlm(folder, Qwen2VLForConditionalGeneration, config, language, template)


def save_vlm(folder, kind, config, language, template):
    torch.manual_seed(7)
    model = kind(config).to(torch.bfloat16)
    held = model.model.language_model.state_dict() | {"lm_head.weight": model.lm_head.weight}
    stored = load_file(language / "model.safetensors")
    with torch.no_grad():
        for name, tensor in stored.items():
            held[name.removeprefix("model.")][: len(tensor)] = tensor  # the image token's row stays
    model.save_pretrained(folder)
    save_tokenizer(folder, WORDS, template=template, special=[*SPECIAL, IMAGE])
    return folder


KINDS = {"llava": (save_llava, "llama", "language_model"), "qwen2_vl": (save_qwen2_vl, "qwen2", "")}


@pytest.fixture(scope="module", params=KINDS)
def vlm(request, families, tmp_path_factory):
    """(checkpoint of the larger model, tau, the CP alone, path, kind): the larger model's language part is that CP."""
    make, kind, path = KINDS[request.param]
    base, chat, cp = families(kind)
    folder = make(tmp_path_factory.mktemp(request.param) / "vlm", cp)
    return Checkpoint(folder), Checkpoint(chat) - Checkpoint(base), Checkpoint(cp), path, request.param


def logits(folder, kind):
    """Last-token logits after words and one image, of a saved model loaded by transformers."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return forward(model, kind)


def forward(model, kind):
    torch.manual_seed(0)
    ids = torch.tensor([[1, 5, 6, *[WORDS.index(IMAGE)] * 4, 9, 10]])
    if kind == "llava":
        image = {"pixel_values": torch.randn(1, 3, 16, 16)}
    else:
        image = {"pixel_values": torch.randn(16, 3 * 2 * 4 * 4), "image_grid_thw": torch.tensor([[1, 4, 4]])}
        image["mm_token_type_ids"] = (ids == WORDS.index(IMAGE)).int()
    with torch.no_grad():
        return model(input_ids=ids, **image).logits[0, -1]


def test_the_language_part_is_found_and_the_rest_is_outside(vlm):
    larger, tau, _, path, _ = vlm
    placed = tau.within(larger)
    leaf = placed.terms[0].leaf
    assert leaf.path == path
    assert len(leaf.mapping) == len(tau.names) == len(placed.names)
    assert set(leaf.mapping.values()) == set(tau.names)
    assert leaf.outside
    assert all(re.match(r"(?:model\.)?(?:vision|visual|multi_modal)", name) for name in leaf.outside)
    assert placed.terms[0].leaf.describe()["within"] == {
        "path": path, "tensors": len(tau.names), "carried": len(leaf.outside)
    }  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_the_language_part_gets_the_vector_and_the_rest_keeps_its_bits(vlm, tmp_path, scale):
    larger, tau, cp, path, _ = vlm
    placed = scale * tau.within(larger, path)
    report = (larger + placed).save(tmp_path / "out", verify=True, progress=False)
    assert report.carried == len(larger.names) - len(tau.names) and report.changed == len(tau.names)
    before, after = (load_file(p / "model.safetensors") for p in (larger.folder, tmp_path / "out"))
    assert list(before) == list(after)
    leaf, text = placed.terms[0].leaf, cp + scale * tau
    assert f"in the {len(tau.names)} tensors of" in (tmp_path / "out" / "README.md").read_text()
    moved = 0
    for name, tensor in after.items():
        published = larger.layout.published(name)
        if published in leaf.outside:
            assert torch.equal(tensor.view(torch.uint8), before[name].view(torch.uint8)), name
        else:
            expected = text.read(leaf.mapping[published])  # the same CP outside the larger model
            assert torch.equal(tensor[: len(expected)], expected), name
            assert torch.equal(tensor[len(expected) :], before[name][len(expected) :]), (
                "the image token's row"
            )
            moved += not torch.equal(tensor, before[name])
    assert moved == len(tau.names)
    assert (
        json.loads((tmp_path / "out" / "manifest.json").read_text())["recipe"]["vector"][0]["within"]["path"]
        == path
    )


def test_the_placement_counts_every_bit(vlm):
    larger, tau, *_ = vlm
    placed = tau.within(larger)
    for vector in (placed, placed.sparsified("magnitude", density=1.0)):
        table = placement(vector, larger + vector).set_index("tensor")
        assert list(table.index) == larger.names
        inner = {larger.layout.published(name): own for name, own in table.inner.dropna().items()}
        assert inner == placed.terms[0].leaf.mapping
        assert (table.changed[table.inner.isna()] == 0).all()
        for name in table.inner.dropna().index:
            moved = (larger + placed).read(name) != larger.read(name)
            assert table.changed[name] == int(moved.sum()) > 0
    with pytest.raises(ValueError, match="not placed"):
        placement(tau, larger)


def test_the_saved_model_speaks_as_one_set_by_hand(vlm, tmp_path):
    """Loaded by transformers, its logits are those of a larger model made around the merged text model."""
    larger, tau, cp, _, kind = vlm
    (larger + 1.5 * tau.within(larger)).save(tmp_path / "out", progress=False)
    (cp + 1.5 * tau).save(tmp_path / "text", progress=False)
    KINDS[kind][0](tmp_path / "hand", tmp_path / "text")
    found, expected, before = (logits(f, kind) for f in (tmp_path / "out", tmp_path / "hand", larger.folder))
    assert torch.equal(found, expected)
    assert not torch.allclose(found, before, atol=1e-4), "the vector is felt"


def test_the_command_adds_within(families, tmp_path, capsys):
    base, chat, cp = families("llama")
    larger = Checkpoint(save_llava(tmp_path / "vlm", cp))
    expected = weights_digest(larger + 0.5 * (Checkpoint(chat) - Checkpoint(base)).within(larger))
    models = ["--base", str(base), "--chat", str(chat), "--cp", str(larger.folder), "--scale", "0.5"]
    for i, place in enumerate((["--within"], ["--within", "language_model"])):
        assert main(["merge", *models, *place, "--out", str(tmp_path / f"out{i}")]) == 0
        assert f"weights {expected}" in capsys.readouterr().out
    assert main(["merge", *models, "--out", str(tmp_path / "out")]) == 1
    assert "do not pair" in capsys.readouterr().err


def test_both_orders_of_a_placed_vector_agree(vlm):
    """Select, scale and place commute; names of layers and kinds of modules mean the same in both."""
    larger, tau, *_ = vlm
    first = (0.5 * tau.select(layers="1", modules="mlp")).within(larger)
    last = 0.5 * tau.within(larger).select(layers="1", modules="mlp")
    a, b = larger + first, larger + last
    changed = 0
    for name in larger.names:
        assert torch.equal(a.read(name), b.read(name)), name
        is_wanted = ".layers.1.mlp" in name and larger.layout.published(name) in first.terms[0].leaf.mapping
        assert a.is_carried(name) is b.is_carried(name) is (not is_wanted)
        changed += not torch.equal(a.read(name), larger.read(name))
    assert changed == 3
    zero = larger + 0.0 * tau.within(larger)
    assert all(zero.is_carried(name) for name in larger.names)


def test_transforms_sums_and_loaded_vectors_stay_within(vlm, tmp_path):
    larger, tau, *_ = vlm
    sparse = larger + tau.within(larger).sparsified("magnitude", density=0.5)
    same = larger + tau.sparsified("magnitude", density=0.5).within(larger)
    twice = larger + (tau.within(larger) + tau.within(larger))
    stored = larger + 2 * WeightVector.load(tau.save(tmp_path / "tau", progress=False)).within(larger)
    for name in larger.names:
        assert torch.equal(sparse.read(name), same.read(name)), name
        assert torch.equal(twice.read(name), stored.read(name)), name
    with pytest.raises(ValueError, match=r"WeightVector\.load"):
        tau.within(larger).save(tmp_path / "placed")


def test_other_names_of_the_language_part(families, tmp_path):
    """`model.language_model.layers…`, as newer checkpoints have it, found by the same rule."""
    base, chat, cp = families("llama")
    tau, larger = Checkpoint(chat) - Checkpoint(base), Checkpoint(save_llava(tmp_path / "vlm", cp))
    stored = load_file(larger.folder / "model.safetensors")
    renamed = {
        n.replace("language_model.model.", "model.language_model.").replace(
            "language_model.lm_head", "lm_head"
        ): t
        for n, t in stored.items()
    }
    (tmp_path / "new").mkdir()
    for file in larger.folder.glob("*.json"):
        (tmp_path / "new" / file.name).write_bytes(file.read_bytes())
    save_file(renamed, tmp_path / "new" / "model.safetensors", {"format": "pt"})
    other = Checkpoint(tmp_path / "new")
    placed = tau.within(other)
    assert placed.terms[0].leaf.path == "language_model"
    assert (
        (other + placed)
        .read("lm_head.weight")
        .equal((larger + tau.within(larger)).read("language_model.lm_head.weight"))
    )


def test_what_does_not_fit_is_listed(vlm, families, tmp_path):
    larger, tau, _, path, kind = vlm
    with pytest.raises(ValueError, match="do not pair"):  # a placed vector is asked for, never guessed
        (larger + tau).check()
    wrong = "vision_tower" if kind == "llava" else "visual"
    with pytest.raises(ValueError, match=rf"does not fit within .* at the path '{wrong}'") as told:
        _ = tau.within(larger, wrong).names
    assert ("only in vlm" if path == "" else "lm_head.weight   only in the vector") in str(told.value)
    foreign = families("mixtral")
    with pytest.raises(ValueError, match="at no path"):
        _ = (Checkpoint(foreign[1]) - Checkpoint(foreign[0])).within(larger).names
    short = Checkpoint(save_model(tmp_path / "deep", KINDS[kind][1], seed=1))
    kept = {n: e for n, e in short.tensors.entries.items() if ".layers.1." not in n}
    short = Checkpoint(short.source, origin=Folder(short.folder, Stored(kept)))
    with pytest.raises(ValueError, match=r"layers\.1\."):
        _ = (short - short).within(larger, path).names


def test_the_larger_models_template_stays_unless_it_has_none(families, tmp_path):
    base, chat, cp = families("llama")
    tau = Checkpoint(chat) - Checkpoint(base)
    own = "{% for m in messages %}" + IMAGE + "{{ m.content }}{% endfor %}"
    with_own = Checkpoint(save_llava(tmp_path / "own", cp, template=own))
    without = Checkpoint(save_llava(tmp_path / "none", cp))
    assert (with_own + tau.within(with_own)).chat_template == own
    assert (without + tau.within(without)).chat_template == TEMPLATE
    old = save_llava(tmp_path / "old", cp)
    (old / "chat_template.json").write_text(json.dumps({"chat_template": own}))
    merged = Checkpoint(old) + tau.within(Checkpoint(old))
    merged.save(tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == own


def test_special_rows_and_the_report_go_by_the_familys_names(families, tmp_path):
    base, chat, _ = families("llama")
    tau = Checkpoint(chat) - Checkpoint(base)
    larger = Checkpoint(save_llava(tmp_path / "vlm", base))  # the base's rows are "never trained" ones
    merged = larger.add(0.5 * tau.within(larger), copy_special=True)
    name = "language_model.model.embed_tokens.weight"
    expected = Checkpoint(chat).read("model.embed_tokens.weight")
    assert torch.equal(merged.read(name)[: len(SPECIAL)], expected[: len(SPECIAL)])
    report = merged.vocabulary_report()
    assert (report.rows, report.matched, report.kept) == (len(WORDS), len(TOKENS), 1)
    assert set(report.copied) == set(SPECIAL)


def test_dtype_and_added_tokens_reach_the_inner_config(families, tmp_path):
    base, _, cp = families("llama")
    chat = Checkpoint(save_model(tmp_path / "chat", near=base, seed=4, tokens=[*SPECIAL, *TOKENS, "<|end|>"],
                                 special=[*SPECIAL, "<|end|>"], template=TEMPLATE + "<|end|>"))  # fmt: skip
    larger = Checkpoint(save_llava(tmp_path / "vlm", cp))
    tau = (chat - Checkpoint(base)).within(larger)
    with pytest.raises(ValueError, match="lacks 1 tokens"):
        (larger + tau).check()
    larger.add(tau, add_tokens=True).save(tmp_path / "out", dtype="float32", progress=False)
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.config.text_config.vocab_size == len(WORDS) + 1 == model.lm_head.weight.shape[0]
    assert model.dtype == torch.float32
    row = chat.read("lm_head.weight")[chat.vocabulary.tokens["<|end|>"]]
    assert torch.equal(model.lm_head.weight[-1].detach(), row.float())


def test_fidelity_of_a_placed_vector(vlm):
    larger, tau, cp, *_ = vlm
    placed = anatomy.fidelity(larger, tau.within(larger), [1.0], ["bfloat16"], progress=False)
    alone = anatomy.fidelity(cp, tau, [1.0], ["bfloat16"], progress=False)
    a, b = (t.groupby("layer").relative_error.mean() for t in (placed, alone))
    assert np.allclose(a.dropna(), b.dropna())


def test_a_live_model_turns_the_language_part(vlm):
    larger, tau, _, _, kind = vlm
    live = LiveModel(larger, tau.within(larger), device="cpu", dtype="float32")
    before = forward(live.model, kind)
    with live.at(1.0):
        turned = forward(live.model, kind)
    assert torch.equal(forward(live.model, kind), before)
    assert not torch.allclose(turned, before, atol=1e-4)
