"""A live model whose tensors a GPU turns has the bits of a saved merge; without a GPU, Triton's interpreter is it."""

import math
import os
import sys
from contextlib import nullcontext

import pytest
import torch
from pico import CP_TOKENS
from test_live import CHATML, SCALES, bits, chatml_family, differing, opened, saved_bits

from chatvec_lab.live import LiveModel

# the interpreter of older versions rounds a fused multiply-add twice
pytest.importorskip("triton", "3.9" if os.environ.get("TRITON_INTERPRET") else None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]


@pytest.fixture
def device(monkeypatch):
    """The GPU, or the CPU in its place."""
    if torch.cuda.is_available():
        return "cuda"
    from chatvec_lab.live import resident

    monkeypatch.setattr("chatvec_lab.live.model._can_reside", lambda device: True)
    monkeypatch.setattr(resident, "memory", lambda device: (1 << 30, 1 << 30))
    monkeypatch.setattr(resident, "_current", lambda device: nullcontext())
    return "cpu"


def on_host(model):
    return {name: tensor.cpu() for name, tensor in bits(model).items()}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"dtype": torch.float16}),
        ("llama", {"dtype": torch.float32}),
        ("gpt_neox", {}),
        ("mixtral", {}),
        ("phi3", {}),
        ("qwen2", {"cp_tokens": CP_TOKENS, "tied": True}),
    ],
    ids=str,
)
def test_resident_weights_are_the_saved_bits(families, kind, options, tmp_path, device):
    cp, tau = opened(families(kind, **options))
    live = LiveModel(cp, tau, device=device)
    assert live.gpu_share == 1
    before = on_host(live.model)
    for scale in SCALES:
        live.scale = scale
        saved = saved_bits(cp + scale * tau, tmp_path / str(scale))
        assert differing(on_host(live.model), saved) == []
    live.scale = 0
    assert differing(on_host(live.model), before) == []


def test_what_the_kernel_does_not_know_is_left_to_the_host(families, tmp_path, device):
    cp, tau = opened(families("llama"))
    both = 0.7 * tau.select(layers=0) + tau.random_like(1).select(layers=1)
    live = LiveModel(cp, both, device=device)
    assert 0 < live.gpu_share < 1
    for scale in (1.3, -0.3, 0):
        live.scale = scale
        assert differing(on_host(live.model), saved_bits(cp + scale * both, tmp_path / str(scale))) == []
    single = LiveModel(cp, tau, device=device, dtype="float32")
    assert single.gpu_share == 0
    single.scale = 0.7
    saved = saved_bits(cp + 0.7 * tau, tmp_path / "single", dtype="float32")
    assert differing(on_host(single.model), saved) == []


def test_rows_of_the_chat_model(tmp_path, device):
    base, chat, cp = chatml_family(tmp_path, reserved=CHATML)
    live = LiveModel(cp, chat - base, device=device, copy_special=True)
    assert live.gpu_share == 1
    for scale in (0.3, -0.3, 0):
        live.scale = scale
        saved = saved_bits(cp.add(scale * (chat - base), copy_special=True), tmp_path / f"saved {scale}")
        assert differing(on_host(live.model), saved) == []


def test_an_overflow_names_the_tensor_and_leaves_the_cp(families, device):
    cp, tau = opened(families("llama", dtype=torch.float16))
    live = LiveModel(cp, tau, device=device)
    before = on_host(live.model)
    with pytest.raises(
        ValueError, match=r"weight of cp \+ .* too large for float16; the model is the CP again"
    ):
        live.scale = 1e9
    assert live.scale == 0
    assert differing(on_host(live.model), before) == []


def test_tiles_in_doubt_are_settled_by_the_host(families, tmp_path, device, monkeypatch):
    from chatvec_lab.weights.numerics import gpu

    cp, tau = opened(families("llama"))
    live = LiveModel(cp, tau, device=device)
    real = gpu.fill

    def spoiled(cp, plus, minus, out, numbers, doubtful):
        real(cp, plus, minus, out, numbers, doubtful)
        out[: gpu.TILE], doubtful[0] = 0, 1

    monkeypatch.setattr(gpu, "fill", spoiled)
    live.scale = 0.7
    assert differing(on_host(live.model), saved_bits(cp + 0.7 * tau, tmp_path / "saved")) == []


def test_tau_stays_on_the_host_when_asked_or_without_room(families, tmp_path, device, monkeypatch):
    cp, tau = opened(families("llama"))
    asked = LiveModel(cp, tau, device=device, tau_device="cpu")
    monkeypatch.setattr("chatvec_lab.live.resident.memory", lambda device: (9000, 10_000))
    tight = LiveModel(cp, tau, device=device)
    assert asked.gpu_share == 0 and 0 < tight.gpu_share < 1
    saved = saved_bits(cp + 0.7 * tau, tmp_path / "saved")
    for live in (asked, tight):
        live.scale = 0.7
        assert differing(on_host(live.model), saved) == []
    with pytest.raises(ValueError, match="tau_device='cuda': expected 'auto' or 'cpu'"):
        LiveModel(cp, tau, device=device, tau_device="cuda")


def test_a_kernel_that_disagrees_is_not_used(families, tmp_path, device, monkeypatch):
    from chatvec_lab.live import resident
    from chatvec_lab.weights.numerics import gpu

    real = gpu.numbers
    monkeypatch.setattr(gpu, "numbers", lambda coefficient, dtype: real(1.01 * coefficient, dtype))
    resident.agrees.cache_clear()
    cp, tau = opened(families("llama"))
    try:
        with pytest.warns(RuntimeWarning, match=r"elements differ, 0 of 16 tiles in doubt\); the host"):
            live = LiveModel(cp, tau, device=device)
    finally:
        resident.agrees.cache_clear()
    assert live.gpu_share == 0
    live.scale = 0.7
    assert differing(on_host(live.model), saved_bits(cp + 0.7 * tau, tmp_path / "saved")) == []


def test_a_gpu_that_fills_up_leaves_the_rest_to_the_host(families, tmp_path, device, monkeypatch):
    from chatvec_lab.live import resident

    real, moved = resident.tensor, []

    def tensor(array, dtype):
        if len(moved) == 4:  # in the middle of the second slot
            raise torch.OutOfMemoryError("CUDA out of memory")
        moved.append(array)
        return real(array, dtype)

    monkeypatch.setattr(resident, "tensor", tensor)
    cp, tau = opened(families("llama"))
    live = LiveModel(cp, tau, device=device)
    assert 0 < live.gpu_share < 1
    live.scale = 0.7
    assert differing(on_host(live.model), saved_bits(cp + 0.7 * tau, tmp_path / "saved")) == []


def test_what_torch_keeps_of_freed_tensors_counts_as_free(monkeypatch):
    from chatvec_lab.live.resident import memory

    kept = [900]
    monkeypatch.setattr(torch.cuda, "empty_cache", kept.clear)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000 - sum(kept), 1000))
    assert memory(torch.device("cuda", 0)) == (1000, 1000)


def test_the_scale_is_nan_when_even_the_way_back_is_interrupted(families, tmp_path, device, monkeypatch):
    from chatvec_lab.live.resident import Resident

    cp, tau = opened(families("llama"))
    live = LiveModel(cp, tau, device=device)
    real, interrupts = Resident.start, [KeyboardInterrupt(), KeyboardInterrupt()]

    def start(self, scaled, sign, only):
        real(self, scaled, sign, only)
        if interrupts:
            raise interrupts.pop()

    monkeypatch.setattr(Resident, "start", start)
    with pytest.raises(KeyboardInterrupt):
        live.scale = 0.7
    assert math.isnan(live.scale)
    live.scale = 0.7
    assert differing(on_host(live.model), saved_bits(cp + 0.7 * tau, tmp_path / "saved")) == []


def test_a_triton_that_cannot_be_imported_leaves_all_to_the_host(monkeypatch):
    from chatvec_lab.live.model import _can_reside

    assert _can_reside(torch.device("cuda", 0)) and not _can_reside(torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "triton.language", None)
    assert not _can_reside(torch.device("cuda", 0))
