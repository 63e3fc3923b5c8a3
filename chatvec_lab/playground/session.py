"""What a person does in the playground, without a widget: a state to look at, pins, a history, and what is taken home."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pandas as pd

from chatvec_lab.evaluation.asking.context import context_ids
from chatvec_lab.families import family_names
from chatvec_lab.lens.distributions import next_logits
from chatvec_lab.playground import constraints, examples, tokens
from chatvec_lab.playground.marks import alike
from chatvec_lab.playground.parts import Parts, in_words
from chatvec_lab.playground.replies import Playground, Template

if TYPE_CHECKING:
    from chatvec_lab.playground.tokens import Token

MODEL = "CP + τ"  # the sum, by the name that it has in tables
MANY = 64  # prompts at once; more are a study


@dataclass(frozen=True)
class State:
    """All that decides what is shown: what is asked, and of which sum. `parts` are the factors that are not 1.

    `checks` are a person's own, a line each, as `constraints.read` takes them; they are put to every prompt.
    """

    text: str
    scale: float = 1.0
    cp: str = ""
    vector: str = "chat"
    parts: Parts = ()
    template: Template = "chat"
    checks: str = ""

    @property
    def own_checks(self) -> tuple[dict[str, Any], ...]:
        """The checks that were written. KeyError and ValueError for what is none, or is for a turn that nobody asks."""
        found = constraints.read(self.checks)
        turns = max(len(examples.turns_of(prompt)) for prompt in self.prompts) if found else 0
        if late := next((one for one in found if one.get("turn", 1) > turns), None):
            raise ValueError(
                f"your checks: {late['instruction']} is for turn {late['turn']}, and no prompt has more than {turns}."
            )
        return found

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts in the box. ValueError for too many, and for an empty one among them."""
        return prompts_of(self.text)

    @property
    def choice(self) -> dict[str, Any]:
        """The arguments of `Playground.ask` beside the prompt."""
        chosen = {"scale": self.scale, "cp": self.cp or None, "vector": self.vector}
        return chosen | {"parts": dict(self.parts), "template": self.template}

    @property
    def sum(self) -> str:
        """The formula in words: "CP zh + 0.75 τ, without mlp of layer 2"."""
        return f"CP {self.cp} {sum_of(self.scale, self.vector)}{said(self.parts)}"


def sum_of(scale: float, vector: str) -> str:
    """
    >>> sum_of(0.75, "chat"), sum_of(-1.0, "random")
    ('+ 0.75 τ', '− 1 τ(random)')
    """
    return f"{'+' if scale >= 0 else '−'} {abs(scale):g} τ{'' if vector == 'chat' else f'({vector})'}"


def said(parts: Parts, most: int = 3) -> str:
    """The factors as the end of a formula.

    >>> said((((2, "mlp"), 0.0), ((None, "embedding"), 0.5)))
    ', without mlp of layer 2, 0.5 × embedding outside the layers'
    """
    told = [f"without {in_words(p)}" if not f else f"{f:g} × {in_words(p)}" for p, f in parts]
    more = [f"{len(told) - most} more parts changed"] if len(told) > most else []
    return "".join(f", {one}" for one in [*told[:most], *more])


def prompts_of(text: str) -> tuple[str, ...]:
    """The prompts in a box: a line of three equals signs begins the next one.

    >>> prompts_of("One?\\n===\\nTwo?")
    ('One?', 'Two?')
    """
    found = tuple(part.strip() for part in re.split(r"^={3,}[^\S\n]*$", text, flags=re.MULTILINE))
    if len(found) > MANY:
        raise ValueError(
            f"{len(found)} prompts at once; {MANY} are the most here. A study asks as many as you like."
        )
    for number, prompt in enumerate(found, start=1):
        if not prompt and len(found) > 1:
            raise ValueError(
                f"prompt {number} of {len(found)} is empty: something must stand between two lines of ===."
            )
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Look:
    """What was found for a state: `replies` as from `ask` but for is_cached, with number (of the prompt, from 0) and label.

    `readings` maps (number, label, turn) to the reply's tokens. `is_whole` is False while models are still asked.
    """

    state: State
    replies: pd.DataFrame
    readings: Mapping[tuple[int, str, int], tuple[Token, ...]]
    is_whole: bool = True


class Session:
    """A person's way through the playground; the panel is its face, and it works as well without.

    `pace` is how long the last new turn of the scale took to be answered, in seconds; None before there was one.

    >>> session = Session(Playground("nano", compare=[]))
    >>> look = session.look(State("這是紅色的書。這本書是什麼顏色的？", scale=0.5, cp="zh"))
    >>> look.replies.label.tolist()
    ['CP', 'CP + 0.5 τ']
    """

    def __init__(self, play: Playground):
        self.play = play
        self.history: list[State] = []
        self.pins: list[State] = []
        self.pace: float | None = None
        self._readings: dict[tuple, list[tuple[Token, ...]]] = {}
        self._frames: dict[tuple, pd.DataFrame] = {}
        self._looks: dict[tuple[State, ...], Look] = {}
        self._comparable: dict[tuple[str, str | None], bool] = {}

    def is_kept(self, state: State) -> bool:
        """Whether looking at this costs no reply."""
        return all(self.play.is_kept(prompt, **state.choice) for prompt in state.prompts)

    def look(
        self,
        state: State,
        *,
        goes_on: Callable[[], bool] = lambda: True,
        progress: Callable[[Look], None] | None = None,
    ) -> Look:
        """Every model's replies to the state's prompts, the sums that are pinned among them, with their tokens.

        goes_on: asked before each token; when it says no, Stopped is raised and what was found until then is kept.
        progress: called with what there is after each model.
        Raises what `Playground.ask` does.
        """
        pins = [pin for pin in self._shown_pins(state) if sum_key(pin) != sum_key(state)]
        if (state, *pins) in self._looks:
            return self._looks[state, *pins]
        _ = state.own_checks  # a mistake in them is told before anything is asked
        rows: dict[tuple[int, str], pd.DataFrame] = {}
        readings: dict[tuple[int, str, int], tuple[Token, ...]] = {}
        asked = [(MODEL, state), ("CP", state)]  # what a person waits for comes first
        asked += [(name, state) for name in self.play.models if name not in ("CP", MODEL)]
        with self._asking(goes_on):
            self.play.speaker(MODEL, **_sum(state))  # loading is no part of the pace
            start, was_kept = perf_counter(), self.is_kept(state)
            if len(state.prompts) > 1:
                self.play.generate(state.prompts, **state.choice)
            for model, of in [*asked, *((MODEL, pin) for pin in pins)]:
                label = label_of(model, of, is_pinned=of is not state)
                for number, prompt in enumerate(state.prompts):
                    found = self._rows(model, prompt, of, number, label)
                    rows[number, label] = found
                    for turn, read in enumerate(self._read(model, prompt, of, found), start=1):
                        readings[number, label, turn] = read
                if of is state and model == MODEL and not was_kept:
                    self.pace = perf_counter() - start
                if progress and len(rows) < len(state.prompts) * (len(asked) + len(pins)):
                    progress(self._so_far(state, rows, readings, pins, is_whole=False))
        return kept(self._looks, (state, *pins), self._so_far(state, rows, readings, pins))

    @contextmanager
    def _asking(self, goes_on: Callable[[], bool]) -> Iterator[None]:
        with self.play.lock:
            self.play.goes_on = goes_on
            try:
                yield
            finally:
                self.play.goes_on = lambda: True

    def _so_far(self, state, rows, readings, pins, is_whole: bool = True) -> Look:
        labels = [label_of(model, state) for model in self.play.models]
        labels += [label_of(MODEL, pin, is_pinned=True) for pin in pins]
        there = [rows[n, label] for n in range(len(state.prompts)) for label in labels if (n, label) in rows]
        return Look(state, pd.concat(there, ignore_index=True), dict(readings), is_whole)

    def _rows(self, model: str, prompt: str, state: State, number: int, label: str) -> pd.DataFrame:
        """One model's replies, with number and label; those that no turn of the scale changes are built once."""
        key = (*_reading(model, prompt, state), state.vector, state.checks, number, label)
        if key not in self._frames:
            found = self.play.reply(model, prompt, checks=state.own_checks, **state.choice)
            found = found.drop(columns="is_cached")
            kept(self._frames, key, found.assign(number=number, label=label))
        return self._frames[key]

    def _read(self, model: str, prompt: str, state: State, rows: pd.DataFrame) -> list[tuple[Token, ...]]:
        """The tokens of each turn's reply, with the CP's view of them."""
        play, turns, key = self.play, examples.turns_of(prompt), _reading(model, prompt, state)
        if key not in self._readings:
            own, tokenizer = play.speaker(model, **_sum(state))
            contexts = [
                context_ids(tokenizer, turns, list(rows.response[:turn]), state.template)
                for turn in range(len(rows))
            ]
            replies = [list(ids) for ids in rows.token_ids]
            ends = [tokens.ends_of(own, tokenizer, state.template, reason) for reason in rows.finish_reason]
            mine = [next_logits(own, c, r) for c, r in zip(contexts, replies, strict=True)]
            theirs = [None] * len(rows)
            if model != "CP":
                cp, cp_tokenizer = play.speaker("CP", **_sum(state))
                if self._are_comparable(model, state.cp, tokenizer, cp_tokenizer):
                    theirs = [next_logits(cp, c, r) for c, r in zip(contexts, replies, strict=True)]
            read = [
                tokens.read(mine[i], tokenizer, replies[i], rows.response[i], ends[i], theirs[i])
                for i in range(len(rows))
            ]
            kept(self._readings, key, read)
        return self._readings[key]

    def _are_comparable(self, model: str, cp: str, one, other) -> bool:
        if (model, cp) not in self._comparable:
            self._comparable[model, cp] = tokens.are_comparable(one, other)
        return self._comparable[model, cp]

    # ------------------------------------------------------------ pins and history

    def remember(self, state: State) -> None:
        """Put a state at the end of the history, unless it is there already as the last."""
        if not self.history or self.history[-1] != state:
            self.history.append(state)

    def pin(self, state: State) -> None:
        """Keep this sum beside those that follow, whatever is asked; pinned again it goes."""
        bare = replace(state, text="", checks="")
        self.pins = [p for p in self.pins if p != bare] if bare in self.pins else [*self.pins, bare]

    def _shown_pins(self, state: State) -> list[State]:
        """The pinned sums on the live model that is loaded anyway, and those that were looked at with these prompts."""
        pins = [replace(pin, text=state.text, checks=state.checks) for pin in self.pins]
        is_read = lambda pin: all(_reading(MODEL, p, pin) in self._readings for p in pin.prompts)  # noqa: E731
        return [p for p in pins if (p.cp, p.vector) == (state.cp, state.vector) or is_read(p)]

    # ------------------------------------------------------------ several scales

    def sweep(
        self, state: State, scales: Sequence[float], *, goes_on: Callable[[], bool] = lambda: True,
        progress: Callable[[int, int], None] | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """CP + scale · τ over scales and prompts: one row a prompt, scale and turn.

        Columns: those of `ask`, number (of the prompt), divergence (mean KL(CP ‖ CP + scale · τ) over the reply's tokens,
        in nats) and alike (share of the words that it has in common with the CP's reply, 0 to 1).
        progress: called with how many of how many scales are done.
        """
        tables, prompts, checks = [], state.prompts, state.own_checks
        with self._asking(goes_on):
            for done, scale in enumerate(dict.fromkeys(map(float, scales)), start=1):
                at = replace(state, scale=scale)
                self.play.generate(prompts, **at.choice)
                for number, prompt in enumerate(prompts):
                    rows, cp = (
                        self.play.reply(model, prompt, checks=checks, **at.choice) for model in (MODEL, "CP")
                    )
                    read = self._read(MODEL, prompt, at, rows)
                    shared = [alike(a, b) for a, b in zip(rows.response, cp.response, strict=True)]
                    far = [mean_divergence(one) for one in read]
                    tables.append(rows.assign(number=number, divergence=far, alike=shared))
                if progress:
                    progress(done, len(scales))
        return pd.concat(tables, ignore_index=True)

    # ------------------------------------------------------------ the state as code

    def cell(self, state: State) -> str:
        """A notebook cell that gives the same replies."""
        play = self.play
        given = [f"{k}={play.settings[k]!r}" for k in _DEFAULTS if play.settings[k] != _DEFAULTS[k]]
        family, lines = repr(play.source), ["from chatvec_lab.playground import Playground", ""]
        if play.is_own and play.source not in family_names():
            family, _ = "family", lines.append("family = ...  # your own Family: put it here")
        lines.append(f"play = Playground({', '.join([family, *given])})")
        if play.settings["scorer"] is not None:
            lines.append("# the scorer of toxicity was your own: Playground(..., scorer=...)")
        if state.vector not in play.own_vectors:
            lines.append(f"play.vectors[{state.vector!r}] = ...  # your own vector: put it here")
        told = [f"scale={state.scale!r}", f"cp={state.cp!r}"]
        told += [f"vector={state.vector!r}"] if state.vector != "chat" else []
        told += [f"parts={dict(state.parts)!r}"] if state.parts else []
        told += [f"template={state.template!r}"] if state.template != "chat" else []
        told += [f"checks={list(state.own_checks)!r}"] if state.own_checks else []
        lines += ["prompts = [", *(f"    {prompt!r}," for prompt in state.prompts), "]"]
        lines += [
            f"choice = dict({', '.join(told)})",
            "replies = [play.ask(prompt, **choice) for prompt in prompts]",
        ]
        return "\n".join([*lines, "replies[0]"])


_DEFAULTS = {
    **{"seed": 0, "compare": ("base", "chat"), "device": "auto", "dtype": "float32"},
    **{"max_tokens": 64, "temperature": 0.0},
}


def kept(cache: dict, key: Any, value: Any, most: int = 2000) -> Any:
    """The value, put into a cache that lets its oldest go."""
    cache[key] = value
    while len(cache) > most:
        cache.pop(next(iter(cache)))
    return value


def _reading(model: str, prompt: str, state: State) -> tuple:
    """What decides a model's tokens, and the CP's view of them."""
    parts = (state.scale, state.vector, state.parts) if model == MODEL else ()
    return (model, state.cp, state.template, examples.turns_of(prompt), *parts)


def _sum(state: State) -> dict[str, Any]:
    return {key: value for key, value in state.choice.items() if key != "template"}


def sum_key(state: State) -> tuple:
    """What makes two states the same sum, whatever they ask."""
    return state.scale, state.cp, state.vector, state.parts, state.template


def label_of(model: str, state: State, *, is_pinned: bool = False) -> str:
    """The name on a card."""
    if model != MODEL:
        return model
    name = f"CP {sum_of(state.scale, state.vector)}"
    return f"pinned: {state.sum}" if is_pinned else name + (" in parts" if state.parts else "")


def mean_divergence(read: Sequence[Token]) -> float:
    """Nats a token; NaN where the two were not compared."""
    return sum(token.divergence for token in read) / len(read) if read else float("nan")
