"""compressed-tensors: whole numbers or FP8 with scales, packed integers, NVFP4 and MXFP4, each module by its scheme."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from chatvec_lab.weights.sources.quantised.grid import SCALES, Grid, grid_of, integer_zeros, on_grid
from chatvec_lab.weights.sources.quantised.packed import Packed, Parts
from chatvec_lab.weights.sources.quantised.recognised import NotRead
from chatvec_lab.weights.sources.quantised.values import Values, e2m1, e4m3, integers, signed_bytes, unpack

PLAIN = ("int-quantized", "float-quantized", "naive-quantized", "mxfp8-quantized")
FOUR = ("nvfp4-pack-quantized", "mxfp4-pack-quantized")


def read(parts: Parts, config: Mapping[str, Any]) -> dict[str, Packed]:
    """Every module that has scales, by the scheme of its group in the config."""
    sparsity = (config.get("sparsity_config") or {}).get("format", "dense")
    if sparsity != "dense":
        raise NotRead(f"its weights are also sparse ({sparsity})")
    transform = config.get("transform_config")
    if transform and (transform.get("config_groups") if isinstance(transform, Mapping) else True):
        raise NotRead("its weights were also rotated (transform_config)")
    found = {}
    for scale in sorted(name for name in parts.names if name.endswith("weight_scale")):
        stem = scale.removesuffix("weight_scale")
        group = _group(config, stem.rstrip("."))
        name = f"{stem}weight"
        found[name] = _one(parts, stem, scale, group, group.get("format") or config.get("format"))
    return found


def _group(config: Mapping[str, Any], module: str) -> Mapping[str, Any]:
    """The group whose targets name a module: by its name or a pattern, else the only one that goes by classes."""
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise NotRead("its config has no config_groups")
    for is_pattern in (False, True):  # a name comes before a pattern, whichever stands first
        for group in groups.values():
            if any(
                _names(target, module)
                for target in (group.get("targets") or [])
                if target.startswith("re:") == is_pattern
            ):
                return group
    by_class = [
        g for g in groups.values() if any(re.fullmatch(r"[A-Z]\w*", t) for t in g.get("targets") or [])
    ]
    if len(by_class) == 1 or (
        by_class and all(g.get("weights") == by_class[0].get("weights") for g in by_class)
    ):
        return by_class[0]
    raise NotRead(f"{module} is in {len(by_class)} of its config's groups, and names do not tell which")


def _names(target: str, module: str) -> bool:
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), module) is not None
    return module == target or module.endswith(f".{target}")


def _one(parts: Parts, stem: str, scale: str, group: Mapping[str, Any], format: str | None) -> Packed:
    args = group.get("weights")
    if not isinstance(args, Mapping):
        raise NotRead(f"{stem}weight has scales, and its group in the config says nothing of weights")
    if args.get("num_bits") not in range(1, 9) or args.get("type", "int") not in ("int", "float"):
        raise NotRead(
            f"weights of num_bits {args.get('num_bits')!r} and type {args.get('type')!r} are not known"
        )
    if format in FOUR or (args.get("type") == "float" and args["num_bits"] == 4):
        return _four(parts, stem, scale, args)
    if format == "pack-quantized" or f"{stem}weight_packed" in parts.names:
        return _dense(parts, stem, scale, args)
    if format not in PLAIN:
        raise NotRead(f"its format {format!r} is not one of {', '.join((*PLAIN, 'pack-quantized', *FOUR))}")
    return _plain(parts, stem, scale, args)


def _grid(parts: Parts, scale: str, shape: tuple[int, ...], args: Mapping[str, Any]) -> Grid:
    strategy = args.get("strategy") or ("group" if args.get("group_size") else "tensor")
    if strategy == "block":
        block = args.get("block_structure")
        if not isinstance(block, list) or len(block) != 2:
            raise NotRead(f"block_structure is {block!r}, expected two numbers")
        return grid_of(parts, scale, shape, block=tuple(block))
    if strategy in ("group", "tensor_group"):
        return grid_of(parts, scale, shape, group=args.get("group_size"))
    if strategy not in ("tensor", "channel"):
        raise NotRead(f"the strategy {strategy!r} is not known for weights")
    return grid_of(parts, scale, shape, strategy=strategy)


def _zeros(parts: Parts, stem: str, args: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Zero points of an asymmetric scheme, and the name of the tensor that holds them; nothing of a symmetric one."""
    name = f"{stem}weight_zero_point"
    if args.get("symmetric", True):
        if name in parts.names and parts.raw(name).any():
            raise NotRead(f"its config calls {stem}weight symmetric, but {name} is not zero everywhere")
        return None, (name if name in parts.names else None)
    parts.need(name, f"{stem}weight")
    return name, name


def _plain(parts: Parts, stem: str, scale: str, args: Mapping[str, Any]) -> Packed:
    weight, bits = f"{stem}weight", args["num_bits"]
    parts.need(weight, scale)
    is_float = args.get("type") == "float"
    if bits != 8:
        raise NotRead(f"{weight} has {bits} bits, of which only packed forms are known")
    parts.stored_as(weight, "float8_e4m3fn" if is_float else "int8")
    parts.stored_as(scale, *SCALES, "uint8", "float8_e8m0fnu")
    values: Values = e4m3() if is_float else signed_bytes()
    grid = _grid(parts, scale, parts.shape(weight), args)
    zero, member = _zeros(parts, stem, args)
    if zero:
        parts.stored_as(zero, "int8")
        parts.expect(zero, parts.shape(scale))
    kind = f"{'FP8' if is_float else 'int8'} ({_spelt(args)})"
    read_zero = integer_zeros(parts, zero, grid) if zero else None
    return on_grid(parts, kind, weight, scale, values, grid, zero=read_zero, zero_name=member)


def _spelt(args: Mapping[str, Any]) -> str:
    strategy = args.get("strategy") or ("group" if args.get("group_size") else "tensor")
    size = f" of {args['group_size']}" if args.get("group_size") else ""
    return f"compressed-tensors, a scale a {strategy.removeprefix('tensor_')}{size}" + (
        "" if args.get("symmetric", True) else ", with zero points"
    )


def _dense(parts: Parts, stem: str, scale: str, args: Mapping[str, Any]) -> Packed:
    """Codes of any number of bits, densely packed into whole numbers of 32 bits along each row."""
    weight, sizes, bits = f"{stem}weight_packed", f"{stem}weight_shape", args["num_bits"]
    if args.get("type", "int") != "int":
        raise NotRead(f"{weight} packs the type {args.get('type')!r}")
    for name in (weight, sizes):
        parts.need(name, f"{stem}weight")
    parts.stored_as(weight, "int32")
    parts.stored_as(scale, *SCALES)
    shape = tuple(int(size) for size in parts.raw(sizes))
    packed = parts.shape(weight)
    if len(shape) < 2 or shape[:-1] != packed[:-1]:
        raise NotRead(f"{sizes} says {shape}, but {weight} has the shape {packed}")
    _check_words(weight, bits, shape[-1], packed[-1])
    grid = _grid(parts, scale, shape, args)
    zero, member = _zeros(parts, stem, args)
    if zero and len(shape) != 2:
        raise NotRead(f"{zero} belongs to a stack of matrices")
    index = f"{stem}weight_g_idx"
    groups, also = None, (sizes,)
    if index in parts.names:
        parts.expect(index, (shape[-1],))
        also, found = (sizes, index), parts.raw(index).astype(np.int64)
        if not (found == -1).any():  # -1: never set, so the groups lie in order
            if found.min() < 0 or found.max() >= grid.width:
                raise NotRead(f"{index} names groups up to {found.max()}, but {scale} has {grid.width}")
            groups = found
    elif args.get("actorder") in ("group", "dynamic", True):
        raise NotRead(
            f"actorder is {args['actorder']!r}, but {index}, which says the order of groups, is not stored"
        )
    kind = f"int{bits} ({_spelt(args)}{', in another order' if groups is not None else ''})"
    return on_grid(
        parts, kind, weight, scale, integers(bits, 1 << (bits - 1)), grid, shape=shape, bits=bits, zero_name=member,
        zero=_packed_zeros(parts, zero, bits, shape[0], grid) if zero else None, also=also, groups=groups,
    )  # fmt: skip


def _check_words(name: str, bits: int, width: int, words: int) -> None:
    """Older versions left the bits empty that no whole code fits into; where the sizes cannot tell, it is refused."""
    dense, spaced = -(-width * bits // 32), -(-width // (32 // bits))
    if words == dense and (dense != spaced or 32 % bits == 0 or width <= 32 // bits):
        return
    if words in (dense, spaced):
        raise NotRead(
            f"{name} has {bits} bits a code in an older version's spacing, or in one that cannot be told"
        )
    raise NotRead(f"{name} has {words} words a row, expected {dense} for {width} codes of {bits} bits")


def _packed_zeros(
    parts: Parts, name: str, bits: int, height: int, grid: Grid
) -> Callable[[int, int], np.ndarray]:
    """Zero points, packed down the columns: read whole, since they are as few as the scales."""
    parts.stored_as(name, "int32")
    parts.expect(name, (-(-height * bits // 32), grid.width))

    def whole() -> np.ndarray:
        words = np.ascontiguousarray(parts.raw(name).reshape(parts.shape(name)).T)
        out = np.empty((words.shape[0], height), np.uint8)
        unpack(words.view(np.uint8), bits, out)
        return out.T.astype(np.float64) - (1 << (bits - 1))

    return lambda first, last: parts.slabs.get(name, whole)[first:last]


def _four(parts: Parts, stem: str, scale: str, args: Mapping[str, Any]) -> Packed:
    """4-bit floats, two a byte: NVFP4 (FP8 scales, divided by one for the tensor) and MXFP4 (powers of two)."""
    weight, whole = f"{stem}weight_packed", f"{stem}weight_global_scale"
    parts.need(weight, f"{stem}weight")
    parts.stored_as(weight, "uint8")
    if not args.get("symmetric", True):
        raise NotRead(f"{weight} packs 4-bit floats with zero points")
    *stack, width = parts.shape(weight)
    shape = (*stack, 2 * width)
    is_nv = parts.dtype(scale) == "float8_e4m3fn"
    divisor, also = 1.0, ()
    if is_nv:
        parts.need(whole, f"{stem}weight")
        parts.expect(whole, (), (1,))
        divisor, also = float(parts.floats(whole).reshape(-1)[0]), (whole,)
        if not np.isfinite(divisor) or divisor == 0:
            raise NotRead(f"{whole} is {divisor}")
    else:
        parts.stored_as(scale, "uint8", "float8_e8m0fnu")
    size = args.get("group_size")
    if size != (16 if is_nv else 32):
        raise NotRead(
            f"group_size is {size!r}, expected {16 if is_nv else 32} with scales of {parts.dtype(scale)}"
        )
    grid = grid_of(parts, scale, shape, group=size)
    return on_grid(
        parts, "NVFP4" if is_nv else "MXFP4", weight, scale, e2m1(), grid, shape=shape, bits=4, also=also,
        divisor=divisor, dtype="float64" if is_nv else None,
    )  # fmt: skip
