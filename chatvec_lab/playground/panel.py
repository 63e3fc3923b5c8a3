"""The playground in JupyterLab: controls above, replies below that follow the slider while it moves.

`panel.js` draws the controls as the browser's own (range, select, button), which keyboards and screen readers know.
A moving slider sends values faster than models reply: `asker` asks the last one when the one before is done. Where a
new reply takes longer than `PATIENCE`, a moving slider shows only what is kept, and asks when it rests.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import contextmanager
from html import escape
from math import prod
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from chatvec_lab.families import family_names
from chatvec_lab.paths import DATA
from chatvec_lab.playground import constraints, export
from chatvec_lab.playground.asker import Asker
from chatvec_lab.playground.cards import CSS, sweep_table, view
from chatvec_lab.playground.parts import Place, in_words
from chatvec_lab.playground.replies import Playground
from chatvec_lab.playground.session import Look, Session, State, kept
from chatvec_lab.playground.unknown import Dictionary

if TYPE_CHECKING:
    from pandas import DataFrame

PATIENCE = 0.6  # seconds: what takes longer is not asked while the slider moves
SMALL = 100_000_000  # parameters up to which the norms of the vector are read without being asked for
OWN = -1  # the example that is none
_HERE = Path(__file__).parent


class Panel(anywidget.AnyWidget):
    """Controls around a `Playground`: shown when it is a cell's last expression.

    play: a Playground, or a family (its name, folder or YAML file). `settings` then go to Playground.
    scale, cp, vector, prompt: where to start; None takes the first of each, an empty prompt the first example.
    checks: of your own, put to the replies to every prompt, a line each: a name and its kwargs as in a prompt file.
    scales: those of the grid of scales and prompts. out: the folder that "save" writes to; '' is that of
      `study.output()`.

    `panel.play` is what is asked, `panel.session` holds history and pins, `panel.look` is what is shown,
    `panel.replies` its table, `panel.asked` how often the models were asked. Each control is a trait:
    `panel.scale = 0.5` is what moving the slider does.
    """

    _esm = _HERE / "panel.js"
    _css = (_HERE / "panel.css").read_text("utf-8") + CSS

    # what is chosen; the page and the kernel both set these
    family = traitlets.Unicode().tag(sync=True)
    cp = traitlets.Unicode().tag(sync=True)
    vector = traitlets.Unicode().tag(sync=True)
    scale = traitlets.Float(1.0).tag(sync=True)
    parts = traitlets.Dict().tag(sync=True)  # "2 mlp" or "- embedding" -> factor; 1 where none stands
    template = traitlets.Unicode("chat").tag(sync=True)
    language = traitlets.Unicode().tag(sync=True)
    example = traitlets.Int(OWN).tag(sync=True)
    prompt = traitlets.Unicode().tag(sync=True)
    checks = traitlets.Unicode().tag(sync=True)  # a person's own, a line each: `constraints.read`
    against = traitlets.Unicode("CP").tag(sync=True)  # with whose reply the others are compared
    is_moving = traitlets.Bool(False).tag(sync=True)  # a slider is held: more values will come
    # what is shown; the kernel sets these
    options = traitlets.Dict().tag(sync=True)
    page = traitlets.Unicode().tag(sync=True)
    sweep_page = traitlets.Unicode().tag(sync=True)
    profile = traitlets.Unicode().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    cell = traitlets.Unicode().tag(sync=True)
    past = traitlets.List().tag(sync=True)
    pinned = traitlets.List().tag(sync=True)
    is_asking = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        play: Playground | str,
        *,
        scale: float = 1.0,
        cp: str | None = None,
        vector: str | None = None,
        prompt: str = "",
        checks: str = "",
        scales: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
        out: str | Path = "",
        **settings,
    ):
        super().__init__()
        self.look: Look | None = None
        self.asked = 0
        self.scales, self.out = tuple(map(float, scales)), out
        self._asker = Asker(
            failed=self._show_error, busy=lambda is_busy: self.set_trait("is_asking", is_busy)
        )
        self._fills = 0  # nested fillings, in which changes ask nothing
        self._families: dict[str, Any] = {n: n for n in family_names() if (DATA / "nano" / n).is_dir()}
        self._take(play if isinstance(play, Playground) else Playground(play, **settings))
        with self._filling():
            self.scale, self.checks = scale, checks
            self._fill(cp=cp, vector=vector, prompt=prompt)
        self.observe(self._chosen, ["vector", "scale", "parts", "template", "checks", "against", "is_moving"])
        for name in ("family", "cp", "language", "example", "prompt"):
            self.observe(self._guarded(getattr(self, f"_change_{name}")), name)
        self.on_msg(self._told)
        self._want(is_moving=False, do=self._asker.do_now)  # the cells that follow find what was asked

    def _repr_mimebundle_(self, **options):
        """The widget, with what it shows now for pages without a kernel."""
        found = super()._repr_mimebundle_(**options)
        data, more = found if isinstance(found, tuple) else (found or {}, {})
        return {**data, "text/html": self.static()}, more

    def static(self) -> str:
        """What is shown now as HTML that needs neither kernel nor script."""
        return f"<style>{CSS}</style>{self.page}{self.sweep_page}"

    @property
    def replies(self) -> DataFrame | None:
        return None if self.look is None else self.look.replies

    def state(self) -> State:
        """What is chosen now."""
        given = {place_of(key): float(factor) for key, factor in self.parts.items()}
        factors = tuple((place, given[place]) for place in self.play.places if given.get(place, 1.0) != 1.0)
        return State(self.prompt, self.scale, self.cp, self.vector, factors, self.template, self.checks)

    # ------------------------------------------------------------ filling the controls

    def _take(self, play: Playground) -> None:
        self.play, self.session, self.dictionary = play, Session(play), Dictionary(play)
        self.sweep: DataFrame | None = None
        self.sweep_page, self.past, self.pinned = "", [], []
        self._pages: dict[tuple, str] = {}
        self._drawn: tuple = ()
        self._families.setdefault(play.family.name, play.family)
        tau = self.play.vectors["chat"]
        self._is_small = sum(prod(tau.shape(name)) for name in tau.names) <= SMALL

    @contextmanager
    def _filling(self):
        self._fills += 1
        try:
            yield
        finally:
            self._fills -= 1

    def _fill(self, *, cp: str | None = None, vector: str | None = None, prompt: str = "") -> None:
        """Everything that depends on the family."""
        self.family = self.play.family.name
        self.cp, self.vector = cp or next(iter(self.play.cps)), vector or next(iter(self.play.vectors))
        self.parts = {}
        self.prompt = prompt or self.prompt
        self._fill_languages()

    def _fill_languages(self) -> None:
        self.language = self.play.language_of(self.cp)
        self._fill_examples()

    def _fill_examples(self) -> None:
        is_own = self.example == OWN and self.prompt.strip()
        self._examples = self.play.examples(self.language)
        if self._examples and not is_own:
            self.prompt = self._examples[0].text
        self._mark_example()
        play = self.play
        self.options = {
            "families": list(self._families),
            "known": [name for name in family_names() if name not in self._families],
            "cps": list(play.cps),
            "vectors": list(play.vectors),
            "languages": list(dict.fromkeys([play.language_of(self.cp), "en"])),
            "examples": [_short(example.label) for example in self._examples],
            "places": [
                {"key": key_of(p), "layer": p[0], "module": p[1], "name": in_words(p)} for p in play.places
            ],
            "modules": play.modules,
            "models": [model for model in play.models if model != "CP + τ"],
            "checks": constraints.offered(),
        }

    def _mark_example(self) -> None:
        """Show the example whose text stands in the prompt box, if there is one."""
        texts = [example.text for example in self._examples]
        self.example = texts.index(self.prompt) if self.prompt in texts else OWN

    # ------------------------------------------------------------ what a person does

    def _guarded(self, handler: Callable):
        """The handler, with its exception shown: one that a callback raises is seen by nobody."""

        def guarded(change):
            if self._fills:
                return
            try:
                with self._filling():
                    handler(change)
            except Exception as error:
                self._show_error(error)
                return
            self._chosen(change)

        return guarded

    def _change_family(self, change) -> None:
        name = change.new.strip()
        self.status = "loading the family …"
        try:
            if not name:
                raise ValueError("no family was named.")
            self._take(Playground(self._families.get(name, name), **self.play.settings))
        except Exception:
            self.family = self.play.family.name
            raise
        self._fill()

    def _change_cp(self, change) -> None:
        if self.play.language_of(change.new) not in self.options["languages"]:
            self._fill_languages()

    def _change_language(self, change) -> None:
        self._fill_examples()

    def _change_example(self, change) -> None:
        if change.new != OWN:
            self.prompt = self._examples[change.new].text

    def _change_prompt(self, change) -> None:
        self._mark_example()

    def _told(self, widget, content: dict, buffers) -> None:
        """A button of the page."""
        names = ("ask", "stop", "pin", "back", "grid", "save", "draw")
        try:
            if content.get("do") in names:
                getattr(self, content["do"])(*content.get("with", []))
        except Exception as error:
            self._show_error(error)

    def pin(self) -> None:
        """Keep what is chosen now beside all that follows; again, and it goes."""
        self.session.pin(self.state())
        self.pinned = [pin.sum for pin in self.session.pins]
        self.ask()

    def back(self, number: int) -> None:
        """The state that was the `number`-th of the history."""
        past = self.session.history[number]
        with self._filling():
            if past.cp != self.cp:
                self.cp = past.cp
                self._fill_languages()
            self.scale, self.vector, self.template = past.scale, past.vector, past.template
            self.prompt, self.checks = past.text, past.checks
            self.parts = {key_of(place): factor for place, factor in past.parts}
            self._mark_example()
        self.ask()

    def grid(self) -> None:
        """Ask every prompt at every one of `panel.scales`, and show the table below the cards."""
        state = self.state()

        def job(later) -> Callable[[], None]:
            tell = lambda done, of: later(lambda: self.set_trait("status", f"scale {done} of {of} …"))  # noqa: E731
            sweep = self.session.sweep(state, self.scales, goes_on=self._asker.goes_on, progress=tell)
            html = sweep_table(sweep, state.prompts)

            def show() -> None:
                self.sweep, self.sweep_page = sweep, html
                self.status = f"{len(state.prompts)} prompts at {sweep.scale.nunique()} scales"

            return show

        self._asker.do(job)

    def save(self) -> list[Path]:
        """Write tables, figures and the cell into the results' folder; returns their paths."""
        if self.look is None or not self.look.is_whole:
            raise ValueError("nothing is shown that could be saved: ask first.")
        files = export.save(self.session, self.look, self.out, self.sweep)
        self.status = f"saved as {files[0].with_suffix('')}: {len(files)} files, tables and figures in folders beside it"
        return files

    def draw(self) -> None:
        """Read the norms of what is added and draw them, however large the vector is."""
        state = self.state()
        self._asker.do(lambda later: self._drawing(state))

    def stop(self) -> None:
        """End the question that is being asked; what was found until now is kept."""
        self._asker.stop()
        self.status = "stopped"

    # ------------------------------------------------------------ asking and showing

    def _chosen(self, change) -> None:
        if not self._fills:
            self._want(is_moving=self.is_moving)

    def ask(self) -> None:
        """Ask the models what is chosen now, and show their replies; an exception is shown in their place."""
        self._want(is_moving=False)

    def _want(self, *, is_moving: bool, do: Callable | None = None) -> None:
        try:
            state, pace = self.state(), self.session.pace or 0
            _ = state.own_checks  # a mistake in them is told at once
            is_slow = pace > PATIENCE and not self.session.is_kept(state)
        except Exception as error:
            self._show_error(error)
            return
        if is_moving and is_slow:
            self.status = f"a reply takes {pace:.1f} s: asked when the slider rests"
            return
        session = self.session  # another family has another one
        job = lambda later: self._looking(session, state, is_moving, later)  # noqa: E731
        do(job) if do else self._asker.do(job, drops_running=is_slow)

    def _looking(
        self, session: Session, state: State, is_moving: bool, later: Callable
    ) -> Callable[[], None]:
        start, was_kept, against = perf_counter(), session.is_kept(state), self.against
        is_slow = not was_kept and (session.pace is None or session.pace > PATIENCE)
        self.asked += 1

        def so_far(look: Look) -> None:
            html = view(look, self.dictionary, against=against, with_css=False)
            later(lambda: self._show(look, html, "asking …"))

        look = session.look(state, goes_on=self._asker.goes_on, progress=so_far if is_slow else None)
        key = (state, *session.pins, against)
        if key not in self._pages:
            kept(self._pages, key, view(look, self.dictionary, against=against, with_css=False))
        html = self._pages[key]
        drawn = self._drawing(state) if self._is_small else lambda: None
        count = look.replies.groupby(["number", "label"]).ngroups
        told = f"{count} replies{' (kept)' if was_kept else ''} in {perf_counter() - start:.2f} s"

        def show() -> None:
            if session is not self.session:
                return  # the family was changed meanwhile
            self._show(look, html, told)
            drawn()
            self.cell = self.session.cell(state)
            if not is_moving:
                self.session.remember(state)
                self.past = [f"{_short(' · '.join(s.prompts), 40)} — {s.sum}" for s in self.session.history]

        return show

    def _show(self, look: Look, html: str, told: str) -> None:
        self.look, self.page, self.status = look, html, told

    def _drawing(self, state: State) -> Callable[[], None]:
        """Draw the norms of what is added, unless they are there."""
        if (drawn := (state.vector, state.parts)) == self._drawn:
            return lambda: None
        picture = export.profile_picture(self.play, state)

        def show() -> None:
            self._drawn, self.profile = drawn, picture

        return show

    def _show_error(self, error: Exception) -> None:
        told = "".join(traceback.format_exception(error))
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        self.look = None
        self.page = (
            f'<div class="chatvec-error" role="alert"><b>{escape(type(error).__name__)}</b>: {escape(str(message))}'
            f"<details><summary>traceback</summary><pre>{escape(told)}</pre></details></div>"
        )
        self.status = "failed"


def key_of(place: Place) -> str:
    """A place as the page writes it: "2 mlp", "- embedding"."""
    return f"{'-' if place[0] is None else place[0]} {place[1]}"


def place_of(key: str) -> Place:
    layer, _, module = key.partition(" ")
    return (None if layer == "-" else int(layer)), module


def _short(label: str, most: int = 90) -> str:
    label = label.replace("\n", " ")
    return label if len(label) <= most else label[: most - 1] + "…"
