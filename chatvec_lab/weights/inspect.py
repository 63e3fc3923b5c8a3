"""What a checkpoint or vector holds, in one page, from headers and JSON files alone."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from pathlib import Path

from chatvec_lab.weights.checkpoint import Checkpoint, find_entries, read_json
from chatvec_lab.weights.layout import layer_of, module_of
from chatvec_lab.weights.saving.provenance import MANIFEST
from chatvec_lab.weights.sources import files


def inspect(source: str, *, revision: str | None = None, tensors: bool = False) -> str:
    """A printable page about a folder or hub id: architecture, sizes by module, vocabulary, provenance.

    Raises FileNotFoundError when there is neither a model nor a vector, ValueError naming a damaged file.
    """
    checkpoint = Checkpoint(source, revision=revision)
    if not Path(source).exists():
        _without_weights(checkpoint)
    folder = checkpoint.folder
    manifest = read_json(folder / MANIFEST)
    is_vector = str(manifest.get("format", "")).startswith("chatvec_lab weight vector")
    entries = find_entries(folder, stem="vector") if is_vector else checkpoint.entries
    lines = [
        f"{checkpoint.label}: "
        + ("weight vector " + manifest["label"] if is_vector else _architecture(checkpoint))
    ]
    lines += _sizes(entries)
    if checkpoint.quantisation:
        lines.append(f"GGUF: stored as {checkpoint.quantisation}; read dequantised, as the dtypes above")
    if not is_vector:
        lines.append(_vocabulary(checkpoint))
        lines.append(f"head: {'tied to the embedding' if checkpoint.is_tied else 'its own'}")
        lines.append("chat template: " + ("yes" if checkpoint.chat_template else "none"))
    if manifest:
        lines.append(f"provenance ({MANIFEST}): {manifest.get('format', 'unknown format')}")
        for entry in manifest.get("sources", []):
            lines.append(f"  {entry['name']} @ {entry['revision'] or 'local folder'}  {entry['digest']}")
        lines.append(f"  weights {manifest.get('weights', {}).get('digest', 'not recorded')}")
    if tensors:
        width = max(map(len, entries))
        lines += [f"{name:{width}}  {e.dtype:9} {e.shape!s:18} {e.file.name}" for name, e in entries.items()]
    return "\n".join(lines)


def _without_weights(checkpoint: Checkpoint) -> None:
    """Give a hub model its config and tokenizer from the hub, and its tensors from the headers alone.

    A model that is in the cache whole, or has no safetensors, is left to be opened in the usual way.
    """
    from huggingface_hub import get_safetensors_metadata, snapshot_download

    try:
        found = get_safetensors_metadata(checkpoint.source, revision=checkpoint.revision)
    except Exception:  # no safetensors, no network, no such model: the usual way opens it or says why
        return
    patterns = ["*.json", "*.model", "*.txt", "*.jinja"]
    checkpoint.folder = Path(
        snapshot_download(
            checkpoint.source, revision=checkpoint.revision, allow_patterns=patterns, ignore_patterns=["*/*"]
        )
    )
    checkpoint.entries = {
        name: files.Entry(
            Path(file), tensor.data_offsets[0], files.SAFETENSORS_DTYPES[tensor.dtype], tuple(tensor.shape)
        )
        for file, metadata in sorted(found.files_metadata.items())
        for name, tensor in metadata.tensors.items()
    }


def _architecture(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    names = config.get("architectures") or [config.get("model_type") or "unknown architecture"]
    keys = (
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
    )
    facts = [f"{key} {config[key]}" for key in keys if config.get(key)]
    return ", ".join([*names, *facts])


def _sizes(entries) -> list[str]:
    count, size, kinds = defaultdict(int), defaultdict(int), defaultdict(set)
    for name, entry in entries.items():
        kind = module_of(name)
        count[kind] += prod(entry.shape)
        size[kind] += entry.nbytes
        kinds[kind].add(entry.dtype)
    layers = {layer_of(name) for name in entries} - {None}
    shards = {entry.file for entry in entries.values()}
    lines = [
        f"{sum(count.values()):,} parameters in {len(entries)} tensors, {len(layers)} layers, "
        f"{len(shards)} file{'s' * (len(shards) != 1)}, {sum(size.values()) / 1e6:,.1f} MB"
    ]
    for kind in sorted(count, key=count.get, reverse=True):
        lines.append(
            f"  {kind:10} {count[kind]:>15,}  {size[kind] / 1e6:>10,.1f} MB  {', '.join(sorted(kinds[kind]))}"
        )
    return lines


def _vocabulary(checkpoint: Checkpoint) -> str:
    vocabulary = checkpoint.vocabulary
    if vocabulary is None:
        return "tokenizer: none"
    return f"tokenizer: {len(vocabulary.tokens):,} tokens, {len(vocabulary.special)} of them special or added"
