"""One model in another's pieces: experts stacked or one by one, fused and split projections, names of other code."""

import json
import re

import architectures
import pytest
import torch
import transformers
from architecture_sweep import SCALE, wrong_elements
from pico import SPECIAL, TEMPLATE, TOKENS, save_tokenizer
from reference import state
from safetensors.torch import save_file

from chatvec_lab import Checkpoint
from chatvec_lab.__main__ import main
from chatvec_lab.weights.layout import Layout
from chatvec_lab.weights.sources.forms import NAMES

WORDS = [*SPECIAL, *TOKENS[:45]]
MEMBERS = ("base", "chat", "cp")
# by the registry of transformers: experts one by one in the hub's files, stacked in the class
STACKED = ("MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV2ForCausalLM",
           "DeepseekV3ForCausalLM", "OlmoeForCausalLM", "JambaForCausalLM")  # fmt: skip
# stacked, or fused, in the hub's files too
AS_THEY_ARE = ("GptOssForCausalLM", "Llama4ForCausalLM", "GraniteMoeForCausalLM", "Phi3ForCausalLM", "GlmForCausalLM",
               "FalconForCausalLM", "GPTNeoXForCausalLM")  # fmt: skip


def scattered(model, seed):
    """Weights near those of one parent, by their place in the class."""
    parent, own = (torch.Generator().manual_seed(s) for s in (99, seed))
    with torch.no_grad():
        for parameter in model.parameters():
            draws = [torch.randn(parameter.shape, generator=g) for g in (parent, own)]
            parameter.copy_(0.05 * draws[0] + 0.01 * draws[1])
    return model


def small(kind, seed):
    model = architectures.build(kind, len(WORDS), seed)
    return scattered(model, seed)


def keep(folder, model, tensors=None, config=None):
    """A model as its class saves it, or with these tensors."""
    with architectures.quietly():
        model.save_pretrained(folder)
    if tensors is not None:
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        save_file(
            {n: t.detach().contiguous().clone() for n, t in tensors.items()},
            folder / "model.safetensors", {"format": "pt"},
        )  # fmt: skip
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(folder, WORDS, template=TEMPLATE if "chat" in folder.name else None)
    return Checkpoint(folder)


def same(a, b, names=None):
    names = names or a.names
    return all(torch.equal(a.read(name), b.read(name)) for name in names)


@pytest.mark.parametrize("kind", STACKED)
def test_stacked_experts_and_single_ones_are_one_model(kind, tmp_path):
    models = {name: small(kind, seed) for seed, name in enumerate(MEMBERS)}
    single = {name: keep(tmp_path / name, model) for name, model in models.items()}
    stacked = {n: keep(tmp_path / f"stacked_{n}", m, m.state_dict()) for n, m in models.items()}
    experts = [name for name in single["cp"].names if ".experts." in name]
    stacks = [name for name in stacked["cp"].names if ".experts." in name]
    assert len(stacks) < len(experts) and not set(experts) & set(stacks)
    for name in MEMBERS:
        assert single[name].like(single["cp"]) is single[name]
        assert same(stacked[name].like(single["cp"]), single[name], single["cp"].names)
        assert same(single[name].like(stacked["cp"]), stacked[name], stacked["cp"].names)
    tau = stacked["chat"].like(single["cp"]) - single["base"]
    assert same(single["cp"] + SCALE * tau, single["cp"] + SCALE * (single["chat"] - single["base"]))
    merged = stacked["cp"] + SCALE * (single["chat"].like(stacked["cp"]) - stacked["base"])
    parameters = {name: model.state_dict() for name, model in models.items()}
    for name in stacked["cp"].names:  # against the class's own tensors
        p, c, b = (parameters[member][name].detach() for member in ("cp", "chat", "base"))
        assert not wrong_elements(merged.read(name), p, c, b), name
    one = merged.read(stacks[0], slice(1, 3))
    assert torch.equal(one, merged.read(stacks[0])[1:3])
    parts = {single["cp"].layout[name].projection for name in experts}
    assert parts == {"gate", "up", "down"} and all(single["cp"].layout[n].module == "mlp" for n in experts)


@pytest.mark.parametrize("kind", AS_THEY_ARE)
def test_what_is_stored_as_the_class_has_it_is_merged_by_value(kind, tmp_path):
    models = {name: small(kind, seed) for seed, name in enumerate(MEMBERS)}
    found = {name: keep(tmp_path / name, model) for name, model in models.items()}
    assert found["chat"].like(found["cp"]) is found["chat"]
    (found["cp"] + SCALE * (found["chat"] - found["base"])).save(tmp_path / "out", progress=False)
    stored = [state(tmp_path / name) for name in ("out", "cp", "chat", "base")]
    for name in stored[0]:
        got, p, c, b = (tensors[name] for tensors in stored)
        if name not in dict(found["cp"].layout.ignored) and found["cp"].layout[name].module != "buffer":
            assert not wrong_elements(got, p, c, b), name
    projections = {part.projection for part in found["cp"].layout.parts.values()}
    assert projections & {"gate_up", "qkv"}, projections


def llama_like(kind, seed, **more):
    """A small model with grouped queries, by its class's own split projections."""
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, **more,
    )  # fmt: skip
    torch.manual_seed(seed)
    return scattered(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), seed)


def phi3_of(tensors):
    """The tensors of a Mistral in Phi-3's pieces: rows of q, k, v, and of gate and up, below each other."""
    found = dict(tensors)
    for name in tensors:
        for first, others, whole in (
            ("q_proj", ("k_proj", "v_proj"), "qkv_proj"),
            ("gate_proj", ("up_proj",), "gate_up_proj"),
        ):
            if f".{first}." in name:
                parts = [found.pop(name.replace(first, other)) for other in (first, *others)]
                found[name.replace(first, whole)] = torch.cat(parts)
    return found


def internlm2_of(tensors):
    """The tensors of a Llama as InternLM2 stores them: two queries, their key, their value; two groups; by its own names."""
    words = {"embed_tokens": "tok_embeddings", "input_layernorm": "attention_norm", "o_proj": "wo", "gate_proj": "w1",
             "post_attention_layernorm": "ffn_norm", "self_attn": "attention", "mlp": "feed_forward", "up_proj": "w3",
             "down_proj": "w2"}  # fmt: skip
    found = {}
    for name, tensor in tensors.items():
        pieces = [words.get(piece, piece) for piece in name.split(".")]
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            q, k, v = (tensors[name.replace("q_proj", f"{x}_proj")] for x in "qkv")
            grouped = torch.cat([q.view(2, 2, 8, 32), k.view(2, 1, 8, 32), v.view(2, 1, 8, 32)], dim=1)
            tensor, pieces[-2] = grouped.reshape(-1, 32), "wqkv"
        found["output.weight" if name == "lm_head.weight" else ".".join(pieces)] = tensor
    return found


def chatglm_of(tensors):
    """The tensors of a GLM as ChatGLM's own code names them, q, k and v below each other."""
    words = {"layers": "encoder.layers", "self_attn": "self_attention", "o_proj": "dense", "gate_up_proj": "dense_h_to_4h",
             "down_proj": "dense_4h_to_h", "qkv_proj": "query_key_value", "model": "transformer"}  # fmt: skip
    top = {"model.embed_tokens.weight": "transformer.embedding.word_embeddings.weight",
           "lm_head.weight": "transformer.output_layer.weight",
           "model.norm.weight": "transformer.encoder.final_layernorm.weight"}  # fmt: skip
    found = {}
    for name, tensor in phi3_of(tensors).items():
        found[top.get(name) or ".".join(words.get(piece, piece) for piece in name.split("."))] = tensor
    return found


def config_of(model, kind, architecture):
    told = json.loads(model.config.to_json_string())
    if kind == "chatglm":
        keys = {"num_hidden_layers": "num_layers", "intermediate_size": "ffn_hidden_size", "vocab_size": "padded_vocab_size",
                "num_key_value_heads": "multi_query_group_num", "rms_norm_eps": "layernorm_epsilon"}  # fmt: skip
        told = {keys.get(key, key): value for key, value in told.items()}
    return told | {
        "model_type": kind,
        "architectures": [architecture],
        "auto_map": {"AutoModel": "modeling.Model"},
    }


FORMS = {
    "phi3": ("mistral", {}, phi3_of, "Phi3ForCausalLM"),
    "internlm2": ("llama", {}, internlm2_of, "InternLM2ForCausalLM"),
    "chatglm": (
        "glm",
        {"head_dim": 8, "attention_bias": True},
        chatglm_of,
        "ChatGLMForConditionalGeneration",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_fused_and_split_projections_are_one_model_under_whatever_names(form, tmp_path):
    kind, more, written, architecture = FORMS[form]
    models = {name: llama_like(kind, seed, **more) for seed, name in enumerate(MEMBERS)}
    split = {name: keep(tmp_path / name, model) for name, model in models.items()}
    fused = {}
    for name, model in models.items():
        config = config_of(model, form, architecture)
        fused[name] = keep(tmp_path / f"fused_{name}", model, written(dict(model.named_parameters())), config)
    for name in MEMBERS:
        here, there = fused[name].like(split["cp"]), split[name].like(fused["cp"])
        assert set(here.names) == set(split["cp"].names) and same(here, split[name])
        assert set(there.names) == set(fused["cp"].names) and same(there, fused[name])
        assert torch.equal(there.read(there.names[-1], slice(0, 1)), there.read(there.names[-1])[:1])
    wanted = split["cp"] + SCALE * (split["chat"] - split["base"])
    assert same(split["cp"] + SCALE * (fused["chat"].like(split["cp"]) - split["base"]), wanted)
    merged = fused["cp"] + SCALE * (split["chat"].like(fused["cp"]) - fused["base"])
    by_hand = written({name: wanted.read(name) for name in wanted.names})
    assert all(torch.equal(merged.read(name), by_hand[name]) for name in fused["cp"].names)


def test_each_row_of_the_names_is_needed(tmp_path):
    """A pattern that no tensor of its architecture has would be a slip."""
    for form in NAMES:
        kind, more, written, _ = FORMS[form]
        names = written(dict(llama_like(kind, 0, **more).named_parameters()))
        assert all(any(re.search(pattern, name) for name in names) for pattern, _ in NAMES[form])


def test_the_command_takes_members_in_other_pieces(tmp_path, capsys):
    models = {name: small("Qwen3MoeForCausalLM", seed) for seed, name in enumerate(MEMBERS)}
    cp = keep(tmp_path / "cp", models["cp"])
    members = {n: keep(tmp_path / n, models[n], dict(models[n].named_parameters())) for n in ("base", "chat")}
    told = [text for n in MEMBERS for text in (f"--{n}", str(tmp_path / n))]
    assert main(["check", *told]) == 0
    assert main(["merge", *told, "--scale", "0.7", "--out", str(tmp_path / "out")]) == 0
    tau = members["chat"].like(cp) - members["base"].like(cp)
    assert all(torch.equal(t, (cp + 0.7 * tau).read(n)) for n, t in state(tmp_path / "out").items())
    with pytest.raises(ValueError, match=r"do not pair.*(?s:.*)model\.like\(other\)"):
        _ = (members["chat"] - cp).names


def test_what_is_no_plain_stack_stays_as_it_is(tmp_path):
    """Another number of experts, or pieces of two dtypes, are not put together."""
    model = small("MixtralForCausalLM", 0)
    single = keep(tmp_path / "single", model)
    parameters = dict(model.named_parameters())
    fewer = {n: t[:2] if "experts" in n else t for n, t in parameters.items()}
    short = keep(tmp_path / "short", model, fewer)
    with pytest.raises(ValueError, match="do not pair"):
        _ = (short.like(single) - single).names
    stored = state(tmp_path / "single")
    lacking = {n: t for n, t in stored.items() if ".experts.1." not in n}  # 0, 2 and 3 are no stack of three
    three = {n: t[:3] if "experts" in n else t for n, t in parameters.items()}
    assert not set(
        keep(tmp_path / "gap", model, lacking).like(keep(tmp_path / "three", model, three)).names
    ) & {n for n in three if "experts" in n}
    turned = {n: t.transpose(1, 2) if "experts.gate_up" in n else t for n, t in parameters.items()}
    assert any("gate_up_proj" in n for n in keep(tmp_path / "turned", model, turned).like(single).names)
    odd = next(n for n in stored if ".experts.1.w3" in n)
    mixed = keep(tmp_path / "mixed", model, stored | {odd: stored[odd].float()})
    whole = keep(tmp_path / "whole", model, parameters)
    with pytest.raises(ValueError, match="stored in pieces of bfloat16, float32"):
        _ = (mixed.like(whole) - whole).names


def test_layouts_name_the_stack_an_expert_is_of():
    config = json.loads(small("Qwen3MoeForCausalLM", 0).config.to_json_string())
    names = [
        f"model.layers.0.mlp.experts.{e}.{part}_proj.weight"
        for e in range(4)
        for part in ("gate", "up", "down")
    ]
    layout = Layout.of(config, names, dict.fromkeys(names, (16, 32)))
    stack = "model.layers.0.mlp.experts.gate_up_proj"
    assert layout.stacks["model.layers.0.mlp.experts.3.up_proj.weight"] == (stack, 3, 1)
