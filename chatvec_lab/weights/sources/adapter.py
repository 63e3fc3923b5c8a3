"""A folder of the PEFT library: an adapter, which is no model by itself."""

from __future__ import annotations

from pathlib import Path

from chatvec_lab.weights.sources.files import read_json


def what_it_adapts(folder: Path) -> str:
    """A sentence that says what a folder with adapter_config.json holds, and how it becomes a model."""
    config = read_json(folder / "adapter_config.json")
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    what = f"a PEFT adapter{f' ({kind})' if kind else ''}{f' for {base}' if base else ''}"
    return f" It holds {what}: merge it into its base first (merge_and_unload), then save."
