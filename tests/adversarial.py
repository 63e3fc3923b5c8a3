"""Sums that are hard to round, and whether each result is the exact value rounded once, told by integers alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from chatvec_lab.weights.numerics import exact

DTYPES = ("bfloat16", "float16", "float32", "float64")
SCALES = (1.0, 0.5, 0.7, 0.3, 0.1, 1.1, 1.3, -0.3, -0.7, 1 / 3, 2 / 3, 10.0, 0.85, 1e-3)
STYLES = ("tie", "hair", "cancel", "wild", "edge")


@np.errstate(over="ignore")
def wrong(seed: int, size: int) -> tuple[str, int, int]:
    """One random sum of `size` elements: what it was, and how many results are not the nearest ones.

    The last number says it of float64 arithmetic that is rounded to the format at its end: how hard the sum is.
    """
    rng = np.random.default_rng(seed)
    style, out = rng.choice(STYLES), rng.choice(DTYPES, p=(0.4, 0.2, 0.25, 0.15))
    alike = rng.random() < 0.5  # the formats of one checkpoint, which the fast lanes serve
    kinds = [out if alike else rng.choice(DTYPES) for _ in range(17)]
    terms = 1 if rng.random() < 0.4 else int(rng.integers(1, 9))
    scales = [float(s) for s in rng.choice(SCALES, terms)]
    if rng.random() < 0.3:
        scales[-1] = float(rng.normal())
    if style == "edge":
        cp, parts = _edge(rng, kinds, scales, out, size)
    else:
        pairs = [_difference(rng, style, kinds[2 * i : 2 * i + 2], out, size) for i in range(terms)]
        parts = [(s, *pair) for s, pair in zip(scales, pairs, strict=True)]
        if style == "cancel" and terms > 1:
            parts[-1] = (-parts[0][0], *parts[0][1:])
        cp = None if rng.random() < 0.05 else _cp(rng, style, kinds[-1], out, parts, size)
    raw = [(s, _raw(a), None if b is None else _raw(b)) for s, a, b in parts]
    start, misjudged = None if cp is None else _raw(cp), 0
    try:
        result = exact.combine(start, raw, np.empty(size, exact.RAW[out]))
    except FloatingPointError as error:  # says how many are too large; the others are summed without those
        large = is_too_large(cp, parts, out)
        misjudged = abs(int(str(error).split()[0]) - int(large.sum()))
        for tensor in filter(lambda t: t is not None, (cp, *(t for part in parts for t in part[1:]))):
            tensor[torch.from_numpy(large)] = 0
        result = exact.combine(start, raw, np.empty(size, exact.RAW[out]))
    told = f"{style}, {terms} terms, {kinds[-1]} + {kinds[0]} -> {out}, seed {seed}"
    naive = _raw(_to(_rest(parts) + (0 if cp is None else cp.double().numpy()), out))
    ours, naive = (int((~is_nearest(found, cp, parts, out)).sum()) for found in (result, naive))
    return told, ours + misjudged, naive


def campaign(seed: int, sums: int, size: int = 20_000, kept: Path | None = None) -> list[dict]:
    """`sums` random sums; with `kept`, a file of lines, those that stand there are not tried again.

    Each second sum has a few elements only: one that is hard must not hide behind the hard ones beside it.
    """
    done = (
        []
        if kept is None or not kept.exists()
        else [json.loads(line) for line in kept.read_text().splitlines()]
    )
    for number in range(len(done), sums):
        elements = size if number % 2 else 1 + number % 61
        told, ours, naive = wrong(seed * 10**6 + number, elements)
        done.append({"sum": told, "elements": elements, "wrong": ours, "wrong in float64": naive})
        if kept is not None:
            with kept.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    return done


def _raw(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _to(values: np.ndarray, dtype: str) -> torch.Tensor:
    """Values near 1 or less in this format; what a narrow format cannot hold is a zero or subnormal there."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, dtype))


def _minus(plus: torch.Tensor, minus: torch.Tensor | None) -> np.ndarray:
    return plus.double().numpy() - (0 if minus is None else minus.double().numpy())


def _rest(parts) -> np.ndarray:
    """What all terms add, in float64 arithmetic."""
    return sum(s * _minus(plus, minus) for s, plus, minus in parts)


def _step(dtype: str) -> float:
    """The spacing of a format between 1 and 2."""
    return 2.0 ** (1 - exact.FORMATS[dtype][0])


def _difference(rng, style: str, kinds: list[str], out: str, size: int):
    """plus and minus of one term; minus is sometimes left out."""
    if style == "hair":  # a few units, whose product with 0.7 or 1/3 lies a hair beside a tie
        unit = _step(out) * 2.0 ** rng.integers(-6, 1)
        plus, minus = rng.integers(0, 97, size) * unit, np.zeros(size)
    elif style == "wild":  # the whole range, subnormal numbers too
        span = 14 if "float16" in (*kinds, out) else 60
        plus, minus = (rng.normal(size=size) * 2.0 ** rng.integers(-2 * span, span // 4, size) for _ in "ab")
    else:
        minus = rng.normal(size=size) * 10.0 ** rng.integers(-4, 1, size)
        plus = minus * (1 + rng.choice([0.0, 1e-3, 0.1], size) * rng.normal(size=size))
    plus, minus = _to(plus, kinds[0]), _to(minus, kinds[1])
    return plus, None if style == "hair" and rng.random() < 0.5 else minus


def _cp(rng, style: str, dtype: str, out: str, parts, size: int) -> torch.Tensor:
    """The CP, for a tie chosen so that the sum lies as near to a half-way point as its format allows."""
    if style == "hair":
        return _to(1 + rng.integers(0, 1 << 7, size) * max(_step(out), 2.0**-7), dtype)
    if style == "wild":
        return _to(rng.normal(size=size) * 2.0 ** rng.integers(-20, 4, size), dtype)
    rest = _rest(parts)
    near = torch.from_numpy(rng.normal(size=size) + 2 * rest).to(getattr(torch, out))
    half = near.double().numpy() + near.double().abs().numpy() * _step(out) / 4
    even = near.double().numpy()
    tie = np.where(rng.random(size) < 0.5, _half_way(near), half if style == "tie" else even)
    return _to(tie - rest, dtype)


def _edge(rng, kinds: list[str], scales: list[float], out: str, size: int):
    """CP and parts whose sums lie at powers of two and at the middles around them, or a hair beside.

    Below a power of two the unit is half of that above. A few sums are at the ends of the format's range.
    """
    precision, largest = exact.FORMATS[out]
    power, place = rng.integers(-10, 11, size), rng.random()
    if place < 0.1:  # beyond the largest number; a sum of float64s may not get there on its way
        power[:] = largest + (out != "float64")
    elif place < 0.2:  # the smallest normal number
        power[:] = 1 - largest
    elif place < 0.3:  # zero and the smallest numbers
        power = rng.integers(1 - largest - precision, 5 - largest - precision, size)
    unit = np.ldexp(1.0, np.maximum(power, 1 - largest) - precision + 1)
    parts = []
    for i, scale in enumerate(scales):  # ten or thirty times 0.7 or 1/3 is a hair beside a whole number
        hair = 2.0 ** -rng.choice([2, 2, 3, 13, 30, 80]) if i else 0.25
        plus, minus = (unit * hair * rng.choice([1, 10, 30], size) * rng.integers(-7, 8, size) for _ in "ab")
        minus = None if rng.random() < 0.3 else _within(minus, kinds[2 * i + 1])
        parts.append((scale, _within(plus, kinds[2 * i]), minus))
    middle = rng.choice([-0.75, -0.5, -0.25, 0.0, 0.5, 1.0], size)
    sign = rng.choice([-1, 1], size)
    beside = np.ldexp(1.0, np.minimum(power, largest)) * np.where(power > largest, 2 - _step(out), 1)
    middle += 0.5 * (power > largest)  # of the largest number, for no float64 holds the power beyond it
    return _within(sign * beside + (sign * middle * unit - _rest(parts)), kinds[-1]), parts


def _within(values: np.ndarray, dtype: str) -> torch.Tensor:
    most = torch.finfo(getattr(torch, dtype)).max
    return _to(np.clip(values, -most, most), dtype)


def _half_way(near: torch.Tensor) -> np.ndarray:
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[near.element_size()]
    after = (near.view(whole) + 1).view(near.dtype)
    return (near.double().numpy() + after.double().numpy()) / 2


def is_nearest(result: np.ndarray, cp, parts, out: str) -> np.ndarray:
    """Whether each element is the exact value rounded to nearest, ties to even, by integers of any length."""
    floats = torch.from_numpy(result).view(torch.bfloat16) if out == "bfloat16" else torch.from_numpy(result)
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[floats.element_size()]
    finite = floats.isfinite()
    floats = torch.where(finite, floats, 0)
    bits = floats.view(whole)
    # from a zero the neighbours are the two smallest numbers
    smallest = torch.ones_like(bits).view(floats.dtype).double()
    away, back = ((bits + k).view(floats.dtype).double() for k in (1, -1))
    zero, last = floats == 0, away.isinf()
    away, back = torch.where(zero, smallest, away), torch.where(zero, -smallest, back)
    away = torch.where(last, 0, away)  # what follows the largest number is as far as what precedes it
    total, (ours, above, below), _ = _integers(cp, parts, floats, away, back)
    above = np.where(last.numpy(), 2 * ours - below, above)
    error, even = abs(total - ours), (bits % 2 == 0).numpy()
    good = finite.numpy().copy()
    for other in (above, below):
        theirs = abs(total - other)
        good &= (error < theirs).astype(bool) | ((error == theirs).astype(bool) & even)
    return good


def is_too_large(cp, parts, out: str) -> np.ndarray:
    """Whether each exact value rounds to infinity."""
    precision, largest = exact.FORMATS[out]
    total, _, unit = _integers(cp, parts)
    return (abs(total) >= (2 << precision) - 1 << largest - precision - unit).astype(bool)


def _integers(cp, parts, *others: torch.Tensor):
    """The exact sums as integers, other floats too, and the power of two that is the unit of them all."""
    arrays = dict(enumerate(others)) | ({} if cp is None else {"cp": cp})
    for i, (_, plus, minus) in enumerate(parts):
        arrays |= {f"+{i}": plus} | ({} if minus is None else {f"-{i}": minus})
    split = {k: np.frexp(v.double().numpy()) for k, v in arrays.items()}
    least = min(int(e[m != 0].min(initial=0)) for m, e in split.values()) - 53
    scales = [float(s).as_integer_ratio() for s, *_ in parts]  # the denominators are powers of two
    deepest = max((d.bit_length() - 1 for _, d in scales), default=0)

    def integers(name) -> np.ndarray:
        m, e = split[name]
        shift = np.where(m == 0, 0, e - 53 - least).astype(object)
        return (m * 2.0**53).astype(np.int64).astype(object) << shift

    total = integers("cp") << deepest if cp is not None else np.zeros(parts[0][1].numel(), object)
    for i, (up, down) in enumerate(scales):
        delta = integers(f"+{i}") - (integers(f"-{i}") if f"-{i}" in arrays else 0)
        total = total + (delta * up << deepest - (down.bit_length() - 1))
    return total, [integers(i) << deepest for i in range(len(others))], least - deepest
