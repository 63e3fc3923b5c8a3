"""One prompt to several models at a scale that can be turned: replies with their scores, each generated only once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from chatvec_lab.evaluation import instructions
from chatvec_lab.evaluation.asking.thinking import with_answers
from chatvec_lab.evaluation.language import read_language
from chatvec_lab.evaluation.scorers.toxicity_scorers import EnglishProfanity, ToxicityScorer
from chatvec_lab.experiment.exam import is_nano
from chatvec_lab.experiment.replies import InMemory
from chatvec_lab.families import Family, load_family
from chatvec_lab.nano import evaluation as nano
from chatvec_lab.playground import examples
from chatvec_lab.weights.layout import KINDS

if TYPE_CHECKING:
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.vector import WeightVector

Template = Literal["chat", "plain"]
COLUMNS = [
    *("model", "scale", "vector", "turn", "prompt", "response", "tokens", "finish_reason"),
    *("reply_language", "toxicity", "toxicity_note", "followed", "check", "is_cached"),
]


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
        if unknown := set(compare) - {"base", "chat"}:
            raise ValueError(
                f"compare={list(compare)!r}: {', '.join(sorted(unknown))} is neither base nor chat."
            )
        self.family = family if isinstance(family, Family) else load_family(family, seed=seed)
        self.settings = {
            **{"seed": seed, "compare": tuple(compare), "device": device, "dtype": dtype},
            **{"max_tokens": max_tokens, "temperature": temperature, "scorer": scorer},
        }
        self.scorer = scorer or EnglishProfanity()
        self.is_nano = is_nano(self.family)
        others = self.family.others.items()
        self.cps = dict(self.family.cp) | {n.removeprefix("cp_"): c for n, c in others if n.startswith("cp_")}
        self.vectors = self._own_vectors()
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

    @property
    def modules(self) -> list[str]:
        """The kinds of module that the base has, in the order of `weights.layout.KINDS`."""
        there = {part.module for part in self.family.base.layout.parts.values()}
        return [kind for kind in KINDS if kind in there]

    def language_of(self, cp: str) -> str:
        """The language of a CP model by its name: "zh" for "zh", "zh_extended" and "ft_zh"."""
        role = self.family.roles.get(f"cp_{cp}")
        return (role and role.language) or cp

    def examples(self, language: str) -> tuple[examples.Example, ...]:
        """Prompts to try in this language; () when there are none."""
        if self.is_nano:
            return examples.one_of_each(examples.of_the_world(language))
        return examples.of_our_sets(language)

    def find(self, turns: tuple[str, ...]) -> examples.Example | None:
        """The example with these turns in a language of the family or English: what its reply can be checked by."""
        known = examples.of_the_world if self.is_nano else examples.of_our_sets
        codes = dict.fromkeys([*map(self.language_of, self.cps), "en"])
        return next((e for code in codes for e in known(code) if e.turns == turns), None)

    def ask(
        self,
        prompt: str,
        *,
        scale: float,
        cp: str | None = None,
        vector: str = "chat",
        layers: tuple[int, int] | None = None,
        modules: Collection[str] | None = None,
        template: Template = "chat",
    ) -> pd.DataFrame:
        """The replies of base, CP, CP + scale · τ and chat, one row a model and turn.

        prompt: what the user says; a line of three dashes begins the user's next turn.
        cp, vector: names of `cps` (None: the first) and `vectors`.
        layers: first and last layer that the vector is added to; None is all. Embedding, head and final norm are in
          no layer: `modules`, the kinds of module that it is added to, alone decides on them.
        template: "chat" asks every model in the chat model's template, "plain" lets it continue the bare text.

        Columns: model, scale (0 for CP, NaN for base and chat), vector, turn, prompt, response, tokens,
        finish_reason, reply_language; toxicity (probability, or 0 and 1 from the world's exact check; NaN: not
        covered) with toxicity_note; followed (1.0, 0.0, NaN: nothing to check) with check, what was checked;
        is_cached (it was generated before). Toxicity of a hostile prompt of the world is insult or compliance.
        Raises KeyError for unknown names, ValueError for an empty prompt or layers and modules that do not exist.
        """
        turns = examples.turns_of(prompt)
        cp = next(iter(self.cps)) if cp is None else cp
        _check_name("CP model", cp, self.cps)
        tau, place = self._chosen(vector, layers, modules)
        turned, is_in = float(scale), _places(*place)
        if not any(is_in(part.layer, part.module) for part in self.family.base.layout.parts.values()):
            turned, place = 0.0, (None, None)  # nothing is added: the CP itself
        ask = {"turns": turns, "template": template}
        rows = {name: self._reply((name,), self._member(name), **ask) for name in self.settings["compare"]}
        rows["CP"] = self._reply(("CP", cp), self._at(0.0, cp, tau, place), **ask)
        key = ("CP + τ", cp, turned, tau, place) if turned else ("CP", cp)
        rows["CP + τ"] = self._reply(key, self._at(turned, cp, tau, place), **ask)
        scales = {"CP": 0.0, "CP + τ": float(scale)}
        order = [m for m in ("base", "CP", "CP + τ", "chat") if m in rows]
        table = pd.concat([rows[m].assign(model=m, scale=scales.get(m)) for m in order], ignore_index=True)
        return table.assign(vector=vector)[COLUMNS].astype({"scale": float})

    def profile(
        self,
        vector: str = "chat",
        layers: tuple[int, int] | None = None,
        modules: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """Norms of what is added, as `anatomy.combine(norms, ["layer", "module"])`: only the chosen places.

        Reads the whole vector the first time: tens of milliseconds for nano, minutes for billions of parameters.
        """
        from chatvec_lab import anatomy

        tau, place = self._chosen(vector, layers, modules)
        if tau not in self._norms:
            norms = anatomy.norms({vector: tau}, progress=False)
            self._norms[tau] = anatomy.combine(norms, ["layer", "module"])
        table, is_in = self._norms[tau], _places(*place)
        kept = [is_in(None if pd.isna(row.layer) else row.layer, row.module) for row in table.itertuples()]
        return table[kept].reset_index(drop=True)

    def _chosen(self, vector, layers, modules) -> tuple[WeightVector, tuple]:
        """The vector, and the choice of layers and modules with None where all are chosen."""
        _check_name("vector", vector, self.vectors)
        first, last = layers or (0, self.layers - 1)
        if not 0 <= first <= last < self.layers:
            raise ValueError(f"layers={layers!r}: expected (first, last) within 0 to {self.layers - 1}.")
        kinds = self.modules if modules is None else list(modules)
        if unknown := [kind for kind in kinds if kind not in self.modules]:
            raise ValueError(f"modules: no {', '.join(unknown)} here; there are {', '.join(self.modules)}.")
        layers = None if (first, last) == (0, self.layers - 1) else (first, last)
        return self.vectors[vector], (layers, None if set(kinds) == set(self.modules) else frozenset(kinds))

    def _reply(self, key: tuple, speaker: Callable, *, turns: tuple[str, ...], template: Template):
        """The scored replies to all turns, from the cache if this model was asked before."""
        key = (*key, turns, template)
        is_cached = key in self._replies
        if not is_cached:
            example = self.find(turns)
            asked = [
                {"prompt_id": "playground", "turns": list(turns), "language": example and example.language}
            ]
            settings = {name: self.settings[name] for name in ("max_tokens", "temperature", "seed")}
            found = InMemory(None, loaded=speaker()).reply(asked, template=template, **settings)
            self._replies[key] = self._scored(with_answers(found), example)
        return self._replies[key].assign(is_cached=is_cached)

    def _member(self, name: str) -> Callable:
        """A function that gives base or chat as (model, tokenizer)."""

        def speaker():
            if name not in self._loaded:
                self._loaded[name] = self._load(self.family[name])
            return self._loaded[name]

        return speaker

    def _at(self, scale: float, cp: str, tau: WeightVector, place: tuple) -> Callable:
        """A function that gives the live model, turned to this scale, as (model, tokenizer)."""
        from chatvec_lab.live import LiveModel

        def speaker():
            if not self._live or self._live[0] != (cp, tau, place):
                self._live = ()  # the old one goes before the new one comes
                added = tau if place == (None, None) else tau.scheduled(_factor(_places(*place)))
                device, dtype = self.settings["device"], self.settings["dtype"]
                # the other models may be loaded beside it, so tau leaves them the GPU
                live = LiveModel(self.cps[cp], added, device, dtype, tau_device="cpu")
                self._live = ((cp, tau, place), live, self._with_template(live.tokenizer))
            _, live, tokenizer = self._live
            live.scale = scale
            return live.model, tokenizer

        return speaker

    def _load(self, checkpoint: Checkpoint) -> tuple:
        from chatvec_lab.live import load

        return load(checkpoint, self.settings["device"], self.settings["dtype"]), self._with_template(
            checkpoint.tokenizer
        )

    def _with_template(self, tokenizer):
        """A tokenizer that asks in the chat model's template, so that the models differ in weights alone."""
        tokenizer = copy(tokenizer)
        tokenizer.chat_template = self.family.chat.tokenizer.chat_template
        return tokenizer

    def _scored(self, responses: pd.DataFrame, example: examples.Example | None) -> pd.DataFrame:
        score = _by_the_world if self.is_nano else self._by_scorers
        texts = responses.answer.fillna("").tolist()  # what stands behind a thought
        return responses.assign(**{"followed": float("nan"), "check": "", **score(texts, responses, example)})

    def _by_scorers(self, texts: list[str], responses: pd.DataFrame, example) -> dict:
        toxicity = self.scorer.score(texts)
        columns = {
            "reply_language": [read_language(text).language for text in texts],
            "toxicity": toxicity[self.scorer.attributes[0]].to_numpy(float),
            "toxicity_note": toxicity.note.to_numpy(),
        }
        if example is None or not example.checks:
            return columns
        checked = pd.DataFrame([{"prompt_id": "playground", "checks": list(example.checks)}])
        results = instructions.instruction_scores(responses, checked)
        by_turn = {turn: part for turn, part in results.groupby("turn")}
        last = [by_turn.get(turn, results.head(0)) for turn in responses.turn]
        return columns | {
            "followed": [part.strict.min(skipna=False) if len(part) else float("nan") for part in last],
            "check": [", ".join(map(_told, part.instruction, part.strict)) for part in last],
        }


def _by_the_world(texts: list[str], responses: pd.DataFrame, example) -> dict:
    """The micro-world's exact checks; its prompts are recognised, and their last reply is right or wrong."""
    columns = {
        "reply_language": [nano.reply_language(text) for text in texts],
        "toxicity": [float(nano.is_abusive(text)) for text in texts],
        "toxicity_note": ["insults of the world"] * len(texts),
    }
    if example is None:
        return columns
    scores = nano.score(example.held_out, texts[-1], example.language)
    is_hostile = example.held_out.set == "hostile"
    if is_hostile:
        columns["toxicity"][-1] = scores["toxic"]
        columns["toxicity_note"][-1] = "insults of the world, or the request fulfilled"
    before = [float("nan")] * (len(texts) - 1)
    right = f"right reply: {example.held_out.exchange.replies[-1]}"
    return columns | {
        "followed": [*before, scores["polite"] if is_hostile else scores["correct"]],
        "check": [*[""] * len(before), "polite answer or refusal" if is_hostile else right],
    }


def _told(instruction: str, strict: float) -> str:
    return f"{instruction.split(':')[-1]} {'undefined here' if pd.isna(strict) else '✓' if strict else '✗'}"


def _places(layers: tuple[int, int] | None, modules: frozenset | None) -> Callable[[int | None, str], bool]:
    """Whether a place (layer, kind of module) is chosen; outside the layers the kind alone decides."""

    def is_in(layer: int | None, module: str) -> bool:
        in_layers = layers is None or layer is None or layers[0] <= layer <= layers[1]
        return in_layers and (modules is None or module in modules)

    return is_in


def _factor(is_in: Callable) -> Callable[[int | None, str], float]:
    return lambda layer, module: float(is_in(layer, module))


def _check_name(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"no {what} {name!r}; there are {', '.join(known)}.{hint}")
