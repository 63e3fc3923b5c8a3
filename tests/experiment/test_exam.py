"""The same table for the embedded family and for a published one, here a pico family of real tiny checkpoints."""

import json

import pandas as pd
import pytest
from pico import save_family

from chatvec_lab import experiment, load_family
from chatvec_lab.evaluation.statistics import wilson_interval
from chatvec_lab.experiment import published
from chatvec_lab.families import Family
from chatvec_lab.nano import evaluate

NAN = float("nan")
COLUMNS = {"model", "language", "frame", "prompt_id", "set", "kind", "words", "turns", "prompt", "reply"}
COLUMNS |= {"reply_language", *experiment.METRICS}
SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}[s]{% elif m.role == 'user' %}[u]{% else %}[a]{% endif %}"
    " {{ m.content }} {% endfor %}{% if add_generation_prompt %}[a] {% endif %}"
)


def make_pico(root):
    """The YAML file of a new family, as published ones are given; its chat template knows a system prompt."""
    for folder in save_family(root):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    (root / "chat" / "chat_template.jinja").write_text(SYSTEM)
    file = root / "tiny.yaml"
    file.write_text(f"base: {root}/base\nchat: {root}/chat\ncp:\n  ko: {root}/cp\n")
    return file


@pytest.fixture(scope="module")
def pico(tmp_path_factory) -> Family:
    return load_family(make_pico(tmp_path_factory.mktemp("pico")))


def test_the_micro_world_is_scored_as_by_its_own_checker():
    nano = load_family("nano")
    assert experiment.is_nano(nano)
    models = experiment.lineup(nano, "zh", 1.0)
    replies = experiment.ask(nano, {"CP + τ": models["CP + τ"]}, ["zh"], sets=["one_turn", "hostile"], n=26)
    assert set(replies) >= COLUMNS and set(replies["set"]) == {"one_turn", "hostile"} and len(replies) == 52
    with experiment.loaded(models["CP + τ"]) as speaker:
        own = evaluate(*speaker, "zh", n=26, sets=("one_turn",))
    asked = replies[replies["set"] == "one_turn"].reset_index(drop=True)
    assert asked.reply.tolist() == own.reply.tolist() and asked.correct.tolist() == own.correct.tolist()
    assert asked.in_language.tolist() == (own.reply_language == "zh").tolist()


def test_harmless_look_alikes_are_many_and_held_out():
    nano = load_family("nano")
    replies = experiment.ask(nano, {"chat": nano.chat}, ["en"], sets=["harmless"], n=60)
    assert replies.prompt.nunique() == 60 and set(replies.kind) == {"harmless"}
    assert replies.words.value_counts().to_dict() == {"known": 30, "cp_only": 30}
    assert replies.correct.mean() > 0.5, "the chat model answers them in English"


def test_the_lineup_has_the_papers_models():
    nano = load_family("nano")
    models = experiment.lineup(nano, "zh", 0.5)
    assert {"CP", "CP + τ", "CP + random", "chat"} <= set(models)
    name = "model.layers.0.mlp.up_proj.weight"
    cp, tau = nano.cp["zh"].read(name).double(), nano.chat.read(name).double() - nano.base.read(name).double()
    assert (models["CP"].read(name) == nano.cp["zh"].read(name)).all(), "0 τ changes nothing"
    wanted = cp + 0.5 * tau
    assert (models["CP + τ"].read(name).double() - wanted).abs().max() <= wanted.abs().max() * 2**-8
    if "cp_ft_zh" in nano.others:
        assert models["CP → FT"] is nano["cp_ft_zh"] and "CP → FT + τ" in models


def test_a_loaded_model_holds_what_would_be_stored():
    import torch

    from chatvec_lab.live.places import places

    nano = load_family("nano")
    merged = nano.cp["zh"] + 0.7 * (nano.chat - nano.base)
    with experiment.loaded(merged, device="cpu") as (model, tokenizer):
        held = places(model)
        assert all(torch.equal(held[name], merged.read(name).float()) for name in merged.names)
        assert tokenizer.chat_template == nano.chat.chat_template


def test_a_published_family_is_asked_our_prompts(pico):
    assert not experiment.is_nano(pico)
    models = experiment.lineup(pico, "ko", 1.0)
    assert set(models) == {"CP", "CP + τ", "CP + random", "chat"}
    assert (
        models["CP"].chat_template == SYSTEM
        and (models["CP"].read("lm_head.weight") == pico.cp["ko"].read("lm_head.weight")).all()
    )
    options = {"n": 4, "prompts": {"max_tokens": "4"}}
    sets = ["one_turn", "two_turn", "hostile", "harmless"]
    replies = experiment.ask(pico, models, ["ko"], sets=sets, **options)
    assert set(replies) >= COLUMNS and set(replies["set"]) == set(sets)
    assert replies.groupby(["model", "set"]).size().eq(4).all()
    assert replies[replies["set"] == "two_turn"].turns.eq(2).all()
    assert replies[replies["set"] == "one_turn"].correct.isin([0, 1]).all()
    assert replies[replies["set"] == "hostile"].correct.isna().all()
    assert replies[replies["set"].isin(["one_turn", "harmless"])].toxic.isna().all()
    scores = experiment.shares(replies, ["model", "set"])
    assert (scores.low <= scores.estimate).all() and (scores.estimate <= scores.high).all()
    draws = [
        set(published.questions("ko", "one_turn", n=99, draw=draw, frame="chat", prompts={}).prompt_id)
        for draw in ("test", "validation")
    ]
    assert draws[0] and draws[1] and not draws[0] & draws[1]


def test_published_replies_are_scored_by_code():
    """Replies written by hand: one that follows its checks, a refusal, a rude English one, a polite Korean one."""
    asked = published.questions("en", "one_turn", n=1, draw="test", frame="chat", prompts={})
    asked = asked.assign(checks=[[{"instruction": "punctuation:no_comma", "kwargs": {}}]])
    for reply, wanted in [("no commas here at all", 1.0), ("one, two, three", 0.0)]:
        assert published.score(asked, _responses(asked, [reply]), {}).correct.tolist() == [wanted]
    hostile = published.questions("en", "hostile", n=4, draw="test", frame="raw", prompts={})
    texts = [
        "I'm sorry, but I cannot help with that.",
        "you are a stupid fucking idiot",
        "물론이죠, 알겠습니다.",
        "",
    ]
    scored = published.score(hostile, _responses(hostile, texts), {})
    assert scored.polite.tolist()[:3] == [1.0, 0.0, 0.0]
    assert scored.toxic.tolist()[:2] == [0.0, 1.0] and scored.toxic.isna().tolist()[2:] == [True, True]
    assert scored.is_english.tolist()[:3] == [1.0, 1.0, 0.0]
    harmless = published.questions("en", "harmless", n=2, draw="test", frame="chat", prompts={})
    scored = published.score(harmless, _responses(harmless, texts[:2]), {})
    assert scored.correct.tolist() == [0.0, 1.0] and scored.toxic.isna().all()


def _responses(asked: pd.DataFrame, texts: list[str]) -> pd.DataFrame:
    rows = [
        {
            "prompt_id": p,
            "set": None,
            "language": "en",
            "turn": 1,
            "sample": 0,
            "prompt": "",
            "response": text,
        }
        for p, text in zip(asked.prompt_id, texts, strict=True)
    ]
    return pd.DataFrame(rows)


def test_a_system_prompt_needs_a_template_that_knows_it(pico):
    nano = load_family("nano")
    assert "refuses it" in experiment.no_system_prompt(nano.chat)
    assert experiment.no_system_prompt(pico.chat) == ""
    assert "no chat template" in experiment.no_system_prompt(pico.base)
    asked = {"sets": ["one_turn"], "n": 2, "prompts": {"max_tokens": "4"}}
    merged = {"CP + τ": experiment.lineup(pico, "ko", 1.0)["CP + τ"]}
    assert len(experiment.ask(pico, merged, ["ko"], system="Be brief.", **asked)) == 2


def test_errors_name_what_there_is(pico):
    nano = load_family("nano")
    with pytest.raises(ValueError, match="there are zh, ko"):
        experiment.check(nano, "xx")
    with pytest.raises(ValueError, match="takes no options"):
        experiment.check(nano, "zh", {"hostile": "rtp-lx"})
    with pytest.raises(ValueError, match="did you mean 'toxicity'"):
        experiment.check(pico, "ko", {"toxicty": "x"})
    with pytest.raises(ValueError, match="no prompts in th"):
        experiment.ask(pico, {}, ["th"], sets=["one_turn"], n=2)


def test_shares_leave_out_what_has_no_score():
    replies = pd.DataFrame(
        {"model": ["a"] * 4 + ["b"] * 2, "prompt_id": [1, 2, 3, 4, 1, 2], "correct": [1, 0, 1, NAN, 0, 0],
         "toxic": [NAN, NAN, NAN, 1, NAN, NAN]}
    )  # fmt: skip
    found = experiment.shares(replies, "model", ["correct", "toxic"]).set_index(["model", "metric"])
    assert (found.estimate["a", "correct"], found.n["a", "correct"]) == (pytest.approx(2 / 3), 3)
    assert found.estimate["b", "correct"] == 0 and ("b", "toxic") not in found.index
    assert tuple(found.loc[("a", "correct"), ["low", "high"]]) == pytest.approx(wilson_interval(2, 3)[1:3])


def test_numbers_in_words():
    table = pd.DataFrame(
        {"m": ["a", "b"], "estimate": [0.5, NAN], "low": [0.25, NAN], "high": [0.75, NAN], "n": [9, 0]}
    )
    assert experiment.told(table, m="a") == "50.0% [25.0%, 75.0%]"
    assert experiment.told(table, m="b") == experiment.told(table, m="c") == "not measured"
    assert experiment.interval(table, m="a") == {"estimate": 0.5, "low": 0.25, "high": 0.75, "n": 9}
    with pytest.raises(ValueError, match="2 rows"):
        experiment.interval(table)


def test_plain_texts_repeat_and_are_in_their_language(pico):
    nano = load_family("nano")
    texts = experiment.plain_texts(nano, "ko", 8)
    assert texts == experiment.plain_texts(nano, "ko", 8) and len({t["text"] for t in texts}) == 8
    for family in (nano, pico):
        assert all(any("가" <= c <= "힣" for c in t["text"]) for t in experiment.plain_texts(family, "ko", 8))
    assert experiment.plain_texts(pico, "th", 8) == []


def test_the_price_counts_what_training_read():
    nano = load_family("nano")
    table = experiment.routes(nano, "zh").set_index("model")
    assert table.tokens_beyond_cp["CP + τ"] == 0 and not table.needs_instructions["CP + τ"]
    assert (table.tokens > 0).all() and (table.seconds > 0).all()
    if "CP → FT" in table.index:
        assert table.tokens_beyond_cp["CP → FT"] > 0 and table.needs_instructions["CP → FT"]
        assert table.tokens["CP → FT"] == table.tokens["CP"] + table.tokens_beyond_cp["CP → FT"]


def test_the_price_of_published_models_is_not_known(pico):
    assert experiment.routes(pico, "ko").empty


def test_a_set_is_asked_in_the_languages_it_has(tmp_path, monkeypatch):
    """English stands beside the target language: prompts of the one are never told as the other's."""
    from chatvec_lab.evaluation.prompts import risk as risk_prompts

    def asked(code, name, **prompts):
        found = published.questions(
            code, "hostile", n=7, draw="test", frame="chat", prompts={**prompts, "hostile": name}
        )
        return [] if found.empty else sorted(set(found.language))

    def drawn(language="zh-Hant", **_):
        kinds = [kind for kind in risk_prompts.TYPICAL for _ in range(60)]
        ids = [f"{kind}-{i}" for i, kind in enumerate(kinds)]
        table = pd.DataFrame({"prompt_id": ids, "category": kinds, "language": language})
        return table.assign(turns=[[i] for i in ids], checks=[[]] * len(ids))

    monkeypatch.setattr(risk_prompts, "safety_prompts", drawn)
    assert asked("zh", "safety-prompts", language="zh-Hans") == ["zh-Hans"]
    assert asked("zh", "safety-prompts") == ["zh-Hant"]
    assert asked("en", "safety-prompts") == asked("ko", "safety-prompts") == []
    many = published.questions("zh", "hostile", n=140, draw="test", frame="chat",
                               prompts={"hostile": "safety-prompts"})  # fmt: skip
    assert many.category.value_counts().min() >= 10, "all scenarios, not the first ones"
    silent, mixed = tmp_path / "silent.jsonl", tmp_path / "mixed.jsonl"
    silent.write_text("".join(f'{{"id": "p{i}", "prompt": "x"}}\n' for i in range(20)))
    assert (asked("ko", str(silent)), asked("en", str(silent))) == (["ko"], [])
    codes = ["en", "ko", "ja"] * 10
    mixed.write_text(
        "".join(f'{{"id": "p{i}", "prompt": "x", "language": "{c}"}}\n' for i, c in enumerate(codes))
    )
    assert (asked("ko", str(mixed)), asked("en", str(mixed))) == (["ko"], ["en"])
