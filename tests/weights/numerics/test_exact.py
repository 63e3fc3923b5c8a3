"""combine: the exact value of the formula, rounded once, element by element."""

import os
from fractions import Fraction
from pathlib import Path

import adversarial
import numpy as np
import pytest
import torch
from reference import formula, wrongly_rounded

from chatvec_lab.weights.numerics import exact, lanes, sums

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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("terms", [2, 3, 8, 11])
def test_any_number_of_terms_in_any_mix_of_formats(dtype, terms):
    cp = weights(dtype)[0]
    pairs = []
    for k in range(terms):
        plus, minus = (weights(DTYPES[(k + j) % 4 if k % 3 else k % 4], seed=k)[1 + j] for j in range(2))
        pairs.append(
            (SCALES[k % len(SCALES)] * (-1) ** k, plus, torch.zeros_like(minus) if k == 1 else minus)
        )
    assert wrongly_rounded(run(cp, pairs, dtype), formula(cp, pairs)) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_terms_that_nearly_cancel_and_nearly_tie(dtype):
    """Coefficients that add up to a hair less than 1, on differences of a few units: ties that are none."""
    kind = getattr(torch, dtype)
    unit = float(torch.finfo(kind).eps) * 2.0**-5
    cp = torch.arange(1, 400, dtype=torch.float64).mul(2.0**-5).add(1).to(kind)
    few = torch.arange(399, dtype=torch.float64).remainder(23).mul(unit).to(kind)
    zero = torch.zeros_like(cp)
    for scales in (
        (0.7, 0.3),
        (0.1, 0.2, 0.7),
        (1 / 3, 1 / 3, 1 / 3),
        (0.5, 0.5),
        (1.1, -0.6),
        (0.7, -0.7, 0.5),
    ):
        pairs = [(scale, few, zero) for scale in scales]
        assert wrongly_rounded(run(cp, pairs, dtype), formula(cp, pairs)) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "scales",
    [(1.0, 0.3), (0.5, 0.15), (-1.0, -0.3), (1.0, 0.3, 0.2), (0.5, 0.5, -0.3), (3.99, 2.0**-10), (4.0, 0.3)],
)
def test_sums_at_a_middle_and_a_hair_beside(dtype, scales):
    """Differences of a few units: most lie so near a tie that float64 does not tell the side, or on it."""
    rng, size, kind = np.random.default_rng(0), 5000, getattr(torch, dtype)
    step = float(torch.finfo(kind).eps)
    cp = (1 + rng.integers(0, round(1 / step), size) * step) * 2.0 ** rng.integers(-1, 2, size)
    cp = torch.from_numpy(cp * rng.choice([-1, 1], size)).to(kind)
    base = torch.from_numpy(rng.integers(-20, 21, size) * step / 4).to(kind)
    parts = []
    for k, scale in enumerate(scales):
        plus = torch.from_numpy(base.double().numpy() + rng.integers(-30, 31, size) * step / 4).to(kind)
        parts.append((scale, cp if k and k < len(scales) - 1 else plus, base))
    for wild in (1.0, 2.0**-9, 2.0**-12):  # some far smaller than the rest, or with a zero in a place
        parts[0][2][::7] *= wild
        cp[::11] = 0.0
        found = run(cp, parts, dtype)
        assert adversarial.is_nearest(raw(found), cp, parts, dtype).all()


def test_products_too_small_for_an_error_of_their_own_are_still_exact():
    cp = torch.tensor([1.0, 1.5, 2.0**-1000, 0.0], dtype=torch.float64)
    tiny = torch.tensor([2.0**-530, 2.0**-53 * 1.1, 3.3, 2.0**-540 * 1.7], dtype=torch.float64)
    pairs = [
        (2.0**-530, tiny, torch.zeros_like(cp)),
        (1.0, torch.full_like(cp, 2.0**-53), torch.zeros_like(cp)),
    ]
    assert wrongly_rounded(run(cp, pairs, "float64"), formula(cp, pairs)) == 0


def test_memory_that_is_read_only_serves():
    cp, chat, base = (raw(t) for t in weights("bfloat16"))
    wanted = exact.combine(cp, [(0.7, chat, base), (0.3, base, chat)], np.empty_like(cp))
    for a in (cp, chat, base):
        a.flags.writeable = False
    assert np.array_equal(
        exact.combine(cp, [(0.7, chat, base), (0.3, base, chat)], np.empty_like(cp)), wanted
    )


def test_cancelling_terms_give_the_cp_back():
    cp, chat, base = weights("bfloat16")
    assert torch.equal(run(cp, [(0.7, chat, base), (-0.7, chat, base)], "bfloat16"), cp)


def test_block_length_does_not_matter():
    cp, chat, base = weights("bfloat16", n=3 * sums.TILE + 17)
    whole = run(cp, [(0.7, chat, base)], "bfloat16")
    for cut in (1, 1000, sums.TILE + 1):
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


@pytest.mark.parametrize("hair", [2.0**-20, 2.0**-40, 2.0**-60, 2.0**-90])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_hair_below_the_first_number_that_is_too_large(dtype, hair):
    """What rounds to the largest number is one, however near to the next; the middle is refused, and counted."""
    most = torch.tensor([torch.finfo(getattr(torch, dtype)).max]).to(getattr(torch, dtype)).repeat(2)
    half = exact.overflow_threshold(dtype) - most.double().numpy()
    for sign in (1, -1):
        for tips in ([-hair, -hair], [0.0, -hair], [hair, 0.0]):
            parts = [(sign, half, None), (sign, half * np.array(tips), None)]
            cp, out = raw(sign * most), np.empty_like(raw(most))
            if too_large := sum(tip >= 0 for tip in tips):
                with pytest.raises(FloatingPointError, match=f"^{too_large} of 2"):
                    exact.combine(cp, parts, out)
            else:
                assert np.array_equal(exact.combine(cp, parts, out), cp)


def test_a_cp_near_the_largest_bfloat16_whose_sum_is_smaller_and_positive():
    """CP less the middle would be infinite in float32."""
    scale, cp, side = (
        1.694564847791991,
        torch.tensor([-1.9921875 * 2.0**127]),
        torch.tensor([1.640625 * 2.0**126]),
    )
    given = [t.to(torch.bfloat16).repeat(2) for t in (cp, side, -side)]
    for parts in ([(scale, *given[1:])], [(scale, *given[1:]), (2.0**-9, *given[1:])]):
        found = run(given[0], parts, "bfloat16")
        assert adversarial.is_nearest(raw(found), given[0], parts, "bfloat16").all()


def test_a_scale_beyond_exactness_is_refused():
    one = torch.ones(1, dtype=torch.float32)
    with pytest.raises(ValueError, match="1e300"):
        run(one, [(1e301, one, one)], "float32")


@pytest.mark.parametrize("scale", [*SCALES, 0.1, 1e-3, 0.25, 2.0**-30, 1e10, 1e-30])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_fast_lane_gives_the_same_bits_as_the_general_way(dtype, scale):
    """On ordinary weights, on small multiples of a unit (ties and near-ties), and on any finite bit patterns."""
    few = 0
    for cp, plus, minus in operands(dtype, 5 * lanes.SPAN + 3):
        if abs(scale) > 1e3 and dtype == "float16":
            plus, minus = plus * np.float16(0), minus * np.float16(0)  # else nothing is in range
        fast, general, lane = (np.empty_like(cp) for _ in "123")
        try:
            exact._combine(cp, [(scale, plus, minus)], general)
        except FloatingPointError:
            with pytest.raises(FloatingPointError):
                exact.combine(cp, [(scale, plus, minus)], fast)
            continue
        exact.combine(cp, [(scale, plus, minus)], fast)
        assert fast.tobytes() == general.tobytes()
        few += lanes.fill(cp, plus, minus, scale, lane) is not None
    assert few >= 2 or not 1e-8 < abs(scale) < 1e4, "the fast lane would not be tested"


@pytest.mark.parametrize("terms", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_terms_in_one_narrow_format_have_the_bits_of_the_same_in_a_wider_one(dtype, terms):
    """Terms share a base and the CP is a side of one; lengths and first elements are odd; blocks are full and broken."""
    for cp, plus, minus in operands(dtype, 5 * sums.TILE + 4):
        for scale in (0.7, 1.0, 0.5, -0.3, 1 / 3, 1e-3, 2.0**-30):
            for cut in (slice(0, None), slice(1, None), slice(3, 20), slice(5, 6)):
                c, x, y = cp[cut], plus[cut], minus[cut]
                parts = [(scale, x, y), (0.3 * scale, c, y), (-0.2, y, x), (0.11, x, c)][:terms]
                wide = [(s, exact.widen(a), exact.widen(b)) for s, a, b in parts]
                found, wanted = np.empty_like(c), np.empty_like(c)
                try:
                    exact.combine(exact.widen(c), wide, wanted)
                except FloatingPointError:
                    with pytest.raises(FloatingPointError):
                        exact.combine(c, parts, found)
                    continue
                exact.combine(c, parts, found)
                assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_operands_of_several_terms_are_found(dtype, broken):
    for place in range(3):
        arrays = [a.copy() for a in awkward(dtype, 3001)]
        arrays[place][3000] = raw(torch.tensor([broken]).to(getattr(torch, dtype)))[0]
        cp, plus, minus = arrays
        with pytest.raises(FloatingPointError, match=r"1 of \d+ elements are NaN"):
            exact.combine(cp, [(0.7, plus, minus), (0.3, minus, plus)], np.empty_like(cp))


def operands(dtype, n):
    """Ordinary weights, multiples of a unit (ties and near-ties), any finite bits, zeros of either sign, awkward."""
    rng = np.random.default_rng(0)
    kind = getattr(torch, dtype)
    ordinary = [raw(t) for t in weights(dtype, n=n, seed=5)]
    unit = 16 * float(torch.finfo(kind).eps) * 2.0**-6
    units = [raw(torch.from_numpy(rng.integers(-64, 64, n) * unit + c).to(kind)) for c in (1.0, 0.0, 0.0)]
    bits = {2: np.uint16, 4: np.uint32}[ordinary[0].itemsize]
    top = {"bfloat16": 0x6800, "float16": 0x7000, "float32": 0x68000000}[dtype]
    sign = lambda: rng.integers(0, 2, n, dtype=bits) << bits(8 * bits().itemsize - 1)  # noqa: E731
    patterns = [(rng.integers(0, top, n, dtype=bits) | sign()).view(ordinary[0].dtype) for _ in "123"]
    zeros = [np.where(rng.random(n) < 0.5, a, sign().view(a.dtype)) for a in ordinary]  # of either sign
    return ordinary, units, patterns, zeros, awkward(dtype, n)


def awkward(dtype, n):
    """Operands with ties, cancellations, zeros of both signs, subnormals and large gaps."""
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(n) * 0.02 for _ in range(3)]
    cp, plus, minus = arrays
    plus[:] = minus + rng.standard_normal(n) * 0.0005
    plus[:1000] = minus[:1000] + rng.integers(-30, 30, 1000) * 2.0**-16  # ties and near-ties
    cp[:1000] = rng.integers(-500, 500, 1000) * 2.0**-16
    cp[1000:1100] = -(plus[1000:1100] - minus[1000:1100])
    cp[1200:1300], cp[1300:1400] = 0.0, -0.0
    plus[1250:1350] = minus[1250:1350]
    for array in arrays:
        array[rng.integers(0, n, 20)] = 10.0 ** rng.uniform(-44, 3, 20)
        array[rng.integers(0, n, 20)] = 0.0
    return [raw(torch.from_numpy(a).to(getattr(torch, dtype))) for a in arrays]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_operands_are_found(dtype, place, broken):
    arrays = awkward(dtype, 3000)
    arrays[place][123] = raw(torch.tensor([broken]).to(getattr(torch, dtype)))[0]
    with pytest.raises(FloatingPointError, match=r"1 of \d+ elements are NaN"):
        exact.combine(arrays[0], [(0.7, *arrays[1:])], np.empty_like(arrays[0]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_library_that_switches_denormals_off_changes_nothing(dtype):
    normal = float(torch.finfo(getattr(torch, dtype)).tiny)
    cp, plus, minus = (
        np.where(np.abs(exact.widen(a)) < normal, a.dtype.type(0), a) for a in awkward(dtype, 3000)
    )
    wanted, found = np.empty_like(cp), np.empty_like(cp)
    lanes.fill(cp, plus, minus, 0.7, wanted)
    assert torch.set_flush_denormal(True)
    try:
        unsure = lanes.fill(cp, plus, minus, 0.7, found)
    finally:
        torch.set_flush_denormal(False)
    proven = np.setdiff1d(np.arange(cp.size), unsure)
    assert proven.size > 2900
    assert np.array_equal(wanted[proven], found[proven])


@pytest.mark.parametrize("out", ["float32", "float64"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_plain_difference_has_the_bits_of_the_general_way(dtype, out):
    """The processor's own subtraction, and where it proves nothing (tiny or broken results) the general way."""
    for _, plus, minus in operands(dtype, 2000):
        fast, general = np.empty(plus.size, out), np.empty(plus.size, out)
        exact._combine(None, [(1.0, plus, minus)], general)
        exact.combine(None, [(1.0, plus, minus)], fast)
        assert fast.tobytes() == general.tobytes()
    plus = plus.copy()
    plus[7] = {"bfloat16": 0x7FC0}.get(dtype, np.nan)
    with pytest.raises(FloatingPointError):
        exact.combine(None, [(1.0, plus, minus)], fast)


@pytest.mark.parametrize("out", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
@pytest.mark.parametrize("terms", [1, 2, 5])
def test_sums_within_a_few_float32s_of_a_middle(out, wide, terms):
    """Where a plain sum of floats no longer tells the side, and just beyond; at the ends of binades, too."""
    rng, size = np.random.default_rng(terms), 3000
    kind = getattr(torch, out)
    near = np.where(rng.random(size) < 0.3, 2.0 ** rng.integers(-6, 3, size), rng.normal(size=size))
    near = torch.from_numpy(near * rng.choice([-1, 1], size)).to(kind)
    parts = []
    for scale in adversarial.SCALES[2 : 1 + terms]:
        few = torch.from_numpy(rng.normal(size=size) * 10.0 ** rng.integers(-4, 1, size)).to(kind)
        parts.append((scale, few, torch.zeros_like(few)))
    cp = torch.from_numpy(rng.normal(size=size)).to(kind)
    rest = cp.double().numpy() + sum(scale * plus.double().numpy() for scale, plus, _ in parts)
    middle = adversarial._half_way(near)
    for steps in (rng.integers(-70, 71, size), rng.integers(-2, 3, size)):
        last = (middle + steps * np.spacing(np.float32(middle)) / 2 - rest) / 0.7
        every = [*parts, (0.7, torch.from_numpy(last).to(wide), None)]
        found = exact.combine(
            raw(cp),
            [(s, raw(a), None if b is None else raw(b)) for s, a, b in every],
            np.empty(size, exact.RAW[out]),
        )
        assert adversarial.is_nearest(found, cp, every, out).all()


@pytest.mark.parametrize("out", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("scale", [1.0, -0.5, 0.7, 3.0])
def test_ties_of_wide_terms_and_what_tips_them(out, scale):
    """A sum of float64s ends exactly in the middle; then a product too small for float64, or a hair, is added."""
    rng, size = np.random.default_rng(3), 2000
    kind = getattr(torch, out)
    cp, near = (torch.from_numpy(rng.normal(size=size)).to(kind) for _ in range(2))
    to_middle = torch.from_numpy((adversarial._half_way(near) - cp.double().numpy()) / scale)
    signs = torch.from_numpy(rng.choice([-1.0, 0.0, 1.0], size))
    for factor, tip in (
        (1e-20, 1e-310),
        (1e-290, 1e-300),
        (1.0, 2.0**-70),
        (0.7, 2.0**-1074),
        (2.0, 2.0**-24),
    ):
        for parts in (
            [(scale, to_middle, None)],
            [(scale, to_middle, None), (factor, signs * tip, None)],
            [(factor, signs * tip, None), (scale, to_middle, None)],
            [(factor, signs * tip, signs * tip * 2), (scale, to_middle, None)],
        ):
            given = [(s, raw(a), None if b is None else raw(b)) for s, a, b in parts]
            found = exact.combine(raw(cp), given, np.empty(size, exact.RAW[out]))
            assert adversarial.is_nearest(found, cp, parts, out).all(), (factor, tip)


@pytest.mark.parametrize("out", ["bfloat16", "float16", "float32"])
def test_sums_of_nothing_and_of_almost_nothing(out):
    """Zeros are positive; what vanishes in a product of floats does not vanish in the sum."""
    kind = getattr(torch, out)
    least = float(torch.finfo(kind).smallest_normal) * float(torch.finfo(kind).eps)
    plus = torch.tensor([0.0, -0.0, least, 3 * least, -5 * least, 1.0], dtype=kind)
    minus = torch.tensor([0.0, 0.0, 0.0, least, 2 * least, 1.0], dtype=kind)
    for cp in (0.0, -0.0, least, -least):
        for scales in ((-0.7, -0.3), (2.0**-30, 0.5), (2.0**-140, 2.0**-150), (1e30, -1e30), (0.7, -0.7)):
            start = torch.full_like(plus, cp)
            parts = [(scale, plus, minus) for scale in scales]
            found = exact.combine(
                raw(start), [(s, raw(a), raw(b)) for s, a, b in parts], np.empty(plus.numel(), exact.RAW[out])
            )
            assert adversarial.is_nearest(found, start, parts, out).all(), (cp, scales)
            zeros = exact.widen(found) == 0
            if cp == 0 and scales == (-0.7, -0.3):
                assert zeros[[0, 1, 5]].all() and not np.signbit(exact.widen(found)[zeros]).any()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_half_ways_of_float64_on_both_sides_of_a_power_of_two(sign):
    """The neighbour towards zero is half as far as the other one; a hair tips either tie."""
    powers = sign * 2.0 ** torch.arange(-20, 21, dtype=torch.float64)
    for half in (-(2.0**-54), 2.0**-53):
        for hair in (2.0**-110, 0.0, -(2.0**-110)):
            parts = [(1.0, powers * half, None), (1.0, powers * hair, None)]
            found = exact.combine(raw(powers), [(s, raw(a), None) for s, a, _ in parts], np.empty(41))
            assert adversarial.is_nearest(found, powers, parts, "float64").all(), (half, hair)


def test_a_sum_that_only_rational_numbers_find_too_large_is_refused():
    """3e38 * 2**123 leaves nothing of the float64s that hold 3e38 times the difference of the minus sides, but their bound."""
    large, one, two = np.uint16([0x7D6E]), np.uint16([0xBCA8]), np.uint16([0xC13C])
    with pytest.raises(FloatingPointError, match="1 of 1"):
        exact.combine(one, [(3e38, large, one), (-3e38, large, two)], np.empty(1, np.uint16))
    parts = [(1.0, np.array([tip]), None) for tip in (2.0**-80, 2.0**-150, -(2.0**-80))]
    with pytest.raises(FloatingPointError, match=r"^1 of 1"):  # that both find is counted once
        exact.combine(np.array([2.0**130]), parts, np.empty(1, np.float32))
    assert exact.round_fraction(Fraction(-(2**1024)), "float64") == -np.inf
    assert np.signbit(exact.round_fraction(Fraction(-1, 2**1080), "float64"))


@pytest.mark.parametrize("out", ["bfloat16", "float16", "float32", "float64"])
def test_what_is_rounded_to_zero_keeps_the_sign_of_the_exact_sum(out):
    kind = getattr(torch, out)
    unit = float(torch.finfo(kind).smallest_normal) * float(torch.finfo(kind).eps)
    plus, base = torch.tensor([10.0, -10.0, 0.0, 1.0]).double().mul(unit).to(kind), torch.zeros(4, dtype=kind)
    cp = torch.tensor([3.0, -3.0, 0.0, 0.0]).double().mul(unit).to(kind)
    for parts in ([(-0.3, plus, base)], [(-0.1, plus, base), (-0.2, plus, base)], [(-0.3, plus, None)]):
        found = exact.combine(
            raw(cp), [(s, raw(a), None if b is None else raw(b)) for s, a, b in parts], np.empty_like(raw(cp))
        )
        total = sum(Fraction(s) for s, *_ in parts) * 10 + 3
        expected = [total < 0, total > 0, False, True]
        assert not exact.widen(found).any() and np.signbit(exact.widen(found)).tolist() == expected, parts


@pytest.mark.parametrize("kinds", [("float16", "float16"), ("bfloat16", "float32")])
def test_the_error_counts_all_elements_also_where_a_lane_left_some(kinds):
    cp, plus = (torch.full((999,), 2.0**-20, dtype=getattr(torch, kind)) for kind in kinds)
    cp[7] = float("nan")
    minus = raw(torch.zeros_like(plus)) if kinds[0] == kinds[1] else None
    for start in (cp, cp.where(cp.isnan(), cp.neg())):  # and where all are left
        with pytest.raises(FloatingPointError, match="1 of 999"):
            exact.combine(raw(start), [(1.0, raw(plus), minus)], np.empty_like(raw(cp)))


def none_wrong(done):
    """Prints and checks: no result is off, though the same in float64 would be."""
    elements, ours, naive = (sum(d[k] for d in done) for k in ("elements", "wrong", "wrong in float64"))
    print(f"{len(done):,} sums, {elements:,} elements: {ours} wrong; float64 arithmetic: {naive:,} wrong")
    assert ours == 0, [d for d in done if d["wrong"]][:5]
    assert naive > elements / 1000, "the sums are easy"


def test_hard_sums_are_rounded_once():
    none_wrong(adversarial.campaign(seed=1, sums=600, size=1_000))


@pytest.mark.slow
def test_a_million_hard_elements():
    seed = int(os.environ.get("CAMPAIGN_SEED", np.random.default_rng().integers(10**6)))
    print(f"seed {seed}")
    none_wrong(adversarial.campaign(seed, sums=4_000, size=500))


@pytest.mark.campaign
def test_a_hundred_million_hard_elements():
    """Resumable: sums that were tried with a seed are kept in build/campaigns/."""
    seed = int(os.environ.get("CAMPAIGN_SEED", "2"))
    kept = Path(__file__).parents[3] / "build" / "campaigns" / f"sums-{seed}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    none_wrong(adversarial.campaign(seed, sums=10_000, kept=kept))
