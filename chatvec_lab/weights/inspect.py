"""What a checkpoint or vector holds, in one page, from headers and JSON files alone."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from pathlib import Path

from chatvec_lab.weights.checkpoint import Checkpoint, read_json
from chatvec_lab.weights.layout import Layout
from chatvec_lab.weights.saving.provenance import MANIFEST
from chatvec_lab.weights.sources.files import NUMPY_DTYPES, Tensors
from chatvec_lab.weights.sources.folder import Folder, open_folder
from chatvec_lab.weights.sources.hub import remote


def inspect(source: str, *, revision: str | None = None, tensors: bool = False) -> str:
    """A printable page about a folder or hub id: architecture, sizes by module, vocabulary, provenance.

    Raises FileNotFoundError when there is neither a model nor a vector, ValueError naming a damaged file.
    """
    checkpoint = Checkpoint(source, revision=revision)
    if not Path(source).exists():  # of a hub id that is not in the cache, headers are enough
        checkpoint = Checkpoint(source, revision=revision, origin=remote(source, revision))
    folder = checkpoint.folder
    manifest = read_json(folder / MANIFEST)
    is_vector = str(manifest.get("format", "")).startswith("chatvec_lab weight vector")
    if is_vector:
        checkpoint = Checkpoint(folder, origin=Folder(folder, open_folder(folder, stem="vector")))
    tensors_of = checkpoint.origin.tensors  # also of a quantised model, which is described and not read
    lines = [
        f"{checkpoint.label}: "
        + ("weight vector " + manifest["label"] if is_vector else _architecture(checkpoint))
    ]
    lines += _sizes(checkpoint, tensors_of)
    if tensors_of.note:
        lines.append(f"{tensors_of.note}: the dtypes above are those that are read")
    if checkpoint.origin.refused:
        lines.append(f"quantised: no vector can be made of it or added to it. {checkpoint.origin.refused}")
    if not is_vector:
        lines.append(_vocabulary(checkpoint))
        lines.append("head: " + _head(checkpoint))
        if not checkpoint.origin.refused and checkpoint.lacking and not checkpoint.layout.lacks_head:
            lines.append("not whole: " + checkpoint.lacking)
        lines.append("chat template: " + ("yes" if checkpoint.chat_template else "none"))
    if manifest:
        lines.append(f"provenance ({MANIFEST}): {manifest.get('format', 'unknown format')}")
        for entry in manifest.get("sources", []):
            lines.append(f"  {entry['name']} @ {entry['revision'] or 'local folder'}  {entry['digest']}")
        lines.append(f"  weights {manifest.get('weights', {}).get('digest', 'not recorded')}")
    if tensors:
        width = max(map(len, tensors_of.names), default=0)
        lines += [
            f"{name:{width}}  {tensors_of.dtype(name):9} {tensors_of.shape(name)!s:18} {tensors_of.file(name)}"
            for name in tensors_of.names
        ]
    return "\n".join(lines)


def _head(checkpoint: Checkpoint) -> str:
    if checkpoint.origin.refused:
        return "not read"
    if checkpoint.layout.lacks_head:
        return checkpoint.lacking
    if checkpoint.is_tied:
        return "tied to the embedding"
    return "its own" if checkpoint.layout.head else "none"


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


def _sizes(checkpoint: Checkpoint, tensors: Tensors) -> list[str]:
    """Sizes by module. Buffers are stored, but no parameters."""
    shapes = {name: tensors.shape(name) for name in tensors.names}
    layout = Layout.of(checkpoint.config, tensors.names, shapes)
    count, size, kinds, layers = defaultdict(int), defaultdict(int), defaultdict(set), set()
    for name, shape in shapes.items():
        part, dtype = layout[name], tensors.dtype(name)
        count[part.module] += prod(shape)
        size[part.module] += prod(shape) * NUMPY_DTYPES[dtype].itemsize
        kinds[part.module].add(dtype)
        if part.layer is not None and part.component == "text":
            layers.add(part.layer)
    files = len({tensors.file(name) for name in shapes})
    parameters = sum(number for module, number in count.items() if module != "buffer")
    lines = [
        f"{parameters:,} parameters in {len(shapes)} tensors, {len(layers)} layers, "
        f"{files} file{'s' * (files != 1)}, {sum(size.values()) / 1e6:,.1f} MB"
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
    if vocabulary.opaque:
        return f"tokenizer: {len(vocabulary.tokens):,} tokens read from its files, but {vocabulary.why}"
    return f"tokenizer: {len(vocabulary.tokens):,} tokens, {len(vocabulary.special)} of them special or added"
