"""Language parts both ways: out of a larger model onto a text-only CP, from text into it, and from one to another."""

import json

import architectures
import pytest
import torch
import transformers
from architecture_sweep import SCALE, wrong_elements
from pico import SPECIAL, TEMPLATE, TOKENS, save_tokenizer
from reference import state
from safetensors.torch import load_file, save_file

from chatvec_lab import Checkpoint, load_family
from chatvec_lab.__main__ import main
from chatvec_lab.weights.sources.language import LanguagePart

WORDS = [*SPECIAL, *TOKENS[:45]]
# the larger model's class, and that of its text alone
KINDS = {
    "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2ForCausalLM",
    "Qwen3VLForConditionalGeneration": "Qwen3ForCausalLM",
    "LlavaNextForConditionalGeneration": "LlamaForCausalLM",
    "Llama4ForConditionalGeneration": "Llama4ForCausalLM",
    "InternVLForConditionalGeneration": "Qwen2ForCausalLM",
    "Mistral3ForConditionalGeneration": "MistralForCausalLM",
}
OTHER_PARENT = ["descent"]  # text and larger models are drawn apart


class Members:
    """Three larger models (base, chat, and `vlm`, which is another one of the family) and three texts of the same sizes."""

    def __init__(self, kind, root):
        self.root, self.kind = root, kind
        for seed, name in enumerate(("vlm_base", "vlm_chat", "vlm")):
            model = architectures.build(kind, len(WORDS), seed)
            _scatter(model, seed)
            self._save(model, name)
        text = transformers.AutoModelForCausalLM
        config = Checkpoint(root / "vlm").language_part().config
        for seed, name in enumerate(("base", "chat", "cp")):
            torch.manual_seed(seed)
            with architectures.quietly():
                model = text.from_config(
                    transformers.AutoConfig.for_model(**config), dtype=torch.bfloat16
                ).eval()
            _scatter(model, 10 + seed)
            self._save(model, name)
        self.text_class = type(model).__name__
        self.inner = _inner(self.load("vlm"))

    def __getitem__(self, name):
        return Checkpoint(self.root / name)

    def _save(self, model, name):
        with architectures.quietly():
            model.save_pretrained(self.root / name)
        save_tokenizer(self.root / name, WORDS, template=TEMPLATE if "chat" in name else None)

    def load(self, name):
        with architectures.quietly():
            return transformers.AutoModelForImageTextToText.from_pretrained(
                self.root / name, dtype=torch.bfloat16
            )

    def loaded(self, name):
        """What transformers loads of a folder: names of its class, tied tensors once."""
        auto = (
            transformers.AutoModelForImageTextToText if "vlm" in name else transformers.AutoModelForCausalLM
        )
        with architectures.quietly():
            model, info = auto.from_pretrained(
                self.root / name, dtype=torch.bfloat16, output_loading_info=True
            )
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        return {n: p.detach() for n, p in model.named_parameters()}


def _scatter(model, seed):
    """Weights near those of one parent, by their place in the class."""
    parent, own = (torch.Generator().manual_seed(s) for s in (99, seed))
    with torch.no_grad():
        for parameter in model.parameters():
            draws = [torch.randn(parameter.shape, generator=g) for g in (parent, own)]
            parameter.copy_(0.05 * draws[0] + 0.01 * draws[1])


def _inner(model):
    """Parameter name of the larger model to that of the text, by the objects themselves."""
    if not hasattr(model, "model"):  # Llama 4 holds the text with its head
        own = {id(p): name for name, p in model.language_model.named_parameters()}
        return {name: own[id(p)] for name, p in model.named_parameters() if id(p) in own}
    own = {id(p): f"model.{name}" for name, p in model.model.language_model.named_parameters()}
    own |= {id(p): "lm_head.weight" for p in [model.get_output_embeddings().weight] if id(p) not in own}
    return {name: own[id(p)] for name, p in model.named_parameters() if id(p) in own}


@pytest.fixture(scope="module", params=KINDS)
def members(request, tmp_path_factory):
    return Members(request.param, tmp_path_factory.mktemp(request.param) / "members")


def test_a_vector_of_language_parts_goes_onto_a_text_model(members, tmp_path):
    part = members["vlm_chat"].language_part()
    assert part.config["architectures"] == [KINDS[members.kind]] == [members.text_class]
    assert isinstance(part.origin, LanguagePart) and part.label == "vlm_chat (language part)"
    tau = part - members["vlm_base"].language_part()
    report = (members["cp"] + SCALE * tau).save(
        members.root / "onto", verify=True, progress=False, force=OTHER_PARENT
    )
    assert report.verified and report.carried == 0
    base, chat = members.loaded("vlm_base"), members.loaded("vlm_chat")
    inner = {own: name for name, own in members.inner.items()}
    cp, got = members.loaded("cp"), members.loaded("onto")
    assert set(inner) == set(cp) == set(got)
    for name, tensor in got.items():
        assert not wrong_elements(tensor, cp[name], chat[inner[name]], base[inner[name]]), name


def test_a_text_vector_goes_into_the_larger_model(members):
    vlm = members["vlm"]
    tau = (members["chat"] - members["base"]).within(vlm)
    report = (vlm + SCALE * tau).save(
        members.root / "vlm_into", verify=True, progress=False, force=OTHER_PARENT
    )
    assert report.verified and report.changed == len(tau.names)
    base, chat = members.loaded("base"), members.loaded("chat")
    before, after = members.loaded("vlm"), members.loaded("vlm_into")
    assert set(members.inner.values()) == set(base)
    for name, tensor in after.items():
        own = members.inner.get(name)
        if own is None:
            assert torch.equal(tensor, before[name]), name
        else:
            assert not wrong_elements(tensor, before[name], chat[own], base[own]), name


def test_a_larger_model_takes_from_another_whatever_prefixes_they_have(members, tmp_path):
    """Chat and base stored by the names of today's classes, the CP by those of the hub's files, and by parts."""
    new = {}
    for name in ("vlm_base", "vlm_chat"):
        folder = tmp_path / name
        folder.mkdir()
        for file in (members.root / name).glob("*.json*"):
            (folder / file.name).write_bytes(file.read_bytes())
        tensors = {n: p.contiguous().clone() for n, p in members.loaded(name).items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        new[name] = Checkpoint(folder)
    old = members["vlm_chat"] - members["vlm_base"]
    tau, vlm = new["vlm_chat"] - new["vlm_base"], members["vlm"]
    mixed = members["vlm_chat"] - new["vlm_base"]
    assert set(tau.names) == set(old.names) == set(mixed.names)
    for name in vlm.names:
        wanted = (vlm + old).read(name)
        assert torch.equal((vlm + tau).read(name), wanted) and torch.equal(
            (vlm + mixed).read(name), wanted
        ), name
    text = vlm + tau.select(components="text")
    placed = vlm + (new["vlm_chat"].language_part() - members["vlm_base"].language_part()).within(vlm)
    for name in vlm.names:
        is_text = vlm.layout[name].component == "text"
        wanted = (vlm + old).read(name) if is_text else vlm.read(name)
        assert torch.equal(text.read(name), wanted) and torch.equal(placed.read(name), wanted), name


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return Members("LlavaNextForConditionalGeneration", tmp_path_factory.mktemp("llava") / "members")


def test_other_components_are_named_and_can_be_chosen(llava):
    tau = llava["vlm_chat"] - llava["vlm_base"]
    counted = {part.component for part in tau.parts_by_name.values()}
    assert counted == {"text", "vision", "projector"}
    eyes = llava["vlm"] + tau.select(components=["vision", "projector"])
    for name in llava["vlm"].names:
        is_text = llava["vlm"].layout[name].component == "text"
        assert torch.equal(eyes.read(name), llava["vlm"].read(name)) == is_text, name


def test_a_larger_model_minus_its_text_base(llava, tmp_path):
    """What tuning with images did to the language, as a vector for a CP of the text base."""
    tau = llava["vlm_chat"].language_part() - llava["base"]
    assert sorted(tau.names) == sorted(llava["base"].names)
    (llava["vlm"].language_part() + tau).save(
        tmp_path / "text", progress=False, force=OTHER_PARENT
    )  # a text model by itself
    saved = state(tmp_path / "text")
    assert set(saved) == set(llava["cp"].names)
    config = json.loads((tmp_path / "text" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and "vision_config" not in config
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype="auto")
    assert type(model).__name__ == "LlamaForCausalLM"


def test_the_command_and_a_family_take_the_language_part(llava, tmp_path, capsys):
    folders = [text for m in ("base", "chat") for text in (f"--{m}", str(llava.root / f"vlm_{m}"))]
    told = ["--cp", str(llava.root / "cp"), "--scale", "0.5", "--force", "descent"]
    assert main(["merge", *folders, *told, "--out", str(tmp_path / "no")]) == 1
    assert "do not pair" in capsys.readouterr().err
    assert main(["merge", *folders, *told, "--language-part", "--out", str(tmp_path / "out")]) == 0
    tau = llava["vlm_chat"].language_part() - llava["vlm_base"].language_part()
    saved = state(tmp_path / "out")
    assert all(torch.equal(t, (llava["cp"] + 0.5 * tau).read(n)) for n, t in saved.items())
    sources = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]
    assert [s["name"] for s in sources] == ["cp", "vlm_chat (language part)", "vlm_base (language part)"]
    file = tmp_path / "mine.yaml"
    entry = "{{source: {}, part: {}}}"
    lines = [f"{m}: {entry.format(llava.root / f'vlm_{m}', 'language')}" for m in ("base", "chat")]
    file.write_text("\n".join([*lines, f"cp: {{ko: {llava.root / 'cp'}}}"]))
    family = load_family(file)
    assert (family.chat - family.base).names == tau.names
    file.write_text(file.read_text().replace("part: language", "part: vision", 1))
    with pytest.raises(ValueError, match="base: part is 'vision'; only `language` is known"):
        load_family(file)


def test_what_has_no_language_part_or_two_is_named(llava, tmp_path):
    with pytest.raises(TypeError, match="is an expression"):
        (llava["cp"] + (llava["chat"] - llava["base"])).language_part()
    with pytest.raises(ValueError, match="has no layers of text"):
        _ = (
            _renamed(llava, tmp_path / "towers", lambda n: n if "language" not in n else None)
            .language_part()
            .names
        )
    twice = {"language_model.model.norm.weight": "language_model.model.norm.weight"}
    whole = _renamed(llava, tmp_path / "twice", lambda n: n, more={"model.norm.weight": twice})
    with pytest.raises(ValueError, match=r"are called model\.norm\.weight"):
        _ = whole.language_part().names


def test_experts_that_the_class_turns_are_no_text_models(tmp_path):
    """Qwen3-VL-MoE stores its stacks the other way round than Qwen3-MoE, which equal sides would hide."""
    for seed, (name, kind) in enumerate(
        (("vlm", "Qwen3VLMoeForConditionalGeneration"), ("text", "Qwen3MoeForCausalLM"))
    ):
        with architectures.quietly():
            model = architectures.build(kind, len(WORDS), seed)
            model.save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name, WORDS)
    vlm, text = Checkpoint(tmp_path / "vlm"), Checkpoint(tmp_path / "text")
    assert {name.rsplit(".", 1)[1] for name in vlm.layout.turned} == {"gate_up_proj", "down_proj"}
    with pytest.raises(
        ValueError, match=r"experts\.down_proj, are turned or cut by Qwen3VLMoeForConditionalGeneration"
    ):
        _ = vlm.language_part().names
    stacked = text.like(vlm)
    for tau in (text - text, stacked - stacked):
        with pytest.raises(ValueError, match="fits within vlm at no path"):
            _ = tau.within(vlm).names
    same = vlm + 0.5 * (vlm - vlm)  # among themselves they pair
    assert len(same.vector.names) == len(vlm.names)


def _renamed(llava, folder, name_of, more=None):
    folder.mkdir()
    for file in (llava.root / "vlm").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "unheard_of", "architectures": ["Other"]})
    )
    stored = load_file(llava.root / "vlm" / "model.safetensors")
    kept = {name_of(n): t for n, t in stored.items() if name_of(n)}
    for name in more or ():
        kept[name] = torch.zeros(4)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return Checkpoint(folder)


# names of google/gemma-3n-E2B-it beside those of its text; its vision tower needs the package timm to be built
BESIDE = {
    "model.vision_tower.timm_model.blocks.0.0.conv_exp.weight": ("vision", (4, 3, 3, 3)),
    "model.vision_tower.timm_model.blocks.0.0.bn1.weight": ("vision", (4,)),
    "model.vision_tower.timm_model.conv_stem.conv.bias": ("vision", (4,)),
    "model.audio_tower.conformer.0.attention.attn.q_proj.weight": ("audio", (8, 8)),
    "model.audio_tower.subsample_conv_projection.conv_0.conv.weight": ("audio", (4, 1, 3, 3)),
    "model.embed_vision.embedding.weight": ("projector", (16, 8)),
    "model.embed_audio.embedding_projection.weight": ("projector", (32, 8)),
}


def test_gemma_3n_goes_both_ways_by_its_names(tmp_path):
    for seed, name in enumerate(("base", "chat", "cp")):
        with architectures.quietly():
            model = architectures.build("Gemma3nForCausalLM", len(WORDS), seed)
            _scatter(model, seed)
            model.save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name, WORDS, template=TEMPLATE if name == "chat" else None)
        text = state(tmp_path / name)
        (larger := tmp_path / f"vlm_{name}").mkdir()
        inside = {n.replace("model.", "model.language_model.", 1): t for n, t in text.items()}
        generator = torch.Generator().manual_seed(seed)
        outside = {n: torch.randn(shape, generator=generator).bfloat16() for n, (_, shape) in BESIDE.items()}
        save_file(inside | outside, larger / "model.safetensors", {"format": "pt"})
        config = {
            "model_type": "gemma3n", "architectures": ["Gemma3nForConditionalGeneration"],
            "text_config": json.loads((tmp_path / name / "config.json").read_text()),
        }  # fmt: skip
        (larger / "config.json").write_text(json.dumps(config))
        save_tokenizer(larger, WORDS, template=TEMPLATE if name == "chat" else None)
    text, vlm = ({n: Checkpoint(tmp_path / f"{p}{n}") for n in ("base", "chat", "cp")} for p in ("", "vlm_"))
    layout = vlm["cp"].layout
    assert {n: layout[n].component for n in BESIDE} == {n: c for n, (c, _) in BESIDE.items()}
    assert "model.language_model.embed_tokens_per_layer.weight" in layout.tables
    tau = text["chat"] - text["base"]
    out = vlm["chat"].language_part() - vlm["base"].language_part()
    assert set(out.names) == set(tau.names)
    for name in text["cp"].names:
        assert torch.equal((text["cp"] + out).read(name), (text["cp"] + tau).read(name)), name
    placed, whole = vlm["cp"] + tau.within(vlm["cp"]), vlm["cp"] + (vlm["chat"] - vlm["base"])
    for name in vlm["cp"].names:
        if name in BESIDE:
            assert torch.equal(placed.read(name), vlm["cp"].read(name))
            assert not torch.equal(whole.read(name), vlm["cp"].read(name))
        else:
            own = (text["cp"] + tau).read(name.replace("language_model.", ""))
            assert torch.equal(placed.read(name), own) and torch.equal(whole.read(name), own), name
