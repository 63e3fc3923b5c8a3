"""Sums that are hard to round, and whether each result is the exact value rounded once, told by integers alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from chatvec_lab.weights.numerics import exact

DTYPES = ("bfloat16", "float16", "float32", "float64")
SCALES = (1.0, 0.5, 0.7, 0.3, 0.1, 1.1, 1.3, -0.3, -0.7, 1 / 3, 2 / 3, 10.0, 0.85, 1e-3)
STYLES = ("tie", "hair", "cancel", "wild")


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
    parts = [(s, *_difference(rng, style, kinds[2 * i : 2 * i + 2], out, size)) for i, s in enumerate(scales)]
    if style == "cancel" and terms > 1:
        parts[-1] = (-parts[0][0], *parts[0][1:])
    cp = None if rng.random() < 0.05 else _cp(rng, style, kinds[-1], out, parts, size)
    raw = [(s, _raw(a), None if b is None else _raw(b)) for s, a, b in parts]
    result = exact.combine(None if cp is None else _raw(cp), raw, np.empty(size, exact.RAW[out]))
    told = f"{style}, {terms} terms, {kinds[-1]} + {kinds[0]} -> {out}, seed {seed}"
    naive = _raw(
        _to(sum((s * _minus(a, b) for s, a, b in parts), 0 if cp is None else cp.double().numpy()), out)
    )
    return told, *(int((~is_nearest(found, cp, parts, out)).sum()) for found in (result, naive))


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
    rest = sum(s * _minus(a, b) for s, a, b in parts)
    near = torch.from_numpy(rng.normal(size=size) + 2 * rest).to(getattr(torch, out))
    half = near.double().numpy() + near.double().abs().numpy() * _step(out) / 4
    even = near.double().numpy()
    tie = np.where(rng.random(size) < 0.5, _half_way(near), half if style == "tie" else even)
    return _to(tie - rest, dtype)


def _half_way(near: torch.Tensor) -> np.ndarray:
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[near.element_size()]
    after = (near.view(whole) + 1).view(near.dtype)
    return (near.double().numpy() + after.double().numpy()) / 2


def is_nearest(result: np.ndarray, cp, parts, out: str) -> np.ndarray:
    """Whether each element is the exact value rounded to nearest, ties to even, by integers of any length."""
    floats = torch.from_numpy(result).view(torch.bfloat16) if out == "bfloat16" else torch.from_numpy(result)
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[floats.element_size()]
    bits = floats.view(whole)
    # from a zero the neighbours are the two smallest numbers
    smallest = torch.ones_like(bits).view(floats.dtype).double()
    away, back = ((bits + k).view(floats.dtype).double() for k in (1, -1))
    zero = floats == 0
    away, back = torch.where(zero, smallest, away), torch.where(zero, -smallest, back)
    arrays = {"r": floats.double(), "away": away, "back": back} | ({} if cp is None else {"cp": cp.double()})
    for i, (_, plus, minus) in enumerate(parts):
        arrays |= {f"+{i}": plus.double()} | ({} if minus is None else {f"-{i}": minus.double()})
    split = {k: np.frexp(v.numpy()) for k, v in arrays.items()}
    least = min(int(e[m != 0].min(initial=0)) for m, e in split.values()) - 53
    scales = [float(s).as_integer_ratio() for s, *_ in parts]  # the denominators are powers of two
    deepest = max((d.bit_length() - 1 for _, d in scales), default=0)

    def integers(name: str) -> np.ndarray:
        m, e = split[name]
        shift = np.where(m == 0, 0, e - 53 - least).astype(object)
        return (m * 2.0**53).astype(np.int64).astype(object) << shift

    total = integers("cp") << deepest if cp is not None else np.zeros(result.size, object)
    for i, (up, down) in enumerate(scales):
        delta = integers(f"+{i}") - (integers(f"-{i}") if f"-{i}" in arrays else 0)
        total = total + (delta * up << deepest - (down.bit_length() - 1))
    ours, above, below = (integers(name) << deepest for name in ("r", "away", "back"))
    error, even = abs(total - ours), (bits % 2 == 0).numpy()
    good = np.ones(result.size, bool)
    for other in (above, below):
        theirs = abs(total - other)
        good &= (error < theirs).astype(bool) | ((error == theirs).astype(bool) & even)
    return good
