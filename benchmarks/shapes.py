"""Checkpoints of a given size with random weights, for the benchmarks: TinyLlama-1.1B shapes unless told otherwise.

base ~ N(0, 0.02) with norms around 1; chat = base + N(0, 0.002); cp = base + N(0, 0.004); cp40k = cp with 8000
tokens more. Everything is bfloat16, and each tensor's noise is seeded by crc32("member/name"), so the bytes can be
made again. Weights are random: they say something about time and memory, nothing about quality.

    python benchmarks/shapes.py [--layers 22] [--members base chat cp cp40k] [--folder benchmarks/scratch/shapes]
"""

import argparse
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from math import prod
from pathlib import Path
from zlib import crc32

import numpy as np

from chatvec_lab.weights.saving.stream import Tensor, header, index_of, layout

WORK = Path(__file__).parent / "scratch"
STEPS = {"base": None, "chat": 0.002, "cp": 0.004, "cp40k": 0.004}
DRAWS = 1 << 15  # elements that are drawn and written at a time; small arrays are not mapped anew each time
NEW_TOKENS = 8000


def make(
    folder: Path = WORK / "shapes",
    *,
    members: tuple[str, ...] = ("base", "chat", "cp", "cp40k"),
    layers: int = 22,
    hidden: int = 2048,
    intermediate: int = 5632,
    heads: int = 32,
    kv_heads: int = 4,
    vocabulary: int = 32000,
    shard: int = 1_000_000_000,
    drawn: int | None = None,
) -> dict[str, Path]:
    """Folders by member; those that are there with the same settings are kept. The defaults are 2.2 GB a member.

    Streams with a few MB of memory. `layers=66` makes a model three times as large (but for the vocabulary). Where `drawn`
    is given, only so many layers are drawn and the others have their bytes: made sooner, read and written no faster.
    """
    unknown = [member for member in members if member not in STEPS]
    if unknown:
        raise ValueError(f"members {unknown} are unknown; there are {', '.join(STEPS)}.")
    settings = {
        "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
    }  # fmt: skip
    note = settings | {"shard": shard} | ({} if drawn is None else {"drawn": drawn})
    made = {member: Path(folder) / member for member in members}
    lacking = {m: f for m, f in made.items() if not _is_made(f, note)}
    for member, path in lacking.items():
        path.mkdir(parents=True, exist_ok=True)
        _write_config(path, settings, _words(member, vocabulary), "chat" if member == "chat" else None)
    _write_weights(lacking, settings, shard, drawn or layers)
    for path in lacking.values():
        (path / "shapes.json").write_text(json.dumps(note))
    return made


def shapes(settings: dict[str, int], words: int) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a Llama, in the order in which they are stored."""
    hidden, inner = settings["hidden_size"], settings["intermediate_size"]
    narrow = hidden // settings["num_attention_heads"] * settings["num_key_value_heads"]
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {
        "model.embed_tokens.weight": (words, hidden),
        **{
            f"model.layers.{i}.{part}.weight": shape
            for i in range(settings["num_hidden_layers"])
            for part, shape in layer.items()
        },
        "model.norm.weight": (hidden,),
        "lm_head.weight": (words, hidden),
    }


def _is_made(folder: Path, wanted: dict[str, int]) -> bool:
    note = folder / "shapes.json"
    return note.is_file() and json.loads(note.read_text()) == wanted


def _words(member: str, vocabulary: int) -> int:
    return vocabulary + NEW_TOKENS if member == "cp40k" else vocabulary


def _write_config(folder: Path, settings: dict[str, int], words: int, template: str | None) -> None:
    from tokenizers import Tokenizer as Words
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, **settings, "vocab_size": words,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    ids = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, words))])}
    plain = Words(models.WordLevel(ids, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    if template:
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    tokenizer.save_pretrained(folder)


def _write_weights(folders: dict[str, Path], settings: dict[str, int], shard: int, drawn: int) -> None:
    """All members in one sweep over the tensors, so that the base's elements are drawn once."""
    with ExitStack() as stack:
        # member -> tensor that is drawn -> where its bytes go: file handles, first bytes
        places: dict[str, dict[str, list[tuple[int, int]]]] = {}
        for member, folder in folders.items():
            known = shapes(settings, _words(member, settings["vocab_size"]))
            files = layout([[Tensor(name, "bfloat16", shape) for name, shape in known.items()]], shard)
            if index := index_of(files):
                (folder / "model.safetensors.index.json").write_text(json.dumps(index))
            places[member] = {}
            for file, tensors in files.items():
                prefix, offsets = header(tensors)
                handle = os.open(folder / file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
                stack.callback(os.close, handle)
                os.pwrite(handle, prefix, 0)
                for name, offset in offsets.items():
                    places[member].setdefault(_drawn(name, drawn), []).append((handle, offset))
        common = shapes(settings | {"num_hidden_layers": drawn}, settings["vocab_size"])
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(_write_tensor, n, s, places) for n, s in common.items()]:
                done.result()


def _drawn(name: str, drawn: int) -> str:
    """The tensor whose bytes this one has: that of one of the first `drawn` layers."""
    return re.sub(r"(?<=\.layers\.)\d+", lambda found: str(int(found[0]) % drawn), name)


def _write_tensor(
    name: str, shape: tuple[int, ...], places: dict[str, dict[str, list[tuple[int, int]]]]
) -> None:
    size = prod(shape)
    draws = {m: _generator(m, name) for m in ("base", *places)}
    draws["cp40k"] = _generator("cp", name)  # the rows that cp40k shares with cp are cp's
    for start in range(0, size, DRAWS):
        count = min(DRAWS, size - start)
        base = _normal(draws["base"], count, 0.02) + np.float32("norm" in name)
        for member, place in places.items():
            step = STEPS[member]
            _write(place[name], start, base if step is None else base + _normal(draws[member], count, step))
    if "cp40k" in places and ("embed_tokens" in name or "lm_head" in name):
        new = _normal(_generator("cp40k", name), NEW_TOKENS * shape[1], 0.02)
        _write(places["cp40k"][name], size, new)


def _generator(member: str, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(crc32(f"{member}/{name}".encode())))


def _normal(generator: np.random.Generator, count: int, deviation: float) -> np.ndarray:
    return generator.standard_normal(count, np.float32) * np.float32(deviation)


def _write(places: list[tuple[int, int]], start: int, values: np.ndarray) -> None:
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> np.uint32(16)  # to nearest, ties to even
    raw = rounded.astype(np.uint16).tobytes()
    for handle, offset in places:
        os.pwrite(handle, raw, offset + 2 * start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=WORK / "shapes")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--members", nargs="+", default=["base", "chat", "cp", "cp40k"])
    options = parser.parse_args()
    for member, path in make(options.folder, layers=options.layers, members=tuple(options.members)).items():
        stored = sum(file.stat().st_size for file in path.iterdir())
        print(f"{member}: {path.name}, {stored:,} bytes in {len(list(path.glob('*.safetensors')))} shards")


if __name__ == "__main__":
    main()
