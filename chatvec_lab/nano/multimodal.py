"""A tiny vision-language model around a text model: its language part speaks, its eyes are random.

It shows where a vector goes in a larger model, and that nothing else is touched. It has not learned to see.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatvec_lab import Checkpoint

IMAGE = "<image>"
PIXELS = 16  # width and height of an image, which becomes four tokens


def llava_around(text: Checkpoint, folder: str | Path, *, seed: int = 0) -> Checkpoint:
    """A LLaVA saved in the new `folder`: its language part is `text` bit for bit, with one token more, for images.

    Vision tower (CLIP, two layers) and projector are drawn from `seed`. Made for Llama checkpoints.
    Raises FileExistsError when the folder exists.
    """
    import torch
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    from chatvec_lab import Checkpoint
    from chatvec_lab.opening import open_config
    from chatvec_lab.weights.saving.commit import MANIFEST

    folder = Path(folder)
    folder.mkdir(parents=True)
    inner = open_config(text.folder)
    image = inner.vocab_size
    inner.vocab_size += 1
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=PIXELS, patch_size=8,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=inner, image_token_index=image, image_seq_length=4,
                         tie_word_embeddings=inner.tie_word_embeddings)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).to(text.dtype(text.names[0]))
    held = {f"model.{n}": t for n, t in model.model.language_model.state_dict().items()}
    held["lm_head.weight"] = model.lm_head.weight
    with torch.no_grad():
        model.lm_head.weight[image:] = 0  # never the likeliest next token
        for name in text.names:
            stored = text.read(name)
            held[name][: len(stored)] = stored
    model.save_pretrained(folder)
    tokenizer = text.origin.open_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    if tokenizer.convert_tokens_to_ids(IMAGE) != image:
        raise ValueError(f"{text.label} has {image} rows but its tokenizer gave {IMAGE} another id.")
    tokenizer.save_pretrained(folder)
    # by which `commit.discard` knows the folder as ours
    made = {"format": "chatvec_lab vision-language model 1", "companions": sorted(os.listdir(folder))}
    (folder / MANIFEST).write_text(json.dumps(made, indent=1), "utf-8")
    return Checkpoint(folder)


def random_images(count: int, *, seed: int = 0):
    """Pixels of `count` random images, shape (count, 3, 16, 16), float32."""
    import torch

    return torch.randn(count, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(seed))
