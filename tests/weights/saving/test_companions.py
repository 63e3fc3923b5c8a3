"""Everything that loading needs travels with the CP's weights; adapters, trainings and other weights do not."""

import json
import shutil

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from pico import SPECIAL, TOKENS, save_model, save_tokenizer

from chatvec_lab import Checkpoint, LiveModel, WeightVector
from chatvec_lab.weights.saving import companions
from chatvec_lab.weights.saving.commit import discard
from chatvec_lab.weights.sources.beside import sort_companions, without_adapter

NEEDED = ("modeling_own.py", "tokenization_own.py", "qwen.tiktoken", "tekken.json", "sentencepiece.bpe.model", "vocab.bpe",
          "source.spm", "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json",
          "special_tokens_map.json", "LICENSE", "NOTICE.txt", "USE_POLICY.md", "emoji.jsonl")  # fmt: skip
NOT_NEEDED = ("adapter_config.json", "adapter_model.bin", "optimizer.pt", "training_args.bin", "trainer_state.json",
              "rng_state_0.pth", "events.out.tfevents.1", "consolidated.00.pth", "tf_model.h5", "model.gguf",
              "pytorch_model.bin.index.json", "README.md", "loss.png", ".gitattributes")  # fmt: skip


@pytest.fixture
def cp(families, tmp_path):
    """A CP folder of its own, which a test may fill."""
    shutil.copytree(families()[2], tmp_path / "cp")
    return tmp_path / "cp"


def vector(families):
    base, chat, _ = map(Checkpoint, families())
    return chat - base


def test_what_loading_needs_is_carried_byte_for_byte(families, cp, tmp_path):
    for name in (*NEEDED, *NOT_NEEDED):
        (cp / name).write_text("{}" if name.endswith("json") else name)
    (cp / "runs").mkdir()
    (Checkpoint(cp) + vector(families)).save(tmp_path / "out", progress=False)
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made >= set(NEEDED) and not (made - {"README.md"}) & {*NOT_NEEDED, "runs"}
    for name in NEEDED:
        if name != "special_tokens_map.json":
            assert (tmp_path / "out" / name).read_bytes() == (cp / name).read_bytes()
    left = sort_companions(cp)[1]
    assert left["adapter_config.json"] == "an adapter" and left["runs"] == "a folder"


@pytest.mark.parametrize("kind", ["LORA", "IA3"])
def test_a_cp_with_an_adapters_leftovers_saves_and_lives(families, cp, tmp_path, kind):
    """transformers would load the adapter's base in place of the CP's weights; neither the result nor a live model does."""
    from peft import IA3Config

    options = {"target_modules": ["q_proj"], "init_lora_weights": False}
    config = LoraConfig(r=2, **options) if kind == "LORA" else IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    )  # fmt: skip
    base = transformers.AutoModelForCausalLM.from_pretrained(families()[0])
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, cp / name)
    merged = Checkpoint(cp) + vector(families)
    merged.save(tmp_path / "out", verify=True, progress=False)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not list((tmp_path / "out").glob("adapter*"))
    live = LiveModel(Checkpoint(cp), vector(families), device="cpu")
    with live.at(1.0):
        ours = live.model.state_dict()
        assert all(torch.equal(value, ours[name]) for name, value in loaded.state_dict().items())
    with without_adapter(cp) as seen:
        assert seen != cp and (seen / "model.safetensors").is_file()
    assert not seen.exists() and (cp / "model.safetensors").is_file()


def test_a_folder_without_an_adapter_is_seen_as_it_is(families):
    with without_adapter(families()[2]) as seen:
        assert seen == families()[2]


MARKS = ["<|im_end|>", "<|im_start|>"]
CHATML = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} {{ eos_token }} {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)
OLDER = {
    "special_tokens_map.json": json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "added_tokens.json": json.dumps({"w59": 62}),
    "tokenizer.model": "stale pieces",
    "chat_template.json": json.dumps({"chat_template": "an old one"}),
}


@pytest.fixture
def chatml(families, tmp_path):
    """A chat model of the pico family whose turns end with a token that base and CP lack."""
    tokens = SPECIAL + TOKENS
    chat = save_model(tmp_path / "chat", seed=2, near=families()[0], tokens=tokens + MARKS)
    save_tokenizer(chat, tokens + MARKS, special=SPECIAL + MARKS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat)
    tokenizer.eos_token, tokenizer.chat_template = MARKS[0], CHATML
    tokenizer.save_pretrained(chat)
    (chat / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 63}))
    return chat


@pytest.mark.parametrize("older", [*OLDER, None])
def test_with_added_tokens_the_saved_tokenizer_is_the_live_one(families, cp, chatml, tmp_path, older):
    if older:
        (cp / older).write_text(OLDER[older])
    tau = Checkpoint(chatml) - Checkpoint(families()[0])
    merged = Checkpoint(cp).add(0.5 * tau, add_tokens=True)
    merged.save(tmp_path / "out", progress=False)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(chatml)
    talk = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]
    assert saved.eos_token == merged.tokenizer.eos_token == "<|im_end|>"
    assert saved.apply_chat_template(talk, tokenize=False) == theirs.apply_chat_template(talk, tokenize=False)
    assert saved.get_vocab() == merged.tokenizer.get_vocab() and set(MARKS) <= set(saved.all_special_tokens)
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == 63


def test_special_tokens_of_the_cps_own_stay_special(families, cp, chatml, tmp_path):
    save_tokenizer(cp, SPECIAL + TOKENS, special=[*SPECIAL, "w7"])
    tau = Checkpoint(chatml) - Checkpoint(families()[0])
    Checkpoint(cp).add(tau, add_tokens=True).save(tmp_path / "out", progress=False)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert {"w7", *MARKS} <= set(saved.all_special_tokens)
    assert saved.decode(saved("w1 w7 <|im_end|>").input_ids, skip_special_tokens=True).split() == ["w1"]


def test_a_tokenizer_that_saving_would_change_is_refused(families, cp, chatml, tmp_path, monkeypatch):
    """What is written is read again: here the older map comes back behind the new files, as it did once."""
    write = companions._write_tokenizer

    def and_the_old_map(merged, folder):
        write(merged, folder)
        (folder / "special_tokens_map.json").write_text(OLDER["special_tokens_map.json"])

    monkeypatch.setattr(companions, "_write_tokenizer", and_the_old_map)
    tau = Checkpoint(chatml) - Checkpoint(families()[0])
    with pytest.raises(
        ValueError, match=r"another one after saving:\n  eos_token: saved '</s>', live '<\|im_end\|>'"
    ):
        Checkpoint(cp).add(tau, add_tokens=True).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_verify_compares_the_tokenizer_too(families, cp, tmp_path, monkeypatch):
    spoil = lambda merged, folder: (folder / "tokenizer_config.json").write_text(  # noqa: E731
        json.dumps({**merged.tokenizer_config, "eos_token": "<unk>"})
    )
    monkeypatch.setattr(companions, "_write_tokenizer", spoil)
    with pytest.raises(ValueError, match="eos_token: saved '<unk>', live '</s>'"):
        (Checkpoint(cp) + vector(families)).save(tmp_path / "out", verify=True, progress=False)


def test_folders_that_loading_needs_are_carried_and_nothing_is_left_out_unsaid(families, cp, tmp_path):
    base, chat, _ = families()
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    (cp / "modules.json").write_text(json.dumps(modules))
    for name in (
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "onnx/model.onnx",
        "spk_dict.pt",
        "mel.npz",
    ):
        (cp / name).parent.mkdir(exist_ok=True)
        (cp / name).write_bytes(name.encode())
    report = (Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / "out", progress=False)
    for name in ("1_Pooling/config.json", "2_Dense/model.safetensors", "spk_dict.pt"):
        assert (tmp_path / "out" / name).read_bytes() == name.encode()
    assert not (tmp_path / "out" / "onnx").exists()
    assert "left out: mel.npz (weights), onnx (a folder)" in report.preflight.sections["files"]
    discard(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_carried_folder_is_refused(families, cp, tmp_path):
    base, chat, _ = families()
    (cp / "modules.json").write_text(json.dumps([{"path": "1_Pooling"}]))
    (cp / "1_Pooling").mkdir()
    (tmp_path / "secret").write_text("x")
    (cp / "1_Pooling" / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"1_Pooling/config\.json is a link"):
        (Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))).save(tmp_path / "out", progress=False)


def test_all_templates_of_chat_are_those_of_the_merged_model(families, cp, tmp_path):
    base, theirs, _ = families()
    chat = shutil.copytree(theirs, tmp_path / "chat")
    template = Checkpoint(chat).chat_template
    (chat / "chat_template.jinja").unlink()
    config = json.loads((chat / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": template}, {"name": "tool_use", "template": "T" + template}]
    (chat / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    (cp / "additional_chat_templates").mkdir()
    (cp / "additional_chat_templates" / "own.jinja").write_text("the CP's")
    tau = Checkpoint(chat) - Checkpoint(base)
    tau.save(tmp_path / "tau", progress=False)
    wanted = {"default": template, "tool_use": "T" + template}
    for number, vector in enumerate((tau, WeightVector.load(tmp_path / "tau"))):
        merged, out = Checkpoint(cp) + vector, tmp_path / f"out{number}"
        merged.save(out, progress=False, verify=True)
        assert merged.tokenizer.chat_template == wanted
        assert transformers.AutoTokenizer.from_pretrained(out).chat_template == wanted
        assert Checkpoint(out).chat_template == template
    tau = Checkpoint(out) - Checkpoint(base)  # as transformers 5 keeps them
    assert dict(tau.chat_side.others) == {"tool_use": "T" + template}
    named.append({"name": "../x", "template": ""})
    (chat / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    with pytest.raises(ValueError, match=r"the chat template '\.\./x'"):
        _ = (Checkpoint(chat) - Checkpoint(base)).chat_side


def test_a_dtype_that_is_asked_for_is_told_wherever_config_json_tells_one(families, cp, tmp_path):
    base, chat, _ = families()
    config = json.loads((cp / "config.json").read_text())
    told = {
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "vision_config": {"torch_dtype": "bfloat16", "depth": 2},
    }
    (cp / "config.json").write_text(json.dumps(config | told))
    (Checkpoint(cp) + (Checkpoint(chat) - Checkpoint(base))).save(
        tmp_path / "out", dtype="float32", progress=False
    )
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found["dtype"] == found["torch_dtype"] == "float32"
    assert found["vision_config"] == {"torch_dtype": "float32", "depth": 2}


def test_a_processors_own_template_does_not_win_over_chats(families, cp, chatml, tmp_path):
    base, chat, _ = families()
    old = {"processor_class": "LlavaProcessor", "chat_template": "{{ 'the old one' }}"}
    (cp / "processor_config.json").write_text(json.dumps(old))
    assert Checkpoint(cp).chat_template == old["chat_template"]
    for number, source in enumerate((chat, chatml)):
        tau = Checkpoint(source) - Checkpoint(base)
        Checkpoint(cp).add(tau, add_tokens=True).save(tmp_path / f"out{number}", progress=False)
        found = json.loads((tmp_path / f"out{number}" / "processor_config.json").read_text())
        assert found == {"processor_class": "LlavaProcessor"}
        assert Checkpoint(tmp_path / f"out{number}").chat_template == Checkpoint(source).chat_template
