"""The files beside the weights: which of a checkpoint's travel with what is made of it, and which stay behind."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from chatvec_lab.weights.saving.provenance import write_json
from chatvec_lab.weights.tokenizers import compare_saved

if TYPE_CHECKING:
    from chatvec_lab.weights.merged import MergedCheckpoint

# What loading a model does not need, and why; all other files of the folder itself are carried, whatever their names.
LEFT_OUT = {
    "weights": ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.ot",
                "*.onnx", "*.onnx_data", "*.npz", "*.tflite", "*.index.json", "params.json"),
    "an adapter": ("adapter_config.json", "adapter_model*"),
    "state of a training": ("trainer_state.json", "training_args*", "optimizer*", "scheduler*", "rng_state*", "latest",
                            "zero_to_fp32.py", "*_results.json", "events.out.tfevents*", "*.log"),
    "about another model": ("README*", "manifest.json", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp", "*.pdf",
                            "*.mp4", "*.lock", "*.tmp", "*.part", "*.incomplete"),
    "hidden": (".*",),
    "written anew": ("config.json", "generation_config.json"),
}  # fmt: skip
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
    return next(
        (why for why, patterns in LEFT_OUT.items() if any(fnmatch(name, pattern) for pattern in patterns)),
        None,
    )


def sort_companions(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that are carried, and the names of the others with the reason."""
    carried, left = [], {}
    for path in sorted(folder.iterdir()):
        why = reason_left_out(path.name) if path.is_file() else "a folder"
        if why is None:
            carried.append(path)
        else:
            left[path.name] = why
    return carried, left


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


def write_companions(merged: MergedCheckpoint, folder: Path, dtype: str | None) -> None:
    """Config, tokenizer and their like: the CP's files, with the chat model's template, end of turn and generation."""
    if merged.chat_side is None and isinstance(merged.cp, type(merged)):
        return write_companions(merged.cp, folder, dtype)  # those of the inner sum
    for file in sort_companions(merged.cp.folder)[0]:
        shutil.copyfile(file, folder / file.name)
    config = dict(merged.config)
    if dtype and config:
        config["dtype" if "dtype" in config else "torch_dtype"] = dtype
    if config:
        write_json(folder / "config.json", config)
    if merged.generation_config:
        write_json(folder / "generation_config.json", merged.generation_config)
    if merged.chat_side is not None and merged.cp.vocabulary is not None:
        _write_tokenizer(merged, folder)


def _write_tokenizer(merged: MergedCheckpoint, folder: Path) -> None:
    if merged.added_tokens:  # a new tokenizer: older files beside it would tell of another
        for name in TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
        merged.tokenizer.save_pretrained(folder)
        return
    write_json(folder / "tokenizer_config.json", merged.tokenizer_config)
    (folder / "chat_template.jinja").write_text(merged.chat_template, "utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)  # where a processor looks first
    special = folder / "special_tokens_map.json"
    if special.is_file() and "eos_token" in merged.tokenizer_config:
        stored = json.loads(special.read_text("utf-8"))
        write_json(special, stored | {"eos_token": merged.tokenizer_config["eos_token"]})


def check_tokenizer(merged: MergedCheckpoint, folder: Path, *, fully: bool) -> None:
    """ValueError when the tokenizer that was written is not the live one.

    One that was written anew is always opened and compared; the CP's own files only `fully`, since that takes seconds.
    """
    if merged.vocabulary is None or not (merged.added_tokens or fully):
        return
    lines = compare_saved(merged.tokenizer, folder)
    if lines:
        raise ValueError(
            f"the tokenizer of {merged.label} would be another one after saving:\n  "
            + "\n  ".join(lines[:8])
            + "\nNothing was saved. Save its tokenizer anew with transformers (save_pretrained) in the CP's folder, "
            "without the older tokenizer files, and try again."
        )
