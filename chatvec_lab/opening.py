"""The one way by which this package opens what transformers opens: nothing of a repository's code runs, nothing asks.

transformers would run code that a repository brings along when the user says yes on standard input. Here such a
repository is refused, with what to do, unless transformers has the model or tokenizer itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatvec_lab.reading import read_json

_PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


def open_config(source: str | os.PathLike, **options):
    """The transformers config of a folder or hub id. ValueError where only code of its own could read it."""
    from transformers import AutoConfig

    return _open(AutoConfig, source, "its config", options)


def open_tokenizer(source: str | os.PathLike, **options):
    """The transformers tokenizer of a folder or hub id, as its own files say.

    A class of the model type's own (Qwen2's, say) would silently replace what a plain tokenizer.json says, so that
    such a one is opened as what it is. ValueError where only code of its own could read it.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    named = _json(source, "tokenizer_config.json").get("tokenizer_class")
    kind = PreTrainedTokenizerFast if named in _PLAIN_TOKENIZERS else AutoTokenizer
    try:
        return _open(kind, source, "its tokenizer", options)
    except (ValueError, ImportError, OSError, MemoryError):
        raise
    except Exception as error:  # of the libraries below, of no type of its own
        files = ", ".join(sorted(path.name for path in Path(source).glob("*token*"))) or "its files"
        raise ValueError(
            f"{source}: its tokenizer cannot be opened from {files}: {error}. A file is damaged, or was written by a "
            "newer version of tokenizers or transformers. Download or copy it again."
        ) from error


def open_model(source: str | os.PathLike, kind: Any = None, **options):
    """A model of a folder or hub id through a class of transformers (None: AutoModelForCausalLM).

    ValueError where only code of its own could build it, or where its config asks for a kernel from the hub.
    """
    from transformers import AutoModelForCausalLM

    kernels = sorted(set(_kernels(_json(source, "config.json"))))
    if kernels:
        raise ValueError(
            f"{source}: config.json asks for the attention kernel {kernels[0]!r}, code that would be fetched and run. "
            "It was not. Take the entry out of config.json; the model's weights do not depend on it."
        )
    return _open(kind or AutoModelForCausalLM, source, "the model", options)


def _open(kind, source: str | os.PathLike, what: str, options: dict[str, Any]):
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except (ValueError, ImportError, OSError) as error:
        if "trust_remote_code" not in str(error) and "custom code" not in str(error):
            raise
        code = (
            ", ".join(sorted(path.name for path in Path(source).glob("*.py")))
            if Path(source).is_dir()
            else ""
        )
        raise ValueError(
            f"{source} brings code of its own{f' ({code})' if code else ''}, which would have to run to open {what}. "
            "It was not run and nothing here runs it. Use a version of the model that transformers knows by itself "
            "(many have one on the hub, often named -hf), or convert it where you trust the code: load it there, and "
            "save model and tokenizer (as tokenizer.json) in transformers' own classes."
        ) from None


def _json(source: str | os.PathLike, file: str) -> dict[str, Any]:
    path = Path(source) / file
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"{error} Download or copy it again.") from error


def _kernels(config: dict[str, Any]) -> Iterator[str]:
    """Attention implementations that are repositories of the hub, anywhere in a config."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _kernels(value)
        elif "attn_implementation" in key and isinstance(value, str) and "/" in value:
            yield value
