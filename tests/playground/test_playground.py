"""The playground: replies and scores equal those of the modules behind it; widgets ask once, for the last choice."""

import asyncio
import json

import numpy as np
import pandas as pd
import pytest
from pico import save_talker

from chatvec_lab import Checkpoint, Family, LiveModel, anatomy, load_family, respond
from chatvec_lab.evaluation.instructions import instruction_scores
from chatvec_lab.evaluation.scorers.toxicity_scorers import EnglishProfanity
from chatvec_lab.experiment import Exam, loaded
from chatvec_lab.paths import NOTEBOOKS
from chatvec_lab.playground import Panel, Playground, cards
from chatvec_lab.playground.examples import turns_of

PROMPT = "請問，再說一次：米、樹。"


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
    assert not by_model(play.ask(PROMPT, scale=0.5, vector="chat_sft"), "is_cached")["CP + τ"]


def test_a_part_of_the_vector_is_added(play, nano):
    tau = nano.chat - nano.base
    table = play.ask(PROMPT, scale=1.0, layers=(1, 2), modules=["mlp", "embedding"])
    live = play._live[1]
    for name in nano.base.names:
        inside = "mlp" in name and (".1." in name or ".2." in name)
        is_added = inside or "embed_tokens" in name
        expected = (nano.cp["zh"] + float(is_added) * tau).read(name)
        held = dict(live.model.named_parameters())[name].detach()
        assert held.to(expected.dtype).equal(expected), name
    assert by_model(table)["CP + τ"] == said(live.model, live.tokenizer)


def test_nothing_chosen_is_the_cp(play):
    table = play.ask(PROMPT, scale=1.0, modules=[])
    assert by_model(table)["CP + τ"] == by_model(table)["CP"]
    assert play.profile(modules=[]).empty


def test_all_chosen_is_the_vector_itself(play):
    play.ask(PROMPT, scale=1.0)
    again = play.ask(PROMPT, scale=1.0, layers=(0, 3), modules=["norm", "mlp", "attention", "embedding"])
    assert again.is_cached.all()


def test_the_profile_is_the_anatomy_of_what_is_added(play, nano):
    norms = anatomy.combine(
        anatomy.norms({"chat": nano.chat - nano.base}, progress=False), ["layer", "module"]
    )
    pd.testing.assert_frame_equal(play.profile(), norms)
    part = play.profile(layers=(1, 2), modules=["mlp", "embedding"])
    assert list(zip(part.layer.fillna(-1), part.module, strict=True)) == [
        (-1, "embedding"),
        (1, "mlp"),
        (2, "mlp"),
    ]
    whole = norms.set_index(["layer", "module"]).l2
    assert part[part.layer.eq(1)].l2.item() == whole[1, "mlp"]


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
    assert {"chat", "chat_sft", "random"} <= set(play.vectors) and not any(
        "cp" in name for name in play.vectors
    )
    assert {"zh", "ko", "zh_extended", "ft_ko"} <= set(play.cps)
    assert [play.language_of(name) for name in ("zh_extended", "ft_ko", "ko")] == ["zh", "ko", "ko"]
    play.vectors["minus"] = -play.vectors["chat"]
    minus = by_model(play.ask(PROMPT, scale=-1.0, vector="minus"))
    assert minus["CP + τ"] == by_model(play.ask(PROMPT, scale=1.0))["CP + τ"]


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"cp": "zj"}, KeyError, "zh"),
        ({"vector": "chatt"}, KeyError, "Did you mean 'chat'"),
        ({"layers": (2, 4)}, ValueError, "within 0 to 3"),
        ({"layers": (2, 1)}, ValueError, "expected"),
        ({"modules": ["mlp", "router"]}, ValueError, "no router"),
        ({"prompt": "  "}, ValueError, "empty"),
        ({"prompt": "one\n---\n"}, ValueError, "turn of the prompt is empty"),
    ],
)
def test_errors_name_what_was_asked(play, options, error, told):
    with pytest.raises(error, match=told):
        play.ask(**{"prompt": PROMPT, "scale": 1.0, **options})


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
    assert table.check.str.contains("✓|✗").all()


# ------------------------------------------------------------ cards


def test_replies_are_text_not_markup(play):
    evil = "<script>alert(1)</script> & \"<img src=x onerror='1'>\""
    table = play.ask(PROMPT, scale=1.0).assign(response=evil, check=evil, reply_language=evil)
    html = cards(table)
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;alert(1)" in html


def test_cards_tell_what_is_missing(play):
    table = play.ask(PROMPT, scale=-0.5).assign(
        response="",
        reply_language=None,
        toxicity=np.nan,
        toxicity_note="language ar",
        check="",
        followed=np.nan,
    )
    html = cards(table)
    for told in (
        "CP − 0.5 τ",
        "(empty reply)",
        "language: none",
        "not covered (language ar)",
        "none for this prompt",
    ):
        assert told in html


# ------------------------------------------------------------ widgets


@pytest.fixture
def panel(nano):
    pytest.importorskip("ipywidgets", reason="the panel needs ipywidgets")
    return Panel(Playground(nano, device="cpu"), prompt=PROMPT)


def test_widgets_ask_what_they_show(panel):
    play = panel.play
    assert by_model(panel.replies) == by_model(play.ask(PROMPT, scale=1.0))
    panel.scale.value = 0.0
    assert by_model(panel.replies)["CP + τ"] == by_model(panel.replies)["CP"]
    assert "CP + 0 τ" in panel.cards.value
    panel.cp.value = "ko"
    assert panel.language.options == ("ko", "en") and panel.prompt.value == play.examples("ko")[0].text
    assert by_model(panel.replies) == by_model(play.ask(panel.prompt.value, scale=0.0, cp="ko"))
    panel.modules.children[1].value = False  # embedding
    panel.layers.value = (1, 2)
    panel.vector.value = "random"
    panel.scale.value = 1.5
    place = {"layers": (1, 2), "modules": play.modules[1:], "vector": "random"}
    assert by_model(panel.replies) == by_model(play.ask(panel.prompt.value, scale=1.5, cp="ko", **place))
    panel.template.value = "plain"
    assert (
        by_model(panel.replies)["chat"]
        == by_model(play.ask(panel.prompt.value, scale=0, template="plain"))["chat"]
    )


def test_examples_fill_the_prompt(panel):
    panel.language.value = "en"
    _, example = panel.example.options[5]
    panel.example.value = example
    assert panel.prompt.value == example.text and example.language == "en"
    assert panel.replies.prompt.iloc[-1] == example.turns[-1]
    panel.prompt.value = "my own"
    assert panel.example.value == "" and panel.example.label == "(your own)"
    panel.cp.value = "ko"
    assert panel.prompt.value == "my own", "another CP leaves what was typed"


def test_another_family(panel):
    panel.family.value = "nano-wide"
    assert panel.play.family.name == "nano-wide" and set(panel.cp.options) >= {"ar", "es", "sw"}
    assert len(panel.replies) == 4 and panel.status.value.startswith("4 replies (4 new")
    panel.path.value = str(load_family("nano").base.folder.parent)
    assert len(panel.play.cps) > 3 and "nano-wide" in panel.family.options
    panel.family.value = "nano"
    assert by_model(panel.replies)["chat"]


def test_an_exception_is_shown_and_forgotten(panel):
    before = panel.cards.value
    panel.prompt.value = " "
    assert "the prompt is empty" in panel.cards.value and 'role="alert"' in panel.cards.value
    assert panel.replies is None and panel.status.value == "failed"
    panel.prompt.value = PROMPT
    assert panel.cards.value == before
    panel.path.value = "no-such-family"
    assert "no family" in panel.cards.value and panel.play.family.name == panel.family.value == "nano"


def test_only_the_last_of_many_turns_is_asked(panel):
    async def turn_quickly():
        for step in range(40):
            panel.scale.value = step / 20
            await asyncio.sleep(0)
        await asyncio.sleep(1)

    before = panel.asked
    asyncio.run(turn_quickly())
    assert panel.asked == before + 1
    assert set(panel.replies.scale.dropna()) == {0.0, 1.95}


def test_the_inset_shows_what_is_added(panel):
    whole = panel.profile.value
    assert "<img" in whole and "alt=" in whole
    panel.scale.value = 0.25
    assert panel.profile.value == whole, "a turn of the scale draws nothing"
    panel.layers.value = (2, 3)
    assert panel.profile.value != whole
    for box in panel.modules.children[2:]:
        box.value = False
    assert "only to: embedding" in panel.profile.value


@pytest.mark.slow  # a figure for a quiet machine, with room for a busy one
def test_a_turn_of_the_slider_takes_less_than_a_second(panel):
    from time import perf_counter

    seconds = []
    for step in range(1, 30):
        start = perf_counter()
        panel.scale.value = step / 20
        seconds.append(perf_counter() - start)
        assert panel.replies.is_cached.sum() in (3, 4)
    print(f"\nmedian of {len(seconds)} turns: {np.median(seconds):.3f} s, slowest {max(seconds):.3f} s")
    assert np.median(seconds) < 1


# ------------------------------------------------------------ the notebook


@pytest.mark.slow
def test_the_notebook_runs_without_a_front_end(tmp_path):
    import papermill

    play = Playground("nano", device="cpu")
    asked = (play.ask(example.text, scale=1.0) for example in play.examples("zh"))
    known = next(
        t for t in asked if t.groupby("model").followed.last()[["CP", "CP + τ", "chat"]].tolist() == [0, 1, 1]
    )
    prompt = "\n---\n".join(known.prompt[known.model.eq("chat")])
    executed = papermill.execute_notebook(
        NOTEBOOKS / "playground.ipynb",
        tmp_path / "out.ipynb",
        parameters={"out_dir": str(tmp_path), "scales": [0.0, 1.0], "prompt": prompt},
        progress_bar=False,
        start_timeout=300,
    )
    replies = pd.read_parquet(tmp_path / "tables" / "replies.parquet").groupby("label").last()
    assert replies.response["scale 0"] == replies.response["CP"] != replies.response["scale 1"]
    assert replies.followed[["CP", "scale 1", "chat"]].tolist() == [0, 1, 1]
    assert (tmp_path / "figures" / "profile.png").stat().st_size > 5000
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert "scale 1 yes" in summary["answer"] and "CP no" in summary["answer"]
    shown = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert any(replies.response["scale 1"] in output.get("data", {}).get("text/html", "") for output in shown)
    assert any("image/png" in output.get("data", {}) for output in shown)
