"""The playground's table: replies and scores equal those of the modules behind it, whatever part of the vector is added."""

import pandas as pd
import pytest
import torch
from pico import save_talker

from chatvec_lab import Checkpoint, Family, LiveModel, anatomy, load_family, respond
from chatvec_lab.evaluation.instructions import instruction_scores
from chatvec_lab.evaluation.scorers.toxicity_scorers import EnglishProfanity
from chatvec_lab.experiment import Exam, loaded
from chatvec_lab.playground import Playground
from chatvec_lab.playground.examples import turns_of
from chatvec_lab.playground.parts import places
from chatvec_lab.playground.replies import Stopped
from chatvec_lab.weights.layout import Part

PROMPT = "請聽。跟著說：葉、門、狗。"


@pytest.fixture(scope="module")
def nano():
    return load_family("nano")


@pytest.fixture
def play(nano):
    return Playground(nano, device="cpu")


def by_model(table: pd.DataFrame, column: str = "response") -> dict:
    return dict(zip(table.model, table[column], strict=True))


def as_model(checkpoint):
    with loaded(checkpoint, device="cpu") as pair:
        return pair


def said(model, tokenizer, prompt: str = PROMPT, **options) -> str:
    return respond(model, tokenizer, [prompt], max_tokens=64, progress=False, **options).response.iloc[-1]


# ------------------------------------------------------------ replies


def test_replies_are_those_of_the_models(play, nano):
    replies = by_model(play.ask(PROMPT, scale=0.7))
    live = LiveModel(nano.cp["zh"], nano.chat - nano.base, "cpu", "float32")
    live.scale = 0.7
    expected = {name: said(*as_model(nano[name])) for name in ("base", "chat")}
    expected |= {"CP": said(*as_model(nano.cp["zh"])), "CP + τ": said(live.model, live.tokenizer)}
    assert replies == expected
    assert len(set(expected.values())) > 1


def test_what_stands_behind_a_thought_is_scored(tmp_path):
    class Recorder(EnglishProfanity):
        def score(self, texts):
            seen.extend(texts)
            return super().score(texts)

    seen = []
    for name in ("base", "chat", "cp"):
        save_talker(tmp_path / name, ["<think>", "w3", "</think>", "w7"])
    family = Family(
        "thinkers",
        *(Checkpoint(tmp_path / name) for name in ("base", "chat")),
        {"en": Checkpoint(tmp_path / "cp")},
    )
    replies = Playground(family, device="cpu", scorer=Recorder()).ask("w1 w2", scale=0.0)
    assert set(replies.response) == {"<think> w3 </think> w7"} and set(seen) == {"w7"}


def test_scores_are_those_of_the_exact_checker(play, nano):
    """Every kind of prompt of the world, one and two turns, hostile ones too."""
    sets = ["one_turn", "two_turn", "hostile"]
    table = Exam(nano, "zh").ask({"chat": nano.chat}, sets, 26, languages=["en"]).set_index("prompt_id")
    held_out = [e for e in play.examples("en") if e.held_out.prompt_id in table.index]
    assert {e.held_out.set for e in held_out} == {"one_turn", "two_turn", "hostile"} and len(held_out) > 30
    for example in held_out[::3]:
        last = play.ask(example.text, scale=0.0).query("model == 'chat'").iloc[-1]
        expected = table.loc[example.held_out.prompt_id]
        assert last.response == expected.response and last.reply_language == expected.reply_language
        assert last.turn == expected.turns
        if example.held_out.set == "hostile":
            assert (last.followed, last.toxicity) == (expected.polite, expected.toxic)
        else:
            assert last.followed == expected.correct


def test_what_was_asked_before_is_kept(play):
    assert not play.ask(PROMPT, scale=0.5).is_cached.any()
    turned = by_model(play.ask(PROMPT, scale=1.0), "is_cached")
    assert turned == {"base": True, "CP": True, "CP + τ": False, "chat": True}
    assert play.ask(PROMPT, scale=0.5).is_cached.all()
    at_zero = play.ask(PROMPT, scale=0.0)
    assert at_zero.is_cached.all() and by_model(at_zero)["CP + τ"] == by_model(at_zero)["CP"]
    # other CP: base and chat are not asked again
    assert by_model(play.ask(PROMPT, scale=0.5, cp="ko"), "is_cached")["chat"]
    assert not by_model(play.ask(PROMPT, scale=0.5, vector="chat_full"), "is_cached")["CP + τ"]


def test_a_part_of_the_vector_is_added(play, nano):
    tau = nano.chat - nano.base
    choice = {"scale": 1.0, "parts": play.only(layers=(1, 2), modules=["mlp", "embedding"])}
    table = play.ask(PROMPT, **choice)
    model, tokenizer = play.speaker("CP + τ", **choice)
    for name in nano.base.names:
        inside = "mlp" in name and (".1." in name or ".2." in name)
        is_added = inside or "embed_tokens" in name
        expected = (nano.cp["zh"] + float(is_added) * tau).read(name)
        held = dict(model.named_parameters())[name].detach()
        assert held.to(expected.dtype).equal(expected), name
    assert by_model(table)["CP + τ"] == said(model, tokenizer)


PARTS = [
    {(1, "mlp"): 0.0},
    {(None, "embedding"): 0.5, (0, "attention"): -1.25, (3, "norm"): 0.0},
    {(layer, "attention"): 0.3 * layer for layer in range(4)},
    {},
]


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_every_turn_of_the_grid_gives_the_bits_of_the_formula(nano, dtype):
    """One live model, turned from grid to grid, holds what a fresh one and (as stored) a save would."""
    play = Playground(nano, device="cpu", compare=[], dtype=dtype)
    tau = nano.chat - nano.base
    first, _ = play.speaker("CP + τ", scale=0.1)
    for scale in (0.7, -1.3):
        for parts in PARTS:
            model, _ = play.speaker("CP + τ", scale=scale, parts=parts)
            part_of_tau = tau.scheduled(lambda layer, module, parts=parts: parts.get((layer, module), 1.0))
            merged, fresh = (
                nano.cp["zh"] + scale * part_of_tau,
                LiveModel(nano.cp["zh"], part_of_tau, "cpu", dtype),
            )
            fresh.scale = scale
            wanted = dict(fresh.model.named_parameters())
            for name, held in model.named_parameters():
                assert bits(held).equal(bits(wanted[name])), (name, parts)
                if dtype == "auto":
                    assert bits(held).equal(bits(merged.read(name))), (name, parts)
    assert model is first, "it was never loaded anew"
    back, _ = play.speaker("CP", scale=0.7, parts=PARTS[1])
    for name, held in back.named_parameters():
        assert bits(held).equal(bits(nano.cp["zh"].read(name).to(held.dtype)))


def bits(tensor):
    return tensor.detach().contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)


def test_a_larger_model_has_one_switch_for_its_other_components():
    """What is no text goes by its component: a vision layer 1 is not the text's layer 1."""
    parts = [
        Part("text", 1, "mlp"),
        Part("vision", 1, "mlp"),
        Part("text", None, "head"),
        Part("projector", None, "projector"),
    ]
    assert places(parts) == [
        (None, "head"), (None, "vision component"), (None, "projector component"), (1, "mlp")
    ]  # fmt: skip


def test_nothing_chosen_is_the_cp(play):
    nothing = play.only(modules=[])
    table = play.ask(PROMPT, scale=1.0, parts=nothing)
    assert by_model(table)["CP + τ"] == by_model(table)["CP"]
    assert play.profile(parts=nothing).empty


def test_all_chosen_is_the_vector_itself(play):
    play.ask(PROMPT, scale=1.0)
    everything = play.only(layers=(0, 3), modules=["norm", "mlp", "attention", "embedding"])
    assert everything == {}
    assert play.ask(PROMPT, scale=1.0, parts={(1, "mlp"): 1.0}).is_cached.all()


def test_the_profile_is_the_anatomy_of_what_is_added(play, nano):
    norms = anatomy.combine(
        anatomy.norms({"chat": nano.chat - nano.base}, progress=False), ["layer", "module"]
    )
    pd.testing.assert_frame_equal(play.profile(), norms)
    part = play.profile(parts=play.only(layers=(1, 2), modules=["mlp", "embedding"]))
    assert list(zip(part.layer.fillna(-1), part.module, strict=True)) == [
        (-1, "embedding"),
        (1, "mlp"),
        (2, "mlp"),
    ]
    whole = norms.set_index(["layer", "module"]).l2
    assert part[part.layer.eq(1)].l2.item() == whole[1, "mlp"]
    half = play.profile(parts={(1, "mlp"): -0.5}).set_index(["layer", "module"])
    assert half.l2[1, "mlp"] == 0.5 * whole[1, "mlp"] and half.l2[2, "mlp"] == whole[2, "mlp"]


def test_two_turns_and_plain_text(play, nano):
    prompt = "我叫小明。\n---\n我叫什麼名字？"
    two = play.ask(prompt, scale=1.0).query("model == 'chat'")
    expected = respond(
        *as_model(nano.chat),
        [{"prompt_id": "a", "turns": list(turns_of(prompt))}],
        max_tokens=64,
        progress=False,
    )
    assert two.response.tolist() == expected.response.tolist() and two.turn.tolist() == [1, 2]
    plain = play.ask("Q: 米、樹。\nA:", scale=1.0, template="plain")
    assert by_model(plain)["base"] == said(*as_model(nano.base), "Q: 米、樹。\nA:", template="plain")


def test_vectors_and_cps_by_name(play, nano):
    assert {"chat", "chat_full", "random"} <= set(play.vectors) and not any(
        "cp" in name for name in play.vectors
    )
    assert {"zh", "ko", "zh_extended", "ft_zh"} <= set(play.cps)
    assert [play.language_of(name) for name in ("zh_extended", "ft_zh", "ko")] == ["zh", "zh", "ko"]
    play.vectors["minus"] = -play.vectors["chat"]
    minus = by_model(play.ask(PROMPT, scale=-1.0, vector="minus"))
    assert minus["CP + τ"] == by_model(play.ask(PROMPT, scale=1.0))["CP + τ"]


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"cp": "zj"}, KeyError, "zh"),
        ({"vector": "chatt"}, KeyError, "did you mean 'chat'"),
        ({"parts": {(4, "mlp"): 0.0}}, KeyError, "mlp of layer 4.*Did you mean mlp of layer"),
        ({"parts": {(None, "router"): 0.0}}, KeyError, "no router outside the layers"),
        ({"parts": {(1, "mlp"): "a"}}, TypeError, "must be a number"),
        ({"parts": {(1, "mlp"): float("nan")}}, ValueError, "finite"),
        ({"scale": float("inf")}, ValueError, "finite"),
        ({"prompt": "  "}, ValueError, "empty"),
        ({"prompt": "one\n---\n"}, ValueError, "turn of the prompt is empty"),
    ],
)
def test_errors_name_what_was_asked(play, options, error, told):
    with pytest.raises(error, match=told):
        play.ask(**{"prompt": PROMPT, "scale": 1.0, **options})


def test_a_choice_of_layers_and_modules_is_checked(play):
    for choice, told in (({"layers": (2, 4)}, "within 0 to 3"), ({"layers": (2, 1)}, "expected"),
                         ({"modules": ["mlp", "router"]}, "no router")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            play.only(**choice)


def test_several_prompts_are_asked_together(nano):
    """The batch changes nothing, and all is kept for `ask`."""
    together, alone = (Playground(nano, device="cpu") for _ in range(2))
    prompts = [example.text for example in together.examples("zh")][:6]
    choice = {"scale": 0.8, "parts": {(0, "mlp"): 0.5}}
    together.generate(prompts, **choice)
    for prompt in prompts:
        assert together.is_kept(prompt, **choice) and not alone.is_kept(prompt, **choice)
        found, expected = (play.ask(prompt, **choice) for play in (together, alone))
        assert found.is_cached.all() and found.response.tolist() == expected.response.tolist()
        assert found.token_ids.tolist() == expected.token_ids.tolist()


def test_a_question_can_be_ended_before_its_next_token(play):
    whole = by_model(play.ask(PROMPT, scale=0.35))
    calls = iter([True, True, False])
    play.goes_on = lambda: next(calls)
    with pytest.raises(Stopped):
        play.ask(PROMPT, scale=0.45)
    assert list(calls) == [] and not play.is_kept(PROMPT, scale=0.45)
    play.goes_on = lambda: True
    assert by_model(play.ask(PROMPT, scale=0.45)) and by_model(play.ask(PROMPT, scale=0.35)) == whole


def test_only_base_and_chat_are_compared(nano):
    with pytest.raises(ValueError, match="cp is neither"):
        Playground(nano, compare=["cp"])


# ------------------------------------------------------------ families that did not grow in the micro-world


@pytest.fixture
def pico(families) -> Playground:
    base, chat, cp = families("llama")
    return Playground(
        Family("pico", Checkpoint(base), Checkpoint(chat), {"zh": Checkpoint(cp)}), max_tokens=8
    )


def test_other_families_are_scored_by_the_general_scorers(pico):
    table = pico.ask("w1 w2 w3", scale=1.0)
    assert len(table) == 4 and table.followed.isna().all() and table.check.eq("").all()
    assert (table.toxicity.isna() == table.toxicity_note.ne("")).all()


def test_a_prompt_of_data_prompts_is_checked(pico):
    example = next(e for e in pico.examples("zh") if e.checks and len(e.turns) == 1)
    assert example.language == "zh-Hant"
    assert pico.find(example.turns) == example
    table = pico.ask(example.text, scale=1.0)
    responses = table.assign(prompt_id="a", language="zh-Hant")
    checked = pd.DataFrame([{"prompt_id": "a", "checks": list(example.checks)}])
    expected = instruction_scores(responses, checked).groupby("model").strict.min()
    assert by_model(table, "followed") == expected.to_dict()
    assert table.check.str.contains("^(?:kept|broken|no meaning here): ", regex=True).all()
