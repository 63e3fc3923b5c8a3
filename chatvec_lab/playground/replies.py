"""One prompt to several models at a scale that can be turned: replies with their scores, each generated only once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from chatvec_lab.evaluation.asking.thinking import with_answers
from chatvec_lab.evaluation.language import read_language
from chatvec_lab.evaluation.scorers.toxicity_scorers import EnglishProfanity, ToxicityScorer
from chatvec_lab.experiment.microworld import MicroWorld
from chatvec_lab.experiment.replies import InMemory
from chatvec_lab.families import Family, load_family
from chatvec_lab.keys import nearest
from chatvec_lab.playground import constraints, examples, scores
from chatvec_lab.playground.parts import ORDER, Dial, Parts, Place, chosen, is_anywhere, places

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.vector import WeightVector

Template = Literal["chat", "plain"]
COLUMNS = [
    *("model", "scale", "vector", "turn", "prompt", "response", "tokens", "finish_reason"),
    *("reply_language", "toxicity", "toxicity_note", "followed", "check", "token_ids", "is_cached"),
]


class Stopped(Exception):
    """Nobody waits for this reply any more."""


@contextmanager
def _stoppable(model, goes_on: Callable[[], bool]) -> Iterator[None]:
    """Raise Stopped in the midst of a reply, before the next token, once it need not go on."""

    def check(module, arguments):
        if not goes_on():
            raise Stopped

    from torch import nn

    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]  # read before each token
    handles = [table.register_forward_pre_hook(check) for table in tables]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Playground:
    """The models of one family, ready to be asked; loaded when first needed.

    family: a Family, or what `load_family` takes, with `seed`.
    compare: which members stand beside CP and CP + τ. Each is held in memory: leave some out for large models.
    device, dtype: as in `LiveModel`, for all models. In float32 a reply is that of the formula itself; "auto"
      gives that of the weights as `save` would round them.
    max_tokens, temperature: of a reply; temperature 0 is greedy. Sampled replies are drawn from `seed`.
    scorer: of toxicity, for families that did not grow in the micro-world; None is an English word list.

    `vectors` maps names to vectors, "chat" being chat − base; add your own. `cps` maps names to CP models: those of
    `family.cp` by language, and the family's others. Memory: a LiveModel and the compared models.

    >>> play = Playground("nano")
    >>> table = play.ask("這是紅色的書。這本書是什麼顏色的？", scale=1.0)
    >>> table.model.tolist()
    ['base', 'CP', 'CP + τ', 'chat']
    """

    def __init__(
        self,
        family: Family | str | Path,
        *,
        seed: int = 0,
        compare: Sequence[Literal["base", "chat"]] = ("base", "chat"),
        device: str = "auto",
        dtype: str = "float32",
        max_tokens: int = 64,
        temperature: float = 0.0,
        scorer: ToxicityScorer | None = None,
    ):
        if unknown := sorted(set(compare) - {"base", "chat"}):
            raise ValueError(f"compare={list(compare)!r}: {', '.join(unknown)} is neither base nor chat.")
        self.family = family if isinstance(family, Family) else load_family(family, seed=seed)
        self.is_own = isinstance(family, Family)
        # what load_family takes, unless it is_own
        self.source = self.family.name if self.is_own else str(family)
        self.settings = {
            **{"seed": seed, "compare": tuple(compare), "device": device, "dtype": dtype},
            **{"max_tokens": max_tokens, "temperature": temperature, "scorer": scorer},
        }
        self.scorer = scorer or EnglishProfanity()
        self.is_nano = self.family.is_nano
        others = self.family.others.items()
        self.cps = dict(self.family.cp) | {n.removeprefix("cp_"): c for n, c in others if n.startswith("cp_")}
        self.vectors = self._own_vectors()
        self.own_vectors = frozenset(self.vectors)  # those that are there without anybody's doing
        # Held by each question, since a second one would turn the model under the first; take it when you use a model
        # of the playground yourself.
        self.lock = threading.RLock()
        # asked before each token; False ends the question: Stopped
        self.goes_on: Callable[[], bool] = lambda: True
        self._live: tuple = ()
        self._loaded: dict[str, tuple] = {}
        self._replies: dict[tuple, pd.DataFrame] = {}
        self._norms: dict[WeightVector, pd.DataFrame] = {}

    def _own_vectors(self) -> dict[str, WeightVector]:
        base, tau = self.family.base, self.family.chat - self.family.base
        tuned = [name for name, role in self.family.roles.items() if role.kind == "chat" and role.variant]
        vectors = {"chat": tau} | {name: self.family[name] - base for name in tuned}
        return vectors | {"random": tau.random_like(self.settings["seed"])}

    @property
    def layers(self) -> int:
        """How many layers the models have."""
        parts = self.family.base.layout.parts.values()
        return 1 + max((part.layer or 0 for part in parts if part.component == "text"), default=0)

    @cached_property
    def places(self) -> list[Place]:
        """The places that have a switch: (layer, kind of module), and (None, kind) outside the layers."""
        heads = [p for cp in self.cps.values() for p in cp.layout.parts.values() if p.module == "head"]
        return places([*self.vectors["chat"].parts_by_name.values(), *heads])  # a CP may have untied its head

    @property
    def modules(self) -> list[str]:
        """The kinds of module that the base has, in the order of `weights.layout.KINDS`."""
        there = {module for _, module in self.places}
        return [kind for kind in ORDER if kind in there]

    def only(
        self, layers: tuple[int, int] | None = None, modules: Collection[str] | None = None
    ) -> dict[Place, float]:
        """`parts` for `ask` that add the vector only in some layers (first, last) and kinds of module.

        Embedding, head and final norm are in no layer: `modules` alone decides on them.
        """
        first, last = layers or (0, self.layers - 1)
        if not 0 <= first <= last < self.layers:
            raise ValueError(f"layers={layers!r}: expected (first, last) within 0 to {self.layers - 1}.")
        kinds = self.modules if modules is None else list(modules)
        if unknown := [kind for kind in kinds if kind not in self.modules]:
            raise ValueError(f"modules: no {', '.join(unknown)} here; there are {', '.join(self.modules)}.")
        inside = lambda layer: layer is None or first <= layer <= last  # noqa: E731
        return {(layer, kind): 0.0 for layer, kind in self.places if kind not in kinds or not inside(layer)}

    def language_of(self, cp: str) -> str:
        """The language of a CP model by its name: "zh" for "zh", "zh_extended" and "ft_zh"."""
        role = self.family.roles.get(f"cp_{cp}")
        return (role and role.language) or cp

    def examples(self, language: str) -> tuple[examples.Example, ...]:
        """Prompts to try in this language; () when there are none."""
        if self.is_nano:
            return examples.one_of_each(self._of_the_world(language))
        return examples.of_our_sets(language)

    def _of_the_world(self, language: str) -> tuple[examples.Example, ...]:
        world = MicroWorld(self.family, {})
        return examples.of_the_world(language, world.form)

    def find(self, turns: tuple[str, ...]) -> examples.Example | None:
        """The example with these turns in a language of the family or English: what its reply can be checked by."""
        known = self._of_the_world if self.is_nano else examples.of_our_sets
        codes = dict.fromkeys([*map(self.language_of, self.cps), "en"])
        return next((e for code in codes for e in known(code) if e.turns == turns), None)

    def ask(
        self,
        prompt: str,
        *,
        scale: float,
        cp: str | None = None,
        vector: str = "chat",
        parts: Mapping[Place, float] | None = None,
        template: Template = "chat",
        checks: Sequence[Mapping] = (),
    ) -> pd.DataFrame:
        """The replies of base, CP, CP + scale · τ and chat, one row a model and turn.

        prompt: what the user says; a line of three dashes begins the user's next turn.
        cp, vector: names of `cps` (None: the first) and `vectors`.
        parts: a factor for the vector in some places, as in {(0, "mlp"): 0.0, (None, "embedding"): 0.5}; it is 1
          elsewhere. `places` lists them, `only` makes a choice of layers and modules.
        template: "chat" asks every model in the chat model's template, "plain" lets it continue the bare text.
        checks: of your own, beside those of a known prompt, as `evaluation.instructions` has them: {"instruction":
          "length_constraints:number_words", "kwargs": {"relation": "at most", "num_words": 50}, "turn": 1}. They are
          read in the language of the prompt; where that cannot be told, in the CP's.

        Columns: model, scale (0 for CP, NaN for base and chat), vector, turn, prompt, response, tokens,
        finish_reason, reply_language; toxicity (probability, or 0 and 1 from the world's exact check; NaN: not
        covered) with toxicity_note; followed (1.0, 0.0, NaN: nothing to check) with check, what was checked;
        token_ids (of the response, as generated); is_cached (it was generated before).
        Raises KeyError for unknown names and places, ValueError for an empty prompt or a factor that is no number.
        """
        choice = {
            "scale": scale,
            "cp": cp,
            "vector": vector,
            "parts": parts,
            "template": template,
            "checks": checks,
        }
        return pd.concat([self.reply(name, prompt, **choice) for name in self.models], ignore_index=True)

    @property
    def models(self) -> list[str]:
        """The models that are asked, in the order in which they are shown."""
        there = {"CP", "CP + τ", *self.settings["compare"]}
        return [name for name in ("base", "CP", "CP + τ", "chat") if name in there]

    def reply(
        self,
        model: str,
        prompt: str,
        *,
        scale: float,
        template: Template = "chat",
        vector: str = "chat",
        checks: Sequence[Mapping] = (),
        **choice,
    ) -> pd.DataFrame:
        """One model's rows of `ask`. Raises KeyError for a model that is not among `models`."""
        _check_name("model", model, self.models)
        constraints.validate(checks)
        turns = examples.turns_of(prompt)
        key, speaker = self._speakers(float(scale), vector=vector, **choice)[model]
        is_cached = not self._generate(key, speaker, [turns], template)
        of = {"CP": 0.0, "CP + τ": float(scale)}.get(model, float("nan"))
        rows = self._replies[*key, turns, template]
        if checks:
            rows = self._checked(rows, checks, choice.get("cp") or next(iter(self.cps)))
        return rows.assign(model=model, scale=of, vector=vector, is_cached=is_cached)[COLUMNS]

    def is_kept(self, prompt: str, *, scale: float, template: Template = "chat", **choice) -> bool:
        """Whether `ask` with these arguments would generate nothing, since all of it was asked before."""
        turns, speakers = examples.turns_of(prompt), self._speakers(float(scale), **choice)
        return all((*key, turns, template) in self._replies for key, _ in speakers.values())

    def generate(
        self, prompts: Sequence[str], *, scale: float, template: Template = "chat", **choice
    ) -> None:
        """Let each model reply to all of these prompts in one batch, so that `ask` (with the same choice) has them.

        In 16 bits a reply can depend on its batch where two tokens are nearly as likely; in float32 it does not.
        """
        talks = [examples.turns_of(prompt) for prompt in prompts]
        for key, speaker in self._speakers(float(scale), **choice).values():
            self._generate(key, speaker, talks, template)

    def speaker(self, model: str, *, scale: float, **choice) -> tuple:
        """(model, tokenizer) of one of the models that `ask` asks, turned to the scale; hold `lock` as you use it."""
        return self._speakers(float(scale), **choice)[model][1]()

    def profile(self, vector: str = "chat", parts: Mapping[Place, float] | None = None) -> pd.DataFrame:
        """Norms of what is added, as `anatomy.combine(norms, ["layer", "module"])`: parts of factor zero are left out.

        Reads the whole vector the first time: tens of milliseconds for nano, minutes for billions of parameters.
        """
        from chatvec_lab import anatomy

        _check_name("vector", vector, self.vectors)
        tau, factors = self.vectors[vector], dict(chosen(parts, self.places))
        with self.lock:
            if tau not in self._norms:
                norms = anatomy.norms({vector: tau}, progress=False)
                self._norms[tau] = anatomy.combine(norms, ["layer", "module"])
        table = self._norms[tau]
        of = [factors.get((None if pd.isna(r.layer) else r.layer, r.module), 1.0) for r in table.itertuples()]
        sizes = pd.Series(of, index=table.index, dtype=float).abs()
        scaled = {c: table[c] * sizes for c in ("l2", "relative_l2", "rms", "max_abs") if c in table}
        return table.assign(**scaled)[sizes > 0].reset_index(drop=True)

    def _speakers(
        self,
        scale: float,
        cp: str | None = None,
        vector: str = "chat",
        parts: Mapping[Place, float] | None = None,
    ) -> dict[str, tuple[tuple, Callable]]:
        """By model, in the order in which they are shown: the key of its replies, and what gives (model, tokenizer)."""
        cp = next(iter(self.cps)) if cp is None else cp
        _check_name("CP model", cp, self.cps)
        _check_name("vector", vector, self.vectors)
        tau, factors = self.vectors[vector], chosen(parts, self.places)
        turned = scale if is_anywhere(factors, self.places) else 0.0  # nothing is added: the CP itself
        merged = ("CP + τ", cp, turned, tau, factors) if turned else ("CP", cp)
        found = {name: ((name,), self._member(name)) for name in self.settings["compare"]}
        found["CP"] = (("CP", cp), self._at(0.0, cp, tau, factors))
        found["CP + τ"] = (merged, self._at(turned, cp, tau, factors))
        return {name: found[name] for name in self.models}

    def _generate(
        self, key: tuple, speaker: Callable, talks: list[tuple[str, ...]], template: Template
    ) -> int:
        """Ask a model what it was not asked before, together; returns how many conversations these were."""
        with self.lock:
            new = [turns for turns in dict.fromkeys(talks) if (*key, turns, template) not in self._replies]
            if not new:
                return 0
            known = [self.find(turns) for turns in new]
            asked = [
                {"prompt_id": str(number), "turns": list(turns), "language": example and example.language}
                for number, (turns, example) in enumerate(zip(new, known, strict=True))
            ]
            settings = {name: self.settings[name] for name in ("max_tokens", "temperature", "seed")}
            held = InMemory(None, loaded=speaker())
            with _stoppable(held.loaded[0], self.goes_on):
                found = with_answers(held.reply(asked, template=template, token_ids=True, **settings))
            for number, (turns, example) in enumerate(zip(new, known, strict=True)):
                rows = found[found.prompt_id == str(number)].reset_index(drop=True)
                self._replies[*key, turns, template] = self._scored(rows, example)
            return len(new)

    def _member(self, name: str) -> Callable:
        """A function that gives base or chat as (model, tokenizer)."""

        def speaker():
            if name not in self._loaded:
                self._loaded[name] = self._load(self.family[name])
            return self._loaded[name]

        return speaker

    def _at(self, scale: float, cp: str, tau: WeightVector, factors: Parts) -> Callable:
        """A function that gives the live model, turned to this scale and these factors, as (model, tokenizer)."""
        from chatvec_lab.live import LiveModel

        def speaker():
            if not self._live or self._live[0] != (cp, tau):
                self._live = ()  # the old one goes before the new one comes
                for name in self.settings["compare"]:
                    self._member(name)()  # first, so that tau takes on a GPU what room they leave
                dial = Dial()
                live = LiveModel(self.cps[cp], dial.on(tau), self.settings["device"], self.settings["dtype"])
                self._live = ((cp, tau), live, dial, self._with_template(live.tokenizer))
            _, live, dial, tokenizer = self._live
            dial.turn(live, scale, factors)
            return live.model, tokenizer

        return speaker

    def _load(self, checkpoint: Checkpoint) -> tuple:
        from chatvec_lab.live import load

        model = load(checkpoint, self.settings["device"], self.settings["dtype"])
        return model, self._with_template(checkpoint.tokenizer)

    def _with_template(self, tokenizer):
        """A tokenizer that asks in the chat model's template, so that the models differ in weights alone."""
        tokenizer = copy(tokenizer)
        tokenizer.chat_template = self.family.chat.tokenizer.chat_template
        return tokenizer

    def _scored(self, responses: pd.DataFrame, example: examples.Example | None) -> pd.DataFrame:
        texts = responses.answer.fillna("").tolist()  # what stands behind a thought
        if self.is_nano:
            found = scores.by_the_world(texts, example)
        else:
            found = scores.by_scorers(texts, responses, example, self.scorer)
        return responses.assign(**{"followed": float("nan"), "check": "", **found})

    def _checked(self, rows: pd.DataFrame, checks: Sequence[Mapping], cp: str) -> pd.DataFrame:
        """Replies with a person's own checks beside those that they have."""
        known = rows.language.iloc[0]
        if not isinstance(known, str):
            known = read_language("\n".join(rows.prompt)).language or self.language_of(cp)
        return rows.assign(
            **constraints.joined(rows, constraints.scored(rows.assign(language=known), checks))
        )


def _check_name(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise KeyError(f"no {what} {name!r}; {nearest(name, known)}")
