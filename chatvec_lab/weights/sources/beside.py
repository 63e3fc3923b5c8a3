"""The files beside the weights: which of a checkpoint's travel with what is made of it, and which stay behind."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

# What loading a model does not need, and why; all other files of the folder itself are carried, whatever their names.
LEFT_OUT = {
    "weights": ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.ot",
                "*.onnx", "*.onnx_data", "*.npz", "*.tflite", "*.index.json", "params.json"),
    "how the CP was quantised": ("quantize_config.json", "quant_config.json", "hf_quant_config.json",
                                 "quantization_config.json", "quanto_qmap.json"),
    "an adapter": ("adapter_config.json", "adapter_model*"),
    "state of a training": ("trainer_state.json", "training_args*", "optimizer*", "scheduler*", "rng_state*", "latest",
                            "zero_to_fp32.py", "*_results.json", "events.out.tfevents*", "*.log"),
    "about another model": ("README*", "manifest.json", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp", "*.pdf",
                            "*.mp4", "*.lock", "*.tmp", "*.part", "*.incomplete"),
    "hidden": (".*",),
    "written anew": ("config.json", "generation_config.json"),
}  # fmt: skip
# what has the form of weights and is none: the voices of Qwen2.5-Omni, without which it cannot be loaded
CARRIED = ("spk_dict.pt",)
ADAPTER = "adapter_config.json"
# what a tokenizer is stored in; a tokenizer that is saved anew must not stand beside older files of these names
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip


def reason_left_out(name: str) -> str | None:
    """Why a file of this name does not travel; None for one that does.

    >>> reason_left_out("tekken.json"), reason_left_out("adapter_config.json")
    (None, 'an adapter')
    """
    if name in CARRIED:
        return None
    return next(
        (why for why, patterns in LEFT_OUT.items() if any(fnmatch(name, pattern) for pattern in patterns)),
        None,
    )


def sort_companions(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that are carried, and the names of the others with the reason.

    Of folders those are carried that modules.json names (the further modules of a sentence-transformers model), and
    that of further chat templates.
    """
    carried, left, modules = [], {}, {"additional_chat_templates"} | _modules(folder)
    for path in sorted(folder.iterdir()):
        why = reason_left_out(path.name) if path.is_file() else None if path.name in modules else "a folder"
        if why is None:
            carried.append(path)
        else:
            left[path.name] = why
    return carried, left


def _modules(folder: Path) -> set[str]:
    """Folders in which modules.json of sentence-transformers says that modules of the model lie."""
    path = folder / "modules.json"
    if not path.is_file():
        return set()
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}). Download or copy it again.") from error
    entries = found if isinstance(found, list) else []
    return {str(entry["path"]) for entry in entries if isinstance(entry, dict) and entry.get("path")}


def copy_companion(path: Path, folder: Path) -> None:
    """A carried file, or folder, into another folder."""
    if path.is_dir():
        shutil.copytree(path, folder / path.name, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(path, folder / path.name)


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """The folder as transformers should see it: with an adapter's leftovers in it, another folder of links to the rest.

    transformers takes a folder with adapter_config.json for an adapter, and loads its base in place of the weights.
    """
    if not (folder / ADAPTER).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="chatvec_lab-model-") as temporary:
        for path in folder.iterdir():
            if reason_left_out(path.name) != "an adapter":
                (Path(temporary) / path.name).symlink_to(path.resolve())
        yield Path(temporary)
