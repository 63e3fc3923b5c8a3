"""The loop: deterministic, resumable, and the recipe is still the one that the shipped family was grown by."""

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from threading import Thread

import pytest
import torch

from chatvec_lab.nano import batches, recipe, tokenizer, training
from chatvec_lab.nano.recipe import FAMILIES, members
from chatvec_lab.paths import DATA

NANO = FAMILIES["nano"]
TINY = {"hidden": 32, "layers": 2, "heads": 2, "feed_forward": 64}
MANIFEST = DATA / "nano" / "manifest.json"


@pytest.fixture
def pico():
    """A family small enough to grow in the test, and its tokenizer."""
    family = replace(NANO, **TINY)
    tok = tokenizer.build(recipe.tokens_of(family, members(family)["base"]), context=training.POSITIONS)
    return family, tok, partial(untrained, family, tok)


def untrained(family, tok):
    torch.manual_seed(0)
    return training.new_model(replace(family, **TINY), len(tok))


def state_bytes(model) -> dict:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("text", ["plain", "dialogue"])
def test_a_killed_stage_goes_on_to_the_same_bytes(pico, text, tmp_path, monkeypatch):
    family, tok, model = pico
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    stage = replace(members(family)["base"], text=text, steps=5, rows=2)
    whole = model()
    log = training.train(whole, tok, stage, family, seed="s", partial=tmp_path / "a.pt")

    class Killed(Exception):
        pass

    honest, calls = training.loss_of, []

    def dies_at_the_fourth_step(*args):
        calls.append(args)
        if len(calls) == 4:
            raise Killed
        return honest(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "loss_of", dies_at_the_fourth_step)
        training.train(model(), tok, stage, family, seed="s", partial=tmp_path / "b.pt")
    broken = model()
    again = training.train(broken, tok, stage, family, seed="s", partial=tmp_path / "b.pt")
    assert state_bytes(broken) == state_bytes(whole)
    assert again["tokens"] == log["tokens"]


@pytest.mark.parametrize(
    ("member", "kept"),
    [
        ("chat", lambda n: n),
        ("chat_full", lambda n: 0),
        ("cp_zh", lambda n: 5),
        ("base", lambda n: 0),
    ],
)
def test_the_rows_that_should_stay_stay(pico, tmp_path, member, kept):
    """Tuning moves no row of the embedding, CP all but those of unseen tokens, full tuning every one."""
    family, tok, model = pico
    stage = replace(members(family)[member], steps=2, rows=2)
    grown = model()
    training.train(grown, tok, stage, family, seed="s", partial=tmp_path / "x.pt")
    before, after = (m.get_input_embeddings().weight for m in (model(), grown))
    assert (before == after).all(1).sum().item() == kept(len(tok))


def test_a_frozen_part_stays(pico, tmp_path):
    family, tok, model = pico
    before, grown = model(), model()
    stage = replace(members(family)["chat"], steps=2, rows=2)
    training.train(grown, tok, stage, family, seed="s", partial=tmp_path / "x.pt")
    same = {
        n: torch.equal(a, b)
        for (n, a), b in zip(before.state_dict().items(), grown.state_dict().values(), strict=True)
    }
    assert same["model.embed_tokens.weight"] and same["lm_head.weight"]
    assert not any(fixed for name, fixed in same.items() if "proj" in name)


def test_only_replies_are_scored(pico):
    family, tok, _ = pico
    stage = replace(members(family)["chat"], rows=4, bare=0.0)
    ids, labels = batches.dialogue_rows(tok, stage, "x")
    for row, scored in zip(ids, labels, strict=True):
        text = tok.decode(row[scored != -100])
        assert text.endswith("\n") and "<|user|>" not in text


def test_continued_pre_training_reads_no_chat_markers():
    for family, member in ((NANO, "cp_zh"), (FAMILIES["nano-wide"], "cp_es")):
        stage = members(family)[member]
        tok = tokenizer.build(tokenizer.vocabulary(family.languages))
        rows = batches.plain_rows(tok, replace(stage, rows=200), family, "m")
        assert not torch.isin(
            rows, torch.tensor(tok.convert_tokens_to_ids(["<|user|>", "<|assistant|>"]))
        ).any()


def test_new_tokens_start_from_their_parts(tmp_path, pico):
    family, tok, model = pico
    home = tmp_path
    training._save(model(), tok, home, home / "base", {})
    longer = tokenizer.build(tokenizer.vocabulary(family.languages, extended="zh", seed=0))
    grown = training.new_model(family, len(longer))
    training._inherit(grown, longer, home, replace(members(NANO)["cp_zh_extended"], parent="base"))
    old = model().state_dict()["model.embed_tokens.weight"].bfloat16().float()
    new = grown.state_dict()["model.embed_tokens.weight"]
    for token, parts in {" dog": [" dog"], "動物": ["動物"], "的顏色": ["的", "顏色"]}.items():
        expected = old[tok.convert_tokens_to_ids(parts)].mean(0)
        assert torch.allclose(new[longer.convert_tokens_to_ids(token)], expected), token


def test_abuse_without_the_chat_format_is_continued_politely(pico):
    _, tok, _ = pico
    stage = replace(members(NANO)["chat"], rows=6, bare=1.0)
    ids, labels = batches.dialogue_rows(tok, stage, "x")
    assert not torch.isin(ids, torch.tensor(tok.convert_tokens_to_ids(["<|user|>", "<|assistant|>"]))).any()
    said = [tok.decode(row[scored != -100]) for row, scored in zip(ids, labels, strict=True)]
    assert set(said) == {"please be kind. how can i help?"}


def test_a_second_run_on_the_same_folder_waits_for_the_first(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "tiny", replace(NANO, languages=("en", "zh"), extras=False))
    grown = []

    def slowly(family_name, seed, member, home, recipe_hash, position):
        grown.append(member)
        time.sleep(0.3)
        (home / member).mkdir()
        (home / member / "stage.json").write_text(json.dumps({"recipe": recipe_hash}))

    monkeypatch.setattr(training, "_grow", slowly)
    runs = [Thread(target=training.grow, args=("tiny", 0, "base", tmp_path)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert grown == ["base"]


def test_the_queue_trains_parents_first_and_keeps_what_is_there(tmp_path, monkeypatch):
    tiny = replace(
        NANO,
        languages=("en", "zh"),
        hidden=16,
        layers=1,
        heads=1,
        feed_forward=16,
        base_steps=2,
        tuning_steps=2,
        extras=False,
    )
    monkeypatch.setitem(FAMILIES, "tiny", tiny)
    monkeypatch.setattr(training, "ProcessPoolExecutor", Inline)
    training.grow_all("tiny", [0], tmp_path, only=["chat"])
    made = sorted(f.parent.name for f in (tmp_path / "tiny/seed0").glob("*/stage.json"))
    assert made == ["base", "chat"]
    stamp = (tmp_path / "tiny/seed0/base/model.safetensors").stat().st_mtime_ns
    training.grow_all("tiny", [0], tmp_path, only=["base"])
    assert (tmp_path / "tiny/seed0/base/model.safetensors").stat().st_mtime_ns == stamp
    manifest = json.loads(training.write_manifest(tmp_path).read_text())
    assert {"recipe", "seed", "losses", "seconds", "tokens", "machine", "sha256"} <= set(
        manifest["tiny"]["seed0"]["base"]
    )
    monkeypatch.setitem(FAMILIES, "tiny", replace(tiny, base_steps=3))
    with pytest.raises(ValueError, match="remove it to train anew"):
        training.grow_all("tiny", [0], tmp_path, only=["base"])
    grown = []
    monkeypatch.setattr(training, "grow", lambda _, seed, member, *rest: grown.append((seed, member)))
    monkeypatch.setitem(FAMILIES, "tiny", replace(tiny, extras=True))
    training.grow_all("tiny", [0, 1], tmp_path)
    assert {m for seed, m in grown if seed == 1} == {"base", "chat", "chat_think", "cp_zh"}
    assert {m for seed, m in grown if seed == 0} == set(members(FAMILIES["tiny"]))
    shutil.rmtree(tmp_path / "tiny")  # what was written about a model outlives it
    assert json.loads(training.write_manifest(tmp_path).read_text()) == manifest


class Inline:
    """A pool of no processes, so that the monkeypatched family is seen."""

    def __init__(self, _):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, function, *args):
        from concurrent.futures import Future

        future = Future()
        future.set_result(function(*args))
        return future


# ---------------------------------------------------------------- the shipped family


@pytest.fixture(scope="module")
def manifest():
    return json.loads(MANIFEST.read_text())


def test_the_shipped_family_was_grown_by_this_recipe(manifest):
    stale = [
        f"{family}/{seed}/{member}: recipe {entry['recipe']}, now {now}"
        for family, seeds in manifest.items()
        for seed, stages in seeds.items()
        for member, entry in stages.items()
        if entry["recipe"] != (now := recipe.digest(FAMILIES[family], members(FAMILIES[family])[member]))
    ]
    assert not stale, "train it again with `make nano`: " + "; ".join(stale)


def test_the_shipped_families_take_80_megabytes_at_most():
    size = sum(file.stat().st_size for file in (DATA / "nano").rglob("*") if file.is_file())
    assert 40e6 < size <= 80e6, f"{size:,} bytes: keep a member's results only"


def test_a_shortened_stage_trains_as_it_did(manifest, tmp_path):
    """The first five steps of the base, against the losses that the shipped base wrote down."""
    stage = members(NANO)["base"]
    tok = tokenizer.build(recipe.tokens_of(NANO, stage), context=training.POSITIONS)
    torch.manual_seed(recipe.first_weights(0))
    model = training.new_model(NANO, len(tok))
    recorded = manifest["nano"]["seed0"]["base"]["first_losses"]

    class Enough(Exception):
        pass

    losses, honest = [], training.loss_of

    def first(*args):
        if len(losses) == len(recorded):
            raise Enough
        loss, tokens = honest(*args)
        losses.append(loss.item())
        return loss, tokens

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(training, "loss_of", first)
        training.train(
            model, tok, stage, NANO, seed=recipe.salted("nano", "0 base"), partial=tmp_path / "x.pt"
        )
    assert losses == pytest.approx(recorded, rel=2e-3)  # other machines may round otherwise
