"""The panel shows what the session finds; it asks one question at a time, the last that is wanted, and nothing twice."""

import asyncio
import json
import re
import threading
from time import perf_counter, process_time, sleep

import numpy as np
import pandas as pd
import pytest
import torch

from chatvec_lab import Checkpoint, Family, load_family
from chatvec_lab.paths import NOTEBOOKS
from chatvec_lab.playground import Playground, State
from chatvec_lab.playground.asker import Asker
from chatvec_lab.playground.panel import PATIENCE, Panel, key_of, place_of
from chatvec_lab.playground.replies import Stopped

PROMPT = "請聽。跟著說：葉、門、狗。"


@pytest.fixture(scope="module")
def nano():
    return load_family("nano")


@pytest.fixture(scope="module")
def play(nano):
    return Playground(nano, device="cpu")  # its models are loaded once


@pytest.fixture
def panel(play):
    return Panel(play, prompt=PROMPT)


def by_model(table: pd.DataFrame, column: str = "response") -> dict:
    return dict(zip(table.model, table[column], strict=True))


def test_controls_ask_what_they_show(panel):
    play = panel.play
    assert by_model(panel.replies) == by_model(play.ask(PROMPT, scale=1.0))
    panel.scale = 0.0
    assert by_model(panel.replies)["CP + τ"] == by_model(panel.replies)["CP"]
    assert "CP + 0 τ" in panel.page
    panel.cp = "ko"
    assert panel.options["languages"] == ["ko", "en"] and panel.prompt == play.examples("ko")[0].text
    assert by_model(panel.replies) == by_model(play.ask(panel.prompt, scale=0.0, cp="ko"))
    panel.parts = {"- embedding": 0, "2 mlp": 0.5, "1 norm": 1}
    panel.vector = "random"
    panel.scale = 1.5
    choice = {"parts": {(None, "embedding"): 0.0, (2, "mlp"): 0.5}, "vector": "random"}
    assert by_model(panel.replies) == by_model(play.ask(panel.prompt, scale=1.5, cp="ko", **choice))
    assert "in parts" in panel.page and "2 mlp" not in panel.cell and "(2, 'mlp'): 0.5" in panel.cell
    panel.template = "plain"
    assert (
        by_model(panel.replies)["chat"] == by_model(play.ask(panel.prompt, scale=0, template="plain"))["chat"]
    )


def test_places_have_keys(panel):
    assert [place_of(key_of(place)) for place in panel.play.places] == panel.play.places
    assert [place["key"] for place in panel.options["places"]] == [
        key_of(place) for place in panel.play.places
    ]


def test_examples_fill_the_prompt(panel):
    panel.language = "en"
    panel.example = 5
    example = panel.play.examples("en")[5]
    assert panel.prompt == example.text and example.language == "en"
    assert panel.replies.prompt.iloc[-1] == example.turns[-1]
    panel.prompt = "my own"
    assert panel.example == -1
    panel.cp = "ko"
    assert panel.prompt == "my own", "another CP leaves what was typed"


def test_another_family(panel):
    panel.family = "nano-wide"
    assert panel.play.family.name == "nano-wide" and set(panel.options["cps"]) >= {"ar", "es", "sw"}
    assert len(panel.replies) == 4 and panel.status.startswith("4 replies in")
    panel.family = "nano"
    assert by_model(panel.replies)["chat"] and panel.past == panel.past[-1:], "its history is its own"


def test_an_exception_is_shown_and_forgotten(panel):
    before = panel.page
    panel.prompt = " "
    assert "the prompt is empty" in panel.page and 'role="alert"' in panel.page
    assert panel.replies is None and panel.status == "failed"
    with pytest.raises(ValueError, match="ask first"):
        panel.save()
    panel.prompt = PROMPT
    assert panel.page == before
    panel.family = "no-such-family"
    assert "no family" in panel.page and panel.play.family.name == panel.family == "nano"
    panel.prompt = "<script>alert(1)</script>"
    panel.vector = "<script>"
    assert "&lt;script&gt;" in panel.page and "<script" not in panel.page + panel.static()


def test_checks_of_ones_own_are_shown_kept_or_broken(panel):
    panel.prompt = "狗是什麼？請用三個字。"
    assert "check: none for this prompt" in panel.page
    panel.checks = "length_constraints:number_words: {relation: at most, num_words: 1}"
    assert panel.page.count("</b>: has at most 1 words") == len(panel.replies) == 4
    assert panel.replies.followed.notna().all() and "checks=[{" in panel.cell
    kept = panel.replies
    panel.checks = "length_constraints:number_words: {relation: at mots, num_words: 1}"
    assert "your checks, line 1" in panel.page and "choose one of less than" in panel.page
    assert panel.status == "failed"
    panel._told(panel, {"do": "back", "with": [len(panel.past) - 1]}, [])
    assert panel.checks.endswith("at most, num_words: 1}") and panel.replies.check.equals(kept.check)
    panel.checks = 'keywords:existence: {keywords: ["<img src=x onerror=alert(1)>"]}'
    assert "<img src=x" not in panel.page and "uses “&lt;img src=x" in panel.page


def test_buttons_do_what_they_say(panel, tmp_path):
    tell = lambda do, *given: panel._told(panel, {"do": do, "with": list(given)}, [])  # noqa: E731
    panel.scale = 0.5
    panel.parts = {"1 mlp": 0.0}
    tell("pin")
    assert panel.pinned == ["CP zh + 0.5 τ, without mlp of layer 1"]
    panel.parts = {}
    assert panel.replies.label.iloc[-1] == "pinned: " + panel.pinned[0]
    panel.against = "pinned: " + panel.pinned[0]
    assert "words other than pinned: CP zh" in panel.page or "the same words as pinned: CP zh" in panel.page
    tell("back", 0)
    assert (panel.scale, panel.parts, panel.prompt) == (1.0, {}, PROMPT) and "CP + 1 τ" in panel.page
    tell("back", 2)
    assert panel.parts == {"1 mlp": 0.0} and panel.scale == 0.5
    panel.scales = (0.0, 1.0)
    tell("grid")
    assert panel.sweep.scale.tolist() == [0.0, 1.0] and panel.sweep_page.count("<td") == 2
    panel.out = tmp_path
    tell("save")
    assert (tmp_path / "tables" / "playground-001-scales.parquet").exists() and "saved as" in panel.status
    asked = panel.asked
    tell("_show_error", "x")
    tell("nothing")
    assert panel.asked == asked and "failed" not in panel.status


def test_the_inset_shows_what_is_added(panel):
    whole = panel.profile
    assert "<img" in whole and "alt=" in whole
    panel.scale = 0.25
    assert panel.profile == whole, "a turn of the scale draws nothing"
    panel.parts = {"3 mlp": 0.5}
    assert panel.profile != whole
    panel.parts = {key_of(place): 0.0 for place in panel.play.places if place != (None, "embedding")}
    assert "only to: embedding" in panel.profile


def test_without_a_kernel_the_replies_are_there(panel):
    data, _ = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    shown = re.sub("<[^>]+>", "", data["text/html"])
    for reply in panel.replies.response:
        assert reply in shown


# ------------------------------------------------------------ while the slider moves


def turned(panel, scales, *, pause: float = 0.0, after: float = 20.0) -> list[str]:
    """Move the slider over these scales in an event loop, as the page does, and let go; the names that were shown."""
    shown: list[str] = []

    def show(change) -> None:
        labels = panel.look.replies.query("model == 'CP + τ'").label.tolist()
        shown.extend(label for label in labels if shown[-1:] != [label])

    panel.observe(show, "page")

    async def turn():
        for scale in scales:
            with panel.hold_trait_notifications():
                panel.is_moving, panel.scale = True, scale
            await asyncio.sleep(pause)
        panel.is_moving = False
        until = perf_counter() + after
        await asyncio.sleep(0.05)
        while panel.is_asking and perf_counter() < until:
            await asyncio.sleep(0.02)

    asyncio.run(turn())
    return shown


def test_replies_follow_a_moving_slider(panel):
    scales = [step / 20 for step in range(20)]
    shown = turned(panel, scales, pause=0.05)
    assert shown[-1] == "CP + 0.95 τ" and len(shown) >= 3, "some were shown on the way"
    assert by_model(panel.replies) == by_model(panel.play.ask(PROMPT, scale=0.95))
    assert [State(PROMPT, 1.0, "zh"), State(PROMPT, 0.95, "zh")] == panel.session.history, (
        "only where it rested"
    )


def test_what_lies_between_is_not_asked(panel):
    before = panel.asked
    turned(panel, [step / 50 for step in range(50)])
    assert panel.asked <= before + 4 and set(panel.replies.scale.dropna()) == {0.0, 0.98}


def test_a_slow_model_is_asked_when_the_slider_rests(panel):
    """What is kept is shown at once; nothing else is asked on the way."""
    panel.scale = 0.44
    panel.scale = 1.9
    panel.session.pace, before = PATIENCE * 3, panel.asked
    seen = []
    panel.observe(lambda change: seen.append(change.new), "status")
    shown = turned(panel, [1.81, 1.82, 0.44, 1.83, 1.84], pause=0.3)
    assert shown == ["CP + 0.44 τ", "CP + 1.84 τ"] and panel.asked == before + 2
    assert not any(panel.session.is_kept(State(PROMPT, scale, "zh")) for scale in (1.81, 1.82, 1.83))
    assert any("asked when the slider rests" in status for status in seen)


def test_a_question_that_nobody_waits_for_is_ended():
    """The running one is dropped for the next, the waiting one replaced; nothing is shown of either."""
    shown, started, failed = [], threading.Event(), []
    asker = Asker(failed=failed.append, busy=lambda is_busy: None)

    def slow(later):
        started.set()
        until = perf_counter() + 20
        while perf_counter() < until:
            if not asker.goes_on():
                raise Stopped
            sleep(0.005)
        return lambda: shown.append("slow")

    async def ask():
        asker.do(slow)
        while not started.is_set():
            await asyncio.sleep(0.01)
        asker.do(lambda later: lambda: shown.append("between"))
        asker.do(lambda later: lambda: shown.append("last"), drops_running=True)
        while not shown:
            await asyncio.sleep(0.01)
        asker.do(lambda later: 1 / 0)
        while not failed:
            await asyncio.sleep(0.01)
        started.clear()
        asker.do(slow)
        while not started.is_set():
            await asyncio.sleep(0.01)
        asker.stop()
        await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(ask(), 15))
    assert shown == ["last"] and isinstance(failed[0], ZeroDivisionError) and len(failed) == 1


def test_any_family_has_a_panel(families, tmp_path):
    base, chat, cp = families("mixtral")
    family = Family("pico", Checkpoint(base), Checkpoint(chat), {"zh": Checkpoint(cp)})
    panel = Panel(Playground(family, max_tokens=4, device="cpu"), prompt="w1 w2")
    assert {place["module"] for place in panel.options["places"]} >= {"attention", "mlp", "router", "head"}
    panel.parts = {"1 router": 0.0}
    assert len(panel.replies) == 4 and panel.look.readings[0, "CP + 1 τ in parts", 1]


@pytest.mark.slow
def test_a_turn_of_the_slider_takes_less_than_three_tenths_of_a_second(panel, request):
    """Of the processor's time; how long a person waits is the machine's affair too, and printed.

    With one thread: two that wait for each other on a busy machine count their waiting as work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    seconds, waited = [], []
    for step in range(1, 30):
        start, worked = perf_counter(), process_time()
        panel.scale = step / 20
        seconds.append(process_time() - worked)
        waited.append(perf_counter() - start)
    print(
        f"\nmedian of {len(seconds)} turns: {np.median(seconds):.3f} s of work, {np.median(waited):.3f} s of waiting"
    )
    assert np.median(seconds) < 0.3


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
    assert all(
        (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000 for name in ("profile", "divergence")
    )
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert "scale 1 yes" in summary["answer"] and "CP no" in summary["answer"]
    shown = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]
    static = next(data["text/html"] for data in shown if "application/vnd.jupyter.widget-view+json" in data)
    assert "chatvec-card" in static and "nats from the CP" in static, "the panel is readable without a kernel"
    assert any("image/png" in data for data in shown)
