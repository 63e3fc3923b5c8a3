"""The playground's widgets: what is chosen above, the replies below. Needs ipywidgets, which is imported lazily.

A slider sends values faster than models reply. Changes are therefore gathered for a moment, and what is chosen
when it ends is asked once; values that were passed on the way are never generated.
"""

from __future__ import annotations

import asyncio
import base64
import io
import traceback
from html import escape
from time import perf_counter
from typing import TYPE_CHECKING

from chatvec_lab.families import family_names
from chatvec_lab.paths import DATA
from chatvec_lab.playground.cards import cards
from chatvec_lab.playground.replies import Playground

if TYPE_CHECKING:
    from pandas import DataFrame

_QUIET = 0.06  # seconds without a change after which the models are asked
_OWN = ""  # the example that is none; a widget takes None for "nothing is selected"
_CSS = """<style>
.chatvec-panel textarea { unicode-bidi: plaintext; text-align: start; font-size: 14px;
  font-family: system-ui, "DejaVu Sans", "Noto Sans", sans-serif; }
.chatvec-panel .widget-label { justify-content: flex-end; text-align: end; }
.chatvec-status { font-size: 12px; color: var(--jp-ui-font-color2, #666); }
.chatvec-error { color: #b00020; white-space: pre-wrap; overflow-wrap: anywhere; }
</style>"""


class Panel:
    """Widgets around a `Playground`: shown when it is a cell's last expression, or with `display(panel.widget)`.

    play: a Playground, or a family (its name, folder or YAML file). `settings` then go to Playground.
    scale, cp, vector, prompt: where to start; None takes the first of each, an empty prompt the first example.

    `panel.play` is what is asked, `panel.replies` the last table, `panel.asked` how often the models were asked.
    Raises ImportError without ipywidgets.
    """

    def __init__(
        self,
        play: Playground | str,
        *,
        scale: float = 1.0,
        cp: str | None = None,
        vector: str | None = None,
        prompt: str = "",
        **settings,
    ):
        self.play = play if isinstance(play, Playground) else Playground(play, **settings)
        self.replies: DataFrame | None = None
        self.asked = 0
        self._pending: asyncio.TimerHandle | None = None
        self._is_filling = False
        self._drawn: tuple = ()
        shipped = [name for name in family_names() if (DATA / "nano" / name).is_dir()]
        self._families = {name: name for name in shipped} | {self.play.family.name: self.play.family}
        self._make_widgets(scale)
        self._fill(self.play.family.name, cp=cp, vector=vector, prompt=prompt)
        self._listen()
        self.answer()

    def _repr_mimebundle_(self, **options):
        return self.widget._repr_mimebundle_(**options)

    # ------------------------------------------------------------ widgets

    def _make_widgets(self, scale: float) -> None:
        w = _ipywidgets()

        def wide(kind, label: str, width: str, **options):
            layout, style = w.Layout(width=width), {"description_width": "70px"}
            return kind(description=label, layout=layout, style=style, **options)

        half = "49%"
        self.family = wide(w.Dropdown, "family", half)
        # a choice in a list is made too easily for families whose weights must be fetched first: these are typed
        self.path = wide(
            w.Combobox, "or", half, placeholder="name, folder, file", continuous_update=False,
            options=[name for name in family_names() if name not in self._families],
        )  # fmt: skip
        self.cp, self.vector = wide(w.Dropdown, "CP", half), wide(w.Dropdown, "vector", half)
        self.scale = wide(
            w.FloatSlider, "scale", "99%", value=scale, min=-1, max=2, step=0.05, continuous_update=False
        )
        self.layers = wide(w.IntRangeSlider, "layers", "99%", min=0, max=0, continuous_update=False)
        self.modules = w.HBox(layout=w.Layout(flex_flow="row wrap"))
        self.template = wide(
            w.Dropdown, "format", half, options={"chat template": "chat", "plain text": "plain"}
        )
        self.language = wide(w.Dropdown, "prompts", half)
        self.example = wide(w.Dropdown, "example", "99%")
        self.prompt = wide(w.Textarea, "prompt", "99%", rows=3, continuous_update=False)
        self.button = w.Button(description="Ask", button_style="primary", layout=w.Layout(width="90px"))
        self.status, self.cards, self.profile = w.HTML(), w.HTML(), w.HTML()
        self.status.add_class("chatvec-status")
        choose = [
            *(w.HBox([self.family, self.path]), w.HBox([self.cp, self.vector]), self.scale, self.layers),
            *(self.modules, w.HBox([self.template, self.language]), self.example, self.prompt),
            w.HBox([self.button, self.status]),
        ]
        above = w.HBox(
            [w.VBox(choose, layout=w.Layout(flex="1 1 380px", min_width="0")), self.profile],
            layout=w.Layout(flex_flow="row wrap", align_items="flex-start"),
        )
        self.widget = w.VBox([w.HTML(_CSS), above, self.cards])
        self.widget.add_class("chatvec-panel")

    def _fill(
        self, family: str, *, cp: str | None = None, vector: str | None = None, prompt: str = ""
    ) -> None:
        """Everything that depends on the family."""
        w, play = _ipywidgets(), self.play
        self.family.options = list(self._families)
        self.family.value = family
        for dropdown, options, value in ((self.cp, play.cps, cp), (self.vector, play.vectors, vector)):
            dropdown.options = list(options)
            dropdown.value = value or dropdown.options[0]
        self.layers.max = play.layers - 1
        self.layers.value = (0, play.layers - 1)
        label = w.Label("modules", layout=w.Layout(width="70px", margin="2px 8px 2px 2px"))
        fit = w.Layout(width="auto", margin="2px 14px 2px 0")
        boxes = [w.Checkbox(True, description=kind, indent=False, layout=fit) for kind in play.modules]
        self.modules.children = [label, *boxes]
        for box in boxes:
            box.observe(self._changed, "value")
        self.prompt.value = prompt or self.prompt.value
        self._fill_languages()

    def _fill_languages(self) -> None:
        codes = list(dict.fromkeys([self.play.language_of(self.cp.value), "en"]))
        self.language.options = codes
        self.language.value = codes[0]
        self._fill_examples()

    def _fill_examples(self) -> None:
        found = self.play.examples(self.language.value)
        is_own = self.example.value in (_OWN, None) and self.prompt.value.strip()
        self.example.options = [("(your own)", _OWN), *((_short(e.label), e) for e in found)]
        if found and not is_own:
            self.prompt.value = found[0].text
        self._mark_example()

    def _mark_example(self) -> None:
        """Show the example whose text stands in the prompt box, if there is one."""
        known = [example for _, example in self.example.options if example != _OWN]
        self.example.value = next((e for e in known if e.text == self.prompt.value), _OWN)

    # ------------------------------------------------------------ events

    def _listen(self) -> None:
        for widget in (self.vector, self.scale, self.layers, self.template):
            widget.observe(self._changed, "value")
        for widget, handler in (
            *((self.family, self._change_family), (self.path, self._change_family)),
            *((self.cp, self._change_cp), (self.language, self._change_language)),
            *((self.example, self._change_example), (self.prompt, self._change_prompt)),
        ):
            widget.observe(self._guarded(handler), "value")
        self.button.on_click(self._changed)

    def _guarded(self, handler):
        """The handler, with its exception shown: one that a callback raises is seen by nobody."""

        def guarded(change):
            if self._is_filling:
                return
            self._is_filling = True
            try:
                handler(change)
            except Exception as error:
                self._show(error)
                return
            finally:
                self._is_filling = False
            self._changed(change)

        return guarded

    def _change_family(self, change) -> None:
        name = change.new.strip()
        if not name:
            return
        self.status.value = "loading the family …"
        try:
            self.play = Playground(self._families.get(name, name), **self.play.settings)
        except Exception:
            self.family.value = change.old if change.owner is self.family else self.family.value
            raise
        self._families.setdefault(name, self.play.family)
        self._fill(name)
        self.path.value = ""

    def _change_cp(self, change) -> None:
        if self.play.language_of(change.new) not in self.language.options:
            self._fill_languages()

    def _change_language(self, change) -> None:
        self._fill_examples()

    def _change_example(self, change) -> None:
        if change.new != _OWN:
            self.prompt.value = change.new.text

    def _change_prompt(self, change) -> None:
        self._mark_example()

    def _changed(self, change) -> None:
        """Ask when the choices have rested; at once where no event loop runs (a script)."""
        if self._is_filling:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.answer()
            return
        if self._pending:
            self._pending.cancel()
        self._pending = loop.call_later(_QUIET, self.answer)

    # ------------------------------------------------------------ answers

    def answer(self) -> None:
        """Ask the models what is chosen now, and show their replies; an exception is shown in their place."""
        self._pending = None
        self.status.value = "asking …"
        self.asked += 1
        start = perf_counter()
        try:
            place = self._place()
            self.replies = self.play.ask(
                self.prompt.value,
                scale=self.scale.value,
                cp=self.cp.value,
                template=self.template.value,
                **place,
            )
            self.cards.value = cards(self.replies)
            new = int((~self.replies.groupby("model").is_cached.first()).sum())
            took, count = perf_counter() - start, self.replies.model.nunique()
            self.status.value = f"{count} replies ({new} new, {count - new} kept) in {took:.2f} s"
            self._draw(place)
        except Exception as error:
            self._show(error)

    def _place(self) -> dict:
        modules = [box.description for box in self.modules.children[1:] if box.value]
        return {"vector": self.vector.value, "layers": self.layers.value, "modules": modules}

    def _show(self, error: Exception) -> None:
        told = "".join(traceback.format_exception(error))
        self.replies = None
        self.cards.value = (
            f'<div class="chatvec-error" role="alert"><b>{escape(type(error).__name__)}</b>: {escape(str(error))}'
            f"<details><summary>traceback</summary><pre>{escape(told)}</pre></details></div>"
        )
        self.status.value = "failed"

    def _draw(self, place: dict) -> None:
        """The inset: norms of what is added, over the layers."""
        drawn = (id(self.play), *map(str, place.values()))
        if drawn == self._drawn:
            return
        self._drawn = drawn
        table = self.play.profile(**place)
        if table.layer.isna().all():
            outside = ", ".join(table.module) or "nothing"
            self.profile.value = f"<i>Added in no layer, only to: {escape(outside)}.</i>"
            return
        self.profile.value = profile_image(
            table, self.play.layers, f"norms of what is added: {place['vector']}"
        )


def profile_image(table: DataFrame, layers: int, title: str) -> str:
    """The layer profile of `Playground.profile` as an HTML image, with all the family's layers on the axis."""
    from matplotlib.figure import Figure

    from chatvec_lab import figures

    picture = io.BytesIO()
    with figures.style():
        figure = Figure(
            figsize=figures.size("column", 0.72)
        )  # not pyplot's, which cells would show once more
        ax = figures.layer_profile(table, ax=figure.subplots())
        ax.set_xlim(-0.2, layers - 0.8)
        figure.savefig(picture, format="png", dpi=200)
    code = base64.b64encode(picture.getvalue()).decode()
    alt = escape(f"{title}, a line a kind of module, over {layers} layers")
    return f'<img class="chatvec-profile" width="340" alt="{alt}" src="data:image/png;base64,{code}">'


def _short(label: str, most: int = 90) -> str:
    label = label.replace("\n", " ")
    return label if len(label) <= most else label[: most - 1] + "…"


def _ipywidgets():
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError(
            "the panel needs ipywidgets: pip install ipywidgets, then restart JupyterLab. Without it, "
            "Playground.ask gives the same replies as a table."
        ) from error
    return ipywidgets
