"""GGUF files of architectures other than Llama: names and config by transformers' own mapping.

Only architectures whose tensors llama.cpp stores as they are, or whose norms it stores with 1 added, are known here:
others are rearranged on the way, and are refused by name. Needs transformers and torch, for the model's own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# llama.cpp's architectures; True: norms are stored with 1 added
ARCHITECTURES = {
    "qwen2": False, "qwen3": False, "phi3": False, "starcoder2": False, "gemma2": True, "gemma3": True,
    "nemotron": True, "qwen2moe": False, "qwen3moe": False,
}  # fmt: skip


@dataclass(frozen=True)
class Mapped:
    """Of one file: transformers' config, its name for each of the file's tensors, and whether norms have 1 added."""

    config: dict[str, Any]
    names: dict[str, str]
    adds_one: bool


def mapped(path: Path, architecture: str, own: Mapping[str, Any]) -> Mapped:
    """What transformers says of a file. ValueError naming the file where it does not know it.

    `own` are facts of the file in transformers' words, which it leaves out, or at their defaults, for some architectures.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import (
        Qwen2MoeTensorProcessor,
        TensorProcessor,
        get_gguf_hf_weights_map,
        load_gguf_checkpoint,
    )

    try:
        stated = load_gguf_checkpoint(str(path))["config"]
        config = CONFIG_MAPPING[stated["model_type"]].from_dict({**stated, **own})
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        processor = Qwen2MoeTensorProcessor if architecture.endswith("moe") else TensorProcessor
        names = get_gguf_hf_weights_map(model, processor(config.to_dict()))
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{path.name}: transformers cannot tell its config or names ({type(error).__name__}: {error}). Use the "
            "model's safetensors."
        ) from error
    told = config.to_diff_dict() | {
        "architectures": [type(model).__name__], "model_type": config.model_type, "dtype": "float32",
    }  # fmt: skip
    for key in ("_name_or_path", "transformers_version", "_model_name_or_path"):
        told.pop(key, None)
    return Mapped(told, names, ARCHITECTURES[architecture])
