"""Plain differences are measured in one call a span; the general way gives the same numbers, and takes the rest."""

import pandas as pd
import pytest
import torch
from pico import SPECIAL, TOKENS

from chatvec_lab import Checkpoint, anatomy
from chatvec_lab.anatomy import onepass
from chatvec_lab.anatomy.blocks import Reader, pieces_of
from chatvec_lab.anatomy.plain import plain_of

LARGER = SPECIAL + [f"n{i}" for i in range(7)] + TOKENS[::-1]
APPENDED = SPECIAL + TOKENS + [f"n{i}" for i in range(7)]


def vectors(families, **options):
    base, chat, cp = map(Checkpoint, families("llama", **options))
    return {"chat": chat - base, "zh": cp - base, "between": cp - chat}


@pytest.mark.parametrize(
    "options", [{}, {"dtype": torch.float32}, {"cp_tokens": APPENDED}, {"cp_tokens": LARGER}]
)
def test_both_ways_measure_the_same(families, monkeypatch, options):
    asked = vectors(families, **options)
    at_once = anatomy.survey(asked, top=0.05, progress=False)
    monkeypatch.setattr(onepass, "plain_of", lambda piece, reader: None)
    one_by_one = anatomy.survey(asked, top=0.05, progress=False)
    for table in ("norms", "cosines", "interference", "vocabulary"):
        pd.testing.assert_frame_equal(getattr(at_once, table), getattr(one_by_one, table), rtol=1e-12)


def test_what_is_not_plain_is_left_to_the_general_way(families):
    plain, half = vectors(families), vectors(families, dtype=torch.float16)
    chat = plain["chat"]

    def ways(*asked):
        pieces = pieces_of(asked, [str(i) for i in range(len(asked))], together=True)
        return {piece.name: plain_of(piece, Reader(asked)) is not None for piece in pieces}

    whole = ways(chat, plain["zh"])
    assert all(whole.values()) and len(whole) > 10
    for other in (0.5 * chat, chat + plain["zh"], chat.random_like(0), half["chat"]):
        assert not any(ways(chat, other).values())
    scattered = ways(*vectors(families, cp_tokens=LARGER).values())
    tables = {name for name, is_plain in scattered.items() if not is_plain}
    assert tables and all("embed" in name or "head" in name for name in tables)


def test_a_side_that_vectors_share_is_read_once(families):
    asked = list(vectors(families).values())
    reader = Reader(asked)
    piece = next(p for p in pieces_of(asked, ["a", "b", "c"], together=True) if "up_proj" in p.name)
    plain = plain_of(piece, reader)
    assert len(plain.sides) == 3 and plain.read(reader, 0, 8).shape == (3, 8)
    assert plain.plus.tolist() == [0, 1, 1] and plain.minus.tolist() == [2, 2, 0]
