"""Pico families: real two-layer transformers checkpoints made from a config and a seed, read the real way."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import torch

TOKENS = [f"w{i}" for i in range(60)]
SPECIAL = ["<unk>", "<s>", "</s>"]
# a CP vocabulary: a quarter more tokens, and another order
CP_TOKENS = random.Random(0).sample(SPECIAL + TOKENS + [f"x{i}" for i in range(16)], 79)
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def config_of(kind: str, vocabulary: int, *, tied: bool = False):
    """A small config of one architecture; grouped queries in Mistral, Qwen2 and Gemma, experts in Mixtral."""
    from transformers import AutoConfig

    common = dict(vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                  intermediate_size=24, max_position_embeddings=64, tie_word_embeddings=tied,
                  bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    extra = {
        "llama": {},
        "qwen2": dict(num_key_value_heads=1),
        "mistral": dict(num_key_value_heads=1, head_dim=8),
        "gemma": dict(num_key_value_heads=1, head_dim=8),
        "gpt_neox": {},
        "mixtral": dict(num_key_value_heads=1, num_local_experts=3, num_experts_per_tok=2),
        "phi3": dict(num_key_value_heads=1, original_max_position_embeddings=64),
    }[kind]
    return AutoConfig.for_model(kind, **common, **extra)


def save_tokenizer(
    folder: Path, tokens: list[str], *, template: str | None = None, special: list[str] = SPECIAL
) -> None:
    """A word-level tokenizer whose ids follow the order of `tokens`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    known = [t for t in special if t in tokens]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=[t for t in known if t not in SPECIAL],
    )  # fmt: skip
    if template:
        fast.chat_template = template
    fast.save_pretrained(folder)


def save_model(
    folder: Path, kind: str = "llama", *, seed: int = 0, tokens: list[str] | None = None, rows: int | None = None,
    dtype: torch.dtype = torch.bfloat16, tied: bool = False, near: Path | None = None, step: float = 0.002,
    template: str | None = None, special: list[str] = SPECIAL, shard: str = "5GB", as_bin: bool = False,
    change: Callable[[dict], None] | None = None,
) -> Path:  # fmt: skip
    """A checkpoint folder. With `near`, each tensor of that folder plus Gaussian noise of `step` (rows by token)."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    tokens = tokens or SPECIAL + TOKENS
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(kind, rows or len(tokens), tied=tied))
    if near is not None:
        parent = {}
        for file in sorted(near.glob("*.safetensors")):
            parent |= load_file(file)
        ids = json.loads((near / "tokenizer.json").read_text())["model"]["vocab"]
        own = AutoModelForCausalLM.from_pretrained(near, dtype=torch.float32)
        wanted = dict(model.named_parameters())
        for name, theirs in own.named_parameters():
            ours = wanted[name]
            noise = step * torch.randn(ours.shape)
            with torch.no_grad():
                if ours.shape == theirs.shape and tokens == list(ids):
                    ours.copy_(theirs + noise)
                elif ours.shape[1:] == theirs.shape[1:] and any(k in name for k in ("embed", "lm_head")):
                    ours.normal_(0, 0.02)
                    for row, token in enumerate(tokens):
                        if token in ids:
                            ours[row] = theirs[ids[token]] + noise[row]
                else:
                    ours.copy_(theirs + noise)
    model = model.to(dtype)
    if change:
        with torch.no_grad():
            change(dict(model.named_parameters()))
    model.save_pretrained(folder, max_shard_size=shard)
    if as_bin:
        state = {k: v.contiguous() for k, v in model.state_dict().items()}
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        torch.save(state, folder / "pytorch_model.bin")
    save_tokenizer(folder, tokens, template=template, special=special)
    return folder


def save_family(
    root: Path, kind: str = "llama", *, cp_tokens: list[str] | None = None, **options
) -> tuple[Path, Path, Path]:
    """base, chat (with a template) and CP folders of one family."""
    base = save_model(root / "base", kind, seed=1, **options)
    chat = save_model(root / "chat", kind, seed=2, near=base, step=0.002, template=TEMPLATE, **options)
    cp = save_model(root / "cp", kind, seed=3, near=base, step=0.004, tokens=cp_tokens, **options)
    return base, chat, cp


def save_talker(folder, words: list[str]) -> None:
    """A real checkpoint that says these words after any prompt: each word's successor has the largest logit."""

    def chain(parameters):
        for name, weight in parameters.items():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weight.zero_()
        places = [tokens.index(word) for word in ("<|assistant|>", *words, "</s>")]
        for one, following in itertools.pairwise(places):
            row = parameters["model.embed_tokens.weight"][one].normal_()
            parameters["lm_head.weight"][following] = row / row.norm()

    tokens = SPECIAL + TOKENS + ["<think>", "</think>", "<|assistant|>"]
    save_model(folder, tokens=tokens, template=TEMPLATE, change=chain)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
