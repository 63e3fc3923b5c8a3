"""A hub model of which only some rows are read: by HTTP ranges, without a download of its weights."""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path

import numpy as np

from chatvec_lab.weights.checkpoint import Checkpoint, find_entries
from chatvec_lab.weights.sources import files


def sparsely(checkpoint: Checkpoint) -> Checkpoint:
    """The same model, for reading few of its rows: a hub id that is not in the cache is read by ranges.

    Folders, models in the cache, and models without safetensors (which must be downloaded) come back as they are.
    """
    from huggingface_hub import get_safetensors_metadata, snapshot_download

    if type(checkpoint) is not Checkpoint or Path(checkpoint.source).is_dir():
        return checkpoint
    try:
        find_entries(
            Path(snapshot_download(checkpoint.source, revision=checkpoint.revision, local_files_only=True))
        )
        return checkpoint
    except (FileNotFoundError, OSError):
        pass  # not in the cache, or not whole
    try:
        found = get_safetensors_metadata(checkpoint.source, revision=checkpoint.revision)
    except Exception:  # no safetensors, no network, no such model
        return checkpoint  # the ordinary way downloads it, or says why it cannot
    return Remote(checkpoint, found.files_metadata)


class Remote(Checkpoint):
    """A hub model whose elements are asked for range by range. Config and tokenizer are downloaded when needed."""

    def __init__(self, checkpoint: Checkpoint, metadata: dict):
        self.source, self.revision, self._metadata = checkpoint.source, checkpoint.revision, metadata
        self._files = {}

    @cached_property
    def folder(self) -> Path:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.model", "*.txt", "*.jinja"]
        return Path(
            snapshot_download(
                self.source, revision=self.revision, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
        )

    @cached_property
    def entries(self) -> dict[str, files.Entry]:
        result = {}
        for file, metadata in sorted(self._metadata.items()):
            start = 8 + struct.unpack("<Q", self._range(file, 0, 8))[0]
            for name, tensor in metadata.tensors.items():
                dtype = files.SAFETENSORS_DTYPES.get(tensor.dtype)
                if dtype is None:
                    raise ValueError(
                        f"{self.label}: {name!r} is stored as {tensor.dtype}, which is not read from the hub."
                    )
                result[name] = files.Entry(
                    Path(file), start + tensor.data_offsets[0], dtype, tuple(tensor.shape)
                )
        return result

    def fill(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        entry = self._entry(name)
        view = out[: stop - start]
        first = entry.offset + start * view.itemsize
        view[:] = np.frombuffer(self._range(str(entry.file), first, first + view.nbytes), view.dtype)
        return view

    def _range(self, file: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of one file; OSError when the server sends anything else."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import HTTPError
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = {**build_hf_headers(), "range": f"bytes={start}-{stop - 1}"}
        url = hf_hub_url(self.source, file, revision=self.revision)
        try:
            answer = get_session().get(url, headers=headers, follow_redirects=True, timeout=60)
            hf_raise_for_status(answer)
        except HTTPError as error:  # the connection's is no OSError
            raise OSError(f"{self.label}: {file} could not be read from the hub ({error}).") from error
        if len(answer.content) != stop - start:
            raise OSError(
                f"{self.label}: asked for {stop - start} bytes of {file}, got {len(answer.content)}. "
                "The server does not send ranges; download the model first."
            )
        return answer.content
