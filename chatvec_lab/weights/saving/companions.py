"""What a saved model has beside its weights: the CP's companions, with the chat model's template and end of turn."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatvec_lab.weights.saving.provenance import write_json
from chatvec_lab.weights.sources.beside import TOKENIZER_FILES, copy_companion, sort_companions
from chatvec_lab.weights.sources.files import read_json
from chatvec_lab.weights.tokens.chat import ADDITIONAL
from chatvec_lab.weights.tokens.tokenizers import compare_saved

if TYPE_CHECKING:
    from chatvec_lab.weights.merged import MergedCheckpoint


def write_companions(merged: MergedCheckpoint, folder: Path, dtype: str | None) -> None:
    """Config, tokenizer and their like: the CP's files, with the chat model's template, end of turn and generation."""
    if merged.chat_side is None and isinstance(merged.cp, type(merged)):
        return write_companions(merged.cp, folder, dtype)  # those of the inner sum
    for file in sort_companions(merged.cp.folder)[0]:
        for inner in (file, *file.rglob("*")) if file.is_dir() else (file,):
            _refuse_link(inner, merged.cp.folder)
        copy_companion(file, folder)
    config = _of_dtype(merged.config, dtype) if dtype else merged.config
    if dtype and config and not config.get("dtype") and not config.get("torch_dtype"):
        config["torch_dtype"] = dtype
    if config:
        write_json(folder / "config.json", config)
    if merged.generation_config:
        write_json(folder / "generation_config.json", merged.generation_config)
    if merged.chat_side is not None and merged.cp.vocabulary is not None:
        _write_tokenizer(merged, folder)


def _of_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A config that says this dtype wherever it said one, in the configs of parts too."""
    found = {
        key: _of_dtype(value, dtype) if isinstance(value, dict) else value for key, value in config.items()
    }
    return found | {key: dtype for key in ("dtype", "torch_dtype") if found.get(key)}


def _write_tokenizer(merged: MergedCheckpoint, folder: Path) -> None:
    shutil.rmtree(folder / ADDITIONAL, ignore_errors=True)  # the CP's own
    processor = folder / "processor_config.json"
    if "chat_template" in (
        stored := read_json(processor)
    ):  # which it would take before that of the tokenizer
        write_json(processor, {key: value for key, value in stored.items() if key != "chat_template"})
    if merged.added_tokens:  # a new tokenizer: older files beside it would tell of another
        for name in TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
        merged.tokenizer.save_pretrained(folder)
        return
    write_json(folder / "tokenizer_config.json", merged.tokenizer_config)
    (folder / "chat_template.jinja").write_text(merged.chat_template, "utf-8")
    for name, template in merged.chat_side.others.items():
        (folder / ADDITIONAL).mkdir(exist_ok=True)
        (folder / ADDITIONAL / f"{name}.jinja").write_text(template, "utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)  # where a processor looks first
    special = folder / "special_tokens_map.json"
    if special.is_file() and "eos_token" in merged.tokenizer_config:
        stored = read_json(special)
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


def _refuse_link(file: Path, folder: Path) -> None:
    """A link out of the checkpoint would carry a file of this machine into what may be pushed."""
    is_in_cache = folder.parent.name == "snapshots"  # the hub's cache links to its blobs
    home = folder.parent.parent if is_in_cache else folder
    target = file.resolve()
    if not target.is_relative_to(home.resolve()):
        raise ValueError(
            f"{file} is a link to {target}, outside the checkpoint, and would be copied into the merged model. "
            "Replace it by a copy if it belongs to the model, or remove it."
        )
