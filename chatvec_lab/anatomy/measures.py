"""Norms, cosines, interference and vocabulary rows of any number of vectors, from one pass over their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from chatvec_lab.anatomy.onepass import one_pass
from chatvec_lab.anatomy.tables import Survey, tables
from chatvec_lab.weights.vector import WeightVector

if TYPE_CHECKING:
    from pandas import DataFrame

DARE_LINE = 0.002  # DARE works while elements stay below about this magnitude (arXiv 2311.03099, section 4.6)


def survey(
    vectors: Mapping[str, WeightVector], *, line: float = DARE_LINE, top: float = 0.01, progress: bool = True
) -> Survey:
    """Norms, cosines, interference and vocabulary rows of vectors of one family, from one pass over the files.

    `vectors` maps names to weight vectors: {"chat": tau, "zh": cp_zh - base}. Each stored block is read once,
    however many differences it takes part in (a transform, such as `tau.low_rank(8)`, reads its own), in blocks
    of a million elements; sums are float64. `line`: the magnitude behind `share_above`; `top`: the share of
    entries that `interference` compares.

    A tensor with a NaN or infinity has missing statistics (never 0), and one warning lists all such tensors.
    Raises ValueError listing every tensor that does not pair, TypeError for what is not a weight vector.
    """
    vectors = checked(vectors)
    if not 0 < top <= 0.5:
        raise ValueError(f"top={top!r}: expected a share of the entries, in (0, 0.5].")
    return tables(one_pass(vectors, line, top=top, together=True, progress=progress), pairs=True)


def norms(
    vectors: Mapping[str, WeightVector], *, line: float = DARE_LINE, progress: bool = True
) -> DataFrame:
    """Size of every tensor of every vector, one row each.

    Columns: vector, tensor, component, layer (within it; missing outside the layers), module, projection, parameters
    (elements that have a difference: rows of tokens that only one side has do not count), l2, relative_l2 (to the
    base's L2 over the same elements; missing without a base, or where it is 0), rms, max_abs, share_zero (exactly
    zero), share_above (magnitude above `line`; DARE's 0.002 unless told), base_l2. Vectors need not be of one
    family. See `survey` for what is read, NaN and errors.
    """
    return tables(one_pass(checked(vectors), line, together=False, progress=progress)).norms


def cosines(vectors: Mapping[str, WeightVector], *, progress: bool = True) -> DataFrame:
    """Cosine between every pair of vectors, one row a pair and tensor.

    Columns: a, b, tensor, component, layer, module, projection, cosine, sign_agreement (share of equal signs among
    the elements that are not zero in either), random_sd (standard deviation of the cosine of two random directions of
    this size, 1/sqrt(parameters), mean 0), signs_sd (the same for vectors with these very magnitudes and random
    signs: above random_sd where the large entries of both meet, below it where they avoid each other; both are lower
    bounds for updates that move many weights as one), parameters, both_moved (elements zero in neither), l2_a, l2_b.

    Rows of embedding and head are paired by token and compared over tokens that both vectors know. A tensor that
    is zero in either vector has no direction: its cosine is missing, not 0. See `survey` for NaN and errors.
    """
    return tables(
        one_pass(checked(vectors), DARE_LINE, top=0.01, together=True, progress=progress), pairs=True
    ).cosines


def interference(
    vectors: Mapping[str, WeightVector], *, top: float = 0.01, progress: bool = True
) -> DataFrame:
    """Where the largest entries of two vectors meet, and whether they pull against each other; a row a pair and tensor.

    Columns: a, b, tensor, component, layer, module, projection, parameters, top_a and top_b (shares of the
    entries that count as the largest; ties and the estimate below move them from `top`), overlap (share of the
    smaller set that is in both), expected_overlap (what independent places would give), opposed (share of the
    overlap with opposite signs; 0.5 by chance). The threshold of a tensor is exact up to 32,768 elements, and
    from an even sample of so many above.
    """
    if not 0 < top <= 0.5:
        raise ValueError(f"top={top!r}: expected a share of the entries, in (0, 0.5].")
    return tables(
        one_pass(checked(vectors), DARE_LINE, top=top, together=True, progress=progress), pairs=True
    ).interference


def vocabulary(vectors: Mapping[str, WeightVector], *, progress: bool = True) -> DataFrame:
    """Rows of embedding and head by what they are to a vector: one row a vector, tensor and kind of rows.

    Columns: vector, tensor, module, rows ("shared" with the base, "special" tokens of both, "padding" without a
    token, "new": the base has no such token), count (of rows), parameters, l2, relative_l2, rms, max_abs and
    share_zero of the difference (missing for new rows, which have none), model_rms and base_rms of the stored
    rows themselves (missing where the vector is not one difference). Reads embedding and head only.
    """
    known = checked(vectors)
    is_table = lambda name: any(v.is_table(name) for v in known.values() if v.resolve(name))  # noqa: E731
    return tables(one_pass(known, DARE_LINE, together=False, progress=progress, only=is_table)).vocabulary


def family_norms(
    families: Mapping[str, Mapping[str, WeightVector]], *, line: float = DARE_LINE, progress: bool = True
) -> DataFrame:
    """`norms` of several families in one table, to lay models of different depth and width over one another.

    Adds the columns family (first) and relative_depth = layer / layers of that family's component (last; missing
    outside).
    """
    import pandas as pd

    tables = []
    for family, vectors in families.items():
        table = norms(vectors, line=line, progress=progress)
        table.insert(0, "family", family)
        deepest = table.groupby("component").layer.transform("max")
        table["relative_depth"] = (table.layer / (deepest + 1)).astype("Float64")
        tables.append(table)
    if not tables:
        raise ValueError("families is empty: give {family: {vector: chat - base}}.")
    return pd.concat(tables, ignore_index=True)


def checked(vectors: Mapping[str, WeightVector]) -> dict[str, WeightVector]:
    if not isinstance(vectors, Mapping):
        raise TypeError(f'expected a dict such as {{"chat": chat - base}}, got {type(vectors).__name__}.')
    wrong = [
        f"{name!r} is a {type(v).__name__}" for name, v in vectors.items() if not isinstance(v, WeightVector)
    ]
    if wrong:
        raise TypeError(f"expected weight vectors (chat - base), but {', '.join(wrong)}.")
    if not vectors:
        raise ValueError('no vectors to look at: give at least one, such as {"chat": chat - base}.')
    return {str(name): vector for name, vector in vectors.items()}
