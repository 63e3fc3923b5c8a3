"""How much faster is `respond` than a loop of one `generate` a prompt?

Both answer the same prompts with the same nano-sized model (0.97 M parameters: hidden 128, 4 layers,
vocabulary 903, context 96), greedily, on one thread; the replies must be equal. They take turns, since the
machine may be busy, and the ratio of each round is printed with their median.

    python benchmarks/generation.py [--prompts 600] [--rounds 3]
"""

import argparse
import random
import statistics
import time

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chatvec_lab.evaluation.asking.generation import respond

MAX_TOKENS = 20


def nano_sized():
    """A model of the nano family's size with random weights, and a word-level tokenizer."""
    words = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(900))]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", pad_token="<pad>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def one_by_one(model, tokenizer, prompts):
    replies = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        replies.append(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return replies


def batched(model, tokenizer, prompts):
    settings = {"template": "plain", "max_tokens": MAX_TOKENS, "progress": False}
    return respond(model, tokenizer, prompts, **settings).response.tolist()


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = nano_sized()
    rng = random.Random(0)
    prompts = [
        " ".join(f"w{rng.randrange(900)}" for _ in range(rng.randint(6, 30))) for _ in range(options.prompts)
    ]
    for function in (one_by_one, batched):
        function(model, tokenizer, prompts[:3])  # warm-up
    print(f"{options.prompts} replies of up to {MAX_TOKENS} tokens, {model.num_parameters():,} parameters")
    ratios = []
    for number in range(options.rounds):
        expected, slow = timed(one_by_one, model, tokenizer, prompts)
        found, fast = timed(batched, model, tokenizer, prompts)
        assert found == expected, "replies differ"
        ratios.append(slow / fast)
        print(
            f"round {number + 1}: generate one by one {slow:.2f} s, respond {fast:.2f} s, {slow / fast:.1f} x"
        )
    print(f"median: respond is {statistics.median(ratios):.1f} x as fast; all replies equal")


if __name__ == "__main__":
    main()
