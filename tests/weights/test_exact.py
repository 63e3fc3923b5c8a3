"""combine: the exact value of the formula, rounded once, element by element."""

import numpy as np
import pytest
import torch
from reference import formula, wrongly_rounded

from chatvec_lab.weights import exact

DTYPES = ("bfloat16", "float16", "float32", "float64")
SCALES = (0.5, 0.7, 1.0, 1.3, -0.3, 1 / 3, 10.0)


def raw(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def run(cp, pairs, dtype):
    out = torch.empty(cp.numel(), dtype=getattr(torch, dtype))
    exact.combine(raw(cp), [(s, raw(a), raw(b)) for s, a, b in pairs], raw(out))
    return out


def weights(dtype, n=400, seed=0):
    """CP, chat and base that differ as fine-tuned models do, over six orders of magnitude; some rows are equal."""
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(n, generator=g, dtype=torch.float64) * 10.0 ** torch.randint(-5, 1, (n,), generator=g)
    near = lambda step: base * (1 + step * torch.randn(n, generator=g, dtype=torch.float64))  # noqa: E731
    cp, chat, base = (t.to(getattr(torch, dtype)) for t in (near(0.2), near(0.05), base))
    chat[: n // 10] = base[: n // 10]
    return cp, chat, base


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_every_element_is_rounded_once(dtype, source):
    cp = weights(dtype)[0]
    _, chat, base = weights(source)
    for scale in SCALES:
        assert wrongly_rounded(run(cp, [(scale, chat, base)], dtype), formula(cp, [(scale, chat, base)])) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_values_a_hair_from_a_tie(dtype):
    """0.7 is a little less than seven tenths: 0.7 * 10 units lie just below a half-way point, not on it."""
    kind = getattr(torch, dtype)
    cp = torch.arange(1, 200, dtype=torch.float64).mul(2.0**-6).add(1).to(kind)
    unit = float(torch.finfo(kind).eps) * 2.0**-4
    for scale in (0.7, 0.3, 0.1, 1.1, -0.7, 0.5):
        for count in (10, 20, 40, 80, 5, 3):
            chat = torch.full_like(cp, count * unit)
            pairs = [(scale, chat, torch.zeros_like(cp))]
            assert wrongly_rounded(run(cp, pairs, dtype), formula(cp, pairs)) == 0


def test_several_vectors_and_wide_exponents():
    cp, chat, base = weights("bfloat16", seed=1)
    _, other, other_base = weights("bfloat16", seed=2)
    huge = torch.full_like(cp, 2.0**60)
    pairs = [
        (0.7, chat, base),
        (-1.3, other, other_base),
        (0.1, huge, torch.zeros_like(cp)),
        (-0.1, huge, torch.zeros_like(cp)),
    ]
    assert wrongly_rounded(run(cp, pairs, "bfloat16"), formula(cp, pairs)) == 0


def test_cancelling_terms_give_the_cp_back():
    cp, chat, base = weights("bfloat16")
    assert torch.equal(run(cp, [(0.7, chat, base), (-0.7, chat, base)], "bfloat16"), cp)


def test_block_length_does_not_matter():
    cp, chat, base = weights("bfloat16", n=3 * exact.TILE + 17)
    whole = run(cp, [(0.7, chat, base)], "bfloat16")
    for cut in (1, 1000, exact.TILE + 1):
        pieces = [
            run(cp[i], [(0.7, chat[i], base[i])], "bfloat16") for i in (slice(0, cut), slice(cut, None))
        ]
        assert torch.equal(torch.cat(pieces).view(torch.int16), whole.view(torch.int16))


@pytest.mark.parametrize("dtype,large", [("float16", 6e4), ("bfloat16", 3e38), ("float32", 3e38)])
def test_overflow_and_nan_are_refused(dtype, large):
    cp = torch.full((4,), large, dtype=getattr(torch, dtype))
    zero = torch.zeros_like(cp)
    with pytest.raises(FloatingPointError, match="too large for " + dtype):
        run(cp, [(1.0, cp, zero)], dtype)
    with pytest.raises(FloatingPointError):
        run(torch.full_like(cp, float("nan")), [(1.0, zero, zero)], dtype)


def test_the_largest_finite_value_is_kept():
    top = torch.tensor([torch.finfo(torch.float16).max], dtype=torch.float16)
    assert run(top, [(1.0, torch.tensor([15.0]), torch.zeros(1))], "float16") == top
    with pytest.raises(FloatingPointError):
        run(top, [(1.0, torch.tensor([16.0]), torch.zeros(1))], "float16")


def test_a_scale_beyond_exactness_is_refused():
    with pytest.raises(ValueError, match="1e300"):
        exact.halves(1e301)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_operations_give_the_same_bits(dtype):
    """What a GPU computes (here on the CPU, through the same function)."""
    from chatvec_lab.weights.exact_torch import combine_chunk

    cp, _, _ = weights(dtype, n=3000, seed=3)
    for source in DTYPES:
        _, chat, base = weights(source, n=3000, seed=4)
        for scale in SCALES:
            ours = combine_chunk(cp, [(scale, chat, base), (0.3, chat, None)], cp.dtype)
            parts = [(scale, raw(chat), raw(base)), (0.3, raw(chat), None)]
            theirs = torch.empty_like(cp)
            exact.combine(raw(cp), parts, raw(theirs))
            whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[cp.element_size()]
            assert torch.equal(ours.view(whole), theirs.view(whole)), (source, scale)


@pytest.mark.parametrize("scale", [*SCALES, 0.1, 1e-3, 0.25, 2.0**-30, 1e10])
def test_the_fast_lane_gives_the_same_bits_as_the_general_way(scale):
    """On ordinary weights, on small multiples of a unit (ties and near-ties), and on any finite bit patterns."""
    rng = np.random.default_rng(0)
    n = 5 * exact.SPAN + 3
    ordinary = [raw(t) for t in weights("bfloat16", n=n, seed=5)]
    units = [
        raw(torch.from_numpy(rng.integers(-64, 64, n) * 2.0**-9 + c).bfloat16()) for c in (1.0, 0.0, 0.0)
    ]
    patterns = [
        rng.integers(0, 0x6800, n, dtype=np.uint16) | (rng.integers(0, 2, n, dtype=np.uint16) << 15)
        for _ in "123"
    ]
    signed = rng.integers(0, 2, n, dtype=np.uint16) << np.uint16(15)  # zeros of either sign
    zeros = [np.where(rng.random(n) < 0.5, a, signed) for a in ordinary]
    for cp, plus, minus in (ordinary, units, patterns, zeros):
        nothing = (1.0, np.zeros_like(plus), np.zeros_like(plus))  # a second part closes the fast lane
        fast, general = np.empty_like(cp), np.empty_like(cp)
        exact.combine(cp, [(scale, plus, minus)], fast)
        exact.combine(cp, [(scale, plus, minus), nothing], general)
        assert np.array_equal(fast, general)
