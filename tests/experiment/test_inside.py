"""The texts that a look inside reads, its controls, and what its tables say in sum; on the shipped family."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from chatvec_lab import load_family
from chatvec_lab.experiment import Exam, answers_inside, inside
from chatvec_lab.lens import Attribution
from chatvec_lab.lens.path import gauss_legendre


@pytest.fixture(scope="module")
def look():
    return inside.Look(Exam(load_family("nano"), "zh"), 1.0, n=3, dtype="float32")


def test_the_same_tokens_are_read_in_three_conditions(look):
    tokenizer = look.live.tokenizer
    whole, plain = look.pairs(), look.pairs(inside.REFERENCE, inside.PLAIN)
    assert [p.said for p in whole] == [p.said for p in plain] and len(whole) == 3
    for one, bare in zip(whole, plain, strict=True):
        prompt = look.prompts[one.name]
        assert tokenizer.decode(one.asked) == f"<s><|user|>{prompt}<|assistant|>"
        assert tokenizer.decode(bare.asked, skip_special_tokens=True) == prompt
        assert tokenizer.convert_tokens_to_ids("<|user|>") not in bare.asked
        assert tokenizer.decode(one.said).endswith("\n"), "the mark that ends a reply is read too"
    assert look.reference == "the reference reply"
    rows = {row["prompt_id"]: row["reference"] for row in look._rows["chat"]}
    assert [tokenizer.decode(p.said) for p in whole] == [f"{rows[p.name]}\n" for p in whole]


def test_replies_are_the_models_own(look):
    from chatvec_lab.evaluation.asking.generation import respond

    asked = [{"prompt_id": name, "prompt": prompt} for name, prompt in look.prompts.items()]
    for text, scale in ((inside.CP_REPLY, 0.0), (inside.REPLY, 1.0)):
        with look.live.at(scale):
            found = respond(look.live.model, look.live.tokenizer, asked, max_tokens=40, progress=False)
        said = [
            look.live.tokenizer.decode(p.said, skip_special_tokens=True).strip() for p in look.pairs(text)
        ]
        assert said == found.response.str.strip().tolist()


def test_without_references_the_models_own_reply_stands_in(look, monkeypatch):
    other = inside.Look(look.exam, 1.0, n=2, dtype="float32")
    other.__dict__["live"] = look.live
    for row in other._rows["chat"]:
        row["reference"] = None
    assert other.reference.startswith("CP + τ's own reply")
    assert other.pairs() == other.pairs(inside.REPLY)
    assert other.texts == [inside.CP_REPLY, inside.REFERENCE], "no text twice"


def test_the_effect_is_the_vectors_and_the_chat_formats(look):
    table = look.effects([0.0, 1.0], "reply").groupby(["model", "scale"]).value.mean()
    gain = {m: table[m, 1.0] - table[m, 0.0] for m in inside.CONDITIONS}
    assert gain[inside.WHOLE] > 3 and abs(gain[inside.RANDOM]) < 1
    assert abs(gain[inside.PLAIN]) < gain[inside.WHOLE] / 2, "without the format the marks remain"
    assert table[inside.WHOLE, 0.0] == pytest.approx(table[inside.RANDOM, 0.0]), "both start at the CP"
    apart = look.divergence(inside.REFERENCE, [0.0, 1.0]).tokens
    assert set(apart.model) == set(inside.CONDITIONS) and apart[apart.scale == 0].divergence.eq(0).all()
    placed = inside.places(apart)
    assert (
        placed.groupby(["model", "scale", "pair"])
        .place.value_counts()
        .loc[:, :, :, "first token"]
        .eq(1)
        .all()
    )


def test_parts_have_names_and_intervals(monkeypatch):
    parts = pd.DataFrame(
        [
            {"pair": p, "component": "text", "layer": layer, "module": module, "projection": projection, "attribution": v}
            for p, values in (("a", (1.0, -4.0, 0.5)), ("b", (3.0, -6.0, 0.5)))
            for (layer, module, projection), v in zip(
                ((0, "mlp", "up"), (1, "attention", "q"), (None, "embedding", "embedding")), values, strict=True)
        ]
    ).astype({"layer": "Int64"})  # fmt: skip
    found = inside.by_part(parts)
    assert found.part.tolist() == ["layer 1 · attention · q", "layer 0 · mlp · up", "embedding"]
    assert found.estimate.tolist() == [-5.0, 2.0, 0.5] and found.n.eq(2).all()
    ablated = parts.drop(columns="attribution").assign(
        alone=[3.0, 1.0, 2.0, 5.0, 2.0, 4.0], lost=parts.attribution
    )
    both = inside.by_part(ablated, ["alone", "lost"])
    placed = inside.ranks(found, both).set_index(["of", "part"])
    assert placed.attribution["the part alone"].to_dict() == {
        "layer 1 · attention · q": 1,
        "embedding": 2,
        "layer 0 · mlp · up": 3,
    }
    assert placed.ablation["lost without it"].equals(placed.attribution["lost without it"])
    assert placed.ablation["the part alone", "layer 0 · mlp · up"] == 3
    lengths = {"layer 0 · mlp · up": 2.0, "layer 1 · attention · q": 3.0, "embedding": 1.0}
    monkeypatch.setattr(inside, "lengths", lambda tau, parts: pd.Series(lengths))
    ranks = inside.agreement(parts, ablated, None).set_index("against")
    means = parts.groupby("module").attribution.mean()
    alone = ablated.groupby("module").alone.mean().loc[means.index]
    assert ranks.estimate["alone"] == pytest.approx(spearmanr(means, alone).statistic)
    assert ranks.estimate["lost"] == pytest.approx(1) and ranks.parts.eq(3).all() and ranks.n.eq(2).all()
    assert ranks.estimate["length"] == pytest.approx(1), "the absolute values have the order of the lengths"


@pytest.mark.parametrize("by", ["layer × module × projection", "layer", "projection × module"])
def test_lengths_are_those_of_the_parts(look, by):
    from chatvec_lab.lens.parts import parts_of

    parts = pd.DataFrame(
        [{**part.place, "slots": [s.name for s in part.slots]} for part in parts_of(look.live, by)]
    )
    parts = parts.astype({"layer": "Int64"}).assign(part=inside.part_names)
    found = inside.lengths(look.tau, parts)
    assert list(found.index) == list(parts.part)
    for slots, length in zip(parts.slots, found, strict=True):
        squares = sum(float((look.tau.read(name).double() ** 2).sum()) for name in slots)
        assert length == pytest.approx(squares**0.5, rel=1e-6)


def test_rates_are_of_what_adds_up_with_intervals_over_prompts(look):
    found = {c: look.attribution(c, by="module", nodes=4) for c in (inside.WHOLE, inside.RANDOM)}
    rates = inside.rates(found)
    assert set(rates.model) == set(found) and rates.n.eq(3).all() and rates.low.notna().all()
    whole = found[inside.WHOLE]
    weights = whole.path.drop_duplicates("scale").set_index("scale").weight
    rows = rates[rates.model == inside.WHOLE].set_index("scale").estimate
    assert (rows * weights).sum() == pytest.approx(whole.total, rel=1e-6)
    by_kind = inside.along(whole).groupby("scale").estimate.sum()
    np.testing.assert_allclose(by_kind, rows.loc[by_kind.index], rtol=1e-6)
    bad = dataclasses.replace(whole, change=1.0)
    assert set(inside.rates(found | {inside.WHOLE: bad}).model) == {inside.RANDOM}
    at = inside.half(whole)
    assert at.n.item() == 3 and 0 < at.low.item() <= at.estimate.item() <= at.high.item() < 1
    with look.live.at(at.estimate.item()):
        from chatvec_lab.lens.measures import values

        there = values(look.live.model, look.pairs(), "reply").mean()
    ends = whole.values[["start", "end"]].mean()
    assert there == pytest.approx(ends.mean(), abs=0.01 * (ends.end - ends.start)), "half of the way is there"


def attributed(rates, end=2.0, **options) -> Attribution:
    """Three nodes on one pair; the parts are the integral."""
    at, weights = zip(*gauss_legendre(3, 1.0), strict=True)
    places = [(0, "mlp", "up"), (1, "attention", "q"), (None, "embedding", "embedding")]
    columns = ["component", "layer", "module", "projection"]
    path = pd.DataFrame(
        [("p", s, w, "text", *place, rate[j]) for s, w, rate in zip(at, weights, rates, strict=True)
         for j, place in enumerate(places)], columns=["pair", "scale", "weight", *columns, "rate"],
    ).astype({"layer": "Int64"})  # fmt: skip
    sums = np.array(weights) @ np.array(rates)
    parts = pd.DataFrame([("p", "text", *place, v) for place, v in zip(places, sums, strict=True)],
                         columns=["pair", *columns, "attribution"]).astype({"layer": "Int64"})  # fmt: skip
    values = pd.DataFrame({"pair": ["p"], "cp": [-1.0], "start": [-0.5], "end": [-0.5 + end]})
    given = {"scale": 1.0, "measure": "reply", "nodes": 8, "change": 0.001} | options
    return Attribution(parts, path, values, **given)


# of weights 5/18, 8/18, 5/18 the sums are .6, -.2 and 2; together the rate is 2.4, so half is reached at .5
RATES = [(1.08, 0.0, 1.32), (0.0, -0.45, 2.85), (1.08, 0.0, 1.32)]


def test_an_attribution_that_adds_up_is_told_with_its_parts():
    whole = attributed(RATES, end=2.42)
    assert (
        whole.total == pytest.approx(2.4)
        and whole.size == pytest.approx(2.8)
        and whole.jump == pytest.approx(0.5)
    )
    assert whole.error == pytest.approx(0.02 / 2.8) and whole.is_complete
    cells = inside.cells(whole).set_index("projection").attribution
    assert cells["embedding"] == pytest.approx(2) and inside.limit(inside.cells(whole)) == pytest.approx(0.6)
    rates = inside.along(whole).set_index(["kind", "scale"]).estimate
    assert rates["mlp", 0.5] == 0 and rates["embedding", 0.5] == 2.85 and rates["attention", 0.5] == -0.45
    assert inside.half(whole).estimate.item() == pytest.approx(0.5)
    backwards = attributed(RATES, scale=-1.0)
    backwards = dataclasses.replace(backwards, path=backwards.path.assign(scale=-backwards.path.scale))
    assert inside.half(backwards).estimate.item() == pytest.approx(-0.5), "from 0 on"
    parts = inside.by_part(whole.parts)
    ranks = pd.DataFrame({"against": ["alone", "lost", "length"], "estimate": [0.8, 0.3, 0.2], "low": [0.7, 0.1, 0.0],
                          "high": [0.9, 0.5, 0.4], "n": 12, "parts": 3})  # fmt: skip
    bad = attributed(RATES, end=9.0)
    found = answers_inside.attribution(
        {inside.WHOLE: whole, inside.RANDOM: bad}, parts, ranks, at="1", reference="the reference reply",
        what="the log probability a token", seed=0,
    )  # fmt: skip
    text = found["answer"]
    assert text.startswith(
        "τ at scale 1 moves the log probability a token of the reference reply by +2.42 (one prompt) nats, from -0.50 to "
        "1.92. Copied or added rows alone do +0.50 of it before. The parts sum up to +2.400, the difference is +2.420 (0.7% of "
        "the sum of absolute parts apart, 8 nodes). The largest of 3: embedding +2.00 (one prompt) (71%), layer 0 · mlp · up "
        "+0.60 (one prompt) (21%), layer 1 · attention · q -0.20 (one prompt) (7%). Half of the change is reached at scale "
        "0.50 (one prompt)."
    )
    assert (
        "over 3 parts the rank correlation is 0.80 [0.70, 0.90] with a part alone and 0.30 [0.10, 0.50] with what is lost "
        "without it; that of absolute values is 0.20 [0.00, 0.40] with τ's length in the part." in text
    )
    assert text.endswith(
        "Beside it (all parts of τ: 2.80): CP + random vector: +9.00 (one prompt) nats, whose parts do not add up. "
        "In brackets: 95 % intervals over 1 prompt; seed 0."
    )
    claims = {c["claim"]: c["estimate"] for c in found["claims"]}
    assert claims["attribution, embedding"] == pytest.approx(2)
    assert claims["rank correlation of attribution with what is lost without it"] == 0.3
    assert claims["scale at which half of the change is reached"] == pytest.approx(0.5)
    assert claims["the log probability a token, change by CP + random vector"] == pytest.approx(9)
    table = inside.checks({inside.WHOLE: whole, inside.RANDOM: bad})
    assert table.is_complete.tolist() == [True, False] and table.difference.tolist() == pytest.approx(
        [2.42, 9.0]
    )


def test_no_part_of_one_that_does_not_add_up_is_named():
    for bad in (attributed(RATES, end=9.0), attributed(RATES, end=2.4, change=0.05)):
        found = answers_inside.attribution(
            {inside.WHOLE: bad}, inside.by_part(bad.parts), pd.DataFrame(), at="1", reference="the reference reply",
            what="the log probability a token", seed=0,
        )  # fmt: skip
        assert "which is not complete: no part is named" in found["answer"] and not found["is_complete"]
        assert "embedding" not in found["answer"] + str(found["claims"])


def test_tokens_in_words():
    def rows(column, *values):
        table = pd.DataFrame(values, columns=["model", column, "estimate"]).assign(scale=1.0, n=16)
        return table.assign(low=table.estimate - 0.1, high=table.estimate + 0.1)

    over = rows("text", (inside.WHOLE, inside.REFERENCE, 5.9), (inside.RANDOM, inside.REFERENCE, 0.4),
                (inside.PLAIN, inside.REFERENCE, 0.25), (inside.WHOLE, inside.REPLY, 7.0))  # fmt: skip
    where = rows("place", (inside.WHOLE, "first token", 13.0), (inside.WHOLE, "between", 1.2),
                 (inside.WHOLE, "last token", 15.5))  # fmt: skip
    depth = rows("kind", (inside.WHOLE, "", 0.76), (inside.RANDOM, "", 0.84))
    changes = pd.DataFrame(
        {"token": ["是", "\n"], "position": [1, 4], "cp_probability": [0.9, 0.0], "probability": [0.8, 1.0]}
    )
    found = answers_inside.tokens(
        over, where, depth, changes, scale=1.0, at="1", reference="the reference reply", seed=0
    )
    assert found["answer"] == (
        "With τ at scale 1 the next token of the reference reply is 5.90 [5.80, 6.00] nats from the CP's in the mean; with a "
        "random vector of τ's size 0.40 [0.30, 0.50], without the chat template 0.25 [0.15, 0.35]. It is largest at the "
        "last token (15.50 [15.40, 15.60]; 13.00 [12.90, 13.10] at the first token; 1.20 [1.10, 1.30] at the tokens between). "
        "The largest change of one probability: '\\n' at token 5 of a reply, 0.0% to 100.0%. A token is decided after 0.76 "
        "[0.66, 0.86] of the layers (CP not measured, random vector 0.84 [0.74, 0.94]). In brackets: 95 % intervals over 16 "
        "prompts; seed 0."
    )
    assert found["claims"][0]["estimate"] == 5.9 and found["claims"][0]["unit"] == "nats"
    bare = answers_inside.tokens(
        over, where.head(0), depth, changes.head(0), scale=1.0, at="1", reference="it", seed=0
    )
    assert "largest" not in bare["answer"]


def test_a_typical_prompt_is_the_middle_one():
    tokens = pd.DataFrame({"pair": list("aabbccdd"), "divergence": [9, 9, 1, 1, 3, 5, 2, 2], "text": "it"})
    assert inside.typical(tokens) == ["c"] and inside.typical(tokens, 2) == ["d", "a"]
    shown = inside.beside_prompts(tokens, {"a": "A" * 70, "d": "D\n?"}, ["d", "a"])
    assert list(dict.fromkeys(shown.text)) == ["1. “D ?” it", f"2. “{'A' * 59}…” it"] and shown[
        "pair"
    ].tolist() == list("ddaa")


def test_intervals_end_where_values_can():
    table = pd.DataFrame({"pair": list("abcd"), "model": "m", "divergence": [0.01, 0.0, 0.0, 9.0], "depth": [1, 1, 1, 0.2],
                          "value": [-9.0, -0.01, -0.02, -0.01]})  # fmt: skip
    for value, (least, most) in inside.RANGES.items():
        (row,) = inside.means(table, value, ["model"]).itertuples()
        assert row.estimate == pytest.approx(table[value].mean()) and row.low <= row.estimate <= row.high
        assert (least is None or row.low >= least) and (most is None or row.high <= most)


def test_at_scale_0_nothing_moves_and_that_is_told(look):
    from chatvec_lab import lens

    zero = lens.attribution(look.live, look.pairs(), 0.0, by="module")
    found = {inside.WHOLE: zero, inside.RANDOM: zero}
    assert inside.along(zero).empty and inside.rates(found).empty and inside.checks(found).is_complete.all()
    ablated = lens.ablation(look.live, look.pairs(), 0.0, by="module")
    agreed = inside.agreement(zero.parts, ablated, look.tau)
    text = answers_inside.attribution(
        found, inside.by_part(zero.parts), agreed, at="0", reference="it", what="the log probability", seed=0
    )["answer"]
    assert (
        "by +0.00 (all equal) nats" in text
        and "Nothing moves." in text
        and "not measured with a part alone" in text
    )
