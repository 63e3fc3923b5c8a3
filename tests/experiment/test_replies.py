"""Replies kept by content: the same replies, asked once, whoever asks; another recipe, prompt or setting asks again."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from chatvec_lab import experiment, load_family
from chatvec_lab.experiment import replies
from chatvec_lab.experiment.replies import InMemory, _read, _write, recipe
from chatvec_lab.live import LiveModel
from chatvec_lab.live import load as live_load

PROMPTS = [
    {"prompt_id": f"p{i}", "turns": [text]} for i, text in enumerate(["Say: fox.", "Say: owl, cat.", "Why?"])
]


@pytest.fixture(scope="module")
def nano():
    return load_family("nano")


@pytest.fixture
def asked(tmp_path):
    """Reply with a model, keeping in one folder; returns the replies and how many were generated."""

    def now(model, prompts=PROMPTS, **settings):
        with InMemory(model, tmp_path / "replies") as speaker:
            table = speaker.reply(prompts, **({"max_tokens": 8} | settings))
        return table, speaker.asked

    return now


def test_what_was_asked_is_read_back(asked, nano):
    tau = nano.chat - nano.base
    first, generated = asked(nano.cp["zh"] + 0.5 * tau)
    assert generated == 3
    again, generated = asked(nano.cp["zh"] + 0.5 * (nano.chat - nano.base))
    assert generated == 0
    assert again.equals(first) and list(again.dtypes) == list(first.dtypes)
    with InMemory(nano.cp["zh"] + 0.5 * tau) as speaker:
        assert speaker.reply(PROMPTS, max_tokens=8).equals(first), "as without keeping"


@pytest.mark.parametrize("dtype, batches", [("float32", [5]), ("bfloat16", [3, 2])])
def test_sets_are_asked_together_where_no_reply_depends_on_its_batch(nano, monkeypatch, dtype, batches):
    """Each as if it was asked alone, also where two call different prompts alike, or share one."""
    sets, together = (
        [
            PROMPTS,
            [
                {"prompt_id": "p1", "turns": ["Say: cat.", "Again."]},
                *PROMPTS[:1],
                PROMPTS[2] | {"language": "en"},
            ],
        ],
        [],
    )
    model = live_load(nano.chat, "cpu", dtype), nano.chat.tokenizer
    respond = replies.respond
    monkeypatch.setattr(
        replies,
        "respond",
        lambda m, t, asked, **options: (together.append(len(asked)), respond(m, t, asked, **options))[1],
    )
    with InMemory(None, loaded=model) as speaker:
        found = speaker.replies(sets, max_tokens=8)
        assert (speaker.asked, speaker.read) == (5, 1)
    assert together == batches
    for prompts, table in zip(sets, found, strict=True):
        with InMemory(None, loaded=model) as speaker:
            alone = speaker.reply(prompts, max_tokens=8)
        assert list(table.prompt_id) == list(alone.prompt_id) and table["set"].isna().all()
        assert dtype != "float32" or table.equals(alone)


def test_a_live_model_shares_with_the_expression(asked, nano):
    tau = nano.chat - nano.base
    live = LiveModel(nano.cp["zh"], tau, device="cpu")
    turned, generated = asked(experiment.At(live, 0.5))
    assert generated == 3 and live.scale == 0.0
    merged, generated = asked(nano.cp["zh"] + 0.5 * tau)
    assert generated == 0 and merged.equals(turned)
    wide = LiveModel(
        nano.cp["zh"], tau, device="cpu", dtype="float32"
    )  # other weights: not rounded to 16 bits
    assert asked(experiment.At(wide, 0.5))[1] == 3


@pytest.mark.parametrize("change", ["scale", "vector", "setting", "prompt", "system of rows"])
def test_other_content_is_asked_again(asked, nano, change):
    cp, tau = nano.cp["zh"], nano.chat - nano.base
    asked(cp + 0.5 * tau)
    if change == "scale":
        assert asked(cp + 0.25 * tau)[1] == 3
    elif change == "vector":
        assert asked(cp + 0.5 * tau.select(modules="attention"))[1] == 3
        assert asked(cp + 0.5 * tau.random_like(1))[1] == 3
        assert asked(cp + 0.5 * tau.random_like(2))[1] == 3
    elif change == "setting":
        assert asked(cp + 0.5 * tau, max_tokens=9)[1] == 3
    elif change == "prompt":
        other = [*PROMPTS[:2], {"prompt_id": "p2", "turns": ["Why not?"]}]
        assert asked(cp + 0.5 * tau, other)[1] == 1
        assert asked(cp + 0.5 * tau, other[::-1])[1] == 0
    else:
        assert asked(cp.add(0.5 * tau, vocabulary="skip"))[1] == 3


def test_changed_weights_are_another_recipe(tmp_path, families, nano):
    from chatvec_lab import Checkpoint

    base, chat, cp = map(Checkpoint, families())
    before = recipe(cp + 0.5 * (chat - base))
    assert json.loads(json.dumps(before)) == before
    assert recipe(cp) != recipe(chat) and recipe(cp + 0.5 * (base - chat)) != before
    copy = tmp_path / "cp"
    copy.mkdir()
    for file in cp.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert recipe(Checkpoint(copy)) == recipe(cp), "content counts, not the place"
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert recipe(Checkpoint(copy)) != recipe(cp)


def test_many_at_once_and_a_torn_part(tmp_path, nano):
    """Who asks the same at the same time writes the same; what a kill tore has no name, and nobody reads it."""
    keep, model = tmp_path / "replies", nano.cp["zh"] + 0.0 * (nano.chat - nano.base)
    with InMemory(model, keep) as speaker:
        first = speaker.reply(PROMPTS, max_tokens=4)
    (part,) = keep.glob("*/*.jsonl")
    fresh, written = _read(part.parent), part.read_bytes()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: _write(part.parent, fresh), range(40)))
    assert [f.name for f in part.parent.iterdir()] == [part.name] and part.read_bytes() == written
    (part.parent / "abc.part").write_text('["torn')
    with InMemory(model, keep) as speaker:
        assert speaker.reply(PROMPTS, max_tokens=4).equals(first) and speaker.asked == 0


def test_the_cells_of_a_study_share_one_folder(tmp_path):
    assert experiment.kept(tmp_path / "cells" / "03_scale_sweep" / "ab12") == tmp_path / "replies"
    assert experiment.kept(tmp_path / "interactive") == tmp_path / "interactive" / "replies"
