"""Tiny models of real architectures over a vocabulary of whole words, their tokenizer, and prompts of these words."""

import random

import pandas as pd
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

SIZES = {
    "vocab_size": 203,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "eos_token_id": 1,
    "bos_token_id": None,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # wide enough that replies vary
}
NEOX = {**SIZES, "use_parallel_residual": True}
del NEOX["num_key_value_heads"]
CONFIGS = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=8),  # shorter than the prompts
    "gemma": GemmaConfig(**SIZES, head_dim=8),
    "gpt_neox": GPTNeoXConfig(**NEOX),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "bloom": BloomConfig(
        **{k: v for k, v in SIZES.items() if "key_value" not in k and "position" not in k}
    ),  # ALiBi
}
MARKERS = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def make_model(name, dtype=torch.float32):
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).to(dtype).eval()


def make_tokenizer():
    words = ["<pad>", "<eos>", "<unk>", *MARKERS]
    words += [f"w{i}" for i in range(SIZES["vocab_size"] - len(words))]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=MARKERS,
    )
    fast.chat_template = TEMPLATE
    return fast


def make_prompts(n, seed="prompts", turns=1):
    rng = random.Random(seed)

    def text():
        return " ".join(f"w{rng.randrange(190)}" for _ in range(rng.randint(1, 14)))

    rows = [{"prompt_id": f"p{i}", "set": "words", "language": "en"} for i in range(n)]
    for i, row in enumerate(rows):
        row["turns"] = [text() for _ in range(1 + i % turns)]
    return pd.DataFrame(rows)
