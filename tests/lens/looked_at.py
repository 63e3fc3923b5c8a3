"""A pico family far enough apart for its effects to be seen, live and as plain transformers models."""

from __future__ import annotations

import torch
from pico import TEMPLATE, save_model
from transformers import AutoModelForCausalLM

from chatvec_lab import Checkpoint
from chatvec_lab.lens import Pair
from chatvec_lab.live import LiveModel

PAIRS = [Pair([1, 5, 9, 7], [11, 4, 30, 2], "a"), Pair([1, 40], [8, 8], "b")]


def family(root, kind="llama", *, step=0.03, cp_tokens=None, **options):
    """(base, chat, cp) folders whose vector is as large as the weights themselves."""
    base = save_model(root / "base", kind, seed=1, **options)
    chat = save_model(root / "chat", kind, seed=2, near=base, step=step, template=TEMPLATE, **options)
    options |= {"tokens": cp_tokens} if cp_tokens else {}
    cp = save_model(root / "cp", kind, seed=3, near=base, step=step, **options)
    return base, chat, cp


def opened(folders):
    base, chat, cp = map(Checkpoint, folders)
    return cp, chat - base


def live_of(folders, dtype="auto", **options):
    live = LiveModel(*opened(folders), device="cpu", dtype=dtype, **options)
    if dtype == "float64":  # for which the fused product of experts has no kernel
        live.model.set_experts_implementation("eager")
    return live


def saved(folders, scale, to, **options):
    """What a user would load: the saved sum, computed with in float32."""
    cp, tau = opened(folders)
    (cp + scale * tau).save(to, progress=False, force=["descent"], **options)
    return AutoModelForCausalLM.from_pretrained(to, dtype=torch.float32).eval()


def logits_of(model, pair):
    """(said, vocabulary): before each token that is said."""
    with torch.no_grad():
        return model(torch.tensor([[*pair.asked, *pair.said]])).logits[0, len(pair.asked) - 1 : -1].double()
