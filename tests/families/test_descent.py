"""Whether a model descends from a base: real families, other seeds, other architectures, deltas, replaced parts."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pico import CP_TOKENS, save_model

from chatvec_lab import Checkpoint, load_family
from chatvec_lab.families import Family
from chatvec_lab.families.descent import COSINE, descent_page, settings_page


def family_of(base, chat, **cp):
    return Family("pico", Checkpoint(base), Checkpoint(chat), {c: Checkpoint(p) for c, p in cp.items()})


@pytest.mark.parametrize(("name", "seed"), [("nano", 0), ("nano", 1), ("nano-wide", 0)])
def test_shipped_families_descend_from_their_base(name, seed):
    family = load_family(name, seed=seed)
    table = family.check()
    assert set(table.member) == set(family.members) - {"base"}
    assert table.descends.all() and table.problem.isna().all()
    assert table.cosine.min() > COSINE + 0.15, "a margin on both sides"
    assert {"embedding", "attention", "mlp"} <= set(table.module)
    assert descent_page(table).count("descends") == table.member.nunique()


def test_another_seed_is_no_descendant():
    nano, other = load_family("nano"), load_family("nano", seed=1)
    table = replace(nano, chat=other.chat, cp=other.cp, others={}).descent()
    assert not table.descends.any()
    assert (table.cosine.abs() < 0.15).all(), "every sampled tensor is at chance"
    within = (table.cosine - table.chance).abs() < 8 * table.chance_sd
    assert within.mean() > 0.9
    layers = table[table.layer.notna()]
    assert layers.relative_distance.between(1.1, 1.8).all(), "unrelated weights lie sqrt(2) apart"


def test_the_error_names_the_member_and_what_to_do():
    nano, other = load_family("nano"), load_family("nano", seed=1)
    with pytest.raises(ValueError) as told:
        replace(nano, cp={**nano.cp, "ko": other.cp["ko"]}).check()
    text = str(told.value)
    assert "1 of 9 members do not descend from the base 'base'" in text
    assert "cp_ko" in text and "cp_zh" not in text
    assert f"expected at least {COSINE}" in text and "chance gives" in text and "as the base" in text


def test_cosines_are_those_of_the_rows_that_were_read(families):
    """With more rows than there are, the figures are the whole tensor's."""
    base, chat, _ = families("llama")
    table = family_of(base, chat).descent(rows=4000, layers=9).set_index("tensor")
    for name in ("model.layers.1.mlp.up_proj.weight", "lm_head.weight"):
        a, b = (Checkpoint(p).read(name).double() for p in (chat, base))
        row = table.loc[name]
        assert row.elements == a.numel()
        assert row.cosine == pytest.approx(float((a * b).sum() / a.norm() / b.norm()))
        assert row.norm_ratio == pytest.approx(float(a.norm() / b.norm()))
        assert row.relative_distance == pytest.approx(float((a - b).norm() / b.norm()))


@pytest.mark.parametrize("kind", ["qwen2", "mixtral", "gpt_neox"])
def test_architectures_and_extended_vocabularies(families, tmp_path, kind):
    base, chat, cp = families(kind, cp_tokens=CP_TOKENS)
    family = family_of(base, chat, zh=cp)
    assert family.check().cosine.min() > 0.9
    foreign = Checkpoint(save_model(tmp_path / "foreign", kind, seed=9))
    assert not replace(family, chat=foreign).descent().query("member == 'chat'").descends.any()


def test_other_architectures_are_named(families):
    base, chat, _ = families("llama")
    with pytest.raises(ValueError, match=r"cp_zh .*has the shape .*another architecture"):
        family_of(base, chat, zh=families("mistral")[2]).check()


def test_a_difference_is_not_taken_for_a_model(families, tmp_path):
    base, chat, cp = families("llama")

    def to_difference(parameters):
        for name, parameter in parameters.items():
            parameter.copy_(Checkpoint(chat).read(name).float() - Checkpoint(base).read(name).float())

    delta = save_model(tmp_path / "delta", change=to_difference)
    with pytest.raises(ValueError, match="looks like a difference of weights"):
        family_of(base, delta, zh=cp).check()


def test_a_damaged_tensor_is_named(families, tmp_path):
    base, chat, _ = families("llama")
    for value in (0.0, float("nan")):

        def spoil(parameters, value=value):
            parameters["model.layers.0.mlp.up_proj.weight"].fill_(value)

        damaged = save_model(tmp_path / str(value), seed=3, near=base, change=spoil)
        with pytest.raises(ValueError, match=r"cp_zh .*mlp\.up_proj\.weight is zero or holds NaN"):
            family_of(base, chat, zh=damaged).check()


def test_a_new_embedding_is_told_from_a_new_model(families, tmp_path):
    base, chat, _ = families("llama")

    def anew(parameters):
        torch.manual_seed(5)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            parameters[name].normal_(0, 0.02)

    cp = save_model(tmp_path / "cp", seed=3, near=base, step=0.004, change=anew)
    with pytest.raises(ValueError, match=r"2 of 16 tensors.*vocabulary='skip'"):
        family_of(base, chat, ko=cp).check()


def test_without_tokenizers_rows_of_different_vocabularies_are_not_guessed(families, tmp_path):
    base, chat, _ = families("llama")
    cp = save_model(tmp_path / "cp", seed=3, near=base, tokens=CP_TOKENS)
    (cp / "tokenizer.json").unlink()
    table = family_of(base, chat, zh=cp).descent().query("member == 'cp_zh'").set_index("tensor")
    row = table.loc["model.embed_tokens.weight"]
    assert "without both tokenizers" in row.problem and np.isnan(row.cosine) and not row.descends
    assert table.drop(index=["model.embed_tokens.weight", "lm_head.weight"]).descends.all()


def test_configs_that_differ_are_named(families, tmp_path):
    base, chat, cp = families("llama")
    assert settings_page(family_of(base, chat, zh=cp)) == ""
    shutil.copytree(chat, tmp_path / "chat")
    config = json.loads((chat / "config.json").read_text())
    changes = {"num_attention_heads": 4, "rms_norm_eps": 1e-3}
    (tmp_path / "chat/config.json").write_text(json.dumps(config | changes))
    page = settings_page(family_of(base, tmp_path / "chat", zh=cp))
    assert "chat: num_attention_heads 4, base 2" in page and page.count("A merge is refused") == 1
    assert "rms_norm_eps 0.001, base 1e-06" in page and "cp_zh" not in page
