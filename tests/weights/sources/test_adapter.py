"""An adapter's folder is a checkpoint: what PEFT would merge, in float64; what is not known is refused by name."""

import json
import shutil

import pytest
import torch
from pico import SPECIAL, TEMPLATE, TOKENS, save_model, save_tokenizer
from reference import state

from chatvec_lab import Checkpoint, LiveModel
from chatvec_lab.interop import mergekit_export
from chatvec_lab.weights.inspect import inspect

peft = pytest.importorskip("peft", reason="peft makes the adapters that are read here")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("adapters") / "base")


def adapted(base, folder, *, double=True, **options):
    """An adapter with random weights, saved by PEFT, and PEFT's own merge of it in float64."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    settings = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "up_proj"],
        "init_lora_weights": False,
    } | options
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name or "magnitude" in name or name.endswith("bias"):
                parameter.add_(0.01 * torch.randn(parameter.shape))
            if "lora_" in name:  # what a file in float32 holds
                parameter.copy_(parameter.float())
    model.save_pretrained(folder)
    if not double:
        return {}
    return model.merge_and_unload().state_dict()


KINDS = {
    "lora": {},
    "scale": {"lora_alpha": 1, "r": 3},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "ranks": {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
    "all linear": {"target_modules": "all-linear"},
    "norms whole": {"modules_to_save": ["input_layernorm", "lm_head"]},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "some layers": {"layers_to_transform": [1]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_is_what_peft_merges(base, tmp_path, kind):
    wanted = adapted(base, tmp_path / "adapter", **KINDS[kind])
    member = Checkpoint(tmp_path / "adapter")
    assert sorted(member.names) == sorted(Checkpoint(base).names)
    changed = 0
    for name in member.names:
        found, plain = member.read(name), Checkpoint(base).read(name)
        torch.testing.assert_close(found.double(), wanted[name], rtol=1e-12, atol=1e-14)
        assert torch.equal(found.bfloat16(), wanted[name].bfloat16())
        changed += not torch.equal(found.double(), plain.double())
        assert member.written_dtype(name) == "bfloat16"
    assert changed >= 2
    name = "model.layers.1.self_attn.v_proj.weight"
    assert torch.equal(member.read(name, slice(3, 9)), member.read(name)[3:9])


@pytest.mark.parametrize("stated", [True, False])
def test_matrices_that_lie_turned_are_known_by_their_class(tmp_path, stated):
    """GPT-2: PEFT turns Conv1D and not the head, whatever the last module left in fan_in_fan_out; c_proj is square."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=63, bos_token_id=1, eos_token_id=2,
                        tie_word_embeddings=False)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    wanted = adapted(
        tmp_path / "gpt2", tmp_path / "adapter", target_modules=["c_attn", "attn.c_proj", "lm_head"]
    )
    changed_settings(tmp_path / "adapter", fan_in_fan_out=stated)
    member = Checkpoint(tmp_path / "adapter")
    for name in member.names:
        if not name.endswith("bias"):  # of the base itself, which `adapted` moves in its copy
            torch.testing.assert_close(member.read(name).double(), wanted[name], rtol=1e-12, atol=1e-14)
    adapted(tmp_path / "gpt2", tmp_path / "dora", double=False, target_modules=["c_attn"], use_dora=True)
    with pytest.raises(
        ValueError, match=r"c_attn   is DoRA on a turned matrix \(Conv1D\), which is not read"
    ):
        _ = Checkpoint(tmp_path / "dora").names


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_were_trained_are_the_adapters(tmp_path, bias):
    base = save_model(tmp_path / "neox", "gpt_neox")
    adapted(base, tmp_path / "adapter", target_modules=["query_key_value"], bias=bias)
    from safetensors.torch import load_file

    own = {n.removeprefix("base_model.model.").replace(".base_layer", ""): t
           for n, t in load_file(tmp_path / "adapter" / "adapter_model.safetensors").items() if n.endswith("bias")}  # fmt: skip
    member, plain = Checkpoint(tmp_path / "adapter"), Checkpoint(base)
    assert own and set(own) <= set(member.names)
    for name in (n for n in member.names if n.endswith("bias")):
        assert torch.equal(
            member.read(name).double(), (own[name] if name in own else plain.read(name)).double()
        )


def test_a_tied_heads_own_adapter_is_refused_for_what_it_is(tmp_path):
    base = save_model(tmp_path / "tied", tied=True)
    wanted = adapted(base, tmp_path / "embedding", target_modules=["embed_tokens"])
    name = "model.embed_tokens.weight"
    assert torch.equal(Checkpoint(tmp_path / "embedding").read(name).double(), wanted[name])
    for label, options in (
        ("lora", {"target_modules": ["lm_head", "q_proj"]}),
        ("whole", {"modules_to_save": ["lm_head"]}),
    ):
        adapted(base, tmp_path / label, double=False, **options)
        with pytest.raises(ValueError, match=r"lm_head.*which the base ties to its embedding"):
            _ = Checkpoint(tmp_path / label).names


def test_a_chat_vector_comes_from_an_adapter(base, tmp_path):
    """tau = adapter - base is its product, and a merge with it is rounded once."""
    wanted = adapted(base, tmp_path / "chat", modules_to_save=["lm_head"])
    save_tokenizer(tmp_path / "chat", SPECIAL + TOKENS, template=TEMPLATE)
    cp = save_model(tmp_path / "cp", seed=5, near=base, step=0.004)
    tau = Checkpoint(tmp_path / "chat") - Checkpoint(base)
    assert tau.label == "chat (adapter on base) - base"
    report = (Checkpoint(cp) + 0.5 * tau).save(tmp_path / "out", verify=True, progress=False)
    saved, own, before = state(tmp_path / "out"), state(cp), state(base)
    for name in saved:
        exact = own[name].double() + 0.5 * (wanted[name] - before[name].double())
        assert torch.equal(saved[name], exact.bfloat16()), name
    assert report.verified and Checkpoint(tmp_path / "out").chat_template == TEMPLATE


def test_an_adapter_as_cp_is_saved_with_its_bases_companions(base, tmp_path):
    adapted(base, tmp_path / "cp")
    chat = save_model(tmp_path / "chat", seed=2, near=base, template=TEMPLATE)
    member = Checkpoint(tmp_path / "cp")
    merged = member + (Checkpoint(chat) - Checkpoint(base))
    report = merged.save(tmp_path / "out", progress=False)
    assert report.dtypes == ("bfloat16",)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (
        model.dtype == torch.bfloat16
        and AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()["w3"] == 6
    )
    assert not list((tmp_path / "out").glob("adapter*"))
    live = LiveModel(member, Checkpoint(chat) - Checkpoint(base), device="cpu", dtype="auto")
    live.scale = 1.0
    assert all(
        torch.equal(live.model.state_dict()[name], saved) for name, saved in state(tmp_path / "out").items()
    )
    with pytest.raises(ValueError, match=r"is an adapter: save it as a model first"):
        mergekit_export.recipe(merged)
    assert "(adapter on base)" in inspect(str(tmp_path / "cp"))


def test_added_tokens_come_with_the_adapter(base, tmp_path):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(66, mean_resizing=False)
    model = peft.get_peft_model(model, peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], init_lora_weights=False,
        task_type="CAUSAL_LM"))  # fmt: skip
    model.save_pretrained(tmp_path / "chat")
    save_tokenizer(tmp_path / "chat", SPECIAL + TOKENS + ["<|a|>", "<|b|>", "<|c|>"], template=TEMPLATE,
                   special=[*SPECIAL, "<|a|>"])  # fmt: skip
    member = Checkpoint(tmp_path / "chat")
    merged = model.merge_and_unload().state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert member.shape(name) == (66, 16) and torch.equal(member.read(name), merged[name])
    assert member.config["vocab_size"] == 66 and member.vocabulary.tokens["<|c|>"] == 65
    assert (member - Checkpoint(base)).names


def changed_settings(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "an adapter of the type 'IA3'; LoRA and DoRA"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base's own weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base's own weights"),
        ({"use_qalora": True}, "use_qalora=True is not known here"),
        ({"layer_replication": [[0, 2]]}, "layer_replication=.* is not known here"),
        ({"something_new": 3}, "something_new=3 is not known here"),
        ({"r": 8}, "has the rank 4, in adapter_config.json 8"),
        ({"lora_alpha": None}, "lora_alpha is None, expected a positive number"),
        ({"use_dora": True}, "use_dora is True, and it has lora_A, lora_B"),
        ({"base_model_name_or_path": None}, "names no base model"),
    ],
)
def test_what_is_not_known_is_refused_by_name(base, tmp_path, settings, said):
    adapted(base, tmp_path / "adapter", double=False)
    changed_settings(tmp_path / "adapter", **settings)
    with pytest.raises(ValueError, match=said):
        _ = Checkpoint(tmp_path / "adapter").names


def test_another_base_and_a_base_that_is_not_here_are_named(base, tmp_path):
    adapted(base, tmp_path / "adapter", double=False)
    other = save_model(tmp_path / "other", "mistral")
    shutil.copytree(tmp_path / "adapter", tmp_path / "wrong")
    changed_settings(tmp_path / "wrong", base_model_name_or_path=str(other), target_modules=["q_proj"])
    config = json.loads((other / "config.json").read_text())
    assert config["intermediate_size"] == 24  # the same shapes: only a name can tell
    small = save_model(tmp_path / "small", "gpt_neox")
    changed_settings(tmp_path / "wrong", base_model_name_or_path=str(small))
    with pytest.raises(
        ValueError, match=r"(?s)parts of the adapter do not fit its base.*is no module of the base"
    ):
        _ = Checkpoint(tmp_path / "wrong").names
    changed_settings(tmp_path / "wrong", base_model_name_or_path="nowhere at all")
    with pytest.raises(
        FileNotFoundError, match=r"holds an adapter \(LORA\) for nowhere at all, which is not to be had"
    ):
        _ = Checkpoint(tmp_path / "wrong").names
    shutil.copytree(base, tmp_path / "sibling")
    changed_settings(tmp_path / "wrong", base_model_name_or_path="sibling")  # a folder beside it
    assert Checkpoint(tmp_path / "wrong").names


def test_a_quantised_base_stays_labelled(base, tmp_path):
    from gguf_files import save_llama
    from quantised_files import quantise

    whole = save_llama(tmp_path / "whole", dtype=torch.bfloat16)
    quantise(whole, tmp_path / "eight", "ct int8")
    adapted(whole, tmp_path / "adapter", double=False)
    changed_settings(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "eight"))
    member = Checkpoint(tmp_path / "adapter")
    assert member.note.startswith("dequantised from int8")
    with pytest.raises(ValueError, match="pass for a part of the vector"):
        _ = (member - Checkpoint(whole)).names
    assert (member.minus(Checkpoint(tmp_path / "eight"))).names
