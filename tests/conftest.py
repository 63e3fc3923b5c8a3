"""Fixtures shared by all tests: pico families, made once a session."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# threads of torch wait for each other in a loop: where two processes share the cores, tiny models then cost four times as much
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # so that tests can import pico

import pytest
import torch

if not torch.cuda.is_available():  # GPU kernels run on the CPU; decided when triton is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it; tests send it

LONG = (
    "test_notebooks_run.py",
    "test_published_study.py",
    "test_clusters.py",
    "test_redraw.py",
    "test_faults.py",
    "test_paper_study.py",
    "test_jupyterlab.py",
    "test_kills.py",
    "test_secrets.py",
    "test_runner.py",
    "test_coverage.py",
    "test_exact.py",
    "test_generation.py",
    "test_live.py",
)


def pytest_collection_modifyitems(items):
    """The longest files come first, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """`families(kind, **options)` -> (base, chat, cp) folders of a pico family; one is made once a session."""
    from pico import save_family
    from transformers.utils import logging

    logging.disable_progress_bar()
    made: dict = {}

    def family(kind: str = "llama", **options):
        key = repr((kind, sorted(options.items(), key=lambda item: item[0])))
        if key not in made:
            made[key] = save_family(tmp_path_factory.mktemp(kind), kind, **options)
        return made[key]

    return family
