"""The GPU's kernel gives the host's bits: run by Triton's interpreter here, by the GPU itself where there is one."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_exact import SCALES, awkward, operands, raw

from chatvec_lab.weights.numerics import exact

# the interpreter of older versions rounds a fused multiply-add twice
pytest.importorskip("triton", "3.9" if os.environ.get("TRITON_INTERPRET") else None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = ["bfloat16", "float16", "float32"]


def on_device(array, dtype):
    from chatvec_lab.live.slots import tensor

    return tensor(array.copy(), getattr(torch, dtype)).to(DEVICE)


def filled(cp, plus, minus, scale, dtype):
    """The kernel's elements and whether it vouches for each."""
    from chatvec_lab.live.slots import raw as raw_of
    from chatvec_lab.weights.numerics import gpu

    out = on_device(np.zeros_like(cp), dtype)
    doubtful = torch.zeros(-(-cp.size // gpu.TILE), dtype=torch.int8, device=DEVICE)
    numbers = torch.tensor(gpu.numbers(scale, out.dtype), dtype=torch.float64, device=DEVICE)
    gpu.fill(*(on_device(a, dtype) for a in (cp, plus, minus)), out, numbers, doubtful)
    return raw_of(out.cpu()), doubtful.cpu().numpy().repeat(gpu.TILE)[: cp.size] == 0


@pytest.mark.parametrize("scale", [*SCALES, 1e-3, 2.0**-30, 1e10, 1e-30])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_gives_the_bits_of_the_general_way(dtype, scale):
    compared = 0
    for cp, plus, minus in operands(dtype, 5 * 1024 + 3):
        wanted = np.empty_like(cp)
        try:
            exact._combine(cp, [(scale, plus, minus)], wanted)
        except FloatingPointError:
            assert not filled(cp, plus, minus, scale, dtype)[1].all(), "out of range, and not reported"
            continue
        found, sure = filled(cp, plus, minus, scale, dtype)
        bits = np.dtype(f"u{cp.itemsize}")
        assert np.array_equal(found.view(bits)[sure], wanted.view(bits)[sure])
        compared += sure.sum()
    assert compared > 5000 or scale == 1e10, "nothing was compared"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_near_ties_at_every_exponent(dtype, seed):
    """Sums a last place of the coefficient away from the midpoint of two neighbours, or right on it."""
    rng = np.random.default_rng(seed)
    bits, exponents = (8, range(-70, 40)) if dtype == "bfloat16" else (11, range(-36, -3))
    c, x, y = (float(rng.integers(2 ** (bits - 1), 2**bits)) for _ in "cxy")
    middle = (rng.integers(2 ** (bits - 1), 2**bits) + 0.5) * 2.0 ** rng.integers(-6, 7)
    powers = np.repeat(2.0 ** np.array(exponents), 2) * np.tile([1.0, -1.0], len(exponents))
    cp, plus, minus = (
        raw(torch.from_numpy(v * powers).to(getattr(torch, dtype))) for v in (c, x + 2**bits, y)
    )
    exact_scale = (middle - c) / (x + 2**bits - y)
    for scale in (np.nextafter(exact_scale, -np.inf), exact_scale, np.nextafter(exact_scale, np.inf)):
        wanted = np.empty_like(cp)
        exact._combine(cp, [(float(scale), plus, minus)], wanted)
        found, sure = filled(cp, plus, minus, float(scale), dtype)
        assert sure.all() and found.tobytes() == wanted.tobytes()


def test_a_scale_too_small_for_the_lane_goes_the_general_way():
    """Its second third would be flushed, and with it what decides this tie."""
    cp, plus, minus = (raw(torch.tensor([v]).to(torch.bfloat16)) for v in (2.0**-20, 2.0**112, 0.0))
    scale = (1 + 2.0**-20) * 2.0**-140
    found, sure = filled(cp, plus, minus, scale, "bfloat16")
    assert sure.all() and found == cp + 1 == exact.combine(cp, [(scale, plus, minus)], np.empty_like(cp))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 1023, 1024, 2049])
def test_the_last_tile_may_be_short(dtype, size):
    cp, plus, minus = (a[:size] for a in awkward(dtype, 3000))
    found, sure = filled(cp, plus, minus, 0.7, dtype)
    wanted = exact.combine(cp, [(0.7, plus, minus)], np.empty_like(cp))
    assert sure.all() and found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_operands_are_reported(dtype, place, broken):
    arrays = awkward(dtype, 3000)
    arrays[place][1234] = raw(torch.tensor([broken]).to(getattr(torch, dtype)))[0]
    _, sure = filled(*arrays, 0.7, dtype)
    assert sure[:1024].all() and not sure[1024:2048].any() and sure[2048:].all()


COMPILE = """
import re
import triton
from triton.backends.compiler import GPUTarget
from chatvec_lab.weights.numerics import gpu

for format, kind in {"bfloat16": "*i16", "float16": "*i16", "float32": "*fp32"}.items():
    pointers = {name: kind for name in ("cp", "plus", "minus", "out")}
    source = triton.compiler.ASTSource(
        fn=gpu._turn,
        signature=pointers | {"numbers": "*fp64", "doubtful": "*i8", "size": "i64"}
        | dict.fromkeys(("format", "tile"), "constexpr"),
        constexprs={"format": format, "tile": gpu.TILE},
    )
    for target in (GPUTarget("cuda", 75, 32), GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)):
        made = triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm
        if target.backend == "cuda":
            fused = len(re.findall(r"fma\\.rn\\.f32", made["ptx"]))
            assert "cubin" in made and ".ftz" not in made["ptx"] and not re.search(r"fma\\.rn\\.f64", made["ptx"])
            assert bool(fused) == (format != "float32"), fused
        else:
            assert "hsaco" in made
        print(format, target.arch)
"""


def test_it_compiles_for_nvidia_and_amd(tmp_path):
    """No product is fused with a sum unless the source says so, and no denormal is flushed."""
    pytest.importorskip("triton", "3.5")  # older ones compile the kernel too, but are asked otherwise
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 9
